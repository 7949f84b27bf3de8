"""The folder of a training: what it may be resumed from, with which settings, and by one at a
time.
"""

from __future__ import annotations

import csv
import errno
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..atomic import atomic_path, make_folder
from ..config import ModelConfig, TrainingConfig
from ..errors import BackendUnavailableError, ConfigError, OutputError, TrainingError, explain
from ..result import Epoch

logger = logging.getLogger(__name__)

# The file from which each back end goes on; none reads another's.
RESUME_FILES = {'torch': 'last.ckpt', 'tensorflow': 'last.npz'}
SETTINGS, LOCK, LOG = 'settings.json', '.lock', 'csv/metrics.csv'
MAY_CHANGE = {'epochs', 'patience', 'logger'}  # in a training that is resumed
HELD = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}  # by another


def check_logger(name: str) -> None:
    """Raise `BackendUnavailableError` unless the logger is installed."""
    if name != 'csv' and find_spec(name) is None:
        raise BackendUnavailableError(
            explain(f'The logger {name} is not installed', cure=f'Run: pip install {name}')
        )


def check_resumable(folder: Path, name: str, model: ModelConfig, training: TrainingConfig) -> None:
    """Raise `ConfigError` unless back end `name` can go on with the training in `folder`, which had
    these settings.
    """
    if not (folder / RESUME_FILES[name]).is_file():
        raise ConfigError(_nothing_to_resume(folder, name))
    before, now = _remembered(folder), _settings(model, training)
    other = [k for k in now if k in before and before[k] != now[k]]
    if other:
        raise ConfigError(
            explain(
                'The training to resume had other settings',
                expected=', '.join(f'{k}={before[k]!r}' for k in other),
                received=', '.join(f'{k}={now[k]!r}' for k in other),
                cure='Give the same, or start from its model file with --initial: the optimizer '
                'then begins afresh',
            )
        )


@contextmanager
def training_folder(folder: Path, model: ModelConfig, training: TrainingConfig) -> Iterator[None]:
    """Hold a folder, made if it is not there, for a training with these settings; the system lets
    go of it with the process, however that ends. Raises `OutputError` where another holds it.
    """
    make_folder(folder)
    with open(folder / LOCK, 'ab') as stream:
        try:
            _lock(stream.fileno())
        except OSError as error:
            if error.errno in HELD:
                raise OutputError(
                    explain(
                        'Another training writes to this folder',
                        expected='one at a time',
                        received=str(folder),
                        cure='Wait until it ends, stop it, or let this one write elsewhere',
                    )
                ) from error
            logger.info('%s cannot be locked (%s): let nothing else write there', folder, error)
        with atomic_path(folder / SETTINGS) as part:
            part.write_text(json.dumps(_settings(model, training), indent=1))
        yield


def ended_by(reason: Exception, best: Path) -> str:
    """Return why a training ended before its time. Raises `TrainingError` where there is no best
    checkpoint.
    """
    if not best.is_file():
        raise TrainingError(
            f'{str(reason) or "Stopped"} (before the first epoch had finished)'
        ) from reason
    ended = str(reason) or 'stopped'
    logger.warning('%s; the best model so far is kept', ended)
    return ended


def log_epochs(folder: Path, history: Sequence[Epoch]) -> None:
    """Write the epochs to a CSV file, those before a resume included."""
    file = folder / LOG
    make_folder(file.parent)
    with atomic_path(file) as part, part.open('w', newline='') as stream:
        writer = csv.writer(stream)
        writer.writerow(vars(history[0]))
        writer.writerows(vars(epoch).values() for epoch in history)


def _nothing_to_resume(folder: Path, name: str) -> str:
    others = [k for k, file in RESUME_FILES.items() if (folder / file).is_file()]
    cure = 'Train without resume'
    if others:
        cure = (
            f'Choose the back end {others[0]}, or start from its model file with --initial: the '
            'optimizer then begins afresh'
        )
    return explain(
        f'There is no training of {name} to resume',
        expected=str(folder / RESUME_FILES[name]),
        received=f'a training of {others[0]}' if others else '',
        cure=cure,
    )


def _settings(model: ModelConfig, training: TrainingConfig) -> dict[str, Any]:
    given = {**asdict(model), **asdict(training)}
    return {k: v for k, v in given.items() if k not in MAY_CHANGE}


def _remembered(folder: Path) -> dict[str, Any]:
    """Return the settings of the training in a folder, none where they are not there or spoiled."""
    try:
        found = json.loads((folder / SETTINGS).read_text())
    except (FileNotFoundError, ValueError):
        found = None
    if isinstance(found, dict):
        return found
    logger.info('%s is missing: whether the settings are those of before is not known', SETTINGS)
    return {}


def _lock(file: int) -> None:
    if os.name == 'nt':
        import msvcrt

        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
