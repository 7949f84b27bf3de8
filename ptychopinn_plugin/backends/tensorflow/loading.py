"""Import TensorFlow sooner and without its greeting.

Its C++ side writes to file descriptor 2 before any level can be set, with oneDNN on two lines per
library: only these lines are dropped, everything else passes at once. Keras, which nothing here
uses, takes 1.6 of the 4 seconds of the import; it still loads when somebody asks for `tf.keras`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

KERAS = 'TF_USE_LEGACY_KERAS'
GREETINGS = (b'All log messages before absl::InitializeLog()', b'oneDNN custom operations are on.')


@contextmanager
def without_greeting() -> Iterator[None]:
    """Pass what is written to file descriptor 2 through, line by line, but for the greeting."""
    try:
        kept = os.dup(2)
    except OSError:  # a process without a terminal may have closed it
        yield
        return
    _flush()
    inlet, outlet = os.pipe()
    os.dup2(outlet, 2)
    os.close(outlet)
    reader = Thread(target=_pass_on, args=(inlet, kept), name='tensorflow-greeting', daemon=True)
    reader.start()
    try:
        yield
    finally:
        _flush()
        os.dup2(kept, 2)  # closes the pipe's last writing end: the reader ends
        reader.join(5)
        os.close(kept)


@contextmanager
def without_keras() -> Iterator[None]:
    """Make TensorFlow look for the old Keras while it loads, so that it does not load the new."""
    if KERAS in os.environ:
        yield
        return
    os.environ[KERAS] = '1'
    try:
        yield
    finally:
        del os.environ[KERAS]


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()


def _pass_on(inlet: int, out: int) -> None:
    with open(inlet, 'rb', buffering=0) as stream:
        rest = b''
        while chunk := stream.read(1 << 16):
            *lines, rest = (rest + chunk).split(b'\n')
            for line in lines:
                _write(out, line + b'\n')
        _write(out, rest)


def _write(out: int, line: bytes) -> None:
    if line and not any(g in line for g in GREETINGS):
        os.write(out, line)
