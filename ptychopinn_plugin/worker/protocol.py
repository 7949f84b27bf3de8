"""What parent and child say to each other: a job as a folder of files, events as JSON lines.

    job.json  kind and settings          model.h5.zip  the model to use, or the one that was trained
    *.npy     the arrays of the scan     state-NNNNNN.*.npy  the arrays of a sweep

Arrays are memory-mapped or read without pickle. A line that is no event is not an error: libraries
print.
"""

from __future__ import annotations

import json
import math
import os
import tokenize
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from .. import archive, mapped
from ..backends.base import Model
from ..config import (
    ModelConfig,
    ReconstructionConfig,
    RuntimeConfig,
    TrainingConfig,
    from_dict,
    to_dict,
)
from ..errors import PluginError, WorkerError, explain
from ..result import Epoch, ObjectImage, Sweep
from ..scan import Array, Frame, Geometry, Scan

JOB, MODEL, CURVE = 'job.json', 'model.h5.zip', 'loss.png'
STOP = b'stop\n'
# So many sweeps may wait for the parent before the child does.
UNREAD_SWEEPS = 8
OPTIONAL = ('object_guess', 'true_object')
ARRAYS = ('counts', 'positions_px', 'probe', 'bad_pixels', 'scan_index')


def never() -> bool:
    """Stop never."""
    return False


@dataclass(frozen=True, eq=False)
class TrainJob:
    """Train on scan files; the child reads them. `checkpoints` is the folder for its checkpoints.

    Each path is what `files.load_scan` takes: a scan file, or a folder with the host's files.
    """

    scans: tuple[Path, ...]
    model: ModelConfig
    training: TrainingConfig
    runtime: RuntimeConfig
    checkpoints: Path
    validation: tuple[Path, ...] = ()


@dataclass(frozen=True, eq=False)
class ReconstructJob:
    """Reconstruct a scan in memory, from a model's estimate or, without one, as settings say."""

    scan: Scan
    reconstruction: ReconstructionConfig
    runtime: RuntimeConfig
    model: Model | None = None


Job = TrainJob | ReconstructJob


@dataclass(frozen=True)
class Started:
    """The framework is loaded; the start of a reconstruction may have come before."""

    backend: str
    device: str


@dataclass(frozen=True)
class Step:
    """The share of the training that is done, 0 to 1."""

    share: float


@dataclass(frozen=True)
class Saved:
    """The trained model is in the job folder, and why the training ended; the curve may follow."""

    ended: str


@dataclass(frozen=True)
class Log:
    """A record of the child's logger."""

    level: int
    text: str


@dataclass(frozen=True)
class Stopping:
    """The child has heard the stop."""


@dataclass(frozen=True)
class Failed:
    """An error of the child; `kind` is the name of a class in `errors`."""

    kind: str
    message: str


@dataclass(frozen=True)
class Done:
    """The job is done and nothing follows."""


Event = Started | Step | Epoch | Sweep | Saved | Log | Stopping | Failed | Done
VALUES: dict[str, type] = {'int': int, 'str': str}
PLAIN = {c.__name__: c for c in (Started, Step, Epoch, Saved, Log, Stopping, Failed, Done)}
EVENTS = {*PLAIN, Sweep.__name__}
# What reading a damaged folder or message raises: JSON, NPY headers, missing and wrong values.
DAMAGE = (
    OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError,
    RecursionError, SyntaxError, MemoryError, tokenize.TokenError,
)  # fmt: skip


class StopRun(Exception):
    """The stop came while the job was written."""


def write_job(job: Job, folder: Path, stopping: Callable[[], bool] = never) -> None:
    """Write a job where a child finds it; raises `StopRun` when the stop comes meanwhile."""
    facts: dict[str, Any] = {'kind': type(job).__name__, 'runtime': to_dict(job.runtime)}
    if isinstance(job, TrainJob):
        facts.update(
            scans=[os.path.abspath(p) for p in job.scans],
            validation=[os.path.abspath(p) for p in job.validation],
            model=to_dict(job.model),
            training=to_dict(job.training),
            checkpoints=os.path.abspath(job.checkpoints),
        )
    else:
        scan = _write_scan(job.scan, folder, stopping)
        facts.update(reconstruction=to_dict(job.reconstruction), scan=scan)
        if job.model is not None:
            archive.save_model(job.model, folder / MODEL)
    (folder / JOB).write_text(json.dumps(facts))


def read_job(folder: Path) -> Job:
    """Return the job of a folder; the counts of its scan are memory-mapped.

    Raises `PluginError`: `WorkerError` where the folder is not what `write_job` makes.
    """
    try:
        return _job(json.loads((folder / JOB).read_text()), folder)
    except PluginError:
        raise
    except DAMAGE as error:
        raise WorkerError(
            explain(
                'The job of this process is damaged',
                received=f'{type(error).__name__} {error}',
                cure='Free room in the temporary folder and run it again',
            )
        ) from error


def _job(facts: Mapping[str, Any], folder: Path) -> Job:
    runtime = from_dict(RuntimeConfig, facts['runtime'])
    if facts['kind'] == TrainJob.__name__:
        return TrainJob(
            scans=tuple(map(Path, facts['scans'])),
            validation=tuple(map(Path, facts['validation'])),
            model=from_dict(ModelConfig, facts['model']),
            training=from_dict(TrainingConfig, facts['training']),
            runtime=runtime,
            checkpoints=Path(facts['checkpoints']),
        )
    model = folder / MODEL
    return ReconstructJob(
        scan=_read_scan(facts['scan'], folder),
        reconstruction=from_dict(ReconstructionConfig, facts['reconstruction']),
        runtime=runtime,
        model=archive.load_model(model) if model.exists() else None,
    )


def _load(file: Path, *, on_disk: bool = False) -> Array:
    """Return the array of an NPY file of numbers; more than the file holds is not asked for."""
    with file.open('rb') as stream:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, in_columns, dtype = read(stream)
        declared = math.prod(shape) * dtype.itemsize
        left = file.stat().st_size - stream.tell()
        if dtype.kind not in 'buifc' or min(shape, default=0) < 0 or declared != left:
            raise ValueError(f'{file.name}: dtype={dtype}, shape={shape}, {left} bytes')
        if on_disk and declared and not in_columns:
            return mapped.of_file(stream.fileno(), shape, dtype, stream.tell(), str(file))
    array: Array = np.load(file, allow_pickle=False)
    return array


def _save(file: Path, array: Array, stopping: Callable[[], bool]) -> None:
    """Write an array as NPY, as `np.save` does, in blocks: the counts of a scan take a while."""
    header = {
        'descr': npy.dtype_to_descr(array.dtype), 'fortran_order': False, 'shape': array.shape,
    }  # fmt: skip
    with file.open('wb') as stream:
        npy.write_array_header_1_0(stream, header)
        for rows in mapped.blocks(array):
            if stopping():
                raise StopRun
            block = mapped.batch(array, slice(int(rows[0]), int(rows[-1]) + 1))
            stream.write(np.ascontiguousarray(block).data)


def _write_scan(scan: Scan, folder: Path, stopping: Callable[[], bool]) -> dict[str, Any]:
    _save(folder / 'counts.npy', scan.counts, stopping)
    arrays = {key: getattr(scan, key) for key in (*ARRAYS[1:], *OPTIONAL)}
    for key, array in arrays.items():
        if array is not None:
            np.save(folder / f'{key}.npy', array, allow_pickle=False)
    return {
        'name': scan.name,
        'shape': scan.frame.shape,
        'origin_px': scan.frame.origin_px,
        'geometry': asdict(scan.geometry),
    }


def _read_scan(facts: Mapping[str, Any], folder: Path) -> Scan:
    def array(key: str, *, on_disk: bool = False) -> Array | None:
        file = folder / f'{key}.npy'
        return _load(file, on_disk=on_disk) if file.exists() else None

    geometry: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in facts['geometry'].items()
    }
    arrays: dict[str, Any] = {key: array(key) for key in (*ARRAYS[1:], *OPTIONAL)}
    return Scan(
        counts=array('counts', on_disk=True),  # type: ignore[arg-type]
        frame=Frame(tuple(facts['shape']), tuple(facts['origin_px'])),
        geometry=Geometry(**geometry),
        name=facts['name'],
        **arrays,
    )


def encode(event: Event, folder: Path) -> bytes:
    """Return the line of an event; the arrays of a sweep go to the job folder first."""
    facts = _sweep_facts(event, folder) if isinstance(event, Sweep) else asdict(event)
    return json.dumps({'event': type(event).__name__, **facts}).encode() + b'\n'


def _sweep_facts(sweep: Sweep, folder: Path) -> dict[str, Any]:
    stem = f'state-{sweep.number:06d}'
    np.save(folder / f'{stem}.object.npy', sweep.image.object, allow_pickle=False)
    np.save(folder / f'{stem}.positions.npy', sweep.positions_px, allow_pickle=False)
    np.save(folder / f'{stem}.probe.npy', sweep.probe, allow_pickle=False)
    if sweep.number == 0:  # the sweeps do not change it
        np.save(folder / 'weight.npy', sweep.image.weight, allow_pickle=False)
    return {
        'number': sweep.number,
        'total': sweep.total,
        'loss': float(sweep.loss),
        'origin_px': sweep.image.origin_px,
    }


class Decoder:
    """Events from lines. Remembers the weight of the object, which only the start carries."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._weight: Array | None = None

    def event(self, line: bytes) -> Event | None:
        """Return the event of a line; None where the line is none.

        Raises `WorkerError` where it is an event that no child sends.
        """
        try:
            facts = json.loads(line)
            name = facts.pop('event')
            if name not in EVENTS:
                return None
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            return None
        try:
            return self._sweep(facts) if name == Sweep.__name__ else _plain(PLAIN[name], facts)
        except DAMAGE as error:
            raise WorkerError(
                explain(
                    'The process that computes sent what cannot be understood',
                    received=f'{name}: {type(error).__name__} {error}',
                    cure='Run it again',
                )
            ) from error

    def _sweep(self, facts: Mapping[str, Any]) -> Sweep:
        number, total = _whole(facts['number']), _whole(facts['total'])
        loss, origin = float(facts['loss']), facts['origin_px']
        if len(origin) != 2 or not all(type(v) in (int, float) for v in origin):
            raise ValueError(f'origin_px={origin}')
        stem = f'state-{number:06d}'
        obj, positions = self._take(f'{stem}.object.npy'), self._take(f'{stem}.positions.npy')
        probe = self._take(f'{stem}.probe.npy')
        if self._weight is None:
            self._weight = self._take('weight.npy')
        image = ObjectImage(obj, self._weight, (float(origin[0]), float(origin[1])))
        return Sweep(number, total, image, probe, loss, positions)

    def _take(self, name: str) -> Array:
        file = self._folder / name
        array = _load(file)
        file.unlink()
        return array


def _plain(kind: type[Any], facts: Mapping[str, Any]) -> Event:
    """Return an event of plain values, each of the type that its field declares."""
    for field in fields(kind):
        value, wanted = facts[field.name], field.type
        ok = isinstance(value, (int, float) if wanted == 'float' else VALUES[str(wanted)])
        if not ok or isinstance(value, bool):
            raise TypeError(f'{field.name}={value!r}')
    event: Event = kind(**facts)
    return event


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f'{value!r} is no number of a sweep')
    return value


def unread_sweeps(folder: Path) -> int:
    """Return how many sweeps the parent has not taken yet."""
    return sum(1 for _ in folder.glob('state-*.probe.npy'))
