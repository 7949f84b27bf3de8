"""Positions to integer windows: where a patch starts on the canvas and what the probe must shift
by.

The object is sampled on whole pixels only; the remainder of each position goes to the probe
(Fourier shift), so extraction is an exact gather and its adjoint an exact scatter-add.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from .scan import Complex, Double, Float, Frame, Scan

ROUNDING = 1e-12  # of the largest sum: below it nothing is there but the transforms' rounding


@dataclass(frozen=True, eq=False)
class Windows:
    """Integer windows and sub-pixel remainders of every pattern.

    corner_px  (M, 2) int64 (y, x) row and column of each patch's first pixel in the object array
    shift_px   (M, 2) float32 (y, x) in [-0.5, 0.5]: by how much the probe moves inside its patch
    """

    corner_px: NDArray[np.int64]
    shift_px: Float


def windows(scan: Scan, frame: Frame | None = None) -> Windows:
    """Return the windows of a scan in `frame` (the scan's own by default)."""
    return windows_at(scan.positions_px, scan.side_px, frame or scan.frame)


def windows_at(positions_px: Double, side_px: int, frame: Frame) -> Windows:
    """Return the windows of patterns at positions (M, 2) in `frame`."""
    corner = positions_px - (side_px - 1) / 2 - np.asarray(frame.origin_px)
    whole = np.rint(corner)
    return Windows(whole.astype(np.int64, order='C'), (corner - whole).astype(np.float32))


def pixel_size_m(
    photon_energy_eV: float,
    detector_distance_m: float,
    detector_pixel_size_m: tuple[float, float],
    side_px: int,
) -> tuple[float, float]:
    """Return the far-field object pixel (y, x) [m]: wavelength * distance / (N * detector
    pixel).
    """
    wavelength_m = 1.239841984e-6 / photon_energy_eV
    dy, dx = detector_pixel_size_m
    scale = wavelength_m * detector_distance_m / side_px
    return scale / dy, scale / dx


def illumination(scan: Scan, probe: Complex) -> Double:
    """Return the light on the scan's frame, (H, W): the sum over patterns and modes of |P|^2 on
    whole pixels.
    """
    power = (np.abs(probe).astype(np.float64) ** 2).sum(0)
    (light,) = spread(windows(scan).corner_px, [power], scan.frame.shape)
    return light


def spread(
    corner_px: NDArray[np.int64], pictures: Sequence[Double], shape: tuple[int, int]
) -> list[Double]:
    """Return for each of some pictures (N, N) the sum of its copies at corners (M, 2), (H, W);
    pictures are nowhere negative.
    """
    size = tuple(fft.next_fast_len(n, real=True) for n in shape)
    points = np.zeros(size)
    np.add.at(points, (corner_px[:, 0], corner_px[:, 1]), 1)
    spectrum, made = fft.rfft2(points), []
    for picture in pictures:
        sums = fft.irfft2(spectrum * fft.rfft2(picture, size), size)[: shape[0], : shape[1]]
        sums[sums < ROUNDING * sums.max()] = 0
        made.append(sums)
    return made


def relative_illumination(scan: Scan, probe: Complex) -> Float:
    """Return `illumination` divided by its maximum, (H, W) float32."""
    light = illumination(scan, probe)
    relative: Float = (light / light.max()).astype(np.float32)
    return relative
