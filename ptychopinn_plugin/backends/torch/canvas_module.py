"""Training the network of the canvas: the LightningModule and its batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ... import canvas_training
from ...canvas_training import FLOOR
from ...config import ModelConfig, TrainingConfig
from ...network_weights import initial_weights
from .canvas_network import CanvasNetwork
from .module import NetworkModule
from .weights import import_weights


@dataclass(frozen=True, eq=False)
class CanvasBatch:
    """B crops; see `canvas_training.Batch`."""

    inputs: Tensor
    missing: Tensor
    trust: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device) -> CanvasBatch:
        """Return the batch on a device."""
        return CanvasBatch(self.inputs.to(device), self.missing.to(device), self.trust.to(device))


def canvas_tensors(batch: canvas_training.Batch) -> CanvasBatch:
    """Return a batch as tensors on the same memory."""
    return CanvasBatch(*map(torch.from_numpy, (batch.inputs, batch.missing, batch.trust)))


class CanvasModule(NetworkModule):
    """Train the network to find what is missing of the object."""

    def __init__(self, model: ModelConfig, training: TrainingConfig) -> None:
        super().__init__(training)
        self.network = CanvasNetwork()
        import_weights(self.network, initial_weights(model, training.seed))

    def loss(self, batch: CanvasBatch) -> Tensor:
        """Return the mean logarithm of the mean square that is left over that of no answer."""
        left = _mean_square(self.network(batch.inputs) - batch.missing, batch.trust)
        before = _mean_square(batch.missing, batch.trust)
        return torch.log((left + FLOOR) / (before + FLOOR)).mean()


def _mean_square(maps: Tensor, trust: Tensor) -> Tensor:
    """Return the mean square of each crop, (B,)."""
    return (maps.square() * trust).sum((1, 2, 3)) / trust.sum((1, 2, 3)).clamp(min=1)
