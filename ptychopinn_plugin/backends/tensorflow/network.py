"""The networks of `plan` as TensorFlow modules: patterns in, complex object patches out.

Input (B, C, N, N) normalised amplitudes, zero frequency at [N // 2, N // 2]; output (B, C, N, N)
complex64 patches whose centre is (N - 1) / 2. Channels are last inside, as TensorFlow wants them on
a CPU. Plain operations: Keras would add a second to every start and changes nothing.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from ...plan import Conv, Decoder, Plan


class Autoencoder(tf.Module):
    """PtychoPINN as published, for any even N; see `plan`. Weights are to be filled in."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.kernels = {
            c.name: tf.Variable(tf.zeros([3, 3, c.inputs, c.outputs])) for c in plan.convolutions()
        }
        self.biases = {c.name: tf.Variable(tf.zeros([c.outputs])) for c in plan.convolutions()}

    @property
    def weights(self) -> list[tf.Variable]:
        """Every kernel and bias, in canonical order."""
        return [v for c in self.plan.convolutions()
                for v in (self.kernels[c.name], self.biases[c.name])]  # fmt: skip

    def __call__(self, amplitudes: tf.Tensor) -> tf.Tensor:
        """Return complex patches (B, C, N, N) for normalised amplitudes (B, C, N, N)."""
        x = pad(tf.transpose(amplitudes, [0, 2, 3, 1]), self.plan.padded_px - self.plan.side_px)
        for stage in self.plan.encoder:
            x = tf.nn.max_pool2d(self._stage(x, stage), 2, 2, 'VALID')
        amplitude = tf.sigmoid(self._decode(x, self.plan.decoders['amplitude']))
        phase = math.pi * tf.tanh(self._decode(x, self.plan.decoders['phase']))
        patches = tf.complex(amplitude * tf.cos(phase), amplitude * tf.sin(phase))
        return tf.transpose(patches, [0, 3, 1, 2])

    def _stage(self, x: tf.Tensor, stage: tuple[Conv, Conv]) -> tf.Tensor:
        for conv in stage:
            x = tf.nn.relu(self._convolve(x, conv))
        return x

    def _convolve(self, x: tf.Tensor, conv: Conv) -> tf.Tensor:
        made = tf.nn.conv2d(x, self.kernels[conv.name], 1, 'SAME')
        return tf.nn.bias_add(made, self.biases[conv.name])

    def _decode(self, x: tf.Tensor, decoder: Decoder) -> tf.Tensor:
        """Return the pre-activation map (B, N, N, C): the fine centre inside the coarse outer
        frame.
        """
        for stage in decoder.stages:
            x = upsample(self._stage(x, stage))
        side, centre = self.plan.side_px, self.plan.central_px
        fine = crop(self._convolve(x[..., : decoder.head.inputs], decoder.head), centre)
        fine = pad(fine, side - centre)
        if decoder.frame is None:
            return fine
        coarse = self._convolve(x[..., decoder.head.inputs :], decoder.frame)
        return fine + crop(upsample(coarse), side) * self._frame_mask()

    def _frame_mask(self) -> tf.Tensor:
        """Return 1 outside the central square, 0 inside, (N, N, 1)."""
        margin = (self.plan.side_px - self.plan.central_px) // 2
        mask = np.ones((self.plan.side_px, self.plan.side_px, 1), np.float32)
        mask[margin:-margin, margin:-margin] = 0
        return tf.constant(mask)


def upsample(x: tf.Tensor) -> tf.Tensor:
    """Return (B, h, w, C) with every pixel twice in each direction, (B, 2h, 2w, C)."""
    return tf.raw_ops.ResizeNearestNeighbor(
        images=x, size=[2 * x.shape[1], 2 * x.shape[2]], half_pixel_centers=False
    )


def crop(x: tf.Tensor, side: int) -> tf.Tensor:
    """Return the central side x side of the two middle axes."""
    margin = (x.shape[1] - side) // 2
    return x[:, margin : margin + side, margin : margin + side]


def pad(x: tf.Tensor, more_px: int) -> tf.Tensor:
    """Return (B, h, w, C) with zeros around, `more_px` larger in both directions."""
    margin = more_px // 2
    return tf.pad(x, [[0, 0], [margin] * 2, [margin] * 2, [0, 0]]) if margin else x
