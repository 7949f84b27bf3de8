"""The TensorFlow back end: NumPy in, NumPy out. Keras is never imported."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

from ... import far_field
from ...config import ModelConfig, ReconstructionConfig, RuntimeConfig, TrainingConfig
from ...errors import BackendUnavailableError, PluginError, explain, out_of_memory
from ...result import ObjectImage, Sweep
from ...scan import Complex, Double, Float, Scan
from ..base import EpochCallback, Model, StepCallback
from . import refine
from .estimate import estimate
from .memory import TRANSFORMS

logger = logging.getLogger(__name__)

CPU, GPU = '/CPU:0', '/GPU:0'


class TensorFlowBackend:
    """See `base.Backend`."""

    name = 'tensorflow'

    def versions(self) -> dict[str, str]:
        """Return framework package versions."""
        return {'tensorflow': tf.__version__}

    def device(self, runtime: RuntimeConfig) -> str:
        """Return the device a run with these settings uses."""
        chosen = _device(runtime)
        if chosen == CPU:
            return 'cpu'
        details = tf.config.experimental.get_device_details(_gpus()[0])
        return f'cuda:0 ({details.get("device_name", "GPU")})'

    def train(
        self,
        scans: Sequence[Scan],
        validation: Sequence[Scan],
        model: ModelConfig,
        training: TrainingConfig,
        runtime: RuntimeConfig,
        folder: Path,
        on_epoch: EpochCallback,
        on_step: StepCallback,
        *,
        initial: Model | None = None,
        resume: bool = False,
    ) -> Model:
        """Train and return the best model."""
        from .training import train

        with _ready(runtime):
            return train(
                scans, validation, model, training, folder, on_epoch, on_step,
                on_gpu=_device(runtime) != CPU, initial=initial, resume=resume,
            )  # fmt: skip

    def estimate(
        self, scan: Scan, model: Model, reconstruction: ReconstructionConfig, runtime: RuntimeConfig
    ) -> ObjectImage:
        """Return the network's own estimate of the object."""
        with _ready(runtime):
            return estimate(scan, model)

    def refine(
        self,
        scan: Scan,
        start: ObjectImage,
        probe: Complex,
        reconstruction: ReconstructionConfig,
        runtime: RuntimeConfig,
        network: Model | None = None,
    ) -> Iterator[Sweep]:
        """Yield the state after each physics sweep."""
        on_gpu = _device(runtime) != CPU
        sweeps = refine.refine(scan, start, probe, reconstruction, network, on_gpu=on_gpu)
        while True:
            with _ready(runtime):
                sweep = next(sweeps, None)
            if sweep is None:
                return
            yield sweep

    def predict(
        self,
        scan: Scan,
        image: ObjectImage,
        probe: Complex,
        runtime: RuntimeConfig,
        intensities: Double | None = None,
    ) -> tuple[float, Callable[[int], Float]]:
        """Return (fourier_error, pattern): from the processor, also where there is a GPU, which
        took three to nine times as long as 16 cores.
        """
        with _ready(runtime):
            return far_field.predict(TRANSFORMS, scan, image, probe, intensities=intensities)


@contextmanager
def _ready(runtime: RuntimeConfig) -> Iterator[None]:
    """Set threads and device. TensorFlow flushes denormals in its own threads."""
    device = _device(runtime)
    _set_threads(runtime.threads)
    try:
        with tf.device(device):
            yield
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        if isinstance(error, PluginError):
            raise
        raise out_of_memory(error, 'cpu' if device == CPU else 'gpu') from error


def _set_threads(threads: int) -> None:
    if not threads or tf.config.threading.get_intra_op_parallelism_threads() == threads:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError:
        logger.warning('TensorFlow took its threads when it began; %d come too late', threads)


def _gpus() -> list[tf.config.PhysicalDevice]:
    found: list[tf.config.PhysicalDevice] = tf.config.list_physical_devices('GPU')
    return found


def _device(runtime: RuntimeConfig) -> str:
    present = _gpus()
    if runtime.device == 'cuda' and not present:
        raise BackendUnavailableError(
            explain(
                'No CUDA device is available to TensorFlow',
                expected='a GPU and a CUDA build of tensorflow',
                received=f'tensorflow {tf.__version__}',
                cure='Choose device cpu or auto, or install a CUDA build',
            )
        )
    return GPU if present and runtime.device != 'cpu' else CPU


def _grow() -> None:
    """Let the memory of a GPU grow with the need; others may be using it."""
    for gpu in _gpus():
        tf.config.experimental.set_memory_growth(gpu, True)


_grow()
BACKEND = TensorFlowBackend()
