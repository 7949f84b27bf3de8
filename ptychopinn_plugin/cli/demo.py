"""The whole story in a few minutes: simulate, train, save, load in a new process, reconstruct a
held-out scan.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .. import archive, files, pipeline
from ..atomic import make_folder
from ..config import RuntimeConfig, TrainingConfig
from ..errors import PluginError, explain
from ..simulate import Simulation, simulate_scan
from .progress import Bar, say

EPOCHS = 8
TRAINING = Simulation(specimen='leaves', patterns=400, seed=1)
HELD_OUT = Simulation(specimen='photographs', patterns=600, seed=2)
SWEEPS = 20


def run(folder: Path, runtime: RuntimeConfig) -> dict[str, Any]:
    """Run the demo in `folder` and return what it reached."""
    begun = time.perf_counter()
    make_folder(folder)
    scan, model = folder / 'held_out.npz', folder / 'model.h5.zip'
    training_scan = simulate_scan(TRAINING)
    files.save_scan(training_scan, folder / 'training.npz')
    files.save_scan(simulate_scan(HELD_OUT), scan)
    say(f'Simulated two scans in {folder}')
    with Bar('Training', EPOCHS) as bar:
        trained = pipeline.train(
            training_scan,
            training=TrainingConfig(epochs=EPOCHS, batch_size=8),
            runtime=runtime,
            on_epoch=lambda e: bar.move(e.number, f'epoch {e.number} loss {e.training_loss:.4g}'),
            on_step=lambda share: bar.move(share * EPOCHS),
        )
    archive.save_model(trained, model)
    report = _reconstruct(scan, model, folder, runtime)
    report['training_loss'] = [e.training_loss for e in trained.history]
    report['seconds'] = {**report['seconds'], 'demo': time.perf_counter() - begun}
    say(
        f'phase SSIM {report["phase_ssim"]:.4f} in {report["seconds"]["total"]:.1f} s '
        f'(whole demo {report["seconds"]["demo"]:.0f} s); look at {report["figure"]}'
    )
    return report


def _reconstruct(scan: Path, model: Path, folder: Path, runtime: RuntimeConfig) -> dict[str, Any]:
    """Reconstruct in a new process, as a user would the next day."""
    command = [
        sys.executable, '-m', 'ptychopinn_plugin', 'reconstruct', str(scan), '--model', str(model),
        '--sweeps', str(SWEEPS), '--backend', runtime.backend, '--device', runtime.device,
        '--output', str(folder / 'product.h5'), '--figure', str(folder / 'figure.png'), '--json',
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise PluginError(
            explain(
                'The reconstruction failed',
                received=f'exit code {done.returncode}',
                cure='See above',
            )
        )
    report: dict[str, Any] = json.loads(lines[-1])
    return report
