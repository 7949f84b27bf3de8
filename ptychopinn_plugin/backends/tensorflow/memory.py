"""TensorFlow's transforms for the far field on a CPU, without copies; see `transforms.Transforms`.

Every small operation of TensorFlow takes fresh memory and ten times as long as NumPy in place
(1 MB: 400 us against 40), and every graph a third of a second to trace.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from ...scan import Array, Complex, Float
from ...transforms import Transforms


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


def product(a: Float, b: Float, out: Float | None = None) -> Float:
    """Return the product of two matrices; see `transforms.Product`."""
    made = view(tf.raw_ops.MatMul(a=a, b=b))
    if out is None:
        return made
    out[:] = made
    return out


TRANSFORMS = Transforms(fft2, ifft2, product)
