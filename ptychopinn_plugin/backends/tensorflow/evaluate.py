"""How well an object and a probe explain the patterns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from ... import far_field
from ...geometry import windows
from ...result import ObjectImage
from ...scaling import amplitudes
from ...scan import Complex, Float, Scan
from . import physics
from .memory import TRANSFORMS

BATCH = 64


def predict(
    scan: Scan, image: ObjectImage, probe: Complex, *, on_gpu: bool = False
) -> tuple[float, Callable[[int], Float]]:
    """Return sum(|F| - sqrt(I))^2 / sum(I) over good pixels, and a function that predicts the
    pattern of a row.
    """
    if not on_gpu:
        return far_field.predict(TRANSFORMS, scan, image, probe)
    place = windows(scan, image.frame)
    object_, modes = tf.constant(image.object), tf.constant(probe)
    position = tf.TensorSpec([None, 2], tf.int64), tf.TensorSpec([None, 2], tf.float32)

    @tf.function(input_signature=position)
    def diffract(corner_px: tf.Tensor, shift_px: tf.Tensor) -> tf.Tensor:
        patches = physics.extract(object_, corner_px, scan.side_px)
        return physics.diffract(patches, physics.shift_probe(modes, shift_px))

    def patterns(rows: slice) -> Float:
        made: Float = diffract(place.corner_px[rows], place.shift_px[rows]).numpy()
        return made

    good = ~scan.bad_pixels
    error = 0.0
    for start in range(0, len(scan), BATCH):
        rows = slice(start, start + BATCH)
        miss = (np.sqrt(patterns(rows)) - amplitudes(scan.patterns(rows)))[:, good]
        error += float(np.vdot(miss, miss))
    return error / float(scan.totals.sum()), lambda row: patterns(slice(row, row + 1))[0]
