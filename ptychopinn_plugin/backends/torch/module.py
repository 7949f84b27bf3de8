"""The LightningModules: steps, logging and optimizer only."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from ...config import ModelConfig, TrainingConfig
from ...network_weights import initial_weights
from ...plan import plan
from ..rates import cosine
from . import physics
from .batches import Batch
from .canvas_network import CanvasNetwork
from .losses import LOSSES, patch_loss
from .network import Autoencoder
from .weights import import_weights

LIGHT_FLOOR = 1e-3  # of the brightest pixel: keeps unlit parts of a patch on the canvas defined


class NetworkModule(pl.LightningModule):
    """Steps, logging and optimizer of any network."""

    network: Autoencoder | CanvasNetwork

    def __init__(self, training: TrainingConfig) -> None:
        super().__init__()
        self.training_config = training
        self.monitor = 'validation_loss'

    def loss(self, batch: Any) -> Tensor:
        """Return the mean loss of a batch."""
        raise NotImplementedError

    def training_step(self, batch: Any, _: int) -> Tensor:
        """Return the loss; Lightning averages it over the epoch."""
        loss = self.loss(batch)
        self.log('training_loss', loss, on_step=False, on_epoch=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        """Log the loss of a held-out batch."""
        self.log('validation_loss', self.loss(batch), on_epoch=True, batch_size=len(batch))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, _: int) -> Any:
        """Move a batch."""
        return batch.to(device)

    def configure_optimizers(self) -> Any:
        """Return Adam and the schedule the settings name."""
        config = self.training_config
        optimizer = torch.optim.Adam(self.parameters(), config.learning_rate, eps=1e-7)
        if config.schedule == 'constant':
            return optimizer
        if config.schedule == 'plateau':
            fall = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=3)
            return {
                'optimizer': optimizer,
                'lr_scheduler': {'scheduler': fall, 'monitor': self.monitor},
            }
        share = partial(cosine, total=config.epochs)
        return {
            'optimizer': optimizer,
            'lr_scheduler': torch.optim.lr_scheduler.LambdaLR(optimizer, share),
        }

    def on_train_start(self) -> None:
        """Set the rate that a resumed training has with the epochs that it has now."""
        for config in self.trainer.lr_scheduler_configs:
            fall = config.scheduler
            if isinstance(fall, torch.optim.lr_scheduler.LambdaLR):
                for group, top in zip(fall.optimizer.param_groups, fall.base_lrs, strict=True):
                    group['lr'] = top * cosine(fall.last_epoch, self.training_config.epochs)


class PatchModule(NetworkModule):
    """Train a patch network by the counts (pinn) or by known objects (supervised)."""

    def __init__(self, model: ModelConfig, training: TrainingConfig) -> None:
        super().__init__(training)
        self.mode = model.mode
        self.network = Autoencoder(plan(model))
        import_weights(self.network, initial_weights(model, training.seed))

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch."""
        patches = self.network(batch.inputs).flatten(0, 1)
        source = batch.source
        probe, good = (torch.from_numpy(a).to(self.device) for a in (source.probe, source.good))
        probes = physics.shift_probe(probe, batch.shift_px)
        light = physics.intensity(probes)
        if self.mode == 'supervised':
            assert source.truth is not None
            known = torch.from_numpy(source.truth).to(self.device)
            truth = physics.extract(known, batch.corner_px, patches.shape[-1])
            return patch_loss(patches, truth, light)
        expected = physics.diffract(on_one_canvas(patches, light, batch.corner_px), probes)
        loss = LOSSES[self.training_config.loss]
        return loss(expected, batch.counts, good)


def on_one_canvas(patches: Tensor, light: Tensor, corner_px: Tensor) -> Tensor:
    """Merge overlapping patches (B, N, N), weighted by their light, and cut them out again.

    What comes back is one object seen through every window: the overlap constraint, whatever the
    batch.
    """
    width = int(corner_px[:, 1].max()) + patches.shape[-1]
    # Only the pixels that some patch covers get a place: the canvas of a few patches of a large
    # scan stays small.
    covered, index = torch.unique(
        physics.pixels(corner_px, patches.shape[-1], width), return_inverse=True
    )
    weight = (light + LIGHT_FLOOR * light.amax()).reshape(-1)
    total = weight.new_zeros(len(covered)).index_add(0, index, weight)
    canvas = patches.new_zeros(len(covered)).index_add(0, index, patches.reshape(-1) * weight)
    return (canvas / total).index_select(0, index).reshape(patches.shape)
