"""How far to trust a phase: the measurement repeated, by simulation, and halved.

A result is taken for the object: its patterns are predicted, photons are drawn for them, and they
are reconstructed in the same way (a parametric bootstrap, doi:10.1214/ss/1177013815). How far that
lies from the result is how far the result lies from the object: noise, what the sweeps have not yet
settled, and what they smooth away. But a result is smoother than its object, so that less is
smoothed away the second time. So it is repeated once more; by as much as the second difference is
smaller than the first, the first is taken to be smaller than the error. Slow waves that the sweeps
have not reached are not in the result, so that no repeat can miss them; how far twice as many
sweeps move it tells of those. The larger of the two corrections counts.

Errors are no normal noise: few of them are large, at edges and specks, and the root mean square is
more than most. So sigma is such a multiple of it that as many pixels of the first difference lie
below as of a normal one.

Where the measured patterns are explained worse than the simulated ones, sigma grows with the root
of that: noise that is no photon noise, a wrong probe, wrong positions. No factor is fitted.

Two reconstructions of half of the patterns each share no photon and no simulation: up to which
detail they agree is the half-scan FRC.

Letters as in `scan`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.random import Generator
from scipy.ndimage import gaussian_filter

from . import mapped
from .errors import DataError, require
from .grouping import Rows, compact_order
from .metrics import compare
from .result import ObjectImage
from .scan import Array, Complex, Double, Float, Scan
from .slow_phase import mean_ramp, plane

SMOOTHING_PX = 3.0  # of the squares: a dozen independent pixels, 12 % of sigma
LARGEST_GROWTH = 2.0  # of the error from one repeat to the one before
COVERED = 0.683  # of a normal distribution, by one sigma
LIT = 0.1  # of the brightest spot: there it is counted
DARK = 1e-3  # of the brightest spot: below it nothing is known
UNKNOWN_RAD = float(np.pi / np.sqrt(3))  # sigma of a phase that may be anything
LEAST_PATTERNS = 16
BLOCK = 64


def check_halves(scan: Scan) -> None:
    """Raise `DataError` when the scan is too small to be halved."""
    require(
        len(scan) >= LEAST_PATTERNS,
        DataError,
        'The scan has too few patterns to be halved',
        expected=f'at least {LEAST_PATTERNS} patterns',
        received=f'{len(scan)} patterns',
        cure='Reconstruct without uncertainty',
    )


def repeated(scan: Scan, pattern: Callable[[int], Float], rng: Generator) -> Scan:
    """Return the scan measured once more, `pattern` giving the counts (N, N) to expect for a row,
    without its known objects.
    """

    def blocks() -> Iterator[Array]:
        good = ~scan.bad_pixels
        for start in range(0, len(scan), BLOCK):
            rows = range(start, min(start + BLOCK, len(scan)))
            yield rng.poisson(np.stack([pattern(k) for k in rows]) * good)

    # No pixel has more than all of them; twice as many are still drawn.
    large = 2 * float(scan.totals.max()) > np.iinfo(np.uint32).max
    dtype = np.dtype(np.uint64 if large else np.uint32)
    counts = mapped.made(blocks(), scan.counts.shape, dtype)
    return replace(scan, counts=counts, object_guess=None, true_object=None)


def sigma_of(
    whole: ObjectImage,
    once: ObjectImage,
    twice: ObjectImage,
    further: ObjectImage,
    misfit: float = 1.0,
) -> Float:
    """Return one sigma of the phase of `whole` [rad], (H, W), from its repeat, the repeat of that,
    and the whole after twice as many sweeps. `misfit` is by how much the measured patterns are
    explained worse than the repeated ones.
    """
    weight = whole.weight
    difference = phase_difference(once.object, whole.object, weight)
    first = local_rms(difference, weight)
    second = local_rms(phase_difference(twice.object, once.object, weight), weight)
    growth = np.clip(first / np.maximum(second, 1e-12), 1, LARGEST_GROWTH)
    shares = np.abs(difference) / np.maximum(first, 1e-12)
    share = np.quantile(shares[weight > LIT * weight.max()], COVERED)
    moved = local_rms(phase_difference(further.object, whole.object, weight), weight)
    error = np.maximum(growth * first, np.hypot(first, moved))
    sigma = np.sqrt(max(misfit, 1.0)) * share * error
    known = weight > DARK * weight.max()
    found: Float = np.where(known, np.minimum(sigma, UNKNOWN_RAD), UNKNOWN_RAD)
    return found.astype(np.float32)


def half_scan_frc50(first: ObjectImage, second: ObjectImage) -> float:
    """Return where the Fourier ring correlation of two halves first falls below 1/2 [share of
    Nyquist].

    Raises `DataError` when nothing is illuminated in both.
    """
    weight = np.minimum(first.weight, second.weight)
    return compare(first.object, second.object, weight).frc50


def halves(positions_px: Double) -> tuple[Rows, Rows]:
    """Return the rows of two halves of the scan that both cover all of it."""
    order = compact_order(positions_px)
    return np.sort(order[0::2]), np.sort(order[1::2])


def local_rms(difference: Float, weight: Float) -> Float:
    """Return the local root mean square of a difference, (H, W)."""
    light = gaussian_filter(weight, SMOOTHING_PX)
    mean = gaussian_filter(difference**2 * weight, SMOOTHING_PX) / np.maximum(light, 1e-12)
    found: Float = np.sqrt(np.maximum(mean, 0))
    return found


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
