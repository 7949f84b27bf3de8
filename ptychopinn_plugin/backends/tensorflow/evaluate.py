"""How well an object and a probe explain the patterns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from ...geometry import windows
from ...result import ObjectImage
from ...scaling import amplitudes
from ...scan import Complex, Float, Scan
from . import physics

BATCH = 64


def predict(scan: Scan, image: ObjectImage, probe: Complex) -> tuple[float, Callable[[int], Float]]:
    """Return sum(|F| - sqrt(I))^2 / sum(I) over good pixels, and a function that predicts the
    pattern of a row.
    """
    place = windows(scan, image.frame)
    corner = place.corner_px.astype(np.int32)
    object_, modes = tf.constant(image.object), tf.constant(probe)
    good = tf.constant((~scan.bad_pixels).astype(np.float32))
    side = scan.side_px
    one_trace = [tf.TensorSpec([None, 2], tf.int32), tf.TensorSpec([None, 2], tf.float32)]

    @tf.function(input_signature=one_trace)
    def patterns(corner_px: tf.Tensor, shift_px: tf.Tensor) -> tf.Tensor:
        patches = physics.extract(object_, corner_px, side)
        return physics.diffract(patches, physics.shift_probe(modes, shift_px))

    @tf.function(input_signature=[*one_trace, tf.TensorSpec([None, side, side], tf.float32)])
    def miss(corner_px: tf.Tensor, shift_px: tf.Tensor, measured: tf.Tensor) -> tf.Tensor:
        predicted = tf.sqrt(patterns(corner_px, shift_px))
        return tf.reduce_sum(tf.square(predicted - measured) * good)

    error = 0.0
    for start in range(0, len(scan), BATCH):
        rows = slice(start, start + BATCH)
        error += float(miss(corner[rows], place.shift_px[rows], amplitudes(scan.counts[rows])))

    def pattern(row: int) -> Float:
        rows = slice(row, row + 1)
        found: Float = patterns(corner[rows], place.shift_px[rows])[0].numpy()
        return found

    return error / float(scan.totals.sum()), pattern
