"""The plug-in inside Ptychodus: the only part that imports it. Nothing is imported before it is
asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attachment import attach
    from .library import PluginLibrary

__all__ = ['PluginLibrary', 'attach']


def __getattr__(name: str) -> Any:
    if name == 'attach':
        from .attachment import attach

        return attach
    if name == 'PluginLibrary':
        from .library import PluginLibrary

        return PluginLibrary
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
