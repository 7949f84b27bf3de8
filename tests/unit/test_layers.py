"""Imports go down only, and every framework stays in its own folder: LAYERS, FRAMEWORKS."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ptychopinn_plugin

SOURCE = Path(ptychopinn_plugin.__file__).parent

# A module's layer is that of its longest listed prefix; a module without one fails the test.
LAYERS = {
    'errors': 0,
    **dict.fromkeys(('config', 'mapped', 'scan', 'result'), 1),
    **dict.fromkeys(
        (
            'apart', 'atomic', 'batching', 'checks', 'geometry', 'grouping', 'scaling',
            'slow_phase', 'probe_modes', 'position_correction', 'sweep_plan', 'sweeper',
            'host_step', 'far_field', 'kernels', 'light', 'shifted_probe', 'transforms',
            'uncertainty', 'smoothing', 'beam_intensity', 'centring', 'background', 'looks',
            'trials', 'learned_background',
            'starts', 'canvas', 'canvas_plan', 'canvas_training', 'network_weights', 'pretrained',
            'reference', 'plan', 'simulate', 'metrics', 'files', 'archive', 'manifest',
            'weights_file', 'report', 'backends', 'backends.base', 'backends.registry',
        ),
        2,
    ),
    **dict.fromkeys(('backends.torch', 'backends.tensorflow'), 3),
    'pipeline': 4,
    'orientation': 4,
    'worker': 5,
    **dict.fromkeys(('cli', 'host', 'testing', '__main__'), 6),
}  # fmt: skip

FRAMEWORKS = {
    'torch': ('backends.torch',),
    'lightning': ('backends.torch',),
    'pytorch_lightning': ('backends.torch',),
    'tensorflow': ('backends.tensorflow',),
    'keras': ('backends.tensorflow',),
    'ptychodus': ('host', 'testing'),
    'pytest': ('testing',),
    'PyQt5': ('host.panel',),
    'PyQt6': ('host.panel',),
}
# Where a function may import what its module may not.
LATE = {'ptychodus': ('simulate', 'metrics', 'files')}
LATE_EVERYWHERE = ('h5py', 'matplotlib', 'rich', 'skimage')


def inside(module: str, folders: tuple[str, ...]) -> bool:
    return any(module == f or module.startswith(f + '.') for f in folders)


def layer(module: str) -> int | None:
    parts = module.split('.')
    names = ('.'.join(parts[:k]) for k in range(len(parts), 0, -1))
    return next((LAYERS[n] for n in names if n in LAYERS), None)


def name_of(file: Path, source: Path) -> str:
    """Return the module's name inside the package; '' is the package itself."""
    return (
        '.'.join(file.relative_to(source).with_suffix('').parts)
        .removesuffix('__init__')
        .rstrip('.')
    )


def typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test)


def imports(
    node: ast.AST, late: bool = False, unread: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    """Yield (import, whether a function makes it, whether only the type checker reads it)."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child, late, unread
        function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from imports(child, late or function, unread or typing_only(child))


def targets(node: ast.Import | ast.ImportFrom, file: Path, source: Path) -> Iterator[str]:
    """Yield the absolute names an import asks for; ours begin with the package's name."""
    package = source.name
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = node.module or ''
    if node.level:
        parts = (package, *file.relative_to(source).parent.parts)
        parts = parts[: len(parts) - node.level + 1]
        base = '.'.join((*parts, node.module) if node.module else parts)
    for alias in node.names:
        path = source.parent.joinpath(*base.split('.'), alias.name)
        is_module = path.is_dir() or path.with_suffix('.py').is_file()
        yield f'{base}.{alias.name}' if is_module else base


def violations(source: Path) -> list[str]:
    """Return every import of the package in folder `source` that breaks a rule, one line each."""
    found = []
    for file in sorted(source.rglob('*.py')):
        module = name_of(file, source)
        if module and layer(module) is None:
            found.append(f'{module}: has no layer')
            continue
        for node, late, unread in imports(ast.parse(file.read_text())):
            for target in targets(node, file, source):
                wrong = judge(module, target, late, unread, source.name)
                if wrong:
                    found.append(f'{module or "__init__"}:{node.lineno}: {wrong}')
    return found


def judge(module: str, target: str, late: bool, unread: bool, package: str) -> str:
    """Return what is wrong with `module` importing `target`, or nothing."""
    if target == package or target.startswith(package + '.'):
        return judge_own(module, target[len(package) + 1 :], late or unread)
    top = target.split('.')[0]
    if top in FRAMEWORKS and not inside(module, FRAMEWORKS[top]):
        if inside(module, LATE.get(top, ())):
            return '' if late else f'{top} may only be imported inside a function here'
        return f'{top} may only be imported in {", ".join(FRAMEWORKS[top])}'
    if top in LATE_EVERYWHERE and not late and not inside(module, ('backends.torch', 'host.panel')):
        return f'{top} may only be imported inside a function'
    return ''


def judge_own(module: str, target: str, late: bool) -> str:
    if not target:  # the version of the package
        return ''
    if not module:
        return '' if late else f'the package may only import {target} lazily'
    for one, other in (('torch', 'tensorflow'), ('tensorflow', 'torch')):
        if inside(module, (f'backends.{one}',)) and inside(target, (f'backends.{other}',)):
            return f'backends.{one} imports backends.{other}'
    own, asked = layer(module), layer(target)
    if asked is None:
        return f'{target} has no layer'
    assert own is not None
    return f'layer {own} imports {target} of layer {asked}' if asked > own else ''


def test_the_package_obeys():
    assert violations(SOURCE) == []


def test_the_checker_reads_the_package():
    """An empty walk would pass everything."""
    seen = {name_of(f, SOURCE) for f in SOURCE.rglob('*.py')}
    assert {'', 'errors', 'archive', 'backends.torch.network', 'cli', 'pipeline'} <= seen


def plant(tmp_path: Path, name: str, text: str) -> list[str]:
    source = tmp_path / 'ptychopinn_plugin'
    names = (
        '__init__.py', 'errors.py', 'config.py', 'plan.py', 'pipeline.py', 'backends/__init__.py',
        'backends/torch/network.py', 'backends/tensorflow/network.py', 'cli/__init__.py',
        'simulate.py', 'host/panel.py', 'host/convert.py', 'files/hdf5.py',
    )  # fmt: skip
    for each in names:
        path = source / each
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('')
    (source / name).write_text(text)
    return violations(source)


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('errors.py', 'from .config import x', 'errors:1: layer 0 imports config of layer 1'),
        ('errors.py', 'from . import config', 'layer 0 imports config of layer 1'),
        ('errors.py', 'import ptychopinn_plugin.config', 'layer 0 imports config of layer 1'),
        ('errors.py', 'from ptychopinn_plugin import config', 'layer 0 imports config of layer 1'),
        ('plan.py', 'def f():\n    from . import pipeline', 'plan:2: layer 2 imports pipeline'),
        ('plan.py', 'class A:\n  def f(self):\n    from .cli import x', 'layer 2 imports cli'),
        ('plan.py', 'try:\n  from .cli import x\nexcept E: pass', 'layer 2 imports cli'),
        ('plan.py', 'from .backends.torch.network import x', 'layer 2 imports backends.torch'),
        ('plan.py', 'def f():\n    import torch', 'torch may only be imported in backends.torch'),
        ('plan.py', 'import lightning.pytorch', 'lightning may only be imported in'),
        ('plan.py', 'from keras import x', 'keras may only be imported in'),
        ('plan.py', 'import h5py', 'h5py may only be imported inside a function'),
        ('plan.py', 'from matplotlib.figure import Figure', 'matplotlib may only be imported'),
        ('plan.py', 'def f():\n  import ptychodus.api', 'ptychodus may only be imported in host'),
        ('simulate.py', 'import ptychodus.api', 'inside a function here'),
        ('files/hdf5.py', 'from ptychodus.api import x', 'inside a function here'),
        ('files/hdf5.py', 'from ..pipeline import x', 'files.hdf5:1: layer 2 imports pipeline'),
        ('host/convert.py', 'from PyQt5 import QtCore', 'PyQt5 may only be imported in host.panel'),
        ('backends/torch/network.py', 'import tensorflow', 'tensorflow may only be imported in'),
        (
            'backends/torch/network.py',
            'from ..tensorflow import network',
            'imports backends.tensorf',
        ),
        (
            'backends/tensorflow/network.py',
            'from ..torch.network import x',
            'imports backends.torch',
        ),
        ('backends/torch/network.py', 'from ...pipeline import x', 'layer 3 imports pipeline'),
        ('__init__.py', 'from .pipeline import train', 'may only import pipeline lazily'),
        ('helpers.py', '', 'helpers: has no layer'),
    ],
)
def test_the_checker_finds_a_planted_violation(tmp_path, name, text, message):
    found = plant(tmp_path, name, text)
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('config.py', 'from .errors import x\nimport numpy'),
        ('config.py', 'from . import __version__'),
        ('plan.py', 'from .config import x\ndef f():\n    import h5py'),
        ('simulate.py', 'def f():\n    from ptychodus.api.simulate import x'),
        ('backends/torch/network.py', 'import torch, lightning\nfrom ...plan import plan'),
        ('host/panel.py', 'from PyQt5.QtWidgets import x\nimport ptychodus'),
        ('__init__.py', 'def __getattr__(n):\n    from .pipeline import train'),
        ('__init__.py', 'if TYPE_CHECKING:\n    from .pipeline import train'),
    ],
)
def test_the_checker_lets_good_imports_pass(tmp_path, name, text):
    assert plant(tmp_path, name, text) == []


HEAVY = ('torch', 'lightning', 'tensorflow', 'ptychodus', 'matplotlib', 'rich', 'skimage', 'h5py')


def loaded_by(statement: str) -> list[str]:
    code = f'import sys; {statement}; print([m for m in {HEAVY!r} if m in sys.modules])'
    ran = subprocess.run(
        [sys.executable, '-c', code],
        cwd=SOURCE.parent, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return list(ast.literal_eval(ran.stdout))


@pytest.mark.parametrize(
    'statement',
    [
        'import ptychopinn_plugin',
        'import ptychopinn_plugin.archive, ptychopinn_plugin.backends.registry as r; r.available()',
    ],
)
def test_importing_loads_nothing_heavy(statement):
    assert loaded_by(statement) == []


def test_the_import_test_would_notice():
    assert loaded_by('import h5py') == ['h5py']
