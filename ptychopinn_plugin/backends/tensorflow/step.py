"""One training step: losses of patches on a common canvas, gradients, Adam."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from ... import canvas_training
from ...batching import Batch
from ...canvas_plan import INPUTS, OUTPUTS
from ...config import ModelConfig, TrainingConfig
from ...network_weights import initial_weights
from ...plan import plan
from . import physics
from .canvas_network import CanvasNetwork
from .losses import LOSSES, patch_loss
from .network import Autoencoder
from .weights import import_weights

LIGHT_FLOOR = 1e-3  # of the brightest pixel: keeps unlit parts of a patch on the canvas defined
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7


class NetworkModule(tf.Module):
    """A network and its optimizer: Adam as PyTorch writes it, epsilon is added after the bias is
    corrected, unlike in Keras.

    `spec` says what `_loss` takes; None where a number may change between batches and scans: one
    trace serves them all.
    """

    def __init__(
        self,
        network: Autoencoder | CanvasNetwork,
        model: ModelConfig,
        training: TrainingConfig,
        spec: list[tf.TensorSpec],
    ) -> None:
        super().__init__()
        self.network = network
        import_weights(network, initial_weights(model, training.seed))
        self.clip = training.gradient_clip
        self.first = [tf.Variable(tf.zeros_like(w)) for w in network.weights]
        self.second = [tf.Variable(tf.zeros_like(w)) for w in network.weights]
        self.steps = tf.Variable(0.0)
        self.loss = tf.function(self._loss, input_signature=spec)
        self.train = tf.function(
            self._train, input_signature=[*spec, tf.TensorSpec([], tf.float32, 'rate')]
        )

    def arguments(self, batch: Any) -> list[np.ndarray]:
        """Return the arrays that `loss` takes; `train` takes the learning rate besides."""
        raise NotImplementedError

    def _loss(self, *arguments: tf.Tensor) -> tf.Tensor:
        """Return the mean loss of a batch."""
        raise NotImplementedError

    def _train(self, *arguments: tf.Tensor) -> tf.Tensor:
        """Take one step with the learning rate that comes last; return the loss before it."""
        with tf.GradientTape() as tape:
            loss = self._loss(*arguments[:-1])
        gradients = tape.gradient(loss, self.network.weights)
        if self.clip:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip)
        self._adam(gradients, arguments[-1])
        return loss

    def _adam(self, gradients: list[tf.Tensor], rate: tf.Tensor) -> None:
        self.steps.assign_add(1.0)
        correct_1 = 1 - tf.pow(BETA_1, self.steps)
        correct_2 = tf.sqrt(1 - tf.pow(BETA_2, self.steps))
        weights = self.network.weights
        for weight, g, m, v in zip(weights, gradients, self.first, self.second, strict=True):
            m.assign(BETA_1 * m + (1 - BETA_1) * g)
            v.assign(BETA_2 * v + (1 - BETA_2) * tf.square(g))
            weight.assign_sub(rate / correct_1 * m / (tf.sqrt(v) / correct_2 + EPSILON))


class PatchModule(NetworkModule):
    """A patch network, trained by counts (pinn) or known objects (supervised)."""

    def __init__(self, model: ModelConfig, training: TrainingConfig) -> None:
        self.mode, self.count_loss = model.mode, LOSSES[training.loss]
        side, channels = model.pattern_size_px, model.gridsize**2
        spec = [
            tf.TensorSpec([None, channels, side, side], tf.float32, 'inputs'),
            tf.TensorSpec([None, side, side], tf.float32, 'counts'),
            tf.TensorSpec([None, 2], tf.int64, 'corner_px'),
            tf.TensorSpec([None, 2], tf.float32, 'shift_px'),
            tf.TensorSpec([None, side, side], tf.complex64, 'probe'),
            tf.TensorSpec([side, side], tf.float32, 'good'),
            tf.TensorSpec([None, None], tf.complex64, 'truth'),
        ]
        super().__init__(Autoencoder(plan(model)), model, training, spec)

    def arguments(self, batch: Batch) -> list[np.ndarray]:
        """Return inputs, counts, corners, shifts, probe, good pixels and truth."""
        made = batch.source
        truth = np.zeros((1, 1), np.complex64) if made.truth is None else made.truth
        return [
            batch.inputs, batch.counts, batch.corner_px, batch.shift_px,
            made.probe, made.good, truth,
        ]  # fmt: skip

    def _loss(
        self,
        inputs: tf.Tensor,
        counts: tf.Tensor,
        corner_px: tf.Tensor,
        shift_px: tf.Tensor,
        probe: tf.Tensor,
        good: tf.Tensor,
        truth: tf.Tensor,
    ) -> tf.Tensor:
        """Return the mean loss of a batch."""
        side = inputs.shape[-1]
        patches = tf.reshape(self.network(inputs), [-1, side, side])
        probes = physics.shift_probe(probe, shift_px)
        light = physics.intensity(probes)
        if self.mode == 'supervised':
            return patch_loss(patches, physics.extract(truth, corner_px, side), light)
        expected = physics.diffract(on_one_canvas(patches, light, corner_px), probes)
        return self.count_loss(expected, counts, good)


class CanvasModule(NetworkModule):
    """The network of the canvas, trained to find what is missing of the object."""

    def __init__(self, model: ModelConfig, training: TrainingConfig) -> None:
        spec = [
            tf.TensorSpec([None, n, None, None], tf.float32, name)
            for n, name in ((INPUTS, 'inputs'), (OUTPUTS, 'missing'), (OUTPUTS, 'trust'))
        ]
        super().__init__(CanvasNetwork(), model, training, spec)

    def arguments(self, batch: canvas_training.Batch) -> list[np.ndarray]:
        """Return inputs, what is missing, and how much it counts."""
        return [batch.inputs, batch.missing, batch.trust]

    def _loss(self, inputs: tf.Tensor, missing: tf.Tensor, trust: tf.Tensor) -> tf.Tensor:
        """Return the mean logarithm of the mean square that is left over that of no answer."""
        left = _mean_square(self.network(inputs) - missing, trust)
        before = _mean_square(missing, trust)
        floor = canvas_training.FLOOR
        return tf.reduce_mean(tf.math.log((left + floor) / (before + floor)))


def _mean_square(maps: tf.Tensor, trust: tf.Tensor) -> tf.Tensor:
    """Return the mean square of each crop, (B,)."""
    total = tf.reduce_sum(tf.square(maps) * trust, [1, 2, 3])
    return total / tf.maximum(tf.reduce_sum(trust, [1, 2, 3]), 1)


def on_one_canvas(patches: tf.Tensor, light: tf.Tensor, corner_px: tf.Tensor) -> tf.Tensor:
    """Merge overlapping patches (B, N, N), weighted by their light, and cut them out again.

    What comes back is one object seen through every window: the overlap constraint, whatever the
    batch.
    """
    width = tf.reduce_max(corner_px[:, 1]) + patches.shape[-1]
    # Only the pixels that some patch covers get a place: the canvas of a few patches of a large
    # scan stays small.
    covered, index = tf.unique(physics.pixels(corner_px, patches.shape[-1], width))
    count = tf.size(covered)
    weight = tf.reshape(light + LIGHT_FLOOR * tf.reduce_max(light), [-1])
    weighted = tf.reshape(patches, [-1]) * tf.complex(weight, tf.zeros_like(weight))
    total = tf.math.unsorted_segment_sum(weight, index, count)
    canvas = tf.math.unsorted_segment_sum(weighted, index, count)
    canvas = canvas / tf.complex(total, tf.zeros_like(total))
    return tf.reshape(tf.gather(canvas, index), tf.shape(patches))
