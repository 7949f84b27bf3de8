"""Files are whole or absent: whatever happens while writing, the old file stays and nothing lies around."""

from __future__ import annotations

import errno
import os
import stat
import sys

import pytest

from ptychopinn_plugin.atomic import atomic_path
from ptychopinn_plugin.errors import OutputError

posix = pytest.mark.skipif(sys.platform == 'win32', reason='POSIX permissions')


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_the_target_appears_only_when_it_is_whole(tmp_path):
    target = tmp_path / 'out.h5'
    with atomic_path(target) as part:
        part.write_bytes(b'new')
        assert not target.exists()
        assert part.parent == tmp_path  # a rename across file systems is not atomic
        assert part.suffix == '.h5'  # writers that choose a format by suffix see the right one
    assert target.read_bytes() == b'new'
    assert names(tmp_path) == ['out.h5']


def test_a_string_and_a_bare_name_are_targets_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with atomic_path('bare') as part:
        part.write_text('x')
    assert names(tmp_path) == ['bare']


@pytest.mark.parametrize('problem', [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
def test_any_exception_leaves_the_old_file_whole_and_no_rubbish(tmp_path, problem):
    target = tmp_path / 'out.h5'
    target.write_bytes(b'old')
    with pytest.raises(problem), atomic_path(target) as part:
        part.write_bytes(b'half of the n')
        raise problem
    assert target.read_bytes() == b'old'
    assert names(tmp_path) == ['out.h5']


def test_a_full_disk_is_one_line(tmp_path):
    target = tmp_path / 'out.h5'
    target.write_bytes(b'old')
    with pytest.raises(OutputError) as caught, atomic_path(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(caught.value) == (
        f'Cannot write {target}. Expected an existing, writable folder with free space. '
        'Received: No space left on device. Choose another output.'
    )
    assert target.read_bytes() == b'old'
    assert names(tmp_path) == ['out.h5']


def test_an_output_error_from_inside_passes_as_it_is(tmp_path):
    with pytest.raises(OutputError, match=r'^mine$'), atomic_path(tmp_path / 'out'):
        raise OutputError('mine')


def test_a_missing_folder_is_named(tmp_path):
    target = tmp_path / 'nowhere' / 'out.h5'
    with (
        pytest.raises(OutputError, match=r'Cannot write .*nowhere.*Received: No such file or'),
        atomic_path(target),
    ):
        pytest.fail('nothing may be computed for a target that cannot be')


def test_a_folder_is_no_target(tmp_path):
    (tmp_path / 'folder').mkdir()
    with (
        pytest.raises(OutputError, match=r'The output is a folder\. Expected a file name\.'),
        atomic_path(tmp_path / 'folder'),
    ):
        pytest.fail('nothing may be written')
    assert names(tmp_path) == ['folder']


@posix
@pytest.mark.parametrize(('umask', 'mode'), [(0o022, 0o644), (0o077, 0o600)])
def test_permissions_are_those_of_any_new_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / 'out') as part:
            part.write_bytes(b'x')
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'out').stat().st_mode) == mode


def test_the_data_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda fd: (order.append('fsync'), fsync(fd))[1])
    monkeypatch.setattr(os, 'replace', lambda a, b: (order.append('replace'), replace(a, b))[1])
    with atomic_path(tmp_path / 'out') as part:
        part.write_bytes(b'x')
    assert order == ['fsync', 'replace']


def test_a_writer_that_replaces_the_part_is_welcome(tmp_path):
    with atomic_path(tmp_path / 'out') as part:
        part.unlink()
        part.write_bytes(b'again')
    assert (tmp_path / 'out').read_bytes() == b'again'


def test_a_writer_that_leaves_nothing_is_an_error(tmp_path):
    with pytest.raises(OutputError, match='Cannot write'), atomic_path(tmp_path / 'out') as part:
        part.unlink()
    assert names(tmp_path) == []
