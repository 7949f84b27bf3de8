"""The manifest of a model file: untrusted JSON, checked before use.

Clauses: specs/model_archive.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import fields
from math import isfinite, nan
from typing import Any

import numpy as np

from . import __version__
from .errors import ModelFileError, explain, printable, require
from .result import Epoch

MANIFEST = 'manifest.json'
FORMAT, FORMAT_VERSION = 'ptychopinn-plugin model', 1
REQUIRES = '0.1.0'  # the first plug-in that reads this format version
COLUMNS = tuple((f.name, int if f.name in ('number', 'total') else float) for f in fields(Epoch))
COPY = 'Copy the file again or train the model anew'


def compose(writer: str, created: str, summary: Mapping[str, Any], history: tuple[Epoch, ...],
            members: Mapping[str, bytes]) -> bytes:  # fmt: skip
    """Return the manifest of these members as JSON."""
    return dump(
        {
            'format': FORMAT,
            'format_version': FORMAT_VERSION,
            'requires': REQUIRES,
            'writer': writer,
            'versions': {'ptychopinn-plugin': __version__, **summary.get('versions', {})},
            'created': created,
            'members': {name: fingerprint(data) for name, data in members.items()},
            'summary': summary,
            'history': {name: [kind(getattr(e, name)) for e in history] for name, kind in COLUMNS},
        }
    )


def read(data: bytes) -> dict[str, Any]:
    """Return the manifest if this plug-in reads its format; raises `ModelFileError`."""
    values = parse(MANIFEST, data)
    require(
        values.get('format') == FORMAT,
        ModelFileError,
        'This is not a model of ptychopinn-plugin',
        expected=f'format={FORMAT!r}',
        received=f'format={shown(values.get("format"))}',
        cure='Check the path',
    )
    _check_version(values)
    kinds = {
        'requires': str, 'writer': str, 'created': str,
        'versions': dict, 'members': dict, 'summary': dict, 'history': dict,
    }  # fmt: skip
    for key, kind in kinds.items():
        require(
            isinstance(values.get(key), kind),
            ModelFileError,
            f'{MANIFEST}: {key} is missing or has the wrong type',
            expected=kind.__name__,
            received=f'{key}={shown(values.get(key))}',
            cure=COPY,
        )
    return values


def _check_version(values: Mapping[str, Any]) -> None:
    version, needed = values.get('format_version'), str(values.get('requires'))
    known = isinstance(version, int) and not isinstance(version, bool)
    newer = isinstance(version, int) and known and version > FORMAT_VERSION
    if not re.fullmatch(r'\d[0-9A-Za-z.+-]{0,30}', needed, re.ASCII):
        needed = __version__  # untrusted text never becomes advice
    require(
        version == FORMAT_VERSION and known,
        ModelFileError,
        'The model file was written by a newer plug-in' if newer else 'The format version is wrong',
        expected=f'format_version={FORMAT_VERSION}',
        received=f'format_version={shown(version)}',
        cure=f"Run: pip install 'ptychopinn-plugin>={needed}'" if newer else COPY,
    )


def epochs(columns: Mapping[str, Any]) -> tuple[Epoch, ...]:
    """Return the history from its columns; null becomes NaN. Raises `ModelFileError`."""
    names = [name for name, _ in COLUMNS]
    lists = [c for c in map(columns.get, names) if isinstance(c, list)]
    ok = set(columns) == set(names) and len(lists) == len(names)
    ok = ok and len({len(c) for c in lists}) == 1
    rows = list(zip(*lists, strict=True)) if ok else []
    ok = ok and all(type(n) is int and type(t) is int for n, t, *_ in rows)
    ok = ok and all(v is None or type(v) is float for _, _, *rest in rows for v in rest)
    require(
        ok,
        ModelFileError,
        f'{MANIFEST}: the history is malformed',
        expected=f'equally long lists of numbers: {", ".join(names)}',
        received=shown(', '.join(columns)),
        cure=COPY,
    )
    return tuple(Epoch(n, t, *(nan if v is None else v for v in rest)) for n, t, *rest in rows)


def parse(name: str, data: bytes) -> dict[str, Any]:
    """Return a JSON object, its text `printable`; NaN, Infinity, repeated keys and deep nesting are
    refused.
    """
    try:
        found = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
        values = _printable(found)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            explain(f'{name} is not valid JSON', received=shown(error), cure=COPY)
        ) from error
    require(
        isinstance(values, dict),
        ModelFileError,
        f'{name} is not a JSON object',
        expected='an object',
        received=type(values).__name__,
        cure=COPY,
    )
    return dict(values)


def _printable(value: Any) -> Any:
    if isinstance(value, dict):
        return {printable(k): _printable(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_printable(v) for v in value]
    return printable(value) if isinstance(value, str) else value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError('a key is repeated')
    return made


def _no_constant(text: str) -> None:
    raise ValueError(f'{text} is not a number')


def dump(values: Any) -> bytes:
    """Return values as JSON; numbers that are not finite become null, unknown things their text."""
    return json.dumps(_ready(values), allow_nan=False, default=str).encode()


def _ready(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _ready(v) for k, v in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return _ready(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_ready(v) for v in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def fingerprint(data: bytes) -> dict[str, Any]:
    """Return what the manifest notes of a member."""
    return {'sha256': hashlib.sha256(data).hexdigest(), 'size': len(data)}


def shown(value: Any) -> str:
    """Return untrusted text fit for one line of a message."""
    text = str(value) if isinstance(value, (str, Exception)) else repr(value)
    return text[:160].encode('ascii', 'backslashreplace').decode()
