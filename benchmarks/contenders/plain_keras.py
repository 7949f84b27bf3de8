"""The same convolutions in plain Keras layers trained by model.fit. Arguments: side, seconds,
patterns, batch.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time

BEGUN = time.perf_counter()
SIDE, SECONDS, PATTERNS, BATCH = (
    int(sys.argv[1]),
    float(sys.argv[2]),
    int(sys.argv[3]),
    int(sys.argv[4]),
)
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import layers  # noqa: E402

START = time.perf_counter() - BEGUN
PROBE = tf.constant(np.random.default_rng(0).normal(size=(SIDE, SIDE)) * 20, tf.complex64)


def network(filters: list[int]) -> keras.Model:
    """Return amplitude and phase maps, (B, N, N, 2)."""
    inputs = x = keras.Input((SIDE, SIDE, 1))
    for f in filters:
        for _ in range(2):
            x = layers.Conv2D(f, 3, padding='same', activation='relu')(x)
        x = layers.MaxPool2D(2)(x)
    maps = []
    for activation in ('sigmoid', 'tanh'):
        y = x
        for f in filters[-2::-1]:
            for _ in range(2):
                y = layers.Conv2D(f, 3, padding='same', activation='relu')(y)
            y = layers.UpSampling2D(2)(y)
        fine = layers.ZeroPadding2D(SIDE // 4)(layers.Conv2D(1, 3, padding='same')(y[..., :-4]))
        coarse = layers.UpSampling2D(2)(layers.Conv2D(1, 3, padding='same')(y[..., -4:]))
        mask = np.ones((1, SIDE, SIDE, 1), np.float32)
        mask[:, SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4] = 0
        maps.append(layers.Activation(activation)(layers.Add()([fine, coarse * mask])))
    return keras.Model(inputs, layers.Concatenate()(maps))


def complex_patches(maps: tf.Tensor) -> tf.Tensor:
    """Return (B, N, N) complex64."""
    amplitude = tf.cast(maps[..., 0], tf.complex64)
    return amplitude * tf.exp(tf.complex(0.0, np.pi * maps[..., 1]))


def loss(counts: tf.Tensor, maps: tf.Tensor) -> tf.Tensor:
    """Return the Poisson likelihood of the counts under the predicted patches."""
    field = tf.signal.fftshift(tf.signal.fft2d(complex_patches(maps) * PROBE), axes=(-2, -1)) / SIDE
    expected = tf.abs(field) ** 2
    return tf.reduce_mean(expected - counts[..., 0] * tf.math.log(expected + 1e-3))


def main() -> None:
    """Train for about SECONDS, infer with stitching, print."""
    net = network({64: [64, 128, 256], 128: [32, 64, 128, 256]}[SIDE])
    net.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.random((PATTERNS, SIDE, SIDE, 1)) * 400).astype(np.float32)
    inputs = np.sqrt(counts) / 20
    begun = time.perf_counter()
    net.fit(inputs[:BATCH], counts[:BATCH], batch_size=BATCH, verbose=0)
    traced = time.perf_counter() - begun
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < SECONDS:
        net.fit(inputs, counts, batch_size=BATCH, verbose=0)
        done += PATTERNS
    training = done / (time.perf_counter() - begun)
    best = 1e9
    corner = rng.integers(0, 3 * SIDE, (PATTERNS, 2))
    for _ in range(2):
        begun = time.perf_counter()
        patches = complex_patches(
            tf.constant(net.predict(inputs, batch_size=BATCH, verbose=0))
        ).numpy()
        canvas = np.zeros((4 * SIDE, 4 * SIDE), np.complex64)
        for (y, x), patch in zip(corner, patches, strict=True):
            canvas[y : y + SIDE, x : x + SIDE] += patch
        best = min(best, time.perf_counter() - begun)
    print(
        json.dumps(
            {
                'training_patterns_per_s': training,
                'inference_patterns_per_s': PATTERNS / best,
                'inference_start_s': START,
                'training_start_s': START + traced,
                'peak_memory_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )


if __name__ == '__main__':
    main()
