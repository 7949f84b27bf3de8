"""HDF5 written to disks that may be full, read-only or gone."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..atomic import atomic_path
from .paths import Source


class _Sink(io.FileIO):
    """A file that keeps its first error to itself and from then on forgets what it is given.

    HDF5 cannot close a file that it cannot write: it leaves it half open and takes the process down
    later. So it is told that all is well, and the file is thrown away.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast('B')
        whole = rest.nbytes
        try:
            while self.error is None and rest:
                rest = rest[super().write(rest) or 0 :]
        except OSError as error:
            self.error = error
        return whole

    def truncate(self, size: int | None = None, /) -> int:
        if self.error is None:
            try:
                return super().truncate(size)
            except OSError as error:
                self.error = error
        return size or 0


@contextmanager
def hdf5_into(part: Path) -> Iterator[Any]:
    """Yield an HDF5 file that fills an empty file.

    Raises `OSError` where the disk took less.
    """
    import h5py

    with _Sink(part, 'r+') as sink:
        try:
            with h5py.File(sink, 'w') as h5:
                yield h5
        except Exception:  # HDF5 read back what was not written
            if sink.error is None:
                raise
        if sink.error is not None:
            raise sink.error


@contextmanager
def new_hdf5(target: Source) -> Iterator[Any]:
    """Yield an open HDF5 file that replaces `target` when all of it was written.

    Raises `OutputError`; the old file is whole then.
    """
    with atomic_path(target) as part, hdf5_into(part) as h5:
        yield h5
