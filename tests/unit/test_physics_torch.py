"""PyTorch's physics and losses against the oracle."""

from __future__ import annotations

import numpy as np
import pytest

from ptychopinn_plugin import reference as ref

torch = pytest.importorskip('torch')
losses = pytest.importorskip('ptychopinn_plugin.backends.torch.losses')
physics = pytest.importorskip('ptychopinn_plugin.backends.torch.physics')

N, SHAPE, B, P = 32, (57, 71), 9, 3
CASES = {'single': (torch.float32, 5e-6), 'double': (torch.float64, 1e-12)}


class Case:
    """The same random numbers for both sides, rounded to the precision of the tensors."""

    def __init__(self, dtype, tolerance):
        self.dtype, self.tolerance = dtype, tolerance
        rng = np.random.default_rng(11)
        self.object = self._complex(rng, *SHAPE)
        self.probe = self._complex(rng, P, N, N)
        self.patches = self._complex(rng, B, N, N)
        self.truth = self._complex(rng, B, N, N)
        self.shift = self._real(rng.uniform(-0.5, 0.5, (B, 2)))
        self.corner = np.stack([rng.integers(0, s - N + 1, B) for s in SHAPE], -1)
        self.counts = self._real(rng.poisson(20, (B, N, N)))
        self.expected = self._real(rng.uniform(0, 40, (B, N, N)))
        self.good = rng.random((N, N)) > 0.1

    def _real(self, values):
        return np.asarray(values, 'f4' if self.dtype == torch.float32 else 'f8')

    def _complex(self, rng, *shape):
        wave = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
        return wave.astype('c8' if self.dtype == torch.float32 else 'c16')

    def close(self, got, wanted):
        """Compare with the oracle by the largest number, and the kind of number by its width."""
        assert got.dtype in (self.dtype, self.dtype.to_complex())
        wanted = np.asarray(wanted)
        assert tuple(got.shape) == wanted.shape
        error = np.abs(got.detach().numpy() - wanted).max()
        assert error <= self.tolerance * np.abs(wanted).max()


@pytest.fixture(params=CASES)
def case(request):
    return Case(*CASES[request.param])


def t(*arrays):
    made = [torch.from_numpy(a) for a in arrays]
    return made if len(made) > 1 else made[0]


def test_shift_phase(case):
    case.close(physics.shift_phase(t(case.shift), N), ref.shift_phase(case.shift, N))


def test_shift_probe(case):
    got = physics.shift_probe(*t(case.probe, case.shift))
    case.close(got, ref.shift_probe(case.probe, case.shift))


@pytest.mark.parametrize('grad', [False, True])
def test_extract(case, grad):
    object_ = t(case.object).requires_grad_(grad)
    got = physics.extract(object_, t(case.corner), N)
    np.testing.assert_array_equal(got.detach().numpy(), ref.extract(case.object, case.corner, N))


def test_gradient_of_extract_is_merge(case):
    object_ = t(case.object).requires_grad_()
    physics.extract(object_, t(case.corner), N).backward(t(case.patches))
    case.close(object_.grad, ref.merge(case.patches, case.corner, SHAPE))


def test_merge(case):
    got = physics.merge(*t(case.patches, case.corner), SHAPE)
    case.close(got, ref.merge(case.patches, case.corner, SHAPE))


def test_far_field_and_intensity(case):
    case.close(physics.far_field(t(case.probe)), ref.far_field(case.probe))
    case.close(physics.intensity(t(case.probe)), ref.intensity(case.probe))


@pytest.mark.parametrize('own', [False, True])
def test_diffract(case, own):
    probes = case.probe[None]
    if own:  # a probe for each pattern
        probes = np.concatenate([probes * (i + 1) for i in range(B)])
    case.close(physics.illuminate(*t(case.patches, probes)), ref.illuminate(case.patches, probes))
    case.close(physics.diffract(*t(case.patches, probes)), ref.diffract(case.patches, probes))


@pytest.mark.parametrize('name', ['poisson', 'amplitude'])
def test_losses(case, name):
    oracle = {'poisson': ref.poisson_loss, 'amplitude': ref.amplitude_loss}[name]
    got = losses.LOSSES[name](*t(case.expected, case.counts, case.good))
    # Sums of some thousand terms that partly cancel.
    case.tolerance *= 10
    case.close(got, oracle(case.expected, case.counts, case.good))
    assert losses.LOSSES[name](*t(case.counts, case.counts, case.good)).item() == 0


def test_patch_loss(case):
    weight = np.abs(case.truth) ** 2
    got = losses.patch_loss(*t(case.patches, case.truth, weight))
    case.close(got, ref.patch_loss(case.patches, case.truth, weight))


@pytest.mark.parametrize('name', ['poisson', 'amplitude'])
def test_gradients_of_losses(name):
    """Against differences of the oracle, at a dark pixel too."""
    oracle = {'poisson': ref.poisson_loss, 'amplitude': ref.amplitude_loss}[name]
    expected = np.array([[[0.0, 2.0], [5.0, 9.0]]])
    counts, good = np.array([[[0.0, 3.0], [4.0, 9.0]]]), np.array([[True, True], [True, False]])
    tensor = t(expected).requires_grad_()
    losses.LOSSES[name](tensor, *t(counts, good)).backward()
    step, wanted = 1e-6, np.zeros_like(expected)
    for at in np.ndindex(expected.shape):
        delta = np.zeros_like(expected)
        delta[at] = step
        rise = oracle(expected + delta, counts, good) - oracle(expected - delta, counts, good)
        wanted[at] = rise / (2 * step)
    np.testing.assert_allclose(tensor.grad.numpy(), wanted, atol=1e-6)
    assert wanted[0, 1, 1] == 0
    assert wanted[0, 1, 0] > 0 > wanted[0, 0, 1]
