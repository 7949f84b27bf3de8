"""The oracle against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from ptychopinn_plugin import reference as ref

N = 16


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def noise(rng, *shape):
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def test_empty_object_gives_the_pattern_of_the_probe(rng):
    probe = noise(rng, 1, N, N)
    got = ref.diffract(np.ones((1, N, N)), probe[None])
    k = np.arange(N) - N // 2
    dft = np.exp(-2j * np.pi * np.outer(k, np.arange(N)) / N) / np.sqrt(N)
    np.testing.assert_allclose(got[0], np.abs(dft @ probe[0] @ dft.T) ** 2, atol=1e-12)


def test_plane_wave_is_one_bright_pixel_in_the_middle():
    got = ref.diffract(np.ones((1, N, N)), np.full((1, 1, N, N), 3.0))
    wanted = np.zeros((N, N))
    wanted[N // 2, N // 2] = 9 * N * N
    np.testing.assert_allclose(got[0], wanted, atol=1e-10)


def test_far_field_has_its_origin_in_the_middle():
    point = np.zeros((N, N))
    point[N // 2, N // 2] = N
    np.testing.assert_allclose(ref.far_field(point), np.ones((N, N)), atol=1e-12)
    point = np.roll(point, 1, axis=1)
    ramp = np.exp(-2j * np.pi * (np.arange(N) - N // 2) / N)
    np.testing.assert_allclose(ref.far_field(point), np.tile(ramp, (N, 1)), atol=1e-12)


def test_tilted_plane_wave_moves_the_bright_pixel_along_its_axis():
    tilt = np.exp(2j * np.pi * 3 * np.arange(N) / N)  # along x
    got = ref.diffract(np.broadcast_to(tilt, (1, N, N)), np.ones((1, 1, N, N)))
    assert np.unravel_index(got[0].argmax(), (N, N)) == (N // 2, N // 2 + 3)


@pytest.mark.parametrize('shift', [(2, 0), (0, -3), (-1, 5)])
def test_whole_shift_is_a_roll(rng, shift):
    probe = noise(rng, 2, N, N)
    got = ref.shift_probe(probe, np.array([shift, (0, 0)]))
    np.testing.assert_allclose(got[0], np.roll(probe, shift, (-2, -1)), atol=1e-12)
    np.testing.assert_allclose(got[1], probe, atol=1e-12)


def test_fractional_shift_is_a_phase_ramp_on_the_detector(rng):
    probe, (dy, dx) = noise(rng, 1, N, N), (0.3, -0.45)
    moved = ref.far_field(ref.shift_probe(probe, np.array([[dy, dx]]))[0])
    k = np.arange(N) - N // 2
    ramp = np.exp(-2j * np.pi * (k[:, None] * dy + k * dx) / N)
    np.testing.assert_allclose(moved, ref.far_field(probe) * ramp, atol=1e-12)


def test_fractional_shift_moves_a_smooth_beam_where_it_should_be():
    r = np.arange(N) - (N - 1) / 2
    beam = np.exp(-((r[:, None] - 0.25) ** 2 + (r + 0.4) ** 2) / 6)
    still = np.exp(-(r[:, None] ** 2 + r**2) / 6)
    got = ref.shift_probe(still[None], np.array([[0.25, -0.4]]))[0, 0]
    np.testing.assert_allclose(got, beam, atol=2e-4)


def test_parseval(rng):
    patches, probes = noise(rng, 3, N, N), noise(rng, 3, 2, N, N)
    exit_power = (np.abs(ref.illuminate(patches, probes)) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(ref.diffract(patches, probes).sum((1, 2)), exit_power, rtol=1e-12)


def test_extract_reads_rows_then_columns():
    object_ = np.arange(30 * 40).reshape(30, 40)
    got = ref.extract(object_, np.array([[5, 21]]), 8)[0]
    assert got[0, 0] == 5 * 40 + 21
    assert got[2, 7] == 7 * 40 + 28
    assert got.shape == (8, 8)


def test_merge_is_the_adjoint_of_extract(rng):
    shape = (29, 37)
    corner = np.stack([rng.integers(0, 29 - N, 25), rng.integers(0, 37 - N, 25)], -1)
    x, y = noise(rng, *shape), noise(rng, 25, N, N)
    left = np.vdot(ref.extract(x, corner, N), y)
    right = np.vdot(x, ref.merge(y, corner, shape))
    assert abs(left - right) < 1e-12 * abs(left)


def test_merge_adds_where_windows_overlap():
    got = ref.merge(np.ones((2, 8, 8)), np.array([[0, 0], [0, 4]]), (8, 12))
    np.testing.assert_array_equal(got[0].real, [1] * 4 + [2] * 4 + [1] * 4)


def test_modes_add_incoherently(rng):
    patches, probes = noise(rng, 2, N, N), noise(rng, 2, 3, N, N)
    each = sum(ref.diffract(patches, probes[:, i : i + 1]) for i in range(3))
    np.testing.assert_allclose(ref.diffract(patches, probes), each, rtol=1e-12)
    coherent = ref.diffract(patches, probes.sum(1, keepdims=True))
    assert np.abs(coherent - each).max() > 0.1 * each.max()


LOSSES = [ref.poisson_loss, ref.amplitude_loss]


@pytest.mark.parametrize('loss', LOSSES)
def test_losses_are_zero_at_the_data_and_positive_elsewhere(loss, rng):
    counts = rng.poisson(5, (2, N, N)).astype(float)
    good = np.ones((N, N))
    assert loss(counts, counts, good) == 0
    assert loss(counts * 1.01, counts, good) > 0
    assert loss(counts * 0.99, counts, good) > 0


@pytest.mark.parametrize('loss', LOSSES)
def test_bad_pixels_drop_out(loss, rng):
    counts, expected = rng.poisson(5, (2, N, N)).astype(float), rng.uniform(1, 9, (2, N, N))
    good = rng.random((N, N)) > 0.2
    spoiled, other = np.where(good, counts, 65535), np.where(good, expected, 0)
    value = loss(expected, counts, good)
    assert loss(other, spoiled, good) == pytest.approx(value, rel=1e-12)
    assert loss(expected, spoiled, np.ones((N, N))) != pytest.approx(value, rel=0.1)


def test_losses_by_hand():
    """One pixel expects 4 and reads 1, its neighbour reads the 3 it expects."""
    expected, counts = np.array([[[4.0, 3.0]]]), np.array([[[1.0, 3.0]]])
    good = np.ones((1, 2))
    deviance = 4.01 - 1.01 + 1.01 * np.log(1.01 / 4.01)
    assert ref.poisson_loss(expected, counts, good) == pytest.approx(deviance / 4, rel=1e-12)
    assert ref.poisson_loss(expected, counts, good) == pytest.approx(0.4018427, abs=1e-7)
    assert ref.amplitude_loss(expected, counts, good) == pytest.approx(
        (2.0024984 - 1.0049876) ** 2 / 4, abs=1e-7
    )


def test_losses_of_dark_patterns_are_finite():
    dark, good = np.zeros((1, 2, 2)), np.ones((2, 2))
    # Nothing counted: the divisor is one count. 4 (l - n + n log(n / l)) with n = 0.01, l = 1.01.
    wanted = 4 * (1 + 0.01 * np.log(0.01 / 1.01))
    assert ref.poisson_loss(dark + 1, dark, good) == pytest.approx(wanted, rel=1e-12)


def test_patch_loss():
    truth, weight = np.array([[[1j, 2.0]]]), np.array([[[1.0, 3.0]]])
    assert ref.patch_loss(truth, truth, weight) == 0
    # 1 * |1j|^2 + 3 * |1|^2 over 1 * 1 + 3 * 4
    assert ref.patch_loss(np.array([[[0, 1.0]]]), truth, weight) == pytest.approx(4 / 13)
    assert ref.patch_loss(np.array([[[0, 2.0]]]), truth, weight * [0, 1]) == 0
