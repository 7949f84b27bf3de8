"""The table of back ends: who is installed, and loading one by name. Asking imports no
framework.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from ..errors import BackendUnavailableError, ConfigError, explain
from .base import Backend

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One back end: its module, the packages it needs and the pip line that brings them."""

    module: str
    packages: tuple[str, ...]
    pip: str


BACKENDS: dict[str, Entry] = {
    'torch': Entry(
        'ptychopinn_plugin.backends.torch.backend',
        ('torch', 'lightning'),
        "pip install 'ptychopinn-plugin[torch]'",
    ),
    'tensorflow': Entry(
        'ptychopinn_plugin.backends.tensorflow.backend',
        ('tensorflow',),
        "pip install 'ptychopinn-plugin[tensorflow]'",
    ),
}


def missing(name: str) -> list[str]:
    """Return the packages that back end `name` still needs; empty when it is ready to load."""
    entry = BACKENDS[name]
    return [p for p in (*entry.packages, entry.module.rpartition('.')[0]) if find_spec(p) is None]


def available() -> list[str]:
    """Return the names of the back ends whose packages are installed, in the order `auto` tries
    them.
    """
    return [name for name in BACKENDS if not missing(name)]


def resolve(name: str) -> str:
    """Return the back end that `name` ('auto' included) stands for."""
    if name != 'auto':
        return name
    ready = available()
    if not ready:
        lines = ' or '.join(entry.pip for entry in BACKENDS.values())
        raise BackendUnavailableError(
            explain(
                'No back end is installed', expected='PyTorch or TensorFlow', cure=f'Run: {lines}'
            )
        )
    logger.info('Back end auto: taking %s', ready[0])
    return ready[0]


def load(name: str) -> Backend:
    """Import back end `name` ('auto' included) and return it; raises as `installed` does."""
    backend: Backend = import_module(BACKENDS[installed(name)].module).BACKEND
    return backend


def installed(name: str) -> str:
    """Return the back end that `name` ('auto' included) stands for, and import nothing.

    Raises `BackendUnavailableError` with the pip line when its framework is missing; never takes
    another one.
    """
    name = resolve(name)
    if name not in BACKENDS:
        raise ConfigError(
            explain('Unknown back end', expected=' | '.join(('auto', *BACKENDS)), received=name)
        )
    lacking = missing(name)
    if lacking:
        raise BackendUnavailableError(
            explain(
                f'Back end {name} is not installed',
                expected=f'packages {", ".join(BACKENDS[name].packages)}',
                received=f'missing {", ".join(lacking)}',
                cure=f'Run: {BACKENDS[name].pip}',
            )
        )
    return name
