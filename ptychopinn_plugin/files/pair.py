"""A scan as the host's pair of files, `diffraction.h5` and `product.h5` in one folder."""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..atomic import atomic_paths
from ..errors import DataError, explain
from ..geometry import pixel_size_m
from ..result import ObjectImage
from ..scan import NOMINAL_PIXEL, Geometry, Scan
from .new_hdf5 import hdf5_into
from .npz import object_array
from .product import NOMINAL, TRUE_OBJECT_KEY, scan_pixel_size_m, write_product
from .safe_hdf5 import attribute, open_hdf5

logger = logging.getLogger(__name__)

DIFFRACTION_FILE, PRODUCT_FILE = 'diffraction.h5', 'product.h5'
# What the host computes with where nobody knows: consistent with each other, and nothing else.
NOMINAL_PIXEL_M, NOMINAL_ENERGY_EV, NOMINAL_DISTANCE_M = 1e-8, 1e4, 1.0
# One number in both files: which two belong together. The host drops it when it writes its own.
WRITING = 'ptychopinn_writing'


def save_pair(scan: Scan, folder: Path) -> None:
    """Write a scan as the host's two files; the object is the scan's guess, or ones (DC-3).

    Where the scan lacks a physical geometry, a nominal one is written and the product says so: the
    host cannot work without. Raises `OutputError`.
    """
    placed = _placed(scan)
    guess = object_array(scan)
    image = ObjectImage(guess, np.empty(0, np.float32), scan.frame.origin_px)
    writing = secrets.randbits(52)  # exact as a float
    # Neither name is taken before both are written: positions of another scan would fit by chance.
    # Between the two the process can be killed: see `product_beside`.
    with atomic_paths(folder / DIFFRACTION_FILE, folder / PRODUCT_FILE) as (patterns, product):
        with hdf5_into(patterns) as h5:
            h5.attrs[WRITING] = writing
            h5.create_dataset('patterns', data=scan.counts, compression='lzf')
            detector = placed.geometry.detector_pixel_size_m or (0.0, 0.0)
            for key, value in zip(('height', 'width'), detector, strict=True):
                h5['patterns'].attrs[f'detector_pixel_{key}_m'] = value
            h5['indexes'] = scan.scan_index
            h5['bad_pixels'] = scan.bad_pixels
        with hdf5_into(product) as h5:
            h5.attrs[WRITING] = writing
            write_product(h5, placed, image, scan.probe, scan.name, scan.positions_px)
            if placed.geometry.nominal:
                logger.warning(placed.geometry.nominal)
            if scan.true_object is not None:
                h5.create_dataset(TRUE_OBJECT_KEY, data=scan.true_object, compression='lzf')


def product_beside(diffraction_file: Path) -> Path:
    """Return the product that goes with a diffraction file: the one in its folder, or the one that
    a killed `save_pair` had written and not yet given its name.

    Raises `DataError` when both files were written by `save_pair`, but not together.
    """
    product = diffraction_file.parent / PRODUCT_FILE
    writing = _writing(diffraction_file)
    if writing is None or (product.exists() and _writing(product) in (writing, None)):
        return product
    for part in sorted(product.parent.glob(f'.{product.stem}.*.part{product.suffix}')):
        if _is_of(part, writing):
            logger.warning('The writing of %s was interrupted: %s was taken', product, part.name)
            return part
    if not product.exists():
        return product  # whoever opens it says that it is missing
    raise DataError(
        explain(
            f'{diffraction_file.name} and {PRODUCT_FILE} were not written together',
            expected='the two files of one scan',
            received='two scans, one written over the other and interrupted, or files copied',
            cure='Write the scan again, or name the product with --product',
        )
    )


def _writing(file: Path) -> float | None:
    with open_hdf5(file) as h5:
        return attribute(h5, WRITING)


def _is_of(part: Path, writing: float) -> bool:
    try:
        return _writing(part) == writing
    except DataError:  # a writer was killed before it was whole
        return False


def _placed(scan: Scan) -> Scan:
    """Return the scan with a complete geometry, which says what of it is nominal."""
    g = scan.geometry
    size = scan_pixel_size_m(scan)
    unknown = [
        text
        for text, known in (
            (f'energy {NOMINAL_ENERGY_EV / 1e3:g} keV', g.photon_energy_eV),
            (f'distance {NOMINAL_DISTANCE_M:g} m', g.detector_distance_m),
            (f'{NOMINAL_PIXEL} {NOMINAL_PIXEL_M * 1e9:g} nm', size),
        )
        if not known
    ]
    if not unknown and g.detector_pixel_size_m:
        return scan
    size = size or (NOMINAL_PIXEL_M, NOMINAL_PIXEL_M)
    energy = g.photon_energy_eV or NOMINAL_ENERGY_EV
    distance = g.detector_distance_m or NOMINAL_DISTANCE_M
    # The far-field relation is its own inverse: object pixels in, detector pixels out.
    detector = pixel_size_m(energy, distance, size, scan.side_px)
    note = f'{NOMINAL}, where the scan does not know it: {", ".join(unknown)}' if unknown else ''
    made = Geometry(size, g.object_centre_m, detector, distance, energy, nominal=note or g.nominal)
    return replace(scan, geometry=made)
