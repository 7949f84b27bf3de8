"""One framework, the other, or none: the package, the menu and `doctor` work in all three.

`sitecustomize` hides what is to be missing from every process, the worker's child included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ptychopinn_plugin.backends.registry import BACKENDS
from ptychopinn_plugin.files import save_scan

HIDE = """
import os
from importlib.machinery import PathFinder
hidden = os.environ['HIDDEN'].split(',')
original = PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.split('.')[0] in hidden else original(name, path, target)
PathFinder.find_spec = staticmethod(find_spec)
"""
FRAMEWORKS = {'torch': ('torch', 'lightning'), 'tensorflow': ('tensorflow', 'keras')}
CASES = {
    'only tensorflow': FRAMEWORKS['torch'],
    'only torch': FRAMEWORKS['tensorflow'],
    'none': FRAMEWORKS['torch'] + FRAMEWORKS['tensorflow'],
}
MENU = """
import json
from ptychodus.model import ModelCore
def main():
    core = ModelCore()
    print(json.dumps(list(core.processing_core.processing_api.available_reconstructors())))
if __name__ == '__main__':
    main()
"""
IN_HOST = """
import sys
from pathlib import Path
from ptychodus.model import ModelCore
def main():
    with ModelCore() as core:
        flow, folder = core.workflow_api, Path(sys.argv[1])
        d = flow.load_assembled_diffraction_data(folder / 'diffraction.h5')
        p = flow.load_product(folder / 'product.h5', diffraction=d)
        core.settings_registry['PtychoPINNPluginRuntime'].parameters()['Backend'].set_value(sys.argv[2])
        p.reconstruct_local(algorithm='ptychopinn-plugin_pinn', block=True)
if __name__ == '__main__':
    main()
"""


@pytest.fixture(params=CASES)
def hidden(request, tmp_path):
    """Return (the missing back ends, a function that runs Python without them)."""
    (tmp_path / 'site').mkdir()
    (tmp_path / 'site' / 'sitecustomize.py').write_text(HIDE)
    names = CASES[request.param]
    environment = {
        **os.environ, 'HIDDEN': ','.join(names), 'PYTHONPATH': str(tmp_path / 'site'),
    }  # fmt: skip

    def run(*argv):
        return subprocess.run(
            [sys.executable, *map(str, argv)], capture_output=True, text=True, timeout=120,
            env=environment, check=False,
        )  # fmt: skip

    return [b for b in BACKENDS if FRAMEWORKS[b][0] in names], run


def last_json(done):
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_the_package_and_the_menu_work(hidden):
    _, run = hidden
    assert run('-c', 'import ptychopinn_plugin, ptychopinn_plugin.pipeline').returncode == 0
    done = run('-c', MENU)
    assert done.returncode == 0, done.stderr
    assert 'ptychopinn-plugin_pinn' in last_json(done)


def test_doctor_says_what_is_missing_and_how_to_get_it(hidden):
    missing, run = hidden
    done = run('-m', 'ptychopinn_plugin', 'doctor', '--json')
    assert done.returncode == 0, done.stderr
    report = last_json(done)
    for name in BACKENDS:
        state = report['backends'][name]
        if name in missing:
            assert state['ready'] is False
            assert state['install'] == BACKENDS[name].pip
    left = [n for n in BACKENDS if n not in missing and report['backends'][n]['ready']]
    assert report['auto'] == (left[0] if left else None)


def test_choosing_a_missing_one_fails_with_the_pip_line(hidden, small_scan, tmp_path):
    missing, run = hidden
    save_scan(small_scan, tmp_path / 'scan.npz')
    for name in missing:
        done = run('-m', 'ptychopinn_plugin', 'reconstruct', tmp_path / 'scan.npz',
                   '--sweeps', '1', '--backend', name)  # fmt: skip
        assert done.returncode == 1
        assert f'error: Back end {name} is not installed' in done.stderr
        assert BACKENDS[name].pip in done.stderr
    if len(missing) == len(BACKENDS):
        done = run('-m', 'ptychopinn_plugin', 'reconstruct', tmp_path / 'scan.npz')
        assert done.returncode == 1
        assert 'No back end is installed' in done.stderr


def test_in_the_host_it_is_the_same_error(hidden, host_folder):
    missing, run = hidden
    done = run('-c', IN_HOST, host_folder, missing[0])
    assert done.returncode != 0
    assert f'Back end {missing[0]} is not installed' in done.stderr
    assert BACKENDS[missing[0]].pip in done.stderr
