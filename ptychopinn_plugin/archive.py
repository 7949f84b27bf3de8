"""The model file `*.h5.zip`: manifest.json, config.json and weights.h5 in a zip. No pickle.

A model file is untrusted and nothing of it is extracted to disk. No header is believed: reads stop
at limits that the settings inside fix, and checksums are compared before HDF5 sees a byte. The
checksums find accidents, not forgers. Clauses: specs/model_archive.md.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from . import weights_file
from .atomic import atomic_path
from .backends.base import Model
from .backends.registry import BACKENDS
from .config import ModelConfig, TrainingConfig, from_dict, to_dict
from .errors import ConfigError, ModelFileError, explain, require
from .manifest import COPY, MANIFEST, compose, dump, epochs, fingerprint, parse, read, shown
from .network_weights import weight_shapes

CONFIG, WEIGHTS = 'config.json', 'weights.h5'
MEMBERS = (MANIFEST, CONFIG, WEIGHTS)
MAX_MANIFEST_BYTES = 16 * 2**20  # 100,000 epochs of history are 11 MB
MAX_CONFIG_BYTES = 64 * 2**10
MAX_ENTRIES, MAX_DIRECTORY_BYTES = 64, 64 * 2**10

PathLike = str | os.PathLike[str]

# What zipfile and zlib raise on damaged bytes. RuntimeError: a password is needed.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError, KeyError,
    OverflowError, MemoryError,
)  # fmt: skip


def save_model(model: Model, path: PathLike) -> None:
    """Write a model file, whole or not at all.

    Raises `ModelFileError` when the weights do not fit the settings or are not finite and
    `OutputError` when the file cannot be written.
    """
    settings = {'model': to_dict(model.config), 'training': to_dict(model.training)}
    weights = weights_file.pack(model.weights, weight_shapes(model.config))
    members = {CONFIG: dump(settings), WEIGHTS: weights}
    now = datetime.now(UTC).replace(microsecond=0)
    manifest = compose(model.writer, now.isoformat(), model.summary, model.history, members)
    _check_size(MANIFEST, len(manifest), MAX_MANIFEST_BYTES)
    with atomic_path(path) as part, zipfile.ZipFile(part, 'w') as archive:
        for name, data in {MANIFEST: manifest, **members}.items():
            archive.writestr(zipfile.ZipInfo(name, now.timetuple()[:6]), data)


def load_model(path: PathLike) -> Model:
    """Read and check a model file; raises `ModelFileError`."""
    with _reading(Path(path)) as archive:
        manifest = _manifest(archive)
        config, training = _configs(archive, manifest)
        shapes = weight_shapes(config)
        data = _member(archive, manifest, WEIGHTS, weights_file.largest(shapes))
        weights, history = weights_file.unpack(data, shapes), epochs(manifest['history'])
        return Model(config, weights, training, history, manifest['writer'], manifest['summary'])


def describe_model(path: PathLike) -> dict[str, Any]:
    """Return the facts of a model file, JSON-ready; its weights are not read.

    Raises `ModelFileError`.
    """
    with _reading(Path(path)) as archive:
        manifest = _manifest(archive)
        config, training = _configs(archive, manifest)
        history = epochs(manifest['history'])
    return {
        'kind': 'model',
        'opens_with': list(BACKENDS),
        **{k: manifest[k] for k in ('format_version', 'requires', 'writer', 'versions', 'created')},
        'model': to_dict(config),
        'training': to_dict(training),
        'parameters': sum(prod(shape) for shape in weight_shapes(config).values()),
        'epochs': len(history),
        'size_bytes': Path(path).stat().st_size,
        'summary': manifest['summary'],
    }


def is_model(path: PathLike) -> bool:
    """Return whether `path` is a zip that holds a manifest.json; never raises."""
    try:
        with _reading(Path(path)) as archive:
            return MANIFEST in archive.namelist()
    except ModelFileError:
        return False


@contextmanager
def _reading(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open the zip; all that goes wrong becomes a `ModelFileError` that names the file."""
    try:
        if not path.is_file():
            _refuse_path(path)
        with path.open('rb') as stream:
            _check_end(stream)
            with zipfile.ZipFile(stream) as archive:
                yield archive
    except ModelFileError as error:
        raise ModelFileError(f'{path}: {error}') from error
    except _DAMAGE as error:
        wrong = f'{path}: The model file is damaged or cannot be read'
        raise ModelFileError(
            explain(wrong, received=shown(f'{type(error).__name__} {error}'), cure=COPY)
        ) from error


def _refuse_path(path: Path) -> NoReturn:
    wrong = (
        'The model file is not a regular file' if path.exists() else 'There is no such model file'
    )
    received = 'a folder' if path.is_dir() else ''
    raise ModelFileError(
        explain(wrong, expected='a *.h5.zip file', received=received, cure='Check the path')
    )


def _check_end(stream: BinaryIO) -> None:
    """Bound the zip directory before `zipfile` reads it all into memory."""
    head = stream.read(4)
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(size - 42, 0))
    tail = stream.read(42)
    expected = 'a *.h5.zip file written by save_model'
    if len(tail) < 22 or not tail[-22:].startswith(b'PK\5\6'):
        cut = head == b'PK\3\4'
        wrong = (
            'The model file is cut short or has bytes appended'
            if cut
            else 'This is not a model file'
        )
        received = (
            f'size={size} bytes without the end of a zip'
            if cut
            else f'a file that begins with {head!r}'
        )
        raise ModelFileError(explain(wrong, expected=expected, received=received, cure=COPY))
    entries, length = (
        int.from_bytes(tail[-12:-10], 'little'),
        int.from_bytes(tail[-10:-6], 'little'),
    )
    require(
        entries <= MAX_ENTRIES and length <= MAX_DIRECTORY_BYTES and not tail.startswith(b'PK\6\7'),
        ModelFileError,
        'This is not a model file: its zip directory is too large',
        expected=f'the {len(MEMBERS)} members {", ".join(MEMBERS)}',
        received=f'entries={entries}, directory bytes={length}',
        cure='Check the path',
    )


def _manifest(archive: zipfile.ZipFile) -> dict[str, Any]:
    """Return the manifest; its version is judged before all that a newer version may change."""
    found = ', '.join(shown(info.orig_filename) for info in archive.infolist())
    require(
        MANIFEST in archive.namelist(),
        ModelFileError,
        f'This is not a model file: {MANIFEST} is missing',
        expected=', '.join(MEMBERS),
        received=found[:200] or 'an empty zip',
        cure='Check the path',
    )
    manifest = read(_read(archive, MANIFEST, MAX_MANIFEST_BYTES))
    _check_members(archive)
    return manifest


def _check_members(archive: zipfile.ZipFile) -> None:
    names = [info.orig_filename for info in archive.infolist()]
    wrong = ''
    if unsafe := [
        n for n in names if n.startswith(('/', '\\')) or '..' in n or ':' in n or '\0' in n
    ]:
        wrong = f'unsafe name {shown(unsafe[0])}'
    elif foreign := sorted(set(names) - set(MEMBERS)):
        wrong = f'foreign member {shown(foreign[0])}'
    elif absent := [name for name in MEMBERS if name not in names]:
        wrong = f'missing member {absent[0]}'
    elif len(names) > len(MEMBERS):
        wrong = f'duplicate member {max(names, key=names.count)}'
    require(
        not wrong,
        ModelFileError,
        'The model file does not hold the members of a model',
        expected=f'exactly {", ".join(MEMBERS)}',
        received=wrong,
        cure=COPY,
    )


def _read(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Return a member's bytes; never more than `limit` are held, whatever its header says."""
    info = archive.getinfo(name)
    plain = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    require(
        plain and not info.flag_bits & 0x61,
        ModelFileError,
        f'{name} is encrypted or packed in an unknown way',
        expected='stored or deflated members without a password',
        received=f'compression={info.compress_type}, flags={info.flag_bits:#x}',
        cure=COPY,
    )
    with archive.open(info) as stream:
        data = stream.read(limit + 1)
    _check_size(name, len(data), limit)
    return data


def _check_size(name: str, size: int, limit: int) -> None:
    require(
        size <= limit,
        ModelFileError,
        f'{name} is larger than a model needs',
        expected=f'at most {limit} bytes',
        received=f'more than {limit} bytes',
        cure=COPY,
    )


def _member(archive: zipfile.ZipFile, manifest: Mapping[str, Any], name: str, limit: int) -> bytes:
    """Return a member's bytes once they agree with the manifest."""
    data = _read(archive, name, limit)
    noted, found = manifest['members'].get(name), fingerprint(data)
    require(
        noted == found,
        ModelFileError,
        f'{name} is damaged: it differs from what {MANIFEST} says',
        expected=shown(noted),
        received=shown(found),
        cure=COPY,
    )
    return data


def _configs(
    archive: zipfile.ZipFile, manifest: Mapping[str, Any]
) -> tuple[ModelConfig, TrainingConfig]:
    values = parse(CONFIG, _member(archive, manifest, CONFIG, MAX_CONFIG_BYTES))
    require(
        set(values) == {'model', 'training'} and all(isinstance(v, dict) for v in values.values()),
        ModelFileError,
        f'{CONFIG} does not hold the settings of a model',
        expected='the objects model and training',
        received=shown(', '.join(values)),
        cure=COPY,
    )
    try:
        return from_dict(ModelConfig, values['model']), from_dict(
            TrainingConfig, values['training']
        )
    except ConfigError as error:
        raise ModelFileError(f'{CONFIG}: {str(error)[:400]}') from error
