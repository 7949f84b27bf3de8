"""Counts to amplitudes, and a probe whose power comes from the data, never from the file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.geometry import illumination
from ptychopinn_plugin.scaling import (
    VACUUM_QUANTILE,
    amplitudes,
    beam_counts,
    flat_transmission,
    network_scale,
    normalised_probe,
    normalised_truth,
)
from ptychopinn_plugin.scan import Frame, Scan

N = 16


def probe_of(modes=1):
    y, x = np.mgrid[:N, :N] - (N - 1) / 2
    shape = np.exp(-(x**2 + y**2) / 18 + 0.05j * (x**2 - y))
    return np.stack([shape * (x / 4) ** k for k in range(modes)]).astype(np.complex64)


def far_power(probe):
    """Return the power of each detector pixel, (N, N)."""
    far = np.fft.fftshift(np.fft.fft2(probe, norm='ortho'), axes=(-2, -1))
    return (np.abs(far) ** 2).sum(0)


def scan_of(transmission=1.0, beam=1e5, m=12, **more):
    """Return a scan of a flat object: every pattern is `transmission` of the beam."""
    given = probe_of(more.pop('modes', 1))
    power = far_power(given)
    share = np.broadcast_to(np.asarray(transmission, float), (m,))
    counts = share[:, None, None] * power / power.sum() * beam
    positions = np.random.default_rng(0).uniform(N / 2, N / 2 + 8, (m, 2))
    return Scan(counts, positions, given, frame=Frame((N + 10, N + 10)), **more)


def test_uint16_counts_do_not_wrap():
    counts = np.array([0, 1, 255, 256, 65535], np.uint16)
    np.testing.assert_allclose(amplitudes(counts) ** 2, counts.astype(float), rtol=1e-6)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int32, np.uint32, np.float32, np.float64])
def test_amplitudes_are_float32_and_leave_the_counts_alone(dtype):
    counts = np.array([[4, 9], [16, 100]], dtype)
    kept = counts.copy()
    found = amplitudes(counts)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[2, 3], [4, 10]])
    np.testing.assert_array_equal(counts, kept)


def test_markers_of_bad_pixels_become_zero():
    counts = np.array([-1.0, np.nan, np.inf, -np.inf, 4.0])
    np.testing.assert_array_equal(amplitudes(counts), [0, 0, 0, 0, 2])
    np.testing.assert_array_equal(amplitudes(np.array([-1, 9], np.int32)), [0, 3])


@pytest.mark.parametrize('modes', [1, 3])
def test_the_probe_carries_the_counts_of_the_beam(modes):
    scan = scan_of(modes=modes)
    assert far_power(normalised_probe(scan)).sum() == pytest.approx(1e5, rel=1e-5)


@pytest.mark.parametrize('factor', [1e-9, 1e-3, 7.0, 1e6, 1e6j])
def test_the_scale_of_the_probe_in_the_file_does_not_matter(factor):
    scan = scan_of()
    expected = normalised_probe(scan)
    found = normalised_probe(replace(scan, probe=scan.probe * factor))
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-4, atol=1e-6)


def test_relative_power_of_the_modes_is_kept():
    scan = scan_of(modes=3)
    given, found = ((np.abs(p) ** 2).sum((1, 2)) for p in (scan.probe, normalised_probe(scan)))
    np.testing.assert_allclose(found / found.sum(), given / given.sum(), rtol=1e-5)


def test_bad_pixels_do_not_change_the_probe():
    whole = scan_of()
    bad = np.zeros((N, N), bool)
    bad[N // 2 - 1 : N // 2 + 2, N // 2 - 3 : N // 2 + 1] = True  # most of the light
    holed = replace(whole, counts=np.where(bad, 65535.0, whole.counts), bad_pixels=bad)
    assert holed.totals.mean() < 0.8 * whole.totals.mean()
    np.testing.assert_allclose(normalised_probe(holed), normalised_probe(whole), rtol=1e-4)


def test_the_bright_frames_are_the_beam():
    shares = np.linspace(0.2, 1, 200)
    scan = scan_of(shares, m=200)
    expected = np.quantile(shares, VACUUM_QUANTILE) * 1e5
    assert beam_counts(scan.totals) == pytest.approx(expected)
    assert far_power(normalised_probe(scan)).sum() == pytest.approx(expected, rel=1e-5)


def test_a_flat_object_explains_the_mean_counts():
    scan = scan_of(np.linspace(0.2, 1, 200), m=200)
    predicted = flat_transmission(scan) ** 2 * far_power(normalised_probe(scan)).sum()
    assert predicted == pytest.approx(scan.totals.mean(), rel=1e-5)


def test_what_a_network_sees_does_not_depend_on_the_dose():
    for beam in (1e2, 1e7):
        scan = scan_of([0.5, 1.0] * 6, beam=beam)
        seen = amplitudes(scan.counts) * network_scale(scan)
        assert (seen**2).sum((1, 2)).mean() == pytest.approx((N / 2) ** 2, rel=1e-4)


def test_the_known_object_becomes_transmission_with_mean_phase_zero():
    scan = scan_of()
    y, x = np.mgrid[: N + 10, : N + 10]
    known = (1 + 0.1 * np.sin(x)) * np.exp(0.3j * np.cos(y / 3))
    probe = normalised_probe(scan)
    one, other = (
        normalised_truth(replace(scan, true_object=known * factor), probe)
        for factor in (1, 250 * np.exp(2j))
    )
    np.testing.assert_allclose(one, other, rtol=1e-3)
    light = illumination(scan, probe)
    assert (np.abs(one) ** 2 * light).sum() == pytest.approx(scan.totals.sum(), rel=1e-4)
    assert np.angle((one * light).sum()) == pytest.approx(0, abs=1e-4)


def test_the_true_object_goes_before_the_guess():
    shape = (N + 10, N + 10)
    rng = np.random.default_rng(1)
    true, guess = (np.exp(1j * rng.uniform(-1, 1, shape)).astype(np.complex64) for _ in range(2))
    scan = scan_of()
    probe = normalised_probe(scan)
    both = normalised_truth(replace(scan, true_object=true, object_guess=guess), probe)
    np.testing.assert_array_equal(both, normalised_truth(replace(scan, true_object=true), probe))
    alone = normalised_truth(replace(scan, object_guess=guess), probe)
    assert not np.allclose(both, alone)


@pytest.mark.parametrize(
    ('known', 'received'), [(None, 'none'), (np.ones((N + 10, N + 10)), 'a constant object')]
)
def test_supervised_training_needs_a_known_object(known, received):
    scan = scan_of(object_guess=known, name='blank')
    with pytest.raises(DataError, match='blank: supervised training needs a known object') as caught:
        normalised_truth(scan, normalised_probe(scan))
    assert f'Received: {received}.' in str(caught.value)
