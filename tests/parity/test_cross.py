"""A model trained with one framework opens in the other and gives the same picture."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from ptychopinn_plugin.files import load_object, save_scan
from ptychopinn_plugin.simulate import Simulation, simulate_scan

from .conftest import BACKENDS

TINY = (
    '--architecture',
    'autoencoder',
    '--epochs',
    '3',
    '--n-filters-scale',
    '1',
    '--batch-size',
    '32',
    '--device',
    'cpu',
)


def command(*argv, code=0):
    done = subprocess.run(
        [sys.executable, '-m', 'ptychopinn_plugin', *map(str, argv), '--json'],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1]), done.stderr


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp('cross')
    for name, seed in (('train', 1), ('test', 2)):
        scan = simulate_scan(
            Simulation(pattern_size_px=32, object_size_px=100, patterns=200, seed=seed)
        )
        save_scan(scan, made / f'{name}.npz')
    return made


@pytest.fixture(scope='module')
def models(folder):
    """Return {back end: model file}, each of three epochs."""
    files = {b: folder / f'{b}.h5.zip' for b in BACKENDS}
    for backend, file in files.items():
        report, _ = command('train', folder / 'train.npz', '--model', file, '--backend', backend,
                            *TINY)  # fmt: skip
        assert report['backend'] == backend
    return files


@pytest.mark.parametrize('writer', BACKENDS)
def test_either_opens_it_and_sees_the_same(folder, models, writer):
    pictures = {}
    for reader in BACKENDS:
        target = folder / f'{writer}-{reader}.npz'
        report, _ = command('reconstruct', folder / 'test.npz', '--model', models[writer],
                            '--backend', reader, '--sweeps', '5', '--output', target)  # fmt: skip
        assert (report['backend'], report['start']) == (reader, 'network')
        pictures[reader] = load_object(target).object
    a, b = pictures.values()
    assert np.abs(a - b).max() < 1e-4 * np.abs(b).max()


@pytest.mark.parametrize('writer', BACKENDS)
def test_info_says_who_wrote_it_and_that_either_opens_it(models, writer):
    facts, _ = command('info', models[writer])
    assert facts['writer'] == writer
    assert facts['opens_with'] == list(BACKENDS)
    assert writer in facts['versions']


@pytest.mark.parametrize(('writer', 'trainer'), [BACKENDS, BACKENDS[::-1]])
def test_training_goes_on_from_the_others_model_with_a_fresh_optimizer(
    folder, models, writer, trainer
):
    _, told = command('train', folder / 'train.npz', '--model', folder / 'more.h5.zip', '--initial',
                      models[writer], '--backend', trainer, *TINY)  # fmt: skip
    assert f'weights of a model that {writer} trained; the optimizer begins afresh' in told


@pytest.mark.parametrize(('writer', 'trainer'), [BACKENDS, BACKENDS[::-1]])
def test_the_others_checkpoints_are_not_resumed_in_silence(folder, models, writer, trainer):
    report, _ = command('train', folder / 'train.npz', '--model', models[writer], '--resume',
                        '--backend', trainer, *TINY, code=2)  # fmt: skip
    assert f'There is no training of {trainer} to resume' in report['error']
    assert f'Choose the back end {writer}' in report['error']


HOST = """
import json, sys
from pathlib import Path
from ptychodus.model import ModelCore
FOLDER, KEY = Path(sys.argv[1]), 'ptychopinn-plugin_pinn'
def value(core, group, key, v):
    core.settings_registry['PtychoPINNPlugin' + group].parameters()[key].set_value(v)
def main():
    losses = {}
    with ModelCore() as core:
        flow, api = core.workflow_api, core.processing_core.processing_api
        d = flow.load_assembled_diffraction_data(FOLDER / 'diffraction.h5')
        p = flow.load_product(FOLDER / 'product.h5', diffraction=d)
        value(core, 'Training', 'Epochs', 1)
        value(core, 'Model', 'NFiltersScale', 1)
        value(core, 'Reconstruction', 'Sweeps', 5)
        for writer in ('torch', 'tensorflow'):
            value(core, 'Runtime', 'Backend', writer)
            p.train_reconstructor_local(FOLDER, FOLDER, algorithm=KEY, block=True)
            api.save_model_to_file(FOLDER / f'{writer}.h5.zip')
        for writer in ('torch', 'tensorflow'):
            for reader in ('torch', 'tensorflow'):
                value(core, 'Runtime', 'Backend', reader)
                api.load_model_from_file(FOLDER / f'{writer}.h5.zip')
                out = p.reconstruct_local(block=True).get_product()
                losses[f'{writer} {reader}'] = [v.value for v in out.losses]
    assert not {'torch', 'tensorflow'} & set(sys.modules)
    print(json.dumps(losses))
if __name__ == '__main__':
    main()
"""


def test_every_combination_works_through_the_host(folder):
    """Train, save, load, reconstruct in one Ptychodus; the frameworks meet in no process."""
    from ptychopinn_plugin.files import load_scan

    save_scan(load_scan(folder / 'test.npz'), folder)
    done = subprocess.run(
        [sys.executable, '-c', HOST, str(folder)], capture_output=True, text=True, timeout=280,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    losses = json.loads(done.stdout.strip().splitlines()[-1])
    for writer in BACKENDS:
        a, b = (losses[f'{writer} {reader}'] for reader in BACKENDS)
        np.testing.assert_allclose(a, b, rtol=1e-4)
        assert a[-1] < a[0]
