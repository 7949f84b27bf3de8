"""NPZ in and out: training files of PtychoPINN and of the host. No pickles, no trust in sizes."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from .. import mapped
from ..atomic import atomic_path
from ..errors import DataError, OutputError, explain, require
from ..scan import Array, Bool, Complex, Scan
from .counts import as_counts
from .frames import pair_of, place
from .paths import blame, existing_file

MAX_BYTES = 64 * 2**30
MAX_EXPANSION = 2000
SMALL_BYTES, EXPANSION_OF_OTHERS, COMPLEX_BYTES = 2**29, 400, 8
LENGTHS_AT, ENCRYPTED = 26, 1  # in the header of a zip's member
PATTERN_KEYS = ('diff3d', 'diffraction')
SCALE_KEY = 'diff3d_scale'

# Everything zipfile, zlib and the array reader raise on damaged bytes.
DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, ValueError, TypeError, SyntaxError, KeyError,
    NotImplementedError, RuntimeError, OverflowError, MemoryError, tokenize.TokenError,
)  # fmt: skip


class Archive:
    """The arrays of an open NPZ file, read one at a time and checked before memory is taken."""

    def __init__(self, members: zipfile.ZipFile, file_bytes: int) -> None:
        self._zip, self._file_bytes = members, file_bytes
        self.keys = tuple(n.removesuffix('.npy') for n in members.namelist() if n.endswith('.npy'))

    def __contains__(self, key: str) -> bool:
        return key in self.keys

    def read(self, key: str) -> Array:
        """Return one array; raise `DataError` when it is missing, damaged or pickled."""
        require(
            key in self,
            DataError,
            f'The array {key} is missing',
            received=f'keys={", ".join(self.keys) or "none"}',
        )
        try:
            self._check_header(key)
            with self._zip.open(key + '.npy') as stream:
                array = self._large(key, stream) if key in PATTERN_KEYS else None
            if array is None:
                with self._zip.open(key + '.npy') as stream:
                    array = npy.read_array(stream, allow_pickle=False)
        except (DataError, OutputError):
            raise
        except DAMAGE as error:
            raise DataError(
                explain(
                    f'The array {key} is damaged', received=str(error), cure='Copy the file again'
                )
            ) from error
        return array

    def get(self, key: str) -> Array | None:
        """Return one array, or None when the file has none of this name."""
        return self.read(key) if key in self else None

    def _large(self, key: str, stream: IO[bytes]) -> Array | None:
        """Return a large array, on the disk; None for any other."""
        shape, fortran, dtype = _header(stream)
        if fortran or len(shape) != 3 or not mapped.is_large(shape, dtype):
            return None
        info, file = self._zip.getinfo(key + '.npy'), self._zip.fp
        if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & ENCRYPTED and file:
            begin = stream.tell()
            file.seek(info.header_offset + LENGTHS_AT)
            lengths = struct.unpack('<HH', file.read(4))
            begin += info.header_offset + LENGTHS_AT + 4 + sum(lengths)
            return mapped.of_file(file.fileno(), shape, dtype, begin)
        rows = max(1, mapped.BLOCK_BYTES * shape[0] // (prod(shape) * dtype.itemsize))
        counts = (min(rows, shape[0] - first) for first in range(0, shape[0], rows))
        blocks = (_rows(stream, (count, *shape[1:]), dtype) for count in counts)
        return mapped.stored(blocks, shape, dtype)

    def _check_header(self, key: str) -> None:
        info = self._zip.getinfo(key + '.npy')
        # Others take memory as their own headers say, and numpy writes these two alone.
        require(
            info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
            DataError,
            f'The array {key} is packed in an unusual way',
            expected='stored or deflated arrays',
            received=f'compression={info.compress_type}',
            cure='Save it again with numpy.savez',
        )
        with self._zip.open(info) as stream:
            shape, _, dtype = _header(stream)
        require(
            not dtype.hasobject and dtype.kind in 'buifcSU',
            DataError,
            f'The array {key} does not hold numbers',
            expected='an array of numbers, never of Python objects',
            received=f'{key}.dtype={dtype}',
            cure='Save it again as a plain array',
        )
        declared = prod(shape) * dtype.itemsize
        # All but patterns becomes complex64, whatever it is stored as.
        made = 0 if key in PATTERN_KEYS else prod(shape) * max(dtype.itemsize, COMPLEX_BYTES)
        most = max(SMALL_BYTES, EXPANSION_OF_OTHERS * self._file_bytes)
        # Deflate reaches about 1000; what claims to shrink further was made to fill the memory.
        limit = min(info.file_size, MAX_BYTES, MAX_EXPANSION * self._file_bytes)
        require(
            min(shape, default=0) >= 0 and declared <= limit and made <= most,
            DataError,
            f'The array {key} declares more than the file holds',
            expected=f'at most {limit} bytes, and {most} where they are no patterns',
            received=f'{key}.shape={shape}, {max(declared, made)} bytes',
            cure='Copy the file again',
        )


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return (shape, whether columns come first, dtype) and leave the stream at the numbers."""
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(stream)
    return found


def _rows(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return the next rows of a stack; raises `ValueError` when it ends before them."""
    return np.frombuffer(stream.read(prod(shape) * dtype.itemsize), dtype).reshape(shape)


@contextmanager
def open_npz(file: Path) -> Iterator[Archive]:
    """Yield the archive of an NPZ file; every error inside names the file."""
    with blame(file):
        try:
            members = zipfile.ZipFile(file)
        except DAMAGE as error:
            raise DataError(
                explain(
                    'The file is damaged or not an NPZ file',
                    received=str(error),
                    cure='Copy it again',
                )
            ) from error
        with members:
            yield Archive(members, file.stat().st_size)


def load_npz(path: Path, *, diffraction: str = 'auto', probe_key: str | None = None) -> Scan:
    """Return the scan of an NPZ training file (DC-2)."""
    file = existing_file(path)
    with open_npz(file) as archive:
        # The small arrays first: what is wrong with them should not wait for the patterns.
        start = pair_of(archive.get('origin_px'), 'origin_px')
        positions_px = _positions(archive) + np.asarray(start)
        probe, bad = archive.read(probe_key or 'probeGuess'), _mask(archive)
        truth = archive.get('true_object')
        placed = place(
            positions_px, probe.shape[-1] if probe.ndim else 0, archive.get('objectGuess'),
            truth=truth, origin_px=start,
        )  # fmt: skip
        stored = archive.read(next((k for k in PATTERN_KEYS if k in archive), PATTERN_KEYS[0]))
        return Scan(
            counts=as_counts(stored, _declared(archive, diffraction), bad),
            positions_px=positions_px,
            probe=probe[0] if probe.ndim == 4 and len(probe) else probe,
            bad_pixels=bad,  # type: ignore[arg-type]
            frame=placed.frame,  # type: ignore[arg-type]
            object_guess=placed.object_guess,
            true_object=truth,
            scan_index=scan_index(archive.get('scan_index')),  # type: ignore[arg-type]
            name=file.stem,
        )


def save_npz(scan: Scan, path: Path, *, packed: bool = True) -> None:
    """Write a scan as an NPZ training file, in counts, with ones for a missing `objectGuess`.

    To pack it takes half a minute per GB, most of the time of writing.
    """
    positions = scan.positions_px - np.asarray(scan.frame.origin_px)
    more: dict[str, Any] = {} if scan.true_object is None else {'true_object': scan.true_object}
    with atomic_path(path) as part, open(part, 'wb') as stream:
        (np.savez_compressed if packed else np.savez)(
            stream,
            xcoords=positions[:, 1],
            ycoords=positions[:, 0],
            xcoords_start=positions[:, 1],
            ycoords_start=positions[:, 0],
            diff3d=scan.counts,
            diff3d_scale=np.array('counts'),
            bad_pixels=scan.bad_pixels,
            probeGuess=scan.probe,
            objectGuess=object_array(scan),
            origin_px=np.asarray(scan.frame.origin_px, np.float64),
            scan_index=scan.scan_index,
            **more,
        )


def object_array(scan: Scan) -> Complex:
    """Return the scan's object guess, or ones, in the shape of its frame."""
    guess = scan.object_guess
    if guess is not None and guess.shape == scan.frame.shape:
        return guess
    return np.ones(scan.frame.shape, np.complex64)


def scan_index(stored: Array | None) -> Array | None:
    """Return a stored index, or None when it does not tell patterns apart (the host: zeros)."""
    if stored is None or stored.ndim != 1 or stored.dtype.kind not in 'ui':
        return None
    return stored if len(np.unique(stored)) == len(stored) else None


def _declared(archive: Archive, diffraction: str) -> str:
    # Our own files say what they hold, so counts that are not integers (noise-free) read back.
    if diffraction == 'auto' and SCALE_KEY in archive and 'diff3d' in archive:
        return 'counts' if str(archive.read(SCALE_KEY)) == 'counts' else diffraction
    return diffraction


def _mask(archive: Archive) -> Bool | None:
    stored = archive.get('bad_pixels')
    require(
        stored is None or stored.dtype.kind in 'buif',
        DataError,
        'bad_pixels does not hold numbers',
        received=f'bad_pixels.dtype={None if stored is None else stored.dtype}',
    )
    return None if stored is None else stored.astype(bool)


def _positions(archive: Archive) -> Array:
    x, y = archive.read('xcoords'), archive.read('ycoords')
    require(
        x.ndim == 1 and x.shape == y.shape and x.dtype.kind in 'uif' and y.dtype.kind in 'uif',
        DataError,
        'xcoords and ycoords are not two lists of numbers of the same length',
        expected='real numbers of shape (patterns,) for both',
        received=f'xcoords.shape={x.shape}, {x.dtype}, ycoords.shape={y.shape}, {y.dtype}',
    )
    return np.stack([y, x], 1)
