"""The transforms of a framework on a CPU, as NumPy takes them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy import fft

from .scan import Array, Complex, Float


class Product(Protocol):
    """A product of float32 matrices (B, K) and (K, C); the answer is in `out` where that is
    given.
    """

    def __call__(self, a: Float, b: Float, out: Float | None = None) -> Float: ...


ALIGNMENT = 64  # bytes: what TensorFlow takes without a copy, and a line of the cache


def aligned(shape: tuple[int, ...], kind: type[Any] = np.complex64) -> Array:
    """Return new memory, not filled, that begins where a line of the cache does."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    made: Array = raw[start : start + size].view(kind).reshape(shape)
    return made


@dataclass(frozen=True)
class Transforms:
    """A framework's transforms over the last two axes of arrays (B, P, N, N), and more that it
    does faster than NumPy.

    fft2, ifft2    without a norm, and its inverse, of `aligned` arrays; answers may be read-only
    product        of float32 matrices; NumPy's has threads of its own, which spin: beside those of
                   a framework it takes ten times as long
    threads()      how many may compute at once
    alone()        a context in which a thread computes without the help of others
    """

    fft2: Callable[[Complex], Complex]
    ifft2: Callable[[Complex], Complex]
    product: Product
    threads: Callable[[], int] = lambda: 1
    alone: Callable[[], AbstractContextManager[None]] = nullcontext


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _product(a: Float, b: Float, out: Float | None = None) -> Float:
    # Not by the matrix product: see `Transforms.product`.
    made: Float = np.einsum('ij,jk->ik', a, b, out=out)
    return made


PLAIN = Transforms(fft.fft2, fft.ifft2, _product)
"""SciPy's, for a few patterns anywhere."""
