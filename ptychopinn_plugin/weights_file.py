"""The weights of a model as the bytes of an HDF5 file: plain contiguous float32 datasets only.

Links, filters, external files and virtual datasets let an HDF5 file reach out of itself or grow
without bound, so they are refused unread. Clauses: specs/model_archive.md.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from .apart import apart
from .backends.base import Weights
from .errors import ModelFileError, explain, require
from .manifest import COPY, shown
from .scan import Array, Float

Shapes = Mapping[str, tuple[int, ...]]

_HDF5_DAMAGE = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, MemoryError)


def largest(shapes: Shapes) -> int:
    """Return how many bytes these weights may fill: the numbers and room for HDF5's records."""
    return 4 * sum(map(prod, shapes.values())) + 4096 * len(shapes) + 2**16


def pack(weights: Mapping[str, Float], shapes: Shapes) -> bytes:
    """Return the file's bytes, the same for the same weights.

    Raises `ModelFileError` when the weights do not fit `shapes`.
    """
    import h5py

    _check_names(set(weights), set(shapes))
    buffer = io.BytesIO()
    with h5py.File(buffer, 'w') as file:
        for name, shape in shapes.items():
            values = np.asarray(weights[name])
            _check_array(name, values.dtype, values.shape, shape)
            _check_finite(name, values)
            file.create_dataset(name, data=values, track_times=False)
    return buffer.getvalue()


def unpack(data: bytes, shapes: Shapes) -> Weights:
    """Return the weights in the order of `shapes`; raises `ModelFileError`."""
    return apart(lambda: _unpack(data, shapes), len(data), name='weights.h5', kind=ModelFileError)


def _unpack(data: bytes, shapes: Shapes) -> Weights:
    import h5py

    try:
        with h5py.File(io.BytesIO(data), 'r') as file:
            links = {name: file.get(name, getlink=True) for name in file}
            for name, link in links.items():
                _check_plain(name, type(link) is h5py.HardLink, 'a link to elsewhere')
            _check_names(set(links), set(shapes))
            return {name: _read(file[name], name, shape) for name, shape in shapes.items()}
    except ModelFileError:
        raise
    except _HDF5_DAMAGE as error:
        raise ModelFileError(
            explain(
                'weights.h5 is not a readable HDF5 file',
                received=shown(error),
                cure=COPY,
            )
        ) from error


def _read(item: Any, name: str, shape: tuple[int, ...]) -> Float:
    import h5py

    _check_plain(name, isinstance(item, h5py.Dataset), 'not a dataset')
    _check_array(name, item.dtype, item.shape, shape)
    layout = item.id.get_create_plist()
    _check_plain(name, layout.get_external_count() == 0, 'external storage')
    _check_plain(
        name, layout.get_layout() == h5py.h5d.CONTIGUOUS, 'virtual, chunked or compact storage'
    )
    _check_plain(name, item.id.get_storage_size() == 4 * prod(shape), 'storage of another size')
    values = np.asarray(item[()], np.float32)
    _check_finite(name, values)
    return values


def _check_plain(name: str, ok: bool, received: str) -> None:
    require(
        ok,
        ModelFileError,
        f'The weight {shown(name)} is not stored plainly',
        expected='a contiguous float32 dataset inside weights.h5',
        received=received,
        cure=COPY,
    )


def _check_names(found: set[str], wanted: set[str]) -> None:
    lacking, extra = sorted(wanted - found), sorted(found - wanted)
    received = [f'missing {name}' for name in lacking[:1]]
    received += [f'unknown {shown(name)}' for name in extra[:1]]
    require(
        not received,
        ModelFileError,
        f'The weights do not fit the network: {len(lacking)} missing, {len(extra)} unknown',
        expected=f'{len(wanted)} weights',
        received=', '.join(received),
        cure=COPY,
    )


def _check_array(name: str, dtype: Any, found: tuple[int, ...], shape: tuple[int, ...]) -> None:
    require(
        dtype == np.dtype('<f4') and found == shape,
        ModelFileError,
        f'The weight {name} does not fit the network',
        expected=f'shape={shape}, dtype=float32',
        received=f'shape={found}, dtype={dtype}',
        cure=COPY,
    )


def _check_finite(name: str, values: Array) -> None:
    require(
        np.isfinite(values).all(),
        ModelFileError,
        f'The weight {name} contains NaN or infinity',
        cure='Train the model anew with a lower learning rate',
    )
