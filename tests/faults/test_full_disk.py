"""A disk that takes no more: the old file stays whole, the new one is not there, and it is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from ptychopinn_plugin import files
from ptychopinn_plugin.errors import OutputError
from ptychopinn_plugin.files.new_hdf5 import new_hdf5

from ..conftest import room
from .writers import WRITERS, write


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


@pytest.mark.parametrize('share', [0, 0.01, 0.3, 0.6, 0.97])
@pytest.mark.parametrize('name', WRITERS)
def test_the_old_file_stays_whole(name, share, small_scan, tmp_path):
    scan = replace(small_scan, counts=small_scan.counts[::-1].copy())
    write(name, small_scan, tmp_path)
    before = contents(tmp_path)
    largest = max(map(len, before.values()))
    with room(int(share * largest)), pytest.raises(OutputError, match='Cannot write'):
        write(name, scan, tmp_path)
    assert contents(tmp_path) == before
    write(name, scan, tmp_path)  # the process is none the worse


def test_hdf5_that_reads_back_what_was_lost_is_still_an_output_error(tmp_path):
    def write():
        with room(2000), new_hdf5(tmp_path / 'a.h5') as h5:
            for number in range(3000):
                h5.create_dataset(f'group{number}/values', data=np.full(400, number))
            _ = h5['group0/values'][()]

    with pytest.raises(OutputError, match='File too large'):
        write()
    assert not contents(tmp_path)


def test_an_error_of_the_body_is_that_error(tmp_path):
    def write():
        with new_hdf5(tmp_path / 'a.h5'):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert not contents(tmp_path)


SCRIPT = """
import json, sys
from pathlib import Path
from ptychopinn_plugin import files
from ptychopinn_plugin.errors import OutputError
scan, folder, told = files.load_scan(sys.argv[1]), Path(sys.argv[2]), {}
for name in ('scan.npz', 'scan.h5', 'scan.cxi', ''):
    try:
        files.save_scan(scan, folder / name)
    except OutputError as error:
        told[name] = str(error)
print(json.dumps([told, [str(p) for p in folder.iterdir()]]))
"""


@contextmanager
def small_disk(folder):
    """Yield what to put before a command that is to see a disk of 64 kB at `folder`."""
    shell = 'mount -t tmpfs -o size=64k tmpfs "$0" && exec "$@"'
    command = ['unshare', '--user', '--map-root-user', '--mount', 'sh', '-c', shell, str(folder)]
    if shutil.which('unshare') is None:
        pytest.skip('no unshare: a small disk cannot be made without being root')
    tried = subprocess.run([*command, 'true'], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f'a small disk cannot be made here: {tried.stderr.strip()}')
    yield command


def test_a_disk_that_is_full(small_scan, tmp_path):
    source, folder = tmp_path / 'scan.npz', tmp_path / 'disk'
    files.save_scan(small_scan, source)
    folder.mkdir()
    with small_disk(folder) as command:
        done = subprocess.run(
            [*command, sys.executable, '-c', SCRIPT, source, folder],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told, left = json.loads(done.stdout)
    assert set(told) == {'scan.npz', 'scan.h5', 'scan.cxi', ''}
    assert all('No space left on device' in text for text in told.values())
    assert left == []


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
@pytest.mark.parametrize('name', WRITERS)
def test_a_folder_that_may_not_be_written(name, small_scan, tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match='Cannot write'):
            write(name, small_scan, tmp_path)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize('name', WRITERS)
def test_a_folder_that_is_gone(name, small_scan, tmp_path):
    with pytest.raises(OutputError, match='Cannot write'):
        write(name, small_scan, tmp_path / 'gone')
