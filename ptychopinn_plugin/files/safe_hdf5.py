"""HDF5 read with suspicion: nothing from other files, no absurd sizes, failures in one line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .. import mapped
from ..errors import DataError, OutputError, explain, require
from ..scan import Array
from .paths import blame

MAX_BYTES = 64 * 2**30
SMALL_BYTES = 16 * 2**20
# Deflate reaches about 1000 on blank frames; a declared shape with nothing behind it is far beyond.
MAX_EXPANSION = 2000
MAX_SOFT_LINKS = 16


@contextmanager
def open_hdf5(file: Path) -> Iterator[Any]:
    """Yield an open HDF5 file; every error inside becomes a `DataError` that names the file."""
    import h5py
    import hdf5plugin  # noqa: F401 - registers the compression filters of detectors

    with blame(file):
        try:
            with h5py.File(file, 'r') as h5:
                yield h5
        except (DataError, OutputError):
            raise
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError) as error:
            raise DataError(
                explain(
                    'The file is damaged or not a readable HDF5 file',
                    received=str(error),
                    cure='Copy it again',
                )
            ) from error


def has(h5: Any, key: str) -> bool:
    """Tell whether a path leads to something inside this file."""
    return _find(h5, key) is not None


def read(h5: Any, key: str, *, rows: Array | None = None) -> Array:
    """Return the numbers of a dataset, or only some `rows` (a boolean mask) of it."""
    dataset = dataset_at(h5, key)
    if rows is not None and rows.all():
        rows = None
    array: Array = np.asarray(dataset[()] if rows is None else dataset[np.flatnonzero(rows)])
    return array


def patterns_in(dataset: Any) -> Array:
    """Return a stack of patterns; a large one stays where it lies or is unpacked to the disk.

    Raises `OutputError` when there is no room for that.
    """
    if dataset.ndim != 3 or not mapped.is_large(dataset.shape, dataset.dtype):
        return np.asarray(dataset[()])
    offset, file = dataset.id.get_offset(), Path(dataset.file.filename)
    if offset is not None and dataset.file.userblock_size == 0:
        with file.open('rb') as stream:
            return mapped.of_file(stream.fileno(), dataset.shape, dataset.dtype, offset, str(file))
    return mapped.stored(_blocks(dataset), dataset.shape, dataset.dtype)


def _blocks(dataset: Any) -> Iterator[Array]:
    """Yield the rows of a dataset, chunk by chunk: none is unpacked twice."""
    together = dataset.chunks[0] if dataset.chunks else 1
    rows = max(1, mapped.BLOCK_BYTES * len(dataset) // dataset.nbytes // together) * together
    for first in range(0, len(dataset), rows):
        yield dataset[first : first + rows]


def dataset_at(h5: Any, key: str) -> Any:
    """Return a dataset that is safe to read; raise `DataError` when it is not."""
    import h5py

    found = _find(h5, key)
    require(found is not None, DataError, f'The dataset {key} is missing', received=_listing(h5))
    require(isinstance(found, h5py.Dataset), DataError, f'{key} is not a dataset')
    dataset: Any = found
    require(
        not dataset.is_virtual and not dataset.external,
        DataError,
        f'The dataset {key} takes its data from another file',
        expected='data stored in the file itself',
        cure='Copy the data into one file',
    )
    require(
        dataset.shape is not None and dataset.dtype.kind in 'buifc',
        DataError,
        f'The dataset {key} does not hold numbers',
        received=f'dtype={dataset.dtype}, shape={dataset.shape}',
    )
    missing = _missing_filters(dataset)
    require(
        not missing,
        DataError,
        f'The dataset {key} is packed with a filter that is not installed',
        expected='no packing, or a filter of HDF5 or of hdf5plugin',
        received=f'filter={", ".join(missing)}',
        cure='Unpack it where it was written (h5repack -f NONE), or install its plug-in for HDF5',
    )
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    on_disk = Path(h5.filename).stat().st_size
    require(
        declared <= SMALL_BYTES or declared <= min(MAX_BYTES, MAX_EXPANSION * on_disk),
        DataError,
        f'The dataset {key} declares an absurd size',
        expected=f'at most {min(MAX_BYTES, MAX_EXPANSION * on_disk)} bytes from {on_disk} on disk',
        received=f'shape={dataset.shape}, {declared} bytes',
        cure='Check the file',
    )
    return dataset


def _missing_filters(dataset: Any) -> list[str]:
    """Return the filters of a dataset, by number and name, that nobody here can undo."""
    import h5py

    made = dataset.id.get_create_plist()
    filters = [made.get_filter(i) for i in range(made.get_nfilters())]
    return [
        f'{f[0]} {f[3].decode(errors="replace")}'
        for f in filters
        if not h5py.h5z.filter_avail(f[0])
    ]


def number(h5: Any, key: str) -> float | None:
    """Return a scalar dataset as a finite float, or None when there is none."""
    return _finite(read(h5, key), key) if has(h5, key) else None


def attribute(holder: Any, key: str) -> float | None:
    """Return a numeric attribute as a finite float, or None when there is none."""
    return _finite(holder.attrs[key], key) if key in holder.attrs else None


def positive(value: float | None) -> float | None:
    """Return a physical quantity, None where the file writes zero for what it does not know."""
    return value if value is not None and value > 0 else None


def _finite(stored: Any, key: str) -> float:
    array = np.asarray(stored)
    require(
        array.size == 1 and array.dtype.kind in 'uif' and bool(np.isfinite(array).all()),
        DataError,
        f'{key} is not a number',
        expected='one finite number',
        received=f'{key}={array.tolist() if array.size < 4 else array.shape}',
    )
    return float(array.reshape(())[()])


def _find(h5: Any, key: str, depth: int = 0) -> Any:
    """Follow a path link by link, so that an external link is refused before it is opened."""
    import h5py

    require(depth <= MAX_SOFT_LINKS, DataError, f'The link {key} goes in circles')
    here: Any = h5.file if key.startswith('/') else h5
    for part in filter(None, key.split('/')):
        name = part.encode()
        if not isinstance(here, h5py.Group) or not here.id.links.exists(name):
            return None
        kind = here.id.links.get_info(name).type
        require(
            kind in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT),
            DataError,
            f'{key} is a link to another file',
            expected='data stored in the file itself',
            cure='Copy the data into one file',
        )
        if kind == h5py.h5l.TYPE_SOFT:
            here = _find(here, here.id.links.get_val(name).decode(), depth + 1)
        else:
            here = here[part]
    return here


def _listing(h5: Any) -> str:
    names = [str(name) for name in h5]
    return f'keys={", ".join(names[:12]) or "none"}'
