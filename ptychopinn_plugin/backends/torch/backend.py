"""The PyTorch back end: NumPy in, NumPy out. Lightning loads only when training begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch

from ...config import ModelConfig, ReconstructionConfig, RuntimeConfig, TrainingConfig
from ...errors import BackendUnavailableError, PluginError, explain, out_of_memory
from ...result import ObjectImage, Sweep
from ...scan import Complex, Double, Float, Scan
from ..base import EpochCallback, Model, StepCallback
from . import evaluate, refine
from .estimate import estimate
from .transforms import flushing_denormals


class TorchBackend:
    """See `base.Backend`."""

    name = 'torch'

    def versions(self) -> dict[str, str]:
        """Return framework package versions."""
        return {'torch': torch.__version__, 'lightning': version('lightning')}

    def device(self, runtime: RuntimeConfig) -> str:
        """Return the device a run with these settings uses."""
        chosen = _device(runtime)
        if chosen.type == 'cuda':
            return f'cuda:{chosen.index or 0} ({torch.cuda.get_device_name(chosen)})'
        return 'cpu'

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

        with _ready(runtime) as device:
            return train(
                scans, validation, model, training, folder, on_epoch, on_step,
                device=device, initial=initial, resume=resume,
            )  # fmt: skip

    def estimate(
        self, scan: Scan, model: Model, reconstruction: ReconstructionConfig, runtime: RuntimeConfig
    ) -> ObjectImage:
        """Return the network's own estimate of the object."""
        with _ready(runtime) as device:
            return estimate(scan, model, device)

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
        sweeps = refine.refine(scan, start, probe, reconstruction, _device(runtime), network)
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
        """Return (fourier_error, pattern)."""
        with _ready(runtime) as device:
            error, pattern = evaluate.predict(scan, image, probe, device, intensities)
        return error, pattern


@contextmanager
def _ready(runtime: RuntimeConfig) -> Iterator[torch.device]:
    """Set threads and flush denormals."""
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    device = _device(runtime)
    try:
        with flushing_denormals():
            yield device
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, PluginError) or not _for_want_of_memory(error):
            raise
        raise out_of_memory(error, device.type) from error


def _for_want_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return 'DefaultCPUAllocator' in str(error)  # a RuntimeError like any other


def _device(runtime: RuntimeConfig) -> torch.device:
    present = torch.cuda.is_available()
    if runtime.device == 'cuda' and not present:
        raise BackendUnavailableError(
            explain(
                'No CUDA device is available to PyTorch',
                expected='a GPU and a CUDA build of torch',
                received=f'torch {torch.__version__}',
                cure='Choose device cpu or auto, or install a CUDA build',
            )
        )
    return torch.device('cuda' if present and runtime.device != 'cpu' else 'cpu')


BACKEND = TorchBackend()
