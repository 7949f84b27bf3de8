"""Probes (N, N), well inside their window, centred on `(N - 1) / 2`, and their incoherent modes.

The beam is the instrument: nothing here is drawn at random, so scans of one kind share their probe.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import ConfigError, DataError, require
from ..files.npz import open_npz
from ..files.paths import existing_file
from ..probe_modes import power, with_modes
from ..reference import Wave
from ..scan import Array, Double

LARGEST_CUT = 0.02  # share of a file's probe that may fall outside a smaller window


def zone_plate(side: int, defocus: float = 0.36) -> Wave:
    """Return the beam of a zone plate with a central stop.

    `defocus` is the diameter of the out-of-focus beam as a share of the window.
    """
    return focused(side, radius=0.2, stop=0.4, defocus=defocus)


def airy(side: int, defocus: float = 0.3) -> Wave:
    """Return the beam of a full circular aperture; `defocus` as in `zone_plate`, 0 is the focus."""
    return focused(side, radius=0.1, stop=0.0, defocus=defocus)


def gaussian(side: int, fwhm: float = 0.22, curvature: float = 0.35) -> Wave:
    """Return a Gaussian beam with a curved wavefront.

    `fwhm` of the intensity as a share of the window; `curvature` the local frequency at the edge of
    the window in cycles per pixel, which must stay below 0.5 to be sampled.
    """
    r = _offsets(side)
    square = r[:, None] ** 2 + r**2
    sigma = fwhm * side / np.sqrt(8 * np.log(2))
    beam: Wave = np.exp(-square / (4 * sigma**2) + 2j * np.pi * curvature * square / side)
    return beam


PROBES: dict[str, Callable[[int], Wave]] = {
    'zone-plate': zone_plate,
    'airy': airy,
    'gaussian': gaussian,
}


def make_probe(kind: str, side: int, modes: int) -> Wave:
    """Return the probe of a kind in `PROBES` as orthogonal modes (P, N, N) of total power 1."""
    return with_modes(PROBES[kind](side)[None], modes)


def load_probe(path: Path, key: str, side: int, modes: int) -> Wave:
    """Return the probe in an NPZ file as (P, N, N) of total power 1, cut or padded to N.

    The file's first `modes` modes are kept as they are; missing ones are made from the first.
    Raises `DataError`, or `ConfigError` when the window is too small for the probe.
    """
    probe = _read(path, key)
    require(
        probe.ndim == 3
        and len(probe) > 0
        and probe.dtype.kind in 'fc'
        and probe.any()
        and np.isfinite(probe).all(),
        DataError,
        f'{path.name}: {key} is not a probe',
        expected='finite complex numbers of shape (modes, N, N), not all zero',
        received=f'shape={probe.shape}, dtype={probe.dtype}',
    )
    with np.errstate(over='ignore'):
        whole = power(probe[:modes])
    require(
        0 < whole < np.inf,
        DataError,
        f'{path.name}: {key} has no power that can be computed with',
        received=f'power={whole} in {modes} modes',
    )
    fitted = _fit(_fit(probe[:modes], side, 1), side, 2)
    lost = 1 - power(fitted) / whole
    require(
        lost <= LARGEST_CUT,
        ConfigError,
        f'pattern_size_px is too small for the probe in {path.name}',
        expected=f'at most {LARGEST_CUT:.0%} of its power cut off',
        received=f'{lost:.0%} at pattern_size_px={side}',
        cure=f'Set pattern_size_px to {max(probe.shape[1:])}',
    )
    return with_modes(fitted, modes)


def _offsets(side: int) -> Double:
    """Return the distance of each pixel from the centre of the window, (N,) [px]."""
    return np.arange(side, dtype=np.float64) - (side - 1) / 2


def focused(side: int, radius: float, stop: float, defocus: float) -> Wave:
    """Return the beam of an aperture, `radius` [share of N] on the detector, with a stop."""
    f = (np.arange(side) - side // 2) / side
    rho = np.hypot(f[:, None], f)
    pixel = 1 / side
    edge = np.clip((radius - rho) / pixel + 0.5, 0, 1)
    edge *= np.clip((rho - stop * radius) / pixel + 0.5, 0, 1) if stop else 1
    # A phase pi a f^2 sends frequency f to a f pixels from the axis.
    a = defocus * side / 2 / radius
    pupil = edge * np.exp(1j * np.pi * a * rho**2)
    # The transform as a matrix product, since the window's centre lies between pixels.
    wave = np.exp(2j * np.pi * _offsets(side)[:, None] * f)
    beam: Wave = wave @ pupil @ wave.T
    return beam


def _fit(array: Array, side: int, axis: int) -> Array:
    """Return `array` cut or padded with zeros about the centre of `axis` to `side`."""
    had = array.shape[axis]
    if had > side:
        start = (had - side) // 2
        return array.take(np.arange(start, start + side), axis)
    pad = [(0, 0)] * array.ndim
    pad[axis] = ((side - had) // 2, side - had - (side - had) // 2)
    return np.pad(array, pad)


def _read(path: Path, key: str) -> Array:
    """Return the array `key` of an NPZ as (modes, rows, columns)."""
    with open_npz(existing_file(path)) as archive:
        require(
            key in archive,
            DataError,
            'The file has no such array',
            expected=' | '.join(archive.keys),
            received=f'probe_key={key}',
            cure='Set probe_key',
        )
        array = archive.read(key)
    return array[None] if array.ndim == 2 else array
