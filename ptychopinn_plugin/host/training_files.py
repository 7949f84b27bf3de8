"""What an input folder of the host holds for a training."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from .. import archive, files
from ..errors import DataError, explain
from ..files.pair import DIFFRACTION_FILE, PRODUCT_FILE

logger = logging.getLogger(__name__)

TRAIN_FILE, TEST_FILE = 'train_data.npz', 'test_data.npz'


@dataclass(frozen=True)
class TrainingFiles:
    """Scan files to train on and to validate on, as `files.load_scan` takes them."""

    scans: tuple[Path, ...]
    validation: tuple[Path, ...] = ()


def find_training_files(folder: Path) -> TrainingFiles:
    """Return what to train on: the host's training file, else all exported scans, else the host's
    diffraction and product files. `test_data.npz` is for validation.

    Raises `DataError` when there is nothing.
    """
    train, test = folder / TRAIN_FILE, folder / TEST_FILE
    validation = (test,) if test.is_file() else ()
    if train.is_file():
        found = TrainingFiles((train,), validation)
    else:
        found = TrainingFiles(_exported(folder), validation)
    pair = [folder / DIFFRACTION_FILE, folder / PRODUCT_FILE]
    if not found.scans and all(file.is_file() for file in pair):
        found = TrainingFiles((folder,), validation)
    if not found.scans:
        raise DataError(
            explain(
                f'There is nothing to train on in {folder}',
                expected=f'{TRAIN_FILE}, exported training files (.npz, .h5), or '
                f'{DIFFRACTION_FILE} with {PRODUCT_FILE}',
                received=', '.join(sorted(p.name for p in folder.iterdir())[:8])
                if folder.is_dir()
                else 'no such folder',
                cure='Export training data into this folder first',
            )
        )
    logger.info('Training on %s', ', '.join(p.name for p in found.scans))
    if validation:
        logger.info('Validating on %s', test.name)
    return found


def _exported(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        return ()
    return tuple(p for p in sorted(folder.iterdir()) if p.name != TEST_FILE and _is_scan(p))


def _is_scan(file: Path) -> bool:
    """Tell whether a file holds patterns, positions and probe of its own."""
    if file.suffix.lower() not in files.SCAN_SUFFIXES or file.name == DIFFRACTION_FILE:
        return False
    if not file.is_file() or archive.is_model(file):
        return False
    try:
        return files.is_scan(file)
    except DataError as error:
        logger.warning('%s is passed over: %s', file.name, error)
        return False
