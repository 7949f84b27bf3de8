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

On a CPU every back end takes `host_step`, with its own transforms; on a GPU its own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from .beam_intensity import BeamIntensity, predicted_counts, without_beam
from .config import ReconstructionConfig
from .far_field import predict
from .geometry import Windows, windows
from .grouping import Rows, spread_batches
from .light import Light, light_of
from .looks import Looks, Run
from .position_correction import Positions, shift_slopes
from .probe_modes import orthogonal
from .result import ObjectImage, Sweep
from .scaling import amplitudes
from .scan import Complex, Float, Scan
from .slow_phase import LEAST_FOLLOWED, SlowPhase, followed, mean_ramp, plane
from .sweep_plan import (
    KEEPING_SWEEPS,
    STEADY,
    SweepPlan,
    batch_size,
    edgeless,
    following,
    held_out,
    hurried,
    little_left,
    momentum_for,
    plan_sweep,
    regularisation,
    settled,
    unsteady,
)
from .transforms import PLAIN

logger = logging.getLogger(__name__)


LEAST_SHARED = 2**18  # pixels of an object: with fewer, threads cost more than they gain
Sums = Any  # `ramp_sums` (B, 5) or `shift_sums` (B, 6), an array or what becomes one, or None
BatchStep = Callable[[int, SweepPlan], tuple[float, Sums, Sums]]


@dataclass(frozen=True, eq=False)
class Batch:
    """Which patterns go together, (B,), and where they lie: corners and shifts, (B, 2)."""

    rows: Rows
    corner_px: NDArray[np.int64]
    shift_px: Float

    def crowded(self, side: int) -> NDArray[np.bool_]:
        """Tell which windows of this side overlap another of the batch."""
        apart = np.abs(self.corner_px[:, None] - self.corner_px).max(2)
        near: NDArray[np.bool_] = (apart < side).sum(1) > 1
        return near


class Step(Protocol):
    """Corrects the object (and the probe) of a `Sweeper` by one batch after another."""

    def sweep(self, order: Rows, plan: SweepPlan) -> tuple[float, Sums, Sums]:
        """Take the batches in this order; return sum(|F| - sqrt(I))^2 and, when asked, the
        `ramp_sums` and the `shift_sums` of all their patterns, in the order of the batches'
        numbers.
        """

    def hand_over(self) -> None:
        """Bring object and probe to the sweeper."""

    def take_over(self) -> None:
        """Take object and probe from the sweeper."""

    def take_places(self) -> None:
        """Take the places of the batches, which of their patterns have light, and a of the
        denominators from the sweeper.
        """

    def take_gains(self, change: Float) -> None:
        """Multiply the amplitudes that are kept by the change (M,) of the sweeper's `gains`."""


class Sweeper:
    """The object and probe while they are refined; `sweep` takes one pass over all patterns."""

    def __init__(
        self,
        scan: Scan,
        start: ObjectImage,
        probe: Complex,
        config: ReconstructionConfig,
        make_step: Callable[[Sweeper], Step],
        light: Light,
        held: Rows | None = None,
        *,
        threads: int = 1,
        on_gpu: bool = False,
    ) -> None:
        """Leave the patterns `held` out until `use_all`; use so many threads between batches, whose
        size is one for a CPU, or for a GPU.
        """
        self.threads = threads
        self.scan, self.side = scan, scan.side_px
        self.object, self.probe = start.object.copy(), probe.copy()
        self.update_probe, self.weight = config.update_probe, start.weight
        self.rng = np.random.default_rng(config.seed)
        self.regularisation = regularisation(probe)
        self.many = config.sweeps >= KEEPING_SWEEPS
        self.size = config.sweep_batch_size or batch_size(scan, config.sweeps, light, on_gpu=on_gpu)
        self.batches = _batches(scan, self.size, held)
        self.used = len(self.batches)
        if held is not None:
            self.batches += _batches(scan, self.size, np.setdiff1d(np.arange(len(scan)), held))
        self.follow = following(light, self.size / len(scan))
        self.positions = Positions(scan) if config.correct_positions else None
        off = without_beam(scan) if config.correct_intensities else np.zeros(0, np.int64)
        self.beam = BeamIntensity(off, len(scan), edgeless(probe))
        self.gains: Float | None = None  # by which amplitudes are multiplied, (M,)
        self.slopes = probe[None]
        self.slow = self._slow_phase()
        self.power = float((np.abs(probe) ** 2).sum())
        self.last = self.object.copy()
        self.step = make_step(self)

    def sweep(self, plan: SweepPlan) -> float:
        """Visit every batch once in random order; return sum(|F| - sqrt(I))^2 / sum(I) met on the
        way. Then correct the slow phase, if planned, by the displacements met on the way.
        """
        if plan.move:
            self.slopes = shift_slopes(self.probe)
        error, ramps, moves = self.step.sweep(self.rng.permutation(self.used), plan)
        self.step.hand_over()
        if self.update_probe:
            self._fix_ambiguities()
        if plan.correct:
            with fft.set_workers(self.threads if self.object.size > LEAST_SHARED else 1):
                counts = self.scan.signal[self._rows]
                brighter = self.slow.brighter(counts, self.object) if plan.told else None
                phase = self.slow.phase(ramps, brighter)
            self.object *= np.cos(phase) + 1j * np.sin(phase)
        self.step.take_over()
        if plan.move:
            self._move_patterns(moves)
        error /= self.counts
        if plan.intensities and self.slow.tells and self.beam.asks:
            self._follow_beam()
        return error

    def close(self) -> None:
        """Let go of the step and its memory, at once: the two know each other."""
        del self.step

    def use_all(self) -> None:
        """Sweep over the held-out patterns too."""
        self.used = len(self.batches)
        self.slow = self._slow_phase()

    @property
    def counts(self) -> float:
        """The counts of the patterns in use, as a steady beam would have made them."""
        rows = self._rows
        counts = self.scan.totals[rows]
        return float((counts if self.gains is None else counts * self.gains[rows] ** 2).sum())

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

    def _follow_beam(self) -> None:
        """Scale the patterns to the beam's intensity, where it fluctuates."""
        rows, used = self._rows, self.batches[: self.used]
        places_px = np.concatenate([b.corner_px + b.shift_px for b in used])
        with fft.set_workers(self.threads if self.object.size > LEAST_SHARED else 1):
            predicted = predicted_counts(self.object, self.probe, places_px)
        present = self.beam.present.copy()
        self.beam.follow(rows, self.scan.signal[rows], predicted, self.slow)
        if (self.beam.present != present).any():
            self.step.take_places()
        gains = self.beam.gains
        if gains is not None:
            self.step.take_gains(gains if self.gains is None else gains / self.gains)
            self.gains = gains

    def by_batch(self, values: Float) -> Float:
        """Return values of the patterns, (M,), in the order of the batches, (K, B), ones where a
        batch is shorter than others.
        """
        made = np.ones((len(self.batches), max(len(b.rows) for b in self.batches)), np.float32)
        for row, batch in zip(made, self.batches, strict=True):
            row[: len(batch.rows)] = values[batch.rows]
        return made

    def _slow_phase(self) -> SlowPhase:
        corner_px = np.concatenate([b.corner_px for b in self.batches[: self.used]])
        good = (~self.scan.bad_pixels).astype(np.float32)
        return SlowPhase(corner_px, self.probe, self.scan.frame.shape, good)

    def push(self, momentum: float) -> None:
        """Push the object on by a share of its change since the last push."""
        now = self.object.copy()
        if momentum:  # in place: fresh memory takes longer than the sums
            change = np.subtract(now, self.last, out=self.last)
            change *= np.float32(momentum)
            self.object += change
            self.step.take_over()
        self.last = now

    def regularise(self, share: float) -> None:
        """Go on with another a of the denominators."""
        self.regularisation = share
        self.step.take_places()

    def replace(self, object_: Complex) -> None:
        """Go on from another object (H, W)."""
        self.object[:] = object_
        self.step.take_over()

    def amplitude(self, number: int) -> Float:
        """Return a batch's amplitudes (B, N, N), as the detector has them, of a steady beam."""
        rows = self.batches[number].rows
        found = amplitudes(self.scan.patterns(rows))
        if self.gains is not None:
            found *= self.gains[rows, None, None]
        return found

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


def batch_after_batch(step: BatchStep, order: Rows, plan: SweepPlan) -> tuple[float, Sums, Sums]:
    """Sweep as `Step.sweep` does with a step that takes one batch by its number."""
    error = 0.0
    ramps: list[Sums] = [None] * len(order)
    moves: list[Sums] = [None] * len(order)
    for number in order.tolist():
        missed, ramps[number], moves[number] = step(number, plan)
        error += missed
    return (
        error,
        np.concatenate(ramps) if plan.correct else None,
        np.concatenate(moves) if plan.move else None,
    )


def _batches(scan: Scan, size: int, held: Rows | None = None) -> list[Batch]:
    """Return batches of the patterns that are not held out."""
    place, rows = windows(scan), np.arange(len(scan))
    if held is not None:
        rows = np.setdiff1d(rows, held)
    spread = (rows[k] for k in spread_batches(scan.positions_px[rows], size))
    # From top to bottom: neighbours meet in one thread's cache. The order stays when they move.
    ordered = (k[np.argsort(place.corner_px[k, 0], kind='stable')] for k in spread)
    return [_batch(k, place) for k in ordered]


def _batch(rows: Rows, place: Windows) -> Batch:
    return Batch(rows, place.corner_px[rows], place.shift_px[rows])


def refine(
    scan: Scan,
    start: ObjectImage,
    probe: Complex,
    config: ReconstructionConfig,
    make_step: Callable[[Sweeper], Step],
    make_run: Callable[[], Run] | None = None,
    *,
    threads: int = 1,
    on_gpu: bool = False,
) -> Iterator[Sweep]:
    """Yield the state after every sweep; the network of `make_run` corrects the object where the
    plan says so. `config.held_out_stop` may end the sweeps before `config.sweeps`.
    """
    held = held_out(len(scan), config.seed) if config.held_out_stop else None
    light = light_of(scan, probe)
    sweeper = Sweeper(
        scan, start, probe, config, make_step, light, held, threads=threads, on_gpu=on_gpu
    )
    try:
        yield from _sweeps(sweeper, light, start, config, make_run, held)
    finally:
        sweeper.close()


def _sweeps(
    sweeper: Sweeper,
    light: Light,
    start: ObjectImage,
    config: ReconstructionConfig,
    make_run: Callable[[], Run] | None,
    held: Rows | None,
) -> Iterator[Sweep]:
    scan, probe = sweeper.scan, sweeper.probe.copy()
    if make_run is not None and hurried(config.sweeps, probe):
        logger.info('Few sweeps over bright patterns go without the network: more sweeps gain more')
        make_run = None
    positions, looks = sweeper.positions, Looks(make_run, scan, light)
    watched = None if held is None else scan.take(held)
    errors: list[float] = []
    losses: list[float] = []
    last, number, total, momentum = start.object, 0, config.sweeps, momentum_for(probe, light)
    slow_phase = config.slow_phase and followed(probe) > LEAST_FOLLOWED
    if config.slow_phase and not slow_phase:
        logger.info('The beam fills the window: the slow phase is left to the sweeps')
    while number < total:
        number += 1
        plan = plan_sweep(
            number, total,
            sparse=light.sparse, slow_phase=slow_phase,
            correct_positions=config.correct_positions, momentum=momentum,
            correct_intensities=config.correct_intensities,
        )  # fmt: skip
        if sweeper.regularisation < STEADY and little_left(losses, plan.damp):
            sweeper.regularise(STEADY)
        loss = sweeper.sweep(plan)
        losses.append(loss)
        if sweeper.regularisation < STEADY and unsteady(losses):
            logger.info('Sweep %d explains less than one before it: dim light is damped', number)
            sweeper.regularise(STEADY)
        found = sweeper.object.copy()
        if looks.due(plan):
            if positions is not None:
                looks.move(positions.scan, light_of(positions.scan, probe))
            found = looks.corrected(found, last, plan, loss=loss, number=number)
            sweeper.replace(found)
            losses.clear()  # what it adds is not yet what the patterns say
        last = found
        image = ObjectImage(found, start.weight, start.origin_px)
        if watched is not None:
            errors.append(predict(PLAIN, watched, image, sweeper.probe)[0])
            corrected = positions is not None or sweeper.gains is not None
            if number >= total // 2 or settled(errors, corrected=corrected):
                total, watched = min(total, 2 * number), None
                logger.info('Settling after sweep %d of %d', number, total)
                sweeper.use_all()
        where_px = scan.positions_px if positions is None else positions.px
        yield Sweep(
            number, total, image, sweeper.probe.copy(), loss, where_px,
            intensities=sweeper.beam.relative, background=scan.background,
        )  # fmt: skip
        sweeper.push(plan.momentum)
