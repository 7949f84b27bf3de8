"""Between the host's nouns and ours: `ReconstructInput` to `Scan`, `Sweep` to `Product`.

Metres become object pixels as in the host, `x_px = (x_m - centre_x_m) / width_m + (W - 1) / 2`, by
the same code that reads its product files, so that a run in the host equals one from files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from ptychodus.api.geometry import PixelGeometry
from ptychodus.api.object import Object, ObjectCenter
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.probe_positions import ProbePositionSequence
from ptychodus.api.product import LossValue, Product
from ptychodus.api.reconstruct import ReconstructInput

from .. import files
from ..checks import WARNING, Finding, tell
from ..errors import DataError, explain
from ..files.frames import fits, middle_px, single_layer
from ..result import Sweep
from ..scan import Frame, Scan

OPR = Finding(
    'varying probe',
    WARNING,
    'The probe varies over the scan (OPR)',
    'Its first modes are used throughout',
    'Where they differ much, reconstruct parts of the scan apart',
)


def scan_of_input(parameters: ReconstructInput) -> Scan:
    """Return the scan that the host hands over; raises `DataError` where it cannot be one."""
    product = parameters.product
    # Point by point: 1.6 has no arrays of them.
    points = [(p.index, p.y_m, p.x_m) for p in product.probe_positions]
    index = np.array([p[0] for p in points], np.int64)
    positions_m = np.array([p[1:] for p in points], np.float64).reshape(-1, 2)
    stored = np.asarray(parameters.diffraction_patterns)
    if len(stored) != len(positions_m):
        raise DataError(
            explain(
                'Patterns and positions differ in number',
                expected=f'{len(stored)} positions',
                received=f'{len(positions_m)} positions',
            )
        )
    if product.probes.get_opr_weights_or_none() is not None:
        tell([OPR], product.metadata.name)
    bad = parameters.bad_pixels
    patterns = files.Patterns(stored, index, None if bad is None else np.asarray(bad, bool))
    ours = _our_product(product)
    usable = stored.ndim == 3 and len(stored) > 0  # the scan refuses what is not
    if usable and not fits(ours.pixels(positions_m), stored.shape[-1], Frame(ours.object.shape)):
        # The object is not where the sweeps begin: one that is too small only has to make room.
        ours = replace(ours, object=np.ones_like(ours.object))
    return files.scan_of(patterns, positions_m, ours, 'auto', product.metadata.name)


def product_of_sweep(
    parameters: ReconstructInput,
    scan: Scan,
    sweep: Sweep,
    losses: Sequence[float],
    *,
    update_probe: bool,
    correct_positions: bool = False,
) -> Product:
    """Return the host's product of a sweep.

    Pixel size and metadata are the input's, and so are positions and frame unless the sweeps
    correct positions. The probe is the input's times one real factor, so that probe times object
    predicts counts, unless the sweeps update it.
    """
    given = parameters.product
    obj, probes = given.object_, given.probes
    return Product(
        metadata=given.metadata,
        probe_positions=_moved(given, scan, sweep) if correct_positions else given.probe_positions,
        probes=_updated(probes, sweep) if update_probe else _scaled(probes, scan, sweep),
        object_=Object(
            array=sweep.image.object[np.newaxis],
            pixel_geometry=obj.get_pixel_geometry().copy(),
            center=_centre(obj, sweep.image.frame),
            layer_spacing_m=list(obj.layer_spacing_m),
        ),
        losses=[LossValue(epoch=epoch, value=loss) for epoch, loss in enumerate(losses)],
    )


def _our_product(product: Product) -> files.Product:
    obj, probe = product.object_, product.probes.get_array()
    try:
        pixel, centre = obj.get_pixel_geometry(), obj.get_center()
    except ValueError as error:
        raise DataError(
            explain(
                'The object of the product has no place',
                expected='a pixel geometry and a centre',
                received=str(error),
                cure='Make an object for the product first',
            )
        ) from error
    return files.Product(
        object=single_layer(obj.get_array()),
        probe=probe[0],
        position_index=np.empty(0, np.int64),  # paired with the patterns by the host already
        positions_m=np.empty((0, 2)),
        pixel_size_m=_size(pixel),
        object_centre_m=(centre.y_m, centre.x_m),
        detector_distance_m=product.metadata.detector_distance_m or None,
        photon_energy_eV=_energy(product) or None,
        near_field=not getattr(product.metadata, 'far_field', True),
    )


def _moved(product: Product, scan: Scan, sweep: Sweep) -> ProbePositionSequence:
    pixel = product.object_.get_pixel_geometry()
    moved = sweep.positions_px - scan.positions_px
    return ProbePositionSequence(
        [
            replace(p, y_m=p.y_m + float(y) * pixel.height_m, x_m=p.x_m + float(x) * pixel.width_m)
            for p, (y, x) in zip(product.probe_positions, moved, strict=True)
        ]
    )


def _energy(product: Product) -> float:
    metadata = product.metadata
    # The name before 1.7.
    key = 'photon_energy_eV' if hasattr(metadata, 'photon_energy_eV') else 'probe_energy_eV'
    return float(getattr(metadata, key))


def _size(pixel: PixelGeometry) -> tuple[float, float]:
    size = float(pixel.height_m), float(pixel.width_m)
    if not min(size) > 0:
        raise DataError(
            explain(
                'The object has no usable pixel size',
                expected='pixel sizes above zero',
                received=f'height_m={size[0]}, width_m={size[1]}',
                cure='Give the product an energy, a detector distance and a detector pixel size',
            )
        )
    return size


def _centre(obj: Object, frame: Frame) -> ObjectCenter:
    given = obj.get_center()
    old = Frame((obj.height_px, obj.width_px))
    shift_y, shift_x = (middle_px(frame) - middle_px(old)).tolist()
    pixel = obj.get_pixel_geometry()
    return ObjectCenter(
        x_m=given.x_m + shift_x * pixel.width_m, y_m=given.y_m + shift_y * pixel.height_m
    )


def _scaled(probes: ProbeSequence, scan: Scan, sweep: Sweep) -> ProbeSequence:
    factor = np.linalg.norm(sweep.probe) / np.linalg.norm(scan.probe)
    given = probes.get_array()
    return ProbeSequence(
        array=(given * factor).astype(given.dtype),
        opr_weights=probes.get_opr_weights_or_none(),
        pixel_geometry=probes.get_pixel_geometry().copy(),
    )


def _updated(probes: ProbeSequence, sweep: Sweep) -> ProbeSequence:
    return ProbeSequence(
        array=sweep.probe[np.newaxis].astype(np.complex64),
        opr_weights=None,
        pixel_geometry=probes.get_pixel_geometry().copy(),
    )
