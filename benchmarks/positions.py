"""What correcting positions gains and costs: simulated scans whose positions were mismeasured by a
normal error of `sigma` px along each axis.

    python benchmarks/positions.py [--sweeps 20] [--sigma 0 0.5 1 2] [--random 0] [CASE...]

Each line: case, seed, sigma, sweeps; phase SSIM with right positions, with wrong ones, corrected;
root mean square of the distance from the right positions [px] before and after, the mean
displacement removed; seconds without and with.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
from random_scans import random_scan

from ptychopinn_plugin import pipeline
from ptychopinn_plugin.config import ReconstructionConfig, RuntimeConfig
from ptychopinn_plugin.metrics import compare, overlap
from ptychopinn_plugin.position_correction import with_room
from ptychopinn_plugin.result import ObjectImage, Reconstruction
from ptychopinn_plugin.scan import Double, Scan
from ptychopinn_plugin.simulate import Simulation, simulate_scan

LARGEST_ERROR_PX = 4.0  # beyond what a correction may move a pattern there is nothing to learn
CASES = {
    'dense': Simulation(object_size_px=192, patterns=500),
    'low': Simulation(specimen='lines', object_size_px=192, patterns=500, photons_per_frame=3e4),
    'moderate': Simulation(
        object_size_px=224, patterns=250, photons_per_frame=1e5, scan='jitter'
    ),
    'airy': Simulation(
        specimen='lines', probe='airy', object_size_px=192, patterns=400, photons_per_frame=3e5,
        scan='spiral',
    ),
    'modes': Simulation(
        modes=2, object_size_px=192, patterns=400, photons_per_frame=2e5, bad_fraction=0.02
    ),
    'large': Simulation(
        pattern_size_px=128, object_size_px=300, patterns=300, photons_per_frame=3e5
    ),
}  # fmt: skip


def main() -> None:
    """Print a line for every case, seed and error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('cases', nargs='*', metavar='CASE', default=[])
    parser.add_argument('--sweeps', type=int, default=20)
    parser.add_argument('--sigma', type=float, nargs='*', default=[0.0, 0.5, 1.0, 2.0])
    parser.add_argument('--seeds', type=int, default=1)
    parser.add_argument('--random', type=int, default=0, help='so many random scans')
    parser.add_argument('--backend', default='torch')
    parser.add_argument('--update-probe', action='store_true')
    args = parser.parse_args()
    runtime = RuntimeConfig(backend=args.backend, device='cpu', threads=1)
    for name in args.cases:
        for seed in range(args.seeds):
            scan = simulate_scan(replace(CASES[name], seed=seed + 20))
            judge(f'{name} {seed}', scan, args, runtime)
    for seed in range(args.random):
        scan = random_scan(500 + seed)
        judge(scan.name, scan, args, runtime)


def judge(name: str, scan: Scan, args: argparse.Namespace, runtime: RuntimeConfig) -> None:
    """Print a line for every error."""

    def run(given: Scan, correct: bool) -> tuple[float, Double, float]:
        config = ReconstructionConfig(
            sweeps=args.sweeps, correct_positions=correct, update_probe=args.update_probe
        )
        begun = time.perf_counter()
        made = pipeline.reconstruct(given, reconstruction=config, runtime=runtime)
        return phase_ssim(made, scan), made.positions_px, time.perf_counter() - begun

    right, _, _ = run(scan, False)
    for sigma in args.sigma:
        wrong = mismeasured(scan, sigma)
        without, before, fast = run(wrong, False)
        with_it, after, slow = run(wrong, True)
        print(
            f'{name} {sigma:g} {args.sweeps}: {right:.4f} {without:.4f} {with_it:.4f}  '
            f'{distance(before, scan):.3f} {distance(after, scan):.3f}  {fast:.1f} {slow:.1f} s',
            flush=True,
        )


def mismeasured(scan: Scan, sigma_px: float) -> Scan:
    """Return the scan with its positions off; the true object stays behind."""
    off = np.random.default_rng(7).normal(0, 1, scan.positions_px.shape) * sigma_px
    off = np.clip(off, -LARGEST_ERROR_PX, LARGEST_ERROR_PX)
    # The true object is sampled where the pixels are: a shift of all would cost SSIM for nothing.
    off -= off.mean(0)
    return replace(with_room(scan), positions_px=scan.positions_px + off)


def phase_ssim(made: Reconstruction, scan: Scan) -> float:
    """Return the phase SSIM against the true object."""
    truth = scan.true_object
    assert truth is not None
    whole = ObjectImage(truth, np.ones(truth.shape, np.float32), scan.frame.origin_px)
    return compare(*overlap(made.image, whole)).phase_ssim


def distance(positions_px: Double, scan: Scan) -> float:
    """Return the root mean square distance [px] from the scan's positions."""
    off = positions_px - scan.positions_px
    off = off - off.mean(0)
    return float(np.sqrt((off**2).sum(1).mean()))


if __name__ == '__main__':
    main()
