"""Our own start and sweeps, through the calls that the command line makes."""

from __future__ import annotations

from collections.abc import Iterator

from contenders.race import State

from ptychopinn_plugin import pipeline
from ptychopinn_plugin.backends import registry
from ptychopinn_plugin.backends.base import Model
from ptychopinn_plugin.config import ReconstructionConfig, RuntimeConfig
from ptychopinn_plugin.pretrained import pretrained
from ptychopinn_plugin.scan import Scan

BACKEND = registry.load('torch')
pretrained()  # as modules are: before the clock starts


def run(
    scan: Scan,
    update_probe: bool,
    threads: int,
    device: str,
    start: str = 'auto',
    slow: bool = True,
    correction: bool = True,
    model: str = '',
) -> Iterator[State]:
    """Yield the result of whole runs of more and more sweeps, since their steps depend on how many
    there are to be; `model` is a model file for the network start.
    """
    runtime = RuntimeConfig(backend='torch', device=device, threads=threads)
    network = _loaded(model)
    sweeps = 2
    while True:
        settings = ReconstructionConfig(
            start=start, sweeps=sweeps, slow_phase=slow, update_probe=update_probe,
            network_correction=correction,
        )  # fmt: skip
        *_, last = pipeline.iterate(
            scan, network, backend=BACKEND, reconstruction=settings, runtime=runtime
        )
        yield State(last.number, last.image.object, last.probe, whole=True)
        sweeps = max(sweeps + 1, int(1.25 * sweeps))


def _loaded(model: str) -> Model | None:
    import ptychopinn_plugin as pp

    return pp.load_model(model) if model else None
