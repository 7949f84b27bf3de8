"""How far to trust a phase: two reconstructions from half of the patterns each, compared.

The halves share no photon, so their difference is noise and what the sweeps had not yet settled.
Halves have twice the variance of the whole and their difference twice that again, so one sigma of
the whole is half of the local root mean square of the difference, and a seventh more (measured,
benchmarks/RESEARCH.md). What both halves get wrong alike (a wrong probe, wrong positions, an object
that moves, detail finer than either resolves) is not in it.

Letters as in `scan`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from .grouping import Rows, compact_order
from .metrics import compare
from .result import ObjectImage
from .scan import Complex, Double, Float
from .slow_phase import mean_ramp, plane

SMOOTHING_PX = 3.0  # of the squares: a dozen independent pixels, 12 % of sigma
FACTOR = 0.57
DARK = 1e-3  # of the brightest spot: below it nothing is known
UNKNOWN_RAD = float(np.pi / np.sqrt(3))  # sigma of a phase that may be anything


@dataclass(frozen=True, eq=False)
class HalfScans:
    """What two half scans say about the whole.

    uncertainty  (H, W) float32 one sigma of the phase [rad]
    frc50        where the Fourier ring correlation of the halves first falls below 1/2 [share of
                 Nyquist]
    """

    uncertainty: Float
    frc50: float


def halves(positions_px: Double) -> tuple[Rows, Rows]:
    """Return the rows of two halves of the scan that both cover all of it."""
    order = compact_order(positions_px)
    return np.sort(order[0::2]), np.sort(order[1::2])


def judge(first: ObjectImage, second: ObjectImage) -> HalfScans:
    """Compare the objects of two half scans in the same frame.

    Raises `DataError` when nothing is illuminated in both.
    """
    weight = np.minimum(first.weight, second.weight)
    score = compare(first.object, second.object, weight)
    sigma = FACTOR * local_difference(first.object, second.object, weight)
    known = weight > DARK * weight.max()
    sigma = np.where(known, np.minimum(sigma, UNKNOWN_RAD), UNKNOWN_RAD)
    return HalfScans(sigma.astype(np.float32), score.frc50)


def local_difference(first: Complex, second: Complex, weight: Float) -> Float:
    """Return the local root mean square of the phase difference of two objects [rad], (H, W)."""
    square = phase_difference(first, second, weight) ** 2
    light = gaussian_filter(weight, SMOOTHING_PX)
    mean = gaussian_filter(square * weight, SMOOTHING_PX) / np.maximum(light, 1e-12)
    difference: Float = np.sqrt(np.maximum(mean, 0))
    return difference


def phase_difference(first: Complex, second: Complex, weight: Float) -> Float:
    """Return the phase of first against second [rad], (H, W), their mean and ramp removed."""
    product = first * second.conj()
    y, x = mean_ramp(product, weight)
    product = product * plane((product.shape[0], product.shape[1]), (-y, -x))
    # Neighbours tell a steep ramp without wraps, and a ramp of noise besides: two fits take it out.
    for _ in range(2):
        mean = (product * weight).sum()
        difference: Float = np.angle(product * mean.conj()).astype(np.float32)
        y, x = _fitted_ramp(difference, weight)
        product = product * plane((product.shape[0], product.shape[1]), (-y, -x))
    mean = (product * weight).sum()
    difference = np.angle(product * mean.conj()).astype(np.float32)
    return difference


def _fitted_ramp(phase: Float, weight: Float) -> tuple[float, float]:
    """Return the ramp (y, x) [rad/px] of the plane nearest to a phase (H, W) without wraps."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in phase.shape)
    w, basis = weight.astype(np.float64), (np.ones(1), y[:, None], x[None])
    normal = np.array([[(w * a * b).sum() for a in basis] for b in basis])
    known = np.array([(w * phase * b).sum() for b in basis])
    _, ramp_y, ramp_x = np.linalg.lstsq(normal, known, rcond=None)[0]
    return float(ramp_y), float(ramp_x)
