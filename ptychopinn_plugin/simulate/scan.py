"""The settings of a simulation, and its exposure: reference physics, noise, bad pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator

from .. import reference
from ..config import check, setting
from ..errors import ConfigError, require
from ..geometry import windows
from ..reference import Wave
from ..scan import Array, Bool, Complex, Double, Frame, Scan
from .positions import MARGIN_PX, make_positions
from .probes import PROBES, load_probe, make_probe
from .specimens import SPECIMENS

BATCH = 64
STEPPED = ('raster', 'jitter')  # paths with a step


@dataclass(frozen=True)
class Simulation:
    """What is simulated. All follows from the settings; each part has its own random stream."""

    specimen: str = setting('leaves', 'Specimen', 'What is looked at.', choices=tuple(SPECIMENS))
    object_size_px: int = setting(
        256, 'Object size', 'Side of the object.', unit='px', low=12, high=8192
    )
    pattern_size_px: int = setting(
        64, 'Pattern size', 'Side of the patterns, even.', unit='px', low=8, high=1024
    )
    probe: str = setting('zone-plate', 'Probe', 'What lights it.', choices=(*PROBES, 'file'))
    probe_file: str = setting('', 'Probe file', 'NPZ file with the probe, for probe file.')
    probe_key: str = setting('probeGuess', 'Probe key', 'Array in the probe file.')
    modes: int = setting(1, 'Modes', 'Incoherent modes of the probe.', low=1, high=16)
    scan: str = setting(
        'random', 'Scan', 'Path of the probe.', choices=('random', 'raster', 'spiral', 'jitter')
    )
    patterns: int = setting(
        1000, 'Patterns', 'How many; a raster with a step is as many as fit.', low=1, high=1_000_000
    )
    step_px: float = setting(
        0.0, 'Step', 'Step of raster and jitter; 0 takes it from the patterns.',
        unit='px', low=0.0, high=8192.0,
    )  # fmt: skip
    photons_per_frame: float = setting(
        1e6, 'Photons per frame', 'Mean over the scan, without background.', low=1.0, high=1e12
    )
    background: float = setting(
        0.0, 'Background', 'Mean counts added to every pixel.', unit='counts', low=0.0, high=1e9
    )
    bad_fraction: float = setting(
        0.0, 'Bad pixels', 'Share of the pixels that are dead or saturated.', low=0.0, high=0.5
    )
    amplitude_low: float = setting(
        0.5, 'Lowest amplitude', 'Transmission of the darkest part; the brightest is 1.',
        low=0.0, high=1.0,
    )  # fmt: skip
    phase_range_rad: float = setting(
        2.0, 'Phase range', 'From the lowest to the highest phase.', unit='rad', low=0.0, high=100.0
    )
    seed: int = setting(0, 'Seed', 'Seed of everything.', low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        check(self)
        require(
            self.pattern_size_px % 2 == 0,
            ConfigError,
            'pattern_size_px is odd',
            expected='an even number',
            received=f'pattern_size_px={self.pattern_size_px}',
        )
        least = self.pattern_size_px + int(2 * MARGIN_PX)
        require(
            self.object_size_px >= least,
            ConfigError,
            'object_size_px is too small for the patterns',
            expected=f'at least {least}',
            received=f'object_size_px={self.object_size_px}',
        )
        require(
            self.probe != 'file' or self.probe_file,
            ConfigError,
            'probe file needs a file',
            expected='probe_file',
            received='none',
        )
        require(  # else another probe, or other positions, would be simulated without a word
            self.probe == 'file' or not self.probe_file,
            ConfigError,
            'A probe file is given for a probe that is made',
            expected='probe=file, or no probe_file',
            received=f'probe={self.probe}, probe_file={self.probe_file}',
        )
        require(
            self.scan in STEPPED or not self.step_px,
            ConfigError,
            'A step is given for a scan that has none',
            expected=f'scan={" or ".join(STEPPED)}, or no step_px',
            received=f'scan={self.scan}, step_px={self.step_px:g}',
        )


def simulate_scan(simulation: Simulation) -> Scan:
    """Return the scan that `simulation` describes, with its true object.

    The mean counts per frame are `photons_per_frame`; the stored probe's power is the vacuum frame,
    which is brighter when the object absorbs. Raises `ConfigError` where the object leaves several
    positions no more than one pixel.
    """
    s = simulation
    streams = [np.random.default_rng(x) for x in np.random.SeedSequence(s.seed).spawn(4)]
    size, side = s.object_size_px, s.pattern_size_px
    half = s.phase_range_rad / 2
    object_ = SPECIMENS[s.specimen]((size, size), streams[0], (s.amplitude_low, 1.0), (-half, half))
    positions = make_positions(s.scan, s.patterns, s.step_px, side, size, streams[1])
    require(  # no reader would take them: see DC-6
        len(positions) == 1 or np.ptp(positions, axis=0).max() >= 1,
        ConfigError,
        'The object leaves the probe no way to go: all positions would lie within one pixel',
        expected=f'object_size_px well above {side + int(2 * MARGIN_PX)}, or one pattern',
        received=f'object_size_px={size}, pattern_size_px={side}',
    )
    # A scan checks its counts; a stand-in of ones has its windows found before there are any.
    blank = np.broadcast_to(np.uint8(1), (len(positions), side, side))
    bare = Scan(blank, positions, _probe(s), frame=Frame((size, size)))
    bad = _bad_pixels(side, s.bad_fraction, streams[2])
    probe, counts = expose(bare, object_, s.photons_per_frame, s.background, streams[3])
    return Scan(
        _spoil(counts, bad),
        positions,
        probe,
        bad_pixels=bad,
        frame=bare.frame,
        true_object=object_,
        name=f'{s.specimen}-{s.seed}',
    )


def _probe(s: Simulation) -> Complex:
    if s.probe == 'file':
        wave = load_probe(Path(s.probe_file), s.probe_key, s.pattern_size_px, s.modes)
    else:
        wave = make_probe(s.probe, s.pattern_size_px, s.modes)
    return wave.astype(np.complex64)


def _waves(scan: Scan, object_: Complex, probe: Complex) -> Iterator[tuple[slice, Wave]]:
    """Yield (rows, exit waves (B, P, N, N)) of at most `BATCH` patterns at a time."""
    at = windows(scan)
    for start in range(0, len(scan), BATCH):
        rows = slice(start, start + BATCH)
        patches = reference.extract(object_, at.corner_px[rows], scan.side_px)
        yield rows, reference.illuminate(patches, reference.shift_probe(probe, at.shift_px[rows]))


def _mean_power(scan: Scan, object_: Complex) -> float:
    """Return the mean power of the exit waves of the scan's probe (the detector's: Parseval)."""
    waves = _waves(scan, object_, scan.probe)
    return sum(float((np.abs(wave) ** 2).sum()) for _, wave in waves) / len(scan)


def expose(
    scan: Scan, object_: Complex, photons_per_frame: float, background: float, rng: Generator
) -> tuple[Complex, Array]:
    """Return the probe (P, N, N) that gives the mean counts per frame, and Poisson counts (M, N, N)
    in the smallest of uint16, 32 and 64 that holds them.

    `scan` gives the positions and the shape of the probe; `background` counts per pixel are added.
    """
    probe = scan.probe * np.sqrt(photons_per_frame / _mean_power(scan, object_)).astype('f4')
    counts = np.zeros(scan.counts.shape, np.uint16)
    for rows, wave in _waves(scan, object_, probe):
        expected: Double = reference.intensity(reference.far_field(wave)) + background
        drawn = rng.poisson(expected)
        counts = counts.astype(
            np.promote_types(counts.dtype, np.min_scalar_type(drawn.max())), copy=False
        )
        counts[rows] = drawn
    return probe, counts


def _bad_pixels(side: int, fraction: float, rng: Generator) -> Bool:
    """Return which pixels (N, N) are bad."""
    bad = np.zeros(side * side, bool)
    bad[rng.choice(side * side, round(fraction * side * side), replace=False)] = True
    return bad.reshape(side, side)


def _spoil(counts: Array, bad: Bool) -> Array:
    """Return `counts` with the bad pixels reading zero (dead) or the largest number, in turn."""
    y, x = np.nonzero(bad)
    counts[:, y[0::2], x[0::2]] = 0
    counts[:, y[1::2], x[1::2]] = np.iinfo(counts.dtype).max
    return counts
