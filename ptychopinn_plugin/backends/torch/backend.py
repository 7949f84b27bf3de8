"""The PyTorch back end: NumPy in, NumPy out. Lightning loads only when training begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from ...config import ModelConfig, ReconstructionConfig, RuntimeConfig, TrainingConfig
from ...errors import BackendUnavailableError, explain
from ...result import ObjectImage, Sweep
from ...scan import Complex, Float, Scan
from ..base import EpochCallback, Model, StepCallback
from . import evaluate, refine
from .estimate import estimate


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

        return train(
            scans, validation, model, training, folder, on_epoch, on_step,
            device=_prepare(runtime), initial=initial, resume=resume,
        )  # fmt: skip

    def estimate(
        self, scan: Scan, model: Model, reconstruction: ReconstructionConfig, runtime: RuntimeConfig
    ) -> ObjectImage:
        """Return the network's own estimate of the object."""
        return estimate(scan, model, _prepare(runtime))

    def refine(
        self,
        scan: Scan,
        start: ObjectImage,
        probe: Complex,
        reconstruction: ReconstructionConfig,
        runtime: RuntimeConfig,
    ) -> Iterator[Sweep]:
        """Yield the state after each physics sweep."""
        return refine.refine(scan, start, probe, reconstruction, _prepare(runtime))

    def predict(
        self, scan: Scan, image: ObjectImage, probe: Complex, runtime: RuntimeConfig
    ) -> tuple[float, Callable[[int], Float]]:
        """Return (fourier_error, pattern)."""
        return evaluate.predict(scan, image, probe, _prepare(runtime))


def _prepare(runtime: RuntimeConfig) -> torch.device:
    """Set threads and flush denormals (they slow CPU sweeps by a factor of 40); return the
    device.
    """
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    torch.set_flush_denormal(True)
    return _device(runtime)


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
