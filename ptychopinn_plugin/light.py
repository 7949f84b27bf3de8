"""Where the light of a scan fell, and how often the same place was seen.

Letters as in `scan`; probes are normalised (P, N, N), their power in photons.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import fft

from .geometry import windows
from .scan import Complex, Float, Scan

BRIGHT = 0.23  # of the brightest pixel: what counts as lit
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
        return bool(np.median(self.views[self.relative > BRIGHT]) < FEW_VIEWS)


def light_of(scan: Scan, probe: Complex) -> Light:
    """Return the light of a scan with a normalised probe."""
    power = (np.abs(probe) ** 2).sum(0).astype(np.float32)
    shape = scan.frame.shape
    size = tuple(fft.next_fast_len(n, real=True) for n in shape)
    corners = np.zeros(size, np.float32)
    at = windows(scan).corner_px
    np.add.at(corners, (at[:, 0], at[:, 1]), 1)
    spectrum = fft.rfft2(corners)

    def spread(kernel: Float) -> Float:
        made: Float = fft.irfft2(spectrum * fft.rfft2(kernel, size), size)[: shape[0], : shape[1]]
        return made

    photons, squares = np.maximum(spread(power), 0), spread(power**2)
    squares = np.maximum(squares, 1e-6 * squares.max())
    return Light(photons, np.clip(photons**2 / squares, 1, 1000))
