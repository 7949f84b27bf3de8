"""Physics sweeps on the object: batched regularised PIE over batches of patterns that lie far
apart.

Each step compares the predicted far-field amplitudes of a batch with the measured ones and merges
the correction onto the object,

    O += sum_j conj(P_j) F^-1{ (sqrt(I_j) / |F_j| - 1) F_j } / ((1 - a) sum_j |P_j|^2 + a max|P|^2),

with P_j the probe moved to position j (rPIE, doi:10.1364/OPTICA.4.000736), times the pace of
`sweep_plan`, which also chooses a, the momentum between sweeps and the batches.
The patterns of a batch are spread over the object, so that a batch steps nearly as far as one
pattern at a time would, and the batches stay the same in every sweep, so that the shifted probes
and the denominators are computed once. The order of the batches is drawn anew for every sweep.
Between sweeps the slowly varying phase is corrected; see `slow_phase`. A network corrects the
object where the plan says so; see `canvas`. So are positions; see `position_correction`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ...canvas import Canvas
from ...config import ReconstructionConfig
from ...geometry import windows
from ...grouping import spread_batches
from ...position_correction import Positions, shift_slopes, shift_sums
from ...probe_modes import orthogonal
from ...result import ObjectImage, Sweep
from ...scaling import amplitudes
from ...scan import Complex, Float, Scan
from ...slow_phase import SlowPhase, mean_ramp, plane, ramp_sums
from ...sweep_plan import CACHE_BYTES, SweepPlan, batch_size, plan_sweep, regularisation
from ..base import Model
from . import memory, physics
from .canvas_network import runner


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's constants: corners, shifts (B, 2), amplitudes times N (B, 1, N, N), zero first."""

    corner_px: NDArray[np.int32]
    shift_px: Float
    amplitude: Float

    @cached_property
    def corners(self) -> list[tuple[int, int]]:
        """The corners as plain numbers."""
        return [(y, x) for y, x in self.corner_px.tolist()]


class Sweeper:
    """The object and probe while they are refined; `sweep` takes one pass over all patterns.

    On a GPU a step is one graph, on a CPU it works in place; see `memory`.
    """

    def __init__(
        self,
        scan: Scan,
        start: ObjectImage,
        probe: Complex,
        config: ReconstructionConfig,
        *,
        on_gpu: bool = False,
    ) -> None:
        self.object = start.object.copy()
        self.probe = probe.copy()
        self.update_probe, self.weight = config.update_probe, start.weight
        self.rng = np.random.default_rng(config.seed)
        good = ~np.fft.ifftshift(scan.bad_pixels)
        self.good = None if good.all() else good.astype(np.float32)
        self.total_counts = float(scan.totals.sum())
        self.regularisation = regularisation(probe)
        self.size = config.sweep_batch_size or batch_size(scan)
        self.batches = _batches(scan, self.size)
        self.side = probe.shape[-1]
        self.power = float((np.abs(probe) ** 2).sum())
        held = 16 * len(scan) * probe.size
        self.cache: dict[int, tuple[Any, Any]] | None = (
            {} if held <= CACHE_BYTES and not self.update_probe else None
        )
        self.step = DeviceStep(self) if on_gpu else HostStep(self)
        corner_px = np.concatenate([b.corner_px for b in self.batches])
        self.slow = SlowPhase(corner_px, probe, scan.frame.shape)
        self.last = self.object.copy()
        self.positions: Positions | None = None
        if config.correct_positions:
            self.positions = Positions(scan, spread_batches(scan.positions_px, self.size))
        self.slopes = self.probe[None]

    def sweep(self, plan: SweepPlan) -> float:
        """Visit every batch once in random order; return sum(|F| - sqrt(I))^2 / sum(I) met on the
        way. Then correct the slow phase, if planned, by the displacements met on the way.
        """
        error = 0.0
        ramps: list[Any] = [None] * len(self.batches)
        moves: list[Any] = [None] * len(self.batches)
        if plan.move:
            self.slopes = shift_slopes(self.probe).reshape(-1, self.side, self.side)
        for number in self.rng.permutation(len(self.batches)):
            batch, lit = self.batches[number], self._lit(int(number))
            missed, ramps[number], moves[number] = self.step(batch, *lit, plan)
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
        return error / self.total_counts

    def push(self, momentum: float) -> None:
        """Push the object on by a share of its change since the last push."""
        now = self.object.copy()
        if momentum:
            self.replace(now + np.float32(momentum) * (now - self.last))
        self.last = now

    def replace(self, object_: Complex) -> None:
        """Go on from another object (H, W)."""
        self.object = object_.copy()
        self.step.take_over()

    def _lit(self, number: int) -> tuple[Any, Any]:
        """Return a batch's shifted probes and conj(probes) / denominator, both (B, P, N, N)."""
        if self.cache is not None and number in self.cache:
            return self.cache[number]
        lit = self.step.lighting(self.batches[number])
        if self.cache is not None:
            self.cache[number] = lit
        return lit

    def _move_patterns(self, sums: Float) -> None:
        """Correct the positions, and what depends on them."""
        assert self.positions is not None
        self.positions.correct(sums)
        place = self.positions.windows
        for number, rows in enumerate(self.positions.batches):
            self.batches[number] = replace(
                self.batches[number],
                corner_px=place.corner_px[rows].astype(np.int32), shift_px=place.shift_px[rows],
            )  # fmt: skip
        if self.cache is not None:
            self.cache.clear()
        self.slow.move(place.corner_px[np.concatenate(self.positions.batches)])

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
        self.step.take_over()


class HostStep:
    """A step on a CPU, in place."""

    def __init__(self, sweeper: Sweeper) -> None:
        self.sweeper = sweeper
        shape = (sweeper.size, *sweeper.probe.shape)
        self.waves = memory.aligned(shape)
        self.patches = memory.aligned((shape[0], *shape[2:]))
        self.light = np.zeros(sweeper.object.shape, np.float32)

    def __call__(
        self, batch: Batch, probes: Complex, back: Complex, plan: SweepPlan
    ) -> tuple[float, Float | None, Float | None]:
        """Correct the object (and the probe) by one batch; return sum(|F| - sqrt(I))^2 and, when
        asked, the `ramp_sums` and the `shift_sums`.
        """
        s, corners = self.sweeper, batch.corners
        patches = memory.extract(s.object, corners, self.patches[: len(corners)])
        waves = self.waves[: len(corners)]
        np.multiply(patches[:, None], probes, out=waves)
        # Transforms without a norm are faster than unitary ones; the amplitudes carry the factor N.
        field = memory.fft2(waves)
        modulus = memory.modulus(field)
        miss = batch.amplitude - modulus
        if s.good is not None:
            miss *= s.good
        flat = miss.reshape(-1)
        error: float = float(np.dot(flat, flat)) / s.side**2
        ramps = ramp_sums(modulus[:, 0], miss[:, 0], s.good) if plan.correct else None
        moves = self._shift_sums(batch, patches, field, modulus, miss, plan) if plan.move else None
        modulus += 1e-6
        np.divide(miss, modulus, out=miss)
        np.maximum(miss, np.float32(-plan.fall), out=miss)
        miss *= np.float32(plan.pace)
        np.multiply(field, miss, out=waves)
        change = memory.ifft2(waves)
        if s.update_probe:
            step, floor = _probe_step(batch.shift_px, tf.constant(patches), change)
            s.probe += memory.view(step) / float(floor)
        np.multiply(change, back, out=waves)
        memory.merge(s.object, corners, waves[:, 0] if waves.shape[1] == 1 else waves.sum(1))
        return error, ramps, moves

    def _shift_sums(
        self,
        batch: Batch,
        patches: Complex,
        field: Complex,
        modulus: Float,
        miss: Float,
        plan: SweepPlan,
    ) -> Float:
        """Return the `shift_sums` (B, 6) of a batch; miss falls no deeper than the step does."""
        s = self.sweeper
        slopes = memory.shift_probe(s.slopes, batch.shift_px)
        waves = memory.aligned(slopes.shape)
        np.multiply(patches[:, None], slopes, out=waves)
        sloped = memory.fft2(waves).reshape(len(patches), 2, *s.probe.shape)
        fallen = np.maximum(miss, np.float32(-plan.fall) * modulus)
        return shift_sums(field, sloped, modulus[:, 0], fallen[:, 0], s.good)

    def lighting(self, batch: Batch) -> tuple[Complex, Complex]:
        """Return a batch's shifted probes and conj(probes) / denominator, both (B, P, N, N)."""
        probes = memory.shift_probe(self.sweeper.probe, batch.shift_px)
        power = memory.intensity(probes)
        # On a scratch canvas, wiped where it was used: the work does not grow with the object.
        memory.merge(self.light, batch.corners, power)
        total = memory.extract(self.light, batch.corners, np.empty_like(power))
        side = self.sweeper.side
        for y, x in batch.corners:
            self.light[y : y + side, x : x + side] = 0
        a = self.sweeper.regularisation
        denominator = (1 - a) * total + a * power.max()
        return probes, probes.conj() / denominator[:, None]

    def hand_over(self) -> None:
        """Bring object and probe to the sweeper: they are there."""

    def take_over(self) -> None:
        """Take object and probe from the sweeper: they are shared."""


class DeviceStep:
    """A step on a GPU: one graph, with object and probe kept there during a sweep."""

    def __init__(self, sweeper: Sweeper) -> None:
        self.sweeper = sweeper
        self.object, self.probe = tf.Variable(sweeper.object), tf.Variable(sweeper.probe)
        field = tf.TensorSpec([None, *sweeper.probe.shape], tf.complex64)
        amplitude = tf.TensorSpec([None, 1, sweeper.side, sweeper.side], tf.float32)
        where = tf.TensorSpec([None, 2], tf.int32), tf.TensorSpec([None, 2], tf.float32)
        pace = tf.TensorSpec([2], tf.float32)
        self.graph = tf.function(
            self._step, input_signature=[*where, amplitude, field, field, pace]
        )
        self.lights = tf.function(self._lighting, input_signature=where)
        slopes = tf.TensorSpec([2 * len(sweeper.probe), *sweeper.probe.shape[1:]], tf.complex64)
        self.shifts = tf.function(
            self._shift_sums,
            input_signature=[*where, amplitude, field, slopes, tf.TensorSpec([], tf.float32)],
        )

    def __call__(
        self, batch: Batch, probes: tf.Tensor, back: tf.Tensor, plan: SweepPlan
    ) -> tuple[float, tf.Tensor, tf.Tensor | None]:
        """Correct the object (and the probe) by one batch; return sum(|F| - sqrt(I))^2, the
        `ramp_sums`, which cost nothing here, and, when asked, the `shift_sums`.
        """
        moves = None
        if plan.move:
            moves = self.shifts(
                batch.corner_px, batch.shift_px, batch.amplitude, probes, self.sweeper.slopes,
                np.float32(plan.fall),
            )  # fmt: skip
        pace = np.array([plan.pace, plan.fall], np.float32)
        error, ramps = self.graph(
            batch.corner_px, batch.shift_px, batch.amplitude, probes, back, pace
        )
        return float(error), ramps, moves

    def _step(
        self,
        corner_px: tf.Tensor,
        shift_px: tf.Tensor,
        amplitude: tf.Tensor,
        probes: tf.Tensor,
        back: tf.Tensor,
        pace: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        s = self.sweeper
        patches = physics.extract(self.object, corner_px, s.side)
        field = tf.signal.fft2d(physics.illuminate(patches, probes))
        modulus = tf.sqrt(physics.intensity(field))[:, None]
        miss = amplitude - modulus
        if s.good is not None:
            miss *= s.good
        gain = pace[0] * tf.maximum(miss / (modulus + 1e-6), -pace[1])
        change = tf.signal.ifft2d(field * tf.complex(gain, tf.zeros_like(gain)))
        if s.update_probe:
            step, floor = _probe_step(shift_px, patches, change)
            self.probe.assign_add(step / tf.complex(floor, tf.zeros_like(floor)))
        merged = tf.reduce_sum(change * back, 1)
        self.object.assign_add(physics.merge(merged, corner_px, s.object.shape))
        error = tf.reduce_sum(tf.square(miss)) / s.side**2
        return error, physics.ramp_sums(modulus[:, 0], miss[:, 0], s.good)

    def _shift_sums(
        self,
        corner_px: tf.Tensor,
        shift_px: tf.Tensor,
        amplitude: tf.Tensor,
        probes: tf.Tensor,
        slopes: tf.Tensor,
        fall: tf.Tensor,
    ) -> tf.Tensor:
        s = self.sweeper
        patches = physics.extract(self.object, corner_px, s.side)
        field = tf.signal.fft2d(physics.illuminate(patches, probes))
        modulus = tf.sqrt(physics.intensity(field))
        sloped = physics.illuminate(patches, physics.shift_probe(slopes, shift_px))
        sloped = tf.reshape(tf.signal.fft2d(sloped), [-1, 2, *s.probe.shape])
        miss = amplitude[:, 0] - modulus
        if s.good is not None:
            miss *= s.good
        miss = tf.maximum(miss, -fall * modulus)
        return physics.shift_sums(field, sloped, modulus, miss, s.good)

    def lighting(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Return a batch's shifted probes and conj(probes) / denominator, both (B, P, N, N)."""
        lit: tuple[tf.Tensor, tf.Tensor] = self.lights(batch.corner_px, batch.shift_px)
        return lit

    def _lighting(self, corner_px: tf.Tensor, shift_px: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        s = self.sweeper
        probes = physics.shift_probe(self.probe, shift_px)
        power = physics.intensity(probes)
        # Only the pixels that some patch covers get a place: the work does not grow with the
        # object.
        covered, place = tf.unique(physics.pixels(corner_px, s.side, s.object.shape[1]))
        light = tf.math.unsorted_segment_sum(tf.reshape(power, [-1]), place, tf.size(covered))
        total = tf.reshape(tf.gather(light, place), tf.shape(power))
        denominator = (1 - s.regularisation) * total + s.regularisation * tf.reduce_max(power)
        below = tf.complex(denominator, tf.zeros_like(denominator))[:, None]
        return probes, tf.math.conj(probes) / below

    def hand_over(self) -> None:
        """Bring object and probe to the sweeper."""
        self.sweeper.object, self.sweeper.probe = self.object.numpy(), self.probe.numpy()

    def take_over(self) -> None:
        """Take object and probe from the sweeper."""
        self.object.assign(self.sweeper.object)
        self.probe.assign(self.sweeper.probe)


@tf.function(reduce_retracing=True)
def _probe_step(
    shift_px: tf.Tensor, patches: tf.Tensor, change: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the correction of the probe modes (P, N, N), shifted back to the probe's own place,
    and what it is divided by.
    """
    phase = physics.shift_phase(shift_px, patches.shape[-1])[:, None]
    local = tf.signal.fft2d(tf.math.conj(patches)[:, None] * change)
    step = tf.signal.ifft2d(tf.reduce_sum(local * tf.math.conj(phase), 0))
    density = tf.reduce_sum(physics.intensity(patches[:, None]), 0)
    return step, tf.maximum(tf.reduce_max(density), 1e-12)


def _batches(scan: Scan, size: int) -> list[Batch]:
    place = windows(scan)
    good = ~scan.bad_pixels
    batches = []
    for rows in spread_batches(scan.positions_px, size):
        amplitude = np.fft.ifftshift(amplitudes(scan.counts[rows]) * good, axes=(-2, -1))
        batches.append(
            Batch(
                place.corner_px[rows].astype(np.int32),
                place.shift_px[rows],
                amplitude[:, None] * np.float32(scan.side_px),
            )
        )
    return batches


def refine(
    scan: Scan,
    start: ObjectImage,
    probe: Complex,
    config: ReconstructionConfig,
    network: Model | None = None,
    *,
    on_gpu: bool = False,
) -> Iterator[Sweep]:
    """Yield the state after each of `config.sweeps` sweeps."""
    sweeper = Sweeper(scan, start, probe, config, on_gpu=on_gpu)
    positions = sweeper.positions
    corrector = None
    if network is not None:
        run = runner(network)
        corrector = partial(Canvas(scan, probe).corrected, run)
    last = start.object
    for number in range(1, config.sweeps + 1):
        plan = plan_sweep(
            number, config.sweeps,
            slow_phase=config.slow_phase, correct_positions=config.correct_positions,
        )  # fmt: skip
        loss = sweeper.sweep(plan)
        found = sweeper.object.copy()
        if corrector is not None and plan.network:
            if positions is not None:
                corrector = partial(Canvas(positions.scan, probe).corrected, run)
            found = corrector(
                found, last, loss=loss, pace=plan.pace, number=number, share=plan.network
            )
            sweeper.replace(found)
        last = found
        image = ObjectImage(found, start.weight, start.origin_px)
        yield Sweep(
            number, config.sweeps, image, sweeper.probe.copy(), loss,
            scan.positions_px if positions is None else positions.px,
        )  # fmt: skip
        sweeper.push(plan.momentum)
