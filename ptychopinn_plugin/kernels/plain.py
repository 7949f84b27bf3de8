"""The kernels by NumPy; see the package."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..scan import Array, Complex, Float
from ..slow_phase import ramp_sums
from ..transforms import Product

TINY = np.float32(1e-6)
Corners = NDArray[np.int64]
Bits = NDArray[np.bool_]


class Plain:
    """Operation by operation, in memory that is given."""

    name = 'numpy'

    product: Product | None = None  # a framework's is faster

    def corrector(
        self,
        shape: tuple[int, int, int],
        good: Float | None,
        threads: int,
        background: float = 0.0,
    ) -> None:
        """Nothing here takes a whole batch at once."""

    def illuminate(
        self, object_: Complex, corner_px: Corners, probes: Complex, out: Complex
    ) -> None:
        """See `Kernels`."""
        side = probes.shape[-1]
        for wave, probe, (y, x) in zip(out, probes, corner_px.tolist(), strict=True):
            np.multiply(object_[y : y + side, x : x + side], probe, out=wave)

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
        fall, pace = limits
        modulus, miss = seen
        moduli(field, modulus, background)
        np.subtract(amplitude[:, None], modulus, out=miss)
        if good is not None:
            miss *= good
        flat = miss.reshape(len(miss), -1)
        error = float(np.einsum('bp,bp->b', flat, flat).sum(dtype=np.float64))
        below = np.add(modulus, TINY, out=None if keep else modulus)
        gain = np.divide(miss, below, out=below)
        if fall < 1:
            # `maximum` with one number takes five times as long.
            np.maximum(gain, np.full(gain.shape[1:], -fall, np.float32), out=gain)
        if pace != 1:
            gain *= np.float32(pace)
        np.multiply(field, gain, out=out)
        return error

    def collect(self, change: Complex, probes: Complex, share: Float, scratch: Complex) -> Complex:
        """See `Kernels`."""
        np.conj(probes, out=scratch)
        scratch *= change
        patches: Complex = scratch[:, 0] if scratch.shape[1] == 1 else scratch.sum(1)
        patches *= share
        return patches

    def merge(self, canvas: Array, corner_px: Corners, patches: Array) -> None:
        """See `Kernels`."""
        side = patches.shape[-1]
        for patch, (y, x) in zip(patches, corner_px.tolist(), strict=True):
            window = canvas[y : y + side, x : x + side]
            np.add(window, patch, out=window)

    def witness(self, object_: Complex, corner_px: Corners, change: Complex, out: Complex) -> Float:
        """See `Kernels`."""
        side, numbers = change.shape[-1], object_.view(np.float32)
        square = np.empty((side, 2 * side), np.float32)
        density = np.zeros_like(square)
        np.conj(change, out=out)  # and back again when there are few
        for waves, (y, x) in zip(out, corner_px.tolist(), strict=True):
            waves *= object_[y : y + side, x : x + side]
            patch = numbers[y : y + side, 2 * x : 2 * (x + side)]
            density += np.multiply(patch, patch, out=square)
        total: Float = density[:, 0::2] + density[:, 1::2]
        return total

    def powers(self, probes: Complex, out: Float) -> None:
        """See `Kernels`."""
        np.sum(probes.real**2 + probes.imag**2, axis=1, out=out)

    def shares(
        self,
        light: Float,
        corner_px: Corners,
        crowded: Bits,
        power: Float,
        limits: tuple[float, float],
    ) -> Float:
        """See `Kernels`."""
        part, floor = limits
        side = power.shape[-1]
        for row in np.flatnonzero(crowded).tolist():
            y, x = corner_px[row].tolist()
            power[row] = light[y : y + side, x : x + side]
        power *= np.float32(part)
        power += np.float32(floor)
        return np.reciprocal(power, out=power)

    def ramps(self, modulus: Float, miss: Float, good: Float | None) -> Float:
        """See `Kernels`."""
        return ramp_sums(modulus[:, 0], miss[:, 0], good)


def moduli(field: Complex, out: Float, background: float = 0.0) -> Float:
    """Return the square root of the intensity and a background, (B, P, N, N) -> (B, 1, N, N)."""
    if field.shape[1] == 1 and not background:
        return np.abs(field, out=out)
    np.add.reduce(field.real**2 + field.imag**2, axis=1, keepdims=True, out=out)
    out += np.float32(background)
    return np.sqrt(out, out=out)
