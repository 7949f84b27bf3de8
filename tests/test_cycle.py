"""train -> save -> load -> reconstruct, each step its own process, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from .backends_under_test import BACKENDS


def command(*argv):
    done = subprocess.run(
        [sys.executable, '-m', 'ptychopinn_plugin', *map(str, argv), '--json'],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize('backend', BACKENDS)
def test_train_save_load_infer_cycle(backend, tmp_path):
    train, test, model = tmp_path / 'train.npz', tmp_path / 'test.npz', tmp_path / 'model.h5.zip'
    for path, seed in ((train, 1), (test, 2)):
        command('simulate', path, '--pattern-size-px', 32, '--object-size-px', 100,
                '--patterns', 200, '--seed', seed)  # fmt: skip
    trained = command(
        'train', train, '--model', model, '--backend', backend, '--epochs', 3, '--device', 'cpu',
        '--architecture', 'autoencoder',
    )  # fmt: skip
    assert trained['backend'] == backend
    assert trained['training_loss'][-1] < trained['training_loss'][0]
    facts = command('info', model)
    assert backend in json.dumps(facts)
    product = tmp_path / 'product.h5'
    result = command(
        'reconstruct', test, '--model', model, '--start', 'network', '--sweeps', 15,
        '--backend', backend, '--device', 'cpu', '--output', product,
    )  # fmt: skip
    assert result['backend'] == backend
    assert result['start'] == 'network'
    assert result['fourier_error'] < 0.1 * result['start_fourier_error']
    assert result['phase_ssim'] > 0.9
    assert command('compare', product, test)['phase_ssim'] == pytest.approx(
        result['phase_ssim'], abs=0.01
    )
