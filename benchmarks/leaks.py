"""What many runs leave behind in one host: memory, processes, threads, open files, temporary files.

    python benchmarks/leaks.py [--reconstructions 50] [--trainings 10] [--patterns 1000]

One Ptychodus without a window runs them all and drops each product. What it holds is first taken
after two of each, when all it loads once has been loaded; the pairs are (then, at the end). Prints
a line per run and a JSON object last. Needs /proc.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import tempfile
import threading
from pathlib import Path

from ptychopinn_plugin.files import save_scan
from ptychopinn_plugin.host import attach
from ptychopinn_plugin.simulate import Simulation, simulate_scan

ALGORITHM = 'ptychopinn-plugin_pinn'
WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--reconstructions', type=int, default=50)
    parser.add_argument('--trainings', type=int, default=10)
    parser.add_argument('--patterns', type=int, default=1000)
    parser.add_argument('--backend', default='auto')
    options = parser.parse_args()
    os.environ.setdefault('QT_QPA_PLATFORM', 'offscreen')
    with tempfile.TemporaryDirectory() as name:
        folder, temporary = Path(name), Path(name) / 'temporary'
        temporary.mkdir()
        (folder / 'in').mkdir()
        os.environ['TMPDIR'] = tempfile.tempdir = str(temporary)
        save_scan(simulate_scan(Simulation(patterns=options.patterns, seed=5)), folder / 'in')
        found = _runs(folder, options)
        found['temporary'] = (0, len(list(temporary.iterdir())))
    print(json.dumps(vars(options) | found))


def _runs(folder: Path, options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    from ptychodus.model import ModelCore

    if not attach():
        raise SystemExit('the plug-in did not attach to Ptychodus')
    with ModelCore(log_level=logging.ERROR) as core:
        settings = core.settings_registry
        for group, key, value in (
            ('Runtime', 'Backend', options.backend),
            ('Reconstruction', 'Sweeps', 2),
            ('Training', 'Epochs', 1),
            ('Model', 'NFiltersScale', 1),
        ):
            settings[f'PtychoPINNPlugin{group}'].parameters()[key].set_value(value)
        workflow = core.workflow_api
        data = workflow.load_assembled_diffraction_data(folder / 'in' / 'diffraction.h5')
        product = workflow.load_product(folder / 'in' / 'product.h5', diffraction=data)
        repository = core.product_core.product_repository

        def reconstruct(_: int) -> None:
            made = product.reconstruct_local(algorithm=ALGORITHM, block=True)
            repository.remove_product(made.get_product_index())

        def train(number: int) -> None:
            out = folder / f'out-{number}'
            out.mkdir()
            product.train_reconstructor_local(folder / 'in', out, algorithm=ALGORITHM, block=True)
            if not list(out.glob('*.zip')):
                raise SystemExit('a training has left no model')

        runs = WARM_UP * [reconstruct, train]
        warm = len(runs)
        share = options.reconstructions / max(options.trainings, 1)
        for number in range(options.trainings):
            runs += [train] + [reconstruct] * (round(share * (number + 1)) - round(share * number))
        for number, run in enumerate(runs, 1):
            run(number)
            now = _held()
            if number == warm:
                before = now
            print(number, run.__name__, *(f'{k} {v:.4g}' for k, v in now.items()), flush=True)
    return {key: (value, now[key]) for key, value in before.items()}


def _held() -> dict[str, float]:
    gc.collect()
    own = Path('/proc/self')
    status = dict(line.split(':', 1) for line in (own / 'status').read_text().splitlines())
    tasks = [task.name for task in (own / 'task').iterdir()]
    started = ' '.join((own / 'task' / t / 'children').read_text() for t in tasks).split()
    return {
        'megabytes': int(status['VmRSS'].split()[0]) * 1024 / 1e6,
        'processes': len(started),
        'threads': threading.active_count(),
        'system_threads': len(tasks),
        'open_files': len(list((own / 'fd').iterdir())),
    }


if __name__ == '__main__':
    main()
