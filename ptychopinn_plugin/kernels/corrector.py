"""Whole batches from the object to its correction in one call, correct.c; see the package."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..grouping import Rows
from ..scan import Complex, Float
from ..slow_phase import SUMS
from ..transforms import aligned
from .memory import FLOAT, INTEGER, OUTSIDE, POINTER, at, declared, into
from .plain import Bits, Corners

Orders = NDArray[np.int64]
SMALLEST_SIDE = 16
AT_ONCE = 64  # batches, before the interpreter is asked whether to go on
TURNED = [1, 0, 3, 2, 4]  # `ramp_sums` where y and x change places


class _Correction(ctypes.Structure):
    """`Correction` of correct.c."""

    _fields_ = (
        *((name, kind) for names, kind in (
            ('object', POINTER), ('height width', INTEGER),
            ('corners coefficients waves amplitude good share crowded light brightest', POINTER),
            ('ramps', POINTER), ('fall pace regularisation background', FLOAT),
            ('patches errors density shares factors scratch', POINTER),
            ('batch modes side count few', INTEGER),
        ) for name in names.split()),
    )  # fmt: skip


class _Series(ctypes.Structure):
    """`Series` of correct.c."""

    _fields_ = (
        ('corrections', POINTER), ('order', POINTER),
        ('count', INTEGER), ('ramps', INTEGER), ('shares', INTEGER),
        ('fall', FLOAT), ('pace', FLOAT), ('follow', FLOAT), ('back', POINTER), ('forth', POINTER),
    )  # fmt: skip


class _Filtering(ctypes.Structure):
    """`Filtering` of correct.c."""

    _fields_ = (
        *((name, POINTER) for name in ('waves', 'probe', 'by', 'orders', 'factors', 'scratch')),
        *((name, INTEGER) for name in ('modes', 'side', 'few', 'filters')),
    )


class Given(NamedTuple):
    """What is given of a batch: `corner_px` (B, 2), `coefficients` (B, K) of the waves of its
    probes, `amplitude` (B, N, N), `share` (B, N, N) or room for it and, to make it, which patterns
    are `crowded` (B,); see `Corrector`.
    """

    corner_px: Corners
    coefficients: Float
    amplitude: Float
    share: Float
    crowded: Bits


class Filters(NamedTuple):
    """What makes the waves (K, P, N, N) of a probe (P, N, N): filters (D, N) by frequency, zero
    first, and for each wave the numbers of those along y and along x, (K, 2).
    """

    by: Complex
    orders: Orders


class Beam(NamedTuple):
    """A probe (P, N, N) that every batch moves on, where it lies; what makes its waves; from how
    many of them its step is gathered; and which share of it is taken.
    """

    probe: Complex
    filters: Filters
    few: int
    follow: float


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
        background: float = 0.0,
    ) -> None:
        size, modes, side = shape
        self.modes, self.side, self.threads = modes, side, threads
        self._correct = declared(library.correct, INTEGER, 'pp')
        self._correct_series = declared(library.correct_series, INTEGER, 'pp')
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
        self.shares = np.empty((threads, 0, modes, side, side), np.complex64)
        self.light = np.empty((0, 0), np.float32)
        begin = declared(library.team_begin, POINTER, 'l')
        self._team = begin(threads) if threads > 1 else None
        weakref.finalize(self, _end, declared(library.team_end, None, 'p'), self._team, os.getpid())
        self._given = _Correction(
            good=None if self.good is None else at(self.good, np.float32),
            brightest=at(self._brightest, np.float32),
            factors=at(self._factors, np.float32), scratch=at(self._scratch, np.float32),
            background=background, modes=modes, side=side,
        )  # fmt: skip

    def turned(self, values: Float) -> Float:
        """Return pictures (B, N, N) turned about their diagonals."""
        made = np.empty_like(values)
        one = len(values), self.side, self.side
        self._turn(at(values, np.float32, one), into(made, np.float32, one), len(values), self.side)
        return made

    def filtered(self, probe: Complex, filters: Filters, out: Complex) -> None:
        """Write the waves of a probe (P, N, N) to `out` (K, P, N, N)."""
        given = self.filtering(out, probe, filters)
        self._spread(self._team, ctypes.addressof(given))

    def gathered(self, waves: Complex, filters: Filters) -> Complex:
        """Return the sum of waves (K, P, N, N), each under the conjugates of its filters: the
        adjoint of `filtered`. These may be the first K.
        """
        probe = aligned(waves.shape[1:])
        given = self.filtering(waves, probe, filters)
        self._gather(self._team, ctypes.addressof(given))
        return probe

    def filtering(self, waves: Complex, probe: Complex, filters: Filters) -> _Filtering:
        """Return what C is told of `filtered` and `gathered`."""
        few, mode = len(waves), (self.modes, self.side, self.side)
        number = len(filters.by)
        orders = filters.orders[:few]
        if len(orders) and not 0 <= orders.min() <= orders.max() < number:
            raise IndexError(f'Expected filters below {number}, not {orders.tolist()}')
        return _Filtering(
            into(waves, np.complex64, (few, *mode)), into(probe, np.complex64, mode),
            at(filters.by, np.complex64, (number, self.side)), at(orders, np.int64, (few, 2)),
            at(self._factors, np.float32), at(self._scratch, np.float32),
            self.modes, self.side, few, number,
        )  # fmt: skip

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
        one, count, c = (batch, side, side), len(moved[1]), self._given
        self._tell(c, object_, corner_px, moved, amplitude)
        c.object, c.share = into(object_, np.complex64), at(share, np.float32, one)
        c.patches = into(self._patches[:batch], np.complex64, one)
        c.crowded = c.light = None
        if crowded is not None:
            self._make_share(c, object_.shape, share, crowded)
        sums = np.empty((batch, SUMS), np.float32) if ramps else None
        c.ramps = None if sums is None else into(sums, np.float32)
        c.density = c.shares = None
        if few:
            self._ask_of_probe(c, count, few)
        (c.fall, c.pace), c.regularisation, c.few = limits, regularisation, few
        if not self._correct(self._team, ctypes.addressof(c)):
            raise IndexError(OUTSIDE.format(side, corner_px.tolist(), object_.shape))
        said = Witness(self.shares[0], self._density[0]) if few else None
        if sums is not None:
            sums = np.ascontiguousarray(sums[:, TURNED])
        return float(self._errors[:batch].sum()), sums, said

    def misfit(
        self, object_: Complex, corner_px: Corners, moved: tuple[Float, Complex], amplitude: Float
    ) -> float:
        """Return the sum of (A - |F|)^2 as a call does, which corrects nothing."""
        c = self._given
        self._tell(c, object_, corner_px, moved, amplitude)
        c.object = at(object_, np.complex64)
        c.patches = c.share = c.crowded = c.light = c.ramps = c.density = c.shares = None
        (c.fall, c.pace), c.regularisation, c.few = (1.0, 0.0), 0.0, 0
        if not self._correct(self._team, ctypes.addressof(c)):
            raise IndexError(OUTSIDE.format(self.side, corner_px.tolist(), object_.shape))
        return float(self._errors[: len(corner_px)].sum())

    def series(
        self,
        object_: Complex,
        waves: Complex,
        batches: Sequence[Given],
        *,
        regularisation: float = 0.0,
        beam: Beam | None = None,
    ) -> Series:
        """Return what corrects an object (H, W) in place by batches whose probes are made of the
        waves (K, P, N, N), and the probe of the `beam` with its waves. All the memory is used where
        it lies, as it is when it is used.
        """
        return Series(self, object_, waves, batches, regularisation, beam)

    def describe(
        self, c: _Correction, object_: Complex, waves: Complex, batch: Given, few: int
    ) -> None:
        """Tell all of a batch but its limits and where errors and ramps go."""
        ctypes.memmove(ctypes.addressof(c), ctypes.addressof(self._given), ctypes.sizeof(c))
        self._tell(c, object_, batch.corner_px, (batch.coefficients, waves), batch.amplitude)
        one = len(batch.corner_px), self.side, self.side
        c.object = into(object_, np.complex64)
        c.patches = into(self._patches[: one[0]], np.complex64, one)
        self._make_share(c, object_.shape, batch.share, batch.crowded)
        c.density = c.shares = None
        if few:
            self._ask_of_probe(c, len(waves), few)
        c.few = few

    def run(self, series: _Series, object_: Complex) -> None:
        """Correct by a series of batches, each described."""
        if not self._correct_series(self._team, ctypes.addressof(series)):
            raise IndexError(OUTSIDE.format(self.side, 'some place', object_.shape))

    def _make_share(
        self, c: _Correction, shape: tuple[int, ...], share: Float, crowded: Bits
    ) -> None:
        """Ask for the shares of a batch."""
        if self.light.shape != shape:
            self.light = np.zeros(shape, np.float32)
        one = len(crowded), self.side, self.side
        c.share, c.light = into(share, np.float32, one), into(self.light, np.float32)
        c.crowded = at(crowded, np.bool_, (c.batch,))

    def _ask_of_probe(self, c: _Correction, count: int, few: int) -> None:
        """Ask for what is said of the probe in its first `few` waves of `count`."""
        if not 0 < few <= count:
            raise ValueError(f'Expected at most {count} waves, not {few}')
        if self.shares.shape[1] != few:
            self.shares = aligned((self.threads, few, self.modes, self.side, self.side))
        c.density, c.shares = (into(v, v.dtype.type) for v in (self._density, self.shares))

    def _tell(
        self,
        c: _Correction,
        object_: Complex,
        corner_px: Corners,
        moved: tuple[Float, Complex],
        amplitude: Float,
    ) -> None:
        """Tell of the patterns of a batch, and where they lie."""
        (coefficients, waves), batch, side = moved, len(corner_px), self.side
        c.batch, c.count, (c.height, c.width) = batch, len(waves), object_.shape
        c.corners = at(corner_px, np.int64, (batch, 2))
        c.coefficients = at(coefficients, np.float32, (batch, len(waves)))
        c.waves = at(waves, np.complex64, (len(waves), self.modes, side, side))
        c.amplitude = at(amplitude, np.float32, (batch, side, side))
        c.errors = into(self._errors[:batch], np.float64, (batch,))


class Series:
    """Batches that are corrected one after another, without the interpreter in between: where they
    are small, it would take as long as they do. See `Corrector.series`.
    """

    def __init__(
        self,
        corrector: Corrector,
        object_: Complex,
        waves: Complex,
        batches: Sequence[Given],
        regularisation: float,
        beam: Beam | None,
    ) -> None:
        self.corrector, self._object = corrector, object_
        first = np.cumsum([0, *(len(b.corner_px) for b in batches)])
        self._first = first.tolist()
        self._errors = np.empty(first[-1])
        self._ramps = np.empty((first[-1], SUMS), np.float32)
        self._corrections = (_Correction * len(batches))()
        for c, batch, start in zip(self._corrections, batches, self._first, strict=False):
            corrector.describe(c, object_, waves, batch, beam.few if beam else 0)
            c.errors = into(self._errors[start:], np.float64)
            c.ramps = into(self._ramps[start:], np.float32)
            c.regularisation = regularisation
        # As long as C knows where they lie.
        self._kept = waves, batches, beam, corrector.light, corrector.shares
        self._back = self._forth = None
        self._follow = beam.follow if beam else 0.0
        if beam:
            said, self._step = corrector.shares[0], aligned(beam.probe.shape)
            self._back = corrector.filtering(said, self._step, beam.filters)
            self._forth = corrector.filtering(waves, beam.probe, beam.filters)

    def __call__(
        self,
        order: Rows,
        limits: tuple[float, float],
        *,
        ramps: bool = False,
        shares: bool = False,
    ) -> tuple[float, Float | None]:
        """Correct by the batches of these numbers (L,), in this order and with these limits, after
        their `shares` are made, if asked for; return what `Corrector` does of all of them, the
        ramps in the order of the numbers.
        """
        order = np.ascontiguousarray(order, np.int64)
        if len(order) and not 0 <= order.min() <= order.max() < len(self._corrections):
            raise IndexError(f'Expected numbers below {len(self._corrections)}, not {order}')
        series = _Series(ctypes.addressof(self._corrections), ramps=ramps, shares=shares)
        if self._back and self._forth:
            series.back, series.forth = (ctypes.addressof(f) for f in (self._back, self._forth))
        (series.fall, series.pace), series.follow = limits, self._follow
        for start in range(0, len(order), AT_ONCE):
            part = order[start : start + AT_ONCE]
            series.order, series.count = at(part, np.int64), len(part)
            self.corrector.run(series, self._object)
        rows = [slice(*self._first[k : k + 2]) for k in sorted(order.tolist())]
        error = sum(float(self._errors[r].sum()) for r in rows)
        if not ramps:
            return error, None
        return error, np.concatenate([self._ramps[r] for r in rows])[:, TURNED]
