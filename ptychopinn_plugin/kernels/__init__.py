"""What the sweeps on a CPU do between transforms, in one pass each: compiled where the library was
built with the package, by NumPy everywhere else. Both are tested to be the same.

Compiled kernels let the interpreter go while they work, so that the threads of a step do not wait
for one another at every small operation, and read what they need once. The library is plain C, made
by the build where there is a compiler (`hatch_build.py`), and is looked for in this folder only.

Letters as in `scan`; corners (B, 2) int64 are (y, x) of a window's first pixel.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol

from ..scan import Array, Complex, Float
from ..transforms import Product
from . import plain
from .compiled import Compiled
from .corrector import Corrector
from .library import found
from .plain import Bits, Corners


class Kernels(Protocol):
    """The operations; arrays are contiguous, and what is written is given."""

    name: str

    def illuminate(
        self, object_: Complex, corner_px: Corners, probes: Complex, out: Complex
    ) -> None:
        """Write the windows of an object (H, W) times the probes (B, P, N, N) to `out`, of their
        shape.
        """

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
        """Write `pace max(-fall, (A - |F|) / |F|) F` to `out` for fields (B, P, N, N), amplitudes A
        (B, N, N), good (N, N) of 1 and 0 and limits (fall, pace); return the sum of (A - |F|)^2.
        A background is added to the square of |F|.

        `keep` asks for |F| and A - |F| in `seen`, (B, 1, N, N) each; without it they are scratch.
        """

    def collect(self, change: Complex, probes: Complex, share: Float, scratch: Complex) -> Complex:
        """Return the sum over modes of conj(P) times the change, times a share (B, N, N), as
        (B, N, N); `scratch`, of the probes' shape, may be what is returned.
        """

    def merge(self, canvas: Array, corner_px: Corners, patches: Array) -> None:
        """Add patches (B, N, N), complex64 or float32, to a canvas (H, W)."""

    def witness(self, object_: Complex, corner_px: Corners, change: Complex, out: Complex) -> Float:
        """Write conj(change) times the windows of the object to `out`, both (B, P, N, N); return
        the sum of |O|^2 over the windows, (N, N).
        """

    def powers(self, probes: Complex, out: Float) -> None:
        """Write the power of all modes of probes (B, P, N, N) to `out`, (B, N, N)."""

    def shares(
        self,
        light: Float,
        corner_px: Corners,
        crowded: Bits,
        power: Float,
        limits: tuple[float, float],
    ) -> Float:
        """Return 1 / (part L + floor) in the memory of `power` (B, N, N), for limits (part, floor):
        L is the window of the light (H, W) where one is crowded (B,), else its own power.
        """

    def ramps(self, modulus: Float, miss: Float, good: Float | None) -> Float:
        """Return the `slow_phase.ramp_sums` (B, 5) of moduli and misses (B, 1, N, N)."""

    @property
    def product(self) -> Product | None:
        """A product of matrices, where it is faster than a framework's."""

    def corrector(
        self,
        shape: tuple[int, int, int],
        good: Float | None,
        threads: int,
        background: float = 0.0,
    ) -> Corrector | None:
        """Return what takes whole batches at once with transforms and threads of its own, for a
        shape (B, P, N) and a background as of `respond`; None where nothing does.
        """


@cache
def load() -> Kernels:
    """Return the compiled kernels, or NumPy's where there are none."""
    library = found()
    return plain.Plain() if library is None else Compiled(library)
