"""Canonical names, shapes and first values of the weights of every architecture.

Layouts: convolution kernels (out, in, rows, columns), biases (out,), all float32.
"""

from __future__ import annotations

import math

import numpy as np

from .canvas_plan import canvas_plan
from .config import UNROLLED, ModelConfig
from .plan import Conv, plan
from .scan import Float


def convolutions(config: ModelConfig) -> list[Conv]:
    """Return every convolution of a network in canonical order."""
    made = canvas_plan() if config.architecture == UNROLLED else plan(config)
    return made.convolutions()


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the canonical name and shape of every weight of a network, in order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for conv in convolutions(config):
        shapes[f'{conv.name}.kernel'] = (conv.outputs, conv.inputs, conv.size, conv.size)
        shapes[f'{conv.name}.bias'] = (conv.outputs,)
    return shapes


def initial_weights(config: ModelConfig, seed: int) -> dict[str, Float]:
    """Return the weights a training starts from: kernels uniform after Glorot (as Keras draws them,
    which the published network was trained with), biases zero. The same for every back end.
    """
    rng = np.random.default_rng(seed)
    made: dict[str, Float] = {}
    for conv in convolutions(config):
        shape = conv.outputs, conv.inputs, conv.size, conv.size
        limit = conv.gain * math.sqrt(6 / (conv.size**2 * (conv.inputs + conv.outputs)))
        made[f'{conv.name}.kernel'] = rng.uniform(-limit, limit, shape).astype(np.float32)
        made[f'{conv.name}.bias'] = np.zeros(conv.outputs, np.float32)
    return made
