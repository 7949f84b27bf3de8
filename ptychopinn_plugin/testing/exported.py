"""What the host's own adapters read from an NPZ file with training data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptychodus.api.reconstruct import ReconstructInput

Array = NDArray[Any]
KEYS = (
    'xcoords', 'ycoords', 'xcoords_start', 'ycoords_start', 'diff3d', 'probeGuess', 'objectGuess',
    'scan_index',
)  # fmt: skip
POSITION_PX = 1e-3


def assert_npz(stored: Mapping[str, Array], given: ReconstructInput) -> None:
    """Check the arrays of an exported file against the input that they were made from."""
    missing = [key for key in KEYS if key not in stored]
    assert not missing, f'the export has no {", ".join(missing)}'
    counts = given.diffraction_patterns
    for key, index in (('xcoords', 1), ('ycoords', 0)):
        wanted = _positions_px(given)[:, index]
        for name in (key, f'{key}_start'):
            array = stored[name]
            assert array.shape == wanted.shape, f'{name} has the shape {array.shape}'
            off = float(np.abs(array - wanted).max())
            assert off <= POSITION_PX, f'{name} is {off:.3g} px off: x is a column, y a row'
    shape = stored['scan_index'].shape
    assert shape == (len(counts),), f'scan_index has the shape {shape}'
    _assert_patterns(stored['diff3d'], counts)
    _assert_waves(stored, given)


def _positions_px(given: ReconstructInput) -> Array:
    """Return the positions (M, 2), (y, x), in pixels of the object."""
    obj = given.product.object_
    pixel, centre = obj.get_pixel_geometry(), obj.get_center()
    points = given.product.probe_positions
    y = [(p.y_m - centre.y_m) / pixel.height_m + (obj.height_px - 1) / 2 for p in points]
    x = [(p.x_m - centre.x_m) / pixel.width_m + (obj.width_px - 1) / 2 for p in points]
    return np.stack([y, x], 1)


def _assert_patterns(stored: Array, counts: Array) -> None:
    """Patterns may be counts or amplitudes, in the order and the orientation of the input."""
    assert stored.shape == counts.shape, f'diff3d has the shape {stored.shape}'
    as_counts = np.allclose(stored, counts, rtol=1e-4)
    as_amplitudes = np.allclose(stored, np.sqrt(counts), rtol=1e-4)
    assert as_counts or as_amplitudes, 'diff3d holds neither the counts nor their square roots'


def _assert_waves(stored: Mapping[str, Array], given: ReconstructInput) -> None:
    """The probe may have all modes or the first, with any factor; the object is the input's."""
    probe = given.product.probes.get_array()[0]
    saved = stored['probeGuess']
    assert np.iscomplexobj(saved), f'probeGuess is {saved.dtype}'
    assert saved.shape in (probe.shape, probe.shape[1:]), f'probeGuess has the shape {saved.shape}'
    first = saved if saved.ndim == 2 else saved[0]
    overlap = np.abs(np.vdot(first, probe[0]))
    overlap /= np.linalg.norm(first) * np.linalg.norm(probe[0])
    assert overlap > 1 - 1e-4, 'probeGuess is another probe'
    obj = given.product.object_.get_layers_flattened()
    saved = stored['objectGuess']
    assert saved.shape == obj.shape, f'objectGuess has the shape {saved.shape}, not {obj.shape}'
    assert np.allclose(saved, obj, rtol=1e-4, atol=1e-4), 'objectGuess is another object'
