"""The far-field forward model on TensorFlow tensors; functions only: no config, no devices, no
files.

    I_j = sum_m |F{ P_m(r - d_j) O(r) }|^2

`extract` is a gather on integer windows and `merge` its exact adjoint; the sub-pixel remainder d_j
moves the probe by the Fourier shift theorem. `far_field` is unitary with the zero frequency at
[N // 2, N // 2]. Letters as in `scan`: B patterns, P modes, N side, H x W object. Mirrors
`reference`.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf


def shift_phase(shift_px: tf.Tensor, side: int) -> tf.Tensor:
    """Return exp(-2 pi i k d) on the unshifted frequency grid, (B, N, N), for shifts (B, 2) (y, x)
    [px].
    """
    k = tf.constant(np.fft.fftfreq(side), shift_px.dtype)
    angle = -2 * math.pi * k * shift_px[..., None]  # (B, 2, N)
    axes = tf.complex(tf.cos(angle), tf.sin(angle))
    return axes[:, 0, :, None] * axes[:, 1, None, :]


def shift_probe(probe: tf.Tensor, shift_px: tf.Tensor) -> tf.Tensor:
    """Return probe (P, N, N) moved by each shift (B, 2) (y, x) [px] as (B, P, N, N)."""
    spectrum = tf.signal.fft2d(probe)
    phase = shift_phase(shift_px, probe.shape[-1])[:, None]
    return tf.signal.ifft2d(spectrum * phase)


def pixels(corner_px: tf.Tensor, side: int, width: int | tf.Tensor) -> tf.Tensor:
    """Return the flat canvas index of every pixel of the windows at corner_px (B, 2), (B * N *
    N,), as int64: with int32 TensorFlow calculates on the CPU, also for a GPU.
    """
    wide, corner_px = tf.cast(width, tf.int64), tf.cast(corner_px, tf.int64)
    first = corner_px[:, 0] * wide + corner_px[:, 1]
    return tf.reshape(first[:, None, None] + window(side, wide), [-1])


def window(side: int, width: int | tf.Tensor) -> tf.Tensor:
    """Return the flat canvas index of every pixel of a window (N, N), from that of its first."""
    span = tf.range(side, dtype=tf.int64)
    return span[:, None] * tf.cast(width, tf.int64) + span


def extract(object_: tf.Tensor, corner_px: tf.Tensor, side: int) -> tf.Tensor:
    """Return the (B, N, N) windows of object (H, W) whose first pixels are corner_px (B, 2) (y,
    x).
    """
    index = pixels(corner_px, side, tf.shape(object_)[1])
    return tf.reshape(tf.gather(tf.reshape(object_, [-1]), index), [-1, side, side])


def merge(
    patches: tf.Tensor, corner_px: tf.Tensor, shape: tuple[int, int] | tf.Tensor
) -> tf.Tensor:
    """Add patches (B, N, N) into a zero (H, W) canvas at corner_px: the exact adjoint of
    `extract`.
    """
    index = pixels(corner_px, patches.shape[-1], shape[1])
    flat = tf.math.unsorted_segment_sum(tf.reshape(patches, [-1]), index, shape[0] * shape[1])
    return tf.reshape(flat, shape)


def illuminate(patches: tf.Tensor, probes: tf.Tensor) -> tf.Tensor:
    """Return exit waves (B, P, N, N) of patches (B, N, N) under probes (B, P, N, N) or (1, P, N,
    N).
    """
    return patches[:, None] * probes


def far_field(waves: tf.Tensor) -> tf.Tensor:
    """Return the unitary centred Fourier transform over the last two axes."""
    # Where the real-space origin lies only multiplies the field by a phase, but a centred
    # transform is what the oracle and the readers expect.
    inner = tf.signal.ifftshift(waves, axes=(-2, -1))
    field = tf.signal.fftshift(tf.signal.fft2d(inner), axes=(-2, -1))
    return field / waves.shape[-1]


def intensity(field: tf.Tensor) -> tf.Tensor:
    """Return the incoherent sum over modes of |field|^2, (B, P, N, N) -> (B, N, N)."""
    power = tf.square(tf.math.real(field)) + tf.square(tf.math.imag(field))
    return tf.reduce_sum(power, -3)


def modulus(field: tf.Tensor, background: float = 0.0) -> tf.Tensor:
    """Return the root of `intensity` and a background, (B, P, N, N) -> (B, 1, N, N)."""
    if background:
        return tf.sqrt(intensity(field)[:, None] + background)
    if field.shape[1] == 1:
        return tf.abs(field)
    return tf.sqrt(intensity(field))[:, None]


def diffract(object_patches: tf.Tensor, probes: tf.Tensor) -> tf.Tensor:
    """Return the predicted intensities (B, N, N), in counts when the probe is normalised to
    counts.
    """
    return intensity(far_field(illuminate(object_patches, probes)))


def centred_ramp_sums(
    modulus: tf.Tensor, miss: tf.Tensor, good: tf.Tensor | None = None
) -> tf.Tensor:
    """Return (B, 5) the sums of `slow_phase.ramp_sums` over modulus and miss (B, N, N), which have
    the zero frequency first, as good (N, N) has.
    """
    side = modulus.shape[-1]
    edge = np.ones(side, np.float32)
    edge[(side - 1) // 2 : (side - 1) // 2 + 2] = 0  # the first and the last frequency
    dy, dx = (tf.roll(modulus, -1, d) - tf.roll(modulus, 1, d) for d in (1, 2))
    dy, dx = dy * edge[:, None], dx * edge
    if good is not None:
        dy, dx = dy * good, dx * good
    three = tf.stack([miss, dy, dx], 1)
    # Not as a product of matrices, whose factors would have ten bits on a GPU.
    sums = tf.reduce_sum(three[:, 1:, None] * three[:, None], (-2, -1))
    return tf.gather(tf.reshape(sums, [-1, 6]), [0, 3, 1, 5, 2], axis=1)


def shift_sums(
    field: tf.Tensor,
    sloped: tf.Tensor,
    modulus: tf.Tensor,
    miss: tf.Tensor,
    good: tf.Tensor | None = None,
) -> tf.Tensor:
    """Return (B, 6) the sums of `position_correction.shift_sums` over field (B, P, N, N), sloped
    (B, 2, P, N, N), modulus and miss (B, N, N).
    """
    real = tf.math.real(field)[:, None] * tf.math.real(sloped)
    slope = tf.reduce_sum(real + tf.math.imag(field)[:, None] * tf.math.imag(sloped), 2)
    slope /= modulus[:, None] + 1e-6
    if good is not None:
        slope *= good
    y, x = slope[:, 0], slope[:, 1]
    missed = tf.reduce_sum(tf.square(slope), 1) * miss
    pairs = ((y, miss), (x, miss), (y, y), (x, x), (y, x), (missed, miss))
    return tf.stack([tf.reduce_sum(a * b, (1, 2)) for a, b in pairs], 1)
