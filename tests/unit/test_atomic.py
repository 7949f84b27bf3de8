"""Files are whole or absent, whatever ends the writing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ptychopinn_plugin.atomic import atomic_path
from ptychopinn_plugin.errors import OutputError
from ptychopinn_plugin.files import check_target


@pytest.mark.parametrize('old', [None, b'old'])
def test_success_replaces_the_target(tmp_path, old):
    target = tmp_path / 'a.h5'
    if old:
        target.write_bytes(old)
    with atomic_path(str(target)) as part:
        assert part.parent == tmp_path  # a rename across disks is not atomic
        assert part.suffix == '.h5'
        part.write_bytes(b'new')
        assert (target.read_bytes() if old else None) == old
    assert target.read_bytes() == b'new'
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize('kind', [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_any_exception_keeps_the_old_file(tmp_path, kind):
    target = tmp_path / 'a.h5'
    target.write_bytes(b'old')

    def write():
        with atomic_path(target) as part:
            part.write_bytes(b'half')
            raise kind

    with pytest.raises(kind):
        write()
    assert target.read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_an_output_error(tmp_path):
    def write():
        with atomic_path(tmp_path / 'a') as part:
            part.write_bytes(b'half')
            raise OSError(28, 'No space left on device')

    with pytest.raises(OutputError, match=r'Cannot write.*No space left on device'):
        write()
    assert not list(tmp_path.iterdir())


def test_an_output_error_from_inside_passes_unchanged(tmp_path):
    def write():
        with atomic_path(tmp_path / 'a'):
            raise OutputError('mine')

    with pytest.raises(OutputError, match=r'^mine$'):
        write()


def test_a_failed_rename_leaves_nothing(tmp_path, monkeypatch):
    target = tmp_path / 'a'
    target.write_bytes(b'old')

    def fail(*_):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(OutputError, match='Permission denied'), atomic_path(target) as part:
        part.write_bytes(b'new')
    assert target.read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [target]


def test_the_bytes_are_synced_before_the_rename(tmp_path, monkeypatch):
    calls = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda fd: (calls.append('sync'), sync(fd)))
    monkeypatch.setattr(os, 'replace', lambda a, b: (calls.append('rename'), replace(a, b)))
    with atomic_path(tmp_path / 'a') as part:
        part.write_bytes(b'x')
    assert calls[:2] == ['sync', 'rename']


def test_a_missing_folder(tmp_path):
    with (
        pytest.raises(OutputError, match=r'Cannot write.*Expected an existing, writable folder'),
        atomic_path(tmp_path / 'absent' / 'a'),
    ):
        pytest.fail('the body ran')


def test_a_folder_as_target(tmp_path):
    with pytest.raises(OutputError, match='The output is a folder'), atomic_path(tmp_path):
        pytest.fail('the body ran')
    assert not list(tmp_path.iterdir())


def test_a_part_that_the_writer_removed_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match='Cannot write'), atomic_path(tmp_path / 'a') as part:
        part.unlink()


@pytest.mark.parametrize('old', [None, b'old'])
def test_a_symbolic_link_stays_one(tmp_path, old):
    """A result may lie on another disk: what the link leads to is written, and nothing here."""
    disk, here = tmp_path / 'disk', tmp_path / 'here'
    disk.mkdir()
    here.mkdir()
    if old is not None:
        (disk / 'real.npz').write_bytes(old)
    (here / 'link.npz').symlink_to('../disk/real.npz')
    check_target(here / 'link.npz')
    with atomic_path(here / 'link.npz') as part:
        assert part.parent == disk
        part.write_bytes(b'new')
    assert (here / 'link.npz').is_symlink()
    assert (disk / 'real.npz').read_bytes() == b'new'
    assert [p.name for p in here.iterdir()] == ['link.npz']
    (here / 'lost.npz').symlink_to('../none/real.npz')
    with pytest.raises(OutputError, match=r'Cannot write .*lost\.npz.*none'):
        check_target(here / 'lost.npz')


def test_permissions_follow_the_umask(tmp_path):
    target = tmp_path / 'a'
    old = os.umask(0o027)
    try:
        with atomic_path(target) as part:
            part.write_bytes(b'')
        assert target.stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(old)


@pytest.mark.parametrize('name', ['n' * 240, 'n' * 245 + '.h5.zip', 'a.' + 'n' * 250])
def test_a_long_name_that_the_file_system_allows(tmp_path, name):
    with atomic_path(tmp_path / name) as part:
        part.write_bytes(b'x')
    assert Path(tmp_path / name).read_bytes() == b'x'
