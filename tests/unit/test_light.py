"""Where the light of a scan falls, and how often a place is seen."""

from __future__ import annotations

import numpy as np
import pytest

from ptychopinn_plugin.geometry import illumination
from ptychopinn_plugin.light import light_of
from ptychopinn_plugin.scaling import normalised_probe
from ptychopinn_plugin.simulate import Simulation, simulate_scan


def test_light_is_the_illumination_in_photons(small_scan):
    probe = normalised_probe(small_scan)
    light = light_of(small_scan, probe)
    expected = illumination(small_scan, probe)
    np.testing.assert_allclose(light.photons, expected, atol=1e-5 * expected.max())
    assert light.relative.max() == 1
    assert light.views.min() >= 1
    assert light.views.max() <= len(small_scan)


def test_views_count_the_patterns(small_scan):
    """Ten times the same place are ten views where the light is."""
    again = small_scan.take(np.zeros(10, int))
    light = light_of(again, normalised_probe(small_scan))
    assert light.views[light.relative > 0.5] == pytest.approx(10, rel=1e-3)


def test_sparse_is_a_scan_of_few_overlaps():
    found = {}
    for patterns in (100, 700):
        scan = simulate_scan(Simulation(patterns=patterns, object_size_px=220, seed=3))
        found[patterns] = light_of(scan, normalised_probe(scan)).sparse
    assert found == {100: True, 700: False}
