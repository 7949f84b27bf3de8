"""What the network buys at equal time: sweeps with it against sweeps without it that may go on for
as long.

    python benchmarks/equal_time.py [--seeds 2] [--first-seed 7001] [--repeats 3] [--only raster]

Five kinds of scans, one of them of three specimens, each with several seeds. For every number of
sweeps the least time of some repeats and the phase SSIM are taken with and without the network; the
quality without it at the time that it took with it is interpolated. Prints a line per scan and
number, and a JSON object last.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from itertools import product

import numpy as np

from ptychopinn_plugin import pipeline
from ptychopinn_plugin.backends import registry
from ptychopinn_plugin.config import ReconstructionConfig, RuntimeConfig
from ptychopinn_plugin.metrics import compare
from ptychopinn_plugin.scan import Scan
from ptychopinn_plugin.simulate import Simulation, simulate_scan

SWEEPS = (4, 6, 8, 10, 14, 20, 28)
LONGER = (40, 56, 80)  # without the network, to last as long as with it
CASES = {
    'dense, 1e6 photons': Simulation(specimen='photographs', patterns=1000),
    '3e4 photons': Simulation(specimen='photographs', patterns=600, photons_per_frame=3e4),
    **{
        f'18 px raster of {name}': Simulation(
            specimen=name, patterns=144, object_size_px=262, scan='raster'
        )
        for name in ('lines', 'leaves', 'photographs')
    },
    'N = 128, zone plate': Simulation(
        specimen='leaves',
        pattern_size_px=128,
        object_size_px=360,
        patterns=500,
        photons_per_frame=2e5,
    ),
    'lines': Simulation(specimen='lines', patterns=1000),
}
BACKEND = registry.load('torch')
RUNTIME = RuntimeConfig(device='cpu')


def measured(scan: Scan, repeats: int) -> dict[bool, dict[int, tuple[float, float]]]:
    """Return (seconds, phase SSIM) with and without the network for each number of sweeps. The
    repeats go round all of them, so that a machine that slows down slows all alike.
    """
    assert scan.true_object is not None
    found: dict[bool, dict[int, tuple[float, float]]] = {True: {}, False: {}}
    for _ in range(repeats):
        for network, sweeps in product((True, False), SWEEPS + LONGER):
            if network and sweeps in LONGER:
                continue
            config = ReconstructionConfig(sweeps=sweeps, network_correction=network)
            begun = time.perf_counter()
            *_, last = pipeline.iterate(
                scan, backend=BACKEND, reconstruction=config, runtime=RUNTIME
            )
            took = time.perf_counter() - begun
            if sweeps in found[network]:
                least, quality = found[network][sweeps]
                found[network][sweeps] = min(least, took), quality
            else:
                quality = compare(last.image.object, scan.true_object, last.image.weight).phase_ssim
                found[network][sweeps] = took, quality
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, default=2)
    parser.add_argument('--first-seed', type=int, default=7001)
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--only', default='', help='cases whose name has this in it')
    args = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {}
    chosen = {name: settings for name, settings in CASES.items() if args.only in name}
    for name, settings in chosen.items():
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            scan = simulate_scan(replace(settings, seed=seed))
            both = measured(scan, args.repeats)
            seconds, quality = zip(*sorted(both[False].values()), strict=True)
            for sweeps, (took, found) in both[True].items():
                alone = float(np.interp(took, seconds, quality))
                print(
                    f'{name}, seed {seed}, {sweeps:2d} sweeps, {took:.2f} s: {found:.4f} with, '
                    f'{alone:.4f} without, {found - alone:+.4f}'
                )
                results.setdefault(name, []).append(
                    {'seed': seed, 'sweeps': sweeps, 's': took, 'with': found, 'without': alone}
                )
    print(json.dumps(results))


if __name__ == '__main__':
    main()
