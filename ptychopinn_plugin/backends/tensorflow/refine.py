"""Physics sweeps with TensorFlow: its transforms on a CPU, the whole step on a GPU; `sweeper`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import tensorflow as tf

from ... import sweeper
from ...config import ReconstructionConfig
from ...grouping import Rows
from ...host_step import HostStep
from ...result import ObjectImage, Sweep
from ...scan import Complex, Float, Scan
from ...sweep_plan import CACHE_BYTES, SweepPlan
from ...sweeper import Step, Sums, Sweeper, batch_after_batch, kept
from ...transforms import cores
from ..base import Model
from . import physics
from .canvas_network import runner
from .memory import TRANSFORMS


class DeviceStep:
    """A step on a GPU: one graph, with object and probe kept there during a sweep."""

    def __init__(self, sweeper: Sweeper) -> None:
        self.sweeper = sweeper
        good = ~np.fft.ifftshift(sweeper.scan.bad_pixels)
        self.good = None if good.all() else good.astype(np.float32)
        self.object, self.probe = tf.Variable(sweeper.object), tf.Variable(sweeper.probe)
        self.a = tf.Variable(sweeper.regularisation, dtype=tf.float32)
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
        pixels = len(sweeper.scan) * sweeper.side**2
        self.measured: dict[int, Float] | None = {} if 4 * pixels <= CACHE_BYTES else None
        held = 16 * pixels * len(sweeper.probe) <= CACHE_BYTES and not sweeper.update_probe
        self.lit: dict[int, tuple[tf.Tensor, tf.Tensor]] | None = {} if held else None

    def sweep(self, order: Rows, plan: SweepPlan) -> tuple[float, Sums, Sums]:
        """Take the batches in this order; see `sweeper.Step`."""
        return batch_after_batch(self._take, order, plan)

    def _take(self, number: int, plan: SweepPlan) -> tuple[float, tf.Tensor, tf.Tensor | None]:
        """Correct the object (and the probe) by one batch. The `ramp_sums` cost nothing here."""
        batch = self.sweeper.batches[number]
        corner_px = batch.corner_px.astype(np.int32)
        amplitude = kept(self.measured, number, partial(self._amplitude, number))
        probes, back = kept(self.lit, number, partial(self.lights, corner_px, batch.shift_px))
        moves = None
        if plan.move:
            moves = self.shifts(
                corner_px, batch.shift_px, amplitude, probes,
                self.sweeper.slopes.reshape(-1, *self.sweeper.probe.shape[1:]),
                np.float32(plan.fall),
            )  # fmt: skip
        pace = np.array([plan.pace, plan.fall], np.float32)
        error, ramps = self.graph(corner_px, batch.shift_px, amplitude, probes, back, pace)
        return float(error), ramps, moves

    def _amplitude(self, number: int) -> Float:
        """Return amplitudes times N (B, 1, N, N), the zero frequency first, zero on bad pixels."""
        found = self.sweeper.amplitude(number) * ~self.sweeper.scan.bad_pixels
        first: Float = np.fft.ifftshift(found, axes=(-2, -1))[:, None]
        return first * np.float32(self.sweeper.side)

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
        if self.good is not None:
            miss *= self.good
        gain = pace[0] * tf.maximum(miss / (modulus + 1e-6), -pace[1])
        change = tf.signal.ifft2d(field * tf.complex(gain, tf.zeros_like(gain)))
        if s.update_probe:
            step, floor = _probe_step(shift_px, patches, change)
            self.probe.assign_add(step / tf.complex(floor, tf.zeros_like(floor)))
        merged = tf.reduce_sum(change * back, 1)
        self.object.assign_add(physics.merge(merged, corner_px, s.object.shape))
        error = tf.reduce_sum(tf.square(miss)) / s.side**2
        return error, physics.centred_ramp_sums(modulus[:, 0], miss[:, 0], self.good)

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
        if self.good is not None:
            miss *= self.good
        miss = tf.maximum(miss, -fall * modulus)
        return physics.shift_sums(field, sloped, modulus, miss, self.good)

    def _lighting(self, corner_px: tf.Tensor, shift_px: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        s = self.sweeper
        probes = physics.shift_probe(self.probe, shift_px)
        power = physics.intensity(probes)
        # Only the pixels that some patch covers get a place: the work does not grow with the
        # object.
        covered, place = tf.unique(physics.pixels(corner_px, s.side, s.object.shape[1]))
        light = tf.math.unsorted_segment_sum(tf.reshape(power, [-1]), place, tf.size(covered))
        total = tf.reshape(tf.gather(light, place), tf.shape(power))
        denominator = (1 - self.a) * total + self.a * tf.reduce_max(power)
        below = tf.complex(denominator, tf.zeros_like(denominator))[:, None]
        return probes, tf.math.conj(probes) / below

    def take_places(self) -> None:
        """Take a from the sweeper, and forget what depended on it or on the places of batches."""
        self.a.assign(self.sweeper.regularisation)
        if self.lit is not None:
            self.lit.clear()

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

    def make_step(made: Sweeper) -> Step:
        return DeviceStep(made) if on_gpu else HostStep(made, TRANSFORMS)

    make_run = None if network is None else partial(runner, network)
    threads = tf.config.threading.get_intra_op_parallelism_threads() or cores()
    yield from sweeper.refine(
        scan, start, probe, config, make_step, make_run, threads=threads, on_gpu=on_gpu
    )
