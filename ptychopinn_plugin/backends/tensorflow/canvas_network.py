"""The network of `canvas_plan` as a TensorFlow module: maps of the canvas in, what is missing out.

Channels are last inside, as TensorFlow wants them on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from ...canvas_plan import OUTPUT_SHARE, CanvasPlan, canvas_plan
from ...plan import Conv
from ...scan import Float
from ..base import Model
from .weights import import_weights


class CanvasNetwork(tf.Module):
    """(B, INPUTS, h, w) -> (B, OUTPUTS, h, w), h and w multiples of 4. Weights are to be filled
    in.
    """

    def __init__(self) -> None:
        super().__init__()
        self.plan: CanvasPlan = canvas_plan()
        self.kernels = {
            c.name: tf.Variable(tf.zeros([c.size, c.size, c.inputs, c.outputs]))
            for c in self.plan.convolutions()
        }
        self.biases = {c.name: tf.Variable(tf.zeros([c.outputs])) for c in self.plan.convolutions()}

    @property
    def weights(self) -> list[tf.Variable]:
        """Every kernel and bias, in canonical order."""
        return [v for c in self.plan.convolutions()
                for v in (self.kernels[c.name], self.biases[c.name])]  # fmt: skip

    def __call__(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the answer."""
        plan = self.plan
        x = tf.nn.relu(self._convolve(tf.transpose(inputs, [0, 2, 3, 1]), plan.first))
        skips = []
        for across, down in zip(plan.across, plan.down, strict=False):
            x = self._residual(x, across)
            skips.append(x)
            x = tf.nn.relu(self._convolve(fold(x), down))
        for across in plan.across[len(plan.down) :]:
            x = self._residual(x, across)
        for up, back in zip(reversed(plan.up), reversed(plan.back), strict=True):
            x = unfold(self._convolve(x, up)) + skips.pop()
            x = self._residual(x, back)
        return tf.transpose(self._convolve(x * OUTPUT_SHARE, plan.last), [0, 3, 1, 2])

    def _residual(self, x: tf.Tensor, conv: Conv) -> tf.Tensor:
        return x + tf.nn.relu(self._convolve(x, conv))

    def _convolve(self, x: tf.Tensor, conv: Conv) -> tf.Tensor:
        made = tf.nn.conv2d(x, self.kernels[conv.name], 1, 'SAME')
        return tf.nn.bias_add(made, self.biases[conv.name])


def fold(x: tf.Tensor) -> tf.Tensor:
    """Make channels (channel, row, column) of 2 x 2 pixels: (B, h, w, C) -> (B, h/2, w/2, 4 C)."""
    _, height, width, channels = _shape(x)
    cut = tf.reshape(x, [-1, height // 2, 2, width // 2, 2, channels])
    return tf.reshape(
        tf.transpose(cut, [0, 1, 3, 5, 2, 4]), [-1, height // 2, width // 2, 4 * channels]
    )


def unfold(x: tf.Tensor) -> tf.Tensor:
    """Undo `fold`."""
    _, height, width, channels = _shape(x)
    cut = tf.reshape(x, [-1, height, width, channels // 4, 2, 2])
    return tf.reshape(
        tf.transpose(cut, [0, 1, 4, 2, 5, 3]), [-1, 2 * height, 2 * width, channels // 4]
    )


def runner(model: Model) -> Callable[[Float], Float]:
    """Return what `Canvas.corrected` asks for its answers."""
    network = CanvasNetwork()
    import_weights(network, model.weights)

    def run(inputs: Float) -> Float:
        answer: Float = network(tf.constant(inputs[None]))[0].numpy()
        return np.ascontiguousarray(answer)

    return run


def _shape(x: tf.Tensor) -> list[int | tf.Tensor]:
    """Return the sizes that are known as numbers, the others as tensors."""
    dynamic = tf.shape(x)
    return [dynamic[i] if n is None else n for i, n in enumerate(x.shape)]
