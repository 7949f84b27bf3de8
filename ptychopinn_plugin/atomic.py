"""Files that are whole or absent: written beside the target, synced, then renamed over it."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError, explain

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `target` (beside what it links to) that replaces it on success
    and is else removed.

    Raises `OutputError` when the folder is missing or not writable, or the disk is full.
    """
    with atomic_paths(target) as (part,):
        yield part


@contextmanager
def atomic_paths(*targets: str | os.PathLike[str]) -> Iterator[list[Path]]:
    """Do the same for files that belong together: none is replaced before all are on the disk.

    Once the first is replaced, what is still to be renamed stays whatever happens: it is whole, and
    without it the first would be alone.
    """
    paths = [behind(target) for target in targets]
    target, parts, begun = paths[0], [], False
    try:
        for target in paths:
            parts.append(_begun(target))
        yield parts
        for part in parts:
            with part.open('rb+') as stream:
                os.fsync(stream.fileno())
        for target, part in zip(paths, parts, strict=True):
            os.replace(part, target)
            begun = True
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(_cannot_write(target, error)) from error
    finally:
        for part in () if begun else parts:
            part.unlink(missing_ok=True)


def behind(target: str | os.PathLike[str]) -> Path:
    """Return what a symbolic link leads to, and any other path as it is: a link stays a link."""
    return Path(os.path.realpath(target) if os.path.islink(target) else target)


def _begun(target: Path) -> Path:
    if target.is_dir():
        raise OutputError(
            explain('The output is a folder', expected='a file name', received=str(target))
        )
    # Cut: the longer temporary name must fit where the target's name only just does.
    stem, suffix = target.name[:50], target.suffix[:20]
    part = target.parent / f'.{stem}.{secrets.token_hex(4)}.part{suffix}'
    part.touch(exist_ok=False)  # unlike mkstemp, with the permissions the umask grants
    return part


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where it is not there. Raises `OutputError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(_cannot_write(folder, error)) from error


@contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """Turn what a library says of a full disk into an `OutputError` that names the folder."""
    try:
        yield
    except OSError as error:
        if isinstance(error, OutputError) or error.errno not in FULL:
            raise
        raise OutputError(_cannot_write(folder, error)) from error


def _cannot_write(target: Path, error: OSError) -> str:
    return explain(
        f'Cannot write {target}',
        expected='an existing, writable folder with free space',
        received=error.strerror or str(error),
        cure='Choose another output',
    )
