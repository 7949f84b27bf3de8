"""The step of the sweeps on a CPU, for every back end; see `sweeper`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .far_field import FarField
from .grouping import Rows
from .kernels.corrector import Beam, Corrector, Given, Series
from .position_correction import shift_sums
from .scan import Complex, Float
from .sweep_plan import CACHE_BYTES, SweepPlan
from .sweeper import Sums, Sweeper, batch_after_batch
from .transforms import Transforms, aligned

LOW = 5  # degree of the series by which what patterns say of the probe is moved back
# Of all modes, for a thread and for one of the corrector's: with fewer it costs more than it gains.
LEAST_PIXELS, LEAST_FOR_WORKER = 3 * 2**14, 2**14


class Store:
    """One array (N, N) per pattern, made part by part and kept in one piece of memory: thousands of
    pieces leave as much again in the gaps.
    """

    def __init__(self, sweeper: Sweeper) -> None:
        self._first = np.cumsum([0, *(len(b.rows) for b in sweeper.batches)]).tolist()
        # Filled by one thread: where several touch new memory at once, each waits for the other.
        self._values = aligned((self._first[-1], sweeper.side, sweeper.side), np.float32)
        self._values[:] = 0
        self._made: set[tuple[int, int]] = set()

    def batch(self, number: int) -> Float:
        """Return the arrays (B, N, N) of a batch."""
        return self._values[self._first[number] : self._first[number + 1]]

    def made(self, number: int) -> None:
        """Tell that the arrays of a batch are there."""
        self._made.add((number, 0))

    def get(self, number: int, cut: slice, make: Callable[[], Float]) -> Float:
        """Return the arrays (B, N, N) of a part of a batch, which `make` makes the first time."""
        values = self.batch(number)[cut]
        if (number, cut.start) not in self._made:
            values[:] = make()
            self._made.add((number, cut.start))
        return values

    def has(self, number: int) -> bool:
        """Return whether the arrays of a batch are there."""
        return (number, 0) in self._made

    def forget(self) -> None:
        """Let everything be made anew."""
        self._made.clear()


@dataclass(eq=False)
class Part:
    """The part of a batch that one thread takes, and what it makes of it."""

    far: FarField
    slopes: FarField | None = None  # for the positions
    cut: slice = field(init=False)
    probes: Complex = field(init=False)
    power: Float = field(init=False)
    crowded: NDArray[np.bool_] = field(init=False)
    patches: Complex = field(init=False)
    error: float = field(init=False)
    ramps: Float | None = field(init=False)
    moves: Float | None = field(init=False)
    probe_shares: Complex = field(init=False)
    density: Float = field(init=False)


class HostStep:
    """A step on a CPU, in place. Several threads take a part of each batch, where that is worth
    it; nothing but the order of sums depends on their number.

    Where the kernels have a `corrector`, it takes the whole batch from the object to its
    correction; amplitudes are then turned as it has them.
    """

    def __init__(self, sweeper: Sweeper, transforms: Transforms) -> None:
        self.sweeper, self.transforms = sweeper, transforms
        largest, side = max(len(b.rows) for b in sweeper.batches), sweeper.side
        pixels, modes = largest * sweeper.probe.size, len(sweeper.probe)
        count = max(1, min(transforms.threads(), pixels // LEAST_PIXELS))
        self.far = FarField(transforms, sweeper.scan, sweeper.probe, -(-largest // count))
        self.power = aligned((largest, side, side), np.float32)
        self.corrector: Corrector | None = None
        self.series: Series | None = None
        self.beam: Beam | None = None
        if sweeper.positions is None:  # they are corrected by the field, which it does not show
            workers = max(1, min(sweeper.threads, pixels // LEAST_FOR_WORKER))
            shape = largest, modes, side
            self.corrector = self.far.kernels.corrector(
                shape, self.far.good, workers, self.far.background
            )
        self.parts: list[Part] = []
        self.threads: ThreadPoolExecutor | None = None
        if self.corrector is None:
            more = [self.far.beside(len(self.far.waves)) for _ in range(count - 1)]
            self.parts = [Part(far) for far in (self.far, *more)]
            self.threads = ThreadPoolExecutor(count - 1) if more else None
            self.light = np.zeros(sweeper.object.shape, np.float32)
        held = 8 * len(sweeper.scan) * sweeper.side**2 <= CACHE_BYTES
        self.measured = Store(sweeper) if held and sweeper.many else None
        # Of an unknown probe they are made anew where the plan says so: they change by little.
        lasting = sweeper.many or not sweeper.update_probe
        self.shares = Store(sweeper) if held and lasting else None
        self.take_places()

    def take_places(self) -> None:
        """Take the places of the batches from the sweeper, and forget what depended on them or on a
        of the denominators. A pattern without beam has a probe that is zero.
        """
        batches, lit = self.sweeper.batches, self.sweeper.beam.present.astype(np.float32)
        self.coefficients = [
            self.far.shifted.coefficients(b.shift_px) * lit[b.rows, None] for b in batches
        ]
        for part in self.parts:
            part.slopes = None
        self.series = None
        if self.shares is not None:
            self.shares.forget()

    def take_gains(self, change: Float) -> None:
        """Multiply the amplitudes that are kept by the change (M,) of the sweeper's `gains`."""
        if self.measured is not None:
            for number, batch in enumerate(self.sweeper.batches):
                self.measured.batch(number)[:] *= change[batch.rows, None, None]

    def sweep(self, order: Rows, plan: SweepPlan) -> tuple[float, Sums, Sums]:
        """Take the batches in this order; see `Step`."""
        renew = plan.renew and self.sweeper.update_probe
        if renew and self.shares is not None:
            self.shares.forget()
        if self.corrector is None or self.measured is None or self.shares is None:
            return batch_after_batch(self, order, plan)
        needed = (self.measured,) if renew else (self.measured, self.shares)
        if not all(s.has(k) for s in needed for k in order.tolist()):
            return batch_after_batch(self, order, plan)
        if self.series is None:
            self.series = self._series(self.corrector, self.measured, self.shares)
        if self.beam is not None:
            self.beam.probe[:] = self.far.shifted.signed(self.sweeper.probe)
        with self.transforms.alone():
            error, ramps = self.series(
                order, (plan.fall, plan.pace), ramps=plan.correct, shares=renew
            )
        if self.beam is not None:
            self.sweeper.probe = self.far.shifted.signed(self.beam.probe)
        if renew:
            for number in order.tolist():
                self.shares.made(number)
        return error / self.sweeper.side**2, ramps, None

    def __call__(self, number: int, plan: SweepPlan) -> tuple[float, Float | None, Float | None]:
        """Correct the object (and the probe) by one batch."""
        s, batch = self.sweeper, self.sweeper.batches[number]
        known = self.shares is not None and self.shares.has(number)
        count = len(batch.rows)
        share = self.power[:count] if self.shares is None else self.shares.batch(number)
        with self.transforms.alone():
            if self.corrector is not None:
                found = self._correct_at_once(self.corrector, number, plan, share, known)
                if self.shares is not None:
                    self.shares.made(number)
                return found
            parts = self._parts(count)
            if not known:
                self._each(parts, partial(self._illuminate, number))
                self._share_light(number, parts)
            self._each(parts, partial(self._correct, number, plan, share, known))
            if s.update_probe:
                shares, density = parts[0].probe_shares, parts[0].density
                for part in parts[1:]:
                    shares, density = shares + part.probe_shares, density + part.density
                self._step_probe(shares, density)
        for part in parts:
            self.far.kernels.merge(s.object, batch.corner_px[part.cut], part.patches)
        ramps = np.concatenate([p.ramps for p in parts]) if plan.correct else None
        moves = np.concatenate([p.moves for p in parts]) if plan.move else None
        return sum(p.error for p in parts) / s.side**2, ramps, moves

    def _correct_at_once(
        self, corrector: Corrector, number: int, plan: SweepPlan, share: Float, known: bool
    ) -> tuple[float, Float | None, None]:
        s, batch, shifted = self.sweeper, self.sweeper.batches[number], self.far.shifted
        error, ramps, said = corrector(
            s.object, batch.corner_px, (self.coefficients[number], shifted.waves),
            self._amplitude(number, slice(0, len(batch.rows))), share, (plan.fall, plan.pace),
            ramps=plan.correct, crowded=None if known else batch.crowded(s.side),
            regularisation=s.regularisation, few=shifted.few(LOW) if s.update_probe else 0,
        )  # fmt: skip
        if said is not None:
            self._step_probe(said.shares, said.density)
        return error / s.side**2, ramps, None

    def _series(self, corrector: Corrector, measured: Store, shares: Store) -> Series:
        s, shifted = self.sweeper, self.far.shifted
        given = [
            Given(batch.corner_px, self.coefficients[number], measured.batch(number),
                  shares.batch(number), batch.crowded(s.side))
            for number, batch in enumerate(s.batches)
        ]  # fmt: skip
        if s.update_probe:
            few = shifted.few(LOW)
            self.beam = Beam(aligned(s.probe.shape), shifted.filters, few, s.follow)
        return corrector.series(
            s.object, shifted.waves, given, regularisation=s.regularisation, beam=self.beam
        )

    def _amplitude(self, number: int, cut: slice) -> Float:
        """Return the amplitudes (B, N, N) of a part of a batch."""
        rows = self.sweeper.batches[number].rows[cut]

        def make() -> Float:
            found = self.far.measured(rows)
            if self.sweeper.gains is not None:
                found *= self.sweeper.gains[rows, None, None]
            return found if self.corrector is None else self.corrector.turned(found)

        return make() if self.measured is None else self.measured.get(number, cut, make)

    def _parts(self, count: int) -> list[Part]:
        parts = self.parts[: -(-count // len(self.far.waves))]
        size = -(-count // len(parts))
        for place, part in enumerate(parts):
            part.cut = slice(place * size, min(count, (place + 1) * size))
        return parts

    def _each(self, parts: list[Part], work: Callable[[Part], None]) -> None:
        """Do the same with every part, each in a thread; this one takes the first."""

        def alone(part: Part) -> None:
            with self.transforms.alone():
                work(part)

        others = [self.threads.submit(alone, p) for p in parts[1:]] if self.threads else []
        try:
            work(parts[0])
        finally:
            wait(others)
        for other in others:
            other.result()

    def _illuminate(self, number: int, part: Part) -> None:
        """Move the probes to the patterns of a part."""
        part.probes = part.far.light(self.coefficients[number][part.cut])
        part.power = self.power[part.cut]
        part.far.kernels.powers(part.probes, part.power)

    def _share_light(self, number: int, parts: list[Part]) -> None:
        """Make 1 / ((1 - a) sum_j |P_j|^2 + a max|P|^2) on the windows of a batch, of its power.

        The power is added up on a scratch canvas, whose size does not matter as it is wiped where
        it was used.
        """
        s, batch, kernels = self.sweeper, self.sweeper.batches[number], self.far.kernels
        crowded, a = batch.crowded(s.side), s.regularisation
        corner_px, power = batch.corner_px, self.power[: len(batch.rows)]
        kernels.merge(self.light, corner_px[crowded], power[crowded])
        limits = 1 - a, a * max(float(power.max()), 1e-30)  # where none of them has light
        for part in parts:
            part.crowded = crowded[part.cut]

        def share(part: Part) -> None:
            part.far.kernels.shares(
                self.light, corner_px[part.cut], part.crowded, part.power, limits
            )

        self._each(parts, share)
        for y, x in corner_px[crowded].tolist():
            self.light[y : y + s.side, x : x + s.side] = 0
        if self.shares is not None:
            self.shares.batch(number)[:] = power
            self.shares.made(number)

    def _correct(self, number: int, plan: SweepPlan, shares: Float, move: bool, part: Part) -> None:
        """Make the corrections of a part of a batch, for the object as it is; the probes are moved
        unless that was done.
        """
        s, far, batch = self.sweeper, part.far, self.sweeper.batches[number]
        corner_px, count = batch.corner_px[part.cut], part.cut.stop - part.cut.start
        if move:
            part.probes = far.light(self.coefficients[number][part.cut])
        # Transforms without a norm are faster than unitary ones; the amplitudes carry the factor N.
        wave, waves = far.field(s.object, corner_px, part.probes), far.waves[:count]
        seen = far.modulus[:count], far.miss[:count]
        part.error = far.kernels.respond(
            wave, self._amplitude(number, part.cut), far.good, (plan.fall, plan.pace), waves, seen,
            keep=plan.correct or plan.move, background=far.background,
        )  # fmt: skip
        part.ramps = far.ramps(*seen) if plan.correct else None
        part.moves = self._shift_sums(number, part, wave, *seen, plan) if plan.move else None
        change = self.transforms.ifft2(waves)
        if s.update_probe:
            self._share_probe(number, part, change)
        part.patches = far.kernels.collect(change, part.probes, shares[part.cut], waves)

    def _shift_sums(
        self, number: int, part: Part, wave: Complex, modulus: Float, miss: Float, plan: SweepPlan
    ) -> Float:
        """Return the `shift_sums` (B, 6) of a part; miss falls no deeper than the step does."""
        s, far = self.sweeper, part.far
        if part.slopes is None:
            modes = s.slopes.reshape(-1, s.side, s.side)
            part.slopes = FarField(self.transforms, s.scan, modes, len(far.waves))
        slopes, batch = part.slopes, s.batches[number]
        probes = slopes.light(slopes.shifted.coefficients(batch.shift_px[part.cut]))
        sloped = slopes.field(s.object, batch.corner_px[part.cut], probes)
        sloped = sloped.reshape(len(wave), 2, *s.probe.shape)
        fallen = np.maximum(miss, np.float32(-plan.fall) * modulus)
        return shift_sums(wave, sloped, modulus[:, 0], fallen[:, 0], far.good)

    def _share_probe(self, number: int, part: Part, change: Complex) -> None:
        """Take what the corrections of a part say of the probe modes: conj(O) times them, and
        |O|^2.
        """
        s, corner_px = self.sweeper, self.sweeper.batches[number].corner_px[part.cut]
        local = part.far.waves[: len(change)]
        part.density = part.far.kernels.witness(s.object, corner_px, change, local)
        shares = self.far.shifted.shares(self.coefficients[number][part.cut], local, LOW)
        part.probe_shares = shares.conj()

    def _step_probe(self, shares: Complex, density: Float) -> None:
        """Move the probe modes along the correction, shifted back to the probe's own place."""
        step = self.far.shifted.collected(shares, self.corrector)
        step *= np.float32(self.sweeper.follow / max(float(density.max()), 1e-12))
        self.sweeper.probe += step
        self.far.shifted.replace(self.sweeper.probe, self.corrector)

    def hand_over(self) -> None:
        """Bring object and probe to the sweeper: they are there."""

    def take_over(self) -> None:
        """Take object and probe from the sweeper: the object is shared."""
        if self.sweeper.update_probe:
            self.far.shifted.replace(self.sweeper.probe, self.corrector)
