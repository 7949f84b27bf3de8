"""Files that are whole or absent: written beside the target, synced, then renamed over it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError, explain


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it replaces `target`, on any exception it is removed.

    Raises `OutputError` when the folder is missing or not writable, or the disk is full.
    """
    target = Path(target)
    if target.is_dir():
        raise OutputError(
            explain('The output is a folder', expected='a file name', received=str(target))
        )
    try:
        handle, name = tempfile.mkstemp(
            prefix=f'.{target.name}.', suffix=f'.part{target.suffix}', dir=target.parent
        )
    except OSError as error:
        raise OutputError(_cannot_write(target, error)) from error
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open('rb+') as stream:
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        os.replace(part, target)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(_cannot_write(target, error)) from error
    finally:
        part.unlink(missing_ok=True)


def _cannot_write(target: Path, error: OSError) -> str:
    return explain(
        f'Cannot write {target}',
        expected='an existing, writable folder with free space',
        received=error.strerror or str(error),
        cure='Choose another output',
    )
