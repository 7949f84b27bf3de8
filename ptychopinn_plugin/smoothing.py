"""Gaussian smoothing of pictures, as products with narrow bands of a matrix: a quarter of the time
of two transforms.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from .scan import Complex, Float

BLOCK_PX = 32  # rows or columns that are made at once,
WIDTH_PX = 64  # of so many of the others: products so small that BLAS wakes no threads for them
REACH = 3.5  # sigma, beyond which a Gaussian is left out


def smoothed(planes: Float, sigma_px: float) -> Float:
    """Return float32 planes (C, H, W), each convolved with a Gaussian; outside they are zero."""
    band = _band(sigma_px)
    margin = (band.shape[1] - BLOCK_PX) // 2
    count, height, width = planes.shape
    rows, columns = (-(-n // WIDTH_PX) * WIDTH_PX for n in (height, width))
    padded = np.zeros((count, rows + 2 * margin, columns), np.float32)
    padded[:, margin : margin + height, :width] = planes
    along_y = np.zeros((count, rows, columns + 2 * margin), np.float32)
    made = np.empty((count, rows, columns), np.float32)
    tall, wide = (BLOCK_PX, WIDTH_PX), (WIDTH_PX, BLOCK_PX)
    inner = along_y[..., margin : margin + columns]
    np.matmul(band, _tiles(padded, tall, (band.shape[1], WIDTH_PX)), out=_tiles(inner, tall, tall))
    np.matmul(
        _tiles(along_y, wide, (WIDTH_PX, band.shape[1])), band.T, out=_tiles(made, wide, wide)
    )
    return made[:, :height, :width]


def _tiles(planes: Float, step: tuple[int, int], shape: tuple[int, int]) -> Float:
    """Return a view (C, rows, columns, h, w) of the tiles of a shape that begin every `step`."""
    plane, y, x = planes.strides
    number = ((n - k) // d + 1 for n, k, d in zip(planes.shape[1:], shape, step, strict=True))
    return np.lib.stride_tricks.as_strided(
        planes, (len(planes), *number, *shape), (plane, step[0] * y, step[1] * x, y, x)
    )


def planes(wave: Complex) -> Float:
    """Return the real and the imaginary part of a wave (H, W), (2, H, W)."""
    return np.stack([wave.real, wave.imag])


def wave(planes: Float) -> Complex:
    """Return the wave (H, W) whose real and imaginary part are given, (2, H, W)."""
    made = np.empty(planes.shape[1:], np.complex64)
    made.real, made.imag = planes
    return made


@cache
def _band(sigma_px: float) -> Float:
    """Return the matrix (`BLOCK_PX`, `BLOCK_PX` + 2 margins) that smooths one block."""
    margin = int(np.ceil(REACH * sigma_px))
    x = np.arange(-margin, margin + 1)
    kernel = np.exp(-(x**2) / (2 * sigma_px**2))
    band = np.zeros((BLOCK_PX, BLOCK_PX + 2 * margin), np.float32)
    for row in range(BLOCK_PX):
        band[row, row : row + len(x)] = kernel / kernel.sum()
    return band
