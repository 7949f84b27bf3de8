"""The far field on a CPU without copies: transforms by TensorFlow, everything else by NumPy in the
same memory.

Every small operation of TensorFlow takes fresh memory and ten times as long as NumPy in place
(1 MB: 400 us against 40), and every graph a third of a second to trace. Letters and conventions as
in `physics`, whose functions serve GPUs and gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from ...scan import Array, Complex, Float

ALIGNMENT = 64  # bytes, of TensorFlow's own arrays


def aligned(shape: tuple[int, ...], dtype: type = np.complex64) -> Array:
    """Return an array whose memory begins where TensorFlow's own does."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def view(tensor: tf.Tensor) -> Array:
    """Return a tensor on the CPU as a read-only array on the same memory."""
    return np.asarray(memoryview(tensor))


def fft2(waves: Complex) -> Complex:
    """Return the transform, without a norm, of an `aligned` array over its last two axes."""
    return view(tf.raw_ops.FFT2D(input=_tensor(waves)))


def ifft2(field: Complex) -> Complex:
    """Return the inverse transform of an `aligned` array over its last two axes."""
    return view(tf.raw_ops.IFFT2D(input=_tensor(field)))


def _tensor(array: Array) -> tf.Tensor:
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def shift_probe(probe: Complex, shift_px: Float) -> Complex:
    """Return probe (P, N, N) moved by each shift (B, 2) (y, x) [px] as (B, P, N, N)."""
    k = np.fft.fftfreq(probe.shape[-1]).astype(np.float32)
    axes = np.exp(np.float32(-2 * math.pi) * 1j * k * shift_px[..., None]).astype(np.complex64)
    source = aligned(probe.shape)
    source[:] = probe
    moved = aligned((len(shift_px), *probe.shape))
    np.multiply(fft2(source), axes[:, 0, None, :, None], out=moved)
    moved *= axes[:, 1, None, None, :]
    return ifft2(moved)


def extract(object_: Array, corners: Iterable[tuple[int, int]], out: Array) -> Array:
    """Fill `out` (B, N, N) with the windows whose first pixels are `corners` (y, x)."""
    side = out.shape[-1]
    for patch, (y, x) in zip(out, corners, strict=True):
        patch[:] = object_[y : y + side, x : x + side]
    return out


def merge(canvas: Array, corners: Iterable[tuple[int, int]], patches: Array) -> None:
    """Add patches (B, N, N) to a canvas (H, W) at `corners`."""
    side = patches.shape[-1]
    for patch, (y, x) in zip(patches, corners, strict=True):
        canvas[y : y + side, x : x + side] += patch


def intensity(field: Complex) -> Float:
    """Return the incoherent sum over modes of |field|^2, (B, P, N, N) -> (B, N, N)."""
    power: Float = (field.real**2 + field.imag**2).sum(1)
    return power


def modulus(field: Complex) -> Float:
    """Return the square root of the intensity, (B, P, N, N) -> (B, 1, N, N)."""
    if field.shape[1] == 1:
        return np.abs(field)
    power = intensity(field)[:, None]
    return np.sqrt(power, out=power)
