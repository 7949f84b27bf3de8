"""The transforms of a framework on a CPU, as NumPy takes them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from scipy import fft

from .scan import Complex, Float


@dataclass(frozen=True)
class Transforms:
    """A framework's transforms over the last two axes of arrays (B, P, N, N), and more that it
    does faster than NumPy.

    empty(shape)   complex64 memory that the others take without a copy
    fft2, ifft2    without a norm, and its inverse; the answers may be read-only
    product(a, b)  of float32 matrices. NumPy's has threads of its own, which spin: beside those of
                   a framework it takes ten times as long
    threads()      how many may compute at once
    alone()        a context in which a thread computes without the help of others
    """

    empty: Callable[[tuple[int, ...]], Complex]
    fft2: Callable[[Complex], Complex]
    ifft2: Callable[[Complex], Complex]
    product: Callable[[Float, Float], Float]
    threads: Callable[[], int] = lambda: 1
    alone: Callable[[], AbstractContextManager[None]] = nullcontext


def _product(a: Float, b: Float) -> Float:
    # Not by the matrix product: see `Transforms.product`.
    made: Float = np.einsum('ij,jk->ik', a, b)
    return made


def _empty(shape: tuple[int, ...]) -> Complex:
    return np.empty(shape, np.complex64)


PLAIN = Transforms(_empty, fft.fft2, fft.ifft2, _product)
"""SciPy's, for a few patterns anywhere."""
