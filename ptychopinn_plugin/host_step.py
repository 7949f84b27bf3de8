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
from .position_correction import shift_sums
from .scan import Complex, Float
from .sweep_plan import CACHE_BYTES, SweepPlan
from .sweeper import Batch, Sums, Sweeper, batch_after_batch
from .transforms import Transforms

LOW = 4  # degree of the series by which what patterns say of the probe is moved back
LEAST_PIXELS = 3 * 2**14  # of all modes, for a thread: with fewer it costs more than it gains


class Store:
    """One array (N, N) per pattern, made part by part and kept in one piece of memory: thousands of
    pieces leave as much again in the gaps.
    """

    def __init__(self, sweeper: Sweeper) -> None:
        self._first = np.cumsum([0, *(len(b.rows) for b in sweeper.batches)]).tolist()
        # Filled by one thread: where several touch new memory at once, each waits for the other.
        self._values = np.full((self._first[-1], sweeper.side, sweeper.side), 0, np.float32)
        self._made: set[tuple[int, int]] = set()

    def get(self, number: int, cut: slice, make: Callable[[], Float]) -> Float:
        """Return the arrays (B, N, N) of a part of a batch, which `make` makes the first time."""
        first = self._first[number]
        values = self._values[first + cut.start : first + cut.stop]
        if not self.has(number, cut):
            values[:] = make()
            self._made.add((number, cut.start))
        return values

    def has(self, number: int, cut: slice) -> bool:
        """Tell whether a part of a batch was made."""
        return (number, cut.start) in self._made

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
    """

    def __init__(self, sweeper: Sweeper, transforms: Transforms) -> None:
        self.sweeper, self.transforms = sweeper, transforms
        largest = max(len(b.rows) for b in sweeper.batches)
        count = max(1, min(transforms.threads(), largest * sweeper.probe.size // LEAST_PIXELS))
        self.far = FarField(transforms, sweeper.scan, sweeper.probe, -(-largest // count))
        more = [self.far.beside(len(self.far.waves)) for _ in range(count - 1)]
        self.parts = [Part(far) for far in (self.far, *more)]
        self.threads = ThreadPoolExecutor(count - 1) if more else None
        self.light = np.zeros(sweeper.object.shape, np.float32)
        # Denominators, and amplitudes for many sweeps, are kept between sweeps while they fit: to
        # fill new memory takes as long as to make amplitudes a few times.
        held = 8 * len(sweeper.scan) * sweeper.side**2 <= CACHE_BYTES
        self.measured = Store(sweeper) if held and sweeper.many else None
        self.shares = Store(sweeper) if held and not sweeper.update_probe else None
        self.take_places()

    def take_places(self) -> None:
        """Take the places of the batches from the sweeper, and forget what depended on them."""
        batches = self.sweeper.batches
        self.coefficients = [self.far.shifted.coefficients(b.shift_px) for b in batches]
        for part in self.parts:
            part.slopes = None
        if self.shares is not None:
            self.shares.forget()

    def sweep(self, order: Rows, plan: SweepPlan) -> tuple[float, Sums, Sums]:
        """Take the batches in this order; see `Step`."""
        return batch_after_batch(self, order, plan)

    def __call__(self, number: int, plan: SweepPlan) -> tuple[float, Float | None, Float | None]:
        """Correct the object (and the probe) by one batch."""
        s, batch = self.sweeper, self.sweeper.batches[number]
        parts = self._parts(len(batch.rows))
        with self.transforms.alone():
            if self.shares is not None and self.shares.has(number, parts[-1].cut):
                self._each(parts, partial(self._correct, number, plan))
            else:
                self._each(parts, partial(self._illuminate, number))
                floor = self._merge_light(batch, parts)
                self._each(parts, partial(self._correct, number, plan, floor=floor))
                self._wipe_light(batch, parts)
            if s.update_probe:
                self._step_probe(parts)
        for part in parts:
            self.far.kernels.merge(s.object, batch.corner_px[part.cut], part.patches)
        ramps = np.concatenate([p.ramps for p in parts]) if plan.correct else None
        moves = np.concatenate([p.moves for p in parts]) if plan.move else None
        return sum(p.error for p in parts) / s.side**2, ramps, moves

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
        part.power = part.far.kernels.powers(part.probes)

    def _merge_light(self, batch: Batch, parts: list[Part]) -> float:
        """Add the power up on a scratch canvas, whose size does not matter as it is wiped where it
        was used; return the floor of the denominators.
        """
        crowded = batch.crowded(self.sweeper.side)
        for part in parts:
            part.crowded = crowded[part.cut]
            corner_px = batch.corner_px[part.cut][part.crowded]
            self.far.kernels.merge(self.light, corner_px, part.power[part.crowded])
        return self.sweeper.regularisation * max(float(part.power.max()) for part in parts)

    def _wipe_light(self, batch: Batch, parts: list[Part]) -> None:
        side = self.sweeper.side
        for part in parts:
            for y, x in batch.corner_px[part.cut][part.crowded].tolist():
                self.light[y : y + side, x : x + side] = 0

    def _share(self, part: Part, corner_px: NDArray[np.int64], floor: float | None) -> Float:
        """Return 1 / ((1 - a) sum_j |P_j|^2 + a max|P|^2) on the windows of a part, (B, N, N)."""
        assert floor is not None
        limits = 1 - self.sweeper.regularisation, floor
        return part.far.kernels.shares(self.light, corner_px, part.crowded, part.power, limits)

    def _correct(
        self, number: int, plan: SweepPlan, part: Part, floor: float | None = None
    ) -> None:
        """Make the corrections of a part of a batch, for the object as it is. Without a `floor`
        the denominators are known.
        """
        s, far, batch = self.sweeper, part.far, self.sweeper.batches[number]
        rows, corner_px = batch.rows[part.cut], batch.corner_px[part.cut]
        count = len(rows)
        if floor is None:
            part.probes = far.light(self.coefficients[number][part.cut])
        # Transforms without a norm are faster than unitary ones; the amplitudes carry the factor N.
        wave = far.field(s.object, corner_px, part.probes)
        waves, modulus, miss = far.waves[:count], far.modulus[:count], far.miss[:count]
        if self.measured is None:
            amplitude = far.measured(rows)
        else:
            amplitude = self.measured.get(number, part.cut, partial(far.measured, rows))
        part.error = far.kernels.respond(
            wave, amplitude, far.good, (plan.fall, plan.pace), waves, (modulus, miss),
            keep=plan.correct or plan.move,
        )  # fmt: skip
        part.ramps = far.ramps(modulus, miss) if plan.correct else None
        part.moves = (
            self._shift_sums(number, part, wave, modulus, miss, plan) if plan.move else None
        )
        change = self.transforms.ifft2(waves)
        if s.update_probe:
            self._share_probe(number, part, change)
        share = partial(self._share, part, corner_px, floor)
        held = share() if self.shares is None else self.shares.get(number, part.cut, share)
        part.patches = far.kernels.collect(change, part.probes, held, waves)

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

    def _step_probe(self, parts: list[Part]) -> None:
        """Move the probe modes along the correction, shifted back to the probe's own place."""
        shares, density = parts[0].probe_shares, parts[0].density
        for part in parts[1:]:
            shares, density = shares + part.probe_shares, density + part.density
        step = self.far.shifted.collected(shares)
        self.sweeper.probe += step / max(float(density.max()), 1e-12)
        self.far.shifted.replace(self.sweeper.probe)

    def hand_over(self) -> None:
        """Bring object and probe to the sweeper: they are there."""

    def take_over(self) -> None:
        """Take object and probe from the sweeper: the object is shared."""
        if self.sweeper.update_probe:
            self.far.shifted.replace(self.sweeper.probe)
