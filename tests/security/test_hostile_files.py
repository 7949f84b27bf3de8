"""What the fuzzer found, and a short slice of it with a fixed seed (`make fuzz` runs the rest)."""

from __future__ import annotations

import io
import json
import logging
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
from fuzz import mutations
from fuzz.readers import put, read, turn_of
from fuzz.seeds import H, M, N, W, pack, seeds, small_scan, unpack
from stopwatch import assert_within

from ptychopinn_plugin import apart, archive, files
from ptychopinn_plugin.errors import DataError, ModelFileError, WorkerError, explain
from ptychopinn_plugin.scan import Scan
from ptychopinn_plugin.simulate.probes import load_probe
from ptychopinn_plugin.worker import client, protocol
from tests.conftest import room

forks = pytest.mark.skipif(not apart.AVAILABLE, reason='no copy of the process here')


@pytest.mark.parametrize(
    ('reader', 'count'),
    [
        ('npz', 250), ('probe', 250), ('hdf5', 30), ('cxi', 20), ('pair', 25), ('product', 30),
        ('model', 80),
        ('settings', 1000), ('message', 400), ('job', 150),
    ],
)  # fmt: skip
def test_hostile_inputs_are_read_or_refused(reader, count, tmp_path, caplog):
    """DC-10, DC-11, MA-8: one line in a `PluginError`, and nothing written."""
    caplog.set_level(logging.CRITICAL)
    valid = seeds(reader)
    for data in valid:
        mutations.trust(data)
        assert read(reader, put(reader, data, tmp_path)) in ('read', 'DataError')
    rng = random.Random(f'7/{reader}')
    before = set(os.listdir(tmp_path))
    for _ in range(count):
        data = mutations.mutate(reader, rng.choice(valid), rng.choice(valid), rng)
        read(reader, put(reader, data, tmp_path), turn_of(data))
    assert set(os.listdir(tmp_path)) == before


# --- the copy of the process ----------------------------------------------------------------------


@forks
def test_a_crash_in_the_copy_is_one_line():
    """A library in C that dies takes only the copy with it."""
    for how in (signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT):
        said = rf'^x\.h5: .* damaged .*: {how.name} ended the process that read it'
        with pytest.raises(DataError, match=said):
            apart.apart(lambda how=how: os.kill(os.getpid(), how), 0, name='x.h5')
    with pytest.raises(ModelFileError, match='damaged'):
        apart.apart(lambda: os._exit(0), 0, name='x.h5', kind=ModelFileError)


@forks
def test_a_limit_of_file_sizes_is_no_damage():
    """What the copy has read goes into a file in memory, which the limit holds for too."""
    limit = r'^x\.h5: There is no room for what was read.* a limit of file sizes \(ulimit -f\)'
    with room(1000), pytest.raises(ModelFileError, match=limit):
        apart.apart(lambda: np.ones(1000), 0, name='x.h5', kind=ModelFileError)
    with room(1000):
        assert apart.apart(lambda: np.ones(100), 0, name='x.h5').sum() == 100

    def die():
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGXFSZ)

    with pytest.raises(DataError, match=r'no room for what was read.* SIGXFSZ ended the process'):
        apart.apart(die, 0, name='x.h5')


@forks
def test_what_the_copy_may_not_write_by_its_own_limit_is_damage(monkeypatch):
    monkeypatch.setattr(apart, 'MEMORY_BYTES', 2**26)
    with pytest.raises(DataError, match=r'damaged.* it needs more memory than a file of its size'):
        apart.apart(lambda: [np.ones(2**20)] * 12, 0, name='x.h5')  # 8 MiB there, 96 handed over


@forks
def test_a_hang_in_the_copy_ends(monkeypatch):
    monkeypatch.setattr(apart, 'CPU_S', 0.0)
    before = psutil.Process().children()
    start = time.monotonic()
    with pytest.raises(DataError, match='it took too long'):
        apart.apart(lambda: [None for _ in iter(int, 1)], 0, name='x')
    monkeypatch.setattr(apart, 'WALL_S', 0.2)
    with pytest.raises(DataError, match='it took too long'):
        apart.apart(lambda: time.sleep(60), 0, name='x')
    assert_within(20, start)
    assert psutil.Process().children() == before  # none is left


@forks
def test_the_copy_has_little_memory():
    with pytest.raises(DataError, match=r'^x: .*it needs more memory than a file of its size may'):
        apart.apart(lambda: np.ones(2**28), 0, name='x')  # 2 GiB

    def disorder():
        raise SystemError('returned NULL without setting an exception')

    with pytest.raises(DataError, match='it ended the process that read it'):
        apart.apart(disorder, 0, name='x')


@forks
def test_a_copy_of_a_thread(tmp_path):
    """The host reads in threads too."""
    path, found = put('hdf5', seeds('hdf5')[0], tmp_path), []
    thread = threading.Thread(target=lambda: found.append(files.load_scan(path)))
    thread.start()
    thread.join(timeout=30)
    assert len(found[0]) == M


@forks
def test_the_copy_ends_with_its_parent(tmp_path):
    code = (
        'import os, sys, time\n'
        'from ptychopinn_plugin import apart\n'
        'def read():\n'
        f'    open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))\n'
        '    time.sleep(60)\n'
        'apart.apart(read, 0, name="x")\n'
    )
    parent = subprocess.Popen([sys.executable, '-c', code])
    copy = ''
    for _ in range(600):
        copy = (tmp_path / 'pid').read_text() if (tmp_path / 'pid').exists() else ''
        if copy:
            break
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    for _ in range(100):
        stat_file = Path(f'/proc/{copy}/stat')
        if not stat_file.exists() or ') Z ' in stat_file.read_text():
            return
        time.sleep(0.05)
    pytest.fail('the copy outlived its parent')


@forks
def test_the_copy_has_no_files_of_its_parent(tmp_path):
    with open(tmp_path / 'secret', 'w') as stream:
        number = stream.fileno()

        def found():
            try:
                os.fstat(number)
            except OSError:
                return 'closed'
            return 'open'

        assert apart.apart(found, 0, name='x') == 'closed'


@forks
def test_everything_comes_back_from_the_copy(caplog):
    """Arrays of any kind, containers, dataclasses, log lines and errors."""
    scan = small_scan(truth=True)
    arrays = [
        np.zeros((0, 3), np.float32), np.float64(2.5), np.array(True), np.array(['ab', 'c']),
        np.arange(6, dtype='>i8')[::2], np.array(1 + 2j, np.complex64),
    ]  # fmt: skip

    def answer():
        logging.getLogger('ptychopinn_plugin.files').warning('seen %d', 7)
        return {'scan': scan, 'arrays': arrays, 'pair': (1, (None, 'x'), 2.5), 'none': None}

    with caplog.at_level(logging.INFO):
        back = apart.apart(answer, 0, name='x')
    assert 'seen 7' in caplog.text
    assert back['pair'] == (1, (None, 'x'), 2.5)
    assert back['none'] is None
    for given, found in zip(arrays, back['arrays'], strict=True):
        np.testing.assert_array_equal(given, found)
    assert isinstance(back['scan'], Scan)
    assert back['scan'].geometry == scan.geometry
    assert back['scan'].frame == scan.frame
    np.testing.assert_array_equal(back['scan'].counts, scan.counts)
    back['scan'].counts[:] = 0  # the arrays are the caller's own

    def fails():
        raise OverflowError('why')

    with pytest.raises(OverflowError, match='why') as caught:
        apart.apart(fails, 0, name='x')
    assert 'in fails' in caught.value.__notes__[0]


# In the header of each dataset; what the fuzzer changed to make libhdf5 1.14.6 crash.
RECORD = bytes.fromhex('01000000 16020000 08000000 72000000')


@forks
@pytest.mark.parametrize('byte', [1, 7, 8, 80, 255])
def test_a_file_that_crashes_libhdf5(tmp_path, byte):
    """One byte of a valid file is changed; a segmentation fault in the process of the caller."""
    valid = seeds('hdf5')[0]
    places = [at for at in range(len(valid)) if valid.startswith(RECORD, at)]
    for at in places:
        data = bytearray(valid)
        data[at + 10] = byte
        outcome = read('hdf5', put('hdf5', bytes(data), tmp_path), 3)
        assert outcome in ('read', 'DataError', 'DataError (contained)')


@forks
def test_hdf5_files_are_read_in_the_copy(tmp_path, monkeypatch):
    """No reader of HDF5 asks libhdf5 in the process of the caller."""
    folder = tmp_path / 'pair'
    for reader in ('hdf5', 'cxi', 'pair', 'product'):
        path = put(reader, seeds(reader)[0], tmp_path)
        own = os.getpid()
        real = h5py.File

        def guarded(*args, real=real, own=own, **more):
            assert os.getpid() != own, 'libhdf5 was asked in this process'
            return real(*args, **more)

        monkeypatch.setattr(h5py, 'File', guarded)
        for look in (files.load_scan, files.describe, files.is_scan, files.load_object):
            if reader == 'product' and look is files.load_scan:
                files.load_product(path)
            elif not (reader == 'pair' and look is files.load_object):
                look(path)
        monkeypatch.setattr(h5py, 'File', real)
    assert not folder.exists()
    model = put('model', seeds('model')[0], tmp_path)
    monkeypatch.setattr(h5py, 'File', guarded)
    assert archive.load_model(model).weights


def test_reading_apart_costs_little(tmp_path):
    """A tenth of a second at most, on top of reading it in the process itself."""
    path = put('hdf5', seeds('hdf5')[0], tmp_path)

    def best():
        times = []
        for _ in range(5):
            start = time.perf_counter()
            files.load_scan(path)
            times.append(time.perf_counter() - start)
        return min(times)

    assert best() < 0.1


# --- messages -------------------------------------------------------------------------------------


def test_names_in_a_file_do_not_steer_a_terminal():
    text = explain('bad\x1b[2J', received='\x07' + '\udc80' + 'é' + 'x' * 10**6)
    assert text.isprintable()
    assert 'é' in text
    assert len(text) < 3000


def test_a_long_name_in_a_zip_makes_no_long_message(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as z:
        z.writestr('a' * 60_000 + '.npy', b'')
    with pytest.raises(DataError) as caught:
        files.load_scan(put('npz', buffer.getvalue(), tmp_path))
    assert len(str(caught.value)) < 3000


# --- NPZ ------------------------------------------------------------------------------------------


def npz(tmp_path, packing=zipfile.ZIP_DEFLATED, **changes):
    """Write a training file with some arrays changed."""
    scan = small_scan()
    arrays = {
        'diff3d': scan.counts, 'xcoords': scan.positions_px[:, 1],
        'ycoords': scan.positions_px[:, 0], 'probeGuess': scan.probe,
        'objectGuess': scan.object_guess, **changes,
    }  # fmt: skip
    path = tmp_path / 'a.npz'
    with zipfile.ZipFile(path, 'w', packing) as z:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.save(stream, array)
            z.writestr(name + '.npy', stream.getvalue())
    return path


def test_positions_that_do_not_match_give_the_object_no_weight(tmp_path):
    """DC-15: they made numpy raise from `stack`."""
    image = files.load_object(npz(tmp_path, xcoords=np.zeros(M + 1)))
    assert image.object.shape == (H, W)
    assert (image.weight == 1).all()


@pytest.mark.parametrize('text', [['x'] * N * N, ['0'] * N * N])
def test_a_mask_of_words_is_refused(tmp_path, text):
    with pytest.raises(DataError, match='bad_pixels does not hold numbers'):
        files.load_scan(npz(tmp_path, bad_pixels=np.array(text).reshape(N, N)))


@pytest.mark.parametrize('packing', [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_packings(tmp_path, packing):
    """LZMA raised an error of its own, and takes the memory that its header asks for."""
    path = npz(tmp_path, packing)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as z:
        info = z.getinfo('xcoords.npy')
    start = info.header_offset + 30 + len(info.filename)
    data[start + 12 : start + 40] = b'\xff' * 28
    path.write_bytes(data)
    with pytest.raises(DataError, match=r'xcoords is packed in an unusual way'):
        files.load_scan(path)


def test_an_object_of_zeros_takes_no_gigabytes(tmp_path):
    """DC-11: 144 MB of bytes in 140 kB would be 1.2 GB of complex numbers."""
    path = npz(tmp_path, objectGuess=np.zeros((12_000, 12_000), np.uint8))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match='objectGuess declares more than the file holds'):
            files.load_scan(path)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


def result(tmp_path, **changes):
    image = np.ones((H, W), np.complex64)
    arrays = {'object': image, 'weight': np.full((H, W), 2.0), 'fourier_error': np.float64(0.5),
              'probe': np.ones((1, N, N), np.complex64)} | changes  # fmt: skip
    np.savez(tmp_path / 'r.npz', **arrays)
    return tmp_path / 'r.npz'


def test_a_result_of_odd_arrays(tmp_path):
    """A probe of no axes, an error in words and a weight of words each raised from NumPy."""
    facts = files.describe(result(tmp_path))
    assert (facts['pattern_size_px'], facts['probe_modes'], facts['fourier_error']) == (N, 1, 0.5)
    path = result(tmp_path, probe=np.ones(()), fourier_error=np.array('x'),
                  weight=np.full((H, W), 'x'))  # fmt: skip
    facts = files.describe(path)
    assert facts['pattern_size_px'] is facts['probe_modes'] is facts['fourier_error'] is None
    assert (files.load_object(path).weight == 1).all()


def test_a_product_whose_probe_has_no_axes(tmp_path):
    path = put('product', seeds('product')[0], tmp_path)
    with h5py.File(path, 'r+') as h5:
        del h5['probe']
        h5['probe'] = 1.0
    with pytest.raises(DataError, match='The probe has the wrong rank'):
        files.describe(path)


def test_a_cxi_file_whose_probe_has_no_axes(tmp_path):
    path = put('cxi', seeds('cxi')[0], tmp_path)
    with h5py.File(path, 'r+') as h5:
        del h5['entry_1/image_1/data']
        h5['entry_1/image_1/data'] = 1.0
    for look in (files.load_object, files.load_scan):
        with pytest.raises(DataError, match='The probe has the wrong rank'):
            look(path)


@pytest.mark.parametrize(
    ('value', 'message'),
    [(np.nan, 'not a probe'), (1e-200, 'no power'), (1e300, 'no power'), ('x', 'not a probe')],
)
def test_a_probe_file_of_odd_numbers(tmp_path, value, message):
    path = npz(tmp_path, probeGuess=np.full((1, N, N), value))
    with pytest.raises(DataError, match=message):
        load_probe(path, 'probeGuess', N, 1)


def test_a_probe_whose_first_modes_are_empty(tmp_path):
    probe = np.ones((2, N, N), np.complex64)
    probe[0] = 0
    with pytest.raises(DataError, match='no power'):
        load_probe(npz(tmp_path, probeGuess=probe), 'probeGuess', N, 1)


# --- the worker -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'facts',
    [
        {'event': 'Step'}, {'event': 'Step', 'share': 'x'}, {'event': 'Step', 'share': 0.5, 'x': 1},
        {'event': 'Log', 'level': 'high', 'text': 'x'}, {'event': 'Log', 'level': True, 'text': ''},
        {'event': 'Sweep'}, {'event': 'Sweep', 'number': '../../x'},
        {'event': 'Sweep', 'number': -1, 'total': 3, 'loss': 1.0, 'origin_px': [0, 0]},
        {'event': 'Sweep', 'number': 7, 'total': 3, 'loss': 1.0, 'origin_px': [0, 0]},
        {'event': 'Sweep', 'number': 0, 'total': 3, 'loss': None, 'origin_px': [0, 0]},
    ],
)  # fmt: skip
def test_an_event_that_no_child_sends(tmp_path, facts):
    with pytest.raises(WorkerError, match='cannot be understood'):
        protocol.Decoder(tmp_path).event(json.dumps(facts).encode())


@pytest.mark.parametrize(
    'line', [b'', b'{', b'[]', b'{"event": []}', b'{"event": {}}', b'{"event": "x"}', b'[' * 10**5]
)
def test_a_line_that_is_no_event(tmp_path, line):
    assert protocol.Decoder(tmp_path).event(line) is None


@pytest.mark.parametrize('text', ['', '[]', '{}', '{"runtime": 1}', '[' * 10**5, '{"runtime": {}}'])
def test_a_damaged_job(tmp_path, text):
    (tmp_path / protocol.JOB).write_text(text)
    with pytest.raises(WorkerError, match='The job of this process is damaged'):
        protocol.read_job(tmp_path)


def test_a_job_whose_array_declares_too_much(tmp_path):
    parts = unpack(seeds('job')[0])
    counts = parts['counts.npy']
    parts['counts.npy'] = counts.replace(b'(6, 8, 8), }', b'(10**9,8,8)}')
    path = put('job', pack(parts), tmp_path)
    with pytest.raises(WorkerError):
        protocol.read_job(path)


def test_a_run_is_private(tmp_path, monkeypatch):
    """WK-8: only the user can look into the folder of a run."""
    monkeypatch.setattr(client.tempfile, 'tempdir', str(tmp_path))
    folder = client._job_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


WORDS = (
    'import socket', 'import pickle', 'allow_pickle=True', 'http.server', 'socketserver',
    'multiprocessing.connection', 'weights_only=False',
)  # fmt: skip


def test_nothing_of_the_package_opens_a_socket_or_a_pickle():
    """Everything between processes goes through pipes and files; nothing is unpickled."""
    package = os.path.dirname(client.__file__) + '/..'
    found = []
    for folder, _, names in os.walk(package):
        for name in names:
            if name.endswith('.py'):
                with open(os.path.join(folder, name), encoding='utf-8') as stream:
                    text = stream.read()
                found += [(name, word) for word in WORDS if word in text]
    assert found == []
