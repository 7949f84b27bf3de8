"""CXI (Coherent X-ray Imaging Data Bank) in, and out for exchange.

The zero frequency is expected at `[N // 2, N // 2]`; a file with it in the corner must be shifted
first. Any non-zero mask value means a bad pixel. Translations are taken as positions of the probe
on the object, without a change of sign, as the host does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import atomic_path
from ..errors import DataError, require
from ..geometry import pixel_size_m
from ..scan import Array, Bool, Double, Geometry, Scan, frame_around
from .counts import as_counts
from .hdf5 import Patterns, paired, with_product
from .paths import existing_file
from .product import load_product, metres, scan_pixel_size_m
from .safe_hdf5 import dataset_at, has, number, open_hdf5, positive, read

DETECTOR = 'entry_1/instrument_1/detector_1'
DATA = ('entry_1/data_1/data', f'{DETECTOR}/data')
TRANSLATION = ('entry_1/sample_1/geometry_1/translation', 'entry_1/data_1/translation')
ENERGY = 'entry_1/instrument_1/source_1/energy'
PROBE = (
    'entry_1/instrument_1/source_1/probe',
    'entry_1/instrument_1/source_1/illumination',
    'entry_1/image_1/data',
)
# Where the host's own CXI files keep the scan index of each translation.
POSITION_INDEX = 'entry_1/ptychodus/probe_position_indexes'
JOULE_PER_EV = 1.602176634e-19
CXI_VERSION = 160
INVALID_PIXEL = 1


def load_cxi(path: Path, *, diffraction: str = 'auto', product: Path | None = None) -> Scan:
    """Return the scan of a CXI file (DC-8); a product replaces its positions and its probe."""
    file = existing_file(path)
    given = None if product is None else load_product(existing_file(product))
    with open_hdf5(file) as h5:
        stored, bad = dataset_at(h5, _first(h5, DATA)), _mask(h5)
        geometry = _geometry(h5, stored.shape[-1] if stored.ndim else 0)
        if given is None:
            return _own_scan(h5, stored[()], bad, geometry, diffraction, file.stem)
        count = stored.shape[0] if stored.ndim else 0
        patterns = Patterns(stored[()], np.arange(count), bad, geometry.detector_pixel_size_m)
    return with_product(patterns, given, file, diffraction, file.stem)


def save_cxi(scan: Scan, path: Path) -> None:
    """Write a scan as CXI; raise `DataError` unless its physical scales are known."""
    import h5py

    g, size = scan.geometry, scan_pixel_size_m(scan)
    if not (g.photon_energy_eV and g.detector_distance_m and g.detector_pixel_size_m and size):
        _refuse_geometry('A CXI file cannot be written', g)
        return
    translation = np.zeros((len(scan), 3))
    translation[:, 1::-1] = metres(scan, scan.positions_px, size)
    with atomic_path(path) as part, h5py.File(part, 'w') as h5:
        h5['cxi_version'] = CXI_VERSION
        h5[ENERGY] = g.photon_energy_eV * JOULE_PER_EV
        h5[f'{DETECTOR}/distance'] = g.detector_distance_m
        h5[f'{DETECTOR}/y_pixel_size'], h5[f'{DETECTOR}/x_pixel_size'] = g.detector_pixel_size_m
        h5.create_dataset(f'{DETECTOR}/data', data=scan.counts, compression='lzf')
        mask = np.where(scan.bad_pixels, INVALID_PIXEL, 0).astype(np.uint32)
        h5.create_dataset(f'{DETECTOR}/mask', data=mask, compression='lzf')
        h5[DATA[0]] = h5py.SoftLink(f'/{DETECTOR}/data')
        h5[TRANSLATION[0]] = translation
        h5[TRANSLATION[1]] = h5py.SoftLink(f'/{TRANSLATION[0]}')
        h5['entry_1/image_1/data'] = scan.probe[None]
        h5[PROBE[1]] = h5py.SoftLink('/entry_1/image_1/data')


def _own_scan(
    h5: Any, stored: Array, bad: Bool | None, geometry: Geometry, diffraction: str, name: str
) -> Scan:
    require(
        any(has(h5, key) for key in PROBE),
        DataError,
        'The CXI file has no probe',
        expected=' or '.join(PROBE),
        cure='Give a product file with --product, or convert to NPZ with a probeGuess',
    )
    if geometry.pixel_size_m is None:
        _refuse_geometry('Translations in metres cannot be turned into pixels', geometry)
    probe = read(h5, _first(h5, PROBE))
    rows, positions_m = _positions(h5, len(stored) if stored.ndim else 0)
    positions_px = positions_m / np.asarray(geometry.pixel_size_m)
    frame = frame_around(positions_px, stored.shape[-1])
    middle = np.asarray(frame.origin_px) + (np.asarray(frame.shape) - 1) / 2
    centre = middle * np.asarray(geometry.pixel_size_m)
    return Scan(
        counts=as_counts(
            stored if rows.all() else stored[rows],
            'counts' if diffraction == 'auto' else diffraction,
        ),
        positions_px=positions_px,
        probe=probe[0] if probe.ndim == 4 and len(probe) else probe,
        bad_pixels=bad,  # type: ignore[arg-type]
        frame=frame,
        scan_index=np.flatnonzero(rows),
        geometry=Geometry(
            geometry.pixel_size_m,
            (float(centre[0]), float(centre[1])),
            geometry.detector_pixel_size_m,
            geometry.detector_distance_m,
            geometry.photon_energy_eV,
        ),
        name=name,
    )


def _positions(h5: Any, count: int) -> tuple[Bool, Double]:
    """Return which patterns have a translation, and those as (y, x) in metres."""
    stored = read(h5, _first(h5, TRANSLATION))
    require(
        stored.ndim == 2 and stored.shape[1] in (2, 3),
        DataError,
        'The translations have the wrong shape',
        expected='(patterns, 2 or 3), in the order x, y, z',
        received=f'translation.shape={stored.shape}',
    )
    require(np.isfinite(stored).all(), DataError, 'Positions contain NaN or infinity')
    positions_m = stored[:, 1::-1].astype(np.float64)
    if has(h5, POSITION_INDEX):
        index = read(h5, POSITION_INDEX)
        require(
            index.shape == stored.shape[:1],
            DataError,
            'Translations and their indexes differ in number',
            received=f'translation.shape={stored.shape}, indexes.shape={index.shape}',
        )
        return paired(np.arange(count), index, positions_m)
    require(
        len(stored) == count,
        DataError,
        'Positions and patterns differ in number',
        expected=f'{count} positions',
        received=f'{len(stored)} positions',
    )
    return np.ones(count, bool), positions_m


def _geometry(h5: Any, side_px: int) -> Geometry:
    joule = positive(number(h5, ENERGY))
    energy = None if joule is None else joule / JOULE_PER_EV
    distance = positive(number(h5, f'{DETECTOR}/distance'))
    dy, dx = (positive(number(h5, f'{DETECTOR}/{axis}_pixel_size')) for axis in 'yx')
    detector = None if dy is None or dx is None else (dy, dx)
    size = None
    if energy and distance and detector and side_px:
        size = pixel_size_m(energy, distance, detector, side_px)
    return Geometry(size, None, detector, distance, energy)


def _mask(h5: Any) -> Bool | None:
    if not has(h5, f'{DETECTOR}/mask'):
        return None
    mask: Bool = read(h5, f'{DETECTOR}/mask') != 0
    # One mask per pattern is allowed by the format; a pixel that is ever bad is taken as bad.
    return np.asarray(mask.any(0)) if mask.ndim == 3 else mask


def _first(h5: Any, keys: tuple[str, ...]) -> str:
    return next((key for key in keys if has(h5, key)), keys[0])


def _refuse_geometry(wrong: str, g: Geometry) -> None:
    require(
        False,
        DataError,
        wrong,
        expected='photon energy, detector distance and detector pixel size',
        received=f'photon_energy_eV={g.photon_energy_eV}, '
        f'detector_distance_m={g.detector_distance_m}, '
        f'detector_pixel_size_m={g.detector_pixel_size_m}',
        cure='Use NPZ, whose positions are in pixels',
    )
