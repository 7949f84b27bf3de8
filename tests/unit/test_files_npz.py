"""NPZ training files: DC-1, DC-2, DC-5 and the refusals of DC-10."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.errors import DataError, DataFileMissingError, OutputError
from ptychopinn_plugin.files import load_scan, save_scan
from ptychopinn_plugin.files.counts import as_counts
from ptychopinn_plugin.scan import Scan

N, M, SIDE = 16, 20, 40
DATA = Path(__file__).resolve().parents[3] / 'shared' / 'data'


def contents(**changes):
    """Return the arrays of a valid NPZ file; a change to None removes one."""
    rng = np.random.default_rng(1)
    made = {
        'xcoords': 12 + rng.random(M) * 14,
        'ycoords': 9 + rng.random(M) * 20,
        'diff3d': rng.poisson(rng.random((M, N, N)) * 900).astype(np.uint16),
        'probeGuess': (rng.random((2, N, N)) + 1j).astype(np.complex128),
        'objectGuess': (rng.random((SIDE, SIDE + 2)) + 0.1j).astype(np.complex128),
        'scan_index': np.zeros(M, int),
    }
    return {k: v for k, v in (made | changes).items() if v is not None}


def write(path, **changes):
    np.savez(path, **contents(**changes))
    return path


def test_reads_positions_probe_and_object(tmp_path):
    """DC-2: x is the column; an index of zeros tells nothing; other names are ignored."""
    more = {'whatever': np.arange(3), 'bad_pixels': np.eye(N, dtype=bool)}
    scan = load_scan(write(tmp_path / 'a.npz', **more))
    want = contents()
    np.testing.assert_array_equal(scan.positions_px[:, 1], want['xcoords'])
    np.testing.assert_array_equal(scan.positions_px[:, 0], want['ycoords'])
    np.testing.assert_array_equal(scan.counts, want['diff3d'])
    assert scan.counts.dtype == np.uint16
    np.testing.assert_allclose(scan.object_guess, want['objectGuess'], rtol=1e-6)
    assert scan.frame.shape == (SIDE, SIDE + 2)
    assert scan.frame.origin_px == (0.0, 0.0)
    np.testing.assert_array_equal(scan.scan_index, np.arange(M))
    np.testing.assert_array_equal(scan.bad_pixels, np.eye(N, dtype=bool))
    assert scan.name == 'a'


def test_suffix_does_not_matter(tmp_path):
    """DC-1: the first bytes decide."""
    path = write(tmp_path / 'a.npz').rename(tmp_path / 'a.dat')
    assert len(load_scan(path)) == M


def test_accepts_the_other_pattern_key_and_a_flat_probe(tmp_path):
    patterns = contents()['diff3d']
    path = write(
        tmp_path / 'a.npz', diff3d=None, diffraction=patterns, probeGuess=np.ones((N, N), complex)
    )
    scan = load_scan(path)
    np.testing.assert_array_equal(scan.counts, patterns)
    assert scan.probe.shape == (1, N, N)


def test_unique_index_is_kept(tmp_path):
    index = np.arange(M)[::-1] * 3
    np.testing.assert_array_equal(
        load_scan(write(tmp_path / 'a.npz', scan_index=index)).scan_index, index
    )
    repeated = load_scan(write(tmp_path / 'b.npz', scan_index=index // 6))
    np.testing.assert_array_equal(repeated.scan_index, np.arange(M))


def test_constant_object_is_a_frame_and_no_guess(tmp_path):
    scan = load_scan(write(tmp_path / 'a.npz', objectGuess=np.ones((50, 60), complex)))
    assert scan.object_guess is None
    assert scan.frame.shape == (50, 60)


def test_probe_key(tmp_path):
    other = np.full((3, N, N), 2 + 1j)
    path = write(tmp_path / 'a.npz', reference_probe=other)
    np.testing.assert_array_equal(load_scan(path, probe_key='reference_probe').probe, other)
    with pytest.raises(DataError, match=r'a\.npz: The array nope is missing.*keys=xcoords'):
        load_scan(path, probe_key='nope')


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.uint32, np.int32, np.float32, float])
def test_integers_are_counts(dtype):
    """DC-5: of any type; their squares are integers as well, which must not be seen first."""
    counts = np.random.default_rng(0).poisson(100, (4, N, N)).clip(0, 250).astype(dtype)
    assert as_counts(counts) is counts


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('brightest', [30, 60_000, 3_000_000])
def test_square_roots_of_integers_are_amplitudes(dtype, brightest):
    """DC-5: recognised also where bright pixels are far beyond the resolution of the type."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(brightest ** rng.random((30, N, N))).astype(np.int64)
    got = as_counts(np.sqrt(counts).astype(np.float32).astype(dtype))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, counts, atol=0, rtol=3e-7)


def test_explicit_amplitudes_never_wrap():
    """DC-5: uint16 amplitudes are squared in float32."""
    got = as_counts(np.full((2, N, N), 1000, np.uint16), 'amplitude')
    assert got.dtype == np.float32
    assert (got == 1e6).all()


def test_anything_else_is_asked_for(tmp_path):
    values = np.random.default_rng(0).random((M, N, N)).astype(np.float32) * 7
    path = write(tmp_path / 'a.npz', diff3d=values)
    with pytest.raises(DataError, match=r'counts or amplitudes.*--diffraction counts or'):
        load_scan(path)
    np.testing.assert_array_equal(load_scan(path, diffraction='counts').counts, values)
    np.testing.assert_allclose(load_scan(path, diffraction='amplitude').counts, values**2)
    with pytest.raises(DataError, match=r'kind of diffraction data is unknown.*diffraction='):
        load_scan(path, diffraction='intensity')


def test_bright_patterns_are_looked_at():
    """DC-5: blank patterns alone do not make a stack of counts."""
    values = np.zeros((400, N, N), np.float32)
    values[211] = 0.3
    with pytest.raises(DataError, match='may be counts or amplitudes'):
        as_counts(values)


@pytest.mark.parametrize('scale', [1, 1e-6])
def test_patterns_that_were_scaled_down_are_no_amplitudes(scale):
    """DC-5: their squares are all next to an integer, which is 0."""
    counts = np.random.default_rng(0).poisson(100, (20, N, N)).astype(np.float64)
    values = (scale * counts / counts.sum((1, 2), keepdims=True)).astype(np.float32)
    assert values.max() < 0.03
    with pytest.raises(DataError, match='may be counts or amplitudes'):
        as_counts(values)
    assert as_counts(values, unclear='counts') is values


def test_only_good_pixels_are_looked_at():
    """DC-5: the host inpaints bad pixels, so those are not integers."""
    counts = np.random.default_rng(0).poisson(100, (4, N, N)).astype(np.float32)
    bad = np.zeros((N, N), bool)
    bad[2:4, 5] = True
    counts[:, bad] = 3.21
    assert as_counts(counts, 'auto', bad) is counts
    with pytest.raises(DataError, match='may be counts or amplitudes'):
        as_counts(counts)


def test_negative_amplitudes():
    with pytest.raises(DataError, match=r'amplitudes are negative.*minimum=-2'):
        as_counts(np.full((2, N, N), -2.0), 'amplitude')


REFUSALS = [
    ({'xcoords': None}, 'The array xcoords is missing'),
    ({'diff3d': None}, 'The array diff3d is missing'),
    ({'probeGuess': None}, 'The array probeGuess is missing'),
    ({'xcoords': np.ones(M - 1)}, 'not two lists of numbers'),
    ({'xcoords': np.ones((M, 1))}, 'not two lists of numbers'),
    (
        {'xcoords': np.arange(3) + 12, 'ycoords': np.arange(3) + 9},
        'Positions and patterns differ in number',
    ),
    ({'diff3d': np.ones((N, N), int)}, 'wrong rank'),
    ({'diff3d': np.ones((M, N, N + 2), int)}, 'not square'),
    ({'diff3d': np.zeros((M, N, N), int)}, 'patterns are zero'),
    ({'diff3d': np.full((M, N, N), -1)}, 'negative counts'),
    ({'diff3d': np.full((M, N, N), np.nan)}, 'NaN or infinity'),
    ({'diff3d': np.zeros((0, N, N), float)}, 'scan is empty|differ in number'),
    ({'objectGuess': np.eye(20) + 0j}, 'Positions lie outside the object'),
    ({'probeGuess': np.ones((N + 2, N + 2), complex)}, 'Probe and patterns differ'),
    ({'xcoords': np.array([{}] * M, dtype=object)}, 'xcoords does not hold numbers'),
    ({'probeGuess': np.array([{}], dtype=object)}, 'probeGuess does not hold numbers'),
    ({'objectGuess': np.ones((2, SIDE, SIDE), complex)}, 'object guess has several layers'),
    ({'true_object': np.eye(20) + 0j}, 'Positions lie outside the object'),
    ({'origin_px': np.ones(3)}, 'origin_px is not a pair'),
    ({'bad_pixels': np.ones((N + 2, N), bool)}, 'bad-pixel mask has another size'),
    ({k: contents()[k] * 1e-8 for k in ('xcoords', 'ycoords')}, 'within one pixel.*units'),
    ({'ycoords': np.array(['a'] * M)}, 'not two lists of numbers'),
]


@pytest.mark.parametrize(('change', 'text'), REFUSALS, ids=[text[:40] for _, text in REFUSALS])
def test_refuses(tmp_path, change, text):
    """DC-10: one line that names the file."""
    path = write(tmp_path / 'bad.npz', **change)
    with pytest.raises(DataError, match=rf'^bad\.npz: .*({text})') as caught:
        load_scan(path)
    assert '\n' not in str(caught.value)


def test_refuses_what_is_not_a_file(tmp_path):
    with pytest.raises(DataFileMissingError, match=r'none\.npz does not exist'):
        load_scan(tmp_path / 'none.npz')
    with pytest.raises(DataFileMissingError, match=r'holds no diffraction\.h5'):
        load_scan(tmp_path)
    with pytest.raises(DataFileMissingError, match='does not exist'):
        load_scan(Path(__file__) / 'none.npz')
    with pytest.raises(DataError, match=r'a{300}\.npz: The file cannot be read'):
        load_scan(tmp_path / ('a' * 300 + '.npz'))
    if hasattr(os, 'mkfifo'):
        os.mkfifo(tmp_path / 'pipe.npz')
        with pytest.raises(DataError, match=r'pipe\.npz is a folder or no plain file'):
            load_scan(tmp_path / 'pipe.npz')
    (tmp_path / 'empty.npz').touch()
    with pytest.raises(DataError, match=r'empty\.npz: The file is empty'):
        load_scan(tmp_path / 'empty.npz')
    (tmp_path / 'text.npz').write_text('xcoords, ycoords\n')
    with pytest.raises(DataError, match=r'text\.npz: The format is unknown.*suffix=\.npz'):
        load_scan(tmp_path / 'text.npz')


@pytest.mark.parametrize('keep', [6, 300, 0.5, 0.999])
def test_refuses_truncated_files(tmp_path, keep):
    path = write(tmp_path / 'cut.npz')
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if keep > 1 else int(len(whole) * keep)])
    with pytest.raises(DataError, match=r'^cut\.npz: The file is damaged'):
        load_scan(path)


def test_refuses_flipped_bytes(tmp_path):
    path = write(tmp_path / 'flip.npz')
    data = bytearray(path.read_bytes())
    middle = data.find(b'diff3d.npy') + 500
    data[middle] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r'^flip\.npz: The array diff3d is damaged'):
        load_scan(path)


def test_refuses_a_declared_size_before_taking_memory(tmp_path):
    """DC-11: the header of the array declares 8 TB."""
    path = write(tmp_path / 'huge.npz', diff3d=None)
    header = b"{'descr': '<u2', 'fortran_order': False, 'shape': (1000000, 2048, 2048), }"
    block = header.ljust(117) + b'\n'
    with zipfile.ZipFile(path, 'a') as members:
        start = b'\x93NUMPY\x01\x00' + len(block).to_bytes(2, 'little')
        members.writestr('diff3d.npy', start + block + b'12')
    with pytest.raises(DataError, match='diff3d declares more than the file holds'):
        load_scan(path)


def test_options_that_do_not_apply(tmp_path):
    path = write(tmp_path / 'a.npz')
    with pytest.raises(DataError, match=r'a\.npz: The file has its own positions'):
        load_scan(path, product=tmp_path / 'product.h5')


def test_round_trip(tmp_path):
    """DC-2: positions are written in pixels of the object array, `origin_px` brings them back."""
    made = contents()
    bad = np.eye(N, dtype=bool)
    scan = Scan(
        made['diff3d'],
        np.stack([made['ycoords'] + 100.5, made['xcoords'] - 30], 1),
        made['probeGuess'],
        bad,
        scan_index=np.arange(M) * 2,
    )
    assert scan.frame.origin_px[0] > 90
    save_scan(scan, tmp_path / 'a.npz')
    with np.load(tmp_path / 'a.npz') as stored:
        np.testing.assert_allclose(
            stored['ycoords'], scan.positions_px[:, 0] - scan.frame.origin_px[0]
        )
    back = load_scan(tmp_path / 'a.npz')
    np.testing.assert_allclose(back.positions_px, scan.positions_px)
    assert back.frame == scan.frame
    for key in ('counts', 'probe', 'bad_pixels', 'scan_index'):
        np.testing.assert_array_equal(getattr(back, key), getattr(scan, key))
    assert back.frame.shape == scan.frame.shape
    assert back.object_guess is None
    assert back.counts.dtype == scan.counts.dtype


def test_round_trip_keeps_counts_that_are_not_integers(tmp_path):
    """DC-2: `diff3d_scale` of our own files is believed."""
    made = contents(diff3d=np.random.default_rng(0).random((M, N, N)).astype(np.float32))
    positions = np.stack([made['ycoords'], made['xcoords']], 1)
    truth = made['objectGuess'].astype(np.complex64)
    scan = Scan(made['diff3d'], positions, made['probeGuess'], true_object=truth)
    save_scan(scan, tmp_path / 'a.npz')
    back = load_scan(tmp_path / 'a.npz')
    np.testing.assert_array_equal(back.counts, scan.counts)
    np.testing.assert_array_equal(back.true_object, truth)
    assert back.frame == scan.frame


def test_save_refuses(tmp_path):
    scan = load_scan(write(tmp_path / 'a.npz'))
    with pytest.raises(OutputError, match=r'b\.mat: The suffix is unknown.*suffix=\.mat'):
        save_scan(scan, tmp_path / 'b.mat')
    with pytest.raises(OutputError, match='Cannot write'):
        save_scan(scan, tmp_path / 'none' / 'b.npz')
    assert [p.name for p in tmp_path.iterdir()] == ['a.npz']


@pytest.mark.skipif(not DATA.is_dir(), reason='the shared data are not here')
@pytest.mark.parametrize(
    ('name', 'count', 'side', 'shape'),
    [
        ('siemens_star_velociprobe.npz', 516, 128, None),
        ('sim64_photographs.npz', 1000, 64, (256, 256)),
        ('sim64_lines.npz', 1000, 64, (256, 256)),
    ],
)
def test_shared_data(name, count, side, shape):
    scan = load_scan(DATA / name)
    assert scan.counts.shape == (count, side, side)
    assert shape is None or scan.frame.shape == shape
    if shape is None:
        assert load_scan(DATA / name, probe_key='reference_probe').probe.shape == (3, side, side)


@pytest.mark.skipif(not DATA.is_dir(), reason='the shared data are not here')
def test_shared_data_as_amplitudes(tmp_path):
    """DC-5: the real scan as PtychoPINN stores it reads back as the same counts."""
    with np.load(DATA / 'siemens_star_velociprobe.npz') as real:
        arrays = {k: real[k] for k in ('xcoords', 'ycoords', 'probeGuess', 'diff3d')}
    counts = arrays['diff3d'][:60]
    arrays = {k: v[:60] for k, v in arrays.items()}
    arrays['diff3d'] = np.sqrt(counts.astype(np.float32))
    np.savez(tmp_path / 'a.npz', **arrays)
    np.testing.assert_array_equal(load_scan(tmp_path / 'a.npz').counts, counts)


def test_import_is_light():
    code = (
        'import sys, ptychopinn_plugin.files\n'
        'print([m for m in ("h5py", "ptychodus", "torch", "matplotlib") if m in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'
