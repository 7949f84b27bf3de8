"""Training with Lightning: checkpoints, early stopping, resuming, and an `Epoch` for every epoch.

Everything that only training needs is imported here, so that reconstructing never waits for
Lightning.
"""

from __future__ import annotations

import io
import logging
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.utils.data import DataLoader

from ... import canvas_training
from ...atomic import atomic_path, writing_into
from ...batching import datasets
from ...config import UNROLLED, ModelConfig, TrainingConfig
from ...errors import OutputError, TrainingError, explain
from ...result import Epoch
from ...scan import Scan
from ..base import EpochCallback, Model, StepCallback, StopTraining
from ..training_folder import (
    LOG,
    RESUME_FILES,
    check_logger,
    check_resumable,
    ended_by,
    log_epochs,
    training_folder,
)
from .batches import Batches
from .canvas_module import CanvasModule, canvas_tensors
from .module import NetworkModule, PatchModule
from .refine import refine
from .weights import export_weights, import_weights

logging.getLogger('lightning.pytorch').setLevel(
    logging.WARNING
)  # which devices are there, tips, adverts

LAST, BEST = RESUME_FILES['torch'], 'best.ckpt'


class Checkpoints(TorchCheckpointIO):
    """Lightning's files, whole or absent: Lightning's own way copies from another disk."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint. Raises `OutputError`."""
        buffer = io.BytesIO()  # torch hides what a disk says
        torch.save(checkpoint, buffer)
        with atomic_path(path) as part:
            part.write_bytes(buffer.getbuffer())


class Reporter(pl.Callback):
    """Turn Lightning's metrics into `Epoch`s, remember them in the checkpoint, stop on a loss that
    is not finite.
    """

    def __init__(self, train_set: Batches, on_epoch: EpochCallback, on_step: StepCallback) -> None:
        self.train_set, self.on_epoch, self.on_step = train_set, on_epoch, on_step
        self.history: list[Epoch] = []
        self._begun = self._rate = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the data which epoch it is, so that a resumed run sees the same batches."""
        self.train_set.epoch = trainer.current_epoch
        self._rate = float(trainer.optimizers[0].param_groups[0]['lr'])
        self._begun = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        number: int,
    ) -> None:
        """Report the step; stop at once when the loss is not finite, while the best checkpoint is
        good.
        """
        loss = float(outputs['loss'])
        if not math.isfinite(loss):
            raise TrainingError(
                explain(
                    'Training stopped: the loss is not finite',
                    received=f'loss={loss} in epoch {trainer.current_epoch + 1}',
                    cure='Lower the learning rate',
                )
            )
        done = trainer.current_epoch + (number + 1) / float(trainer.num_training_batches)
        self.on_step(done / float(trainer.max_epochs or 1))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        number: int,
        loader: int = 0,
    ) -> None:
        """Let a long validation be stopped too."""
        self.on_step((trainer.current_epoch + 1) / float(trainer.max_epochs or 1))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the epoch: the checkpoint that follows has it, too."""
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        epoch = Epoch(
            number=trainer.current_epoch + 1,
            total=int(trainer.max_epochs or 0),
            training_loss=metrics['training_loss'],
            validation_loss=metrics.get('validation_loss', math.nan),
            learning_rate=self._rate,
            seconds=time.perf_counter() - self._begun,
        )
        self.history.append(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the history as plain numbers, so that checkpoints load with weights_only."""
        return {'history': [list(vars(e).values()) for e in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the history of the epochs before a resume."""
        self.history = [Epoch(*values) for values in state_dict['history']]
        # Lightning draws the first batch of a resumed epoch before that epoch's hooks.
        self.train_set.epoch = len(self.history)


class Kept(ModelCheckpoint):
    """The checkpoint of the last epoch, after that of the best one, whose `save_last` leaves out
    epochs that are no better. An epoch is told once they are written: who then stops the training
    has it.
    """

    def __init__(self, reporter: Reporter, csv_folder: Path | None, *args: Any, **more: Any):
        super().__init__(*args, **more)
        self._reporter, self._csv_folder = reporter, csv_folder

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what is due, then report the epoch."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._csv_folder is not None:
            log_epochs(self._csv_folder, self._reporter.history)
        self._reporter.on_epoch(self._reporter.history[-1])


class Patience(EarlyStopping):
    """Early stopping that keeps its own patience when a training is resumed."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take everything else."""
        super().load_state_dict({**state_dict, 'patience': self.patience})


def train(
    scans: Sequence[Scan],
    validation: Sequence[Scan],
    model: ModelConfig,
    training: TrainingConfig,
    folder: Path,
    on_epoch: EpochCallback,
    on_step: StepCallback,
    *,
    device: torch.device,
    initial: Model | None = None,
    resume: bool = False,
) -> Model:
    """Train a network on scans; see `base.Backend.train`."""
    last = folder / LAST
    # All that can be refused comes first: an earlier training's checkpoints are cleared after it.
    check_logger(training.logger)
    if resume:
        check_resumable(folder, 'torch', model, training)
    module = _module(model, training)
    if initial is not None:
        import_weights(module.network, initial.weights)
    train_set, validation_set = _data(scans, validation, model, training, device, on_step)
    if validation_set is None:
        module.monitor = 'training_loss'
    reporter = Reporter(train_set, on_epoch, on_step)
    loaders = [DataLoader(d, batch_size=None) for d in (train_set, validation_set) if d is not None]
    with training_folder(folder, model, training), _as_it_was():
        if not resume:
            _clear(folder)
        most = max(training.epochs, _epochs_in(last) if resume else 0)
        trainer = _trainer(training, folder, device, reporter, monitor=module.monitor, epochs=most)
        try:
            with writing_into(folder):
                _fit(trainer, module, loaders, last if resume else None)
            done = len(reporter.history) >= training.epochs
            ended = 'finished' if done else 'no longer improving'
        except (StopTraining, TrainingError, OutputError) as reason:
            ended = ended_by(reason, folder / BEST)
        return _best(folder, model, training, reporter, scans, ended)


def _module(model: ModelConfig, training: TrainingConfig) -> NetworkModule:
    return (CanvasModule if model.architecture == UNROLLED else PatchModule)(model, training)


def _data(
    scans: Sequence[Scan],
    validation: Sequence[Scan],
    model: ModelConfig,
    training: TrainingConfig,
    device: torch.device,
    on_step: StepCallback,
) -> tuple[Batches, Batches | None]:
    """Return what to train on and, where there is any, to validate on."""
    if model.architecture == UNROLLED:
        crops, bands = canvas_training.datasets(
            scans, validation, model, training, partial(refine, device=device), on_step
        )
        return (
            Batches(crops, canvas_tensors),
            None if bands is None else Batches(bands, canvas_tensors),
        )
    patches, held = datasets(scans, validation, model, training)
    return Batches(patches), None if held is None else Batches(held)


def _trainer(
    training: TrainingConfig,
    folder: Path,
    device: torch.device,
    reporter: Reporter,
    *,
    monitor: str,
    epochs: int,
) -> pl.Trainer:
    csv_folder = folder if training.logger == 'csv' else None
    when: dict[str, Any] = {'enable_version_counter': False, 'save_on_train_epoch_end': True}
    callbacks: list[pl.Callback] = [
        reporter,
        ModelCheckpoint(folder, Path(BEST).stem, monitor=monitor, **when),
        Kept(reporter, csv_folder, folder, Path(LAST).stem, **when),
    ]
    if training.patience:
        callbacks.append(
            Patience(monitor, patience=training.patience, check_on_train_epoch_end=True)
        )
    return pl.Trainer(
        accelerator='gpu' if device.type == 'cuda' else 'cpu',
        devices=[device.index or 0] if device.type == 'cuda' else 1,
        max_epochs=epochs,
        gradient_clip_val=training.gradient_clip or None,
        deterministic='warn' if device.type == 'cuda' else True,
        logger=TensorBoardLogger(folder, name='tensorboard', version='')
        if training.logger == 'tensorboard'
        else False,
        callbacks=callbacks,
        # One process, whatever a job's scheduler says of how many tasks there are.
        plugins=[Checkpoints(), LightningEnvironment()],
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1_000_000,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _fit(
    trainer: pl.Trainer, module: NetworkModule, loaders: list[DataLoader[Any]], ckpt: Path | None
) -> None:
    validation = loaders[1] if len(loaders) > 1 else None
    try:
        with warnings.catch_warnings():
            # Advice for clusters of machines: workers in the loader, an IterableDataset with a
            # length.
            warnings.filterwarnings('ignore', module='lightning')
            trainer.fit(module, loaders[0], validation, ckpt_path=ckpt, weights_only=True)
    except SystemExit as error:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from error


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Take back what Lightning makes torch do in the whole process."""
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)


def _epochs_in(checkpoint: Path) -> int:
    """Return how many epochs a checkpoint has behind it."""
    return int(torch.load(checkpoint, map_location='cpu', weights_only=True)['epoch']) + 1


def _best(
    folder: Path,
    model: ModelConfig,
    training: TrainingConfig,
    reporter: Reporter,
    scans: Sequence[Scan],
    ended: str,
) -> Model:
    """Return the model of the best checkpoint."""
    module = _module(model, training)
    state = torch.load(folder / BEST, map_location='cpu', weights_only=True)
    module.load_state_dict(state['state_dict'])
    return Model(
        config=model,
        weights=export_weights(module.network),
        training=training,
        history=tuple(reporter.history),
        writer='torch',
        summary={
            'scans': [s.name for s in scans],
            'patterns': sum(len(s) for s in scans),
            'best_epoch': int(state['epoch']) + 1,
            'ended': ended,
        },
    )


def _clear(folder: Path) -> None:
    """Remove an earlier training's checkpoints and log: best.ckpt of another run must never be
    taken for ours.
    """
    for name in (LAST, BEST, LOG):
        (folder / name).unlink(missing_ok=True)
