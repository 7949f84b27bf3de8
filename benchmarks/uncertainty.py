"""How many pixels one sigma of `--uncertainty` covers, on simulated scans of known objects.

    python benchmarks/uncertainty.py [--seeds 500 600] [--sweeps 20]

Four specimens under three probes for each seed, which also draws the photons (2e4 to 1e6 per frame,
log-uniform) and the number of patterns (350 to 900). A normal error would be covered on 68 % of the
pixels. Lit pixels only (a tenth of the brightest).
"""

from __future__ import annotations

import argparse
from itertools import product

import numpy as np

import ptychopinn_plugin as pp
from ptychopinn_plugin.config import ReconstructionConfig, RuntimeConfig
from ptychopinn_plugin.simulate import Simulation, simulate_scan
from ptychopinn_plugin.uncertainty import phase_difference

SPECIMENS, PROBES = ('leaves', 'lines', 'photographs', 'field'), ('zone-plate', 'airy', 'gaussian')
LOW, HIGH = 0.60, 0.76
LIT = 0.1


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[500, 600])
    parser.add_argument('--sweeps', type=int, default=20)
    args = parser.parse_args()
    covered, ratios = [], []
    for seed in args.seeds:
        rng = np.random.default_rng(seed)
        for number, (specimen, probe) in enumerate(product(SPECIMENS, PROBES), 1):
            settings = Simulation(
                specimen=specimen, probe=probe, object_size_px=200, seed=seed + number,
                photons_per_frame=float(10 ** rng.uniform(np.log10(2e4), 6)),
                patterns=int(rng.integers(350, 900)),
            )  # fmt: skip
            scan = simulate_scan(settings)
            assert scan.true_object is not None
            found = pp.reconstruct(
                scan, uncertainty=True, runtime=RuntimeConfig(device='cpu'),
                reconstruction=ReconstructionConfig(sweeps=args.sweeps),
            )  # fmt: skip
            lit = found.weight > LIT
            error = np.abs(phase_difference(found.image.object, scan.true_object, found.weight))
            sigma = found.image.uncertainty
            assert sigma is not None
            covered.append(float((error < sigma)[lit].mean()))
            took, more = found.seconds['total'], found.seconds['uncertainty']
            ratios.append(took / (took - more))
            print(
                f'{specimen:>12} {probe:>10} {settings.photons_per_frame:9.0f} photons, '
                f'{settings.patterns} patterns: covers {covered[-1]:.2f}; error '
                f'{np.sqrt((error[lit] ** 2).mean()):.3f} rad, sigma '
                f'{np.sqrt((sigma[lit] ** 2).mean()):.3f} (both r.m.s.); FRC 1/2 at '
                f'{found.half_scan_frc50:.2f}; {ratios[-1]:.1f} times as long',
                flush=True,
            )
    within = sum(LOW <= c <= HIGH for c in covered)
    print(
        f'{within} of {len(covered)} scans within {LOW:.2f} - {HIGH:.2f}; mean '
        f'{np.mean(covered):.3f}, from {min(covered):.2f} to {max(covered):.2f}; '
        f'{np.median(ratios):.1f} times as long as without'
    )


if __name__ == '__main__':
    main()
