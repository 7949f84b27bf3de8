"""What a back end is: NumPy in, NumPy out. No framework is imported here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..config import ModelConfig, ReconstructionConfig, RuntimeConfig, TrainingConfig
from ..result import Epoch, ObjectImage, Sweep
from ..scan import Complex, Double, Float, Scan

Weights = dict[str, Float]


@dataclass(frozen=True, eq=False)
class Model:
    """A trained network, independent of the framework that trained it.

    weights  canonical name -> float32 array, names and layouts as `network_weights` fixes them
    history  one `Epoch` per finished epoch
    writer   'torch' or 'tensorflow': who trained it
    summary  JSON-ready facts about the training (patterns, scans, best epoch, stopped early, ...)
    """

    config: ModelConfig
    weights: Weights
    training: TrainingConfig = field(default_factory=TrainingConfig)
    history: tuple[Epoch, ...] = ()
    writer: str = ''
    summary: Mapping[str, Any] = field(default_factory=dict)


EpochCallback = Callable[[Epoch], None]
StepCallback = Callable[[float], None]


class StopTraining(Exception):
    """Raised by a callback of `train` to end the training and keep the best model so far."""


class Backend(Protocol):
    """Train, estimate and refine. Long things are generators or call back; cancelling is raising in
    the callback.
    """

    name: str

    def versions(self) -> dict[str, str]:
        """Return framework package versions."""

    def device(self, runtime: RuntimeConfig) -> str:
        """Return the device a run with these settings uses, e.g. 'cpu' or 'cuda:0 (NVIDIA ...)'."""

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
        """Train and return the best model; checkpoints and logs go to `folder`.

        `on_epoch` is called after every epoch, `on_step` after every batch with the share of the
        training done. `StopTraining` raised by either ends the training with the best model so far
        (`TrainingError` when no epoch has finished); any other exception passes through.
        """

    def estimate(
        self, scan: Scan, model: Model, reconstruction: ReconstructionConfig, runtime: RuntimeConfig
    ) -> ObjectImage:
        """Return the network's own estimate of the object in the scan's frame, patches stitched."""

    def refine(
        self,
        scan: Scan,
        start: ObjectImage,
        probe: Complex,
        reconstruction: ReconstructionConfig,
        runtime: RuntimeConfig,
        network: Model | None = None,
    ) -> Iterator[Sweep]:
        """Yield the state after each physics sweep from `start` with the normalised `probe` (P, N,
        N). `network`, of the architecture `unrolled`, corrects the object where `sweep_plan` says.
        """

    def predict(
        self,
        scan: Scan,
        image: ObjectImage,
        probe: Complex,
        runtime: RuntimeConfig,
        intensities: Double | None = None,
    ) -> tuple[float, Callable[[int], Float]]:
        """Return (fourier_error, pattern) where pattern(row) is the predicted pattern (N, N) in
        counts, for the beam's relative intensities (M,), the same for all when not given.
        """
