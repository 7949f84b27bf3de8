"""The kernels of the compiled library, kernels.c; see the package.

C takes what it is given for what it should be, so everything is checked here first.
"""

from __future__ import annotations

import ctypes
from typing import Any, cast

import numpy as np

from ..scan import Array, Complex, Float
from .plain import Bits, Corners, Plain

POINTER, INTEGER, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
BYTE = ctypes.c_char
OUTSIDE = 'A window of side {} at {} does not lie on a canvas of {}'


class Compiled:
    """One pass over memory each, without the interpreter."""

    name = 'compiled'

    def __init__(self, library: ctypes.CDLL) -> None:
        self._illuminate = _declared(library.illuminate, INTEGER, 'pllppplll')
        self._respond = _declared(library.respond, ctypes.c_double, 'pppppffplll')
        self._collect = _declared(library.collect, None, 'pppplll')
        self._merge = _declared(library.merge, INTEGER, 'pllpplll')
        self._witness = _declared(library.witness, INTEGER, 'pllpppplll')
        self._powers = _declared(library.powers, None, 'pplll')
        self._shares = _declared(library.shares, INTEGER, 'pllpppffll')
        self._ramps = _declared(library.ramps, None, 'ppppll')
        largest = library.largest_side
        largest.restype = INTEGER
        self._largest = int(largest())

    def illuminate(
        self, object_: Complex, corner_px: Corners, probes: Complex, out: Complex
    ) -> None:
        """See `Kernels`."""
        shape = _shape(probes)
        done = self._illuminate(
            _at(object_, np.complex64), *object_.shape, _at(corner_px, np.int64, (shape[0], 2)),
            _at(probes, np.complex64), _into(out, np.complex64, probes.shape), *shape,
        )  # fmt: skip
        if not done:
            raise IndexError(OUTSIDE.format(shape[-1], corner_px.tolist(), object_.shape))

    def respond(
        self,
        field: Complex,
        amplitude: Float,
        good: Float | None,
        limits: tuple[float, float],
        out: Complex,
        seen: tuple[Float, Float],
        *,
        keep: bool,
    ) -> float:
        """See `Kernels`."""
        batch, modes, side = _shape(field)
        if side > self._largest:
            return Plain().respond(field, amplitude, good, limits, out, seen, keep=keep)
        one = batch, 1, side, side
        error: float = self._respond(
            _at(field, np.complex64), _at(amplitude, np.float32, (batch, side, side)),
            None if good is None else _at(good, np.float32, (side, side)),
            *(_into(v, np.float32, one) if keep else None for v in seen),
            *limits, _into(out, np.complex64, field.shape), batch, modes, side,
        )  # fmt: skip
        return error

    def collect(self, change: Complex, probes: Complex, share: Float, scratch: Complex) -> Complex:
        """See `Kernels`."""
        batch, modes, side = _shape(probes)
        if side > self._largest:
            return Plain().collect(change, probes, share, scratch)
        _into(scratch, np.complex64, probes.shape)
        patches: Complex = scratch.reshape(-1)[: batch * side**2].reshape(batch, side, side)
        self._collect(
            _at(change, np.complex64, probes.shape), _at(probes, np.complex64),
            _at(share, np.float32, patches.shape), _into(patches, np.complex64), batch, modes, side,
        )  # fmt: skip
        return patches

    def merge(self, canvas: Array, corner_px: Corners, patches: Array) -> None:
        """See `Kernels`."""
        batch, side, _ = patches.shape
        kind = np.complex64 if canvas.dtype == np.complex64 else np.float32
        done = self._merge(
            _into(canvas, kind), *canvas.shape, _at(corner_px, np.int64, (batch, 2)),
            _at(patches, kind, (batch, side, side)), batch, side, 2 if kind is np.complex64 else 1,
        )  # fmt: skip
        if not done:
            raise IndexError(OUTSIDE.format(side, corner_px.tolist(), canvas.shape))

    def witness(self, object_: Complex, corner_px: Corners, change: Complex, out: Complex) -> Float:
        """See `Kernels`."""
        shape = _shape(change)
        density = np.zeros((shape[-1], shape[-1]), np.float32)
        done = self._witness(
            _at(object_, np.complex64), *object_.shape, _at(corner_px, np.int64, (shape[0], 2)),
            _at(change, np.complex64), _into(out, np.complex64, change.shape),
            _into(density, np.float32), *shape,
        )  # fmt: skip
        if not done:
            raise IndexError(OUTSIDE.format(shape[-1], corner_px.tolist(), object_.shape))
        return density

    def powers(self, probes: Complex) -> Float:
        """See `Kernels`."""
        batch, modes, side = _shape(probes)
        out = np.empty((batch, side, side), np.float32)
        self._powers(_at(probes, np.complex64), _into(out, np.float32), batch, modes, side)
        return out

    def shares(
        self,
        light: Float,
        corner_px: Corners,
        crowded: Bits,
        power: Float,
        limits: tuple[float, float],
    ) -> Float:
        """See `Kernels`."""
        batch, side, _ = power.shape
        done = self._shares(
            _at(light, np.float32), *light.shape, _at(corner_px, np.int64, (batch, 2)),
            _at(crowded, np.bool_, (batch,)), _into(power, np.float32, (batch, side, side)),
            *limits, batch, side,
        )  # fmt: skip
        if not done:
            raise IndexError(OUTSIDE.format(side, corner_px.tolist(), light.shape))
        return power

    def ramps(self, modulus: Float, miss: Float, good: Float | None) -> Float:
        """See `Kernels`."""
        batch, _, side, _ = modulus.shape
        one = batch, 1, side, side
        sums = np.empty((batch, 5), np.float32)
        self._ramps(
            _at(modulus, np.float32, one), _at(miss, np.float32, one),
            None if good is None else _at(good, np.float32, (side, side)), _into(sums, np.float32),
            batch, side,
        )  # fmt: skip
        return sums


def _declared(function: Any, answer: Any, arguments: str) -> Any:
    function.restype = answer
    function.argtypes = [{'p': POINTER, 'l': INTEGER, 'f': FLOAT}[a] for a in arguments]
    return function


def _shape(waves: Complex) -> tuple[int, int, int]:
    batch, modes, side, width = waves.shape
    if side != width:
        raise ValueError(f'Expected square patterns, not {side} x {width}')
    return batch, modes, side


def _into(values: Array, kind: Any, shape: tuple[int, ...] | None = None) -> int:
    """Return where to write; raises as `_at` does, and where that is forbidden."""
    if not values.flags.writeable:
        raise ValueError('Expected memory that may be written')
    return _at(values, kind, shape)


def _at(values: Array, kind: Any, shape: tuple[int, ...] | None = None) -> int:
    """Return where the values lie; raises `ValueError` unless they are what C expects."""
    if values.dtype != kind or not values.flags.c_contiguous:
        raise ValueError(f'Expected contiguous {kind.__name__}, not {values.dtype}')
    if shape is not None and values.shape != shape:
        raise ValueError(f'Expected the shape {shape}, not {values.shape}')
    if values.size and values.flags.writeable:
        return ctypes.addressof(BYTE.from_buffer(cast('bytearray', values)))  # a fifth of the time
    address: int = values.ctypes.data
    return address
