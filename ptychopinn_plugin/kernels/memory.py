"""Memory as C takes it: nothing there is checked, so everything is checked here first."""

from __future__ import annotations

import ctypes
from typing import Any, cast

from ..scan import Array, Complex

POINTER, INTEGER, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
BYTE = ctypes.c_char
OUTSIDE = 'A window of side {} at {} does not lie on a canvas of {}'


def declared(function: Any, answer: Any, arguments: str) -> Any:
    function.restype = answer
    function.argtypes = [{'p': POINTER, 'l': INTEGER, 'f': FLOAT}[a] for a in arguments]
    return function


def waves_shape(waves: Complex) -> tuple[int, int, int]:
    batch, modes, side, width = waves.shape
    if side != width:
        raise ValueError(f'Expected square patterns, not {side} x {width}')
    return batch, modes, side


def into(values: Array, kind: Any, shape: tuple[int, ...] | None = None) -> int:
    """Return where to write; raises as `at` does, and where that is forbidden."""
    if not values.flags.writeable:
        raise ValueError('Expected memory that may be written')
    return at(values, kind, shape)


def at(values: Array, kind: Any, shape: tuple[int, ...] | None = None) -> int:
    """Return where the values lie; raises `ValueError` unless they are what C expects."""
    if values.dtype != kind or not values.flags.c_contiguous:
        raise ValueError(f'Expected contiguous {kind.__name__}, not {values.dtype}')
    if shape is not None and values.shape != shape:
        raise ValueError(f'Expected the shape {shape}, not {values.shape}')
    if values.size and values.flags.writeable:
        return ctypes.addressof(BYTE.from_buffer(cast('bytearray', values)))  # a fifth of the time
    address: int = values.ctypes.data
    return address
