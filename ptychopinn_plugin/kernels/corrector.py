"""Whole batches from the object to its correction in one call, correct.c; see the package."""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Any, NamedTuple

import numpy as np

from ..scan import Complex, Float
from ..slow_phase import SUMS
from ..transforms import aligned
from .memory import FLOAT, INTEGER, OUTSIDE, POINTER, at, declared, into
from .plain import Bits, Corners

SMALLEST_SIDE = 16


class _Correction(ctypes.Structure):
    """`Correction` of correct.c."""

    _fields_ = (
        *((name, kind) for names, kind in (
            ('object', POINTER), ('height width', INTEGER),
            ('corners coefficients waves amplitude good share crowded light brightest', POINTER),
            ('ramps', POINTER), ('fall pace regularisation', FLOAT),
            ('patches errors density shares factors scratch', POINTER),
            ('batch modes side count few', INTEGER),
        ) for name in names.split()),
    )  # fmt: skip


class _Filtering(ctypes.Structure):
    """`Filtering` of correct.c."""

    _fields_ = (
        *((name, POINTER) for name in ('waves', 'probe', 'by', 'factors', 'scratch')),
        *((name, INTEGER) for name in ('modes', 'side', 'few')),
    )


class Witness(NamedTuple):
    """What a batch says of the probe: the sum over patterns of coefficients times conj(O) times the
    change of the waves, (few, P, N, N), and that of |O|^2, (N, N). The next call overwrites them.
    """

    shares: Complex
    density: Float


def _end(end: Any, team: int | None, process: int) -> None:
    """End a team; in a copy of the process that began it there are no threads to wait for."""
    if os.getpid() == process:
        end(team)


def takes(library: ctypes.CDLL, side: int) -> bool:
    """Return whether `Corrector` takes patterns of this side."""
    largest = library.largest_corrected_side
    largest.restype = INTEGER
    return SMALLEST_SIDE <= side <= int(largest()) and side.bit_count() == 1


class Corrector:
    """Corrects by batches of at most B patterns, of P modes and a side N that is a power of two,
    with transforms of its own and so many threads. `good` (N, N) is 1 where a pixel counts.

    Each pattern goes all the way while it lies in the cache, with one transposition there and one
    back: what lies in the far field is turned about its diagonal. The threads are C's, which need
    no interpreter and look out for work for a tenth of a millisecond before they sleep.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        shape: tuple[int, int, int],
        good: Float | None,
        threads: int,
    ) -> None:
        size, modes, side = shape
        self.modes, self.side, self.threads = modes, side, threads
        self._correct = declared(library.correct, INTEGER, 'pp')
        self._turn = declared(library.turn, None, 'ppll')
        self._spread = declared(library.probe_to_waves, None, 'pp')
        self._gather = declared(library.waves_to_probe, None, 'pp')
        floats = max(
            declared(needed, INTEGER, 'll')(modes, side)
            for needed in (library.scratch_floats, library.filtering_floats)
        )
        self._scratch, self._factors = (
            aligned((n,), np.float32) for n in (threads * floats, 2 * side)
        )
        declared(library.prepare, None, 'lp')(side, at(self._factors, np.float32))
        self.good = None if good is None else np.ascontiguousarray(good.T)
        self._patches = aligned((size, side, side))
        self._errors = np.empty(size)
        self._brightest = np.empty(size, np.float32)
        self._density = aligned((threads, side, side), np.float32)
        self._shares = np.empty((threads, 0, modes, side, side), np.complex64)
        self._light = np.empty((0, 0), np.float32)
        begin = declared(library.team_begin, POINTER, 'l')
        self._team = begin(threads) if threads > 1 else None
        weakref.finalize(self, _end, declared(library.team_end, None, 'p'), self._team, os.getpid())
        self._given = _Correction(
            good=None if self.good is None else at(self.good, np.float32),
            errors=at(self._errors, np.float64), brightest=at(self._brightest, np.float32),
            factors=at(self._factors, np.float32), scratch=at(self._scratch, np.float32),
            modes=modes, side=side,
        )  # fmt: skip

    def turned(self, values: Float) -> Float:
        """Return pictures (B, N, N) turned about their diagonals."""
        made = np.empty_like(values)
        one = len(values), self.side, self.side
        self._turn(at(values, np.float32, one), into(made, np.float32, one), len(values), self.side)
        return made

    def filtered(self, probe: Complex, filters: Complex, out: Complex) -> None:
        """Write the probe (P, N, N) under each of some filters (K, N, N) to `out` (K, P, N, N). The
        filters are by frequency, zero first, and turned.
        """
        self._filter(self._spread, out, probe, filters)

    def gathered(self, waves: Complex, filters: Complex) -> Complex:
        """Return the sum of waves (K, P, N, N), each under the conjugate of its filter (K, N, N):
        the adjoint of `filtered`.
        """
        probe = aligned(waves.shape[1:])
        self._filter(self._gather, waves, probe, filters)
        return probe

    def _filter(self, work: Any, waves: Complex, probe: Complex, filters: Complex) -> None:
        few, mode = len(waves), (self.modes, self.side, self.side)
        given = _Filtering(
            into(waves, np.complex64, (few, *mode)), into(probe, np.complex64, mode),
            at(filters, np.complex64, (few, *mode[1:])), at(self._factors, np.float32),
            at(self._scratch, np.float32), self.modes, self.side, few,
        )  # fmt: skip
        work(self._team, ctypes.addressof(given))

    def __call__(
        self,
        object_: Complex,
        corner_px: Corners,
        moved: tuple[Float, Complex],
        amplitude: Float,
        share: Float,
        limits: tuple[float, float],
        *,
        ramps: bool = False,
        crowded: Bits | None = None,
        regularisation: float = 0.0,
        few: int = 0,
    ) -> tuple[float, Float | None, Witness | None]:
        """Correct an object (H, W) in place by the patterns at `corner_px` (B, 2), under probes
        that are the product of `moved`, coefficients (B, K) and waves (K, P, N, N): do what
        `illuminate`, a transform, `respond`, its inverse, `collect` and `merge` do. Return the sum
        of (A - |F|)^2 over the pixels that count; the `slow_phase.ramp_sums` (B, 5), if `ramps` are
        asked for; and what is said of the probe in its first `few` waves, where any are.

        Where it is known which patterns are `crowded` (B,), their `share` (B, N, N) is made, by
        `powers` and `shares` with this regularisation; without, it is given. Amplitudes A
        (B, N, N) are `turned`.
        """
        batch, side = len(corner_px), self.side
        one, mode = (batch, side, side), (self.modes, side, side)
        coefficients, waves = moved
        count, c = len(waves), self._given
        c.object, (c.height, c.width) = into(object_, np.complex64), object_.shape
        c.corners = at(corner_px, np.int64, (batch, 2))
        c.coefficients = at(coefficients, np.float32, (batch, count))
        c.waves = at(waves, np.complex64, (count, *mode))
        c.amplitude, c.share = at(amplitude, np.float32, one), at(share, np.float32, one)
        c.patches = into(self._patches[:batch], np.complex64, one)
        c.crowded = c.light = None
        if crowded is not None:
            if self._light.shape != object_.shape:
                self._light = np.zeros(object_.shape, np.float32)
            c.share, c.light = into(share, np.float32, one), into(self._light, np.float32)
            c.crowded = at(crowded, np.bool_, (batch,))
        sums = np.empty((batch, SUMS), np.float32) if ramps else None
        c.ramps = None if sums is None else into(sums, np.float32)
        c.density = c.shares = None
        if few:
            if not 0 < few <= count:
                raise ValueError(f'Expected at most {count} waves, not {few}')
            if self._shares.shape[1] != few:
                self._shares = aligned((self.threads, few, *mode))
            c.density, c.shares = (into(v, v.dtype.type) for v in (self._density, self._shares))
        (c.fall, c.pace), c.regularisation = limits, regularisation
        c.batch, c.count, c.few = batch, count, few
        if not self._correct(self._team, ctypes.addressof(c)):
            raise IndexError(OUTSIDE.format(side, corner_px.tolist(), object_.shape))
        said = Witness(self._shares[0], self._density[0]) if few else None
        if sums is not None:
            sums = np.ascontiguousarray(sums[:, [1, 0, 3, 2, 4]])  # y and x change places
        return float(self._errors[:batch].sum()), sums, said
