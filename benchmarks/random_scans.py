"""Scans that differ in everything, to train on: drawn from a seed alone, nothing measured and no
photograph in them, so that both stay for tests.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ptychopinn_plugin.probe_modes import with_modes
from ptychopinn_plugin.scan import Complex, Frame, Scan
from ptychopinn_plugin.simulate import specimens
from ptychopinn_plugin.simulate.positions import make_positions
from ptychopinn_plugin.simulate.probes import focused, gaussian
from ptychopinn_plugin.simulate.scan import expose

STREAM = 99  # so that no seed of `simulate` draws the same
SIDES_PX, SHARES = (64, 96, 128, 192, 256), (0.7, 0.06, 0.1, 0.06, 0.08)
Picture = NDArray[np.float64]


def random_scan(seed: int) -> Scan:
    """Return a scan with its true object: N 64 to 256, 8e3 to 1e7 photons per frame, one to three
    modes, steps of 0.12 to 0.95 of the beam; a fifth with dead pixels, an eighth with a wrong
    probe.
    """
    rng = np.random.default_rng([STREAM, seed])
    side = int(rng.choice(SIDES_PX, p=SHARES))
    probe = random_probe(rng, side)
    step = diameter(probe) * np.exp(rng.uniform(np.log(0.12), np.log(0.95)))
    span = int(rng.choice([128, 160, 192]))
    patterns = int(np.clip((span / step) ** 2, 30, 1000))
    kind = rng.choice(['random', 'raster', 'spiral', 'jitter'], p=[0.35, 0.25, 0.2, 0.2])
    size = side + span + 2
    object_ = random_object(rng, (size, size))
    positions = make_positions(str(kind), patterns, 0.0, side, size, rng)
    photons = 10 ** rng.uniform(3.9, 7)
    background = float(rng.choice([0, 0, 0, rng.uniform(0, 0.02)]))
    blank = np.broadcast_to(np.uint8(1), (len(positions), side, side))
    bare = Scan(blank, positions, probe, frame=Frame((size, size)))
    _, counts = expose(bare, object_, photons, background, rng)
    bad = np.zeros((side, side), bool)
    if rng.random() < 0.2:
        bad[:, side // 3 : side // 3 + 2] = True
    if rng.random() < 0.12:
        probe = _aberrated(probe, side / 8, rng.uniform(0.02, 0.2), rng)
    return Scan(
        counts, positions, probe, bad_pixels=bad, frame=bare.frame, true_object=object_,
        name=f'{kind}-{len(positions)}-{side}-{photons:.1e}',
    )  # fmt: skip


def random_object(rng: Generator, shape: tuple[int, int]) -> Complex:
    """Return an object whose amplitude and phase are two pictures, or one thickness, or of a pure
    phase object; some on a slow phase.
    """
    low, depth = rng.uniform(0.2, 0.95), np.exp(rng.uniform(np.log(0.2), np.log(3.2)))
    kind, sign = rng.choice(['two', 'one', 'pure'], p=[0.55, 0.3, 0.15]), rng.choice([-1, 1])
    first = random_picture(rng, shape)
    if kind == 'two':
        phase = depth * (random_picture(rng, shape) - 0.5)
        object_ = (low + (1 - low) * first) * np.exp(1j * phase)
    elif kind == 'one':
        object_ = np.exp((np.log(low) + 1j * sign * depth) * first)
    else:
        object_ = rng.uniform(0.7, 1) * np.exp(1j * depth * (first - 0.5))
    if rng.random() < 0.3:
        slow = gaussian_filter(rng.standard_normal(shape), rng.uniform(20, 60))
        object_ = object_ * np.exp(1j * slow / slow.std() * rng.uniform(0.2, 1.5))
    return object_.astype(np.complex64)


def random_picture(rng: Generator, shape: tuple[int, int]) -> Picture:
    """Return a picture in 0..1."""
    kinds = ['leaves', 'lines', 'field', 'texture', 'scene', 'sparse', 'binary', 'specks']
    kind = rng.choice(kinds, p=[0.18, 0.18, 0.08, 0.12, 0.23, 0.08, 0.05, 0.08])
    if kind in specimens.SPECIMENS:
        return _specimen(str(kind), rng, shape)
    if kind == 'texture':
        return _texture(rng, shape)
    if kind == 'scene':  # leaves with shade and textures, a little out of focus, with grain
        base, chosen = _specimen('leaves', rng, shape), _specimen('leaves', rng, shape)
        shade = _stretched(gaussian_filter(rng.standard_normal(shape), rng.uniform(8, 40)))
        base = base + rng.uniform(0, 0.6) * (_texture(rng, shape) - 0.5) * (
            chosen > rng.uniform(0.2, 0.8)
        )
        base = base + rng.uniform(0, 0.8) * (shade - 0.5)
        if rng.random() < 0.6:
            base = gaussian_filter(base, rng.uniform(0.4, 1.5))
        if rng.random() < 0.5:
            grain = gaussian_filter(rng.standard_normal(shape), rng.uniform(0, 0.8))
            base = base + rng.uniform(0, 0.15) * grain / grain.std()
        return _stretched(base)
    if kind == 'specks':
        return _specks(rng, shape)
    base = _specimen('lines' if rng.random() < 0.5 else 'leaves', rng, shape)
    if kind == 'binary':
        return (base > rng.uniform(0.3, 0.7)).astype(np.float64)
    islands = gaussian_filter(rng.standard_normal(shape), rng.uniform(4, 20))
    islands = islands > np.quantile(islands, rng.uniform(0.5, 0.85))
    return base * gaussian_filter(islands.astype(np.float64), 0.7)


def random_probe(rng: Generator, side: int) -> Complex:
    """Return a beam (P, N, N) of power 1: of a zone plate, of an aperture or Gaussian, more or less
    out of focus, two fifths aberrated, two fifths of two or three modes.
    """
    kind = rng.choice(['zone plate', 'aperture', 'gaussian'], p=[0.5, 0.25, 0.25])
    if kind == 'zone plate':
        beam = focused(side, rng.uniform(0.12, 0.26), rng.uniform(0.2, 0.6), rng.uniform(0.1, 0.5))
    elif kind == 'aperture':
        beam = focused(side, rng.uniform(0.07, 0.2), 0.0, rng.uniform(0.1, 0.45))
    else:
        beam = gaussian(side, rng.uniform(0.12, 0.32), rng.uniform(0, 0.4))
    if rng.random() < 0.4:
        beam = _aberrated(beam, side / 10, rng.uniform(0.2, 1), rng)
        beam *= np.exp(-((_radius(side) / (0.42 * side)) ** 8))
    modes = int(rng.choice([1, 1, 1, 2, 3]))
    made = with_modes(beam[None].astype(np.complex128), modes)
    return made.astype(np.complex64)


def diameter(probe: Complex) -> float:
    """Return the diameter [px] of a disk as large as the pixels that hold 80 % of the light."""
    power = np.sort((np.abs(probe) ** 2).sum(0).ravel())[::-1]
    pixels = (np.cumsum(power) < 0.8 * power.sum()).sum()
    return float(2 * np.sqrt(pixels / np.pi))


def _specimen(name: str, rng: Generator, shape: tuple[int, int]) -> Picture:
    return np.abs(specimens.SPECIMENS[name](shape, rng, (0.0, 1.0), (0.0, 0.0))).astype(np.float64)


def _specks(rng: Generator, shape: tuple[int, int]) -> Picture:
    """Return specks of many sizes and heights on a ground with grain."""
    base, density = rng.uniform(0, 0.08) * _texture(rng, shape), 10 ** rng.uniform(-2.7, -1.5)
    for size in rng.uniform(0.5, 6, size=4):
        specks = (rng.random(shape) < density / size**2) * rng.exponential(size=shape)
        base = base + gaussian_filter(specks, size) * size**2 * rng.uniform(1, 6)
    return _stretched(base)


def _texture(rng: Generator, shape: tuple[int, int]) -> Picture:
    frequency = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1]))
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) * frequency ** (-rng.uniform(0, 4) / 2)
    return _stretched(np.fft.irfft2(spectrum, shape))


def _stretched(picture: Picture) -> Picture:
    low, high = np.quantile(picture, (0.005, 0.995))
    return np.clip((picture - low) / max(float(high - low), 1e-9), 0, 1)


def _radius(side: int) -> Picture:
    offset = np.arange(side) - (side - 1) / 2
    return np.hypot(offset[:, None], offset)


def _aberrated(
    beam: NDArray[Any], smooth_px: float, strength_rad: float, rng: Generator
) -> NDArray[Any]:
    """Return beams (..., N, N) with a random smooth phase on the detector."""
    side = beam.shape[-1]
    phase = gaussian_filter(rng.standard_normal((side, side)), smooth_px, mode='wrap')
    turned = np.fft.fft2(beam) * np.exp(1j * np.fft.fftshift(phase) / phase.std() * strength_rad)
    return np.fft.ifft2(turned).astype(np.complex64)
