"""Counts that are no diffraction: dark counts, light that the air scatters. On average as many in
every pixel of every pattern; sweeps that take them for diffraction find noise instead of detail.

They are looked for in the darkest pixels. Diffraction varies there from pattern to pattern as
speckle does, whose variance is its mean squared, and more where the specimen changes: beyond the
variance of photons it tells how much there is, and the rest of the mean is background. Where the
probe's own far field lies it counts as diffraction too. Letters as in `scan`.
"""

from __future__ import annotations

import logging
from copy import copy

import numpy as np

from .scan import Scan

logger = logging.getLogger(__name__)

PIXELS, LEAST_PATTERNS = 2**21, 48  # that are looked at
DARKEST, FEWEST = 0.02, 24  # of the pixels, and at least
FEWEST_PATTERNS = 16
CERTAIN = 2.0  # standard errors of a variance that may be diffraction
MOSTLY = 0.3  # of the counts of these pixels, or it is not known well enough
LEAST = 0.003  # of all counts: less costs next to nothing


def background_of(scan: Scan) -> float:
    """Return the background [counts per pixel and pattern] that the darkest pixels show, 0 where it
    is little or not clear. No more than there is, as a rule: scaled counts and partly coherent
    speckle have other variances.
    """
    most = max(LEAST_PATTERNS, PIXELS // scan.side_px**2)
    rows = np.linspace(0, len(scan) - 1, min(len(scan), most)).astype(int)
    good = ~scan.bad_pixels
    number = max(FEWEST, int(DARKEST * good.sum()))
    if len(rows) < FEWEST_PATTERNS or number > good.sum():
        return 0.0
    # Chosen by one half and measured by the other, so that no chance chooses.
    chosen = np.where(good, scan.patterns(rows[::2]).mean(0, dtype=np.float64), np.inf)
    dark = np.argpartition(chosen.ravel(), number - 1)[:number]
    own = scan.patterns(rows[1::2]).reshape(-1, good.size)[:, dark].astype(np.float64)
    mean = own.mean(0)
    excess = own.var(0, ddof=1) - mean
    error = max(float(excess.std()), float(np.sqrt(2 / len(own)) * mean.mean()))
    varying = max(float(excess.mean()), 0.0) + CERTAIN * error / number**0.5
    far = np.fft.fftshift((np.abs(np.fft.fft2(scan.probe.astype(np.complex128))) ** 2).sum(0))
    beam = far.ravel() * scan.totals.mean() / far[good].sum()
    found = float(mean.mean() - varying**0.5 - beam[dark].mean())
    clear = found > MOSTLY * mean.mean() and found * good.sum() > LEAST * scan.totals.mean()
    return found if clear else 0.0


def with_background(scan: Scan, *, tell: bool = True) -> Scan:
    """Return the scan with the background that it shows, unless it has one; `tell` the log."""
    if scan.background:
        return scan
    found = background_of(scan)
    if not found:
        return scan
    if tell:
        share = found * float((~scan.bad_pixels).sum()) / float(scan.totals.mean())
        logger.info(
            'A background of %.3g counts in every pixel, %.1f %% of all, is allowed for',
            found, 100 * share,
        )  # fmt: skip
    return told(scan, found)


def told(scan: Scan, found: float) -> Scan:
    """Return the scan with this background; its counts are not looked through again."""
    made = copy(scan)
    object.__setattr__(made, 'background', found)
    return made
