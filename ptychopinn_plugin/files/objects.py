"""The object of any file that holds one, with the light that fell on it, to be compared."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..apart import apart, size_of
from ..errors import DataError, explain, require
from ..geometry import relative_illumination
from ..result import ObjectImage
from ..scan import Array, Double, Float, Frame, Scan
from .cxi import OBJECT, cxi_product
from .formats import file_of
from .frames import ORIGIN, pair_of, single_layer
from .npz import Archive, open_npz
from .pair import PRODUCT_FILE, product_beside
from .paths import Source, existing_file, kind_of
from .product import WEIGHT_KEY, Product, load_product
from .safe_hdf5 import has, open_hdf5, read

logger = logging.getLogger(__name__)

# In the order in which a scan's own objects are believed.
SCAN_OBJECTS = ('true_object', 'reference_object', 'objectGuess')


def load_object(path: Source, key: str | None = None) -> ObjectImage:
    """Return the object of a result, a product or a scan, with its weight (DC-15); that of patterns
    without positions is in the product beside them.

    `key` names another array of the file. The weight is the stored one; with positions and a probe
    the light they put on the object; else ones. Raises `DataError` when there is no object.
    """
    file, _ = file_of(Path(path))
    kind = kind_of(file)
    if kind == 'npz':
        with open_npz(file) as archive:
            return _from_npz(archive, key)
    require(
        kind == 'hdf5',
        DataError,
        f'{file.name}: The format is unknown',
        expected='an NPZ or HDF5 file with an object',
        received=f'suffix={file.suffix or "none"} and unknown first bytes',
    )
    size = size_of(file, file.parent / PRODUCT_FILE)
    return apart(lambda: _from_hdf5(file, key), size, name=file.name)


def _from_npz(archive: Archive, key: str | None) -> ObjectImage:
    names = ('object', *SCAN_OBJECTS)
    chosen = key or next((name for name in names if name in archive), None)
    if chosen is None:
        raise DataError(
            explain(
                'The file holds no object',
                expected=' or '.join(names),
                received=f'keys={", ".join(archive.keys) or "none"}',
                cure='Name another array with --truth-key',
            )
        )
    obj = single_layer(archive.read(chosen), chosen)
    origin = pair_of(archive.get('origin_px'), 'origin_px')
    weight = archive.get('weight')
    if weight is not None and _is_weight(weight, obj) and 'xcoords' not in archive:
        return ObjectImage(obj, weight.astype(np.float32), origin)
    light = None
    if all(name in archive for name in ('xcoords', 'ycoords', 'probeGuess')):
        x, y = archive.read('xcoords'), archive.read('ycoords')
        light = _scan_light(x, y, archive.read('probeGuess'), obj, origin)
    return ObjectImage(obj, np.ones(obj.shape, np.float32) if light is None else light, origin)


def _from_hdf5(file: Path, key: str | None) -> ObjectImage:
    with open_hdf5(file) as h5:
        patterns_alone = has(h5, 'patterns') and not has(h5, 'probe_position_x_px')
    if patterns_alone:
        file = existing_file(product_beside(file), 'Name the product itself')
    with open_hdf5(file) as h5:
        if key is not None:
            obj = single_layer(read(h5, key), key)
            return ObjectImage(obj, np.ones(obj.shape, np.float32))
        if has(h5, 'probe_position_x_px'):
            return _from_training(h5)
        if has(h5, 'entry_1'):
            require(
                has(h5, OBJECT),
                DataError,
                'The CXI file holds no object',
                expected=OBJECT,
                cure='Name another dataset with --truth-key',
            )
            return _from_product(cxi_product(h5))
        stored = read(h5, WEIGHT_KEY) if has(h5, WEIGHT_KEY) else None
    product = load_product(file)
    return replace(_from_product(product, stored), place_m=product.place_m)


def _from_training(h5: Any) -> ObjectImage:
    name = 'true_object' if has(h5, 'true_object') else 'object'
    obj = single_layer(read(h5, name), name)
    origin = pair_of(read(h5, 'origin_px') if has(h5, 'origin_px') else None, 'origin_px')
    x, y = read(h5, 'probe_position_x_px'), read(h5, 'probe_position_y_px')
    light = _scan_light(x, y, read(h5, 'probe'), obj, origin)
    return ObjectImage(obj, np.ones(obj.shape, np.float32) if light is None else light, origin)


def _from_product(product: Product, weight: Array | None = None) -> ObjectImage:
    obj = product.object if product.true_object is None else product.true_object
    if weight is not None and _is_weight(weight, obj):
        return ObjectImage(obj, weight.astype(np.float32), product.origin_px)
    light = _light(product.pixels(product.positions_m), product.probe, obj, ORIGIN)
    return ObjectImage(
        obj, np.ones(obj.shape, np.float32) if light is None else light, product.origin_px
    )


def _is_weight(stored: Array, obj: Array) -> bool:
    return stored.shape == obj.shape and stored.dtype.kind in 'buif'


def _scan_light(
    x: Array, y: Array, probe: Array, obj: Array, origin: tuple[float, float]
) -> Float | None:
    if x.ndim != 1 or x.shape != y.shape or x.dtype.kind not in 'uif' or y.dtype.kind not in 'uif':
        logger.warning('Every pixel of the object counts the same: x and y are no positions')
        return None
    return _light(np.stack([y, x], 1) + np.asarray(origin), probe, obj, origin)


def _light(
    positions_px: Double, probe: Array, obj: Array, origin: tuple[float, float]
) -> Float | None:
    """Return the relative light on the object (H, W), None where the scan does not fit it."""
    probe = probe[0] if probe.ndim == 4 and len(probe) else probe
    try:
        # The illumination takes no patterns: one number stands for all of them, without memory.
        shape = (len(positions_px), *probe.shape[-2:])
        blank = np.broadcast_to(np.ones((), np.uint8), shape)
        frame = Frame((obj.shape[0], obj.shape[1]), origin)
        scan = Scan(blank, positions_px, probe, frame=frame)
    except DataError as error:
        logger.warning('Every pixel of the object counts the same: %s', error)
        return None
    return relative_illumination(scan, scan.probe)
