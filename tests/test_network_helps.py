"""The network that comes with the plug-in, on scans that nobody trained or chose it on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ptychopinn_plugin as pp
from ptychopinn_plugin.config import UNROLLED, ReconstructionConfig, RuntimeConfig
from ptychopinn_plugin.pretrained import pretrained
from ptychopinn_plugin.simulate import Simulation, simulate_scan

from .backends_under_test import BACKENDS

DIM = {'patterns': 300, 'object_size_px': 192, 'photons_per_frame': 3e4}
SPARSE = {'scan': 'raster', 'step_px': 18.0, 'patterns': 100, 'object_size_px': 230}
BRIGHT = {'patterns': 300, 'object_size_px': 192, 'photons_per_frame': 1e7}


@pytest.fixture(scope='module')
def scores():
    made = {}

    def of(settings, backend):
        scan = simulate_scan(Simulation(specimen='leaves', seed=8101, **settings))
        for correction in (False, True):
            config = ReconstructionConfig(sweeps=10, network_correction=correction)
            result = pp.reconstruct(
                scan, reconstruction=config, runtime=RuntimeConfig(backend=backend)
            )
            made[correction] = pp.compare(result.image.object, scan.true_object, result.weight)
        return made

    return of


@pytest.mark.parametrize('backend', BACKENDS)
def test_few_photons_and_few_patterns_are_helped(scores, backend):
    for settings in (DIM, SPARSE):
        score = scores(settings, backend)
        assert score[True].phase_ssim > score[False].phase_ssim + 0.002
        assert score[True].amplitude_ssim > score[False].amplitude_ssim + 0.01


@pytest.mark.parametrize('settings', [DIM, SPARSE])
def test_scaled_counts_are_helped_as_photons_are(settings):
    scan = simulate_scan(Simulation(specimen='leaves', seed=8101, **settings))
    phase = {}
    for scale in (1, 1e-2, 1e-5):
        counts = scan.counts.astype(np.float32) * np.float32(scale)
        result = pp.reconstruct(
            replace(scan, counts=counts), reconstruction=ReconstructionConfig(sweeps=10)
        )
        score = pp.compare(result.image.object, scan.true_object, result.weight)
        phase[scale] = score.phase_ssim
    assert min(phase.values()) > phase[1] - 0.03


@pytest.mark.parametrize('backend', BACKENDS)
def test_many_photons_are_not_harmed(scores, backend):
    score = scores(BRIGHT, backend)
    assert score[True].phase_ssim > score[False].phase_ssim - 0.001
    assert score[True].amplitude_ssim > score[False].amplitude_ssim - 0.002


def test_the_model_says_what_it_is():
    model = pretrained()
    assert model.config.architecture == UNROLLED
    assert model.summary['trained_by'] == 'benchmarks/pretrain.py'
