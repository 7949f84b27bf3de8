"""Sweeps against the limit they cannot pass: one fft2 and one ifft2 per pattern, measured in the
same run.

    python benchmarks/sweeps.py [--sweeps 20] [--threads 0] [SCAN ...]

Prints a line per scan and a JSON object last: patterns/s of the median sweep, the same for the bare
pair of transforms of the same stack, their ratio, quality after the sweeps, seconds. Without SCAN,
simulated scans of several objects, probes, sizes and doses are used.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from ptychopinn_plugin import files, starts
from ptychopinn_plugin.backends.torch.backend import BACKEND
from ptychopinn_plugin.config import ReconstructionConfig, RuntimeConfig
from ptychopinn_plugin.metrics import compare
from ptychopinn_plugin.scaling import normalised_probe
from ptychopinn_plugin.scan import Scan
from ptychopinn_plugin.simulate import Simulation, simulate_scan

CASES = {
    'photographs 64 1e6': Simulation(specimen='photographs', seed=11),
    'leaves 64 1e5': Simulation(specimen='leaves', photons_per_frame=1e5, seed=12),
    'lines 64 raster airy': Simulation(specimen='lines', probe='airy', scan='raster', seed=13),
    'field 64 3 modes': Simulation(specimen='field', modes=3, seed=14),
    'leaves 128 spiral': Simulation(
        specimen='leaves',
        pattern_size_px=128,
        object_size_px=384,
        patterns=500,
        scan='spiral',
        seed=15,
    ),
}


class Transforms:
    """One fft2 and one ifft2 of every pattern of a scan and mode, into memory that is there."""

    def __init__(self, scan: Scan, modes: int) -> None:
        shape = len(scan), scan.side_px, scan.side_px
        self.stack = torch.randn(shape, dtype=torch.complex64)
        self.far, self.near = torch.empty_like(self.stack), torch.empty_like(self.stack)
        self.modes = modes

    def seconds(self) -> float:
        """Return how long they take."""
        begun = time.perf_counter()
        for _ in range(self.modes):
            torch.fft.ifft2(torch.fft.fft2(self.stack, out=self.far), out=self.near)
        return time.perf_counter() - begun


def measure(scan: Scan, sweeps: int, runtime: RuntimeConfig) -> dict[str, float]:
    """Return throughput, limit and quality of one scan: after every sweep the transforms alone are
    timed, so that both meet the same machine.
    """
    probe, start = normalised_probe(scan), starts.flat_start(scan)
    config = ReconstructionConfig(start='flat', sweeps=sweeps)
    transforms = Transforms(scan, len(probe))
    transforms.seconds()
    swept, bare, begun = [], [], time.perf_counter()
    for sweep in BACKEND.refine(scan, start, probe, config, runtime):
        last = sweep
        swept.append(time.perf_counter() - begun)
        bare.append(transforms.seconds())
        begun = time.perf_counter()
    steady, limit = float(np.median(swept[1:])), len(scan) / float(np.median(bare))
    error, _ = BACKEND.predict(scan, last.image, last.probe, runtime)
    result = {
        'patterns': len(scan),
        'limit_patterns_per_s': limit,
        'sweep_patterns_per_s': len(scan) / steady,
        'mean_patterns_per_s': len(scan) * sweeps / sum(swept),
        'ratio': len(scan) / steady / limit,
        'seconds': sum(swept),
        'fourier_error': error,
    }
    if scan.true_object is not None:
        score = compare(last.image.object, scan.true_object, last.image.weight)
        result['phase_ssim'] = score.phase_ssim
        result['amplitude_ssim'] = score.amplitude_ssim
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('scans', nargs='*', type=Path)
    parser.add_argument('--sweeps', type=int, default=20)
    parser.add_argument('--threads', type=int, default=0)
    args = parser.parse_args()
    runtime = RuntimeConfig(device='cpu', threads=args.threads)
    torch.set_flush_denormal(True)
    scans = {p.stem: files.load_scan(p) for p in args.scans} or {
        name: simulate_scan(s) for name, s in CASES.items()
    }
    results = {}
    for name, scan in scans.items():
        r = results[name] = measure(scan, args.sweeps, runtime)
        quality = f' phase SSIM {r["phase_ssim"]:.3f}' if 'phase_ssim' in r else ''
        print(
            f'{name:>24}: {r["sweep_patterns_per_s"]:7.0f} patterns/s, transforms alone '
            f'{r["limit_patterns_per_s"]:7.0f}, ratio {r["ratio"]:.2f}; {args.sweeps} sweeps '
            f'{r["seconds"]:.2f} s, error {r["fourier_error"]:.5f}{quality}'
        )
    print(json.dumps(results))


if __name__ == '__main__':
    main()
