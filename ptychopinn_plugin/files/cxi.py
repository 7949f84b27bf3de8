"""CXI (Coherent X-ray Imaging Data Bank) in, and out for exchange.

The zero frequency is expected at `[N // 2, N // 2]`; a file with it in the corner must be shifted
first. Any non-zero mask value means a bad pixel. Translations (x, y, z) in metres are taken as
positions of the probe on the object, without a change of sign, as the host does. The object pixel
is that of the far field, else the one the host notes in `entry_1/ptychodus`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, explain, require
from ..geometry import pixel_size_m
from ..scan import MAX_OBJECT_PX, Array, Bool, Double, Geometry, Scan, check_finite, frame_around
from .frames import middle_px, pair_of, single_layer
from .hdf5 import Patterns, host_counts, paired, with_product
from .new_hdf5 import new_hdf5
from .npz import object_array
from .paths import existing_file
from .product import UNKNOWN_PIXEL_M, Product, first_probe, load_product, metres, scan_pixel_size_m
from .safe_hdf5 import dataset_at, has, number, open_hdf5, patterns_in, positive, read

DETECTOR = 'entry_1/instrument_1/detector_1'
DATA = ('entry_1/data_1/data', f'{DETECTOR}/data')
TRANSLATION = (
    'entry_1/sample_1/geometry_1/translation',
    'entry_1/data_1/translation',
    f'{DETECTOR}/translation',
)
ENERGY = 'entry_1/instrument_1/source_1/energy'
PROBE = (
    'entry_1/instrument_1/source_1/probe',
    'entry_1/instrument_1/source_1/illumination',
    'entry_1/image_1/data',
)
OBJECT = 'entry_1/image_2/data'
# Where the host's own CXI files keep what the format has no place for.
HOST = 'entry_1/ptychodus'
POSITION_INDEX = f'{HOST}/probe_position_indexes'
# Ours alone.
TRUTH = 'entry_1/ptychopinn_plugin/true_object'
ORIGIN_PX = 'entry_1/ptychopinn_plugin/origin_px'
JOULE_PER_EV = 1.602176634e-19
CXI_VERSION = 160
INVALID_PIXEL = 1


def load_cxi(path: Path, *, diffraction: str = 'auto', product: Path | None = None) -> Scan:
    """Return the scan of a CXI file (DC-8); a product replaces its positions and its probe."""
    file = existing_file(path)
    given = None if product is None else load_product(existing_file(product))
    with open_hdf5(file) as h5:
        data, bad = dataset_at(h5, _first(h5, DATA)), _mask(h5)
        side, count = (data.shape[-1], data.shape[0]) if data.ndim else (0, 0)
        if given is None:
            _check_probe(h5)
            if has(h5, OBJECT):
                given = cxi_product(h5, side, count)
        detector = _geometry(h5, side).detector_pixel_size_m
        patterns = Patterns(patterns_in(data), np.arange(count), bad, detector)
        if given is None:
            return _without_object(h5, patterns, diffraction, file.stem)
    return with_product(patterns, given, file, diffraction, file.stem)


def cxi_product(h5: Any, side_px: int = 0, count: int | None = None) -> Product:
    """Return the object of an open CXI file with the probe and the positions that belong to it."""
    probe = first_probe(read(h5, _first(h5, PROBE)))
    geometry = _geometry(h5, side_px or probe.shape[-1])
    size = _pixel_size(h5, geometry)
    index, positions_m = _translations(h5, count)
    centre = tuple(number(h5, f'{HOST}/object_center_{axis}_m') for axis in 'yx')
    return Product(
        object=single_layer(read(h5, OBJECT)),
        probe=probe,
        position_index=index,
        positions_m=positions_m,
        pixel_size_m=size,
        object_centre_m=(centre[0] or 0.0, centre[1] or 0.0),
        detector_distance_m=geometry.detector_distance_m,
        photon_energy_eV=geometry.photon_energy_eV,
        origin_px=pair_of(read(h5, ORIGIN_PX) if has(h5, ORIGIN_PX) else None, 'origin_px'),
        true_object=single_layer(read(h5, TRUTH), 'true_object') if has(h5, TRUTH) else None,
    )


def save_cxi(scan: Scan, path: Path) -> None:
    """Write a scan as CXI (DC-8); unknown scales are left out, an unknown pixel is 1 m."""
    import h5py

    size = scan_pixel_size_m(scan) or (UNKNOWN_PIXEL_M, UNKNOWN_PIXEL_M)
    translation = np.zeros((len(scan), 3))
    translation[:, 1::-1] = metres(scan, scan.positions_px, size)
    with new_hdf5(path) as h5:
        h5['cxi_version'] = CXI_VERSION
        _write_scales(h5, scan, size)
        h5.create_dataset(f'{DETECTOR}/data', data=scan.counts, compression='lzf')
        mask = np.where(scan.bad_pixels, INVALID_PIXEL, 0).astype(np.uint32)
        h5.create_dataset(f'{DETECTOR}/mask', data=mask, compression='lzf')
        h5[DATA[0]] = h5py.SoftLink(f'/{DETECTOR}/data')
        h5[TRANSLATION[0]] = translation
        h5[TRANSLATION[1]] = h5py.SoftLink(f'/{TRANSLATION[0]}')
        h5['entry_1/image_1/data'] = scan.probe[None]
        h5[PROBE[1]] = h5py.SoftLink('/entry_1/image_1/data')
        h5[OBJECT] = object_array(scan)[None]
        h5[ORIGIN_PX] = np.asarray(scan.frame.origin_px, np.float64)
        # The host numbers the patterns of a CXI file from zero, whatever their index was before.
        h5[POSITION_INDEX] = np.arange(len(scan))
        if scan.true_object is not None:
            h5[TRUTH] = scan.true_object


def _write_scales(h5: Any, scan: Scan, size: tuple[float, float]) -> None:
    g = scan.geometry
    if g.photon_energy_eV:
        h5[ENERGY] = g.photon_energy_eV * JOULE_PER_EV
    if g.detector_distance_m:
        h5[f'{DETECTOR}/distance'] = g.detector_distance_m
    if g.detector_pixel_size_m:
        h5[f'{DETECTOR}/y_pixel_size'], h5[f'{DETECTOR}/x_pixel_size'] = g.detector_pixel_size_m
    for name in ('object', 'probe'):
        h5[f'{HOST}/{name}_pixel_height_m'], h5[f'{HOST}/{name}_pixel_width_m'] = size
    centre = metres(scan, middle_px(scan.frame), size)
    h5[f'{HOST}/object_center_y_m'], h5[f'{HOST}/object_center_x_m'] = centre.tolist()


def _without_object(h5: Any, patterns: Patterns, diffraction: str, name: str) -> Scan:
    """Return a scan whose pixel (0, 0) is at 0 m, in a frame made from the positions."""
    stored = patterns.stored
    require(
        stored.ndim == 3,
        DataError,
        'Diffraction patterns have the wrong rank',
        expected='three axes (patterns, rows, columns)',
        received=f'shape={stored.shape}',
    )
    geometry = _geometry(h5, stored.shape[-1])
    size = _pixel_size(h5, geometry)
    rows, positions_m = paired(patterns.index, *_translations(h5, len(stored)))
    positions_px = positions_m / np.asarray(size)
    _check_extent(positions_m, size, geometry)
    frame = frame_around(positions_px, stored.shape[-1])
    known = UNKNOWN_PIXEL_M not in size
    y, x = (middle_px(frame) * np.asarray(size)).tolist()
    return Scan(
        counts=host_counts(
            stored if rows.all() else stored[rows], diffraction, patterns.bad_pixels
        ),
        positions_px=positions_px,
        probe=first_probe(read(h5, _first(h5, PROBE))),
        bad_pixels=patterns.bad_pixels,  # type: ignore[arg-type]
        frame=frame,
        scan_index=patterns.index[rows],
        geometry=Geometry(
            size if known else None,
            (y, x) if known else None,
            geometry.detector_pixel_size_m,
            geometry.detector_distance_m,
            geometry.photon_energy_eV,
        ),
        name=name,
    )


def _check_extent(positions_m: Double, size_m: tuple[float, float], geometry: Geometry) -> None:
    # The scales come first: an energy in eV where the format has joules is seen nowhere else.
    extent_m = np.ptp(positions_m, axis=0)
    extent_px = extent_m / np.asarray(size_m)
    require(
        (len(positions_m) == 1 or extent_px.max() >= 1) and extent_px.max() <= MAX_OBJECT_PX,
        DataError,
        'The translations do not fit the object pixel',
        expected=f'a scan of 1 to {MAX_OBJECT_PX} pixels',
        received=f'{extent_m[0]:.3g} x {extent_m[1]:.3g} m in pixels of {size_m[0]:.3g} x '
        f'{size_m[1]:.3g} m, of photon_energy_eV={geometry.photon_energy_eV}, '
        f'detector_distance_m={geometry.detector_distance_m}, '
        f'detector_pixel_size_m={geometry.detector_pixel_size_m}',
        cure='Check the units: translations, distance and pixel sizes are in m, the energy in J',
    )


def _check_probe(h5: Any) -> None:
    require(
        any(has(h5, key) for key in PROBE),
        DataError,
        'The CXI file has no probe',
        expected=' or '.join(PROBE),
        cure='Give a product file with --product, or convert to NPZ with a probeGuess',
    )


def _translations(h5: Any, count: int | None) -> tuple[Array, Double]:
    """Return the pattern index of each translation, and the translations as (y, x) in metres."""
    stored = read(h5, _first(h5, TRANSLATION))
    require(
        stored.ndim == 2 and stored.shape[1] in (2, 3) and stored.dtype.kind in 'uif',
        DataError,
        'The translations have the wrong shape',
        expected='(patterns, 2 or 3), in the order x, y, z',
        received=f'translation.shape={stored.shape}',
    )
    check_finite(stored)
    positions_m = stored[:, 1::-1].astype(np.float64)
    if has(h5, POSITION_INDEX):
        index = read(h5, POSITION_INDEX)
        require(
            index.shape == stored.shape[:1] and index.dtype.kind in 'ui',
            DataError,
            'Translations and their indexes differ in number',
            received=f'translation.shape={stored.shape}, indexes.shape={index.shape}',
        )
        return index, positions_m
    require(
        count is None or len(stored) == count,
        DataError,
        'Positions and patterns differ in number',
        expected=f'{count} positions',
        received=f'{len(stored)} positions',
    )
    return np.arange(len(stored)), positions_m


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


def _pixel_size(h5: Any, g: Geometry) -> tuple[float, float]:
    # The stored size first, as the host does: its positions were made with it.
    dy, dx = (positive(number(h5, f'{HOST}/object_pixel_{axis}_m')) for axis in ('height', 'width'))
    if dy is not None and dx is not None:
        return dy, dx
    if g.pixel_size_m is None:
        raise DataError(
            explain(
                'Translations in metres cannot be turned into pixels',
                expected='photon energy, detector distance and detector pixel size',
                received=f'photon_energy_eV={g.photon_energy_eV}, '
                f'detector_distance_m={g.detector_distance_m}, '
                f'detector_pixel_size_m={g.detector_pixel_size_m}',
                cure='Use NPZ, whose positions are in pixels',
            )
        )
    return g.pixel_size_m


def _mask(h5: Any) -> Bool | None:
    if not has(h5, f'{DETECTOR}/mask'):
        return None
    mask: Bool = read(h5, f'{DETECTOR}/mask') != 0
    # One mask per pattern is allowed by the format; a pixel that is ever bad is taken as bad.
    return np.asarray(mask.any(0)) if mask.ndim == 3 else mask


def _first(h5: Any, keys: tuple[str, ...]) -> str:
    return next((key for key in keys if has(h5, key)), keys[0])
