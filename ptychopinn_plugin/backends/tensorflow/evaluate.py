"""How well an object and a probe explain the patterns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from ...geometry import windows
from ...result import ObjectImage
from ...scaling import amplitudes
from ...scan import Complex, Float, Scan
from . import memory, physics

BATCH = 64


def predict(
    scan: Scan, image: ObjectImage, probe: Complex, *, on_gpu: bool = False
) -> tuple[float, Callable[[int], Float]]:
    """Return sum(|F| - sqrt(I))^2 / sum(I) over good pixels, and a function that predicts the
    pattern of a row.
    """
    patterns = (_on_gpu if on_gpu else _on_cpu)(scan, image, probe)
    good = ~scan.bad_pixels
    error = 0.0
    for start in range(0, len(scan), BATCH):
        rows = slice(start, start + BATCH)
        miss = (np.sqrt(patterns(rows)) - amplitudes(scan.counts[rows]))[:, good]
        error += float(np.vdot(miss, miss))

    def pattern(row: int) -> Float:
        found: Float = patterns(slice(row, row + 1))[0]
        return found

    return error / float(scan.totals.sum()), pattern


def _on_cpu(scan: Scan, image: ObjectImage, probe: Complex) -> Callable[[slice], Float]:
    place, side = windows(scan, image.frame), scan.side_px
    store = memory.aligned((BATCH, *probe.shape))
    patches = np.empty((BATCH, side, side), np.complex64)

    def patterns(rows: slice) -> Float:
        corners = [(y, x) for y, x in place.corner_px[rows].tolist()]
        found = memory.extract(image.object, corners, patches[: len(corners)])
        waves = store[: len(corners)]
        np.multiply(found[:, None], memory.shift_probe(probe, place.shift_px[rows]), out=waves)
        power = memory.intensity(memory.fft2(waves)) / np.float32(side**2)
        return np.fft.fftshift(power, axes=(-2, -1))

    return patterns


def _on_gpu(scan: Scan, image: ObjectImage, probe: Complex) -> Callable[[slice], Float]:
    place, side = windows(scan, image.frame), scan.side_px
    corner = place.corner_px.astype(np.int32)
    object_, modes = tf.constant(image.object), tf.constant(probe)

    @tf.function(
        input_signature=[tf.TensorSpec([None, 2], tf.int32), tf.TensorSpec([None, 2], tf.float32)]
    )
    def graph(corner_px: tf.Tensor, shift_px: tf.Tensor) -> tf.Tensor:
        patches = physics.extract(object_, corner_px, side)
        return physics.diffract(patches, physics.shift_probe(modes, shift_px))

    def patterns(rows: slice) -> Float:
        found: Float = graph(corner[rows], place.shift_px[rows]).numpy()
        return found

    return patterns
