"""The network's own estimate of the object: patches of every pattern, stitched where they belong.

Every pattern is the first of its own group once; each predicted patch is added at the position of
the pattern that its channel stands for, weighted by the light |P|^2 on it. Patches of different
positions are never mixed.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from ...batching import batch, source
from ...grouping import neighbour_groups
from ...plan import plan
from ...result import ObjectImage
from ...scaling import flat_transmission
from ...scan import Complex, Float, Scan
from ..base import Model
from . import physics
from .network import Autoencoder
from .weights import import_weights

BATCH_PIXELS = (
    32 * 64 * 64
)  # patterns times their pixels in one pass: speed has levelled off, memory is small
UNLIT = (
    1e-6  # of the brightest pixel: below, the object is unknown and set to the mean transmission
)


def estimate(scan: Scan, model: Model) -> ObjectImage:
    """Return the stitched object in the scan's frame."""
    network = Autoencoder(plan(model.config))
    import_weights(network, model.weights)
    made = source(scan)
    side, channels = scan.side_px, model.config.gridsize**2
    groups = neighbour_groups(scan.positions_px, channels)
    size = max(1, BATCH_PIXELS // (side**2 * channels))
    probe = tf.constant(made.probe)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, channels, side, side], tf.float32),
            tf.TensorSpec([None, 2], tf.float32),
        ]
    )
    def lit_patches(inputs: tf.Tensor, shift_px: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        light = physics.intensity(physics.shift_probe(probe, shift_px))
        patches = tf.reshape(network(inputs), [-1, side, side])
        return patches * tf.complex(light, tf.zeros_like(light)), light

    canvas, total = np.zeros(scan.frame.shape, np.complex64), np.zeros(scan.frame.shape, np.float32)
    for start in range(0, len(groups), size):
        part = batch(made, groups[start : start + size])
        patches, light = (t.numpy() for t in lit_patches(part.inputs, part.shift_px))
        for (y, x), patch, weight in zip(part.corner_px.tolist(), patches, light, strict=True):
            canvas[y : y + side, x : x + side] += patch
            total[y : y + side, x : x + side] += weight
    return _image(scan, canvas, total)


def _image(scan: Scan, canvas: Complex, total: Float) -> ObjectImage:
    relative = total / total.max()
    flat = np.full_like(canvas, flat_transmission(scan))
    object_ = np.where(relative > UNLIT, canvas / np.maximum(total, 1e-30), flat)
    return ObjectImage(object_, relative, scan.frame.origin_px)
