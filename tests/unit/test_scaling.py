"""Counts, amplitudes and the scale of probe and object (specs/physics.md PH-4, PH-5, PH-8)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ptychopinn_plugin import reference, scaling
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.scan import Frame, Scan
from ptychopinn_plugin.simulate import Simulation, simulate_scan

N = 16


def far_field(wave):
    return np.fft.fftshift(np.fft.fft2(wave, norm='ortho'), axes=(-2, -1))


def make_scan(transmission=None, photons=1e5, modes=1, **more):
    """A scan without noise over whole pixels; `transmission` (40, 40), vacuum when not given."""
    y, x = np.mgrid[:N, :N] - (N - 1) / 2
    probe = np.exp(-(y**2 + x**2) / 18 + 0.05j * (y**2 - x)) * (1 + np.arange(modes))[:, None, None]
    object_ = np.ones((40, 40), complex) if transmission is None else transmission
    corners = [(r, c) for r in range(0, 24, 4) for c in range(0, 24, 4)]
    patches = np.stack([object_[r : r + N, c : c + N] for r, c in corners])
    counts = (np.abs(far_field(patches[:, None] * probe)) ** 2).sum(1)
    counts *= photons / (np.abs(probe) ** 2).sum()
    positions = np.array(corners) + (N - 1) / 2
    return Scan(counts.astype(np.float32), positions, probe, frame=Frame((40, 40)), **more)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_amplitudes_are_square_roots(dtype):
    values = np.array([0, 1, 4, 255], dtype)
    found = scaling.amplitudes(values)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.sqrt([0, 1, 4, 255]), rtol=1e-6)
    np.testing.assert_array_equal(values, np.array([0, 1, 4, 255], dtype))  # not in place


def test_bad_values_become_zero():
    found = scaling.amplitudes(np.array([-1, -np.inf, np.nan, np.inf, 9], np.float32))
    np.testing.assert_array_equal(found, [0, 0, 0, 0, 3])


def test_the_largest_uint16_does_not_wrap():
    assert scaling.amplitudes(np.array([65535], np.uint16))[0] == pytest.approx(255.998, abs=1e-3)


@pytest.mark.parametrize('scale', [1e-6, 1.0, 1e9])
@pytest.mark.parametrize('modes', [1, 3])
def test_vacuum_predicts_the_counts_whatever_the_scale_of_the_file(scale, modes):  # PH-5
    scan = make_scan(modes=modes)
    probe = scaling.normalised_probe(replace(scan, probe=scan.probe * scale))
    assert probe.dtype == np.complex64
    predicted = (np.abs(far_field(probe)) ** 2).sum(0)
    np.testing.assert_allclose(predicted, scan.counts[0], rtol=1e-3, atol=1e-2)


def test_the_shape_of_the_probe_is_kept():
    scan = make_scan(modes=2)
    ratio = scaling.normalised_probe(scan) / scan.probe
    np.testing.assert_allclose(ratio, ratio[0, 0, 0], rtol=1e-5)


def test_only_good_pixels_are_compared():  # PH-4
    bad = np.zeros((N, N), bool)
    bad[N // 2, N // 2] = True
    whole, masked = make_scan(), make_scan(bad_pixels=bad)
    assert masked.totals[0] < 0.99 * whole.totals[0]
    np.testing.assert_allclose(
        scaling.normalised_probe(masked), scaling.normalised_probe(whole), rtol=1e-4
    )


def test_a_beam_that_bad_pixels_hide_is_taken_for_what_is_seen():  # PH-4
    """What rounding leaves of it on good ones is no measure."""
    scan = simulate_scan(Simulation(probe='airy', patterns=40, object_size_px=120, seed=3))
    dark = replace(scan, bad_pixels=disc(64, 9))
    power = (np.abs(scaling.normalised_probe(dark)) ** 2).sum()
    assert power == pytest.approx(scaling.beam_counts(dark.totals))


def test_the_beam_is_what_the_brightest_frames_hold():  # PH-5
    totals = np.r_[np.full(95, 40.0), np.full(5, 100.0)]
    assert scaling.beam_counts(totals) == 100


def test_empty_patterns_have_no_part_in_the_beam():
    counts = np.append(np.zeros(999), 100.0)
    assert scaling.beam_counts(counts) == 100


@pytest.mark.parametrize('scale', [1e-20, 1e20])
def test_counts_that_single_precision_cannot_hold_are_refused(scale):
    scan = make_scan()
    scaled = replace(scan, counts=scan.counts.astype(np.float64) * scale)
    with pytest.raises(DataError, match='scaled far from counts'):
        scaling.normalised_probe(scaled)


def test_flat_transmission():
    scan = make_scan()
    assert scaling.flat_transmission(scan) == pytest.approx(1, abs=1e-5)
    dim = scan.counts.copy()
    dim[: len(scan) // 2] *= 0.36  # half of the frames at amplitude 0.6
    assert scaling.flat_transmission(replace(scan, counts=dim)) == pytest.approx(
        np.sqrt(0.68), abs=1e-5
    )


@pytest.mark.parametrize('photons', [1.0, 1e9])
def test_network_scale_fixes_the_mean_square(photons):
    scan = make_scan(photons=photons)
    scaled = scaling.network_scale(scan) * scaling.amplitudes(scan.counts)
    assert (scaled**2).sum((1, 2)).mean() == pytest.approx((N / 2) ** 2, rel=1e-4)


@pytest.mark.parametrize('scale', [1e-10, 1e-5, 1e-3])
def test_noise_tells_for_how_many_photons_a_count_stands(scale):  # PH-16
    mean = np.random.default_rng(0).exponential(100.0, 4000)
    loss = len(mean) * scaling.ROOT_NOISE / mean.sum()
    for left in (0.3, 1.0, 5.0):  # as much as noise leaves, more or less
        assert scaling.photons_per_count(mean, left * loss) == 1
    assert scaling.photons_per_count(mean * scale, loss) == pytest.approx(1 / scale, rel=0.3)
    assert 1 <= scaling.photons_per_count(mean * scale, 5 * loss) < 0.3 / scale
    assert np.isfinite(scaling.photons_per_count(mean, 0.0))


def known_object():
    rng = np.random.default_rng(4)
    flat = rng.normal(size=(40, 40))
    return (0.8 + 0.1 * np.tanh(flat)) * np.exp(0.4j * flat)


@pytest.mark.parametrize('factor', [1.0, 7.5, 0.01j, -3 + 2j])
def test_truth_reads_as_transmission_whatever_its_factor(factor):
    truth = known_object()
    scan = make_scan(truth, true_object=truth * factor)
    probe = make_scan().probe * np.sqrt(1e5 / (np.abs(scan.probe) ** 2).sum())
    found = scaling.normalised_truth(scan, probe)
    assert found.dtype == np.complex64
    lit = scaling.illumination(scan, probe)
    assert abs(np.angle((found * lit).sum())) < 1e-5
    np.testing.assert_allclose(np.abs(found), np.abs(truth), rtol=0.02)


def disc(side, radius):
    y, x = np.mgrid[:side, :side] - side // 2
    return y**2 + x**2 < radius**2


@pytest.mark.parametrize('radius', [1, 2, 3])
def test_behind_a_beam_stop_the_truth_still_reads_as_transmission(radius):  # PH-5
    """A stop takes most of the beam, but less of what the object scatters."""
    truth = known_object()
    scan = make_scan(truth, true_object=truth * 3j, bad_pixels=disc(N, radius))
    probe = make_scan().probe * np.sqrt(1e5 / (np.abs(scan.probe) ** 2).sum())
    found = scaling.normalised_truth(scan, probe)
    np.testing.assert_allclose(np.abs(found), np.abs(truth), rtol=1e-3)


@pytest.mark.parametrize(('probe', 'radius'), [('zone-plate', 4), ('gaussian', 2), ('airy', 2)])
@pytest.mark.parametrize('background', [0.0, 50.0])
def test_a_beam_stop_changes_probe_and_truth_alike(probe, radius, background):
    """What is predicted stays the same: noise and positions between pixels do no harm."""
    scan = simulate_scan(
        Simulation(
            pattern_size_px=32, object_size_px=80, patterns=60, probe=probe, specimen='leaves',
            background=background, seed=3,
        )
    )  # fmt: skip
    scan = replace(scan, background=background)
    stopped = replace(scan, bad_pixels=disc(32, radius))
    assert stopped.signal.sum() < 0.9 * scan.signal.sum()
    light = [scaling.normalised_probe(s) for s in (scan, stopped)]
    whole, seen = (
        np.abs(p).max() * np.abs(scaling.normalised_truth(s, p)).mean()
        for s, p in zip((scan, stopped), light, strict=True)
    )
    assert seen == pytest.approx(whole, rel=0.005)


def test_without_bad_pixels_no_pattern_is_predicted(monkeypatch):
    monkeypatch.setattr(reference, 'diffract', lambda *args: 1 / 0)
    scan = make_scan(known_object(), true_object=known_object())
    scaling.normalised_truth(scan, scan.probe)


def test_the_true_object_goes_before_the_guess():
    truth = known_object()
    both = make_scan(truth, true_object=truth, object_guess=truth[::-1])
    guess = make_scan(truth, object_guess=truth)
    np.testing.assert_allclose(
        scaling.normalised_truth(both, both.probe), scaling.normalised_truth(guess, guess.probe)
    )


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        ({}, 'needs a known object.*none'),
        ({'object_guess': np.full((40, 40), 1 + 1j)}, 'a constant object'),
        ({'true_object': np.zeros((40, 40))}, 'a constant object'),
    ],
)
def test_no_known_object(more, message):
    scan = make_scan(**more)
    with pytest.raises(DataError, match=message):
        scaling.normalised_truth(scan, scan.probe)
