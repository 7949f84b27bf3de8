"""Patterns that lie beside the centre of the detector array."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ptychopinn_plugin import starts
from ptychopinn_plugin.centring import off_centre_px
from ptychopinn_plugin.config import ReconstructionConfig
from ptychopinn_plugin.host_step import HostStep
from ptychopinn_plugin.metrics import compare
from ptychopinn_plugin.scaling import normalised_probe
from ptychopinn_plugin.simulate import Simulation, simulate_scan
from ptychopinn_plugin.simulate.probes import make_probe
from ptychopinn_plugin.sweeper import refine
from ptychopinn_plugin.transforms import PLAIN

N = 64


@pytest.fixture(scope='module', params=['zone-plate', 'gaussian'])
def scan(request):
    return simulate_scan(
        Simulation(specimen='lines', probe=request.param, patterns=400, object_size_px=150, seed=8)
    )


def rolled(scan, roll):
    """The scan with its patterns moved by (y, x) [px]."""
    return replace(scan, counts=np.roll(scan.counts, roll, (1, 2)))


def test_the_displacement_of_a_mean_pattern_is_found():
    far = np.fft.fftshift(np.abs(np.fft.fft2(make_probe('zone-plate', N, 1)[0])) ** 2)
    good = np.ones((N, N), bool)
    assert off_centre_px(far, far, good) == pytest.approx((0, 0), abs=0.01)
    good[:, 30:33] = False
    moved = np.roll(far, (3, -2), (0, 1)) * good
    assert off_centre_px(7 * moved, far * good, good) == pytest.approx((3, -2), abs=0.3)


def test_a_centred_scan_has_no_ramp(scan):
    assert starts.common_ramp(scan) == (0, 0)


def test_a_ramp_is_common_to_the_patterns(scan):
    y, x = starts.common_ramp(rolled(scan, (2, -3)))
    assert np.array([y, x]) * N / (2 * np.pi) == pytest.approx([2, -3], abs=0.5)


@pytest.mark.parametrize('roll', [(2, -3), (0, 5)])
def test_the_start_is_as_good_as_with_centred_patterns(scan, roll):
    before = starts.best_start(scan)
    after = starts.best_start(rolled(scan, roll))
    assert after.name == before.name
    assert after.error < 1.15 * before.error


@pytest.mark.parametrize('settings', [{}, {'update_probe': True}])
def test_so_is_the_picture(scan, settings):
    found = []
    for seen in (scan, rolled(scan, (2, -3))):
        start = starts.best_start(seen).image
        config = ReconstructionConfig(sweeps=12, **settings)
        *_, last = refine(seen, start, normalised_probe(seen), config, lambda s: HostStep(s, PLAIN))
        found.append(compare(last.image.object, scan.true_object, last.image.weight).phase_ssim)
    centred, beside = found
    assert beside > centred - 0.01
