"""The process that reads inputs, under limits; it tells each outcome in a line.

Run by `python -m fuzz`. What it reads may kill it: the input then still lies in its folder.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import logging
import mmap
import os
import random
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ptychopinn_plugin import apart, mapped

from .mutations import OUTSIDE, mutate, trust
from .readers import WHO, put, read, took_s, turn_of
from .seeds import seeds

CPU_S, BARE_CPU_S = 5, 1
# Every so many inputs are read as the product reads them, in a copy of the process; the others,
# much faster, in this process. What kills it is read again in a copy.
IN_COPY = 50
# One input in two has its arrays kept on the disk, as large ones are.
LARGE = ((mapped.LARGE_BYTES, apart.MAY_BE_LARGE), (500, 0))
EXTRA_BYTES = 1_500 * 2**20
CORPUS = 400
LAST = 'last'
FORBIDDEN = (
    'pickle.find_class', 'subprocess.Popen', 'os.system', 'os.exec', 'os.posix_spawn',
    'socket.connect', 'socket.bind',
)  # fmt: skip


class Guard:
    """Notes what no reader may do: pickles, processes, sockets, writes elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.on = str(folder), False
        self._seen = mmap.mmap(-1, 512)  # shared with the copies of this process
        sys.addaudithook(self._hook)

    @property
    def seen(self) -> str:
        return bytes(self._seen).split(b'\0')[0].decode(errors='replace')

    @seen.setter
    def seen(self, text: str) -> None:
        data = text.encode(errors='replace')[:511]
        self._seen[: len(data) + 1] = data + b'\0'

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in FORBIDDEN:
            self.seen = f'{event} {args!r}'[:300]
        elif event == 'open' and isinstance(args[0], (str, bytes, os.PathLike)):
            mode, flags = args[1] or '', args[2] or 0
            writes = any(c in str(mode) for c in 'wax+') or flags & (os.O_WRONLY | os.O_RDWR)
            nameless = os.path.isdir(args[0])  # a temporary file in it: nothing else opens so
            if (
                args[0] != os.devnull
                and writes
                and not nameless
                and not os.path.abspath(os.fsdecode(args[0])).startswith(self.folder)
            ):
                self.seen = f'writes {args[0]!r}'
        elif event in ('os.remove', 'os.rename', 'os.mkdir', 'os.rmdir', 'os.symlink', 'os.chmod'):
            where = os.path.abspath(os.fsdecode(args[0]))
            self.seen = self.seen if where.startswith(self.folder) else f'{event} {where}'


class Reading:
    """Reads one input after the other and writes a line for each."""

    def __init__(self, reader: str, folder: Path, out: int) -> None:
        self.reader, self.folder, self.out = reader, folder, out
        self.guard = Guard(folder)
        self.number = 0
        os.chdir(folder)
        if not (folder / OUTSIDE).exists():
            os.mkfifo(folder / OUTSIDE)

    def one(self, data: bytes, *, again: bool = False) -> str:
        """Read an input; return where it ended, which tells new behaviour from known."""
        self.number += 1
        (self.folder.parent / LAST).write_bytes(data)
        path = put(self.reader, data, self.folder)
        place = path if path.is_dir() else self.folder
        if path.is_dir() and not (path / OUTSIDE).exists():
            os.mkfifo(path / OUTSIDE)
        before = set(os.listdir(place))
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = int(used.ru_utime + used.ru_stime)
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        turn = turn_of(data)
        apart._inside = not again and turn // 8 % IN_COPY > 0
        mapped.LARGE_BYTES, apart.MAY_BE_LARGE = LARGE[turn // 512 % 2]
        most = BARE_CPU_S if apart._inside else CPU_S
        resource.setrlimit(resource.RLIMIT_CPU, (spent + most + 1, hard))
        self.guard.on, self.guard.seen = True, ''
        text = ''
        try:
            outcome = read(self.reader, path, turn)
        except BaseException as error:  # noqa: BLE001 - whatever is no refusal is a finding
            outcome = f'! {type(error).__name__}'
            text = ''.join(traceback.format_exception(error))[-3000:]
        took = max(took_s)
        self.guard.on = False
        if self.guard.seen:
            outcome, text = '! forbidden', self.guard.seen
        if extra := set(os.listdir(place)) - before:
            outcome, text = '! wrote', ', '.join(sorted(extra))
        peak = max(resource.getrusage(who).ru_maxrss for who in WHO)
        if outcome.startswith('!') or took > CPU_S:
            kind = outcome.strip('! ').replace(' ', '-')
            (self.folder.parent / f'failed-{kind}-{self.number}').write_bytes(data)
        line = json.dumps([outcome, round(took, 4), peak, text])
        os.write(self.out, line.encode() + b'\n')
        return outcome + Trace.last


class Trace:
    """Remembers, through the constructor of errors, from where a refusal came."""

    last = ''

    @classmethod
    def install(cls) -> None:
        """Watch every `PluginError`."""
        from ptychopinn_plugin import errors

        def made(self: Any, *args: Any) -> None:
            frame, steps = sys._getframe(1), []
            while frame is not None and len(steps) < 6:
                steps.append(f'{frame.f_code.co_name}:{frame.f_lineno}')
                frame = frame.f_back  # type: ignore[assignment]
            cls.last = '/'.join(steps)
            Exception.__init__(self, *args)

        errors.PluginError.__init__ = made  # type: ignore[method-assign,assignment]


def limit() -> None:
    """Take no more address space than now and `EXTRA_BYTES`; leave no core file."""
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    most = pages * resource.getpagesize() + EXTRA_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def inputs(reader: str, seed: int, first: int, corpus: list[bytes]) -> Iterator[bytes]:
    """Yield hostile inputs for ever, from number `first` on; `corpus` may grow meanwhile."""
    valid = tuple(seeds(reader))
    for data in valid:
        trust(data)
    for number in itertools.count(first):
        key = hashlib.sha256(f'{seed}/{reader}/{number}'.encode()).digest()
        rng = random.Random(key)
        data = rng.choice(valid if rng.random() < 0.6 else corpus)
        for _ in range(rng.choice((1, 1, 1, 1, 1, 2, 3))):
            data = mutate(reader, data, rng.choice(corpus), rng)
        yield data


def main(
    reader: str, folder: Path, seed: int, first: int, count: int, guided: bool, again: str
) -> None:
    """Read `count` inputs, from number `first` on."""
    logging.disable(logging.CRITICAL)
    Trace.install()
    out = os.dup(1)
    os.dup2(2, 1)
    reading = Reading(reader, folder, out)
    corpus = seeds(reader)
    kept = folder.parent / f'{reader}.corpus'
    kept.mkdir(exist_ok=True)
    corpus += [p.read_bytes() for p in sorted(kept.iterdir())]
    for data in seeds(reader):
        read(reader, put(reader, data, folder), 3)  # imports, before the limit
    limit()
    gc.freeze()
    if again:
        reading.one(Path(again).read_bytes(), again=True)
    if guided:
        _guided(reading, corpus, seed + first, count, kept)
        return
    known: set[str] = set()
    for data in inputs(reader, seed, first, corpus):
        Trace.last = ''
        new = reading.one(data)
        if new not in known:
            known.add(new)
            if len(corpus) < CORPUS and len(data) < 200_000:
                corpus.append(data)
                (kept / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        if reading.number >= count:
            return


def run(arguments: str) -> None:
    """Call `main` with arguments in JSON."""
    values = json.loads(arguments)
    main(**{**values, 'folder': Path(values['folder'])})


def _guided(reading: Reading, corpus: list[bytes], seed: int, count: int, kept: Path) -> None:
    """Let Atheris choose by the branches of the package that an input reaches."""
    import atheris

    for data in corpus:
        (kept / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)

    def change(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        return mutate(reading.reader, data, rng.choice(corpus), rng)[:most]

    flags = ['segv', 'abrt', 'bus', 'fpe', 'ill', 'xfsz', 'int', 'term']
    most = max(map(len, corpus)) * 2
    one: Callable[[bytes], Any] = reading.one
    atheris.Setup(
        ['fuzz', f'-runs={count}', f'-seed={seed % 2**31 + 1}', f'-max_len={most}', '-verbosity=0',
         '-rss_limit_mb=0', '-timeout=0', '-len_control=0', *(f'-handle_{f}=0' for f in flags),
         str(kept)],
        one, custom_mutator=change,
    )  # fmt: skip
    atheris.Fuzz()


if __name__ == '__main__':
    run(sys.argv[1])
