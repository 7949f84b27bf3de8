"""What a command will write, looked at before any slow work."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from .. import files
from ..atomic import make_folder
from ..report import FIGURE_SUFFIXES
from ..simulate import Simulation

CURVE = 'loss.png'
MODEL_SUFFIXES = ('.h5.zip',)


def of_reconstruct(args: argparse.Namespace) -> None:
    """Raise `OutputError` when result or figure cannot be written or would replace an input."""
    files.check_target(args.output, files.RESULT_SUFFIXES)
    files.check_target(args.figure, FIGURE_SUFFIXES)
    if args.output or args.figure:
        inputs = _inputs(args, args.scan, others=(args.model,))
        files.check_distinct((args.output, args.figure), inputs)


def of_train(args: argparse.Namespace) -> None:
    """Raise `OutputError` when the model cannot be written or would replace an input."""
    files.check_target(args.model, MODEL_SUFFIXES)
    curve = (args.folder or training_folder(args.model)) / CURVE
    if os.path.lexists(curve.parent):  # else it is made
        files.check_target(curve)
    inputs = _inputs(args, *args.scans, *args.validation, others=(args.initial,))
    files.check_distinct((args.model, curve), inputs)


def of_convert(args: argparse.Namespace) -> None:
    """Raise `OutputError` when the scan cannot be written or would replace itself."""
    files.check_distinct(files.scan_targets(args.output), _inputs(args, args.scan))
    _of_scan(args.output)


def of_simulate(args: argparse.Namespace, simulation: Simulation) -> None:
    """Raise `OutputError` when the scan cannot be written or would replace the probe's file."""
    probe = [simulation.probe_file] if simulation.probe == 'file' else []
    files.check_distinct(files.scan_targets(args.output), probe)
    _of_scan(args.output)


def training_folder(model: Path) -> Path:
    """Return where the checkpoints and logs of a model file go: `model.h5.zip` ->
    `model.training`.
    """
    return model.with_name(model.name.removesuffix('.zip').removesuffix('.h5') + '.training')


def _inputs(
    args: argparse.Namespace, *scans: Path, others: Iterable[Path | None] = ()
) -> list[Path]:
    read = [file for scan in scans for file in files.scan_sources(scan, args.product)]
    return read + [file for file in others if file is not None]


def _of_scan(target: Path) -> None:
    """Check the files of a scan; a name without a suffix means a folder, which is made."""
    if not target.suffix and not os.path.lexists(target):
        files.check_target(target)
        make_folder(target)
    for file in files.scan_targets(target):
        files.check_target(file, files.SCAN_SUFFIXES)
