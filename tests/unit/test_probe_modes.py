"""Modes of a probe: made, and made orthogonal, without changing the beam."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ptychopinn_plugin as pp
from ptychopinn_plugin.config import ReconstructionConfig
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.probe_modes import adjusted, orthogonal, power
from ptychopinn_plugin.reference import far_field, intensity
from ptychopinn_plugin.scaling import normalised_probe
from ptychopinn_plugin.simulate.probes import make_probe


def gram(probe):
    flat = probe.reshape(len(probe), -1)
    return flat @ flat.conj().T


@pytest.mark.parametrize('modes', [1, 2, 5])
def test_more_modes_of_the_same_power(modes):
    probe = (3 * make_probe('airy', 32, 2)).astype(np.complex64)
    made = adjusted(probe, modes)
    assert made.shape == (modes, 32, 32)
    assert made.dtype == np.complex64
    assert power(made) == pytest.approx(9)
    ratio = made[0] / probe[0]
    np.testing.assert_allclose(ratio[16], ratio[16, 16], rtol=1e-3)
    np.testing.assert_allclose(gram(made) - np.diag(np.diag(gram(made))), 0, atol=1e-4)


def test_orthogonal_modes_light_the_same():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, 3, 16, 16))
    probe = (noise[0] + 1j * noise[1]).astype(np.complex64)
    probe[1] += probe[0]
    made = orthogonal(probe)
    found = gram(made)
    assert (np.diff(np.diag(found).real) < 0).all()
    np.testing.assert_allclose(found - np.diag(np.diag(found)), 0, atol=1e-3)
    before, after = (intensity(far_field(p[None])) for p in (probe, made))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
    again = orthogonal(made)
    np.testing.assert_allclose(again, made, atol=1e-4)


def test_modes_are_guesses_without_an_update(toy, small_scan):
    with pytest.raises(ConfigError, match='only an update makes right'):
        pp.reconstruct(small_scan, reconstruction=ReconstructionConfig(probe_modes=3))


def without_light_in_two(small_scan):
    """As programs guess modes of which the first has all the light."""
    probe = np.zeros((3, 32, 32), np.complex64)
    probe[0] = small_scan.probe[0]
    return replace(small_scan, probe=probe)


@pytest.mark.parametrize(('modes', 'found'), [(0, 3), (1, 1), (2, 2), (3, 3), (4, 4)])
def test_modes_without_light_are_made_anew(toy, small_scan, modes, found):
    config = ReconstructionConfig(probe_modes=modes, update_probe=True, sweeps=1)
    scan = without_light_in_two(small_scan)
    probe = pp.reconstruct(scan, reconstruction=config).probe
    np.testing.assert_allclose(probe, adjusted(normalised_probe(small_scan), found), atol=1e-4)


def test_modes_without_light_stay_where_nothing_is_updated(toy, small_scan):
    scan = without_light_in_two(small_scan)
    probe = pp.reconstruct(scan, reconstruction=ReconstructionConfig(sweeps=1)).probe
    np.testing.assert_array_equal(probe, normalised_probe(scan))


def test_the_sweeps_get_the_modes(toy, small_scan):
    config = ReconstructionConfig(probe_modes=3, update_probe=True, sweeps=1)
    assert pp.reconstruct(small_scan, reconstruction=config).probe.shape == (3, 32, 32)
