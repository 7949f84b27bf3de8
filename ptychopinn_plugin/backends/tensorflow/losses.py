"""Losses on TensorFlow tensors; the same definitions as `reference`, divided so that their size
does not depend on the dose.

Bad pixels drop out of every sum. Both losses are about (number of lit pixels) / (counts) at the
noise floor.
"""

from __future__ import annotations

import tensorflow as tf

from ...reference import COUNT_FLOOR


def poisson_loss(intensity: tf.Tensor, counts: tf.Tensor, good: tf.Tensor) -> tf.Tensor:
    """Return the Poisson deviance per count, sum(l - n + n log(n / l)) / sum(n), over good pixels.

    It is the negative log-likelihood less its value at l = n, so it is zero at the data;
    `COUNT_FLOOR` is added to both so that dark pixels have finite gradients.
    """
    n, expected = counts + COUNT_FLOOR, intensity + COUNT_FLOOR
    deviance = expected - n + n * tf.math.log(n / expected)
    return tf.reduce_sum(deviance * good) / tf.maximum(tf.reduce_sum(counts * good), 1.0)


def amplitude_loss(intensity: tf.Tensor, counts: tf.Tensor, good: tf.Tensor) -> tf.Tensor:
    """Return sum((sqrt(l) - sqrt(n))^2) / sum(n) over good pixels: the fourier_error,
    differentiable.
    """
    miss = tf.sqrt(intensity + COUNT_FLOOR) - tf.sqrt(counts + COUNT_FLOOR)
    return tf.reduce_sum(tf.square(miss) * good) / tf.maximum(tf.reduce_sum(counts * good), 1.0)


def patch_loss(patches: tf.Tensor, truth: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Return sum(w |O - T|^2) / sum(w |T|^2) of complex patches (B, N, N) under the light w (B, N,
    N).
    """
    miss = patches - truth
    error = tf.square(tf.math.real(miss)) + tf.square(tf.math.imag(miss))
    power = tf.square(tf.math.real(truth)) + tf.square(tf.math.imag(truth))
    return tf.reduce_sum(weight * error) / tf.maximum(tf.reduce_sum(weight * power), 1e-12)


LOSSES = {'poisson': poisson_loss, 'amplitude': amplitude_loss}
