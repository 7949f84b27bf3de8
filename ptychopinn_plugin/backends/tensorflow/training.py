"""Training: checkpoints, early stopping, resuming, and an `Epoch` for every epoch.

A checkpoint is one NPZ of weights, both moments of Adam, epoch and history, written whole or not at
all and read without pickle.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ... import canvas_training
from ...atomic import atomic_path, writing_into
from ...batching import Batches, datasets
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
from .refine import refine
from .schedule import Rate
from .step import CanvasModule, NetworkModule, PatchModule
from .weights import export_weights, import_weights

AnyBatches = Batches | canvas_training.Batches | canvas_training.Held
LAST, BEST = RESUME_FILES['tensorflow'], 'best.npz'


class Trainer:
    """The state of a training and its epochs."""

    def __init__(
        self,
        module: NetworkModule,
        training: TrainingConfig,
        folder: Path,
        on_epoch: EpochCallback,
        on_step: StepCallback,
    ) -> None:
        self.module, self.training, self.folder = module, training, folder
        self.on_epoch, self.on_step = on_epoch, on_step
        self.rate = Rate(training)
        self.history: list[Epoch] = []
        self.best = math.inf
        self.best_epoch = 0

    def run(self, train_set: AnyBatches, validation_set: AnyBatches | None) -> str:
        """Train until the last epoch or until it no longer improves; return why it ended."""
        while len(self.history) < self.training.epochs:
            self._epoch(train_set, validation_set)
            if self.training.patience and self._stale() >= self.training.patience:
                return 'no longer improving'
        return 'finished'

    def _epoch(self, train_set: AnyBatches, validation_set: AnyBatches | None) -> None:
        begun, number = time.perf_counter(), len(self.history)
        train_set.epoch = number
        rate = self.rate.value
        training_loss = self._pass(train_set, rate)
        validation_loss = math.nan if validation_set is None else self._validate(validation_set)
        epoch = Epoch(
            number + 1, self.training.epochs, training_loss, validation_loss, rate,
            time.perf_counter() - begun,
        )  # fmt: skip
        self.history.append(epoch)
        watched = training_loss if validation_set is None else validation_loss
        self.rate.step(number + 1, watched)
        if watched < self.best:
            self.best, self.best_epoch = watched, number + 1
            self.save(BEST)
        self.save(LAST)
        self._log(epoch)
        self.on_epoch(epoch)

    def _pass(self, batches: AnyBatches, rate: float) -> float:
        total, seen, count = 0.0, 0, len(batches)
        batch: Any
        for number, batch in enumerate(batches):
            loss = float(self.module.train(*self.module.arguments(batch), np.float32(rate)))
            if not math.isfinite(loss):
                raise TrainingError(
                    explain(
                        'Training stopped: the loss is not finite',
                        received=f'loss={loss} in epoch {len(self.history) + 1}',
                        cure='Lower the learning rate',
                    )
                )
            total, seen = total + loss * len(batch), seen + len(batch)
            self.on_step((len(self.history) + (number + 1) / count) / self.training.epochs)
        return total / seen

    def _validate(self, batches: AnyBatches) -> float:
        total, seen = 0.0, 0
        batch: Any
        for batch in batches:
            total += float(self.module.loss(*self.module.arguments(batch))) * len(batch)
            seen += len(batch)
            self.on_step((len(self.history) + 1) / self.training.epochs)  # it may stop this, too
        return total / seen

    def _stale(self) -> int:
        return len(self.history) - self.best_epoch

    def save(self, name: str) -> None:
        """Write a checkpoint."""
        arrays: dict[str, Any] = export_weights(self.module.network)
        arrays |= {f'first.{i}': m.numpy() for i, m in enumerate(self.module.first)}
        arrays |= {f'second.{i}': v.numpy() for i, v in enumerate(self.module.second)}
        arrays['steps'] = self.module.steps.numpy()
        arrays['history'] = np.array([list(vars(e).values()) for e in self.history])
        arrays['best'] = np.array([self.best, self.best_epoch])
        arrays['rate'] = np.array(self.rate.state())
        with atomic_path(self.folder / name) as part, open(part, 'wb') as stream:
            np.savez(stream, **arrays)

    def load(self, name: str) -> None:
        """Go on from a checkpoint."""
        with np.load(self.folder / name, allow_pickle=False) as arrays:
            import_weights(self.module.network, dict(arrays))
            for i, (m, v) in enumerate(zip(self.module.first, self.module.second, strict=True)):
                m.assign(arrays[f'first.{i}'])
                v.assign(arrays[f'second.{i}'])
            self.module.steps.assign(arrays['steps'])
            self.history = [_epoch(row) for row in arrays['history']]
            self.best, self.best_epoch = float(arrays['best'][0]), int(arrays['best'][1])
            self.rate.restore(arrays['rate'], len(self.history))

    def _log(self, epoch: Epoch) -> None:
        if self.training.logger == 'csv':
            log_epochs(self.folder, self.history)
        else:
            _log_tensorboard(self.folder, epoch)


def train(
    scans: Sequence[Scan],
    validation: Sequence[Scan],
    model: ModelConfig,
    training: TrainingConfig,
    folder: Path,
    on_epoch: EpochCallback,
    on_step: StepCallback,
    *,
    on_gpu: bool = False,
    initial: Model | None = None,
    resume: bool = False,
) -> Model:
    """Train a network on scans; see `base.Backend.train`."""
    # All that can be refused comes first: an earlier training's checkpoints are cleared after it.
    check_logger(training.logger)
    if resume:
        check_resumable(folder, 'tensorflow', model, training)
    module = (CanvasModule if model.architecture == UNROLLED else PatchModule)(model, training)
    if initial is not None:
        import_weights(module.network, initial.weights)
    train_set, validation_set = _data(scans, validation, model, training, on_step, on_gpu=on_gpu)
    trainer = Trainer(module, training, folder, on_epoch, on_step)
    with training_folder(folder, model, training):
        if resume:
            trainer.load(LAST)
        else:
            _clear(folder)
        try:
            with writing_into(folder):
                ended = trainer.run(train_set, validation_set)
        except (StopTraining, TrainingError, OutputError) as reason:
            ended = ended_by(reason, folder / BEST)
        return _best(trainer, model, training, scans, ended)


def _data(
    scans: Sequence[Scan],
    validation: Sequence[Scan],
    model: ModelConfig,
    training: TrainingConfig,
    on_step: StepCallback,
    *,
    on_gpu: bool,
) -> tuple[AnyBatches, AnyBatches | None]:
    """Return what to train on and, where there is any, to validate on."""
    if model.architecture != UNROLLED:
        return datasets(scans, validation, model, training)
    sweeps = partial(refine, on_gpu=on_gpu)
    return canvas_training.datasets(scans, validation, model, training, sweeps, on_step)


def _best(
    trainer: Trainer,
    model: ModelConfig,
    training: TrainingConfig,
    scans: Sequence[Scan],
    ended: str,
) -> Model:
    """Return the model of the best checkpoint."""
    history = tuple(trainer.history)
    trainer.load(BEST)
    return Model(
        config=model,
        weights=export_weights(trainer.module.network),
        training=training,
        history=history,
        writer='tensorflow',
        summary={
            'scans': [s.name for s in scans],
            'patterns': sum(len(s) for s in scans),
            'best_epoch': trainer.best_epoch,
            'ended': ended,
        },
    )


def _epoch(row: Any) -> Epoch:
    number, total, *rest = row.tolist()
    return Epoch(int(number), int(total), *rest)


def _log_tensorboard(folder: Path, epoch: Epoch) -> None:
    import tensorflow as tf

    writer = tf.summary.create_file_writer(str(folder / 'tensorboard'))
    with writer.as_default(step=epoch.number):
        for name in ('training_loss', 'validation_loss', 'learning_rate'):
            tf.summary.scalar(name, getattr(epoch, name))
    writer.close()


def _clear(folder: Path) -> None:
    """Remove an earlier training's checkpoints and log: best.npz of another run must never be taken
    for ours.
    """
    for name in (LAST, BEST, LOG):
        (folder / name).unlink(missing_ok=True)
