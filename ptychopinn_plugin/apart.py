"""Reading in a copy of this process, so that a file that kills the reader kills only the copy.

libhdf5 and the filters of detectors are written in C, and some damaged files make them crash, write
where they should not, or never end. The copy is a fork: it costs milliseconds, has limits of
memory and time, no open files of this process and nothing to say but numbers: arrays come back in
shared memory and the rest as JSON. Where there is no fork (Windows) or it is not safe (macOS), the
file is read in this process, as anybody would.
"""

from __future__ import annotations

import builtins
import ctypes
import errno
import gc
import json
import logging
import mmap
import os
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

import numpy as np

from . import errors, mapped
from .atomic import FULL
from .errors import DataError, PluginError, WorkerError, explain
from .result import ObjectImage
from .scan import Array, Frame, Geometry, Scan

T = TypeVar('T')

AVAILABLE = sys.platform == 'linux'
# For a file of no size; beyond that by its size, since honest files take memory and time too.
MEMORY_BYTES, BYTES_PER_BYTE = 896 * 2**20, 400
CPU_S, BYTES_PER_S = 4.0, 2 * 2**20
WALL_S, WALL_PER_CPU = 20.0, 4.0
CHUNK = 2**30
MAY_BE_LARGE = 2**20  # bytes of a file that may hold what is kept on the disk
PR_SET_PDEATHSIG = 1  # linux/prctl.h
ALIGN = 64
KINDS: tuple[type, ...] = (Scan, Frame, Geometry, ObjectImage)

_inside = False


def apart(
    read: Callable[[], T],
    size_bytes: int,
    *,
    name: str,
    kind: type[PluginError] = DataError,
    kinds: Sequence[type] = (),
    files: Sequence[Path] = (),
) -> T:
    """Return what `read` returns, read in a copy of this process; its errors are raised here.

    `size_bytes` is the size of the files, `name` what messages call them. `read` returns arrays,
    plain values, containers of them, and the dataclasses `KINDS` and `kinds`; what is mapped from
    one of `files` is mapped here again. Where the copy dies, an error of `kind` says so.
    """
    if not AVAILABLE or _inside:
        return read()
    import h5py  # noqa: F401 - loaded once here rather than in every copy
    import hdf5plugin  # noqa: F401

    cpu_s = CPU_S + size_bytes / BYTES_PER_S
    with ExitStack() as stack:
        memory = os.memfd_create('ptychopinn-plugin', os.MFD_CLOEXEC)
        stack.callback(os.close, memory)
        disk = stack.enter_context(_disk()).fileno() if size_bytes > MAY_BE_LARGE else -1
        heard, said = os.pipe()
        parent = os.getpid()
        with warnings.catch_warnings():
            # Threads that the copy lacks hold no lock that reading takes.
            warnings.simplefilter('ignore', DeprecationWarning)
            child = os.fork()
        if child == 0:
            _child(read, parent, memory, disk, said, size_bytes, cpu_s)
        os.close(said)
        text, how = _listen(child, heard, WALL_S + WALL_PER_CPU * cpu_s)
        answer = _parsed(text)
        if not isinstance(answer, dict) or not answer.keys() & {'value', 'error'}:
            raise kind(_explained(name, answer if isinstance(answer, dict) else {}, how))
        made = _Made(answer, memory, disk, {str(f) for f in files}, (*KINDS, *kinds))
        found: T = made.value(answer['value'])
        return found


def _disk() -> IO[bytes]:
    return tempfile.TemporaryFile(prefix='ptychopinn-')


def size_of(*files: Path | None) -> int:
    """Return the bytes of the files that are there."""
    return sum(f.stat().st_size for f in files if f is not None and f.is_file())


# --- in the copy ----------------------------------------------------------------------------------


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append((record.name, record.levelno, record.getMessage()))


def _child(
    read: Callable[[], Any],
    parent: int,
    memory: int,
    disk: int,
    said: int,
    size_bytes: int,
    cpu_s: float,
) -> NoReturn:
    code = 1
    try:
        gc.disable()  # nothing of the parent is finalised here
        _end_with(parent)
        limited = _confine((memory, disk, said), size_bytes, cpu_s)
        if disk >= 0:
            mapped.give(disk)
        answer = json.dumps(_answer(read, memory, disk, limited)).encode()
        while answer:
            answer = answer[os.write(said, answer) :]
        code = 0
    finally:
        os._exit(code)  # whatever it was: the parent sees that nothing was said


def _end_with(parent: int) -> None:
    """Let the system end this process when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _confine(open_files: Sequence[int], size_bytes: int, cpu_s: float) -> bool:
    """Set the limits of the copy, and return whether files must stay smaller than it wants."""
    global _inside
    import resource

    _inside = True
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGXCPU, signal.SIGSEGV, signal.SIGABRT):
        signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    kept = sorted(f for f in open_files if f >= 0)
    ends = [*kept, max(os.sysconf('SC_OPEN_MAX'), kept[-1] + 4096)]
    for before, after in zip([2, *kept], ends, strict=True):
        os.closerange(before + 1, after)
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    most = MEMORY_BYTES + BYTES_PER_BYTE * size_bytes
    limits = {
        resource.RLIMIT_AS: pages * mmap.PAGESIZE + most,
        resource.RLIMIT_FSIZE: most,
        resource.RLIMIT_CPU: max(int(cpu_s), 1),
        resource.RLIMIT_CORE: 0,
    }
    for what, wanted in limits.items():
        soft, hard = resource.getrlimit(what)
        limit = min([wanted, *(x for x in (soft, hard) if x != resource.RLIM_INFINITY)])
        resource.setrlimit(what, (limit, hard))
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] < most


def _answer(read: Callable[[], Any], memory: int, disk: int, limited: bool) -> dict[str, Any]:
    own, handler = logging.getLogger('ptychopinn_plugin'), _Records()
    own.handlers, own.propagate = [handler], False
    arrays: list[Array] = []
    answer: dict[str, Any] = {'log': handler.records}
    try:
        answer['value'] = _flat(read(), arrays, has_disk=disk >= 0)
    except PluginError as error:
        return {**answer, 'error': [type(error).__name__, str(error), '']}
    except MemoryError:
        return {'no_memory': True}
    except SystemError:  # C code that ran out of memory and did not say so: as good as a crash
        os._exit(1)
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        return {**answer, 'error': [type(error).__name__, str(error), traceback.format_exc()]}
    answer['arrays'], at = [], 0
    try:
        for array in arrays:
            answer['arrays'].append([at, array.dtype.str, array.shape])
            at = _put(memory, np.ascontiguousarray(array), at)
        os.ftruncate(memory, at)
    except OSError as error:
        if error.errno not in FULL:
            raise
        own_limit = error.errno == errno.EFBIG and not limited
        return {'no_memory': True} if own_limit else {'no_room': error.strerror}
    return answer


def _put(memory: int, array: Array, at: int) -> int:
    data = array.reshape(-1).view(np.uint8).data if array.nbytes else memoryview(b'')
    done = 0
    while done < len(data):
        done += os.pwrite(memory, data[done : done + CHUNK], at + done)
    return at + -(-done // ALIGN) * ALIGN


def _flat(value: Any, arrays: list[Array], *, has_disk: bool) -> Any:
    """Return a value as JSON; arrays are numbered and left in `arrays`, but what lies on the disk
    already is said by its place.
    """

    def flat(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            place = mapped.place_of(value)
            if place is not None and (place[0] or has_disk):
                return {'mapped': [*place, value.dtype.str, value.shape]}
            arrays.append(value)
            return {'array': len(arrays) - 1}
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, tuple):
            return {'tuple': [flat(v) for v in value]}
        if isinstance(value, list):
            return [flat(v) for v in value]
        if isinstance(value, Mapping):
            return {'dict': [[str(k), flat(v)] for k, v in value.items()]}
        if is_dataclass(value):
            found = {f.name: flat(getattr(value, f.name)) for f in fields(value)}
            return {'kind': type(value).__name__, 'fields': found}
        return value

    return flat(value)


# --- in this process ------------------------------------------------------------------------------


def _listen(child: int, heard: int, wall_s: float) -> tuple[bytes, str]:
    """Return what the copy said, and how it ended where that is no answer; it has ended in any
    case.
    """
    text, deadline, in_time, status = bytearray(), time.monotonic() + wall_s, True, 0
    try:
        while True:
            ready, _, _ = select.select([heard], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                in_time = False
                break
            part = os.read(heard, 2**16)
            if not part:
                break
            text += part
    finally:
        os.close(heard)
        if not in_time or sys.exc_info()[0] is not None:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    who = next((s.name for s in signal.Signals if s == by), f'signal {by}' if by else 'it')
    too_long = not in_time or by == signal.SIGXCPU
    how = 'it took too long' if too_long else f'{who} ended the process that read it'
    return (bytes(text) if status == 0 else b''), how


def _explained(name: str, answer: Mapping[str, Any], how: str) -> str:
    """Return why there is no answer: for want of room, or else by the fault of the file."""
    no_room = how if how.startswith(signal.SIGXFSZ.name) else answer.get('no_room')
    if no_room:
        return explain(
            f'{name}: There is no room for what was read',
            received=f'{no_room}: a limit of file sizes (ulimit -f) or a disk quota',
            cure='Raise it or free space, and try again',
        )
    if 'no_memory' in answer:
        how = 'it needs more memory than a file of its size may'
    return explain(
        f'{name}: The file is damaged or made to do harm', received=how, cure='Copy it again'
    )


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _error(name: str, text: str, trace: str) -> Exception:
    kind: Any = getattr(errors, name, None) or getattr(builtins, name, RuntimeError)
    error: Exception = kind(text)
    if trace:
        error.add_note(trace)
    return error


class _Made:
    """What the copy said, as values. Raises what the copy raised."""

    def __init__(
        self,
        answer: Mapping[str, Any],
        memory: int,
        disk: int,
        files: set[str],
        kinds: Sequence[type],
    ) -> None:
        for name, level, text in answer['log']:
            logging.getLogger(name).log(level, '%s', text)
        if 'error' in answer:
            raise _error(*answer['error'])
        self._disk, self._files = disk, files
        self._kinds = {c.__name__: c for c in kinds}
        size = os.fstat(memory).st_size
        shared = mmap.mmap(memory, size) if size else bytearray()
        self._arrays = [
            np.ndarray(tuple(shape), np.dtype(dtype), shared, at)
            if np.prod(shape, dtype=object) * np.dtype(dtype).itemsize
            else np.empty(tuple(shape), np.dtype(dtype))
            for at, dtype, shape in answer['arrays']
        ]  # fmt: skip

    def value(self, said: Any) -> Any:
        """Return the value of its JSON."""
        if isinstance(said, list):
            return [self.value(v) for v in said]
        if not isinstance(said, dict):
            return said
        if 'array' in said:
            return self._arrays[said['array']]
        if 'mapped' in said:
            return self._mapped(*said['mapped'])
        if 'tuple' in said:
            return tuple(self.value(v) for v in said['tuple'])
        if 'dict' in said:
            return {k: self.value(v) for k, v in said['dict']}
        # As it was checked there: checking gigabytes twice would be felt.
        made: Any = object.__new__(self._kinds[said['kind']])
        for key, field in said['fields'].items():
            object.__setattr__(made, key, self.value(field))
        return made

    def _mapped(self, path: str, offset: int, dtype: str, shape: list[int]) -> Array:
        if not path:
            return mapped.of_file(self._disk, tuple(shape), np.dtype(dtype), offset)
        if path not in self._files:
            raise WorkerError(f'A file that nobody asked for: {path}')
        with open(path, 'rb') as file:
            return mapped.of_file(file.fileno(), tuple(shape), np.dtype(dtype), offset, path)
