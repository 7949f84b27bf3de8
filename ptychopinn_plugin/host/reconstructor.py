"""The reconstructor that Ptychodus calls: training and reconstruction in a child process.

The contract is specs/ptychodus_api_spec.md; the host's is `ptychodus.api.reconstruct`. What a run
needs is imported when it starts, so that the host's start does not wait for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ptychodus.api.reconstruct import (
    ReconstructInput,
    ReconstructOutput,
    TrainableReconstructor,
    TrainOutput,
)

from ..config import (
    AUTOENCODER,
    ModelConfig,
    ReconstructionConfig,
    RuntimeConfig,
    TrainingConfig,
)
from ..errors import ConfigError, PluginError, explain, require
from .link import HostLink
from .model_card import EXTENSION, ModelCard
from .settings import PluginSettings

if TYPE_CHECKING:
    from ..backends.base import Model
    from ..worker import ReconstructJob, TrainJob

logger = logging.getLogger(__name__)


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
        sweeps: int = self._settings.parameter(ReconstructionConfig, 'sweeps').get_value()
        return self._goal or max(sweeps, 1)

    def is_model_loaded(self) -> bool:
        """Tell whether a model was loaded or trained."""
        return self.card.model is not None

    def can_start(self) -> bool:
        """Tell whether `reconstruct` has what the settings ask for."""
        start = self._settings.parameter(ReconstructionConfig, 'start').get_value()
        return start != 'network' or self.card.can_estimate()

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
        from ..archive import save_model

        with _told():
            save_model(self._needed_model(), file_path)
        logger.info('Model saved to %s', file_path)

    def get_training_data_file_filter(self) -> str:
        """Return the filter of the host's file dialogs."""
        return 'NumPy Zipped Archive (*.npz)'

    def export_training_data(self, file_path: Path, parameters: ReconstructInput) -> None:
        """Write a scan as NPZ (or .h5, .cxi by the suffix), in counts, bad pixels filled in.

        It holds the keys that `train` and the host's own PtychoPINN adapters read, and
        `diff3d_scale` says that the patterns are counts.
        """
        from .runs import export

        target = file_path if file_path.suffix else file_path.with_suffix('.npz')
        with _told():
            patterns = export(parameters, target)
        logger.info('%d patterns exported to %s, as counts', patterns, target)

    def train(self, input_path: Path, output_path: Path) -> Iterator[TrainOutput]:
        """Train on the scans in `input_path`; yield after every epoch.

        Writes `model.h5.zip` and `training_loss.png` to `output_path`, with the checkpoints in
        `model.training`, and takes the model. Stopped, also by closing the generator, it does so
        with the best model of the finished epochs.
        """
        from .runs import PROGRESS_PER_EPOCH, Training

        with _told():
            output_path = Path(output_path)
            job = self._training_job(Path(input_path), output_path)
            self._goal = job.training.epochs * PROGRESS_PER_EPOCH
            try:
                yield from Training(job, output_path, self.card, self._link).outputs()
            finally:
                self._goal = None

    def reconstruct(self, parameters: ReconstructInput) -> Iterator[ReconstructOutput]:
        """Yield the start (the network's estimate when there is a model), then every sweep.

        Raises `ConfigError` when the settings ask for a network and no model that can be a start is
        loaded.
        """
        from .runs import reconstruction

        with _told():
            yield from reconstruction(parameters, self._job(parameters), self._link)

    def _training_job(self, input_path: Path, output_path: Path) -> TrainJob:
        from ..files import check_target
        from ..worker import TrainJob
        from .runs import CHECKPOINTS, MODEL_FILE
        from .training_files import find_training_files

        found = find_training_files(input_path)
        check_target(output_path / MODEL_FILE)
        return TrainJob(
            scans=found.scans,
            validation=found.validation,
            model=self._settings.read(ModelConfig, mode=self._mode),
            training=self._settings.read(TrainingConfig),
            runtime=self._settings.read(RuntimeConfig),
            checkpoints=output_path / CHECKPOINTS,
        )

    def _job(self, parameters: ReconstructInput) -> ReconstructJob:
        from ..worker import ReconstructJob
        from .convert import scan_of_input

        config = self._settings.read(ReconstructionConfig)
        model = self.card.model
        if config.start == 'network':
            self._check_estimates()
        elif model is None and config.start == 'auto':
            logger.info('No model is loaded: the one that comes with the plug-in helps the sweeps')
        runtime = self._settings.read(RuntimeConfig)
        return ReconstructJob(scan_of_input(parameters), config, runtime, model)

    def _check_estimates(self) -> None:
        model = self.card.model
        require(
            self.card.can_estimate(),
            ConfigError,
            'There is no model for the network start',
            expected=f'a model of the architecture {AUTOENCODER}',
            received='none' if model is None else f'architecture={model.config.architecture}',
            cure=f'Load a model of the architecture {AUTOENCODER}, train one, or choose another '
            'start',
        )

    def _needed_model(self) -> Model:
        require(
            self.card.model is not None,
            ConfigError,
            'There is no model to save',
            cure='Load a model file, or train one first',
        )
        assert self.card.model is not None
        return self.card.model


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
