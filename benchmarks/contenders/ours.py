"""Our autoencoder through the back end's own calls. Arguments: side, seconds, patterns, batch."""

from __future__ import annotations

import json
import sys
import time

BEGUN = time.perf_counter()
SIDE, SECONDS, PATTERNS, BATCH = (
    int(sys.argv[1]),
    float(sys.argv[2]),
    int(sys.argv[3]),
    int(sys.argv[4]),
)

import tempfile  # noqa: E402 - the clock starts before the imports that it times
from pathlib import Path  # noqa: E402

from ptychopinn_plugin.backends import registry  # noqa: E402
from ptychopinn_plugin.backends.base import StopTraining  # noqa: E402
from ptychopinn_plugin.cli.numbers import peak_memory_bytes  # noqa: E402
from ptychopinn_plugin.config import (  # noqa: E402
    ModelConfig,
    ReconstructionConfig,
    RuntimeConfig,
    TrainingConfig,
)

BACKEND = registry.load('torch')
INFERENCE_START = time.perf_counter() - BEGUN


def main() -> None:
    """Train for SECONDS, estimate, print."""
    from ptychopinn_plugin.simulate import Simulation, simulate_scan

    scan = simulate_scan(
        Simulation(pattern_size_px=SIDE, object_size_px=4 * SIDE, patterns=PATTERNS)
    )
    runtime = RuntimeConfig(device='cpu')
    steps: list[float] = []

    def step(_: float) -> None:
        steps.append(time.perf_counter())

    def stop(_: object) -> None:
        if steps[-1] - steps[0] > SECONDS:
            raise StopTraining

    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model = BACKEND.train(
            [scan], [], ModelConfig(architecture='autoencoder', pattern_size_px=SIDE),
            TrainingConfig(epochs=1000, batch_size=BATCH, validation_fraction=0.0),
            runtime, Path(folder), stop, step,
        )  # fmt: skip
    first = steps[0] - begun
    per_step = (steps[-1] - steps[0]) / (len(steps) - 1)
    times = []
    for _ in range(2):
        begun = time.perf_counter()
        BACKEND.estimate(scan, model, ReconstructionConfig(), runtime)
        times.append(time.perf_counter() - begun)
    print(
        json.dumps(
            {
                'training_patterns_per_s': BATCH / per_step,
                'inference_patterns_per_s': PATTERNS / min(times),
                'inference_start_s': INFERENCE_START,
                'training_start_s': INFERENCE_START + first - per_step,
                'peak_memory_bytes': peak_memory_bytes(),
            }
        )
    )


if __name__ == '__main__':
    main()
