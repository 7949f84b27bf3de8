"""The step of the sweeps on a GPU; see `sweeper`.

One graph goes through the batches of a sweep, so that nothing waits for a batch before the end of
it. All batches have the same size there: a shorter one is filled up with patterns without light.
What it adds to, it adds to by scatters: `assign_add` of complex numbers has no kernel for a GPU,
and int32 is calculated with on the CPU, so that indices are int64.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from ...grouping import Rows
from ...scan import Float
from ...sweep_plan import SweepPlan
from ...sweeper import Sums, Sweeper
from ...transforms import cores
from . import physics

HELD_BYTES = 3 << 29  # at most, of amplitudes and again of probes
AHEAD = 32  # batches whose amplitudes are made at a time, where not all are held


class DeviceStep:
    """A step that keeps object and probe on a device during a sweep. K batches of B patterns."""

    def __init__(self, sweeper: Sweeper) -> None:
        self.sweeper = sweeper
        self.background = float(sweeper.scan.background * sweeper.side**2)  # as the fields are
        good = ~np.fft.ifftshift(sweeper.scan.bad_pixels)
        self.good = None if good.all() else tf.constant(good.astype(np.float32))
        height, width = sweeper.object.shape
        self.object, self.probe = tf.Variable(sweeper.object.ravel()), tf.Variable(sweeper.probe)
        self.light = tf.Variable(tf.zeros(height * width))
        self.a = tf.Variable(sweeper.regularisation, dtype=tf.float32)
        self.window = physics.window(sweeper.side, width)
        count, size = len(sweeper.batches), max(len(b.rows) for b in sweeper.batches)
        self.first = tf.Variable(tf.zeros([count, size], tf.int64))
        self.shift_px = tf.Variable(tf.zeros([count, size, 2]))
        self.present = tf.Variable(tf.zeros([count, size, 1, 1, 1], tf.complex64))
        shape = size, *sweeper.probe.shape
        self.amplitude_shape = size, 1, *shape[2:]
        self.slopes = tf.Variable(tf.zeros([2 * shape[1], *shape[2:]], tf.complex64))
        held = 16 * count * np.prod(shape) <= HELD_BYTES and not sweeper.update_probe
        self.lights = tf.function(self._lights) if held else None
        self.probes: tf.Variable | None = None
        self.backs: tf.Variable | None = None
        self.amplitudes: tf.Tensor | None = None
        if 4 * count * np.prod(self.amplitude_shape) <= HELD_BYTES:
            self.amplitudes = self._made(np.arange(count))
        signature = [
            *(tf.TensorSpec([None], tf.int64),) * 2,
            tf.TensorSpec([None, *self.amplitude_shape], tf.float32),
            *(tf.TensorSpec([], tf.float32),) * 2,
            *(tf.TensorSpec([], tf.bool),) * 2,
        ]
        self.graph = tf.function(self._batches, input_signature=signature)
        self.take_places()

    def _made(self, numbers: Rows) -> tf.Tensor:
        """Return amplitudes times N (n, B, 1, N, N) of batches, the zero frequency first, zero on
        bad pixels and where a batch is filled up.
        """
        made = np.zeros((len(numbers), *self.amplitude_shape), np.float32)
        scale = np.fft.ifftshift(~self.sweeper.scan.bad_pixels) * np.float32(self.sweeper.side)

        def make(at: int) -> None:
            found = np.fft.ifftshift(self.sweeper.amplitude(int(numbers[at])), axes=(-2, -1))
            np.multiply(found, scale, out=made[at, : len(found), 0])

        with ThreadPoolExecutor(cores()) as pool:
            list(pool.map(make, range(len(numbers))))
        return tf.constant(made)

    def take_places(self) -> None:
        """Take the places of the batches and a from the sweeper, and what depends on them."""
        self.a.assign(self.sweeper.regularisation)
        width = self.sweeper.object.shape[1]
        first, shift_px, present = (
            np.zeros(v.shape, v.dtype.as_numpy_dtype)
            for v in (self.first, self.shift_px, self.present)
        )
        for number, batch in enumerate(self.sweeper.batches):
            rows = slice(0, len(batch.rows))
            first[number, rows] = batch.corner_px[:, 0] * width + batch.corner_px[:, 1]
            shift_px[number, rows] = batch.shift_px
            present[number, rows, 0, 0, 0] = self.sweeper.beam.present[batch.rows]
        self.first.assign(first)
        self.shift_px.assign(shift_px)
        self.present.assign(present)
        if self.lights is None:
            return
        made = self.lights()
        if self.probes is None or self.backs is None:
            self.probes, self.backs = (tf.Variable(m) for m in made)
        else:
            self.probes.assign(made[0])
            self.backs.assign(made[1])

    def take_gains(self, change: Float) -> None:
        """Multiply the amplitudes that are kept by the change (M,) of the sweeper's `gains`."""
        if self.amplitudes is not None:
            factors = tf.constant(self.sweeper.by_batch(change))
            self.amplitudes *= factors[:, :, None, None, None]

    def sweep(self, order: Rows, plan: SweepPlan) -> tuple[float, Sums, Sums]:
        """Take the batches in this order; see `sweeper.Step`."""
        if plan.move:
            self.slopes.assign(self.sweeper.slopes.reshape(self.slopes.shape))
        missed = 0.0
        ramps, moves = (np.zeros((len(order), len(self.first[0]), n), np.float32) for n in (5, 6))
        for part, slots, amplitudes in self._parts(order):
            error, *sums = self.graph(
                part, slots, amplitudes, plan.pace, plan.fall, plan.correct, plan.move
            )
            ramps[part], moves[part] = (s.numpy() for s in sums)
            missed += float(error)
        return (
            missed / self.sweeper.side**2,
            self._of_patterns(ramps) if plan.correct else None,
            self._of_patterns(moves) if plan.move else None,
        )

    def _parts(self, order: Rows) -> Iterator[tuple[Rows, Rows, tf.Tensor]]:
        """Yield the numbers of batches to be taken at a time, which of the amplitudes are theirs,
        and those.
        """
        if self.amplitudes is not None:
            yield order, order, self.amplitudes
            return
        for start in range(0, len(order), AHEAD):
            part = order[start : start + AHEAD]
            yield part, np.arange(len(part)), self._made(part)

    def _of_patterns(self, sums: Float) -> Float:
        """Return the sums of the patterns of the first batches, without those that fill up."""
        pairs = zip(sums, self.sweeper.batches, strict=False)
        return np.concatenate([s[: len(b.rows)] for s, b in pairs])

    def _batches(
        self,
        numbers: tf.Tensor,
        slots: tf.Tensor,
        amplitudes: tf.Tensor,
        pace: tf.Tensor,
        fall: tf.Tensor,
        correct: tf.Tensor,
        move: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Correct the object (and the probe) by batches one after another; return the squares that
        they missed, and their ramp and shift sums, (n, B, 5) and (n, B, 6), or zeros.
        """
        count, size = tf.size(numbers), self.amplitude_shape[0]

        def one(
            at: tf.Tensor, missed: tf.Tensor, ramps: tf.TensorArray, moves: tf.TensorArray
        ) -> tuple[tf.Tensor, tf.Tensor, tf.TensorArray, tf.TensorArray]:
            amplitude = tf.gather(amplitudes, slots[at])
            more, ramp, shift = self._step(numbers[at], amplitude, pace, fall, correct, move)
            return (
                at + 1,
                missed + tf.cast(more, tf.float64),
                ramps.write(at, ramp),
                moves.write(at, shift),
            )

        sums = (tf.TensorArray(tf.float32, count, element_shape=[size, n]) for n in (5, 6))
        _, missed, ramps, moves = tf.while_loop(
            lambda at, *_: at < count,
            one,
            (tf.constant(0), tf.constant(0.0, tf.float64), *sums),
            parallel_iterations=1,
        )
        return missed, ramps.stack(), moves.stack()

    def _step(
        self,
        number: tf.Tensor,
        amplitude: tf.Tensor,
        pace: tf.Tensor,
        fall: tf.Tensor,
        correct: tf.Tensor,
        move: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        index, shift_px, present = self._places(number)
        if self.probes is None:
            probes, back = self._lighting(index, shift_px, present)
        else:
            probes, back = tf.gather(self.probes, number), tf.gather(self.backs, number)
        size, _, side, _ = self.amplitude_shape
        patches = tf.reshape(tf.gather(self.object, index), [size, side, side])
        field = tf.signal.fft2d(physics.illuminate(patches, probes))
        modulus = physics.modulus(field, self.background)
        miss = amplitude - modulus
        if self.good is not None:
            miss *= self.good
        ramps = tf.cond(
            correct,
            lambda: physics.centred_ramp_sums(modulus[:, 0], miss[:, 0], self.good),
            lambda: tf.zeros([size, 5]),
        )
        moves = tf.cond(
            move,
            lambda: self._shift_sums(shift_px, patches, field, modulus, miss, fall),
            lambda: tf.zeros([size, 6]),
        )
        gain = pace * tf.maximum(miss / (modulus + 1e-6), -fall)
        change = tf.signal.ifft2d(field * tf.cast(gain, tf.complex64))
        if self.sweeper.update_probe:
            self._step_probe(shift_px, present, patches, change)
        merged = tf.reduce_sum(change * back, 1)
        self.object.scatter_nd_add(index[:, None], tf.reshape(merged, [-1]))
        return tf.reduce_sum(tf.square(miss)), ramps, moves

    def _places(self, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return the flat pixels, the shifts and the presence of the patterns of a batch."""
        first, shift_px, present = (
            tf.gather(v, number) for v in (self.first, self.shift_px, self.present)
        )
        return tf.reshape(first[:, None, None] + self.window, [-1]), shift_px, present

    def _shift_sums(
        self,
        shift_px: tf.Tensor,
        patches: tf.Tensor,
        field: tf.Tensor,
        modulus: tf.Tensor,
        miss: tf.Tensor,
        fall: tf.Tensor,
    ) -> tf.Tensor:
        """Return the `shift_sums` (B, 6) of a batch; miss falls no deeper than the step does."""
        sloped = physics.illuminate(patches, physics.shift_probe(self.slopes, shift_px))
        size, _, side, _ = self.amplitude_shape
        sloped = tf.reshape(tf.signal.fft2d(sloped), [size, 2, -1, side, side])
        fallen = tf.maximum(miss, -fall * modulus)[:, 0]
        return physics.shift_sums(field, sloped, modulus[:, 0], fallen, self.good)

    def _lights(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the lighting of every batch, both (K, B, P, N, N)."""
        count, shape = len(self.first), (self.amplitude_shape[0], *self.probe.shape)

        def one(
            at: tf.Tensor, probes: tf.TensorArray, backs: tf.TensorArray
        ) -> tuple[tf.Tensor, tf.TensorArray, tf.TensorArray]:
            probe, back = self._lighting(*self._places(at))
            return at + 1, probes.write(at, probe), backs.write(at, back)

        room = (tf.TensorArray(tf.complex64, count, element_shape=shape) for _ in range(2))
        _, probes, backs = tf.while_loop(
            lambda at, *_: at < count, one, (tf.constant(0), *room), parallel_iterations=1
        )
        return probes.stack(), backs.stack()

    def _lighting(
        self, index: tf.Tensor, shift_px: tf.Tensor, present: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return a batch's shifted probes and conj(probes) / denominator, both (B, P, N, N)."""
        probes = physics.shift_probe(self.probe, shift_px) * present
        power = physics.intensity(probes)
        # On a scratch canvas, wiped where it was used: the work does not grow with the object.
        self.light.scatter_nd_add(index[:, None], tf.reshape(power, [-1]))
        total = tf.reshape(tf.gather(self.light, index), tf.shape(power))
        self.light.scatter_nd_update(index[:, None], tf.zeros_like(index, tf.float32))
        most = tf.maximum(tf.reduce_max(power), 1e-30)  # where none of them has light
        denominator = (1 - self.a) * total + self.a * most
        return probes, tf.math.conj(probes) * tf.cast(1 / denominator, tf.complex64)[:, None]

    def _step_probe(
        self, shift_px: tf.Tensor, present: tf.Tensor, patches: tf.Tensor, change: tf.Tensor
    ) -> None:
        """Move the probe modes along the correction, shifted back to the probe's own place."""
        phase = physics.shift_phase(shift_px, patches.shape[-1])[:, None]
        local = tf.signal.fft2d(tf.math.conj(patches)[:, None] * change)
        step = tf.signal.ifft2d(tf.reduce_sum(local * tf.math.conj(phase), 0))
        there = patches * present[:, 0]
        density = tf.reduce_sum(physics.intensity(there[:, None]), 0)
        floor = tf.maximum(tf.reduce_max(density), 1e-12)
        share = self.sweeper.follow / floor
        self.probe.assign(self.probe + step * tf.cast(share, tf.complex64))

    def hand_over(self) -> None:
        """Bring object and probe to the sweeper."""
        self.sweeper.object = self.object.numpy().reshape(self.sweeper.object.shape)
        self.sweeper.probe = self.probe.numpy()

    def take_over(self) -> None:
        """Take object and probe from the sweeper."""
        self.object.assign(self.sweeper.object.ravel())
        self.probe.assign(self.sweeper.probe)
