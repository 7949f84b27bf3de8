"""The hook beside the Ptychodus that this Python imports: where it is, writing and removing it.

pip puts it there where Ptychodus and this package share a site directory. For the rest (Ptychodus
installed editable, an overlay environment) there are `link` and `unlink`. None imports Ptychodus.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..atomic import atomic_path
from ..errors import DataError, OutputError, explain

HOOK_FILE = 'ptychopinn_plugin_hook.py'
SOURCE = Path(__file__).with_name('shim.py')
MARK = 'PtychoPINN-Plugin'
TIMEOUT_S = 120
TRY = (
    'import ptychodus.model.core; from ptychodus.api.plugins import PluginRegistry; '
    'PluginRegistry.load_plugins(); from ptychopinn_plugin.host.attachment import is_attached; '
    'print("attached" if is_attached() else "not attached")'
)


def hook_path() -> Path | None:
    """Return where the hook belongs, None where Ptychodus is not installed."""
    spec = find_spec('ptychodus')
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / 'plugins' / HOOK_FILE


def link() -> Path:
    """Write the hook; return its path. Raises `DataError` without a Ptychodus, `OutputError`."""
    path = _needed_path()
    with atomic_path(path) as part:
        part.write_bytes(SOURCE.read_bytes())
    return path


def unlink() -> Path | None:
    """Remove the hook; return its path, None where there was none. Another's file is kept."""
    path = _needed_path()
    if not path.exists():
        return None
    if MARK not in path.read_text(errors='replace'):
        raise DataError(
            explain(f'{path} is not our hook', expected='a file that link wrote', cure='Look at it')
        )
    try:
        path.unlink()
    except OSError as error:
        raise OutputError(
            explain(f'Cannot remove {path}', received=error.strerror or str(error))
        ) from error
    return path


def examine() -> dict[str, Any]:
    """Return whether the hook is there, current and effective, and what to do; JSON-ready."""
    path = hook_path()
    if path is None:
        return {'attached': False, 'cure': 'Run: pip install ptychodus'}
    report: dict[str, Any] = {'path': str(path), 'attached': False}
    if not path.exists():
        return {**report, 'cure': 'Run: ptychopinn-plugin link, or start ptychopinn-ptychodus'}
    if path.read_bytes() != SOURCE.read_bytes():
        return {**report, 'cure': 'It is of another version. Run: ptychopinn-plugin link'}
    outcome = _try()
    return {'path': str(path), 'attached': True} if outcome is None else {**report, 'cure': outcome}


def _try() -> str | None:
    """Start as much of Ptychodus as the hook needs; return what went wrong."""
    try:
        done = subprocess.run(
            [sys.executable, '-c', TRY],
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f'Ptychodus did not load within {TIMEOUT_S} s'
    if done.stdout.strip().endswith('attached') and 'not attached' not in done.stdout:
        return None
    lines = (done.stderr or done.stdout).strip().splitlines()
    return f'It does not attach: {lines[-1] if lines else "no message"}'


def _needed_path() -> Path:
    path = hook_path()
    if path is None:
        raise DataError(explain('Ptychodus is not installed', cure='Run: pip install ptychodus'))
    return path
