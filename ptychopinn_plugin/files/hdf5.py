"""The host's HDF5 files: diffraction and product paired by scan index, and the training format."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import DataError, require
from ..geometry import pixel_size_m
from ..mapped import rows_of
from ..scan import Array, Bool, Double, Geometry, Scan, check_finite
from .counts import as_counts
from .frames import pair_of, place
from .new_hdf5 import new_hdf5
from .npz import object_array, scan_index
from .paths import blame, existing_file
from .product import UNKNOWN_PIXEL_M, Product, load_product, scan_pixel_size_m
from .safe_hdf5 import attribute, dataset_at, has, number, open_hdf5, patterns_in, positive, read

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Patterns:
    """Patterns (M, N, N) that still wait for their positions, with the scan index of each."""

    stored: Array
    index: Array
    bad_pixels: Bool | None
    detector_pixel_size_m: tuple[float, float] | None = None


def load_pair(
    diffraction_file: Path, product_file: Path, *, diffraction: str = 'auto', name: str = ''
) -> Scan:
    """Return the scan of a diffraction file and the product that goes with it (DC-3)."""
    cure = 'Give the product file with --product'
    existing_file(diffraction_file)
    product = load_product(existing_file(product_file, cure))
    patterns = _read_patterns(diffraction_file)
    return with_product(patterns, product, diffraction_file, diffraction, name)


def with_product(
    patterns: Patterns, product: Product, file: Path, diffraction: str = 'auto', name: str = ''
) -> Scan:
    """Return the scan of `patterns`, with positions, probe and object from a product."""
    with blame(file):
        rows, positions_m = paired(patterns.index, product.position_index, product.positions_m)
        if not rows.all():
            patterns = replace(
                patterns, stored=rows_of(patterns.stored, rows), index=patterns.index[rows]
            )
        return scan_of(patterns, positions_m, product, diffraction, name or file.stem)


def scan_of(
    patterns: Patterns, positions_m: Double, product: Product, diffraction: str, name: str
) -> Scan:
    """Return the scan of patterns and the position (M, 2) in metres of each."""
    positions_px = product.pixels(positions_m) + np.asarray(product.origin_px)
    known = replace(product.geometry, detector_pixel_size_m=patterns.detector_pixel_size_m)
    placed = place(
        positions_px, patterns.stored.shape[-1], product.object, known,
        truth=product.true_object, origin_px=product.origin_px,
    )  # fmt: skip
    return Scan(
        counts=host_counts(patterns.stored, diffraction, patterns.bad_pixels),
        positions_px=positions_px,
        probe=product.probe,
        bad_pixels=patterns.bad_pixels,  # type: ignore[arg-type]
        frame=placed.frame,  # type: ignore[arg-type]
        object_guess=placed.object_guess,
        true_object=product.true_object,
        scan_index=patterns.index,
        geometry=placed.geometry,
        name=name,
    )


def paired(pattern_index: Array, position_index: Array, positions_m: Double) -> tuple[Bool, Double]:
    """Return which patterns have a position, and those positions in the order of the patterns.

    Positions with the same index are averaged; a pattern between two known indexes gets the linear
    interpolation; one outside them, or with a negative index (not assembled), is dropped.
    """
    require(
        pattern_index.ndim == 1 and pattern_index.dtype.kind in 'ui',
        DataError,
        'The pattern indexes have the wrong shape or type',
        expected='integers of shape (patterns,)',
        received=f'indexes.shape={pattern_index.shape}, dtype={pattern_index.dtype}',
    )
    require(len(position_index) > 0, DataError, 'The product holds no probe positions')
    check_finite(positions_m)
    known, which, times = np.unique(position_index, return_inverse=True, return_counts=True)
    means = [np.bincount(which, positions_m[:, axis]) / times for axis in (0, 1)]
    rows = (pattern_index >= max(known[0], 0)) & (pattern_index <= known[-1])
    span = f'{pattern_index.min()}..{pattern_index.max()}' if len(pattern_index) else 'none'
    require(
        rows.any(),
        DataError,
        'No pattern has a position',
        expected=f'pattern indexes within {known[0]}..{known[-1]}, those of the positions',
        received=f'pattern indexes {span}',
        cure='Check that the product belongs to these patterns',
    )
    wanted = pattern_index[rows]
    between = int((~np.isin(wanted, known)).sum())
    if between or not rows.all():
        logger.warning(
            '%d patterns without a position were dropped, %d positions were interpolated',
            int((~rows).sum()),
            between,
        )
    return rows, np.stack([np.interp(wanted, known, mean) for mean in means], 1)


def load_training(path: Path, *, diffraction: str = 'auto') -> Scan:
    """Return the scan of an HDF5 training file of the host (DC-7)."""
    file = existing_file(path)
    with open_hdf5(file) as h5:
        stored, obj = patterns_in(dataset_at(h5, 'patterns')), read(h5, 'object')
        side = stored.shape[-1] if stored.ndim else 0
        bad = read(h5, 'bad_pixels').astype(bool) if has(h5, 'bad_pixels') else None
        x, y = read(h5, 'probe_position_x_px'), read(h5, 'probe_position_y_px')
        require(
            x.ndim == 1 and x.shape == y.shape,
            DataError,
            'The probe positions are not two lists of the same length',
            expected='shape (patterns,) for both',
            received=f'x_px.shape={x.shape}, y_px.shape={y.shape}',
        )
        size = (number(h5, 'object_pixel_height_m'), number(h5, 'object_pixel_width_m'))
        energy = positive(number(h5, 'photon_energy_eV'))
        distance = positive(number(h5, 'detector_object_distance_m'))
        truth, index, origin = (
            read(h5, key) if has(h5, key) else None
            for key in ('true_object', 'scan_index', 'origin_px')
        )
        start = pair_of(origin, 'origin_px')
        positions_px = np.stack([y, x], 1) + np.asarray(start)
        placed = place(
            positions_px, side, obj, _training_geometry(size, energy, distance, side),
            truth=truth, origin_px=start,
        )  # fmt: skip
        return Scan(
            counts=host_counts(stored, diffraction, bad),
            positions_px=positions_px,
            probe=read(h5, 'probe'),
            bad_pixels=bad,  # type: ignore[arg-type]
            frame=placed.frame,  # type: ignore[arg-type]
            object_guess=placed.object_guess,
            true_object=truth,
            scan_index=scan_index(index),  # type: ignore[arg-type]
            geometry=placed.geometry,
            name=file.stem,
        )


def save_training(scan: Scan, path: Path) -> None:
    """Write a scan in the HDF5 training format of the host; zero stands for what is not known."""

    positions = scan.positions_px - np.asarray(scan.frame.origin_px)
    size = scan_pixel_size_m(scan) or (UNKNOWN_PIXEL_M, UNKNOWN_PIXEL_M)
    arrays: dict[str, Array] = {
        'patterns': scan.counts,
        'bad_pixels': scan.bad_pixels,
        'probe': scan.probe,
        'object': object_array(scan),
        'probe_position_x_px': positions[:, 1],
        'probe_position_y_px': positions[:, 0],
        # Ours alone, passed over by the host.
        'scan_index': scan.scan_index,
        'origin_px': np.asarray(scan.frame.origin_px, np.float64),
    }
    if scan.true_object is not None:
        arrays['true_object'] = scan.true_object
    with new_hdf5(path) as h5:
        for key, array in arrays.items():
            h5.create_dataset(key, data=array, compression='lzf')
        h5['object_pixel_height_m'], h5['object_pixel_width_m'] = size
        h5['detector_object_distance_m'] = float(scan.geometry.detector_distance_m or 0.0)
        h5['photon_energy_eV'] = float(scan.geometry.photon_energy_eV or 0.0)


def _read_patterns(file: Path) -> Patterns:
    with open_hdf5(file) as h5:
        dataset, index = dataset_at(h5, 'patterns'), read(h5, 'indexes')
        require(
            dataset.ndim > 0 and index.shape == dataset.shape[:1],
            DataError,
            'Patterns and indexes differ in number',
            received=f'patterns.shape={dataset.shape}, indexes.shape={index.shape}',
        )
        dy, dx = (
            positive(attribute(dataset, f'detector_pixel_{k}_m')) for k in ('height', 'width')
        )
        return Patterns(
            patterns_in(dataset),
            index,
            read(h5, 'bad_pixels').astype(bool) if has(h5, 'bad_pixels') else None,
            None if dy is None or dx is None else (dy, dx),
        )


def host_counts(stored: Array, diffraction: str, bad_pixels: Bool | None) -> Array:
    """Return patterns of a format that holds counts by definition as counts."""
    # Also where they are not integers; only square roots of integers are no accident in any file.
    return as_counts(stored, diffraction, bad_pixels, unclear='counts')


def _training_geometry(
    size: tuple[float | None, float | None],
    energy_eV: float | None,
    distance_m: float | None,
    side_px: int,
) -> Geometry:
    dy, dx = positive(size[0]), positive(size[1])
    if dy is None or dx is None or UNKNOWN_PIXEL_M in (dy, dx):
        return Geometry(detector_distance_m=distance_m, photon_energy_eV=energy_eV)
    detector = None
    if energy_eV and distance_m and side_px:
        # The far-field relation is its own inverse: object pixels in, detector pixels out.
        detector = pixel_size_m(energy_eV, distance_m, (dy, dx), side_px)
    # The absolute origin is not in the file; the host takes the object's centre for it.
    return Geometry((dy, dx), (0.0, 0.0), detector, distance_m, energy_eV)
