"""Put a copy of `host/shim.py` where Ptychodus finds it; the package keeps its own.

`force-include` in pyproject.toml would move the file, and `ptychopinn-plugin link` needs it too.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HOOK = 'ptychodus/plugins/ptychopinn_plugin_hook.py'


class ShimHook(BuildHookInterface):
    """Force-include the copy, in wheels and in editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the copy and name its place in the wheel."""
        self._folder = tempfile.mkdtemp()
        copy = shutil.copy(Path(self.root) / 'ptychopinn_plugin' / 'host' / 'shim.py', self._folder)
        build_data['force_include'][str(copy)] = HOOK

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the copy."""
        shutil.rmtree(self._folder)
