"""From pressing Infer to the first picture and to the last one, inside a running Ptychodus.

    python benchmarks/first_picture.py [--patterns 1000] [--sweeps 10] [--runs 5]

The first run is cold: the host has just started, nothing of the frameworks is in memory, though
the files may be in the system's cache. The runs after it are what a user waits for at the next
scan. Prints a line per run and a JSON object last; the quality is that of each run's last picture.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from ptychopinn_plugin.files import save_scan
from ptychopinn_plugin.geometry import relative_illumination
from ptychopinn_plugin.host import attach
from ptychopinn_plugin.metrics import compare
from ptychopinn_plugin.simulate import Simulation, simulate_scan

ALGORITHM = 'ptychopinn-plugin_pinn'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--patterns', type=int, default=1000)
    parser.add_argument('--sweeps', type=int, default=10)
    parser.add_argument('--runs', type=int, default=5)
    options = parser.parse_args()
    os.environ.setdefault('QT_QPA_PLATFORM', 'offscreen')
    scan = simulate_scan(Simulation(specimen='leaves', patterns=options.patterns, seed=77))
    from ptychodus.model import ModelCore

    if not attach():
        raise SystemExit('the plug-in did not attach to Ptychodus')
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name, ModelCore(log_level=logging.WARNING) as core:
        save_scan(scan, Path(name))
        workflow = core.workflow_api
        data = workflow.load_assembled_diffraction_data(Path(name) / 'diffraction.h5')
        product = workflow.load_product(Path(name) / 'product.h5', diffraction=data)
        api = core.processing_core.processing_api
        api.set_reconstructor_if_provided(ALGORITHM)
        settings = core.settings_registry['PtychoPINNPluginReconstruction'].parameters()
        settings['Sweeps'].set_value(options.sweeps)
        parameters = api.get_reconstruct_input(product_index=product.get_product_index())
        reconstructor = api._algorithm_parameter.get_current_reconstructor()
        for number in range(1, options.runs + 1):
            rows.append(_run(reconstructor, parameters, scan))
            print(number, *(f'{key} {value:.3f}' for key, value in rows[-1].items()), flush=True)
    print(json.dumps({'patterns': options.patterns, 'sweeps': options.sweeps, 'runs': rows}))


def _run(reconstructor: Any, parameters: Any, scan: Any) -> dict[str, float]:
    begun = time.perf_counter()
    first = 0.0
    for output in reconstructor.reconstruct(parameters):
        first = first or time.perf_counter() - begun
        last = output.product.object_.get_array()[0]
    seconds = time.perf_counter() - begun
    score = compare(last, scan.true_object, relative_illumination(scan, scan.probe))
    return {'first_s': first, 'last_s': seconds, 'phase_ssim': score.phase_ssim}


if __name__ == '__main__':
    main()
