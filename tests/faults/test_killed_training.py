"""A training that is killed goes on from its last checkpoint, to the same losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from ptychopinn_plugin import files
from ptychopinn_plugin.backends.training_folder import RESUME_FILES

from ..backends_under_test import BACKENDS

EPOCHS, KILLS = 10, 2


@pytest.fixture
def train(small_scan, tmp_path):
    files.save_scan(small_scan, tmp_path / 'scan.npz')

    def start(backend, name, *more):
        command = [
            sys.executable, '-m', 'ptychopinn_plugin', 'train', tmp_path / 'scan.npz',
            '--model', tmp_path / f'{name}.h5.zip', '--backend', backend, '--device', 'cpu',
            '--architecture', 'autoencoder', '--n-filters-scale', '1', '--epochs', str(EPOCHS),
            '--batch-size', '8', '--json', *more,
        ]  # fmt: skip
        return subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return start


def losses(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()[-2000:]
    report = json.loads(out)
    return np.array([report['training_loss'], report['validation_loss']])


@pytest.mark.skipif(os.name != 'posix', reason='no SIGKILL')
@pytest.mark.parametrize('backend', BACKENDS)
def test_resumes_to_the_same_losses(backend, train, tmp_path):
    whole, rng = losses(train(backend, 'whole')), np.random.default_rng(5)
    checkpoint = tmp_path / 'cut.training' / RESUME_FILES[backend]
    more = []
    for _ in range(KILLS):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = train(backend, 'cut', *more)
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
            assert process.poll() is None, process.communicate()[1].decode()[-2000:]
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.3))  # in the middle of an epoch, or of writing its checkpoint
        process.kill()
        process.communicate()
        assert not (tmp_path / 'cut.h5.zip').exists(), 'it was killed too late'
        more = ['--resume']
    resumed = losses(train(backend, 'cut', '--resume'))
    np.testing.assert_allclose(resumed, whole, rtol=1e-6)
