"""Valid inputs of every reader, small ones: what the mutations begin with.

An input is bytes; several files are packed into one (`pack`, `unpack`).
"""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from ptychopinn_plugin import archive, files
from ptychopinn_plugin.backends.base import Model
from ptychopinn_plugin.config import (
    UNROLLED,
    ModelConfig,
    ReconstructionConfig,
    RuntimeConfig,
    TrainingConfig,
    to_dict,
)
from ptychopinn_plugin.network_weights import weight_shapes
from ptychopinn_plugin.result import Epoch, ObjectImage, Sweep
from ptychopinn_plugin.scan import Geometry, Scan
from ptychopinn_plugin.worker import protocol

N, M, H, W = 8, 6, 20, 24


def pack(parts: dict[str, bytes]) -> bytes:
    """Return files as one input."""
    stream = b''
    for name, data in parts.items():
        stream += struct.pack('<BI', len(name), len(data)) + name.encode() + data
    return stream


def unpack(data: bytes) -> dict[str, bytes]:
    """Return the files of an input; sizes that lie are cut."""
    parts, at = {}, 0
    while at + 5 <= len(data):
        length, size = struct.unpack_from('<BI', data, at)
        at += 5 + length
        parts[data[at - length : at].decode('ascii', 'replace')] = data[at : at + size]
        at += size
    return parts


def small_scan(seed: int = 0, *, truth: bool = False, guess: bool = True) -> Scan:
    """Return a scan of a few patterns with every field in use."""
    rng = np.random.default_rng(seed)

    def field_of(*shape: int) -> np.ndarray:
        return (rng.random(shape) + 1j * rng.random(shape) + 0.1).astype(np.complex64)

    bad = np.zeros((N, N), bool)
    bad[0, 0] = True
    return Scan(
        rng.poisson(20, (M, N, N)).astype(np.uint16),
        4 + rng.random((M, 2)) * (H - 2 * N + 2),
        field_of(2, N, N),
        bad,
        object_guess=field_of(H, W) if guess else None,
        true_object=field_of(H, W) if truth else None,
        geometry=Geometry((2e-8, 3e-8), (1e-5, -2e-5), (5e-5, 5e-5), 2.0, 8000.0),
    )


def small_model(architecture: str = 'autoencoder') -> Model:
    """Return a model of the smallest network."""
    config = ModelConfig(architecture=architecture, pattern_size_px=32, n_filters_scale=1)
    weights = {k: np.full(s, 0.5, np.float32) for k, s in weight_shapes(config).items()}
    history = (Epoch(1, 3, 1.0, 2.0, 1e-3, 4.0), Epoch(2, 3, 0.5, 1.5, 1e-3, 4.0))
    return Model(config, weights, TrainingConfig(epochs=3), history, 'torch', {'best_epoch': 1})


def seeds(reader: str) -> list[bytes]:
    """Return the valid inputs of a reader."""
    with tempfile.TemporaryDirectory(prefix='fuzz-seeds-') as folder:
        return _MAKERS[reader](Path(folder))


def _npz(folder: Path) -> list[bytes]:
    made = []
    for k, scan in enumerate((small_scan(), small_scan(1, truth=True), small_scan(2, guess=False))):
        file = folder / f'{k}.npz'
        files.save_scan(scan, file)
        made.append(file.read_bytes())
    with zipfile.ZipFile(io.BytesIO(made[0])) as z:  # plainly stored, as the host writes
        members = {n: z.read(n) for n in z.namelist()}
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, 'w') as z:
        for name, data in members.items():
            if name != 'diff3d_scale.npy':
                z.writestr(name, data)
    result = io.BytesIO()
    image = np.ones((H, W), np.complex64)
    np.savez(result, object=image, weight=np.abs(image), losses=np.ones(3), backend='torch',
             origin_px=np.zeros(2), probe=np.ones((1, N, N), np.complex64))  # fmt: skip
    return [*made, stored.getvalue(), result.getvalue()]


def _written(folder: Path, suffix: str) -> list[bytes]:
    made = []
    for k, scan in enumerate((small_scan(), small_scan(1, truth=True))):
        file = folder / f'{k}{suffix}'
        files.save_scan(scan, file)
        made += [file.read_bytes(), again(file)]
    return made


def again(file: Path, **how: object) -> bytes:
    """Return an HDF5 file copied in the newest format: other headers, indexes and heaps."""
    target = file.with_suffix('.again')
    with h5py.File(file) as old, h5py.File(target, 'w', libver='latest') as new:
        for key in old:
            old.copy(key, new)
        for key, value in old.attrs.items():
            new.attrs[key] = value
    return target.read_bytes()


def _pair(folder: Path) -> list[bytes]:
    made = []
    for k, scan in enumerate((small_scan(), small_scan(1, truth=True, guess=False))):
        where = folder / str(k)
        where.mkdir()
        files.save_scan(scan, where)
        names = ('diffraction.h5', 'product.h5')
        made.append(pack({n: (where / n).read_bytes() for n in names}))
        made.append(pack({n: again(where / n) for n in names}))
    return made


def _product(folder: Path) -> list[bytes]:
    return [unpack(pair)['product.h5'] for pair in _pair(folder)]


def _model(folder: Path) -> list[bytes]:
    made = []
    for architecture in ('autoencoder', UNROLLED):
        archive.save_model(small_model(architecture), folder / 'm')
        made.append((folder / 'm').read_bytes())
    return made


def _settings(folder: Path) -> list[bytes]:
    kinds = (ModelConfig, TrainingConfig, ReconstructionConfig, RuntimeConfig)
    return [json.dumps({k.__name__: to_dict(k())}).encode() for k in kinds]


def _message(folder: Path) -> list[bytes]:
    scan = small_scan()
    assert scan.object_guess is not None
    image = ObjectImage(scan.object_guess, np.ones((H, W), np.float32))
    events = (
        protocol.Started('torch', 'cpu'), protocol.Step(0.5), Epoch(1, 3, 1.0, 2.0, 1e-3, 4.0),
        protocol.Saved('patience'), protocol.Log(20, 'text'), protocol.Stopping(),
        protocol.Failed('DataError', 'wrong'), protocol.Done(),
        Sweep(0, 3, image, scan.probe, 0.5, scan.positions_px),
    )  # fmt: skip
    made = []
    for event in events:
        line = protocol.encode(event, folder)
        arrays = {p.name: p.read_bytes() for p in sorted(folder.glob('*.npy'))}
        made.append(pack({'line': line, **arrays}))
    return made


def _job(folder: Path) -> list[bytes]:
    jobs: tuple[protocol.Job, ...] = (
        protocol.ReconstructJob(
            small_scan(truth=True), ReconstructionConfig(), RuntimeConfig(), small_model()
        ),
        protocol.ReconstructJob(
            replace(small_scan(), geometry=Geometry()), ReconstructionConfig(), RuntimeConfig()
        ),
        protocol.TrainJob(
            (folder / 'a.npz',), ModelConfig(), TrainingConfig(), RuntimeConfig(), folder / 'c'
        ),
    )
    made = []
    for k, job in enumerate(jobs):
        where = folder / f'job{k}'
        where.mkdir()
        protocol.write_job(job, where)
        made.append(pack({p.name: p.read_bytes() for p in sorted(where.iterdir())}))
    return made


_MAKERS = {
    'npz': _npz,
    'hdf5': lambda folder: _written(folder, '.h5'),
    'cxi': lambda folder: _written(folder, '.cxi'),
    'probe': _npz,
    'pair': _pair,
    'product': _product,
    'model': _model,
    'settings': _settings,
    'message': _message,
    'job': _job,
}
READERS = tuple(_MAKERS)
