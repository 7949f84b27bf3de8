"""How bright the beam was in each pattern, found between sweeps from what its counts miss.

A beam that fluctuates makes patterns brighter and darker that see the same place. No object is
both, so the sweeps leave some of it unexplained: the logarithm of a pattern's counts over those
that the object predicts. (Over the whole detector these are sum |P|^2 |O|^2 under its window; no
far field is needed.) By as much the pattern is scaled, and what the object has taken up meanwhile
comes to light in the next sweeps.

What a pattern misses as its neighbours do is the object's: it is not finished. So only what differs
from them counts, and the rest of a fluctuation, waves that are longer than the beam, cannot be told
from the object. Where a beam has no edge such waves of the amplitude pass for a phase (see
`slow_phase`) and are the last to be found; there what was believed is doubted again in every sweep.

A steady beam is left alone, to the last bit: whether it fluctuates is asked once, when the object
is good enough to tell. Patterns without beam say nothing, and are left out: at first those that are
much darker than their neighbours, then, as a specimen may do that, too, those whose counts the
object does not explain. Letters as in `scan`.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from .grouping import Rows
from .light import diameter_px
from .scan import Bool, Complex, Double, Float, Scan
from .slow_phase import SlowPhase

logger = logging.getLogger(__name__)

# From which standard deviation on a beam fluctuates, and from which one where it has no edge:
# patterns differ by as much from an object that is not finished.
LEAST = 0.012, 0.03
NORMAL = 1.4826  # standard deviations in a median deviation, which a few odd patterns do not sway
ODD, OUTSTANDING = 0.3, 10.0  # a single pattern: by so much, and so many standard deviations
LARGEST = 8.0  # brighter or darker than on average; darker ones have no beam
BRIGHT = 0.3  # of the usual counts, by the object: dark specimens do not tell a beam from none
AROUND, CLOSE = 24, 0.75  # neighbours, and their distance, whose counts a pattern should have
FEWEST = 3
OFF, FEW = 0.15, 30.0  # of what they have, and how many counts are too few to tell


class BeamIntensity:
    """The intensity of the beam for each of so many patterns, relative to their geometric mean."""

    def __init__(self, off: Rows, patterns: int, edgeless: float) -> None:
        """Take which patterns seem to be without beam, and how much of an edge it lacks; see
        `without_beam` and `sweep_plan.edgeless`.
        """
        self.present: Bool = np.ones(patterns, bool)
        self.present[off] = False
        self.fluctuates = False
        self._asked, self._edgeless = False, edgeless
        self._logarithm = np.zeros(patterns)

    @property
    def asks(self) -> bool:
        """Whether `follow` would learn anything: that a beam is steady is asked once."""
        return self.fluctuates or not self._asked

    @property
    def relative(self) -> Double | None:
        """The intensities, (M,), 0 without beam; None where all are the same."""
        if not self.fluctuates and self.present.all():
            return None
        relative: Double = np.exp(self._logarithm) * self.present
        return relative

    @property
    def gains(self) -> Float | None:
        """By what amplitudes are to be multiplied, (M,), or None for a steady beam."""
        return np.exp(-self._logarithm / 2).astype(np.float32) if self.fluctuates else None

    def follow(self, rows: Rows, counts: Double, predicted: Double, slow: SlowPhase) -> None:
        """Learn from the counts of the patterns `rows`, (R,), and those that the object predicts
        for a steady beam; `slow` has the same patterns.
        """
        known, most = self._logarithm[rows], float(np.log(LARGEST))
        missed = np.log(np.maximum(counts, 1) / np.maximum(predicted, 1)) - known
        missed -= np.median(missed[self.present[rows]])
        bright = predicted > BRIGHT * np.median(predicted)
        lit = known + missed > -most
        if not self._asked:
            self.present[rows] = lit | ~bright
        lit &= self.present[rows]
        own = missed - slow.shared(missed, lit)
        if not self._asked:
            self._asked = True
            self._ask(own[lit & bright], counts[lit & bright])
        if self.fluctuates:
            found = known + own - self._edgeless * slow.shared(known, lit)
            self._logarithm[rows] = np.clip(found - found[lit].mean(), -most, most) * lit

    def _ask(self, own: Double, counts: Double) -> None:
        """Find out whether the beam fluctuates, and tell."""
        noise = float(np.median(1 / np.maximum(counts, 1)))
        spread = NORMAL * float(np.median(np.abs(own)))
        steady, edgeless = LEAST
        least = steady + (edgeless - steady) * self._edgeless
        odd = int((np.abs(own) > max(ODD, OUTSTANDING * spread)).sum())
        if spread**2 - noise > least**2:
            logger.info(
                'The beam fluctuates by %.0f %% from pattern to pattern: they are scaled to it',
                100 * spread,
            )
        elif odd:
            logger.info('%d patterns are darker or brighter than the others: they are scaled', odd)
        self.fluctuates = spread**2 - noise > least**2 or odd > 0
        if not self.present.all():
            logger.info('%d patterns without beam are left out', (~self.present).sum())


def without_beam(scan: Scan) -> Rows:
    """Return the patterns that are much darker than most of those that see much the same."""
    totals = scan.signal
    number = min(AROUND, len(totals) - 1)
    none: Rows = np.zeros(0, np.int64)
    if totals.min() >= OFF * totals.max() or number < FEWEST:
        return none
    distance, near = cKDTree(scan.positions_px).query(scan.positions_px, k=number + 1)
    # Of a scan that was broken off most may be empty: those have no say.
    others = (distance > 0) & (distance < CLOSE * diameter_px(scan.probe)) & (totals[near] > 0)
    enough = np.flatnonzero(others.sum(1) >= FEWEST)
    usual = np.nanmedian(np.where(others, totals[near], np.nan)[enough], axis=1)
    return enough[(totals[enough] < OFF * usual) & (usual > FEW)]


def with_beam(scan: Scan) -> Scan:
    """Return the scan but for those patterns."""
    off = without_beam(scan)
    return scan.take(np.setdiff1d(np.arange(len(scan)), off)) if len(off) else scan


def predicted_counts(object_: Complex, probe: Complex, places_px: Float | Double) -> Double:
    """Return the counts (M,) of a steady beam (P, N, N) on the whole detector, with its windows at
    `places_px` (M, 2) in the object (H, W): the corners, between pixels too.
    """
    power = (np.abs(probe) ** 2).sum(0)
    size = tuple(fft.next_fast_len(n, real=True) for n in object_.shape)
    spectrum = fft.rfft2(object_.real**2 + object_.imag**2, size)
    seen: NDArray[np.float32] = fft.irfft2(spectrum * fft.rfft2(power, size).conj(), size)
    found: Double = map_coordinates(seen, places_px.T, np.float64, order=3, mode='grid-wrap')
    return found
