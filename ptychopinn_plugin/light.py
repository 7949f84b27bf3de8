"""Where the light of a scan fell, and how often the same place was seen.

Letters as in `scan`; probes are normalised (P, N, N), their power in photons.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .geometry import spread, windows
from .scan import Complex, Float, Scan

BRIGHT = 0.23  # of the brightest pixel: what counts as lit
MOST = 0.8  # of the light: what a beam's diameter is measured by
FEW_VIEWS = 7.0  # of a pixel, in the middle


@dataclass(frozen=True, eq=False)
class Light:
    """What falls on an object, on whole pixels.

    photons  (H, W) per pixel over the whole scan
    views    (H, W) by how many patterns a pixel is seen: the square of the sum of |P|^2 over the
             sum of squares
    """

    photons: Float
    views: Float

    @cached_property
    def relative(self) -> Float:
        """The photons divided by their maximum, (H, W)."""
        relative: Float = (self.photons / self.photons.max()).astype(np.float32)
        return relative

    @cached_property
    def sparse(self) -> bool:
        """Whether the patterns overlap so little that sweeps crawl."""
        return self.middle_views < FEW_VIEWS

    @cached_property
    def middle_views(self) -> float:
        """By how many patterns a pixel is seen where there is light: the median."""
        return float(np.median(self.views[self.relative > BRIGHT]))


def diameter_px(probe: Complex) -> float:
    """Return the diameter of a disk as large as the pixels that hold most of the light of a probe
    (P, N, N).
    """
    power = np.sort((np.abs(probe).astype(np.float64) ** 2).sum(0).ravel())[::-1]
    pixels = int((np.cumsum(power) < MOST * power.sum()).sum()) + 1
    return float(2 * np.sqrt(pixels / np.pi))


def light_of(scan: Scan, probe: Complex) -> Light:
    """Return the light of a scan with a normalised probe."""
    power = (np.abs(probe).astype(np.float64) ** 2).sum(0)
    photons, squares = spread(windows(scan).corner_px, [power, power**2], scan.frame.shape)
    squares = np.maximum(squares, 1e-6 * squares.max())
    views = np.clip(photons**2 / squares, 1, 1000)
    return Light(photons.astype(np.float32), views.astype(np.float32))
