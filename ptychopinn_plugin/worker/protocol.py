"""What parent and child say to each other: a job as a folder of files, events as JSON lines.

    job.json  kind and settings          model.h5.zip  the model to use, or the one that was trained
    *.npy     the arrays of the scan     state-NNNNNN.*.npy  the arrays of a sweep

Arrays are memory-mapped or read without pickle. A line that is no event is not an error: libraries
print.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import archive
from ..backends.base import Model
from ..config import (
    ModelConfig,
    ReconstructionConfig,
    RuntimeConfig,
    TrainingConfig,
    from_dict,
    to_dict,
)
from ..result import Epoch, ObjectImage, Sweep
from ..scan import Array, Frame, Geometry, Scan

JOB, MODEL, CURVE = 'job.json', 'model.h5.zip', 'loss.png'
STOP = b'stop\n'
# So many sweeps may wait for the parent before the child does.
UNREAD_SWEEPS = 8
OPTIONAL = ('object_guess', 'true_object')
ARRAYS = ('counts', 'positions_px', 'probe', 'bad_pixels', 'scan_index')


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
    """The framework is loaded and the data is read."""

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
PLAIN = {c.__name__: c for c in (Started, Step, Epoch, Saved, Log, Stopping, Failed, Done)}


def write_job(job: Job, folder: Path) -> None:
    """Write a job where a child finds it."""
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
        facts.update(reconstruction=to_dict(job.reconstruction), scan=_write_scan(job.scan, folder))
        if job.model is not None:
            archive.save_model(job.model, folder / MODEL)
    (folder / JOB).write_text(json.dumps(facts))


def read_job(folder: Path) -> Job:
    """Return the job of a folder; the counts of its scan are memory-mapped."""
    facts = json.loads((folder / JOB).read_text())
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


def _write_scan(scan: Scan, folder: Path) -> dict[str, Any]:
    arrays = {key: getattr(scan, key) for key in (*ARRAYS, *OPTIONAL)}
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
    def array(key: str, mode: Any = None) -> Array | None:
        file = folder / f'{key}.npy'
        return np.load(file, mmap_mode=mode, allow_pickle=False) if file.exists() else None

    geometry: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in facts['geometry'].items()
    }
    arrays: dict[str, Any] = {key: array(key) for key in (*ARRAYS[1:], *OPTIONAL)}
    return Scan(
        counts=array('counts', 'r'),  # type: ignore[arg-type]
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
        """Return the event of a line; None where the line is none."""
        try:
            facts = json.loads(line)
            name = facts.pop('event')
        except (ValueError, KeyError, AttributeError, TypeError):
            return None
        if name == Sweep.__name__:
            return self._sweep(facts)
        return PLAIN[name](**facts) if name in PLAIN else None

    def _sweep(self, facts: Mapping[str, Any]) -> Sweep:
        stem = f'state-{facts["number"]:06d}'
        obj, positions = self._take(f'{stem}.object.npy'), self._take(f'{stem}.positions.npy')
        probe = self._take(f'{stem}.probe.npy')
        if self._weight is None:
            self._weight = self._take('weight.npy')
        image = ObjectImage(obj, self._weight, tuple(facts['origin_px']))
        return Sweep(facts['number'], facts['total'], image, probe, facts['loss'], positions)

    def _take(self, name: str) -> Array:
        file = self._folder / name
        array: Array = np.load(file, allow_pickle=False)
        file.unlink()
        return array


def unread_sweeps(folder: Path) -> int:
    """Return how many sweeps the parent has not taken yet."""
    return sum(1 for _ in folder.glob('state-*.probe.npy'))
