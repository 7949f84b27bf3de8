"""What a scan that is not as it should be costs, with what the sweeps do about it and without.

    python benchmarks/imperfect.py [--seeds 6100 6101] [--only background]

Simulated scans of three specimens under three beams, 1e6 and 5e4 photons: with a background, beams
that fluctuate from pattern to pattern, patterns without beam, and patterns beside the centre of the
detector array. Prints the mean phase SSIM and the mean ratio of phase errors for each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from numpy.random import Generator

import ptychopinn_plugin as pp
from ptychopinn_plugin import starts
from ptychopinn_plugin.config import ReconstructionConfig, RuntimeConfig
from ptychopinn_plugin.metrics import Comparison, compare
from ptychopinn_plugin.scan import Scan
from ptychopinn_plugin.simulate import Simulation, simulate_scan

Spoil = Callable[[Scan, Generator], Scan]
SPECIMENS, PROBES = ('photographs', 'lines', 'leaves'), ('zone-plate', 'airy', 'gaussian')
PHOTONS, PATTERNS = (1e6, 5e4), 500
RUNTIME = RuntimeConfig(device='cpu')


def even(side: int) -> np.ndarray:
    """Return as much in every pixel, (N, N), one in all."""
    return np.full((side, side), 1 / side**2)


def falling(side: int) -> np.ndarray:
    """Return what lies around the middle, as air scatters."""
    x = np.arange(side) - side // 2
    made = 1 / (1 + (np.hypot(x[:, None], x) / (side / 6)) ** 2)
    return made / made.sum()


def sloped(side: int) -> np.ndarray:
    """Return three times as much on one side as on the other."""
    return np.full((side, 1), 1 / side**2) * np.linspace(0.5, 1.5, side)


def background(share: float, shape: Callable[[int], np.ndarray] = even) -> Spoil:
    """Return what adds such a share of the counts, evenly or in the shape of N."""

    def spoil(scan: Scan, rng: Generator) -> Scan:
        mean = share * scan.totals.mean() * shape(scan.side_px)
        more = rng.poisson(mean, scan.counts.shape)
        return replace(scan, counts=(scan.counts + more).astype(np.uint32))

    return spoil


def attenuated(beam: Callable[[int, Generator], np.ndarray]) -> Spoil:
    """Return what lets only some photons through, by a share for each of so many patterns."""

    def spoil(scan: Scan, rng: Generator) -> Scan:
        share = beam(len(scan), rng)[:, None, None]
        counts = rng.binomial(scan.counts.astype(np.int64), share / share.max())
        return replace(scan, counts=counts.astype(np.uint32))

    return spoil


def fluctuating(by: float) -> Spoil:
    """Return a beam whose logarithm has this standard deviation."""
    return attenuated(lambda number, rng: np.exp(rng.normal(0, by, number)))


def failing(every: int, left: float) -> Spoil:
    """Return a beam of which so little is left in every so manieth pattern."""
    return attenuated(lambda number, _: np.where(np.arange(number) % every == 0, left, 1.0))


def beside(y: int, x: int) -> Spoil:
    """Return what moves the patterns by (y, x) [px]."""
    return lambda scan, _: replace(scan, counts=np.roll(scan.counts, (y, x), (1, 2)))


CASES: dict[str, Spoil] = {
    'as it should be': lambda scan, _: scan,
    **{f'background of {s:.0%}': background(s) for s in (0.01, 0.04, 0.1)},
    'background of 4%, falling': background(0.04, falling),
    'background of 4%, sloped': background(0.04, sloped),
    **{f'beam fluctuates by {s:.0%}': fluctuating(s) for s in (0.01, 0.03, 0.08, 0.2)},
    'one of 40 without beam': failing(40, 0.0),
    'one of 5 with 1 % of it': failing(5, 0.01),
    'one of 40 with half of it': failing(40, 0.5),
    **{f'patterns moved by {at}': beside(*at) for at in ((0, 2), (2, -3), (6, 5))},
}


def reconstructed(scan: Scan, truth: Scan, **settings: Any) -> Comparison:
    """Return the score of twenty sweeps."""
    config = ReconstructionConfig(**settings)
    found = pp.reconstruct(scan, reconstruction=config, runtime=RUNTIME)
    assert truth.true_object is not None
    return compare(found.image.object, truth.true_object, found.weight)


def without(scan: Scan, truth: Scan) -> Comparison:
    """Return the score where nothing is done about it."""
    ramp, starts.common_ramp = starts.common_ramp, lambda scan: (0.0, 0.0)
    try:
        return reconstructed(scan, truth, correct_intensities=False, correct_background=False)
    finally:
        starts.common_ramp = ramp


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[6100])
    parser.add_argument('--only', default='', help='cases whose name has this in it')
    args = parser.parse_args()
    for probe in PROBES:
        for name, spoil in ((n, s) for n, s in CASES.items() if args.only in n):
            scores = []
            for seed, specimen, photons in product(args.seeds, SPECIMENS, PHOTONS):
                truth = simulate_scan(
                    Simulation(specimen=specimen, probe=probe, patterns=PATTERNS, seed=seed,
                               photons_per_frame=photons)
                )  # fmt: skip
                scan = spoil(truth, np.random.default_rng([seed, 7]))
                before, now = without(scan, truth), reconstructed(scan, truth)
                ratio = now.phase_mae_rad / before.phase_mae_rad
                scores.append((before.phase_ssim, now.phase_ssim, np.log(ratio)))
            before_ssim, now_ssim, log = np.mean(scores, 0)
            worst = min(b - a for a, b, _ in scores)
            print(
                f'{probe:>10}, {name:<28}: phase SSIM {before_ssim:.4f} without, {now_ssim:.4f} '
                f'with, worst change {worst:+.4f}; phase errors {np.exp(log):.2f} times',
                flush=True,
            )


if __name__ == '__main__':
    main()
