"""Canonical weights to and from the torch network. Torch's own kernel layout (out, in, rows,
columns) is canonical.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...errors import ModelFileError, require
from ...scan import Float
from .network import Autoencoder, key

if TYPE_CHECKING:
    from .canvas_network import CanvasNetwork


def export_weights(network: Autoencoder | CanvasNetwork) -> dict[str, Float]:
    """Return every weight under its canonical name."""
    found = {}
    for conv in network.plan.convolutions():
        module = network.convolutions[key(conv.name)]
        found[f'{conv.name}.kernel'] = _array(module.weight)  # type: ignore[arg-type]
        found[f'{conv.name}.bias'] = _array(module.bias)  # type: ignore[arg-type]
    return found


def import_weights(network: Autoencoder | CanvasNetwork, weights: Mapping[str, Float]) -> None:
    """Fill the network; raises `ModelFileError` when a weight is missing or has another shape."""
    for conv in network.plan.convolutions():
        module = network.convolutions[key(conv.name)]
        _fill(module.weight, weights, f'{conv.name}.kernel')  # type: ignore[arg-type]
        _fill(module.bias, weights, f'{conv.name}.bias')  # type: ignore[arg-type]


def _array(tensor: Tensor) -> Float:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=np.float32)


def _fill(target: Tensor, weights: Mapping[str, Float], name: str) -> None:
    found = weights.get(name)
    require(
        found is not None and found.shape == tuple(target.shape),
        ModelFileError,
        f'The weight {name} does not fit the network',
        expected=f'shape={tuple(target.shape)}',
        received='none' if found is None else f'shape={found.shape}',
    )
    with torch.no_grad():
        target.copy_(torch.from_numpy(np.asarray(found)))
