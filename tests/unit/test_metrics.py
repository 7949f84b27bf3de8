"""What no data can fix is removed, everything else costs; agreement with the peers' script."""

from __future__ import annotations

import importlib.util
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from stopwatch import assert_within

from ptychopinn_plugin import metrics
from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.geometry import relative_illumination
from ptychopinn_plugin.metrics import apart_px, compare, overlap
from ptychopinn_plugin.result import ObjectImage
from ptychopinn_plugin.scan import Scan
from ptychopinn_plugin.simulate.specimens import SPECIMENS

SHAPE = (120, 136)
BOX = (12, 108, 10, 126)
PEER = Path(__file__).resolve().parents[3] / 'shared' / 'peers' / 'compare.py'
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]]


def specimen(kind='leaves', seed=2, amplitude=(0.5, 1.0)):
    return SPECIMENS[kind](SHAPE, np.random.default_rng(seed), amplitude, (-1.0, 1.0))


@pytest.fixture(scope='module')
def truth():
    return specimen()


@pytest.fixture(scope='module')
def weight():
    """Light that fades over the frame's edge; above a tenth in `BOX`."""
    light = np.zeros(SHAPE, np.float32)
    light[BOX[0] : BOX[1], BOX[2] : BOX[3]] = 1
    light[60, 60] = 4
    light[light == 0] = 0.3
    return light


def noisy(object_, sigma, seed=3):
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((2, *object_.shape))
    return object_ + sigma * (noise[0] + 1j * noise[1])


def blurred(object_, sigma):
    return gaussian_filter(object_.real, sigma) + 1j * gaussian_filter(object_.imag, sigma)


def moved(object_, shift):
    """Move by a fraction of a pixel, around the edges."""
    fy, fx = (np.fft.fftfreq(n) for n in object_.shape)
    ramp = np.exp(-2j * np.pi * (fy[:, None] * shift[0] + fx * shift[1]))
    return np.fft.ifft2(np.fft.fft2(object_) * ramp)


class TestCompare:
    def test_the_truth_is_perfect(self, truth, weight):
        score = compare(truth, truth, weight)
        assert score.phase_mae_rad < 1e-6
        assert score.amplitude_mae < 1e-6
        assert score.phase_ssim == pytest.approx(1)
        assert score.amplitude_ssim == pytest.approx(1)
        assert score.phase_psnr_db == score.amplitude_psnr_db == metrics.LARGEST_PSNR_DB
        assert score.frc50 == 1
        assert score.shift_px == (0, 0)
        assert score.box == BOX

    @pytest.mark.parametrize(
        'change',
        [
            np.exp(2.5j),
            37.0,
            1e-4,
            np.exp(1j * (0.02 * X - 0.03 * Y)),
            5 * np.exp(2j * np.pi * (2.3 * X / SHAPE[1] - 4.6 * Y / SHAPE[0])),
        ],
        ids=['phase', 'large', 'small', 'slight ramp', 'many periods of ramp'],
    )
    @pytest.mark.parametrize('sigma', [0.0, 0.1])
    def test_what_no_data_can_fix_costs_nothing(self, truth, weight, change, sigma):
        given = noisy(truth, sigma)
        plain, changed = compare(given, truth, weight), compare(given * change, truth, weight)
        for name, value in plain.as_dict().items():
            assert getattr(changed, name) == pytest.approx(value, abs=1e-4), name

    @pytest.mark.parametrize('shift', [(0.35, -0.6), (2.0, -3.0), (-1.25, 0.1)])
    def test_shift_is_found_and_undone(self, shift):
        # Smooth, so that moving by fractions loses nothing but at the edges.
        truth = blurred(specimen('lines'), 1.5)
        score = compare(moved(truth, shift), truth, np.ones(SHAPE))
        assert score.shift_px == pytest.approx((-shift[0], -shift[1]), abs=0.03)
        assert score.phase_ssim > 0.985
        assert compare(1e-9 * moved(truth, shift), truth, np.ones(SHAPE)).shift_px == score.shift_px
        assert score.phase_mae_rad < 0.02

    def test_a_shift_too_large_to_be_an_ambiguity_costs(self, truth, weight):
        score = compare(np.roll(truth, 9, 1), truth, weight)
        assert score.shift_px == (0, 0)
        assert score.phase_ssim < 0.5

    @pytest.mark.parametrize('shift', [(0, 9), (-12, 5)])
    @pytest.mark.parametrize('ramp', [0, 2.3])
    def test_what_lies_elsewhere_is_told_from_what_differs(self, truth, weight, shift, ramp):
        other = specimen('lines', seed=9) * np.exp(2j * np.pi * ramp * X / SHAPE[1])
        assert apart_px(noisy(np.roll(truth, shift, (0, 1)), 0.1), truth, weight) == (
            -shift[0],
            -shift[1],
        )
        for given in (truth, np.roll(truth, (3, -2), (0, 1)), other, noisy(truth, 0.6), 0 * truth):
            assert apart_px(given, truth, weight) is None

    def test_every_score_falls_with_noise(self, truth, weight):
        scores = [compare(noisy(truth, s), truth, weight) for s in (0.01, 0.05, 0.2, 0.6)]
        for name in ('phase_ssim', 'phase_psnr_db', 'amplitude_ssim', 'amplitude_psnr_db'):
            values = [getattr(s, name) for s in scores]
            assert values == sorted(values, reverse=True), name
            assert values[-1] < 0.5 * values[0]
        for name in ('phase_mae_rad', 'amplitude_mae'):
            values = [getattr(s, name) for s in scores]
            assert values == sorted(values), name
        assert scores[-1].frc50 < 0.6 < scores[0].frc50

    def test_known_errors_by_hand(self, weight):
        """A checkerboard is no ramp, no shift and, being balanced, no scale."""
        truth = np.where(X // 4 % 2, 0.6, 0.9) * np.exp(1j * np.where(Y // 4 % 2, 0.5, -0.3))
        board = np.where((X + Y) % 2, 1, -1)
        score = compare(truth * np.exp(0.1j * board), truth, weight)
        assert score.phase_mae_rad == pytest.approx(0.1, rel=1e-3)
        assert score.phase_psnr_db == pytest.approx(20 * np.log10(0.8 / 0.1), abs=0.01)
        assert score.amplitude_mae == pytest.approx(0, abs=1e-6)
        score = compare(truth + 0.01 * board * np.exp(1j * np.angle(truth)), truth, weight)
        assert score.amplitude_mae == pytest.approx(0.01, rel=1e-2)
        # Against 1, the amplitude of vacuum: against 255 it would read 88 dB.
        assert score.amplitude_psnr_db == pytest.approx(40, abs=0.05)

    def test_scale_fits_amplitudes_not_powers(self, weight):
        """Of 1 +- 1/2 the least squares make 0.8 (1 +- 1/2): off by 0.2 and 0.6 in turn."""
        truth = 0.7 * np.exp(1j * np.where(Y // 4 % 2, 0.5, -0.3))
        board = np.where((X + Y) % 2, 1, -1)
        score = compare(truth * (1 + board / 2), truth, weight)
        assert score.amplitude_mae == pytest.approx(0.4 * 0.7, rel=1e-3)

    def test_phase_wraps_are_no_error(self, weight):
        truth = np.exp(1j * np.linspace(0, 40, SHAPE[1]) * np.ones(SHAPE))
        assert compare(truth * np.exp(3.1j), truth, weight).phase_mae_rad < 1e-6

    def test_only_the_lit_part_counts(self, truth, weight):
        spoiled = truth.copy()
        spoiled[: BOX[0]] = spoiled[:, BOX[3] :] = 50j
        assert compare(spoiled, truth, weight) == compare(truth, truth, weight)

    def test_box_is_cut_until_it_is_lit(self, truth):
        lit = np.hypot(Y - 60, X - 70) < 55
        top, bottom, left, right = compare(truth, truth, lit.astype(float)).box
        assert lit[top:bottom, left:right].mean() >= metrics.LIT_SHARE
        assert lit[top - 1 : bottom + 1, left - 1 : right + 1].mean() < metrics.LIT_SHARE
        assert (top - 6, 115 - bottom) == (left - 16, 125 - right)  # by the same on all sides

    def test_threshold(self, truth, weight):
        assert compare(truth, truth, weight, threshold=0.05).box == (0, SHAPE[0], 0, SHAPE[1])
        assert compare(truth, truth, weight, threshold=0.1).box == BOX

    @pytest.mark.filterwarnings('error')
    @pytest.mark.parametrize('value', [1, 0, 1e-30, 3j])
    def test_flat_estimate_has_no_structure(self, truth, weight, value):
        score = compare(np.full(SHAPE, value, np.complex64), truth, weight)
        assert abs(score.phase_ssim) < 0.2
        assert score.phase_mae_rad > 0.3
        assert score.amplitude_ssim < 0.3
        assert score.frc50 < 0.1
        assert score.shift_px == (0, 0)
        assert np.isfinite(list(score.as_dict().values())[:7]).all()

    def test_where_the_estimate_is_zero_its_phase_is_wrong(self, truth, weight):
        holes = np.where(X % 3, truth, 0)
        assert compare(holes, truth, weight).phase_mae_rad > 0.1

    def test_where_the_truth_is_opaque_no_phase_is_wrong(self, truth, weight):
        opaque = np.where(X // 8 % 3, truth, 0)
        given = opaque + np.where(opaque == 0, 1e-6j, 0)
        assert compare(given, opaque, weight).phase_mae_rad < 1e-5

    def test_flat_truth_is_scored_too(self, weight):
        flat = np.ones(SHAPE, np.complex64)
        assert compare(flat * 3j, flat, weight).phase_ssim == pytest.approx(1)
        assert compare(noisy(flat, 0.1), flat, weight).phase_ssim < 0.1

    @pytest.mark.parametrize('side', [3, 5, 12, 40])
    def test_small_objects(self, side):
        truth = specimen()[:side, : side + 1]
        score = compare(truth * 2j, truth, np.ones(truth.shape))
        assert score.phase_ssim == pytest.approx(1, abs=1e-6)

    def test_as_dict_is_json(self, truth, weight):
        values = compare(truth, truth, weight).as_dict()
        assert json.loads(json.dumps(values, allow_nan=False)) == values
        assert values['box'] == list(BOX)

    def test_inputs_are_untouched(self, truth, weight):
        given, before = noisy(truth, 0.1), noisy(truth, 0.1)
        compare(given, truth, weight)
        np.testing.assert_array_equal(given, before)

    @pytest.mark.parametrize(
        ('change', 'match'),
        [
            ({'truth': np.ones((120, 135))}, r'differ in shape.*\(120, 135\)'),
            ({'weight': np.ones((120, 135))}, 'differ in shape'),
            ({'reconstruction': np.ones((1, *SHAPE))}, 'differ in shape'),
            ({'weight': np.zeros(SHAPE)}, 'No part of the object is illuminated'),
            ({'weight': np.where(Y == 5, -1.0, 1.0)}, 'No part of the object is illuminated'),
            ({'weight': np.full(SHAPE, np.nan)}, 'weight contains NaN'),
            ({'reconstruction': np.full(SHAPE, np.nan + 0j)}, 'reconstruction contains NaN'),
            ({'truth': np.zeros(SHAPE)}, 'truth is zero everywhere'),
            ({'threshold': 1.0}, 'above the threshold'),
            ({'weight': np.eye(*SHAPE, k=500)}, 'No part'),
            ({'weight': (Y == 5) * 1.0}, 'too small.*1x136'),
        ],
    )
    def test_nonsense_is_refused(self, truth, weight, change, match):
        given = {'reconstruction': truth, 'truth': truth, 'weight': weight, **change}
        with pytest.raises(DataError, match=match):
            compare(**given)


SHARED_SCORES = {
    'phase_mae': 'phase_mae_rad', 'phase_ssim': 'phase_ssim', 'amp_mae': 'amplitude_mae',
    'amp_ssim': 'amplitude_ssim', 'frc50': 'frc50', 'box': 'box',
}  # fmt: skip


@pytest.fixture(scope='module')
def peer():
    spec = importlib.util.spec_from_file_location('peer_compare', PEER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not PEER.is_file(), reason='the scoring script of the peers is not here')
class TestAgainstThePeersScript:
    @pytest.mark.parametrize('kind', SPECIMENS)
    @pytest.mark.parametrize(
        'spoil',
        [
            lambda o: blurred(o, 1.2),
            lambda o: noisy(o, 0.05) * 2,
            lambda o: noisy(o, 0.5),
            lambda o: noisy(blurred(o, 2), 0.05) * np.exp(1j * (0.01 * X + 2)),
            lambda o: moved(noisy(o, 0.02), (0.4, -0.7)),
            lambda o: moved(noisy(o, 0.1), (2.3, -3.2)) * np.exp(0.02j * X),
            lambda o: np.ones(SHAPE, np.complex64),
            lambda o: noisy(0 * o, 1),
        ],
        ids=[
            'blur',
            'noise',
            'strong noise',
            'ramp',
            'shift',
            'shift and ramp',
            'flat',
            'nonsense',
        ],
    )
    def test_shared_scores_agree(self, peer, kind, spoil, weight):
        truth = specimen(kind)
        given = spoil(truth)
        mine, theirs = compare(given, truth, weight).as_dict(), peer.compare(given, truth, weight)
        for name, own in SHARED_SCORES.items():
            assert mine[own] == pytest.approx(theirs[name], abs=0.01), name

    def test_light_that_fades_unevenly(self, peer):
        """A scan with gaps: the box must be cut, and cut alike."""
        y, x = np.mgrid[:32, :32] - 15.5
        probe = np.exp(-(y**2 + x**2) / 80).astype(np.complex64)
        positions = np.random.default_rng(1).uniform((25, 33), (95, 103), (150, 2))
        truth = specimen()
        blank = np.ones((150, 32, 32), np.uint8)
        scan = Scan(blank, positions, probe, true_object=truth)
        light = relative_illumination(scan, scan.probe)
        given = noisy(blurred(truth, 0.8), 0.02)
        mine, theirs = compare(given, truth, light).as_dict(), peer.compare(given, truth, light)
        assert mine['box'][0] > 5
        for name, own in SHARED_SCORES.items():
            assert mine[own] == pytest.approx(theirs[name], abs=0.01), name


class TestOverlap:
    @pytest.fixture
    def whole(self):
        rng = np.random.default_rng(0)
        object_ = noisy(np.zeros((40, 50)), 1.0).astype(np.complex64)
        return ObjectImage(object_, rng.random((40, 50), np.float32), (-3.0, 7.0))

    def part(self, whole, y, x):
        origin = whole.origin_px[0] + y.start, whole.origin_px[1] + x.start
        return ObjectImage(whole.object[y, x], whole.weight[y, x], origin)

    def test_parts_meet_where_they_overlap(self, whole):
        a = self.part(whole, slice(0, 25), slice(10, 50))
        b = self.part(whole, slice(5, 40), slice(0, 30))
        for one, two in ((a, b), (b, a)):
            first, second, light = overlap(one, two)
            np.testing.assert_array_equal(first, whole.object[5:25, 10:30])
            np.testing.assert_array_equal(second, first)
            np.testing.assert_array_equal(light, whole.weight[5:25, 10:30])

    def test_the_lesser_weight_counts(self, whole):
        other = replace(whole, weight=np.full((40, 50), 0.5, np.float32))
        light = overlap(whole, other)[2]
        np.testing.assert_array_equal(light, np.minimum(whole.weight, 0.5))

    def test_fractions_of_a_pixel_are_left_to_compare(self, whole):
        other = replace(whole, origin_px=(-2.6, 6.7))
        first, second, _ = overlap(whole, other)
        np.testing.assert_array_equal(first, second)

    @pytest.mark.parametrize('origin', [(37.0, 7.0), (-3.0, -43.0), (1e6, 0.0)])
    def test_strangers_are_refused(self, whole, origin):
        with pytest.raises(DataError, match=r'do not overlap.*origins'):
            overlap(whole, replace(whole, origin_px=origin))


class TestRings:
    def test_equal_images_correlate_everywhere(self, truth):
        frequency, correlation = metrics.fourier_ring_correlation(truth, truth * 2)
        np.testing.assert_allclose(correlation, 1, atol=1e-6)
        assert frequency[0] == 0
        assert frequency[-1] == 1
        assert len(frequency) == SHAPE[0] // 2 + 1

    def test_noise_does_not_correlate(self):
        zero = np.zeros((128, 128))
        correlation = metrics.fourier_ring_correlation(noisy(zero, 1, 1), noisy(zero, 1, 2))[1]
        assert np.abs(correlation[20:]).max() < 0.4
        assert abs(correlation[20:].mean()) < 0.05

    @pytest.mark.parametrize('cut', [0.25, 0.6])
    def test_resolution_is_where_the_signal_ends(self, cut):
        """Shared detail up to `cut` of Nyquist, different beyond."""
        n = 128
        radius = np.hypot(*np.meshgrid(np.fft.fftfreq(n), np.fft.fftfreq(n))) * 2
        one, two = (np.fft.fft2(noisy(np.zeros((n, n)), 1, s)) for s in (1, 2))
        # A correlation of 1/3 beyond: below a half, but not nothing.
        beyond = one / 3 + two * np.sqrt(8 / 9)
        mixed = np.fft.ifft2(np.where(radius < cut, one, beyond))
        score = compare(mixed, np.fft.ifft2(one), np.ones((n, n)))
        assert score.frc50 == pytest.approx(cut, abs=0.05)

    def test_scale_and_dose_do_not_matter(self, truth):
        plain = metrics.fourier_ring_correlation(noisy(truth, 0.2), truth)[1]
        faint = metrics.fourier_ring_correlation(1e-60 * noisy(truth, 0.2), 1e9 * truth)[1]
        np.testing.assert_allclose(faint, plain, atol=1e-6)

    @pytest.mark.filterwarnings('error')
    def test_nothing_correlates_with_nothing(self, truth):
        assert not metrics.fourier_ring_correlation(np.zeros(SHAPE), truth)[1].any()

    def test_shapes_must_fit(self):
        with pytest.raises(DataError, match='different shapes'):
            metrics.fourier_ring_correlation(np.ones((8, 8)), np.ones((8, 9)))


def test_illumination_is_quick():
    """The weight of `compare`: 1000 patterns, so a score costs next to nothing."""
    rng = np.random.default_rng(0)
    positions = rng.uniform(40, 210, (1000, 2))
    blank = np.broadcast_to(np.uint8(1), (1000, 64, 64))
    scan = Scan(blank, positions, np.ones((1, 64, 64), np.complex64))
    begun = time.process_time()
    light = relative_illumination(scan, scan.probe)
    assert_within(0.2, begun, time.process_time)
    assert light.max() == 1
    assert light.dtype == np.float32
