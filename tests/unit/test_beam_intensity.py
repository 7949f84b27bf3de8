"""The beam's intensity in each pattern, against one that is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ptychopinn_plugin import reference, starts, sweeper
from ptychopinn_plugin.beam_intensity import LARGEST, BeamIntensity, predicted_counts, without_beam
from ptychopinn_plugin.config import ReconstructionConfig
from ptychopinn_plugin.geometry import windows
from ptychopinn_plugin.host_step import HostStep
from ptychopinn_plugin.light import light_of
from ptychopinn_plugin.metrics import compare
from ptychopinn_plugin.scaling import normalised_probe
from ptychopinn_plugin.simulate import Simulation, simulate_scan
from ptychopinn_plugin.slow_phase import SlowPhase
from ptychopinn_plugin.sweep_plan import FIRST_SCALED, plan_sweep
from ptychopinn_plugin.sweeper import Sweeper, refine
from ptychopinn_plugin.transforms import PLAIN

from ..conftest import fluctuating, seen_through


@pytest.fixture(scope='module')
def scan():
    return simulate_scan(Simulation(specimen='leaves', patterns=400, object_size_px=150, seed=8))


def swept(scan, sweeps=12, **settings):
    """The last sweep."""
    config = ReconstructionConfig(sweeps=sweeps, **settings)
    start, probe = starts.gradient_start(scan), normalised_probe(scan)
    *_, last = refine(scan, start, probe, config, lambda s: HostStep(s, PLAIN))
    return last


def missed(scan, last):
    """The mean error of the phase [rad]."""
    return compare(last.image.object, scan.true_object, last.image.weight).phase_mae_rad


def asked(scan, own, counts=1e6, edgeless=0.0):
    """What a beam is taken for whose patterns miss so much, (M,), each for itself."""
    beam = BeamIntensity(np.zeros(0, np.int64), len(scan), edgeless)
    place = windows(scan)
    slow = SlowPhase(place.corner_px, normalised_probe(scan), scan.frame.shape)
    counts = counts * np.exp(own)
    beam.follow(np.arange(len(scan)), counts, np.full(len(scan), counts.mean()), slow)
    return beam


@pytest.mark.parametrize('modes', [1, 3])
def test_counts_are_predicted_without_a_far_field(modes):
    scan = simulate_scan(
        Simulation(pattern_size_px=32, object_size_px=90, patterns=60, seed=3, modes=modes)
    )
    place, probe = windows(scan), normalised_probe(scan)
    patches = reference.extract(scan.true_object, place.corner_px, scan.side_px)
    far = reference.diffract(patches, reference.shift_probe(probe, place.shift_px))
    found = predicted_counts(scan.true_object, probe, place.corner_px + place.shift_px)
    expected = far.sum((1, 2))
    assert expected.std() > 0.02 * expected.mean()
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_a_beam_that_fluctuates_is_followed(scan):
    uneven, intensities = fluctuating(scan, 0.1)
    last = swept(uneven)
    assert last.intensities is not None
    wrong = np.log(last.intensities / intensities)
    assert wrong.std() < 0.03  # of 0.10
    without = swept(uneven, correct_intensities=False)
    assert without.intensities is None
    assert missed(scan, last) < 0.75 * missed(scan, without)
    assert last.loss < 0.6 * without.loss


def test_so_is_one_whose_probe_is_not_known(scan):
    uneven, intensities = fluctuating(scan, 0.1)
    last = swept(uneven, update_probe=True)
    assert np.log(last.intensities / intensities).std() < 0.03


def test_a_steady_beam_is_asked_for_once(scan, monkeypatch):
    asked = []

    def predicted(*given):
        asked.append(given)
        return predicted_counts(*given)

    monkeypatch.setattr(sweeper, 'predicted_counts', predicted)
    swept(scan)
    assert len(asked) == 1
    uneven, _ = fluctuating(scan, 0.1)
    swept(uneven)
    assert len(asked) == 1 + 12 - FIRST_SCALED


@pytest.mark.parametrize('settings', [{}, {'update_probe': True}, {'held_out_stop': True}])
def test_a_steady_beam_is_left_alone(scan, settings):
    last, without = swept(scan, **settings), swept(scan, correct_intensities=False, **settings)
    assert last.intensities is None
    np.testing.assert_array_equal(last.image.object, without.image.object)


def test_patterns_without_beam_are_left_out(scan):
    counts, off = scan.counts.copy(), np.arange(0, len(scan), 40)
    counts[off] = np.random.default_rng(0).binomial(counts[off].astype(np.int64), 0.01)
    dark = replace(scan, counts=counts)
    np.testing.assert_array_equal(without_beam(dark), off)
    last = swept(dark)
    np.testing.assert_array_equal(np.flatnonzero(last.intensities == 0), off)
    assert (last.intensities[last.intensities > 0] == 1).all()
    assert missed(scan, last) < 1.2 * missed(scan, swept(scan))
    assert missed(scan, last) < 0.4 * missed(scan, swept(dark, correct_intensities=False))


def test_a_scan_that_was_broken_off_is_of_the_patterns_it_has(scan):
    counts = scan.counts.copy()
    counts[140:] = 0  # positions are random: most neighbours are empty
    last = swept(replace(scan, counts=counts))
    missing = np.flatnonzero(last.intensities == 0)
    assert len(np.setdiff1d(np.arange(140, 400), missing)) < 10
    assert missing.min() >= 140
    assert missed(scan, last) < 0.05


def test_few_photons_are_no_missing_beam():
    dim = simulate_scan(Simulation(patterns=300, object_size_px=150, photons_per_frame=5, seed=8))
    assert (dim.totals == 0).any()
    assert not len(without_beam(dim))


@pytest.mark.parametrize('settings', [{}, {'update_probe': True}, {'correct_positions': True}])
@pytest.mark.parametrize('side', [64, 48])
def test_batches_may_be_without_any_beam(side, settings):
    scan = simulate_scan(
        Simulation(patterns=40, object_size_px=side + 40, pattern_size_px=side, seed=8)
    )
    counts = scan.counts.copy()
    counts[::5] = 0
    last = swept(replace(scan, counts=counts), 8, sweep_batch_size=1, **settings)
    assert np.isfinite(last.image.object).all()
    assert missed(scan, last) < 0.1


def test_a_dark_specimen_is_no_missing_beam(scan):
    y, x = np.indices(scan.frame.shape) - scan.frame.shape[0] / 2
    opaque = np.where(np.hypot(y, x) > 25, 0.02, scan.true_object)
    seen = seen_through(scan, opaque)
    assert len(without_beam(seen))  # some seem to be
    last = swept(seen)
    assert last.intensities is None
    around = (np.hypot(y, x) > 30) & (last.image.weight > 0.1)
    assert np.abs(last.image.object[around]).mean() < 0.05


def test_single_patterns_are_scaled_without_a_fluctuation(scan):
    own = np.random.default_rng(0).normal(0, 0.003, len(scan))
    assert not asked(scan, own).fluctuates
    own[7] = -0.7
    found = asked(scan, own)
    assert found.fluctuates
    assert found.relative[7] == pytest.approx(np.exp(-0.7), rel=0.1)
    assert np.delete(found.relative, 7) == pytest.approx(1, abs=0.05)


def test_held_out_patterns_are_scaled_when_they_join(scan):
    uneven, intensities = fluctuating(scan, 0.1)
    last = swept(uneven, 30, held_out_stop=True)
    assert np.log(last.intensities / intensities).std() < 0.035


@pytest.mark.parametrize('settings', [{}, {'correct_positions': True}])
def test_held_out_patterns_wait_for_what_is_corrected(settings):  # PH-17
    scan = simulate_scan(
        Simulation(patterns=400, object_size_px=200, photons_per_frame=2e5, seed=33)
    )
    share = np.linspace(1, 0.2, len(scan))[:, None, None]
    counts = np.random.default_rng(0).binomial(scan.counts.astype(np.int64), share)
    decaying = replace(scan, counts=counts.astype(np.uint32))
    last = swept(decaying, 40, held_out_stop=True, **settings)
    assert last.number >= 16
    assert missed(scan, last) < 0.8 * missed(scan, swept(decaying, 8, **settings))


def test_behind_a_beam_stop_counts_do_not_tell(scan):
    bad = np.zeros((64, 64), bool)
    bad[20:44, 20:44] = True
    uneven, _ = fluctuating(replace(scan, bad_pixels=bad), 0.1)
    assert swept(uneven, 6).intensities is None


def test_photon_noise_is_no_fluctuation(scan):
    own = np.random.default_rng(0).normal(0, 0.03, len(scan))
    assert asked(scan, own).fluctuates
    assert not asked(scan, own, counts=900).fluctuates


def test_a_beam_without_an_edge_is_doubted_longer(scan):
    own = np.random.default_rng(0).normal(0, 0.025, len(scan))
    assert asked(scan, own).fluctuates
    assert not asked(scan, own, edgeless=1.0).fluctuates


def test_what_neighbours_miss_alike_is_the_objects(scan):
    y = scan.positions_px[:, 0]
    assert not asked(scan, 0.05 * np.sin(2 * np.pi * y / 150)).fluctuates


def test_scales_are_bounded(scan):
    own = np.random.default_rng(0).normal(0, 0.3, len(scan))
    own[0], own[1] = -20, 20
    found = asked(scan, own)
    assert found.relative[0] == 0  # no beam
    assert found.relative[1] == pytest.approx(LARGEST)
    lit = found.present
    assert lit.sum() == len(scan) - 1
    assert np.log(found.relative[lit]).mean() == pytest.approx(0, abs=0.06)


@pytest.mark.parametrize('settings', [{}, {'correct_positions': True}])
def test_kept_amplitudes_and_fresh_ones_are_scaled_alike(scan, settings, monkeypatch):
    uneven, _ = fluctuating(scan, 0.1)
    found = []
    for room in (None, 0):
        if room is not None:
            monkeypatch.setattr('ptychopinn_plugin.host_step.CACHE_BYTES', room)
        found.append(swept(uneven, 7, **settings))
    kept, fresh = found
    assert kept.intensities is not None
    np.testing.assert_allclose(fresh.intensities, kept.intensities, rtol=1e-4)
    assert fresh.loss == pytest.approx(kept.loss, rel=1e-4)


def test_batches_have_the_values_of_their_patterns(scan):
    config = ReconstructionConfig(sweep_batch_size=7)
    probe = normalised_probe(scan)
    sweeper = Sweeper(
        scan, starts.flat_start(scan), probe, config, lambda s: HostStep(s, PLAIN),
        light_of(scan, probe),
    )  # fmt: skip
    values = np.arange(len(scan), dtype=np.float32)
    made = sweeper.by_batch(values)
    for row, batch in zip(made, sweeper.batches, strict=True):
        np.testing.assert_array_equal(row[: len(batch.rows)], values[batch.rows])
        assert (row[len(batch.rows) :] == 1).all()


def test_the_plan_asks_once_there_is_an_object_and_leaves_the_last_sweep():
    asks = [k for k in range(1, 11) if plan_sweep(k, 10).intensities]
    assert asks == list(range(FIRST_SCALED, 10))
    assert not any(plan_sweep(k, 10, correct_intensities=False).intensities for k in range(1, 11))
