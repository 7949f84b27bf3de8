"""A scan as the host's pair of files, `diffraction.h5` and `product.h5` in one folder."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..atomic import atomic_paths
from ..geometry import pixel_size_m
from ..result import ObjectImage
from ..scan import Geometry, Scan
from .new_hdf5 import hdf5_into
from .npz import object_array
from .product import TRUE_OBJECT_KEY, scan_pixel_size_m, write_product

logger = logging.getLogger(__name__)

DIFFRACTION_FILE, PRODUCT_FILE = 'diffraction.h5', 'product.h5'
# What the host computes with where nobody knows: consistent with each other, and nothing else.
NOMINAL_PIXEL_M, NOMINAL_ENERGY_EV, NOMINAL_DISTANCE_M = 1e-8, 1e4, 1.0
NOMINAL = 'Nominal geometry: energy, distance and pixel sizes were not known.'


def save_pair(scan: Scan, folder: Path) -> None:
    """Write a scan as the host's two files; the object is the scan's guess, or ones (DC-3).

    Where the scan lacks a physical geometry, a nominal one is written and the product says so: the
    host cannot work without. Raises `OutputError`.
    """
    placed, nominal = _placed(scan)
    guess = object_array(scan)
    image = ObjectImage(guess, np.empty(0, np.float32), scan.frame.origin_px)
    # Neither name is taken before both are written: positions of another scan would fit by chance.
    with atomic_paths(folder / DIFFRACTION_FILE, folder / PRODUCT_FILE) as (patterns, product):
        with hdf5_into(patterns) as h5:
            h5.create_dataset('patterns', data=scan.counts, compression='lzf')
            detector = placed.geometry.detector_pixel_size_m or (0.0, 0.0)
            for key, value in zip(('height', 'width'), detector, strict=True):
                h5['patterns'].attrs[f'detector_pixel_{key}_m'] = value
            h5['indexes'] = scan.scan_index
            h5['bad_pixels'] = scan.bad_pixels
        with hdf5_into(product) as h5:
            write_product(h5, placed, image, scan.probe, scan.name, scan.positions_px)
            if nominal:
                h5.attrs['comments'] = NOMINAL
                logger.warning('%s %g nm pixels were taken', NOMINAL, NOMINAL_PIXEL_M * 1e9)
            if scan.true_object is not None:
                h5.create_dataset(TRUE_OBJECT_KEY, data=scan.true_object, compression='lzf')


def _placed(scan: Scan) -> tuple[Scan, bool]:
    """Return the scan with a complete geometry, and whether part of it is nominal."""
    g = scan.geometry
    size = scan_pixel_size_m(scan)
    complete = size and g.photon_energy_eV and g.detector_distance_m
    if complete and g.detector_pixel_size_m:
        return scan, False
    size = size or (NOMINAL_PIXEL_M, NOMINAL_PIXEL_M)
    energy = g.photon_energy_eV or NOMINAL_ENERGY_EV
    distance = g.detector_distance_m or NOMINAL_DISTANCE_M
    # The far-field relation is its own inverse: object pixels in, detector pixels out.
    detector = pixel_size_m(energy, distance, size, scan.side_px)
    made = Geometry(size, g.object_centre_m, detector, distance, energy)
    return replace(scan, geometry=made), not complete
