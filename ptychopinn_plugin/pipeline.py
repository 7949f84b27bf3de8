"""The story: scans train a model; a scan and perhaps a model give an object.

    Scan -> estimate (network), phase gradients or flat -> refine (physics sweeps) -> ObjectImage
    Scans -> Backend.train -> Model

Runs in the calling process; the framework is loaded by the first call that needs it.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from . import reference
from .backends import registry
from .backends.base import Backend, EpochCallback, Model, StepCallback
from .config import ModelConfig, ReconstructionConfig, RuntimeConfig, TrainingConfig
from .errors import ConfigError, DataError, require
from .geometry import relative_illumination, windows
from .probe_modes import adjusted
from .result import ObjectImage, Reconstruction, Sweep
from .scaling import amplitudes, flat_transmission, normalised_probe
from .scan import Scan
from .slow_phase import first_phase
from .uncertainty import HalfScans, halves, judge

logger = logging.getLogger(__name__)

SAMPLE = 64
LEAST_PATTERNS = 16


def train(
    scans: Scan | Sequence[Scan],
    *,
    validation: Sequence[Scan] = (),
    model: ModelConfig | None = None,
    training: TrainingConfig | None = None,
    runtime: RuntimeConfig | None = None,
    folder: Path | None = None,
    on_epoch: EpochCallback = lambda epoch: None,
    on_step: StepCallback = lambda share: None,
    initial: Model | None = None,
    resume: bool = False,
) -> Model:
    """Train a network on one or several scans and return the best model.

    Without `validation`, `training.validation_fraction` of the patterns is held out. The pattern
    size is that of the scans. `folder` receives checkpoints and logs and is needed to `resume`;
    `initial` gives the weights to start from.

    Raises `DataError`, `ConfigError`, `BackendUnavailableError` or `TrainingError`.
    """
    scans = [scans] if isinstance(scans, Scan) else list(scans)
    model = _sized(model or ModelConfig(), [*scans, *validation])
    if initial is not None:
        require(
            initial.config == model,
            ConfigError,
            'The model to start from is another network',
            expected=f'{initial.config}',
            received=f'{model}',
        )
    runtime, training = runtime or RuntimeConfig(), training or TrainingConfig()
    backend = registry.load(runtime.backend)
    if initial is not None:
        logger.info(
            'Starting from the weights of a model that %s trained; the optimizer begins afresh',
            initial.writer or 'nobody',
        )
    with tempfile.TemporaryDirectory(prefix='ptychopinn-') as scratch:
        trained = backend.train(
            scans, validation, model, training, runtime, folder or Path(scratch), on_epoch, on_step,
            initial=initial, resume=resume,
        )  # fmt: skip
    return replace(trained, summary={**trained.summary, 'versions': backend.versions()})


def reconstruct(
    scan: Scan,
    model: Model | None = None,
    *,
    reconstruction: ReconstructionConfig | None = None,
    runtime: RuntimeConfig | None = None,
    on_sweep: Callable[[Sweep], None] = lambda sweep: None,
    uncertainty: bool = False,
) -> Reconstruction:
    """Reconstruct the object of a scan: start, sweeps, and how well the result explains the
    patterns.

    `on_sweep` sees the start (number 0) and every sweep. `uncertainty` also reconstructs two half
    scans in the same way and compares them, which takes as long again: `image.uncertainty` and
    `half_scan_frc50`. Raises as `train` does, and `ModelFileError` when the model does not fit.
    """
    if uncertainty:  # before the slow work
        require(
            len(scan) >= LEAST_PATTERNS,
            DataError,
            'The scan has too few patterns to be halved',
            expected=f'at least {LEAST_PATTERNS} patterns',
            received=f'{len(scan)} patterns',
            cure='Reconstruct without uncertainty',
        )
    runtime = runtime or RuntimeConfig()
    clock = _Clock()
    backend = registry.load(runtime.backend)
    clock.lap('import')
    config = reconstruction or ReconstructionConfig()
    steps = iterate(scan, model, backend=backend, reconstruction=config, runtime=runtime)
    start = last = next(steps)
    clock.lap('start')
    on_sweep(start)
    losses = [start.loss]
    for last in steps:
        losses.append(last.loss)
        clock.lap('sweeps')
        on_sweep(last)
        clock.lap('report')
    error, pattern = backend.predict(scan, last.image, last.probe, runtime)
    example = len(scan) // 2
    result = Reconstruction(
        image=last.image,
        probe=last.probe,
        losses=tuple(losses),
        fourier_error=error,
        start_fourier_error=start.loss,
        estimate=start.image,
        backend=backend.name,
        start=start.start,
        example=example,
        measured=np.where(scan.bad_pixels, 0, scan.counts[example]).astype(np.float32),
        predicted=pattern(example),
    )
    clock.lap('evaluate')
    if uncertainty:
        found = half_scans(scan, model, backend=backend, reconstruction=config, runtime=runtime)
        image = replace(result.image, uncertainty=found.uncertainty)
        result = replace(result, image=image, half_scan_frc50=found.frc50)
        clock.lap('uncertainty')
    return replace(result, seconds=clock.seconds())


def half_scans(
    scan: Scan,
    model: Model | None = None,
    *,
    backend: Backend,
    reconstruction: ReconstructionConfig,
    runtime: RuntimeConfig,
) -> HalfScans:
    """Reconstruct two halves of a scan as the whole would be, and compare them."""
    images = []
    for rows in halves(scan.positions_px):
        *_, last = iterate(
            scan.take(rows), model,
            backend=backend, reconstruction=reconstruction, runtime=runtime,
        )  # fmt: skip
        images.append(last.image)
    return judge(images[0], images[1])


def iterate(
    scan: Scan,
    model: Model | None = None,
    *,
    backend: Backend,
    reconstruction: ReconstructionConfig,
    runtime: RuntimeConfig,
) -> Iterator[Sweep]:
    """Yield the start (number 0, its loss is its fourier_error), then every sweep."""
    probe = normalised_probe(scan)
    if reconstruction.probe_modes:
        require(
            reconstruction.update_probe,
            ConfigError,
            'Probe modes are guesses that only an update makes right',
            expected='update_probe, or probe_modes=0',
            received=f'probe_modes={reconstruction.probe_modes}, update_probe=False',
        )
        probe = adjusted(probe, reconstruction.probe_modes)
    name, image = _start(scan, model, backend, reconstruction, runtime)
    error, _ = backend.predict(scan, image, probe, runtime)
    yield Sweep(0, reconstruction.sweeps, image, probe, error, name)
    yield from backend.refine(scan, image, probe, reconstruction, runtime)


def _start(
    scan: Scan,
    model: Model | None,
    backend: Backend,
    config: ReconstructionConfig,
    runtime: RuntimeConfig,
) -> tuple[str, ObjectImage]:
    """Return which start the settings stand for, and its image."""
    if config.start == 'network' or (config.start == 'auto' and model is not None):
        require(
            model is not None,
            ConfigError,
            'The network start needs a model',
            cure='Give a model file, or choose another start',
        )
        assert model is not None
        _check_fit(scan, model)
        return 'network', backend.estimate(scan, model, config, runtime)
    flat = flat_start(scan)
    if config.start == 'flat':
        return 'flat', flat
    image = gradient_start(scan)
    if config.start == 'auto' and sampled_error(scan, flat) <= sampled_error(scan, image):
        logger.info('Starting flat: the phase gradients of the patterns do not fit better')
        return 'flat', flat
    return 'gradients', image


def flat_start(scan: Scan) -> ObjectImage:
    """Return the flat object that predicts the mean counts per frame."""
    value = np.complex64(flat_transmission(scan))
    weight = relative_illumination(scan, scan.probe)
    return ObjectImage(np.full(scan.frame.shape, value), weight, scan.frame.origin_px)


def gradient_start(scan: Scan) -> ObjectImage:
    """Return the flat object with the phase that the displacements of the patterns give."""
    flat, phase = flat_start(scan), first_phase(scan, normalised_probe(scan))
    turned = flat.object * np.exp(1j * phase)
    return replace(flat, object=turned.astype(np.complex64))


def sampled_error(scan: Scan, image: ObjectImage) -> float:
    """Return the fourier_error of an image over at most `SAMPLE` patterns, far from one another."""
    rows = np.linspace(0, len(scan) - 1, min(len(scan), SAMPLE)).astype(int)
    at = windows(scan, image.frame)
    patches = reference.extract(image.object, at.corner_px[rows], scan.side_px)
    probes = reference.shift_probe(normalised_probe(scan), at.shift_px[rows])
    miss = np.sqrt(reference.diffract(patches, probes)) - amplitudes(scan.counts[rows])
    miss = miss[:, ~scan.bad_pixels]
    return float((miss**2).sum() / max(scan.totals[rows].sum(), 1))


def _sized(model: ModelConfig, scans: Sequence[Scan]) -> ModelConfig:
    sides = sorted({scan.side_px for scan in scans})
    require(len(sides) > 0, DataError, 'There is no scan to train on')
    require(
        len(sides) == 1,
        DataError,
        'The scans have patterns of different sizes',
        expected='one pattern size',
        received=', '.join(f'{scan.name}: N={scan.side_px}' for scan in scans),
        cure='Train on scans of one size, or crop them to it',
    )
    return replace(model, pattern_size_px=sides[0])


def _check_fit(scan: Scan, model: Model) -> None:
    require(
        model.config.pattern_size_px == scan.side_px,
        ConfigError,
        'The model was trained on patterns of another size',
        expected=f'N={model.config.pattern_size_px}',
        received=f'{scan.name}: N={scan.side_px}',
        cure='Train a model on this pattern size, or choose the flat start',
    )


class _Clock:
    """Seconds since the last lap, added up by name."""

    def __init__(self) -> None:
        self._begun = self._last = time.perf_counter()
        self._laps: dict[str, float] = {'sweeps': 0.0}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._laps[name] = self._laps.get(name, 0.0) + now - self._last
        self._last = now

    def seconds(self) -> dict[str, float]:
        return {**self._laps, 'total': self._last - self._begun}
