"""Lies put into scans that differ in everything: how many the checks find, and how many they see
where there are none. Prints the table in RESEARCH.md.

    python benchmarks/checks.py --scans 200
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.random import Generator
from random_scans import random_scan
from scipy.ndimage import map_coordinates

from ptychopinn_plugin.checks import CHECKS, check_scan
from ptychopinn_plugin.checks.beam import is_ordered
from ptychopinn_plugin.checks.sample import Sample
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.orientation import reoriented
from ptychopinn_plugin.scan import Array, Scan
from ptychopinn_plugin.simulate import Simulation, simulate_scan

STREAM, FIRST = 78, 20_000  # the thresholds were set on other seeds
Lie = Callable[[Scan, Generator], Scan]


def varied_scan(seed: int) -> Scan:
    """Return a scan of the simulator: a seventh of nothing at all, a third of strong objects,
    1e4 to 1e7 photons per frame, N 64 or 128.
    """
    rng = np.random.default_rng([STREAM, seed])
    side = int(rng.choice([64, 128], p=[0.7, 0.3]))
    empty, strong = rng.random() < 0.15, rng.random() < 0.35
    low = 1.0 if empty else rng.uniform(0, 0.3) if strong else rng.uniform(0.5, 0.95)
    phase = 0.0 if empty else rng.uniform(2, 6) if strong else rng.uniform(0.1, 2)
    return simulate_scan(
        Simulation(
            specimen=str(rng.choice(['leaves', 'lines', 'field', 'photographs'])),
            pattern_size_px=side,
            object_size_px=side + int(rng.choice([100, 140, 180])),
            probe=str(rng.choice(['zone-plate', 'airy', 'gaussian'])),
            modes=int(rng.choice([1, 1, 2, 3])),
            scan=str(rng.choice(['random', 'raster', 'spiral', 'jitter'])),
            patterns=int(rng.choice([150, 300, 600])),
            photons_per_frame=float(10 ** rng.uniform(4, 7)),
            background=float(rng.choice([0, 0, 0, rng.uniform(0, 0.05)])),
            bad_fraction=float(rng.choice([0, 0, 0, 0.01])),
            amplitude_low=float(low), phase_range_rad=float(phase), seed=seed,
        )
    )  # fmt: skip


def scans(number: int) -> Iterator[Scan]:
    """Yield `number` clean scans, of both kinds in turn."""
    for k in range(number):
        yield random_scan(FIRST + k // 2) if k % 2 else varied_scan(k // 2)


def counts_by(change: Callable[[Array], Array]) -> Lie:
    return lambda scan, rng: replace(scan, counts=change(scan.counts.astype(np.float64)))


def rolled(*shift_px: int) -> Lie:
    def lie(scan: Scan, rng: Generator) -> Scan:
        return replace(
            scan, counts=np.roll(scan.counts, shift_px, (1, 2)),
            bad_pixels=np.roll(scan.bad_pixels, shift_px, (0, 1)),
        )  # fmt: skip

    return lie


def half(scan: Scan, rng: Generator) -> Scan:
    return rolled(scan.side_px // 2, scan.side_px // 2)(scan, rng)


def probe_scaled(factor: float) -> Lie:
    """Return the lie that the far field of the probe is `factor` times as wide."""

    def lie(scan: Scan, rng: Generator) -> Scan:
        middle, axes = scan.side_px // 2, (-2, -1)
        at = (np.indices((scan.side_px,) * 2) - middle) / factor + middle
        far = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(scan.probe, axes)), axes)
        far = np.stack([
            map_coordinates(m.real, at, order=1) + 1j * map_coordinates(m.imag, at, order=1)
            for m in far
        ])  # fmt: skip
        return replace(scan, probe=np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(far, axes)), axes))

    return lie


def positions_by(factor: float) -> Lie:
    return lambda scan, rng: replace(
        scan,
        positions_px=scan.positions_px * factor,
        frame=None,  # type: ignore[arg-type]
        true_object=None,
    )


def clipped(share: float) -> Lie:
    """Cut off at a share of the brightest good pixel of all."""

    def lie(scan: Scan, rng: Generator) -> Scan:
        top = scan.counts[:, ~scan.bad_pixels].max()
        return replace(scan, counts=np.minimum(scan.counts, np.floor(share * top)))

    return lie


def lit_pixels(scan: Scan, number: int, rng: Generator) -> Array:
    """Return bright good pixels (number, 2) of the mean pattern."""
    mean = scan.counts.mean(0) * ~scan.bad_pixels
    bright = np.argwhere(mean > 0.2 * mean.max())
    return bright[rng.choice(len(bright), number)]


def dead(scan: Scan, rng: Generator) -> Scan:
    counts = scan.counts.copy()
    y, x = lit_pixels(scan, 1, rng)[0]
    counts[:, y, x] = 0
    return replace(scan, counts=counts)


def gap(scan: Scan, rng: Generator) -> Scan:
    counts = scan.counts.copy()
    _, x = lit_pixels(scan, 1, rng)[0]
    counts[:, :, x : x + 3] = 0
    return replace(scan, counts=counts)


def hot(times: float) -> Lie:
    """Return the lie of one pixel, anywhere, that reads `times` the mean of the lit ones."""

    def lie(scan: Scan, rng: Generator) -> Scan:
        counts = scan.counts.astype(np.float64)
        y, x = np.argwhere(~scan.bad_pixels)[rng.integers((~scan.bad_pixels).sum())]
        mean = counts.mean(0) * ~scan.bad_pixels
        counts[:, y, x] += rng.poisson(times * mean[mean > 0.2 * mean.max()].mean(), len(scan))
        return replace(scan, counts=counts)

    return lie


def copies(number: int) -> Lie:
    def lie(scan: Scan, rng: Generator) -> Scan:
        rows = np.arange(len(scan))
        at = int(rng.integers(len(scan) - number - 1))
        rows[at : at + number + 1] = at
        return replace(scan, counts=scan.counts[rows])

    return lie


def stuck(scan: Scan, rng: Generator) -> Scan:
    positions = scan.positions_px.copy()
    at = int(rng.integers(len(scan) - 5))
    positions[at : at + 5] = positions[at]
    return replace(scan, positions_px=positions)


def stray(scan: Scan, rng: Generator) -> Scan:
    positions = scan.positions_px.copy()
    positions[rng.integers(len(scan))] += 10 * scan.side_px
    return replace(
        scan,
        positions_px=positions,
        frame=None,  # type: ignore[arg-type]
        true_object=None,
    )


def attenuated(scan: Scan, beam: Array, rng: Generator) -> Scan:
    """Return the scan with pattern j seen by a beam `beam[j]` times as strong, noise included."""
    counts = scan.counts.copy()
    good = ~scan.bad_pixels
    for row, share in enumerate(beam):
        if share < 1:
            counts[row][good] = rng.binomial(scan.counts[row][good], share)
    return replace(scan, counts=counts)


def off(number: int, left: float) -> Lie:
    def lie(scan: Scan, rng: Generator) -> Scan:
        beam = np.ones(len(scan))
        at = int(rng.integers(len(scan) - number))
        beam[at : at + number] = left
        return attenuated(scan, beam, rng)

    return lie


def background(share: float) -> Lie:
    """Return the lie of counts that are no diffraction, such a share of what there is."""

    def lie(scan: Scan, rng: Generator) -> Scan:
        more = rng.poisson(share * scan.totals.mean() / scan.side_px**2, scan.counts.shape)
        return replace(scan, counts=scan.counts + more * ~scan.bad_pixels)

    return lie


def drift(loss: float) -> Lie:
    return lambda scan, rng: attenuated(scan, np.linspace(1, 1 - loss, len(scan)), rng)


def jump(loss: float) -> Lie:
    def lie(scan: Scan, rng: Generator) -> Scan:
        at = rng.uniform(0.2, 0.8) * len(scan)
        return attenuated(scan, np.where(np.arange(len(scan)) < at, 1, 1 - loss), rng)

    return lie


def shuffled(scan: Scan, rng: Generator) -> Scan:
    return replace(scan, positions_px=rng.permutation(scan.positions_px))


def turned(name: str) -> Lie:
    return lambda scan, rng: reoriented(scan, name)


BEAM = ('beam drift', 'beam jump')
LIES: dict[str, tuple[tuple[str, ...], Lie]] = {
    'square roots, float32': (('counts',), counts_by(lambda c: np.sqrt(c).astype(np.float32))),
    'square roots, rounded': (('counts',), counts_by(lambda c: np.rint(np.sqrt(c)))),
    'square roots over the largest': (('counts',), counts_by(lambda c: np.sqrt(c / c.max()))),
    'counts over the largest': (('counts',), counts_by(lambda c: (c / c.max()).astype('f4'))),
    'counts times 7': (('counts',), counts_by(lambda c: c * 7)),
    'one axis flipped': (('orientation',), turned('flip y')),
    'axes swapped': (('orientation',), turned('swap axes')),
    'turned by 90 degrees': (('orientation',), turned('swap axes, flip y')),
    'FFT-shifted': (('centre',), half),
    'off centre by 1 px': (('centre',), rolled(0, 1)),
    'off centre by 5 px': (('centre',), rolled(3, -4)),
    "probe's far field x 0.7": (('bright field',), probe_scaled(0.7)),
    "probe's far field x 0.85": (('bright field',), probe_scaled(0.85)),
    "probe's far field x 1.15": (('bright field',), probe_scaled(1.15)),
    "probe's far field x 1.4": (('bright field',), probe_scaled(1.4)),
    'positions x 0.001': (('position unit', 'refused'), positions_by(1e-3)),
    'positions x 10': (('overlap', 'refused'), positions_by(10)),
    'positions x 1000': (('overlap', 'refused'), positions_by(1e3)),
    'one position astray': (('stray positions', 'refused'), stray),
    'cut off at 0.5 of the brightest': (('saturation',), clipped(0.5)),
    'cut off at 0.25': (('saturation',), clipped(0.25)),
    'one dead pixel in the light': (('dead pixels',), dead),
    'a dead gap of 3 columns': (('dead pixels',), gap),
    'a hot pixel, 3 x the bright field': (('hot pixels',), hot(3)),
    'a hot pixel, 20 x': (('hot pixels',), hot(20)),
    '3 patterns copied': (('repeated patterns',), copies(3)),
    '5 positions stuck': (('repeated positions',), stuck),
    'a background of 2 % of the counts': (('background',), background(0.02)),
    'a background of 8 % of the counts': (('background',), background(0.08)),
    '1 pattern without beam': (('beam off',), off(1, 0.0)),
    '5 patterns with 3 % of the beam': (('beam off',), off(5, 0.03)),
    'beam falls by 15 %, any order': (BEAM, drift(0.15)),
    'beam falls by 30 %, any order': (BEAM, drift(0.3)),
    'beam falls by 30 %, steady path': (BEAM, drift(0.3)),
    'beam jumps by 20 %, any order': (BEAM, jump(0.2)),
    'beam jumps by 20 %, steady path': (BEAM, jump(0.2)),
    'beam jumps by 50 %, steady path': (BEAM, jump(0.5)),
    'positions in random order': (('order',), shuffled),
}  # fmt: skip


def main() -> None:
    """Print shares found and false alarms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--scans', type=int, default=200)
    parser.add_argument('--only', help='lies whose name contains this')
    args = parser.parse_args()
    lies = {k: v for k, v in LIES.items() if not args.only or args.only in k}
    clean: Counter[tuple[str, str]] = Counter()
    found: Counter[tuple[str, str]] = Counter()
    slowest = 0.0
    lied: Counter[str] = Counter()
    for number, scan in enumerate(scans(args.scans)):
        begun = time.perf_counter()
        findings = check_scan(scan)
        slowest = max(slowest, time.perf_counter() - begun)
        clean.update({(f.check, f.level) for f in findings})
        for finding in findings:
            print(f'clean: {scan.name}: {finding.level}: {finding.check}: {finding.saw}')
        for name, (checks, lie) in lies.items():
            if ('any order' in name and is_ordered(scan.positions_px)) or (
                'steady path' in name and not is_ordered(scan.positions_px)
            ):
                continue
            lied[name] += 1
            rng = np.random.default_rng([STREAM, number, len(name)])
            level = outcome(lie, scan, rng, checks)
            if level:
                found[name, level] += 1
    print(f'\n{args.scans} scans, the slowest took {slowest:.2f} s\n')
    print('| lie | scans | found, as warning | as note |\n|---|---|---|---|')
    for name in lies:
        shares = (f'{found[name, level] / max(lied[name], 1):.0%}' for level in ('warning', 'note'))
        print(f'| {name} | {lied[name]} | {" | ".join(shares)} |')
    print('\n| false alarm | warnings | notes |\n|---|---|---|')
    for name in sorted({check for check, _ in clean}):
        print(f'| {name} | {clean[name, "warning"]} | {clean[name, "note"]} |')


def outcome(lie: Lie, scan: Scan, rng: Generator, checks: tuple[str, ...]) -> str:
    """Return the highest level at which one of `checks` finds a lie; '' where none does."""
    try:
        spoiled = lie(scan, rng)
    except DataError:
        return 'warning' if 'refused' in checks else ''
    sample = Sample(spoiled)
    found = {f.level for check in CHECKS for f in check(sample) if f.check in checks}
    return 'warning' if 'warning' in found else 'note' if found else ''


if __name__ == '__main__':
    main()
