"""The forward model and the losses in double precision: what the back ends are tested against.

Plain NumPy, float64 and complex128, the same names as `backends.torch.physics` and `.losses`:

    I_j = sum_m |F{ P_m(r - d_j) O(r) }|^2

Letters as in `scan`: B patterns, P modes, N side, H x W object; shifts and corners are (y, x) [px].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .scan import Array, Double

Wave = NDArray[np.complex128]

COUNT_FLOOR = 1e-2
"""Counts added to both sides in the losses, so that dark pixels have finite gradients."""


def shift_phase(shift_px: Array, side: int) -> Wave:
    """Return exp(-2 pi i k d) on the unshifted frequencies, (B, N, N), for shifts (B, 2) [px]."""
    k = np.fft.fftfreq(side)
    axes = np.exp(-2j * np.pi * k * np.asarray(shift_px, np.float64)[..., None])  # (B, 2, N)
    phase: Wave = axes[:, 0, :, None] * axes[:, 1, None, :]
    return phase


def shift_probe(probe: Array, shift_px: Array) -> Wave:
    """Return probe (P, N, N) moved by each shift (B, 2) [px] as (B, P, N, N)."""
    spectrum = np.fft.fft2(_double(probe))
    return _double(np.fft.ifft2(spectrum[None] * shift_phase(shift_px, probe.shape[-1])[:, None]))


def extract(object_: Array, corner_px: Array, side: int) -> Wave:
    """Return the (B, N, N) windows of object (H, W) whose first pixels are corner_px (B, 2)."""
    corners = [(int(y), int(x)) for y, x in corner_px]
    return _double(np.stack([object_[y : y + side, x : x + side] for y, x in corners]))


def merge(patches: Array, corner_px: Array, shape: tuple[int, int]) -> Wave:
    """Add patches (B, N, N) into a zero (H, W) canvas at corner_px: the adjoint of `extract`."""
    canvas = np.zeros(shape, np.complex128)
    side = patches.shape[-1]
    for patch, (y, x) in zip(patches, corner_px, strict=True):
        canvas[y : y + side, x : x + side] += patch
    return canvas


def illuminate(patches: Array, probes: Array) -> Wave:
    """Return exit waves (B, P, N, N) of patches (B, N, N) under probes (B or 1, P, N, N)."""
    return _double(patches)[:, None] * _double(probes)


def far_field(waves: Array) -> Wave:
    """Return the unitary centred Fourier transform over the last two axes."""
    inner = np.fft.ifftshift(_double(waves), axes=(-2, -1))
    return _double(np.fft.fftshift(np.fft.fft2(inner, norm='ortho'), axes=(-2, -1)))


def intensity(field: Array) -> Double:
    """Return the incoherent sum over modes of |field|^2, (B, P, N, N) -> (B, N, N)."""
    waves = _double(field)
    power: Double = (waves.real**2 + waves.imag**2).sum(-3)
    return power


def diffract(object_patches: Array, probes: Array) -> Double:
    """Return the intensities (B, N, N), in counts when the probe's power is in counts."""
    return intensity(far_field(illuminate(object_patches, probes)))


def poisson_loss(intensity: Array, counts: Array, good: Array) -> float:
    """Return the Poisson deviance per count, sum(l - n + n log(n / l)) / sum(n), over good pixels.

    l and n are the (B, N, N) intensities and counts plus `COUNT_FLOOR`; zero where they agree.
    """
    n, expected = _floored(counts), _floored(intensity)
    deviance = expected - n + n * np.log(n / expected)
    return _per_count(deviance, counts, good)


def amplitude_loss(intensity: Array, counts: Array, good: Array) -> float:
    """Return sum((sqrt(l) - sqrt(n))^2) / sum(n) over good pixels, l and n (B, N, N) floored."""
    miss = np.sqrt(_floored(intensity)) - np.sqrt(_floored(counts))
    return _per_count(miss**2, counts, good)


def patch_loss(patches: Array, truth: Array, weight: Array) -> float:
    """Return sum(w |O - T|^2) / sum(w |T|^2) of patches (B, N, N) under the light w (B, N, N)."""
    wanted, light = _double(truth), np.asarray(weight, np.float64)
    error = (light * np.abs(_double(patches) - wanted) ** 2).sum()
    return float(error / max((light * np.abs(wanted) ** 2).sum(), 1e-12))


def _floored(values: Array) -> Double:
    return np.asarray(values, np.float64) + COUNT_FLOOR


def _per_count(miss: Double, counts: Array, good: Array) -> float:
    """Return the sum of `miss` over good pixels per count there; at least one count is assumed."""
    total = (np.asarray(counts, np.float64) * good).sum()
    return float((miss * good).sum() / max(total, 1.0))


def _double(values: Any) -> Wave:
    return np.asarray(values, np.complex128)
