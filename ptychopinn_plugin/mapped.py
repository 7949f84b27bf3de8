"""Stacks of patterns that stay on the disk: mapped from the file that holds them, or from a
temporary file without a name, which goes with its last user.

`batch` reads some of them past the mapping: touching a mapped page can map a hundred around it, and
all of them count as memory of this process.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, OutputError, explain, require

Array = NDArray[Any]

LARGE_BYTES = 2**28  # smaller stacks are simply read
BLOCK_BYTES = 2**24
ALIGN = 64

# Where a copy of this process (`apart`) leaves what is large, and how far it has come.
_given: list[int] = []


class MappedFile(mmap.mmap):
    """A read-only mapping that knows its file (its path is empty where it has no name) and where in
    it it begins.
    """

    path: str
    start: int
    file: int


def is_large(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Tell whether an array of this size stays on the disk."""
    return _bytes(shape, dtype) > LARGE_BYTES


def of_file(
    file: int, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int, path: str = ''
) -> Array:
    """Return an array in an open file, which may be closed then. Raises `ValueError` when the file
    is too short: to touch what is not there would end the process.
    """
    size = _bytes(shape, dtype)
    if offset < 0 or offset + size > os.fstat(file).st_size:
        raise ValueError(f'{size} bytes at {offset} of a file of {os.fstat(file).st_size} bytes')
    start = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    found = MappedFile(file, offset - start + size, access=mmap.ACCESS_READ, offset=start)
    found.path, found.start, found.file = path, start, os.dup(file)
    weakref.finalize(found, os.close, found.file)
    return np.ndarray(shape, dtype, found, offset - start)


def stored(blocks: Iterable[Array], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array of blocks of rows, kept in a temporary file. Raises `OutputError`."""
    if _given:
        file, at = _given
    else:
        with tempfile.TemporaryFile(prefix='ptychopinn-') as unnamed:
            file, at = os.dup(unnamed.fileno()), 0
    try:
        end = at
        for block in blocks:
            end = _append(file, np.ascontiguousarray(block, dtype), end, _bytes(shape, dtype))
        if _given:
            _given[1] = end + -end % ALIGN
        return of_file(file, shape, dtype, at)
    finally:
        if not _given:
            os.close(file)


def made(blocks: Iterable[Array], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array of blocks of rows, on the disk if it is large."""
    if is_large(shape, dtype):
        return stored(blocks, shape, dtype)
    found, at = np.empty(shape, dtype), 0
    for block in blocks:
        found[at : at + len(block)] = block
        at += len(block)
    return found


def rows_of(array: Array, rows: Array) -> Array:
    """Return some rows (indices or a boolean mask) of a stack, on the disk if they are many."""
    rows = np.flatnonzero(rows) if rows.dtype == bool else rows
    shape = (len(rows), *array.shape[1:])
    if not is_large(shape, array.dtype):
        return np.asarray(array[rows])
    return stored((batch(array, r) for r in blocks(array, rows)), shape, array.dtype)


def blocks(array: Array, rows: Array | None = None) -> Iterator[Array]:
    """Yield the rows of a stack (or those given), as many at a time as fit `BLOCK_BYTES`."""
    rows = np.arange(len(array)) if rows is None else rows
    size = max(1, BLOCK_BYTES * len(array) // max(array.nbytes, 1))
    return (rows[first : first + size] for first in range(0, len(rows), size))


def batch(array: Array, rows: Array | slice) -> Array:
    """Return some rows of a stack; what is on the disk is read. Raises `DataError` when the file
    has become shorter.
    """
    below = _mapping(array)
    if below is None or not array.flags.c_contiguous or not hasattr(os, 'preadv'):
        some: Array = array[rows]
        return some
    numbers = np.arange(len(array))[rows]
    found = np.empty((len(numbers), *array.shape[1:]), array.dtype)
    size, first = array.strides[0], _offset(below, array)
    ends = [*np.flatnonzero(np.diff(numbers) != 1) + 1, len(numbers)]
    for start, end in pairwise([0, *ends]):  # neighbours at once
        if start < end:
            _fill(found[start:end], below, first + int(numbers[start]) * size)
    return found


def place_of(array: Array) -> tuple[str, int] | None:
    """Return the file of a mapped array and where it begins there; None for any other."""
    below = _mapping(array)
    if below is None or not array.flags.c_contiguous:
        return None
    return below.path, _offset(below, array)


def give(file: int) -> None:
    """Let everything large be kept in this file from now on."""
    _given[:] = [file, 0]


def _offset(below: MappedFile, array: Array) -> int:
    first = np.frombuffer(below, np.uint8, 1).__array_interface__['data'][0]
    return below.start + int(array.__array_interface__['data'][0] - first)


def _fill(block: Array, below: MappedFile, at: int) -> None:
    left = _bytes_of(block)
    while left:
        done = os.preadv(below.file, [left], at)
        require(
            done > 0,
            DataError,
            'A scan on the disk has become shorter while it was read',
            expected=f'{len(left)} bytes at {at} of {below.path or "a temporary file"}',
            cure='Leave the file as it is until the run ends',
        )
        left, at = left[done:], at + done


def _bytes_of(block: Array) -> memoryview:
    """Return the memory of a contiguous block; some types do not lend it as they are."""
    return block.reshape(-1).view(np.uint8).data if block.nbytes else memoryview(b'')


def _mapping(array: Array) -> MappedFile | None:
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, MappedFile) else None


def _append(file: int, block: Array, at: int, size: int) -> int:
    """Write a block of an array of this size in all; return where it ends."""
    data = _bytes_of(block)
    try:
        while data:
            os.lseek(file, at, os.SEEK_SET)
            done = os.write(file, data)
            data, at = data[done:], at + done
    except OSError as error:
        raise OutputError(
            explain(
                'A large scan is unpacked into a temporary file, and there is no room for it',
                expected=f'{size / 2**30:.1f} GiB in {tempfile.gettempdir()}',
                received=error.strerror or str(error),
                cure='Free some, or set TMPDIR to a folder with more',
            )
        ) from error
    return at


def _bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    size = dtype.itemsize
    for side in shape:
        size *= int(side)
    return size
