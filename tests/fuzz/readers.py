"""Every reader as the product calls it: an input, in a folder of its own, read or refused."""

from __future__ import annotations

import resource
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

from ptychopinn_plugin import archive, files, manifest
from ptychopinn_plugin.config import (
    ModelConfig,
    ReconstructionConfig,
    RuntimeConfig,
    TrainingConfig,
    from_dict,
)
from ptychopinn_plugin.errors import PluginError
from ptychopinn_plugin.simulate.probes import load_probe
from ptychopinn_plugin.worker import protocol

from .seeds import unpack

WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
took_s: list[float] = []
"""Processor time of each call of the last `read`, its copies of the process included."""
# One message is a line for a status bar; several of them quote the file.
LONGEST = 10_000
# What the copy of the process that reads a file is survived by.
CONTAINED = (
    'it took too long', 'ended the process that read it', 'it needs more memory than a file',
)  # fmt: skip
SUFFIXES = {
    'npz': '.npz',
    'probe': '.npz',
    'hdf5': '.h5',
    'cxi': '.cxi',
    'product': '.h5',
    'model': '.h5.zip',
}
CONFIGS = {
    c.__name__: c for c in (ModelConfig, TrainingConfig, ReconstructionConfig, RuntimeConfig)
}
SPARE: tuple[Callable[[Path], object], ...] = (lambda path: None,) * 4
SCAN_LOOKS = (files.describe, files.load_object, files.is_scan, *SPARE, *SPARE)


def put(reader: str, data: bytes, folder: Path) -> Path:
    """Write an input where its reader finds it; returns what to read."""
    if reader in SUFFIXES:
        path = folder / f'input{SUFFIXES[reader]}'
        path.write_bytes(data)
        return path
    if reader == 'settings':
        path = folder / 'settings.json'
        path.write_bytes(data)
        return path
    place = folder / 'input'
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name, part in unpack(data).items():
        # A damaged container is not what is tested here.
        if (
            name
            and len(name) < 60
            and '/' not in name
            and '\0' not in name
            and name not in ('.', '..')
        ):
            (place / name).write_bytes(part)
    return place


def read(reader: str, path: Path, turn: int = 0) -> str:
    """Read an input; return 'read', or the name of the error class of a refusal.

    Raises whatever is no refusal. `turn` chooses what else is asked of the file.
    """
    took_s.clear()
    try:
        _timed(lambda: _CALLS[reader](path, turn))
    except PluginError as error:
        text = str(error)
        if not text or '\n' in text or len(text) > LONGEST:
            raise AssertionError(f'no message for people: {text[:200]!r}') from error
        kept = any(how in text for how in CONTAINED)
        return f'{type(error).__name__}{" (contained)" if kept else ""}'
    return 'read'


def turn_of(data: bytes) -> int:
    """Return the number by which an input chooses among the calls."""
    return zlib.crc32(data) >> 8


def _scan(path: Path, turn: int) -> None:
    _both(lambda: files.load_scan(path), lambda: SCAN_LOOKS[turn % 8](path))


def _product(path: Path, turn: int) -> None:
    looks = (files.describe, files.load_object, files.is_scan, files.load_scan, *SPARE)
    _both(lambda: files.load_product(path), lambda: looks[turn % 8](path))


def _model(path: Path, turn: int) -> None:
    archive.is_model(path)
    _both(lambda: archive.load_model(path), lambda: archive.describe_model(path))


def _probe(path: Path, turn: int) -> None:
    load_probe(path, ('probeGuess', 'probe', 'objectGuess')[turn % 3], 16, 1 + turn % 2)


def _both(first: Callable[[], object], second: Callable[[], object]) -> None:
    """Call both, also where the first one refuses."""
    try:
        _timed(first)
    finally:
        _timed(second)


def _timed(call: Callable[[], object]) -> None:
    """Call, and note the processor time it took without the calls within it."""
    start, noted = _cpu_s(), len(took_s)
    try:
        call()
    finally:
        took_s.append(_cpu_s() - start - sum(took_s[noted:]))


def _cpu_s() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in WHO)


def _settings(path: Path, turn: int) -> None:
    for name, values in manifest.parse('settings', path.read_bytes()).items():
        if name in CONFIGS and isinstance(values, dict):
            from_dict(CONFIGS[name], values)


def _message(path: Path, turn: int) -> None:
    line = path / 'line'
    protocol.Decoder(path).event(line.read_bytes() if line.exists() else b'')


def _job(path: Path, turn: int) -> None:
    protocol.read_job(path)


_CALLS: dict[str, Callable[[Path, int], None]] = {
    'npz': _scan, 'probe': _probe, 'hdf5': _scan, 'cxi': _scan, 'pair': _scan, 'product': _product,
    'model': _model, 'settings': _settings, 'message': _message, 'job': _job,
}  # fmt: skip
