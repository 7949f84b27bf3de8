"""Canonical weights to and from the TensorFlow network: (out, in, rows, columns) outside, (rows,
columns, in, out) inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from ...errors import ModelFileError, require
from ...scan import Float
from .network import Autoencoder

if TYPE_CHECKING:
    from .canvas_network import CanvasNetwork

INWARD, OUTWARD = (2, 3, 1, 0), (3, 2, 0, 1)


def export_weights(network: Autoencoder | CanvasNetwork) -> dict[str, Float]:
    """Return every weight under its canonical name."""
    found = {}
    for conv in network.plan.convolutions():
        kernel = network.kernels[conv.name].numpy().transpose(OUTWARD)
        found[f'{conv.name}.kernel'] = np.ascontiguousarray(kernel)
        found[f'{conv.name}.bias'] = network.biases[conv.name].numpy().copy()
    return found


def import_weights(network: Autoencoder | CanvasNetwork, weights: Mapping[str, Float]) -> None:
    """Fill the network; raises `ModelFileError` when a weight is missing or has another shape."""
    for conv in network.plan.convolutions():
        _fill(network.kernels[conv.name], weights, f'{conv.name}.kernel')
        _fill(network.biases[conv.name], weights, f'{conv.name}.bias')


def _fill(target: tf.Variable, weights: Mapping[str, Float], name: str) -> None:
    found = weights.get(name)
    shape = tuple(target.shape)
    expected = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape
    require(
        found is not None and found.shape == expected,
        ModelFileError,
        f'The weight {name} does not fit the network',
        expected=f'shape={expected}',
        received='none' if found is None else f'shape={found.shape}',
    )
    assert found is not None
    target.assign(found.transpose(INWARD) if len(shape) == 4 else found)
