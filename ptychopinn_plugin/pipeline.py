"""The story: scans train a model; a scan and perhaps a model give an object.

    Scan -> estimate (network), phase gradients or flat -> refine (physics sweeps) -> ObjectImage
    Scans -> Backend.train -> Model

Runs in the calling process; the framework is loaded by the first call that needs it.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from . import background, beam_intensity, starts
from .backends import registry
from .backends.base import Backend, EpochCallback, Model, StepCallback
from .config import (
    MOST_SWEEPS,
    UNROLLED,
    ModelConfig,
    ReconstructionConfig,
    RuntimeConfig,
    TrainingConfig,
    without_effect,
)
from .errors import ConfigError, DataError, require
from .learned_background import learned
from .network_weights import weight_shapes
from .position_correction import moved_scan, with_room
from .pretrained import pretrained
from .probe_modes import adjusted, dark
from .result import Reconstruction, Sweep
from .scaling import normalised_probe
from .scan import Float, Scan
from .transforms import cores
from .trials import unheard
from .uncertainty import check_halves, half_scan_frc50, halves, repeated, sigma_of

logger = logging.getLogger(__name__)

FINE_TUNING = 0.1  # of the learning rate, where weights are good already


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
    `initial` gives the weights to start from: for the architecture `unrolled` those that come with
    the plug-in, unless `training.from_scratch`.

    Raises `DataError`, `ConfigError`, `BackendUnavailableError` or `TrainingError`.
    """
    scans = [scans] if isinstance(scans, Scan) else list(scans)
    model, training = model or ModelConfig(), training or TrainingConfig()
    require(len(scans) > 0, DataError, 'There is no scan to train on')
    if ignored := without_effect(model, training):
        logger.warning('Without effect (%s, %s): %s', model.architecture, model.mode, ignored)
    if model.architecture != UNROLLED:  # which takes any size
        model = _sized(model, [*scans, *validation])
    elif not training.from_scratch:
        training = replace(training, learning_rate=max(1e-8, training.learning_rate * FINE_TUNING))
        if initial is None and not resume:
            initial = pretrained()
    if initial is not None:
        require(
            weight_shapes(initial.config) == weight_shapes(model),
            ConfigError,
            'The model to start from is another network',
            expected=f'{initial.config}',
            received=f'{model}',
            cure='Train with the settings of that model, or without it',
        )
        logger.info(
            'Starting from the weights of a model that %s trained; the optimizer begins afresh',
            initial.writer or 'nobody',
        )
    runtime = runtime or RuntimeConfig()
    backend = registry.load(runtime.backend)
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
    on_interrupt: Callable[[Sweep], None] | None = None,
    uncertainty: bool = False,
) -> Reconstruction:
    """Reconstruct the object of a scan: start, sweeps, and how well the result explains the
    patterns.

    `on_sweep` sees the start (number 0) and every sweep. `uncertainty` also reconstructs two
    simulated repeats and two halves of the scan in the same way, and the scan with twice as many
    sweeps, six to seven times as long again: `image.uncertainty` and `half_scan_frc50`. With
    `on_interrupt`, Ctrl-C after a sweep is told to it, and the result is that of the last whole
    sweep, without uncertainty. Raises as `train` does, and `ModelFileError` when the model does
    not fit.
    """
    if uncertainty:  # before the slow work
        check_halves(scan)
    runtime, clock = runtime or RuntimeConfig(), _Clock()
    backend = registry.load(runtime.backend)
    clock.lap('import')
    config = reconstruction or ReconstructionConfig()
    steps = iterate(scan, model, backend=backend, reconstruction=config, runtime=runtime)
    start = last = next(steps)
    clock.lap('start')
    on_sweep(start)
    losses = [start.loss]
    try:
        for last in steps:
            losses.append(last.loss)
            clock.lap('sweeps')
            on_sweep(last)
            clock.lap('report')
    except KeyboardInterrupt:
        if on_interrupt is None or last.number == 0:
            raise
        on_interrupt(last)
        uncertainty = False
    scan = background.told(scan, last.background)
    if config.correct_positions:
        scan = moved_scan(scan, last.positions_px, last.image.frame)
    config = replace(config, correct_positions=False, correct_background=False)
    predict = partial(backend.predict, scan, last.image, last.probe, runtime, last.intensities)
    try:
        error, pattern = predict()
    except KeyboardInterrupt:  # what is short is done again rather than the sweeps be lost
        if on_interrupt is None:
            raise
        on_interrupt(last)
        uncertainty = False
        error, pattern = predict()
    result = _explained(scan, start, last, losses, backend.name, error, pattern)
    clock.lap('evaluate')
    try:
        if uncertainty:
            result = _with_uncertainty(
                result, scan, pattern, model,
                backend=backend, reconstruction=config, runtime=runtime,
            )  # fmt: skip
            clock.lap('uncertainty')
    except KeyboardInterrupt:
        if on_interrupt is None:
            raise
        on_interrupt(last)
    return replace(result, seconds=clock.seconds())


def _explained(
    scan: Scan,
    start: Sweep,
    last: Sweep,
    losses: Sequence[float],
    backend: str,
    error: float,
    pattern: Callable[[int], Float],
) -> Reconstruction:
    """Return the result, whose fourier_error and predicted patterns are known."""
    example = len(scan) // 2
    return Reconstruction(
        image=last.image,
        probe=last.probe,
        losses=tuple(losses),
        fourier_error=error,
        start_fourier_error=start.loss,
        estimate=start.image,
        backend=backend,
        start=start.start,
        positions_px=last.positions_px,
        intensities=last.intensities,
        background=scan.background,
        example=example,
        measured=np.where(scan.bad_pixels, 0, scan.counts[example]).astype(np.float32),
        predicted=pattern(example),
    )


def _with_uncertainty(
    result: Reconstruction,
    scan: Scan,
    pattern: Callable[[int], Float],
    model: Model | None,
    *,
    backend: Backend,
    reconstruction: ReconstructionConfig,
    runtime: RuntimeConfig,
) -> Reconstruction:
    """Return the result, whose predicted counts `pattern` gives, with sigma and half-scan FRC."""
    again = partial(_last, model=model, backend=backend, runtime=runtime)
    rngs = [np.random.default_rng([reconstruction.seed, 13, k]) for k in (1, 2)]
    repeat = repeated(scan, pattern, rngs[0])
    once = again(repeat, reconstruction=reconstruction)
    expected, pattern = backend.predict(repeat, once.image, once.probe, runtime, once.intensities)
    twice = again(repeated(scan, pattern, rngs[1]), reconstruction=reconstruction)
    longer = replace(reconstruction, sweeps=min(2 * reconstruction.sweeps, MOST_SWEEPS))
    further = again(scan, reconstruction=longer)
    misfit = result.fourier_error / max(expected, 1e-12)
    sigma = sigma_of(result.image, once.image, twice.image, further.image, misfit)
    # The network would add what it expects to both halves alike.
    bare = replace(reconstruction, network_correction=False)
    half = [again(scan.take(k), reconstruction=bare) for k in halves(scan.positions_px)]
    return replace(
        result,
        image=replace(result.image, uncertainty=sigma),
        half_scan_frc50=half_scan_frc50(half[0].image, half[1].image),
    )


def _last(
    scan: Scan,
    *,
    model: Model | None,
    backend: Backend,
    reconstruction: ReconstructionConfig,
    runtime: RuntimeConfig,
) -> Sweep:
    """Return the last sweep of another scan."""
    steps = iterate(scan, model, backend=backend, reconstruction=reconstruction, runtime=runtime)
    with unheard():
        return deque(steps, maxlen=1)[0]


def iterate(
    scan: Scan,
    model: Model | None = None,
    *,
    backend: Backend,
    reconstruction: ReconstructionConfig,
    runtime: RuntimeConfig,
    start: Sweep | None = None,
) -> Iterator[Sweep]:
    """Yield the start, that of `begin` unless it is given, then every sweep."""
    known = scan.background
    if reconstruction.correct_background:
        scan = background.with_background(scan, tell=start is None)
        reconstruction = replace(reconstruction, correct_background=False)
    if start is None:
        start = begin(scan, model, reconstruction=reconstruction, runtime=runtime, backend=backend)
    yield start
    if reconstruction.correct_positions:
        scan = with_room(scan)
    network = _network(model, reconstruction)
    if scan.background != known and reconstruction.sweeps:
        scan, start = learned(scan, start, reconstruction, runtime, backend)
    yield from backend.refine(scan, start.image, start.probe, reconstruction, runtime, network)


def begin(
    scan: Scan,
    model: Model | None = None,
    *,
    reconstruction: ReconstructionConfig,
    runtime: RuntimeConfig,
    backend: Backend | None = None,
) -> Sweep:
    """Return the start as sweep number 0; its loss is its fourier_error, over a sample of patterns.

    Needs no `backend`, hence no framework, unless `starts_with_network`. Raises `DataError`, or
    `ConfigError`, also when the model does not fit.
    """
    if reconstruction.correct_background:
        scan = background.with_background(scan)
    if reconstruction.correct_positions:
        scan = with_room(scan)
    require(
        reconstruction.update_probe or not reconstruction.probe_modes,
        ConfigError,
        'Probe modes are guesses that only an update makes right',
        expected='update_probe, or probe_modes=0',
        received=f'probe_modes={reconstruction.probe_modes}, update_probe=False',
    )
    probe = normalised_probe(scan)
    if reconstruction.update_probe and (reconstruction.probe_modes or dark(probe).any()):
        probe = adjusted(probe, reconstruction.probe_modes or len(probe))
    lit = beam_intensity.with_beam(scan) if reconstruction.correct_intensities else scan
    start = _start(lit, _of_patches(model), backend, reconstruction, runtime)
    return Sweep(
        0, reconstruction.sweeps, start.image, probe, start.error, scan.positions_px, start.name,
        background=scan.background,
    )  # fmt: skip


def starts_with_network(model: Model | None, reconstruction: ReconstructionConfig) -> bool:
    """Tell whether the start is the estimate of a model, for which `begin` needs a back end."""
    name = reconstruction.start
    return name == 'network' or (name == 'auto' and _of_patches(model) is not None)


def _of_patches(model: Model | None) -> Model | None:
    """Return the model that can estimate the object, if it is one."""
    return None if model is None or model.config.architecture == UNROLLED else model


def _network(model: Model | None, config: ReconstructionConfig) -> Model | None:
    """Return the network that corrects the object between sweeps."""
    if not config.network_correction:
        return None
    if model is not None and model.config.architecture == UNROLLED:
        return model
    return pretrained()


def _start(
    scan: Scan,
    model: Model | None,
    backend: Backend | None,
    config: ReconstructionConfig,
    runtime: RuntimeConfig,
) -> starts.Start:
    """Return the start that the settings stand for."""
    threads = runtime.threads or cores()
    if starts_with_network(model, config):
        require(
            model is not None,
            ConfigError,
            'The network start needs a model of the architecture autoencoder',
            cure='Give such a model file, or choose another start',
        )
        assert model is not None
        _check_fit(scan, model)
        assert backend is not None
        name, image = 'network', backend.estimate(scan, model, config, runtime)
    elif config.start == 'flat':
        name, image = 'flat', starts.flat_start(scan)
    elif config.start == 'gradients':
        name, image = 'gradients', starts.gradient_start(scan, threads=threads)
    else:
        return starts.best_start(scan, threads)
    (error,) = starts.sampled_errors(scan, image, threads=threads)
    return starts.Start(name, image, error)


def _sized(model: ModelConfig, scans: Sequence[Scan]) -> ModelConfig:
    sides = sorted({scan.side_px for scan in scans})
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
