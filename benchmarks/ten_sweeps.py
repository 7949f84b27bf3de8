"""What a start and ten sweeps give where plain sweeps crawl, beside twenty sweeps of plain ePIE.

    python benchmarks/ten_sweeps.py [--seeds 9001 9002 9003] [--only raster] [--without-epie]

Each kind of scan with three specimens for every seed, the probe known; wide scans, of which ePIE
takes minutes, with two specimens of a seed each and without it. Scores are phase SSIM; the goals
were set by scans on which a plain PIE came to the value that stands beside them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from contenders import epie

from ptychopinn_plugin import pipeline
from ptychopinn_plugin.backends import registry
from ptychopinn_plugin.config import ReconstructionConfig, RuntimeConfig
from ptychopinn_plugin.metrics import compare
from ptychopinn_plugin.scan import Scan
from ptychopinn_plugin.simulate import Simulation, simulate_scan

OURS, PLAIN = 10, 20  # sweeps
BACKEND = registry.load('torch')
RUNTIME = RuntimeConfig(device='cpu')


@dataclass(frozen=True)
class Kind:
    """A kind of scan, the least phase SSIM that is wanted, and what a plain PIE had."""

    name: str
    simulation: Simulation
    goal: float
    pie: float
    wide: bool = False


N128 = Simulation(
    pattern_size_px=128, object_size_px=360, patterns=500, photons_per_frame=2e5
)  # the annular zone plate
KINDS = (
    Kind(
        'wide: 640 px, 6000 patterns, 3e5 photons',
        Simulation(object_size_px=640, patterns=6000, photons_per_frame=3e5),
        goal=0.90, pie=0.57, wide=True,
    ),
    Kind('N = 128, 2e5 photons', N128, goal=0.93, pie=0.88),
    Kind(
        'N = 64, 600 patterns, 3e4 photons',
        Simulation(patterns=600, photons_per_frame=3e4), goal=0.85, pie=0.76,
    ),
    Kind(
        '18 px raster, 144 patterns, 1e6 photons',
        Simulation(patterns=144, object_size_px=262, scan='raster'), goal=0.95, pie=0.75,
    ),
    Kind(
        'N = 128, 3e4 photons (harder)', replace(N128, photons_per_frame=3e4),
        goal=0.85, pie=0.76,
    ),
)  # fmt: skip


def specimens(kind: Kind, seeds: list[int]) -> Iterator[tuple[str, int]]:
    """Yield the (specimen, seed) of a kind."""
    if kind.wide:
        yield from zip(('leaves', 'photographs'), seeds, strict=False)
        return
    for seed in seeds:
        for specimen in ('leaves', 'lines', 'photographs'):
            yield specimen, seed


def scores(scan: Scan, with_epie: bool) -> Iterator[float]:
    """Yield the phase SSIM of ours, then of plain ePIE."""
    assert scan.true_object is not None
    config = ReconstructionConfig(sweeps=OURS)
    *_, last = pipeline.iterate(scan, backend=BACKEND, reconstruction=config, runtime=RUNTIME)
    weight = last.image.weight
    yield compare(last.image.object, scan.true_object, weight).phase_ssim
    if with_epie:
        *_, state = islice(epie.run(scan, False, 1, 'cpu'), PLAIN)
        yield compare(state.object, scan.true_object, weight).phase_ssim


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[9001, 9002, 9003])
    parser.add_argument('--only', default='', help='kinds whose name has this in it')
    parser.add_argument('--without-epie', action='store_true')
    args = parser.parse_args()
    for kind in (k for k in KINDS if args.only in k.name):
        met = []
        for specimen, seed in specimens(kind, args.seeds):
            scan = simulate_scan(replace(kind.simulation, specimen=specimen, seed=seed))
            ours, *plain = scores(scan, not (kind.wide or args.without_epie))
            met.append(ours >= kind.goal)
            beside = ''.join(f', ePIE after {PLAIN} {x:.3f}' for x in plain)
            print(f'{kind.name}, {specimen}, seed {seed}: {ours:.3f}{beside}', flush=True)
        print(
            f'{kind.name}: {sum(met)} of {len(met)} at {kind.goal:.2f} or more '
            f'(set where a plain PIE had {kind.pie:.2f})\n'
        )


if __name__ == '__main__':
    main()
