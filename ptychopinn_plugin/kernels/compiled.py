"""The kernels of the compiled library, kernels.c; see the package.

C takes what it is given for what it should be, so everything is checked here first.
"""

from __future__ import annotations

import ctypes

import numpy as np

from ..scan import Array, Complex, Float
from .corrector import Corrector, takes
from .memory import INTEGER, OUTSIDE, at, declared, into, waves_shape
from .plain import Bits, Corners, Plain


class Compiled:
    """One pass over memory each, without the interpreter."""

    name = 'compiled'

    def __init__(self, library: ctypes.CDLL) -> None:
        self._illuminate = declared(library.illuminate, INTEGER, 'pllppplll')
        self._respond = declared(library.respond, ctypes.c_double, 'pppppfffplll')
        self._collect = declared(library.collect, None, 'pppplll')
        self._merge = declared(library.merge, INTEGER, 'pllpplll')
        self._witness = declared(library.witness, INTEGER, 'pllpppplll')
        self._powers = declared(library.powers, None, 'pplll')
        self._shares = declared(library.shares, INTEGER, 'pllpppffll')
        self._product = declared(library.product, None, 'ppplll')
        self._ramps = declared(library.ramps, None, 'ppppll')
        largest = library.largest_side
        largest.restype = INTEGER
        self._largest = int(largest())
        self._library = library

    def corrector(
        self,
        shape: tuple[int, int, int],
        good: Float | None,
        threads: int,
        background: float = 0.0,
    ) -> Corrector | None:
        """See `Kernels`."""
        if not takes(self._library, shape[-1]):
            return None
        return Corrector(self._library, shape, good, threads, background)

    def product(self, a: Float, b: Float, out: Float | None = None) -> Float:
        """See `Kernels`."""
        shape = len(a), b.shape[1]
        made = np.empty(shape, np.float32) if out is None else out
        self._product(
            at(a, np.float32, (shape[0], len(b))), at(b, np.float32),
            into(made, np.float32, shape), len(a), *b.shape,
        )  # fmt: skip
        return made

    def illuminate(
        self, object_: Complex, corner_px: Corners, probes: Complex, out: Complex
    ) -> None:
        """See `Kernels`."""
        shape = waves_shape(probes)
        done = self._illuminate(
            at(object_, np.complex64), *object_.shape, at(corner_px, np.int64, (shape[0], 2)),
            at(probes, np.complex64), into(out, np.complex64, probes.shape), *shape,
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
        background: float = 0.0,
    ) -> float:
        """See `Kernels`."""
        batch, modes, side = waves_shape(field)
        if side > self._largest:
            return Plain().respond(
                field, amplitude, good, limits, out, seen, keep=keep, background=background
            )
        one = batch, 1, side, side
        error: float = self._respond(
            at(field, np.complex64), at(amplitude, np.float32, (batch, side, side)),
            None if good is None else at(good, np.float32, (side, side)),
            *(into(v, np.float32, one) if keep else None for v in seen),
            *limits, background, into(out, np.complex64, field.shape), batch, modes, side,
        )  # fmt: skip
        return error

    def collect(self, change: Complex, probes: Complex, share: Float, scratch: Complex) -> Complex:
        """See `Kernels`."""
        batch, modes, side = waves_shape(probes)
        if side > self._largest:
            return Plain().collect(change, probes, share, scratch)
        into(scratch, np.complex64, probes.shape)
        patches: Complex = scratch.reshape(-1)[: batch * side**2].reshape(batch, side, side)
        self._collect(
            at(change, np.complex64, probes.shape), at(probes, np.complex64),
            at(share, np.float32, patches.shape), into(patches, np.complex64), batch, modes, side,
        )  # fmt: skip
        return patches

    def merge(self, canvas: Array, corner_px: Corners, patches: Array) -> None:
        """See `Kernels`."""
        batch, side, _ = patches.shape
        kind = np.complex64 if canvas.dtype == np.complex64 else np.float32
        done = self._merge(
            into(canvas, kind), *canvas.shape, at(corner_px, np.int64, (batch, 2)),
            at(patches, kind, (batch, side, side)), batch, side, 2 if kind is np.complex64 else 1,
        )  # fmt: skip
        if not done:
            raise IndexError(OUTSIDE.format(side, corner_px.tolist(), canvas.shape))

    def witness(self, object_: Complex, corner_px: Corners, change: Complex, out: Complex) -> Float:
        """See `Kernels`."""
        shape = waves_shape(change)
        density = np.zeros((shape[-1], shape[-1]), np.float32)
        done = self._witness(
            at(object_, np.complex64), *object_.shape, at(corner_px, np.int64, (shape[0], 2)),
            at(change, np.complex64), into(out, np.complex64, change.shape),
            into(density, np.float32), *shape,
        )  # fmt: skip
        if not done:
            raise IndexError(OUTSIDE.format(shape[-1], corner_px.tolist(), object_.shape))
        return density

    def powers(self, probes: Complex, out: Float) -> None:
        """See `Kernels`."""
        batch, modes, side = waves_shape(probes)
        one = batch, side, side
        self._powers(at(probes, np.complex64), into(out, np.float32, one), batch, modes, side)

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
            at(light, np.float32), *light.shape, at(corner_px, np.int64, (batch, 2)),
            at(crowded, np.bool_, (batch,)), into(power, np.float32, (batch, side, side)),
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
            at(modulus, np.float32, one), at(miss, np.float32, one),
            None if good is None else at(good, np.float32, (side, side)), into(sums, np.float32),
            batch, side,
        )  # fmt: skip
        return sums
