"""Our own start and sweeps, through the calls that the command line makes."""

from __future__ import annotations

from collections.abc import Iterator

from contenders.race import State

from ptychopinn_plugin import pipeline
from ptychopinn_plugin.backends import registry
from ptychopinn_plugin.config import ReconstructionConfig, RuntimeConfig
from ptychopinn_plugin.scan import Scan

BACKEND = registry.load('torch')


def run(
    scan: Scan,
    update_probe: bool,
    threads: int,
    start: str = 'auto',
    slow: bool = True,
    model: str = '',
) -> Iterator[State]:
    """Yield the start (0), then every sweep; `model` is a model file for the network start."""
    settings = ReconstructionConfig(
        start=start, sweeps=100_000, slow_phase=slow, update_probe=update_probe
    )
    runtime = RuntimeConfig(backend='torch', device='cpu', threads=threads)
    steps = pipeline.iterate(
        scan, _loaded(model), backend=BACKEND, reconstruction=settings, runtime=runtime
    )
    for sweep in steps:
        yield State(sweep.number, sweep.image.object, sweep.probe)


def _loaded(model: str) -> pipeline.Model | None:
    import ptychopinn_plugin as pp

    return pp.load_model(model) if model else None
