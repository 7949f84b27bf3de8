"""The slow phase, against ramps and waves that are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import fft

from ptychopinn_plugin import reference, slow_phase
from ptychopinn_plugin.geometry import relative_illumination, windows
from ptychopinn_plugin.scaling import normalised_probe
from ptychopinn_plugin.simulate import Simulation, simulate_scan
from ptychopinn_plugin.simulate.probes import make_probe
from ptychopinn_plugin.slow_phase import (
    LARGEST_MOVE_PX,
    LEAST_FOLLOWED,
    SlowPhase,
    first_phase,
    followed,
    mean_ramp,
    plane,
    potential,
    ramp_sums,
)

from ..conftest import seen_through

N = 64


def test_a_beam_is_followed_as_far_as_it_is_narrow():
    r = np.arange(N) - N / 2
    found = [
        followed(np.exp(-(r[:, None] ** 2 + r**2) / s**2)[None].astype(np.complex64))
        for s in (1, 5, 10, 20, 100)
    ]
    assert found[0] == pytest.approx(1, abs=0.02)
    assert found == sorted(found, reverse=True)
    assert found[4] < LEAST_FOLLOWED
    # Whatever its place and the modes it has.
    beam = make_probe('zone-plate', N, 2)
    assert followed(np.roll(beam, (2, -3), (1, 2))) == pytest.approx(followed(beam), abs=0.02)
    line = np.zeros((1, N, N), np.complex64)
    line[:, :, N // 2] = 1  # narrow along x alone
    assert followed(line) < LEAST_FOLLOWED
    one = np.zeros((1, N, N), np.complex64)
    one[:, N // 2, N // 2] = 1
    assert followed(one) == pytest.approx(0, abs=1e-3)  # patterns without detail say nothing


def moduli(phase, probe=None, modes=1):
    """|F| (1, N, N), zero frequency first, of a probe with a phase (N, N) under it."""
    probe = make_probe('zone-plate', N, modes) if probe is None else probe
    field = np.fft.fft2(probe * np.exp(1j * phase))
    return np.sqrt((np.abs(field) ** 2).sum(0))[None].astype(np.float32)


def ramp(gy, gx):
    r = np.arange(N) - (N - 1) / 2
    return gy * r[:, None] + gx * r


def slow(probe=None):
    probe = make_probe('zone-plate', N, 1) if probe is None else probe
    return SlowPhase(np.array([[0, 0]]), probe, (N, N))


@pytest.mark.parametrize('modes', [1, 3])
@pytest.mark.parametrize('g', [(0.01, 0.0), (0.0, -0.02), (-0.015, 0.03)])
def test_a_ramp_is_found(g, modes):
    flat, moved = moduli(0, modes=modes), moduli(ramp(*g), modes=modes)
    found, known = slow().ramps(ramp_sums(flat, moved - flat))
    np.testing.assert_allclose(found[0], g, rtol=0.25, atol=0.001)  # slopes over two pixels
    assert known[0] > 0


def test_no_ramp_where_nothing_is_missed():
    flat = moduli(0)
    found, _ = slow().ramps(ramp_sums(flat, np.zeros_like(flat)))
    assert (found == 0).all()


def test_a_scale_is_no_ramp():
    flat = moduli(0)
    found, _ = slow().ramps(ramp_sums(flat, 0.3 * flat))
    np.testing.assert_allclose(found, 0, atol=3e-4)  # a ramp of the others is 0.01


def test_a_ramp_too_large_to_be_linear_is_cut():
    flat, moved = moduli(0), moduli(ramp(0.9, 0.0))
    found, _ = slow().ramps(ramp_sums(flat, 30 * (moved - flat)))
    assert np.hypot(*found[0]) == pytest.approx(LARGEST_MOVE_PX * 2 * np.pi / N)


def test_dark_patterns_say_nothing():
    dark = np.zeros((1, N, N), np.float32)
    found, known = slow().ramps(ramp_sums(dark, dark))
    assert (found == 0).all()
    assert (known == 0).all()
    assert (slow().phase(ramp_sums(dark, dark)) == 0).all()


@pytest.mark.parametrize('masked', [False, True])
def test_sums_are_over_good_pixels(masked):
    rng = np.random.default_rng(0)
    m, e = rng.random((2, 3, 8, 8)).astype(np.float32)
    good = (rng.random((8, 8)) > 0.3 if masked else np.ones((8, 8))).astype(np.float32)
    e *= good
    dy, dx = np.zeros((2, 3, 8, 8))
    dy[:, 1:-1], dx[:, :, 1:-1] = m[:, 2:] - m[:, :-2], m[:, :, 2:] - m[:, :, :-2]
    dy, dx = dy * good, dx * good
    pairs = ((dy, e), (dx, e), (dy, dy), (dx, dx), (dy, dx))
    expected = np.stack([(a * b).sum((1, 2)) for a, b in pairs], 1)
    found = ramp_sums(m, e, good if masked else None)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_ramp_is_found_beside_bad_pixels():
    flat, moved = moduli(0), moduli(ramp(0.02, -0.01))
    good = np.ones((N, N), np.float32)
    good[:, 3:20] = 0
    found, _ = slow().ramps(ramp_sums(flat, (moved - flat) * good, good))
    np.testing.assert_allclose(found[0], (0.02, -0.01), rtol=0.3)


@pytest.mark.parametrize('shape', [(40, 60), (33, 31)])
def test_a_phase_is_integrated_from_its_gradient(shape):
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    phase = np.cos(np.pi * y / 40) * np.sin(np.pi * x / 55) + 0.03 * y - 0.01 * x
    gy, gx = np.gradient(phase)
    found = fft.idctn(potential(gy.astype(np.float32), gx.astype(np.float32)), norm='ortho')
    assert found.dtype == np.float32
    assert abs(found.mean()) < 1e-5
    np.testing.assert_allclose(found, phase - phase.mean(), atol=0.02)


def wave_scan(amplitude=1.5, **settings):
    """A scan of a slow phase wave and nothing else."""
    scan = simulate_scan(Simulation(patterns=400, object_size_px=192, seed=5, **settings))
    y, x = np.mgrid[:192, :192]
    object_ = 0.8 * np.exp(1j * amplitude * np.cos(2 * np.pi * (x + 0.5 * y) / 150))
    return seen_through(scan, object_)


@pytest.mark.parametrize('settings', [{}, {'bad_fraction': 0.05}, {'modes': 2}])
def test_the_first_phase_is_the_wave(settings):
    scan = wave_scan(**settings)
    found = first_phase(scan, normalised_probe(scan))
    lit = np.s_[40:-40, 40:-40]
    miss = np.angle(np.exp(1j * (found - np.angle(scan.true_object))))[lit]
    miss -= miss.mean()
    wave = np.angle(scan.true_object)[lit]
    assert miss.std() < 0.25 * wave.std()


def spread_ramps(ramps_of):
    """Return the phases, with and without doubt, of ramps (M, 2) [rad/px] on a raster."""
    probe = make_probe('gaussian', N, 1).astype(np.complex64)
    raster = np.arange(0, 193, 4)
    corner_px = np.stack(np.meshgrid(raster, raster, indexing='ij'), -1).reshape(-1, 2)
    made = SlowPhase(corner_px, probe, (192 + N, 192 + N))
    move = ramps_of(corner_px) * N / (2 * np.pi)
    ones = np.ones(len(move))
    sums = np.stack([*(-move.T / 2), ones, ones, 0 * ones], 1)
    lit = np.s_[20:-20, 20:-20]
    return [made.phase(sums, doubting=d)[lit] for d in (True, False)]


def test_what_is_no_gradient_is_half_believed():
    """Chance gives each scan more curl or less than divergence: twelve of them together."""
    powers = np.zeros(2)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        powers += [p.var() for p in spread_ramps(lambda c, r=rng: r.normal(0, 0.05, c.shape))]
    assert np.sqrt(powers[0] / powers[1]) < 0.7


def test_a_gradient_is_believed():
    period = 96

    def wave(corner_px):
        y, x = 2 * np.pi * corner_px.T / period
        return 0.05 * np.stack([np.cos(y) * np.sin(x), np.sin(y) * np.cos(x)], 1)

    doubted, taken = spread_ramps(wave)
    assert doubted.std() > 0.9 * taken.std()
    assert np.corrcoef(doubted.ravel(), taken.ravel())[0, 1] > 0.98


def brightened(probe, gy, gx):
    """|F| (1, N, N), zero frequency first, of a probe under an amplitude whose logarithm has a
    slope from the middle of the beam on, its power kept.
    """
    field = np.fft.fft2(probe * np.exp(ramp(gy, gx)))
    modulus = np.sqrt((np.abs(field) ** 2).sum(0))
    flat = np.fft.fft2(probe)
    return (modulus * np.linalg.norm(flat) / np.linalg.norm(modulus))[None].astype(np.float32)


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('g', [(0.001, 0.0), (0.0, -0.002), (-0.002, 0.001)])
def test_what_the_amplitude_feigns_is_foretold(g, masked):
    probe = make_probe('gaussian', N, 1).astype(np.complex64)
    good = np.ones((N, N), np.float32)
    if masked:
        good[:, 20:44:8] = 0  # of zero frequency first: few lines, little light
        good[:, 22:42] = 0
    made = SlowPhase(np.array([[0, 0]]), probe, (N, N), np.fft.fftshift(good))
    flat = moduli(0, probe)
    # `SlowPhase` has patterns as the detector has them.
    miss = np.fft.fftshift((brightened(probe, *g) - flat) * good, (-2, -1))
    found, _ = made.ramps(ramp_sums(np.fft.fftshift(flat, (-2, -1)), miss, np.fft.fftshift(good)))
    foretold = np.array(g) @ made.feigned_px * (2 * np.pi / N)
    assert np.hypot(*foretold) > 4 * np.hypot(*g)
    np.testing.assert_allclose(found[0], foretold, rtol=0.02, atol=1e-4)


def test_amplitudes_feign_little_under_an_edge_and_tell_nothing_behind_a_beam_stop():
    gaussian, zone_plate = (
        make_probe(kind, N, 1).astype(np.complex64) for kind in ('gaussian', 'zone-plate')
    )
    stop = np.ones((N, N), np.float32)
    stop[24:40, 24:40] = 0
    places = np.array([[0, 0], [3, 5]])

    def made(*given):
        return SlowPhase(places, *given)

    counts = np.array([1.0, 2.0])
    assert made(gaussian, (80, 80)).brighter(counts) is not None
    assert made(gaussian, (80, 80), stop).brighter(counts) is None
    assert made(zone_plate, (80, 80)).brighter(counts) is None


def gaussian_scan(object_):
    """A scan of an object (192, 192) under a Gaussian beam, without noise."""
    scan = simulate_scan(
        Simulation(probe='gaussian', patterns=400, object_size_px=192, seed=5)
    )  # fmt: skip
    return seen_through(scan, object_)


def amplitude_wave(depth=0.2):
    y, x = np.mgrid[:192, :192]
    return 1 - depth * (1 + np.cos(2 * np.pi * (x + 0.5 * y) / 150))


def test_counts_tell_how_bright_the_object_is():
    scan = gaussian_scan(amplitude_wave())
    probe = normalised_probe(scan)
    place = windows(scan).corner_px
    made = SlowPhase(place, probe, scan.frame.shape)
    flat = made.brighter(scan.totals)
    middle = place + N // 2
    wave = np.log(amplitude_wave())[tuple(middle.T)]
    assert np.corrcoef(flat, wave)[0, 1] > 0.99
    assert abs(flat.mean()) < 1e-9
    # An object that is right already is to grow nowhere.
    right = made.brighter(scan.totals, scan.true_object.astype(np.complex64))
    assert right.std() < 0.03 * flat.std()


def test_an_object_of_any_shape_is_seen():
    """By the beam of every pattern, with cells of several pixels."""
    probe = make_probe('gaussian', 128, 1).astype(np.complex64)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:201, :260]
    object_ = (1 + 0.3 * np.cos(2 * np.pi * (x + 0.5 * y) / 150)).astype(np.complex64)
    corner_px = np.stack([rng.integers(0, 201 - 128, 30), rng.integers(0, 260 - 128, 30)], 1)
    made = SlowPhase(corner_px, probe, object_.shape)
    power = (np.abs(probe) ** 2).sum(0)
    parts = [np.abs(object_[y : y + 128, x : x + 128]) ** 2 for y, x in corner_px.tolist()]
    counts = np.array([(power * p).sum() for p in parts])
    assert made.pitch_px > 1
    assert made.brighter(1e6 * counts, object_).std() < 0.05 * made.brighter(1e6 * counts).std()


def test_the_first_phase_is_one_for_any_number_of_threads():
    scan = simulate_scan(Simulation(specimen='field', patterns=150, seed=5))
    one, three = (first_phase(scan, normalised_probe(scan), threads) for threads in (1, 3))
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize(('depth', 'left'), [(0.2, 0.25), (0.4, 0.5)])
def test_an_amplitude_is_not_taken_for_a_phase(depth, left, monkeypatch):
    """Not even one that moves patterns by more than is believed of a phase."""
    scan = gaussian_scan(amplitude_wave(depth))
    probe = normalised_probe(scan)
    lit = np.s_[40:-40, 40:-40]
    found = first_phase(scan, probe)[lit].std()
    monkeypatch.setattr(slow_phase, 'LEAST_FEIGNED_RAD', np.inf)
    feigned = first_phase(scan, probe)[lit].std()
    assert feigned > 1.5 * depth  # of an object without a phase
    assert found < left * feigned


def test_counts_that_jump_are_not_believed():
    scan = gaussian_scan(np.exp(0.5j * amplitude_wave()))
    probe, rng = normalised_probe(scan), np.random.default_rng(0)
    made = SlowPhase(windows(scan).corner_px, probe, scan.frame.shape)
    sums = np.tile(np.float32([0, 0, 1, 1, 0]), (len(scan), 1))
    jumps = made.brighter(scan.totals * rng.normal(1, 0.05, len(scan)))
    wave = np.std(jumps) * np.cos(2 * np.pi * windows(scan).corner_px[:, 0] / 100)
    lit = np.s_[40:-40, 40:-40]
    phase_of = {k: made.phase(sums, v)[lit].std() for k, v in (('jumps', jumps), ('wave', wave))}
    assert phase_of['jumps'] < 0.15 * phase_of['wave']


@pytest.mark.parametrize(
    ('settings', 'pitch_px'),
    [({}, 2), ({'pattern_size_px': 128, 'object_size_px': 333}, 4)],
)
def test_a_grid_of_a_few_cells_across_the_probe_finds_the_same(settings, pitch_px, monkeypatch):
    scan = simulate_scan(Simulation(specimen='field', patterns=150, seed=5, **settings))
    probe = normalised_probe(scan)
    coarse, made = first_phase(scan, probe), slow_phase.SlowPhase(
        windows(scan).corner_px, probe, scan.frame.shape
    )  # fmt: skip
    assert made.pitch_px == pitch_px
    monkeypatch.setattr(slow_phase, 'CELLS', 1e9)
    fine = first_phase(scan, probe)
    lit = relative_illumination(scan, probe) > 0.1
    assert coarse.shape == fine.shape == scan.frame.shape
    assert fine[lit].std() > 0.02
    assert (coarse - fine)[lit].std() < 0.1 * fine[lit].std()


@pytest.mark.parametrize('ramp', [(0.0, 0.0), (0.03, -0.2), (-1.0, 2.0)])
def test_the_mean_ramp_is_found_where_there_is_light(ramp):
    rng = np.random.default_rng(0)
    object_ = (1 + 0.3 * rng.random((40, 60))) * np.exp(0.3j * rng.random((40, 60)))
    weight = np.zeros((40, 60), np.float32)
    weight[5:30, 10:50] = 0.5
    turned = object_ * plane((40, 60), ramp)
    turned[:, 50:] = np.exp(1j * rng.uniform(-3, 3, (40, 10)))  # dark
    np.testing.assert_allclose(mean_ramp(turned, weight), ramp, atol=0.01)


def test_a_plane_is_zero_in_the_middle():
    wave = plane((5, 7), (0.1, -0.2))
    assert wave.dtype == np.complex64
    assert wave[2, 3] == 1
    assert np.angle(wave[3, 3]) == pytest.approx(0.1)
    assert np.angle(wave[2, 4]) == pytest.approx(-0.2)


def test_a_ramp_of_the_object_is_a_tilt_of_the_probe():
    scan = simulate_scan(Simulation(patterns=5, object_size_px=100, modes=2, seed=1))
    at, ramp_ = windows(scan), (0.05, -0.12)
    object_, probe = scan.true_object, scan.probe

    def patterns(o, p):
        probes = reference.shift_probe(p, np.zeros_like(at.shift_px))
        return reference.diffract(reference.extract(o, at.corner_px, 64), probes)

    turned = object_ * plane(object_.shape, (-ramp_[0], -ramp_[1]))
    given = patterns(object_, probe)
    same = patterns(turned, probe * plane((64, 64), ramp_))
    np.testing.assert_allclose(same, given, atol=1e-4 * given.max())
    assert np.abs(patterns(turned, probe) - given).max() > 0.1 * given.max()
