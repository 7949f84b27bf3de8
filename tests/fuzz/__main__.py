"""Fuzz the readers: `python -m fuzz --inputs 100000 npz hdf5`, from the folder `tests`.

Goes on where it was ended, and keeps what failed in STATE/failures. Exit code 1 when there is any.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from .child import LAST
from .readers import put
from .seeds import READERS

BATCH = 5_000  # then a fresh child: what leaks is seen, and stays small
WALL_S = 30.0  # of silence, with the processor at work or not
HANG_S, MEMORY_KIB = 5.0, 2**20
MOST_KEPT = 40
FIELDS: dict[str, Any] = {
    'inputs': 0, 'outcomes': {}, 'crashes': 0, 'hangs': 0, 'slowest': 0.0, 'peak_kib': 0,
    'seconds': 0.0, 'guided': 0, 'child': 0, 'deaths': 0,
}  # fmt: skip


def main() -> int:
    """Fuzz, print the table, return the exit code."""
    parser = argparse.ArgumentParser(prog='fuzz', description=__doc__)
    parser.add_argument('readers', nargs='*', metavar='READER', help=', '.join(READERS))
    parser.add_argument('--inputs', type=int, default=100_000, help='in all, per reader')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--state', type=Path, default=Path('fuzz-state'))
    parser.add_argument('--guided', action='store_true', help='let Atheris choose by coverage')
    parser.add_argument('--replay', type=Path, help='read one kept input, without limits')
    parser.add_argument('--table', action='store_true', help='only print the table')
    options = parser.parse_args()
    if unknown := set(options.readers) - set(READERS):
        parser.error(f'unknown readers: {", ".join(sorted(unknown))}')
    if options.replay:
        return _replay(options.replay)
    if options.guided and importlib.util.find_spec('atheris') is None:
        parser.error('Atheris is not installed: pip install atheris')
    options.state.mkdir(parents=True, exist_ok=True)
    chosen = options.readers or READERS
    for reader in () if options.table else chosen:
        _fuzz(reader, options)
        print(_row(reader, _load(options.state, reader)), flush=True)
    totals = {reader: _load(options.state, reader) for reader in chosen}
    print(_HEAD)
    for reader, total in totals.items():
        print(_row(reader, total))
    return int(any(_failed(total) for total in totals.values()))


def _fuzz(reader: str, options: argparse.Namespace) -> None:
    """Read inputs until there are as many as asked for, in one child after the other."""
    total = _load(options.state, reader)
    while total['inputs'] < options.inputs:
        count = min(BATCH, options.inputs - total['inputs'])
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix='fuzz-', dir=_memory()) as folder:
            place = Path(folder) / 'inputs'
            place.mkdir()
            kept = options.state.resolve() / f'{reader}.corpus'
            kept.mkdir(exist_ok=True)
            (place.parent / f'{reader}.corpus').symlink_to(kept)
            _run(reader, place, total, count, options)
        total['seconds'] += time.monotonic() - start
        _save(options.state, reader, total)


def _run(
    reader: str, folder: Path, total: dict[str, Any], count: int, options: argparse.Namespace
) -> None:
    again = options.state.resolve() / f'{reader}.again'  # the input that killed the last child
    arguments = {
        'again': str(again) if again.exists() else '',
        'reader': reader, 'folder': str(folder), 'seed': options.seed, 'first': total['inputs'],
        'count': count, 'guided': options.guided,
    }  # fmt: skip
    module = 'fuzz.guided' if options.guided else 'fuzz.child'
    log = folder.parent / 'stderr'
    with (
        log.open('wb') as errors,
        subprocess.Popen(
            [sys.executable, '-m', module, json.dumps(arguments)],
            stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, start_new_session=True,
        ) as child,
    ):  # fmt: skip
        assert child.stdout is not None
        base, done, hung, text = 0, 0, False, b''
        while True:
            ready, _, _ = select.select([child.stdout], [], [], WALL_S)
            if not ready:
                hung = True
                child.kill()
                break
            heard = os.read(child.stdout.fileno(), 2**16)
            if not heard:
                break
            *lines, text = (text + heard).split(b'\n')
            for line in lines:
                outcome, took, peak, detail = json.loads(line)
                base = base or peak
                done += 1
                total['child'] = done
                _count(total, outcome, took, peak - base)
                if outcome.startswith('!') or took > HANG_S:
                    _keep(reader, folder, options.state, outcome, detail, total)
        code = child.wait()
    total['guided'] += done if options.guided else 0
    if done and arguments['again']:
        again.unlink()
    if done >= count and code == 0:
        return
    if not hung and code > 0:  # a fault of the fuzzer, not of what it reads
        raise SystemExit(f'The child failed:\n{log.read_text()[-3000:]}')
    total['child'] = done + 1
    hung = hung or code == -signal.SIGXCPU
    if done or not arguments['again']:
        # It was read without the copy that protects the product: now with it.
        total['deaths'] += 1
        shutil.copyfile(folder.parent / LAST, again)
        _keep(reader, folder, options.state, '! death', why_of(hung, code, log), total)
        return
    again.unlink()
    total['hangs' if hung else 'crashes'] += 1
    total['inputs'] += 1
    _keep(
        reader,
        folder,
        options.state,
        '! hang' if hung else '! crash',
        why_of(hung, code, log),
        total,
    )


def why_of(hung: bool, code: int, log: Path) -> str:
    """Return how a child ended."""
    how = 'hang' if hung else 'crash'
    return f'{how}, exit code {code}\n{log.read_text(errors="replace")[-2000:]}'


def _count(total: dict[str, Any], outcome: str, took: float, grown: int) -> None:
    total['inputs'] += 1
    outcomes = Counter(total['outcomes'])
    outcomes[outcome] += 1
    total['outcomes'] = dict(outcomes)
    total['slowest'] = max(total['slowest'], took)
    total['peak_kib'] = max(total['peak_kib'], grown)


def _keep(
    reader: str, folder: Path, state: Path, outcome: str, why: str, total: dict[str, Any]
) -> None:
    """Keep an input and why; of one kind no more than a few."""
    kind = outcome.strip('! ').replace(' ', '-')
    target = state / 'failures'
    target.mkdir(exist_ok=True)
    if len([*target.glob(f'{reader}-{kind}-*.txt')]) >= MOST_KEPT:
        return
    name = f'{reader}-{kind}-{total["inputs"]:07d}'
    (target / f'{name}.txt').write_text(why)
    # The child goes on where it lives, so it puts by what it is told about.
    failed = folder.parent / f'failed-{kind}-{total["child"]}'
    shutil.copyfile(failed if failed.exists() else folder.parent / LAST, target / f'{name}.input')


def _replay(kept: Path) -> int:
    """Read a kept input as the fuzzer did; whatever it raises is shown."""
    import faulthandler

    from .readers import read, turn_of

    faulthandler.enable()
    reader, data = kept.name.split('-')[0], kept.read_bytes()
    with tempfile.TemporaryDirectory(prefix='fuzz-') as folder:
        path = put(reader, data, Path(folder))
        for turn in (turn_of(data), 0, 1, 2, 3):
            print(turn % 4, read(reader, path, turn), flush=True)
    return 0


def _failed(total: dict[str, Any]) -> int:
    strange = sum(n for kind, n in total['outcomes'].items() if kind.startswith('!'))
    slow = total['slowest'] > HANG_S or total['peak_kib'] > MEMORY_KIB
    return int(total['crashes'] + total['hangs'] + strange + slow)


_HEAD = (
    '| reader | inputs | guided | read | refused '
    '| other errors | survived '
    '| crashes | hangs | slowest | memory |'
    '\n|---|---|---|---|---|---|---|---|---|---|---|'
)


def _row(reader: str, total: dict[str, Any]) -> str:
    outcomes = total['outcomes']
    refused = {k: n for k, n in outcomes.items() if not k.startswith('!') and k != 'read'}
    strange = {k: n for k, n in outcomes.items() if k.startswith('!')}
    shown = ', '.join(f'{k} {n}' for k, n in sorted(refused.items())) or '0'
    others = ', '.join(f'{k[2:]} {n}' for k, n in sorted(strange.items())) or '0'
    cells = (
        reader, total['inputs'], total['guided'], outcomes.get('read', 0), shown, others,
        total['deaths'], total['crashes'], total['hangs'], f'{total["slowest"]:.2f} s',
        f'{total["peak_kib"] / 1024:.0f} MiB',
    )  # fmt: skip
    return f'| {" | ".join(map(str, cells))} |'


def _memory() -> str | None:
    return '/dev/shm' if os.access('/dev/shm', os.W_OK) else None


def _load(state: Path, reader: str) -> dict[str, Any]:
    file = state / f'{reader}.json'
    return {**FIELDS, **(json.loads(file.read_text()) if file.exists() else {})}


def _save(state: Path, reader: str, total: dict[str, Any]) -> None:
    (state / f'{reader}.json').write_text(json.dumps(total))


if __name__ == '__main__':
    sys.exit(main())
