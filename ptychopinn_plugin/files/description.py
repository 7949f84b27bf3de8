"""What a scan or result file holds, in plain values for `info`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..apart import apart, size_of
from ..errors import printable
from ..scan import Array, Scan
from .counts import as_counts, judged
from .formats import file_format, file_of, load_scan
from .npz import PATTERN_KEYS, SCALE_KEY, Archive, open_npz
from .objects import load_object
from .pair import PRODUCT_FILE
from .paths import Source, kind_of
from .product import load_product


def describe(path: Source) -> dict[str, Any]:
    """Return what a scan, product or result file holds, ready for JSON.

    Raises `DataError` when the file is none of them.
    """
    file, _ = file_of(Path(path))
    if kind_of(file) == 'npz':
        return _facts(path, file)
    other = file.parent / PRODUCT_FILE
    return apart(lambda: _facts(path, file), size_of(file, other), name=file.name)


def _facts(path: Source, file: Path) -> dict[str, Any]:
    kind = file_format(file)
    if kind == 'product':
        return _product(file)
    declared = False
    if kind == 'npz':
        with open_npz(file) as archive:
            if 'object' in archive and 'xcoords' not in archive:
                return _result(archive, file)
            declared = SCALE_KEY in archive
            if not any(key in archive for key in (*PATTERN_KEYS, 'xcoords')):
                return {'kind': 'arrays', 'arrays': list(archive.keys)}
    # As stored, whatever it is: what the numbers are is found out below, never refused.
    scan = load_scan(path, diffraction='counts')
    found = judged(scan.counts, scan.bad_pixels)
    if declared or (kind != 'npz' and not found):
        found = 'counts'
    return _scan(scan, kind, found or 'unknown')


def _scan(scan: Scan, kind: str, diffraction: str) -> dict[str, Any]:
    dtype = str(scan.counts.dtype)
    if diffraction == 'amplitude':
        scan = replace(scan, counts=as_counts(scan.counts, 'amplitude', scan.bad_pixels))
    facts = {
        'kind': 'scan',
        'format': kind,
        'patterns': len(scan),
        'pattern_size_px': scan.side_px,
        'probe_modes': len(scan.probe),
        'diffraction': diffraction,
        'dtype': dtype,
        'counts_per_frame': None if diffraction == 'unknown' else float(scan.totals.mean()),
        'bad_pixels': int(scan.bad_pixels.sum()),
        'object_shape': list(scan.frame.shape),
        'origin_px': [float(v) for v in scan.frame.origin_px],
        'object_guess': scan.object_guess is not None,
        'true_object': scan.true_object is not None,
    }
    for key, value in asdict(scan.geometry).items():
        facts[key] = [float(v) for v in value] if isinstance(value, tuple) else value
    facts['nominal'] = scan.geometry.nominal or None
    return facts


def _product(file: Path) -> dict[str, Any]:
    product = load_product(file)
    known = product.geometry.pixel_size_m
    return {
        'kind': 'product',
        'patterns': len(product.position_index),
        'pattern_size_px': int(product.probe.shape[-1]),
        'probe_modes': int(np.prod(product.probe.shape[:-2])),
        'object_shape': list(product.object.shape),
        'pixel_size_m': None if known is None else list(known),
        'detector_distance_m': product.detector_distance_m,
        'photon_energy_eV': product.photon_energy_eV,
        'nominal': product.nominal or None,
        'losses': len(product.losses),
    }


def _result(archive: Archive, file: Path) -> dict[str, Any]:
    image = load_object(file)
    probe, losses = archive.get('probe'), archive.get('losses')
    backend, error = archive.get('backend'), archive.get('fourier_error')
    return {
        'kind': 'result',
        'object_shape': list(image.object.shape),
        'origin_px': list(image.origin_px),
        'pattern_size_px': None if probe is None or probe.ndim < 2 else int(probe.shape[-1]),
        'probe_modes': None if probe is None or probe.ndim < 2 else int(np.prod(probe.shape[:-2])),
        'sweeps': None if losses is None else max(losses.size - 1, 0),
        'fourier_error': _number(error),
        'backend': None if backend is None else printable(str(backend)),
    }


def _number(stored: Array | None) -> float | None:
    if stored is None or stored.size != 1 or stored.dtype.kind not in 'uif':
        return None
    return float(stored.reshape(()))


def is_scan(path: Source) -> bool:
    """Tell, by its keys alone, whether a file holds patterns, positions and a probe of its own.

    Raises `DataError` when it cannot be read.
    """
    file, _ = file_of(Path(path))
    kind = file_format(file)
    if kind == 'npz':
        with open_npz(file) as archive:
            return 'xcoords' in archive and any(key in archive for key in PATTERN_KEYS)
    return kind in ('training', 'cxi')
