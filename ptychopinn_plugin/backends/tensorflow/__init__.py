"""The TensorFlow back end; mirrors `backends/torch`.

Importing it imports TensorFlow as `loading` says. oneDNN's convolutions are off by default on CPUs
without AVX512-VNNI, where the gradients take 0.6 of the time of Eigen's (a training step 144 ms
against 207; torch 152). What the user has set is kept.
"""

import os

from .loading import without_greeting, without_keras

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')

with without_greeting(), without_keras():
    import tensorflow  # noqa: F401
