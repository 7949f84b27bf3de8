"""How far to trust a phase: repeats and halves of a scan."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import ptychopinn_plugin as pp
from ptychopinn_plugin import mapped, pipeline
from ptychopinn_plugin.cli import main
from ptychopinn_plugin.config import ReconstructionConfig
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.files import save_scan
from ptychopinn_plugin.result import ObjectImage
from ptychopinn_plugin.simulate import Simulation, simulate_scan
from ptychopinn_plugin.slow_phase import plane
from ptychopinn_plugin.uncertainty import (
    UNKNOWN_RAD,
    half_scan_frc50,
    halves,
    local_rms,
    phase_difference,
    repeated,
    sigma_of,
)

SHAPE = (60, 80)


def image(object_, weight=None):
    weight = np.ones(object_.shape, np.float32) if weight is None else weight
    return ObjectImage(object_.astype(np.complex64), weight)


@pytest.fixture
def noisy():
    """Two objects whose phases differ by noise, 0.02 rad on the left and 0.2 on the right."""
    rng = np.random.default_rng(0)
    sigma = np.where(np.arange(80) < 40, 0.02, 0.2)
    common = np.exp(1j * rng.uniform(-1, 1, SHAPE))
    return [common * np.exp(1j * sigma * rng.standard_normal(SHAPE)) for _ in range(2)], sigma


def test_halves_share_nothing_and_cover_everything():
    positions = np.random.default_rng(0).uniform(0, 100, (201, 2))
    a, b = halves(positions)
    assert sorted([*a, *b]) == list(range(201))
    for rows in (a, b):  # each half is near to every pattern
        nearest = np.hypot(*(positions[:, None] - positions[rows]).T).min(0)
        assert nearest.max() < 20
    assert abs(len(a) - len(b)) <= 1


def rms_between(a, b):
    ones = np.ones(SHAPE, np.float32)
    return local_rms(phase_difference(a, b, ones), ones)


def two_thirds_between(a, b):
    rms = rms_between(a, b)
    difference = np.abs(phase_difference(a, b, np.ones(SHAPE, np.float32)))
    return rms * np.quantile(difference / rms, 0.683)


def test_the_local_difference_is_local(noisy):
    (a, b), sigma = noisy
    found = rms_between(a, b)
    expected = sigma * np.sqrt(2)
    np.testing.assert_allclose(found[:, :30].mean(), expected[0], rtol=0.1)
    np.testing.assert_allclose(found[:, 50:].mean(), expected[-1], rtol=0.1)


def test_what_no_data_fix_is_no_difference(noisy):
    (a, _), _ = noisy
    turned = a * plane(SHAPE, (0.04, -0.1)) * np.exp(2j)
    difference = phase_difference(a, turned, np.ones(SHAPE, np.float32))
    np.testing.assert_allclose(difference, 0, atol=1e-3)


class TestSigma:
    ONES = np.ones(SHAPE, np.float32)

    def test_it_is_the_difference_to_the_repeat(self, noisy):
        (a, b), _ = noisy
        found = sigma_of(image(a), image(b), image(a), image(a))
        np.testing.assert_allclose(found, two_thirds_between(a, b), rtol=1e-4)
        # Of normal noise two thirds lie below its root mean square, here of some pixels around.
        np.testing.assert_allclose(found, rms_between(a, b), rtol=0.1)
        assert found.dtype == np.float32

    def test_it_covers_two_thirds_of_what_is_no_normal_noise(self):
        rng = np.random.default_rng(6)
        a = np.exp(1j * rng.uniform(-1, 1, SHAPE))
        large = np.where(rng.random(SHAPE) < 0.03, 10, 1)
        b = a * np.exp(0.02j * large * rng.standard_normal(SHAPE))
        found = sigma_of(image(a), image(b), image(a), image(a))
        difference = np.abs(phase_difference(b, a, self.ONES))
        assert (difference < found).mean() == pytest.approx(0.683, abs=0.002)
        assert (difference < rms_between(a, b)).mean() > 0.75  # what a r.m.s. alone would cover

    def test_what_is_smoothed_away_less_each_time_is_made_up_for(self):
        phase = np.random.default_rng(4).standard_normal(SHAPE)
        whole, once, twice = (image(np.exp(1j * c * phase)) for c in (0.30, 0.15, 0.05))
        first = two_thirds_between(once.object, whole.object)
        np.testing.assert_allclose(sigma_of(whole, once, twice, whole), 1.5 * first, rtol=0.01)
        less = image(np.exp(0.149j * phase))
        np.testing.assert_allclose(sigma_of(whole, once, less, whole), 2 * first, rtol=0.01)
        more = image(np.exp(-0.3j * phase))
        np.testing.assert_allclose(sigma_of(whole, once, more, whole), first, rtol=0.01)

    def test_it_grows_where_more_sweeps_go_further(self):
        phase = np.random.default_rng(4).standard_normal(SHAPE)
        whole, once, twice = (image(np.exp(1j * c * phase)) for c in (0.30, 0.15, 0.05))
        first = two_thirds_between(once.object, whole.object)
        for moved, larger in ((0.05, 1.5), (0.15, 1.5), (0.30, 5**0.5)):  # 1.5 as by the repeats
            further = image(np.exp(1j * (0.30 + moved) * phase))
            found = sigma_of(whole, once, twice, further)
            np.testing.assert_allclose(found, larger * first, rtol=0.01)

    def test_it_grows_with_what_photons_do_not_explain(self, noisy):
        (a, b), _ = noisy
        a, b = image(a), image(b)
        once, grown, better = (sigma_of(a, b, a, a, misfit) for misfit in (1, 4, 0.5))
        np.testing.assert_allclose(grown, np.minimum(2 * once, UNKNOWN_RAD), rtol=1e-5)
        np.testing.assert_array_equal(better, once)

    def test_nothing_is_known_in_the_dark(self, noisy):
        (a, b), _ = noisy
        weight = np.zeros(SHAPE, np.float32)
        weight[5:50, 5:70] = 1
        found = sigma_of(image(a, weight), image(b), image(a), image(a))
        assert (found[weight == 0] == np.float32(UNKNOWN_RAD)).all()
        assert (found[10:40, 10:60] < 0.5).all()


class TestRepeated:
    def test_counts_are_drawn_for_what_is_expected(self, small_scan):
        bad = np.zeros((32, 32), bool)
        bad[4, 5] = True
        scan = replace(small_scan, bad_pixels=bad)
        expected = np.full((32, 32), 9.0, np.float32)
        found = repeated(scan, lambda row: expected * (row + 1), np.random.default_rng(0))
        assert found.counts.dtype == np.uint32
        assert (found.counts[:, 4, 5] == 0).all()
        wanted = 9 * (np.arange(120) + 1)
        lit = found.counts[:, ~bad]
        np.testing.assert_allclose(lit.mean(1), wanted, rtol=0.07)
        np.testing.assert_allclose(lit.var(1) / wanted, 1, atol=0.25)
        assert (found.true_object, found.object_guess) == (None, None)
        np.testing.assert_array_equal(found.positions_px, scan.positions_px)

    def test_counts_beyond_32_bits_are_drawn(self, small_scan):
        scan = replace(small_scan, counts=small_scan.counts.astype(np.float64) * 1e9)
        expected = np.full((32, 32), 1e10, np.float32)
        found = repeated(scan, lambda row: expected, np.random.default_rng(0))
        np.testing.assert_allclose(found.counts.astype(np.float64), 1e10, rtol=1e-3)

    def test_a_large_one_lies_on_the_disk(self, small_scan, monkeypatch):
        monkeypatch.setattr(mapped, 'LARGE_BYTES', 1000)
        ones = np.ones((32, 32), np.float32)
        found = repeated(small_scan, lambda row: ones, np.random.default_rng(0))
        assert mapped.place_of(found.counts) is not None


def test_the_rings_are_those_of_the_halves():
    rng = np.random.default_rng(1)
    detail = 5 * gaussian_filter(rng.standard_normal((96, 96)), 1.5)
    found = []
    for noise in (0.01, 0.1, 1.0):
        a, b = (np.exp(1j * (detail + noise * rng.standard_normal((96, 96)))) for _ in range(2))
        found.append(half_scan_frc50(image(a), image(b)))
    assert 1 >= found[0] > found[1] > found[2] > 0


@pytest.mark.slow
def test_it_covers_the_error():
    """One sigma covers about two thirds of the pixels, on a scan that calibrated nothing."""
    scan = simulate_scan(
        Simulation(specimen='photographs', patterns=600, object_size_px=200, seed=77)
    )
    result = pp.reconstruct(scan, reconstruction=ReconstructionConfig(sweeps=20), uncertainty=True)
    error = phase_difference(result.image.object, scan.true_object, result.weight)
    lit = result.weight > 0.1
    covered = (np.abs(error) < result.image.uncertainty)[lit].mean()
    assert 0.6 < covered < 0.76
    assert 0.5 < result.half_scan_frc50 <= 1
    assert result.seconds['uncertainty'] > 0


@pytest.mark.parametrize(('asked', 'longer'), [(3, 6), (0, 0), (80_000, 100_000)])
def test_twice_as_many_sweeps_tell_what_is_left(toy, small_scan, monkeypatch, asked, longer):
    seen = []

    def iterate(scan, model, *, reconstruction, **more):
        seen.append((len(scan), reconstruction.sweeps))
        return whole(scan, model, reconstruction=replace(reconstruction, sweeps=1), **more)

    whole = pipeline.iterate
    monkeypatch.setattr(pipeline, 'iterate', iterate)
    config = ReconstructionConfig(sweeps=asked)
    pp.reconstruct(small_scan, reconstruction=config, uncertainty=True)
    assert seen == [
        (120, asked),
        (120, asked),
        (120, asked),
        (120, longer),
        (60, asked),
        (60, asked),
    ]


def test_too_few_patterns_are_refused(toy, small_scan):
    few = small_scan.take(np.arange(10))
    seen = []
    with pytest.raises(DataError, match='too few patterns to be halved'):
        pp.reconstruct(few, uncertainty=True, on_sweep=seen.append)
    assert not seen  # refused before the slow work
    assert pp.reconstruct(few).half_scan_frc50 is None


def test_repeats_are_not_told(toy, small_scan, caplog):
    """What their starts say would read like more news of the scan."""
    caplog.set_level('INFO', 'ptychopinn_plugin')
    beside = replace(small_scan, counts=np.roll(small_scan.counts, (0, 3), (1, 2)))
    pp.reconstruct(beside, uncertainty=True)
    assert caplog.text.count('off the centre of the beam') == 1


def test_the_command_line_tells_and_writes_it(toy, small_scan, tmp_path, capsys):
    save_scan(replace(small_scan, name='halved'), tmp_path / 'scan.npz')
    code = main([
        'reconstruct', str(tmp_path / 'scan.npz'), '--sweeps', '3', '--uncertainty', '--json',
        '--output', str(tmp_path / 'out.npz'), '--figure', str(tmp_path / 'out.png'),
    ])  # fmt: skip
    assert code == 0
    told = capsys.readouterr()
    report = json.loads(told.out.strip().splitlines()[-1])
    assert report['phase_sigma_rad'] >= 0
    assert 'phase known to' in told.out + told.err
    with np.load(tmp_path / 'out.npz') as written:
        assert written['uncertainty'].shape == small_scan.frame.shape
        assert float(written['half_scan_frc50']) == report['half_scan_frc50']
    assert (tmp_path / 'out.png').stat().st_size > 10_000
