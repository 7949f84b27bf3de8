"""What the checks look at: some patterns of a scan, and what follows from its probe. Each made
once, when a check asks first, so that all checks of a scan of any length take a moment.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError, cKDTree

from ..light import diameter_px
from ..scan import Array, Bool, Double, Float, Scan

PIXELS = 2**20  # that many are read for what all patterns share: 256 patterns of 64x64
NEIGHBOUR_PIXELS = 2**22  # and of neighbours, for what changes from one to the next
FEWEST, FEWEST_NEIGHBOURS = 16, 64
ALONE, ALONE_STEPS = 1.0, 6.0  # of the probe's diameter; of the usual distance
COMPANY = 4  # others within that distance: fewer are strays together
SEVERAL = 10  # patterns
STUCK_COUNTS = 60.0
MOST = 0.5  # of the pixels
LIT = 0.02  # of the brightest pixel of the mean pattern

Rows = NDArray[np.int64]


class Sample:
    """Some patterns of a scan. S patterns, N side; bad pixels read zero, and so do those that are
    stuck: they would hide everything else.
    """

    def __init__(self, scan: Scan, *, probe_is_guess: bool = False) -> None:
        self.scan, self.side, self.probe_is_guess = scan, scan.side_px, probe_is_guess
        self.stuck = np.zeros_like(scan.bad_pixels)
        self.stuck[~scan.bad_pixels] = _stuck(scan.patterns(self.rows)[:, ~scan.bad_pixels])
        if self.stuck.any():
            self.scan = replace(scan, bad_pixels=scan.bad_pixels | self.stuck)
        self.good = ~self.scan.bad_pixels

    def read(self, rows: Rows) -> Float:
        """Return patterns (S, N, N) as float32."""
        frames = self.scan.patterns(rows).astype(np.float32)
        frames[:, ~self.good] = 0
        return frames

    @cached_property
    def rows(self) -> Rows:
        """Patterns spread evenly over the scan, (S,)."""
        number = min(len(self.scan), max(FEWEST, PIXELS // self.side**2))
        return np.unique(np.linspace(0, len(self.scan) - 1, number).astype(np.int64))

    @cached_property
    def frames(self) -> Float:
        """Those patterns, (S, N, N)."""
        return self.read(self.rows)

    @cached_property
    def mean(self) -> Double:
        """Their mean, (N, N)."""
        mean: Double = self.frames.mean(0, dtype=np.float64)
        return mean

    @cached_property
    def far(self) -> Double:
        """The probe's far field on the good pixels, (N, N), its sum over all pixels being 1."""
        wave = np.fft.fft2(self.scan.probe.astype(np.complex128))
        power: Double = np.fft.fftshift((np.abs(wave) ** 2).sum(0))
        power *= self.good / power.sum()
        return power

    @cached_property
    def power(self) -> Double:
        """The probe's intensity, (N, N), of sum 1."""
        power: Double = (np.abs(self.scan.probe).astype(np.float64) ** 2).sum(0)
        power /= power.sum()
        return power

    @cached_property
    def diameter_px(self) -> float:
        """Diameter of a disk as large as the pixels that hold most of the probe's light."""
        return diameter_px(self.scan.probe)

    @cached_property
    def tree(self) -> cKDTree:
        """The positions, for their neighbours."""
        return cKDTree(self.scan.positions_px)

    @cached_property
    def nearest_px(self) -> Double:
        """Distance of each position to the next other one, (M,)."""
        if len(self.scan) < 2:
            return np.zeros(len(self.scan))
        distance: Double = self.tree.query(self.scan.positions_px, k=2)[0][:, 1]
        return distance

    @cached_property
    def alone_px(self) -> float:
        """The distance beyond which a position has no neighbour."""
        return max(ALONE * self.diameter_px, ALONE_STEPS * float(np.median(self.nearest_px)))

    @cached_property
    def step_px(self) -> float:
        """Distance between neighbours if the positions lay on a square grid of the same density.

        Along a line the median distance of neighbours. A few positions far from all others are left
        out: one alone would stretch the area of the scan.
        """
        positions = np.unique(self.scan.positions_px, axis=0)
        if len(positions) > COMPANY:
            away = cKDTree(positions).query(positions, k=COMPANY + 1)[0][:, -1] > self.alone_px
            if away.sum() < len(positions) // 4:
                positions = positions[~away]
        if len(positions) > 3 and np.linalg.matrix_rank(positions - positions[0]) > 1:
            try:
                area = ConvexHull(positions).volume
            except QhullError:
                area = 0.0
            # The outermost positions stand for half of their cells only.
            cells = (np.sqrt(len(positions)) - 1) ** 2
            return float(max(np.median(self.nearest_px), np.sqrt(area / cells)))
        return float(np.median(self.nearest_px))

    @cached_property
    def neighbours(self) -> Rows:
        """The patterns nearest to the middle of the scan, in order, (S,)."""
        number = min(len(self.scan), max(FEWEST_NEIGHBOURS, NEIGHBOUR_PIXELS // self.side**2))
        positions = self.scan.positions_px
        away = np.linalg.norm(positions - np.median(positions, axis=0), axis=1)
        rows: Rows = np.sort(np.argsort(away, kind='stable')[:number])
        return rows

    @cached_property
    def neighbour_frames(self) -> Float:
        """Those patterns, (S, N, N)."""
        return self.read(self.neighbours)


def _stuck(values: Array) -> Bool:
    """Return which pixels (G,) of patterns (S, G) read one value in all of them, too large for its
    photons never to differ: detectors mark so what does not measure. What others reach too is where
    counts are cut off.
    """
    value = values.max(0)
    found: Bool = (values.min(0) == value) & (value > STUCK_COUNTS)
    few = len(values) < SEVERAL or found.mean() > MOST or not values[:, ~found].any()
    if few or not found.any():  # patterns that are all copies have no other pixels
        return np.zeros_like(found)
    found[found] = ~np.isin(value[found], values[:, ~found])
    return found
