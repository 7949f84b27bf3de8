"""Physics sweeps on the object: batched regularised PIE over batches of patterns that lie far
apart.

Each step compares the predicted far-field amplitudes of a batch with the measured ones and merges
the correction onto the object,

    O += sum_j conj(P_j) F^-1{ (sqrt(I_j) / |F_j| - 1) F_j } / ((1 - a) sum_j |P_j|^2 + a max|P|^2),

with P_j the probe moved to position j (rPIE, doi:10.1364/OPTICA.4.000736), times the pace of
`sweep_plan`, which also chooses a, the momentum between sweeps and the batches.
The patterns of a batch are spread over the object, so that a batch steps nearly as far as one
pattern at a time would, and the batches stay the same in every sweep, so that amplitudes and
denominators are computed once. The order of the batches is drawn anew for every sweep.
Between sweeps the slowly varying phase is corrected; see `slow_phase`. A network corrects the
object where the plan says so; see `canvas`. So are positions; see `position_correction`.

On a CPU every back end takes the step here, `HostStep`, with its own transforms; on a GPU its own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import compress
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .canvas import Canvas
from .config import ReconstructionConfig
from .far_field import Corners, FarField, corners_of, merge, predict
from .geometry import Windows, windows
from .grouping import Rows, spread_batches
from .position_correction import Positions, shift_slopes, shift_sums
from .probe_modes import orthogonal
from .result import ObjectImage, Sweep
from .scaling import amplitudes
from .scan import Complex, Float, Scan
from .slow_phase import SlowPhase, mean_ramp, plane
from .sweep_plan import (
    CACHE_BYTES,
    SweepPlan,
    batch_size,
    held_out,
    plan_sweep,
    regularisation,
    settled,
)
from .transforms import PLAIN, Transforms

logger = logging.getLogger(__name__)

LOW = 4  # degree of the series by which what patterns say of the probe is moved back
LEAST_PIXELS = 2**16  # of all modes, for a thread: with fewer it costs more than it gains

Sums = Any  # `ramp_sums` (B, 5) or `shift_sums` (B, 6), an array or what becomes one, or None


@dataclass(frozen=True, eq=False)
class Batch:
    """Which patterns go together, (B,), and where they lie: corners and shifts, (B, 2)."""

    rows: Rows
    corner_px: NDArray[np.int64]
    shift_px: Float

    @cached_property
    def corners(self) -> list[tuple[int, int]]:
        """The corners as plain numbers."""
        return corners_of(self.corner_px)

    def crowded(self, side: int) -> list[bool]:
        """Tell which windows of this side overlap another of the batch."""
        apart = np.abs(self.corner_px[:, None] - self.corner_px).max(2)
        near: list[bool] = ((apart < side).sum(1) > 1).tolist()
        return near


class Step(Protocol):
    """Corrects the object (and the probe) of a `Sweeper` by one batch."""

    def __call__(self, number: int, plan: SweepPlan) -> tuple[float, Sums, Sums]:
        """Take batch `number`; return sum(|F| - sqrt(I))^2 and, when asked, the `ramp_sums` and the
        `shift_sums`.
        """

    def hand_over(self) -> None:
        """Bring object and probe to the sweeper."""

    def take_over(self) -> None:
        """Take object and probe from the sweeper."""

    def take_places(self) -> None:
        """Take the places of the batches from the sweeper."""


class Sweeper:
    """The object and probe while they are refined; `sweep` takes one pass over all patterns."""

    def __init__(
        self,
        scan: Scan,
        start: ObjectImage,
        probe: Complex,
        config: ReconstructionConfig,
        make_step: Callable[[Sweeper], Step],
        held: Rows | None = None,
    ) -> None:
        """Leave the patterns `held` out until `use_all`."""
        self.scan, self.side = scan, scan.side_px
        self.object, self.probe = start.object.copy(), probe.copy()
        self.update_probe, self.weight = config.update_probe, start.weight
        self.rng = np.random.default_rng(config.seed)
        self.regularisation = regularisation(probe)
        self.size = config.sweep_batch_size or batch_size(scan)
        self.batches = _batches(scan, self.size, held)
        self.used = len(self.batches)
        if held is not None:
            self.batches += _batches(scan, self.size, np.setdiff1d(np.arange(len(scan)), held))
        self.positions = Positions(scan) if config.correct_positions else None
        self.slopes = probe[None]
        self.slow = self._slow_phase()
        self.power = float((np.abs(probe) ** 2).sum())
        self.last = self.object.copy()
        self.step = make_step(self)

    def sweep(self, plan: SweepPlan) -> float:
        """Visit every batch once in random order; return sum(|F| - sqrt(I))^2 / sum(I) met on the
        way. Then correct the slow phase, if planned, by the displacements met on the way.
        """
        error = 0.0
        ramps: list[Sums] = [None] * self.used
        moves: list[Sums] = [None] * self.used
        if plan.move:
            self.slopes = shift_slopes(self.probe)
        for number in self.rng.permutation(self.used):
            missed, ramps[number], moves[number] = self.step(int(number), plan)
            error += missed
        self.step.hand_over()
        if self.update_probe:
            self._fix_ambiguities()
        if plan.correct:
            phase = self.slow.phase(np.concatenate(ramps))
            self.object *= np.cos(phase) + 1j * np.sin(phase)
        self.step.take_over()
        if plan.move:
            self._move_patterns(np.concatenate(moves))
        return error / self.counts

    def use_all(self) -> None:
        """Sweep over the held-out patterns too."""
        self.used = len(self.batches)
        self.slow = self._slow_phase()

    @property
    def counts(self) -> float:
        """The counts of the patterns in use."""
        return float(self.scan.totals[self._rows].sum())

    @property
    def _rows(self) -> Rows:
        return np.concatenate([b.rows for b in self.batches[: self.used]])

    def _move_patterns(self, sums: Float) -> None:
        """Correct the positions, and what depends on them."""
        assert self.positions is not None
        ordered = np.zeros((len(self.scan), sums.shape[1]), sums.dtype)
        ordered[self._rows] = sums
        self.positions.correct(ordered)
        place = self.positions.windows
        self.batches = [_batch(b.rows, place) for b in self.batches]
        self.slow.move(place.corner_px[self._rows])
        self.step.take_places()

    def _slow_phase(self) -> SlowPhase:
        corner_px = np.concatenate([b.corner_px for b in self.batches[: self.used]])
        return SlowPhase(corner_px, self.probe, self.scan.frame.shape)

    def push(self, momentum: float) -> None:
        """Push the object on by a share of its change since the last push."""
        now = self.object.copy()
        if momentum:
            self.replace(now + np.float32(momentum) * (now - self.last))
        self.last = now

    def replace(self, object_: Complex) -> None:
        """Go on from another object (H, W)."""
        self.object[:] = object_
        self.step.take_over()

    def amplitude(self, number: int) -> Float:
        """Return a batch's amplitudes times N (B, 1, N, N), the zero frequency first; zero on bad
        pixels.
        """
        found = amplitudes(self.scan.patterns(self.batches[number].rows)) * ~self.scan.bad_pixels
        made: Float = np.fft.ifftshift(found, axes=(-2, -1))[:, None] * np.float32(self.side)
        return made

    def _fix_ambiguities(self) -> None:
        """Keep the probe's power, its modes orthogonal, and the object without a phase ramp: what
        the data cannot tell goes to the other of the two.
        """
        if len(self.probe) > 1:
            self.probe = orthogonal(self.probe)
        gain = math.sqrt(self.power / float((np.abs(self.probe) ** 2).sum()))
        y, x = mean_ramp(self.object, self.weight)
        self.probe *= np.float32(gain) * plane((self.side, self.side), (y, x))
        turn = plane(self.weight.shape, (-y, -x)) / np.float32(gain)
        self.object *= turn
        self.last *= turn


T = TypeVar('T')


def kept(store: dict[int, T] | None, number: int, make: Callable[[], T]) -> T:
    """Return what `make` makes for a batch; it is made once where there is a store."""
    if store is None:
        return make()
    if number not in store:
        store[number] = make()
    return store[number]


class Store:
    """One array (N, N) per pattern, made part by part and kept in one piece of memory: thousands of
    pieces leave as much again in the gaps.
    """

    def __init__(self, sweeper: Sweeper) -> None:
        self._first = np.cumsum([0, *(len(b.rows) for b in sweeper.batches)]).tolist()
        self._values = np.empty((self._first[-1], sweeper.side, sweeper.side), np.float32)
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
    crowded: list[bool] = field(init=False)
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
        # Amplitudes and denominators are kept between sweeps while they fit.
        held = 8 * len(sweeper.scan) * sweeper.side**2 <= CACHE_BYTES
        self.measured = Store(sweeper) if held else None
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

    def __call__(self, number: int, plan: SweepPlan) -> tuple[float, Float | None, Float | None]:
        """Correct the object (and the probe) by one batch; see `Step`."""
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
            merge(s.object, batch.corners[part.cut], part.patches)
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
        part.power = (part.probes.real**2 + part.probes.imag**2).sum(1)

    def _merge_light(self, batch: Batch, parts: list[Part]) -> float:
        """Add the power up on a scratch canvas, whose size does not matter as it is wiped where it
        was used; return the floor of the denominators.
        """
        crowded = batch.crowded(self.sweeper.side)
        for part in parts:
            part.crowded = crowded[part.cut]
            corners = list(compress(batch.corners[part.cut], part.crowded))
            merge(self.light, corners, part.power[part.crowded])
        return self.sweeper.regularisation * max(float(part.power.max()) for part in parts)

    def _wipe_light(self, batch: Batch, parts: list[Part]) -> None:
        side = self.sweeper.side
        for part in parts:
            for y, x in compress(batch.corners[part.cut], part.crowded):
                self.light[y : y + side, x : x + side] = 0

    def _share(self, part: Part, corners: Corners, floor: float | None) -> Float:
        """Return 1 / ((1 - a) sum_j |P_j|^2 + a max|P|^2) on the windows of a part, (B, N, N)."""
        assert floor is not None
        share, side = part.power, self.sweeper.side  # the power itself where a window is alone
        for patch, (y, x) in compress(zip(share, corners, strict=True), part.crowded):
            patch[:] = self.light[y : y + side, x : x + side]
        share *= np.float32(1 - self.sweeper.regularisation)
        share += np.float32(floor)
        return np.reciprocal(share, out=share)

    def _correct(
        self, number: int, plan: SweepPlan, part: Part, floor: float | None = None
    ) -> None:
        """Make the corrections of a part of a batch, for the object as it is. Without a `floor`
        the denominators are known.
        """
        s, far, batch = self.sweeper, part.far, self.sweeper.batches[number]
        rows, corners = batch.rows[part.cut], batch.corners[part.cut]
        if floor is None:
            part.probes = far.light(self.coefficients[number][part.cut])
        # Transforms without a norm are faster than unitary ones; the amplitudes carry the factor N.
        wave = far.field(s.object, corners, part.probes)
        modulus = far.moduli(wave)
        if self.measured is None:
            miss = far.measured(rows)[:, None]
            miss -= modulus
        else:
            amplitude = self.measured.get(number, part.cut, partial(far.measured, rows))
            miss = np.subtract(amplitude[:, None], modulus, out=far.miss[: len(rows)])
        if far.good is not None:
            miss *= far.good
        flat = miss.reshape(len(miss), -1)
        part.error = float(np.einsum('bp,bp->b', flat, flat).sum(dtype=np.float64))
        part.ramps = far.ramps(modulus, miss) if plan.correct else None
        part.moves = (
            self._shift_sums(number, part, wave, modulus, miss, plan) if plan.move else None
        )
        modulus += np.float32(1e-6)
        miss /= modulus
        if plan.fall < 1:
            np.maximum(miss, np.float32(-plan.fall), out=miss)
        if plan.pace < 1:
            miss *= np.float32(plan.pace)
        waves = far.waves[: len(rows)]
        np.multiply(wave, miss, out=waves)
        change = self.transforms.ifft2(waves)
        if s.update_probe:
            self._share_probe(number, part, change)
        np.conj(part.probes, out=waves)
        waves *= change
        part.patches = waves[:, 0] if waves.shape[1] == 1 else waves.sum(1)
        share = partial(self._share, part, corners, floor)
        part.patches *= share() if self.shares is None else self.shares.get(number, part.cut, share)

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
        sloped = slopes.field(s.object, batch.corners[part.cut], probes)
        sloped = sloped.reshape(len(wave), 2, *s.probe.shape)
        fallen = np.maximum(miss, np.float32(-plan.fall) * modulus)
        return shift_sums(wave, sloped, modulus[:, 0], fallen[:, 0], far.good)

    def _share_probe(self, number: int, part: Part, change: Complex) -> None:
        """Take what the corrections of a part say of the probe modes: conj(O) times them, and
        |O|^2.
        """
        s, corners = self.sweeper, self.sweeper.batches[number].corners[part.cut]
        side, local = s.side, part.far.waves[: len(change)]
        numbers = s.object.view(np.float32)
        square = np.empty((side, 2 * side), np.float32)
        density = np.zeros_like(square)
        np.conj(change, out=local)  # and back again when there are few
        for waves, (y, x) in zip(local, corners, strict=True):
            waves *= s.object[y : y + side, x : x + side]
            patch = numbers[y : y + side, 2 * x : 2 * (x + side)]
            density += np.multiply(patch, patch, out=square)
        shares = self.far.shifted.shares(self.coefficients[number][part.cut], local, LOW)
        part.probe_shares = shares.conj()
        part.density = density[:, 0::2] + density[:, 1::2]

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


def _batches(scan: Scan, size: int, held: Rows | None = None) -> list[Batch]:
    """Return batches of the patterns that are not held out."""
    place, rows = windows(scan), np.arange(len(scan))
    if held is not None:
        rows = np.setdiff1d(rows, held)
    spread = (rows[k] for k in spread_batches(scan.positions_px[rows], size))
    return [_batch(k, place) for k in spread]


def _batch(rows: Rows, place: Windows) -> Batch:
    return Batch(rows, place.corner_px[rows], place.shift_px[rows])


def refine(
    scan: Scan,
    start: ObjectImage,
    probe: Complex,
    config: ReconstructionConfig,
    make_step: Callable[[Sweeper], Step],
    run: Callable[[Float], Float] | None = None,
) -> Iterator[Sweep]:
    """Yield the state after every sweep; a network `run` corrects the object where the plan says
    so. `config.held_out_stop` may end the sweeps before `config.sweeps`.
    """
    held = held_out(len(scan), config.seed) if config.held_out_stop else None
    sweeper = Sweeper(scan, start, probe, config, make_step, held)
    positions, canvas = sweeper.positions, None if run is None else Canvas(scan, probe)
    watched = None if held is None else scan.take(held)
    errors: list[float] = []
    last, number, total = start.object, 0, config.sweeps
    while number < total:
        number += 1
        plan = plan_sweep(
            number, total,
            slow_phase=config.slow_phase, correct_positions=config.correct_positions,
        )  # fmt: skip
        loss = sweeper.sweep(plan)
        found = sweeper.object.copy()
        if canvas and run and plan.network and (canvas.sparse or number == total):
            if positions is not None:
                canvas = Canvas(positions.scan, probe)
            found = canvas.corrected(
                run, found, last, loss=loss, pace=plan.pace, number=number, share=plan.network
            )
            sweeper.replace(found)
        last = found
        image = ObjectImage(found, start.weight, start.origin_px)
        if watched is not None:
            errors.append(predict(PLAIN, watched, image, sweeper.probe)[0])
            if number >= total // 2 or settled(errors):
                total, watched = min(total, 2 * number), None
                logger.info('Settling after sweep %d of %d', number, total)
                sweeper.use_all()
        where_px = scan.positions_px if positions is None else positions.px
        yield Sweep(number, total, image, sweeper.probe.copy(), loss, where_px)
        sweeper.push(plan.momentum)
