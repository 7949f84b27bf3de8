"""The published Siemens star (Velociprobe), end to end; skipped where the data is not."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ptychopinn_plugin as pp
from ptychopinn_plugin.config import ReconstructionConfig, RuntimeConfig
from ptychopinn_plugin.files import load_object
from ptychopinn_plugin.slow_phase import mean_ramp

from .backends_under_test import BACKENDS

DATA = Path(__file__).resolve().parents[2] / 'shared' / 'data'
STAR = DATA / 'siemens_star_velociprobe.npz'
RUNTIME = RuntimeConfig(device='cpu')

pytestmark = pytest.mark.skipif(not STAR.exists(), reason='the reference data is not here')


@pytest.mark.parametrize('backend', BACKENDS)
def test_star(backend, tmp_path):
    """Three modes, 20 sweeps: 20 plain PIE sweeps reach 0.0102 on this scan."""
    begun = time.perf_counter()
    done = subprocess.run(
        [
            sys.executable, '-m', 'ptychopinn_plugin', 'reconstruct', str(STAR), '--probe-key',
            'reference_probe', '--sweeps', '20', '--output', 'star.h5', '--figure', 'star.png',
            '--backend', backend, '--json',
        ],
        capture_output=True, text=True, check=True, timeout=240, cwd=tmp_path,
    )  # fmt: skip
    report = json.loads(done.stdout.strip().splitlines()[-1])
    assert report['fourier_error'] <= 0.011
    assert report['seconds']['total'] <= time.perf_counter() - begun
    assert (tmp_path / 'star.png').stat().st_size > 100_000
    shape = load_object(tmp_path / 'star.h5').object.shape
    assert shape == pp.load_scan(STAR).frame.shape


ORIENTATIONS = [(swap, flip_y, flip_x) for swap in (0, 1) for flip_y in (0, 1) for flip_x in (0, 1)]


@pytest.mark.parametrize(('swap', 'flip_y', 'flip_x'), ORIENTATIONS)
def test_only_the_right_orientation_fits(swap, flip_y, flip_x):
    """Half of the frames, 6 sweeps: the stored positions against the 7 other flips and swaps."""
    scan = pp.load_scan(STAR, probe_key='reference_probe')
    positions = scan.positions_px.copy()
    for axis, flip in enumerate((flip_y, flip_x)):
        if flip:
            low, high = positions[:, axis].min(), positions[:, axis].max()
            positions[:, axis] = low + high - positions[:, axis]
    if swap:
        positions = positions[:, ::-1]
    turned = replace(scan, positions_px=positions, frame=None, object_guess=None).take(
        np.arange(0, len(scan), 2)
    )
    result = pp.reconstruct(
        turned, reconstruction=ReconstructionConfig('flat', sweeps=6), runtime=RUNTIME
    )
    if (swap, flip_y, flip_x) == (0, 0, 0):
        assert result.fourier_error < 0.012
    else:
        assert result.fourier_error > 0.03


@pytest.mark.parametrize('backend', BACKENDS)
def test_train_then_reconstruct_reports_the_estimate(backend, tmp_path):
    """PINN mode on the real scan runs through, on the smallest network and a few frames."""
    star = pp.load_scan(STAR, probe_key='reference_probe').take(np.arange(0, 516, 8))
    pp.save_scan(star, tmp_path / 'some.npz')
    model = tmp_path / 'model.h5.zip'
    run = [sys.executable, '-m', 'ptychopinn_plugin']
    subprocess.run(
        [*run, 'train', str(tmp_path / 'some.npz'), '--model', str(model), '--epochs', '1',
         '--architecture', 'autoencoder', '--n-filters-scale', '1', '--backend', backend],
        check=True, timeout=240,
    )  # fmt: skip
    done = subprocess.run(
        [*run, 'reconstruct', str(tmp_path / 'some.npz'), '--model', str(model), '--sweeps', '5',
         '--backend', backend, '--json'],
        capture_output=True, text=True, check=True, timeout=240,
    )  # fmt: skip
    report = json.loads(done.stdout.strip().splitlines()[-1])
    assert report['start'] == 'network'
    assert report['fourier_error'] < 0.5 * report['start_fourier_error']


def test_star_from_the_analytic_guess():
    """The probe refined to three modes; its tilt is not left on the object as a ramp."""
    config = ReconstructionConfig(sweeps=10, update_probe=True, probe_modes=3)
    scan = pp.load_scan(STAR)
    result = pp.reconstruct(scan, reconstruction=config, runtime=RUNTIME)
    assert result.probe.shape == (3, 128, 128)
    assert result.fourier_error < 0.013
    np.testing.assert_allclose(mean_ramp(result.image.object, result.weight), 0, atol=1e-3)


@pytest.mark.parametrize(('name', 'least'), [('photographs', 0.985), ('lines', 0.99)])
def test_reference_simulations(name, least):
    """Probe known, no model, 10 sweeps: plain PIE reaches 0.95 and 0.98 after 20."""
    scan = pp.load_scan(DATA / f'sim64_{name}.npz')
    result = pp.reconstruct(scan, reconstruction=ReconstructionConfig(sweeps=10), runtime=RUNTIME)
    score = pp.compare(result.image.object, scan.true_object, result.weight)
    assert score.phase_ssim >= least
