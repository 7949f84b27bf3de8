"""The eight turns of a stack of patterns, and the check that finds the right one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from ptychopinn_plugin import files, orientation, pipeline, reference
from ptychopinn_plugin.cli import main
from ptychopinn_plugin.config import ReconstructionConfig, RuntimeConfig
from ptychopinn_plugin.errors import ConfigError
from ptychopinn_plugin.orientation import AS_LOADED, TURNS, Judgement, judge, reoriented
from ptychopinn_plugin.scan import Scan
from ptychopinn_plugin.simulate import Simulation, simulate_scan

from ..conftest import counting, seen_through

RUNTIME = RuntimeConfig(backend='torch', device='cpu')
NAMES = (
    'as loaded', 'flip x', 'flip y', 'flip y and x',
    'swap axes', 'swap axes, flip x', 'swap axes, flip y', 'swap axes, flip y and x',
)  # fmt: skip
SEVEN = NAMES[1:]


@pytest.fixture(scope='module')
def patterns():
    return np.random.default_rng(0).integers(0, 1000, (3, 8, 8)).astype(np.uint16)


@pytest.fixture(scope='module')
def scan():
    """Small, dense and of structure."""
    return simulate_scan(Simulation(object_size_px=64, pattern_size_px=32, patterns=80, seed=2))


def inverse(name):
    """The turn that takes `name` back."""
    probe = np.arange(64).reshape(1, 8, 8)
    return next(n for n in NAMES if (TURNS[n](TURNS[name](probe)) == probe).all())


def test_names():
    assert orientation.orientations() == NAMES
    assert NAMES[0] == AS_LOADED


@pytest.mark.parametrize('one', NAMES)
def test_they_are_a_group(one, patterns):
    """One after another is one of the eight, a different one for each first turn."""
    reached = set()
    for other in NAMES:
        twice = TURNS[other](TURNS[one](patterns))
        reached |= {n for n in NAMES if np.array_equal(TURNS[n](patterns), twice)}
    assert reached == set(NAMES)
    assert inverse(one) in NAMES


@pytest.mark.parametrize('name', NAMES)
def test_each_turn_maps_frequencies(name):
    """A count at (ky, kx) lands where the axes' swap and flips say; zero and -N/2 stay."""
    n, turn = 8, TURNS[name]
    for ky in range(-n // 2, n // 2):
        for kx in range(-n // 2, n // 2):
            one = np.zeros((n, n))
            one[ky + n // 2, kx + n // 2] = 1
            y, x = (kx, ky) if turn.swap else (ky, kx)
            y, x = (-y if turn.flip_y else y), (-x if turn.flip_x else x)
            at = ((y + n // 2) % n, (x + n // 2) % n)
            assert np.argwhere(turn(one)).tolist() == [list(at)]


@pytest.mark.parametrize('name', NAMES)
def test_a_turned_wave_has_a_turned_far_field(name):
    """The same turn of the wave in space (about pixel N/2) is that of its pattern."""
    rng, turn = np.random.default_rng(1), TURNS[name]
    wave = rng.normal(size=(16, 16)) + 1j * rng.normal(size=(16, 16))
    expected = np.abs(reference.far_field(turn(wave))) ** 2
    np.testing.assert_allclose(turn(np.abs(reference.far_field(wave)) ** 2), expected, atol=1e-12)


@pytest.mark.parametrize('name', NAMES)
def test_the_partner_is_the_conjugate(name):
    rng = np.random.default_rng(2)
    wave = rng.normal(size=(16, 16)) + 1j * rng.normal(size=(16, 16))
    pattern, twin = (np.abs(reference.far_field(w)) ** 2 for w in (wave, wave.conj()))
    other = orientation.partner(name)
    np.testing.assert_allclose(TURNS[other](pattern), TURNS[name](twin), atol=1e-12)
    assert orientation.partner(other) == name


@pytest.mark.parametrize('name', NAMES)
def test_a_scan_is_turned_with_its_bad_pixels(name, patterns):
    bad = np.zeros((8, 8), bool)
    bad[1, 2] = True
    scan = Scan(patterns, np.zeros((3, 2)), np.ones((8, 8)), bad_pixels=bad)
    turned = reoriented(scan, name)
    assert turned.counts.dtype == np.uint16
    np.testing.assert_array_equal(turned.counts, TURNS[name](patterns))
    np.testing.assert_array_equal(turned.totals, scan.totals)
    back = reoriented(turned, inverse(name))
    np.testing.assert_array_equal(back.counts, patterns)
    np.testing.assert_array_equal(back.bad_pixels, bad)


def test_an_unknown_name_is_refused(scan):
    with pytest.raises(ConfigError, match=r'no such orientation.*flip y and x.*Received: upside'):
        reoriented(scan, 'upside down')


@pytest.mark.parametrize('wrong', [{'sweeps': 0}, {'patterns': 0}])
def test_nothing_to_do_is_refused(scan, wrong):
    with pytest.raises(ConfigError, match=f'The check needs {next(iter(wrong))}'):
        judge(scan, runtime=RUNTIME, **wrong)


def test_the_part_is_compact(scan):
    part = orientation.compact_part(scan, 20)
    assert len(part) == 20
    assert max(part.frame.shape) < 60
    middle = np.median(scan.positions_px, axis=0)
    away = np.linalg.norm(scan.positions_px - middle, axis=1)
    np.testing.assert_array_equal(np.sort(away)[:20], np.sort(away[part.scan_index]))
    np.testing.assert_array_equal(part.counts, scan.counts[part.scan_index])
    assert len(orientation.compact_part(scan, 1000)) == len(scan)


def judgement(*errors, floor=0.0):
    return Judgement(dict(zip(NAMES, errors, strict=True)), 100, floor)


@pytest.mark.parametrize(
    ('errors', 'count'),
    [
        ((0.0104, 0.0742, 0.0856, 0.0851, 0.0827, 0.0823, 0.0763, 0.0790), 1),
        ((0.268, 0.317, 0.319, 0.326, 0.319, 0.322, 0.324, 0.320), 1),  # 1000 photons a frame
        ((0.049, 0.050, 0.051, 0.052, 0.053, 0.053, 0.053, 0.053), 8),
        ((0.010, 0.0101, 0.051, 0.052, 0.053, 0.053, 0.053, 0.053), 2),
        ((0.0133,) * 8, 8),
        ((0.0130, *(0.01301,) * 7), 8),  # apart, by next to nothing
    ],
)
def test_how_many_may_be_right(errors, count):
    found = judgement(*errors)
    assert len(found.candidates) == count
    assert found.clear == (count == 1)
    assert found.best == found.ranking[0] == AS_LOADED


@pytest.mark.parametrize('name', NAMES)
def test_a_spoiled_scan_is_set_right(scan, name):
    """What undoes the spoiling is found, though the object is dense and the sweeps few."""
    seen = []
    found = judge(reoriented(scan, name), runtime=RUNTIME, on_orientation=lambda *e: seen.append(e))
    assert found.best == inverse(name)
    assert found.clear
    assert tuple(seen) == tuple(found.errors.items())


def test_positions_turned_instead(scan):
    """Positions flipped along y: the patterns flipped along y fit them."""
    positions = scan.positions_px.copy()
    positions[:, 0] = scan.frame.shape[0] - 1 - positions[:, 0]
    found = judge(replace(scan, positions_px=positions), runtime=RUNTIME)
    assert found.candidates == ('flip y',)


def test_sweeps_in_a_wrong_orientation_are_not_told(scan, monkeypatch, caplog):
    """They explain less and less, which says nothing of the user's scan; a real run still says."""
    caplog.set_level('INFO', 'ptychopinn_plugin')
    monkeypatch.setattr('ptychopinn_plugin.sweeper.unsteady', lambda losses: True)
    judge(scan, runtime=RUNTIME, sweeps=1)
    assert 'dim light is damped' not in caplog.text
    pipeline.reconstruct(scan, reconstruction=ReconstructionConfig(sweeps=1), runtime=RUNTIME)
    assert caplog.text.count('dim light is damped') == 1


def test_the_sweeps_that_are_tried_do_not_stay_in_memory(toy, scan, monkeypatch):
    refine, counts = counting(toy.refine)
    monkeypatch.setattr(toy, 'refine', refine)
    judge(scan, sweeps=10)
    assert len(counts) == len(TURNS) * 10
    assert max(counts) <= 3


def test_an_empty_specimen_is_unclear():
    flat = Simulation(
        object_size_px=64, pattern_size_px=32, patterns=60, phase_range_rad=0.0, amplitude_low=1.0
    )
    found = judge(simulate_scan(flat), runtime=RUNTIME)
    assert not found.clear
    assert 'no orientation stands apart' in orientation.advice(found)[0]


def test_few_photons_are_unclear():
    weak = Simulation(object_size_px=64, pattern_size_px=32, patterns=60, photons_per_frame=5)
    assert not judge(simulate_scan(weak), runtime=RUNTIME).clear


def test_stripes_are_unclear_between_two(scan):
    """A specimen that does not change along y looks the same with y flipped."""
    x = np.arange(64)
    stripes = np.exp(1j * (np.sin(x / 2.3) + np.sin(x / 5.1 + 1)))[None] * np.ones((64, 1))
    found = judge(seen_through(scan, stripes), runtime=RUNTIME)
    assert set(found.candidates) == {'as loaded', 'flip y'}
    assert 'Unclear between' in orientation.advice(found)[0]


def test_a_probe_without_phase_cannot_tell_180_degrees(scan):
    real = seen_through(replace(scan, probe=np.abs(scan.probe)), scan.true_object)
    found = judge(real, runtime=RUNTIME)
    assert set(found.candidates) == {'as loaded', 'flip y and x'}
    assert 'a probe without phase' in orientation.advice(found)[1]


def test_another_sign_of_the_defocus_is_told(scan):
    """The one mistake that a clear answer cannot exclude, and the advice names it."""
    found = judge(replace(scan, probe=scan.probe.conj()), runtime=RUNTIME)
    assert found.candidates == ('flip y and x',)
    assert '"as loaded" fits as well' in orientation.advice(found)[-1]


@pytest.mark.parametrize('name', SEVEN)
def test_the_code_of_the_advice_does_what_it_says(name, patterns):
    code = orientation.advice(clear(name))[1].split('In a file: ')[1].rstrip('.')
    turned = eval(code, {'np': np, 'a': patterns})  # noqa: S307 - our own text
    np.testing.assert_array_equal(turned, TURNS[name](patterns))


@pytest.mark.parametrize('name', SEVEN)
def test_the_switches_of_the_advice_do_what_it_says(name):
    """The host flips along x, then y, then transposes, without moving zero frequency back."""
    switches = orientation.advice(clear(name))[1].split('In a file')[0]
    odd = np.arange(49).reshape(1, 7, 7)  # where a bare flip keeps the middle
    wanted = odd.swapaxes(1, 2) if TURNS[name].swap else odd
    flips = [a for a, on in ((1, TURNS[name].flip_y), (2, TURNS[name].flip_x)) if on]
    wanted = np.flip(wanted, flips)
    for switch, axis in (('Flip Horizontal', 2), ('Flip Vertical', 1)):
        odd = np.flip(odd, axis) if switch in switches else odd
    odd = odd.swapaxes(1, 2) if 'Transpose' in switches else odd
    np.testing.assert_array_equal(odd, wanted)


def clear(name):
    """A judgement that `name` fits."""
    return Judgement({n: 0.01 if n == name else 0.05 for n in NAMES}, 100, 0.005)


def test_nothing_to_do_when_it_fits():
    assert 'nothing to do' in orientation.advice(clear(AS_LOADED))[0]


@pytest.mark.parametrize('mean', [0.02, 0.3, 1, 2, 5, 40, 3000])
def test_the_floor_is_that_of_photon_noise(mean):
    """In dark pixels it may be half of the noise, and is never above it."""
    drawn = np.random.default_rng(0).poisson(mean, (20, 128, 128))
    scan = Scan(drawn, np.zeros((20, 2)), np.ones((128, 128)))
    noise = ((np.sqrt(drawn) - np.sqrt(mean)) ** 2).sum() / drawn.sum()
    least = 0.85 if mean >= 1 else 0.5
    assert least < orientation.noise_floor(scan) / noise < 1.1


@pytest.mark.parametrize(
    ('error', 'floor', 'sweeps', 'high'),
    [
        (0.0102, 0.0071, 20, False),  # the real scan
        (0.0499, 0.0071, 20, True),  # and turned
        (0.0020, 0.0010, 20, False),
        (0.0220, 0.0010, 20, True),
        (0.27, 0.26, 20, False),  # noise
        (0.0499, 0.0071, 2, False),  # not there yet
    ],
)
def test_what_is_suspicious(error, floor, sweeps, high):
    assert orientation.suspicious(error, floor, sweeps) == high


def run(capsys, *argv):
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_command_line(scan, tmp_path, capsys):
    files.save_scan(reoriented(scan, 'swap axes, flip x'), tmp_path / 'turned.npz')
    code, out, err = run(
        capsys, 'orient', tmp_path / 'turned.npz', '--backend', 'torch', '--device', 'cpu',
        '--patterns', 60, '--json',
    )  # fmt: skip
    assert code == 0
    table = [line for line in err.splitlines() if line.startswith('  ')]
    assert len(table) == 8
    assert table[0].split(' ', 1)[1].strip().startswith('swap axes, flip y ')
    assert table[0].endswith('fits')
    assert not any(line.endswith('fits') for line in table[1:])
    assert 'np.swapaxes(a, 1, 2)' in err
    report = json.loads(out.splitlines()[-1])
    assert report['best'] == 'swap axes, flip y'
    assert report['clear'] is True
    assert set(report['errors']) == set(NAMES)
    assert report['patterns'] == 60


def test_command_line_says_unclear(toy, scan, tmp_path, capsys):
    """The toy back end finds the same error everywhere."""
    files.save_scan(scan, tmp_path / 'scan.npz')
    code, _, err = run(capsys, 'orient', tmp_path / 'scan.npz')
    assert code == 0
    assert 'Unclear: no orientation' in err
    assert err.count('may fit') == 8


def test_command_line_refuses_nothing_to_do(toy, scan, tmp_path, capsys):
    files.save_scan(scan, tmp_path / 'scan.npz')
    code, _, err = run(capsys, 'orient', tmp_path / 'scan.npz', '--sweeps', 0)
    assert code == 2
    assert 'The check needs sweeps' in err


def test_a_high_error_is_doubted(toy, scan, tmp_path, capsys, caplog):
    """The toy back end ends at 0.5, after however many sweeps."""
    files.save_scan(scan, tmp_path / 'scan.npz')
    assert run(capsys, 'reconstruct', tmp_path / 'scan.npz', '--sweeps', 2)[0] == 0
    assert 'orient' not in caplog.text
    assert run(capsys, 'reconstruct', tmp_path / 'scan.npz', '--sweeps', 6)[0] == 0
    for cure in ('ptychopinn-plugin orient SCAN', '--update-probe', '--correct-positions'):
        assert cure in caplog.text
    assert caplog.text.count('WARNING') == 1
