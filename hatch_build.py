"""What the build adds: a copy of `host/shim.py` where Ptychodus finds it (the package keeps its
own), and the compiled kernels where there is a C compiler.

`force-include` in pyproject.toml would move the shim, and `ptychopinn-plugin link` needs it too.

The kernels are a plain shared library without Python in it. Without a compiler, or with
PTYCHOPINN_PLUGIN_PURE=1 in the environment, the wheel is pure Python and NumPy does their work.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HOOK = 'ptychodus/plugins/ptychopinn_plugin_hook.py'
KERNELS = 'ptychopinn_plugin/kernels'
LIBRARY = '_kernels.so'
# No switch that would change denormals or what is not a number for the rest of the process.
FLAGS = (
    '-O3', '-std=gnu11', '-fPIC', '-shared', '-fvisibility=hidden', '-fno-math-errno',
    '-fno-trapping-math', '-fno-signed-zeros', '-fassociative-math', '-pthread',
)  # fmt: skip
TIMEOUT_S = 120


class BuildHook(BuildHookInterface):
    """Force-include the copy, and the library, in wheels and in editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make what is added and name its place in the wheel."""
        self._folder = Path(tempfile.mkdtemp())
        copy = shutil.copy(Path(self.root) / 'ptychopinn_plugin' / 'host' / 'shim.py', self._folder)
        build_data['force_include'][str(copy)] = HOOK
        library = self._compiled()
        if version == 'editable':
            self._replace(library)
        elif library is not None:
            build_data['force_include'][str(library)] = f'{KERNELS}/{LIBRARY}'
            # The root stays that of pure Python: the copy must lie where Ptychodus does.
            platform = sysconfig.get_platform().replace('-', '_').replace('.', '_')
            build_data['tag'] = f'py3-none-{platform}'

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was made."""
        shutil.rmtree(self._folder)

    def _replace(self, library: Path | None) -> None:
        """Put the library into the source folder, or remove one that is there; at once, since a
        process may have it loaded.
        """
        place = Path(self.root) / KERNELS / LIBRARY
        if library is None:
            place.unlink(missing_ok=True)
        else:
            part = place.with_suffix('.part')
            shutil.copy(library, part)
            part.replace(place)

    def _compiled(self) -> Path | None:
        """Return the library, or None where it cannot be made."""
        compiler = shlex.split(os.environ.get('CC', '')) or ['cc']
        if os.environ.get('PTYCHOPINN_PLUGIN_PURE') == '1' or sys.platform == 'win32':
            return None
        if shutil.which(compiler[0]) is None:
            self.app.display_warning('There is no C compiler: NumPy takes the place of the kernels')
            return None
        made = self._folder / LIBRARY
        sources = [str(file) for file in sorted((Path(self.root) / KERNELS).glob('*.c'))]
        command = [*compiler, *FLAGS, '-o', str(made), *sources, '-lm']
        try:
            subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            said = getattr(error, 'stderr', None) or ''
            self.app.display_warning(
                f'The kernels do not compile, NumPy takes their place: {error}\n{said}'
            )
            return None
        return made
