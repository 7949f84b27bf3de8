"""What a run leaves behind: child processes, threads, temporary files."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from unittest import mock

import psutil  # type: ignore[import-untyped]

GRACE_S = 1.0  # what was told to end may take as long


@contextmanager
def traces(kept: Sequence[str] = ()) -> Iterator[list[str]]:
    """Yield a list that has, after the block, what of it outlives the block, one line each.

    Temporary files go to a folder of the block's own, so that nobody else's are counted; those
    that match a pattern in `kept` are not counted either.
    """
    left: list[str] = []
    with tempfile.TemporaryDirectory(prefix='contract-') as folder:
        before = _processes() | _threads()
        with (
            mock.patch.dict(os.environ, {'TMPDIR': folder}),
            mock.patch.object(tempfile, 'tempdir', folder),
        ):
            yield left
        left.extend(sorted(_left(before, Path(folder), kept)))


def _left(before: set[str], folder: Path, kept: Sequence[str]) -> set[str]:
    """Return what is new and does not go within the time of grace."""
    end = time.monotonic() + GRACE_S
    while True:
        left = (_processes() | _threads()) - before | _files(folder, kept)
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.05)


def _files(folder: Path, kept: Sequence[str]) -> set[str]:
    names = {path.name for path in folder.iterdir()}
    return {f'file {n}' for n in names if not any(fnmatch(n, pattern) for pattern in kept)}


def _threads() -> set[str]:
    return {f'thread {t.name} ({t.ident})' for t in threading.enumerate()}


def _processes() -> set[str]:
    """Return the running descendants of this process."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            if child.status() != psutil.STATUS_ZOMBIE:
                found.add(f'process {child.pid} ({child.name()})')
        except psutil.NoSuchProcess:
            continue
    return found
