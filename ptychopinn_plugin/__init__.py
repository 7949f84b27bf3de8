"""Physics-informed neural ptychography for Ptychodus. Importing this loads no framework and no
host.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .archive import load_model as load_model
    from .archive import save_model as save_model
    from .files import load_scan as load_scan
    from .files import save_result as save_result
    from .files import save_scan as save_scan
    from .host import attach as attach
    from .metrics import compare as compare
    from .pipeline import reconstruct as reconstruct
    from .pipeline import train as train
    from .simulate import simulate_scan as simulate_scan

__version__ = '0.1.0'

_PUBLIC = {
    'attach': 'host',
    'compare': 'metrics',
    'load_model': 'archive',
    'load_scan': 'files',
    'reconstruct': 'pipeline',
    'save_model': 'archive',
    'save_result': 'files',
    'save_scan': 'files',
    'simulate_scan': 'simulate',
    'train': 'pipeline',
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for, so that the import itself takes no time."""
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'.{_PUBLIC[name]}', __name__), name)
