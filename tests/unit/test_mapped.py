"""Large stacks stay on the disk, and nobody can tell but by the memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from ptychopinn_plugin import apart, files, mapped
from ptychopinn_plugin.errors import DataError, OutputError

from ..conftest import room


@pytest.fixture(autouse=True)
def all_are_large(monkeypatch):
    monkeypatch.setattr(mapped, 'LARGE_BYTES', 1000)
    monkeypatch.setattr(mapped, 'BLOCK_BYTES', 10_000)
    monkeypatch.setattr(apart, 'MAY_BE_LARGE', 0)


def contiguous(scan, path):
    files.save_scan(scan, path)
    with h5py.File(path, 'a') as h5:
        del h5['patterns']
        h5['patterns'] = scan.counts


def stored_npz(scan, path):
    files.save_scan(scan, path)
    with np.load(path) as arrays:
        np.savez(path, **arrays)


FORMATS = {
    'a.npz': files.save_scan,
    'stored.npz': stored_npz,
    'a.h5': files.save_scan,
    'contiguous.h5': contiguous,
    'a.cxi': files.save_scan,
    '': files.save_scan,
}
IN_PLACE = ('stored.npz', 'contiguous.h5')


@pytest.mark.parametrize('name', FORMATS)
def test_every_format_reads_the_same(name, small_scan, tmp_path):
    FORMATS[name](small_scan, tmp_path / name)
    scan = files.load_scan(tmp_path / name)
    assert mapped.place_of(scan.counts) is not None
    assert not scan.counts.flags.writeable
    assert scan.counts.dtype == small_scan.counts.dtype
    assert np.array_equal(scan.counts, small_scan.counts)
    assert np.array_equal(scan.totals, small_scan.totals)


@pytest.mark.parametrize('name', FORMATS)
def test_amplitudes_are_squared_on_the_disk(name, small_scan, tmp_path):
    roots = replace(small_scan, counts=np.sqrt(small_scan.counts).astype(np.float32))
    FORMATS[name](roots, tmp_path / name)
    scan = files.load_scan(tmp_path / name, diffraction='amplitude')
    assert mapped.place_of(scan.counts) is not None
    np.testing.assert_allclose(scan.counts, small_scan.counts, rtol=1e-6)


def test_negative_amplitudes_are_refused_in_any_block(small_scan, tmp_path):
    roots = np.sqrt(small_scan.counts).astype(np.float32)
    files.save_scan(replace(small_scan, counts=roots), tmp_path / 'a.h5')
    roots[-1, 3, 3] = -1
    with h5py.File(tmp_path / 'a.h5', 'a') as h5:
        h5['patterns'][...] = roots
    with pytest.raises(DataError, match='negative'):
        files.load_scan(tmp_path / 'a.h5', diffraction='amplitude')


def test_patterns_without_a_position_are_left_out(small_scan, tmp_path):
    files.save_scan(small_scan, tmp_path)
    with h5py.File(tmp_path / 'diffraction.h5', 'a') as h5:
        h5['indexes'][:40] = -1
    scan = files.load_scan(tmp_path)
    assert mapped.place_of(scan.counts) is not None
    assert np.array_equal(scan.counts, small_scan.counts[40:])


@pytest.mark.parametrize('dtype', ['>f4', '<u8', '>i2', np.longdouble, np.float16])
@pytest.mark.parametrize('packed', [False, True])
def test_any_kind_of_number(dtype, packed, small_scan, tmp_path):
    """Long doubles do not lend their memory (found by fuzzing)."""
    files.save_scan(small_scan, tmp_path)
    with h5py.File(tmp_path / 'diffraction.h5', 'a') as h5:
        del h5['patterns']
        stored = np.minimum(small_scan.counts, 30_000).astype(dtype)
        h5.create_dataset('patterns', data=stored, compression='gzip' if packed else None)
    scan = files.load_scan(tmp_path, diffraction='counts')
    assert mapped.place_of(scan.counts) is not None
    assert np.array_equal(scan.counts, stored)
    assert np.array_equal(scan.patterns(np.array([3, 90])), stored[[3, 90]])


@pytest.mark.parametrize(
    'rows', [np.array([7, 3, 4, 100]), np.arange(120) % 2 == 0, np.zeros(0, int), np.arange(120)]
)
def test_some_rows(rows, small_scan, tmp_path):
    files.save_scan(small_scan, tmp_path / 'a.h5')
    scan = files.load_scan(tmp_path / 'a.h5')
    assert np.array_equal(scan.patterns(rows), small_scan.counts[rows])
    if len(rows):
        assert np.array_equal(scan.take(rows).counts, small_scan.counts[rows])
    for part in (slice(None), slice(3, 50), slice(40, 2, -3), slice(0, 0)):
        assert np.array_equal(scan.patterns(part), small_scan.counts[part])


def test_a_file_that_shrinks_while_it_is_read_is_an_error(small_scan, tmp_path):
    contiguous(small_scan, tmp_path / 'a.h5')
    scan = files.load_scan(tmp_path / 'a.h5')
    os.truncate(tmp_path / 'a.h5', 50_000)
    with pytest.raises(DataError, match='has become shorter'):
        scan.patterns(np.arange(len(scan)))


@pytest.mark.parametrize('name', IN_PLACE)
def test_a_file_that_is_too_short_is_refused(name, small_scan, tmp_path):
    file = tmp_path / name
    FORMATS[name](small_scan, file)
    data = file.read_bytes()
    if name == 'stored.npz':  # the directory at the end is whole, the numbers before it are not
        with zipfile.ZipFile(file) as members:
            offset = members.getinfo('diff3d.npy').header_offset
        data = data[: offset + 200] + data[offset + 200 + small_scan.counts.nbytes :]
    file.write_bytes(data[: len(data) // 2] if name == 'contiguous.h5' else data)
    with pytest.raises(DataError, match=name):
        files.load_scan(file)


def test_a_file_of_no_such_size_is_never_touched(tmp_path):
    (tmp_path / 'a').write_bytes(b'x' * 100)
    with (tmp_path / 'a').open('rb') as file:
        for offset, shape in ((0, (101,)), (50, (51,)), (-1, (5,)), (101, (0,))):
            with pytest.raises(ValueError, match='of a file of 100 bytes'):
                mapped.of_file(file.fileno(), shape, np.dtype('u1'), offset)


@pytest.mark.parametrize('name', ['a.npz', 'a.h5'])
def test_no_room_says_where(name, small_scan, tmp_path):
    files.save_scan(small_scan, tmp_path / name)
    with room(50_000), pytest.raises(OutputError, match='set TMPDIR'):
        files.load_scan(tmp_path / name)


@pytest.mark.parametrize('name', FORMATS)
def test_nothing_is_left(name, small_scan, tmp_path, monkeypatch):
    FORMATS[name](small_scan, tmp_path / name)
    temporary = tmp_path / 'temporary'
    temporary.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(temporary))
    before = len(os.listdir('/proc/self/fd')) if sys.platform == 'linux' else 0
    scan = files.load_scan(tmp_path / name)
    assert list(temporary.iterdir()) == []
    del scan
    if before:
        assert len(os.listdir('/proc/self/fd')) == before


SCRIPT = """
import sys
from pathlib import Path
from ptychopinn_plugin import files

def own():
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(('RssAnon', 'RssShmem')):
            yield int(line.split()[1]) * 1024

scan = files.load_scan(sys.argv[1])
most = scan.take(scan.scan_index % 10 > 0)
print(scan.counts.nbytes, sum(own()), float(scan.totals.sum()), float(most.totals.sum()))
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='memory is read from /proc')
@pytest.mark.parametrize('chunks', [None, (64, 128, 128)])
def test_a_large_file_takes_no_memory(chunks, tmp_path):
    """The real limits: 328 MB of patterns in a process that takes a third of that."""
    count, side, block = 10_000, 128, 500
    file = tmp_path / 'large.h5'
    with h5py.File(file, 'w') as h5:
        packed = {} if chunks is None else {'chunks': chunks, 'compression': 'lzf'}
        patterns = h5.create_dataset('patterns', (count, side, side), 'u2', **packed)
        for first in range(0, count, block):
            values = np.arange(first, first + block, dtype='u2') % 7
            patterns[first : first + block] = np.repeat(values, side**2).reshape(block, side, side)
        y, x = np.divmod(np.arange(count), 100)
        h5['probe_position_x_px'], h5['probe_position_y_px'] = x + 70.0, y + 70.0
        h5['probe'] = np.ones((1, side, side), np.complex64)
        h5['object'] = np.ones((260, 260), np.complex64)
        for key in ('object_pixel_height_m', 'object_pixel_width_m'):
            h5[key] = 1e-8
        h5['detector_object_distance_m'] = h5['photon_energy_eV'] = 1.0
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, file],
        capture_output=True, text=True, timeout=120, check=True,
        env={**os.environ, 'TMPDIR': str(tmp_path)},
    )  # fmt: skip
    size, own, total, most = map(float, done.stdout.split())
    values = np.arange(count) % 7
    assert total == values.sum() * side**2
    assert most == values[np.arange(count) % 10 > 0].sum() * side**2
    assert size == count * side**2 * 2
    assert own < 100e6
    assert list(Path(tmp_path).iterdir()) == [file]


def test_a_damaged_chunk_is_not_called_a_full_disk(small_scan, tmp_path):
    files.save_scan(small_scan, tmp_path / 'a.h5')
    with h5py.File(tmp_path / 'a.h5') as h5:
        assert h5['patterns'].chunks is not None
        chunk = h5['patterns'].id.get_chunk_info(0)
    data = bytearray((tmp_path / 'a.h5').read_bytes())
    middle = chunk.byte_offset + chunk.size // 2
    data[middle : middle + 8] = bytes(255 - b for b in data[middle : middle + 8])
    (tmp_path / 'a.h5').write_bytes(data)
    with pytest.raises(DataError, match='damaged'):
        files.load_scan(tmp_path / 'a.h5')


@pytest.mark.skipif(not apart.AVAILABLE, reason='files are read in this process')
def test_a_file_that_unpacks_to_far_more_than_it_is_fills_no_disk(
    small_scan, tmp_path, monkeypatch
):
    files.save_scan(small_scan, tmp_path / 'a.h5')
    monkeypatch.setattr(apart, 'MEMORY_BYTES', 2**27)
    monkeypatch.setattr(apart, 'BYTES_PER_BYTE', 1)
    count = 2**28 // 32**2 // 2
    with h5py.File(tmp_path / 'a.h5', 'a') as h5:
        for key in ('patterns', 'scan_index', 'probe_position_x_px', 'probe_position_y_px'):
            one = h5[key][:1]
            del h5[key]
            h5.create_dataset(
                key, (count, *one.shape[1:]), one.dtype, chunks=(2048, *one.shape[1:]),
                compression='gzip', fillvalue=one.flat[0],
            )  # fmt: skip
    with pytest.raises(OutputError, match='no room'):
        files.load_scan(tmp_path / 'a.h5')
