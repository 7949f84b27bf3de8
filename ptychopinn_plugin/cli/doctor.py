"""What is installed, what it runs on, and what to install for the rest. Frameworks load in a child
process each.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .. import __version__, kernels
from ..backends import registry
from ..host import hook_file
from .progress import say

PROBE = (
    'import json, sys; from ptychopinn_plugin.backends import registry; '
    'from ptychopinn_plugin.config import RuntimeConfig; b = registry.load(sys.argv[1]); '
    'print(json.dumps({"versions": b.versions(), "device": b.device(RuntimeConfig())}))'
)
TIMEOUT_S = 120


def examine() -> dict[str, Any]:
    """Report versions, back ends and devices; tell a person the same, line by line."""
    report: dict[str, Any] = {
        'ptychopinn_plugin': __version__,
        'python': platform.python_version(),
        'platform': platform.platform(),
        'ptychodus': _version('ptychodus'),
        'hook': hook_file.examine(),
        'kernels': kernels.load().name,
        'backends': {name: _backend(name) for name in registry.BACKENDS},
    }
    ready = [name for name, state in report['backends'].items() if state['ready']]
    report['auto'] = ready[0] if ready else None
    _tell(report)
    return report


def _backend(name: str) -> dict[str, Any]:
    lacking = registry.missing(name)
    cure = registry.BACKENDS[name].pip
    if lacking:
        return {'ready': False, 'reason': f'missing {", ".join(lacking)}', 'install': cure}
    try:
        done = subprocess.run(
            [sys.executable, '-c', PROBE, name],
            capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {'ready': False, 'reason': f'loading took over {TIMEOUT_S} s', 'install': cure}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ['no message'])[-1]
        return {'ready': False, 'reason': f'it does not load: {last}', 'install': cure}
    return {'ready': True, **json.loads(done.stdout.strip().splitlines()[-1])}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _tell(report: dict[str, Any]) -> None:
    say(f'ptychopinn-plugin {report["ptychopinn_plugin"]}, Python {report["python"]}')
    say(f'ptychodus {report["ptychodus"] or "is not installed: pip install ptychodus"}')
    hook = report['hook']
    if hook['attached']:
        say(f'in Ptychodus: the plug-in is attached by {hook["path"]}')
    else:
        say(f'in Ptychodus: the plug-in is not attached. {hook["cure"]}')
    if report['kernels'] == 'compiled':
        say('sweeps on a processor: compiled kernels')
    else:
        say(
            'sweeps on a processor: NumPy, which takes 1.4 to 2.1 times as long as the compiled '
            'kernels that an installation makes where it finds a C compiler'
        )
    for name, state in report['backends'].items():
        if state['ready']:
            versions = ', '.join(f'{k} {v}' for k, v in state['versions'].items())
            say(f'{name}: ready on {state["device"]} ({versions})')
        else:
            say(f'{name}: not ready, {state["reason"]}. Run: {state["install"]}')
    say(f'auto takes: {report["auto"] or "nothing; install a back end"}')
