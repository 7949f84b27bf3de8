"""PyTorch against TensorFlow against the oracle. Tolerances and exceptions: specs/parity.md."""

from __future__ import annotations

import numpy as np
import pytest

from ptychopinn_plugin import reference

from .compute import NETWORKS, TRAININGS
from .conftest import BACKENDS

PHYSICS = ('shift_phase', 'shift_probe', 'extract', 'merge', 'far_field', 'diffract')


def distance(a, b):
    """Return the largest difference, relative to the largest value."""
    scale = np.abs(b).max()
    return float(np.abs(np.asarray(a) - b).max() / (scale if scale else 1))


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', PHYSICS)
def test_physics_is_the_oracles(computed, oracle, backend, name):
    assert distance(computed[backend][name], oracle[name]) < 1e-6


@pytest.mark.parametrize('name', PHYSICS)
def test_physics_is_the_same(computed, name):
    assert distance(computed['torch'][name], computed['tensorflow'][name]) < 1e-6


@pytest.mark.parametrize('backend', BACKENDS)
def test_the_sums_for_the_slow_phase_are_numpys(computed, backend):
    assert distance(computed[backend]['ramp_sums'], computed[backend]['ramp_sums_numpy']) < 1e-5


@pytest.mark.parametrize('backend', BACKENDS)
def test_the_sums_for_the_positions_are_numpys(computed, backend):
    assert distance(computed[backend]['shift_sums'], computed[backend]['shift_sums_numpy']) < 1e-5


def test_positions_are_corrected_alike(computed, given):
    a, b = (computed[k]['moved_positions'] for k in BACKENDS)
    assert np.abs(a - b).max() < 1e-3
    assert np.abs(a - given['positions_px']).max() > 0.05
    for k in BACKENDS:
        np.testing.assert_array_equal(computed[k]['refined_positions'], given['positions_px'])


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', ['poisson', 'amplitude'])
def test_losses_are_the_oracles(computed, oracle, given, backend, name):
    loss = getattr(reference, f'{name}_loss')
    expected = loss(oracle['diffract'], given['patterns'], oracle['good'])
    assert float(computed[backend][f'{name}_loss']) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('backend', BACKENDS)
def test_the_patch_loss_is_the_oracles(computed, oracle, given, backend):
    light = reference.intensity(oracle['probes'])
    expected = reference.patch_loss(oracle['extract'], given['other_patches'], light)
    assert float(computed[backend]['patch_loss']) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('name', ['poisson', 'amplitude'])
def test_gradients_are_central_differences_of_the_oracle(computed, oracle, given, backend, name):
    """Along eight random directions, in double precision."""
    loss = getattr(reference, f'{name}_loss')
    patches = given['other_patches'].astype(np.complex128)
    gradient = computed[backend][f'{name}_gradient'].astype(np.complex128)

    def at(x):
        return loss(reference.diffract(x, oracle['probes']), given['patterns'], oracle['good'])

    rng = np.random.default_rng(1)
    for _ in range(8):
        direction = rng.normal(size=patches.shape) + 1j * rng.normal(size=patches.shape)
        step = 1e-5
        slope = (at(patches + step * direction) - at(patches - step * direction)) / (2 * step)
        along = (gradient.conj() * direction).real.sum()
        assert along == pytest.approx(slope, rel=2e-4, abs=2e-6 * np.abs(gradient).sum())


@pytest.mark.parametrize('name', ['poisson', 'amplitude'])
def test_gradients_are_the_same(computed, name):
    a, b = (computed[k][f'{name}_gradient'] for k in BACKENDS)
    assert distance(a, b) < 2e-6


@pytest.mark.parametrize('name', NETWORKS)
def test_the_same_weights_give_the_same_patches(computed, name):
    a, b = (computed[k][f'network_{name}'] for k in BACKENDS)
    assert a.shape == b.shape
    assert distance(a, b) < 1e-5
    a, b = (computed[k][f'weights_{name}'] for k in BACKENDS)
    np.testing.assert_array_equal(a, b)


def test_the_network_of_the_canvas_answers_and_learns_alike(computed):
    a, b = (computed[k] for k in BACKENDS)
    np.testing.assert_array_equal(a['canvas_weights'], b['canvas_weights'])
    assert distance(a['canvas_answer'], b['canvas_answer']) < 1e-5
    assert distance(a['canvas_corrected'], b['canvas_corrected']) < 1e-4
    assert distance(a['canvas_missing'], b['canvas_missing']) < 1e-3  # twenty sweeps apart
    np.testing.assert_allclose(a['canvas_losses'], b['canvas_losses'], rtol=1e-3)
    assert np.ptp(a['canvas_losses']) > 1e-3
    moved = np.linalg.norm(a['canvas_moved'] - b['canvas_moved'])
    assert moved / np.linalg.norm(b['canvas_moved']) < 2e-2


def test_training_starts_from_the_same_weights(computed):
    names = [k for k in computed['torch'] if k.startswith('drawn_')]
    assert names
    for name in names:
        np.testing.assert_array_equal(computed['torch'][name], computed['tensorflow'][name])
        assert 0.01 < computed['torch'][name].std() < 1


@pytest.mark.parametrize('gridsize', [1, 2])
@pytest.mark.parametrize('name', TRAININGS)
def test_five_training_steps_are_the_same(computed, name, gridsize):
    """Adam divides by the root of tiny squares: weights may differ where gradients are noise."""
    a, b = (computed[k][f'losses_{name}_{gridsize}'] for k in BACKENDS)
    np.testing.assert_allclose(a[:2], b[:2], rtol=1e-5)
    np.testing.assert_allclose(a, b, rtol=1e-3)
    assert not np.allclose(a, a[0], rtol=1e-2)
    a, b = (computed[k][f'moved_{name}_{gridsize}'] for k in BACKENDS)
    assert np.linalg.norm(a - b) / np.linalg.norm(b) < 2e-2


@pytest.mark.parametrize(
    ('name', 'tolerance'),
    [('estimate', 1e-5), ('estimate_weight', 1e-5), ('sweep_object', 1e-5),
     ('probe_sweep_object', 1e-4), ('probe_sweep_probe', 1e-4), ('refined_object', 1e-4),
     ('uneven_object', 1e-4), ('uneven_pattern', 1e-4), ('refined_pattern', 1e-4),
     ('moved_object', 1e-3), ('sweep_pattern', 1e-4)],
)  # fmt: skip
def test_reconstruction_is_the_same(computed, name, tolerance):
    a, b = (computed[k][name] for k in BACKENDS)
    assert distance(a, b) < tolerance


@pytest.mark.parametrize('name', ['sweep', 'probe_sweep', 'refined', 'moved', 'uneven'])
def test_the_errors_are_the_same(computed, name):
    for what in ('loss', 'error'):
        a, b = (float(computed[k][f'{name}_{what}']) for k in BACKENDS)
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize('backend', ['torch', 'tensorflow'])
@pytest.mark.parametrize(
    'key', ['device', 'device_probe', 'device_moved', 'device_steady', 'device_uneven']
)
@pytest.mark.parametrize('what', ['object', 'probe', 'positions', 'errors', 'pattern'])
def test_the_steps_for_a_gpu_do_what_the_cpu_does(computed, backend, key, what):
    """The CPU moves probes to 5e-5; an updated probe and the object share what that leaves open."""
    found = computed[backend]
    limit = 1e-3 if key == 'device_probe' else 1e-4
    assert distance(found[f'{key}_graph_{what}'], found[f'{key}_memory_{what}']) < limit


@pytest.mark.parametrize('backend', ['torch', 'tensorflow'])
@pytest.mark.parametrize('where', ['graph', 'memory'])
def test_an_unsteady_sweep_changes_those_after_it(computed, backend, where):
    found = computed[backend]
    steady, other = (found[f'{k}_{where}_object'] for k in ('device_steady', 'device'))
    assert distance(steady, other) > 1e-3


def test_from_a_flat_object_the_errors_agree_in_the_end(computed):
    """A flat object leaves pixels dark whose phase is then rounding noise, another in each."""
    a, b = (float(computed[k]['flat_error']) for k in BACKENDS)
    assert a == pytest.approx(b, rel=0.1)


def test_the_comparison_would_notice(computed):
    """Another network is another picture: the tolerances do not hide everything."""
    a, b = computed['torch']['network_one'], computed['torch']['network_plain'][..., :32, :32]
    assert distance(a, b) > 0.1
