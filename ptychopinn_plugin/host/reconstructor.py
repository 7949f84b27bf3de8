"""The reconstructor that Ptychodus calls: training and reconstruction in a child process.

The contract is specs/ptychodus_api_spec.md; the host's own is `ptychodus.api.reconstruct`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from ptychodus.api.product import LossValue
from ptychodus.api.reconstruct import (
    ReconstructInput,
    ReconstructOutput,
    TrainableReconstructor,
    TrainOutput,
)

from .. import archive, files
from ..backends.base import Model
from ..config import ModelConfig, ReconstructionConfig, RuntimeConfig, TrainingConfig
from ..errors import ConfigError, PluginError, explain, require
from ..result import Epoch, Sweep
from ..scan import Array, Scan
from ..worker import Event, ReconstructJob, Run, Saved, Started, Step, TrainJob
from ..worker.protocol import CURVE, MODEL
from .convert import product_of_sweep, scan_of_input
from .link import HostLink
from .model_card import EXTENSION, ModelCard
from .settings import PluginSettings
from .training_files import find_training_files

logger = logging.getLogger(__name__)

PROGRESS_PER_EPOCH = 100
MODEL_FILE, CURVE_FILE, CHECKPOINTS = 'model' + EXTENSION, 'training_loss.png', 'model.training'


class NeuralReconstructor(TrainableReconstructor):
    """PINN or Supervised, by `mode`; both reconstruct alike from a model."""

    def __init__(self, name: str, mode: str, settings: PluginSettings, link: HostLink) -> None:
        super().__init__()
        self._name, self._mode = name, mode
        self._settings, self._link = settings, link
        self._goal: int | None = None  # while a training runs
        self.card = ModelCard()

    @property
    def name(self) -> str:
        """The part of the algorithm's key after the library's name."""
        return self._name

    @property
    def mode(self) -> str:
        """The mode of the networks that it trains: pinn or supervised."""
        return self._mode

    def get_progress_goal(self) -> int:
        """Return the progress of the last yield: of the training that runs, else of a
        reconstruction; never 0, which would hide the Stop button.
        """
        return self._goal or self._sweeps()

    def _sweeps(self) -> int:
        sweeps: int = self._settings.parameter(ReconstructionConfig, 'sweeps').get_value()
        return max(sweeps, 1)

    def is_model_loaded(self) -> bool:
        """Tell whether a model was loaded or trained."""
        return self.card.model is not None

    def can_start(self) -> bool:
        """Tell whether `reconstruct` has what the settings ask for."""
        start = self._settings.parameter(ReconstructionConfig, 'start').get_value()
        return self.is_model_loaded() or start != 'network'

    def get_model_file_filter(self) -> str:
        """Return the filter of the host's file dialogs."""
        return f'PtychoPINN-Plugin Model (*{EXTENSION})'

    def get_model_file_extension(self) -> str:
        """Return the extension of model files."""
        return EXTENSION

    def load_model_from_file(self, file_path: Path) -> None:
        """Load a model; the one before stays when the file is refused with `ModelFileError`."""
        with _told():
            self.card.read(Path(file_path))
        logger.info('Model: %s', self.card.summary())
        self.card.notify_observers()

    def save_model(self, file_path: Path) -> None:
        """Write the loaded model; raises `ConfigError` when there is none."""
        with _told():
            archive.save_model(self._needed_model('to save'), file_path)
        logger.info('Model saved to %s', file_path)

    def get_training_data_file_filter(self) -> str:
        """Return the filter of the host's file dialogs."""
        return 'NumPy Zipped Archive (*.npz)'

    def export_training_data(self, file_path: Path, parameters: ReconstructInput) -> None:
        """Write a scan as NPZ (or .h5, .cxi by the suffix), in counts, bad pixels filled in.

        It holds the keys that `train` and the host's own PtychoPINN adapters read, and
        `diff3d_scale` says that the patterns are counts.
        """
        with _told():
            scan = scan_of_input(parameters)
            target = file_path if file_path.suffix else file_path.with_suffix('.npz')
            files.save_scan(_for_export(scan), target)
        logger.info('%d patterns exported to %s, as counts', len(scan), target)

    def train(self, input_path: Path, output_path: Path) -> Iterator[TrainOutput]:
        """Train on the scans in `input_path`; yield after every epoch.

        Writes `model.h5.zip` and `training_loss.png` to `output_path`, with the checkpoints in
        `model.training`, and takes the model. Stopped, also by closing the generator, it does so
        with the best model of the finished epochs.
        """
        with _told(), self._training_goal() as training:
            found = find_training_files(Path(input_path))
            output_path = Path(output_path)
            files.check_target(output_path / MODEL_FILE)
            job = TrainJob(
                scans=found.scans,
                validation=found.validation,
                model=self._settings.read(ModelConfig, mode=self._mode),
                training=training,
                runtime=self._settings.read(RuntimeConfig),
                checkpoints=output_path / CHECKPOINTS,
            )
            with Run(job, self._link.stopping) as run:
                yield from self._epochs(run, output_path)

    def _epochs(self, run: Run, output_path: Path) -> Iterator[TrainOutput]:
        history: list[Epoch] = []
        saved = False
        try:
            for event in run:
                saved |= self._take(event, run, output_path, history)
                if isinstance(event, Epoch):
                    yield _train_output(history)
        except GeneratorExit:
            run.stop()
            for event in run:
                saved |= self._take(event, run, output_path, history)
            raise
        finally:
            self._link.in_foreground(self.card.notify_observers)
        if saved:
            run.deliver(CURVE, output_path / CURVE_FILE)
        else:
            logger.warning('The training was stopped before its first epoch had finished: no model')

    def _take(self, event: Event, run: Run, output_path: Path, history: list[Epoch]) -> bool:
        """Deal with an event of a training; tell whether the model is there now."""
        if isinstance(event, Started):
            logger.info('Training with %s on %s', event.backend, event.device)
        elif isinstance(event, Step):
            progress = int(event.share * self.get_progress_goal())
            self._link.show_progress(progress, self.get_progress_goal())
        elif isinstance(event, Epoch):
            history.append(event)
            logger.info(
                'Epoch %d/%d: training loss %.4g, validation loss %.4g, %.1f s',
                event.number, event.total, event.training_loss, event.validation_loss,
                event.seconds,
            )  # fmt: skip
            self.card.history = tuple(history)
            self._link.in_foreground(self.card.notify_observers)
        elif isinstance(event, Saved):
            run.deliver(MODEL, output_path / MODEL_FILE)
            self.card.read(output_path / MODEL_FILE)
            logger.info('Training %s. Model: %s', event.ended, self.card.summary())
            return True
        return False

    @contextmanager
    def _training_goal(self) -> Iterator[TrainingConfig]:
        training = self._settings.read(TrainingConfig)
        self._goal = training.epochs * PROGRESS_PER_EPOCH
        try:
            yield training
        finally:
            self._goal = None

    def reconstruct(self, parameters: ReconstructInput) -> Iterator[ReconstructOutput]:
        """Yield the start (the network's estimate when there is a model), then every sweep.

        Raises `ConfigError` when the settings ask for a network and no model is loaded.
        """
        with _told():
            config = self._settings.read(ReconstructionConfig)
            model = self.card.model
            if config.start == 'network':
                model = self._needed_model('for the network start')
            elif model is None and config.start == 'auto':
                logger.info('No model is loaded: the sweeps begin from a flat object')
            scan = scan_of_input(parameters)
            job = ReconstructJob(scan, config, self._settings.read(RuntimeConfig), model)
            losses: list[float] = []
            with Run(job, self._link.stopping) as run:
                for event in run:
                    if isinstance(event, Started):
                        logger.info('Reconstructing with %s on %s', event.backend, event.device)
                    elif isinstance(event, Sweep):
                        losses.append(event.loss)
                        product = product_of_sweep(
                            parameters, scan, event, losses, update_probe=config.update_probe
                        )
                        # One yield alone is all of the work; the start of several is none of it.
                        yield ReconstructOutput(product, event.number if event.total else 1)
            if losses:
                logger.info('%d sweeps, error %.5f', len(losses) - 1, losses[-1])

    def _needed_model(self, why: str) -> Model:
        require(
            self.card.model is not None,
            ConfigError,
            f'There is no model {why}',
            cure='Load a model file, or train one first',
        )
        assert self.card.model is not None
        return self.card.model


def _train_output(history: list[Epoch]) -> TrainOutput:
    return TrainOutput(
        training_loss=[LossValue(e.number, e.training_loss) for e in history],
        validation_loss=[LossValue(e.number, e.validation_loss) for e in history],
        progress=history[-1].number * PROGRESS_PER_EPOCH,
    )


@contextmanager
def _told() -> Iterator[None]:
    """Log what goes wrong, since the host's status pane shows records and no exceptions."""
    try:
        yield
    except PluginError as error:
        logger.error('%s', error)
        raise
    except Exception:
        logger.exception(explain('Unexpected error', cure='Please report it with this traceback'))
        raise


def _for_export(scan: Scan) -> Scan:
    counts = scan.counts
    if scan.bad_pixels.any():
        counts = _inpainted(counts, scan.bad_pixels)
    # Zeros, as the host writes: to its own adapters every value is another object.
    return replace(scan, counts=counts, scan_index=np.zeros(len(scan), np.int64))


def _inpainted(counts: Array, bad_pixels: Array) -> Array:
    try:
        from ptychodus.api.preprocess.diffraction import inpaint_bad_pixels
    except ImportError:  # 1.6: it exports zeros there
        return np.where(bad_pixels, counts.dtype.type(0), counts)
    filled: Array = inpaint_bad_pixels(counts, bad_pixels)
    return filled
