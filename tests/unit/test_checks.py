"""Each lie is found where it was put in, and nothing where nothing was; no fault stops a run."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptychopinn_plugin import checks, files, orientation
from ptychopinn_plugin.checks import NOTE, WARNING, Finding, check_scan
from ptychopinn_plugin.checks.beam import off_rows
from ptychopinn_plugin.checks.detector import dead_pixels, hot_pixels
from ptychopinn_plugin.checks.optics import bright_field_scale, off_centre_px
from ptychopinn_plugin.checks.places import repeated_frames
from ptychopinn_plugin.checks.sample import Sample
from ptychopinn_plugin.checks.values import noise_over_photons, quantum_of
from ptychopinn_plugin.cli import main
from ptychopinn_plugin.orientation import reoriented
from ptychopinn_plugin.scan import Geometry, Scan
from ptychopinn_plugin.simulate import Simulation, simulate_scan


@pytest.fixture(scope='module')
def scan():
    return simulate_scan(
        Simulation(pattern_size_px=64, object_size_px=140, patterns=300, scan='random', seed=4)
    )


def named(scan, **more):
    return {finding.check: finding for finding in check_scan(scan, **more)}


def with_counts(scan, change):
    return replace(scan, counts=change(scan.counts.astype(np.float64)))


def thinned(scan, share):
    """The scan with the beam of each pattern weakened to `share` (M,), noise included."""
    rng = np.random.default_rng(0)
    return replace(scan, counts=rng.binomial(scan.counts, np.reshape(share, (-1, 1, 1))))


@pytest.mark.parametrize(
    'more',
    [
        {},
        {'specimen': 'lines', 'phase_range_rad': 5.0, 'amplitude_low': 0.1},
        {'phase_range_rad': 0.0, 'amplitude_low': 1.0},
        {'probe': 'gaussian', 'photons_per_frame': 1e4, 'scan': 'raster'},
        {'probe': 'airy', 'photons_per_frame': 1e7, 'scan': 'spiral', 'modes': 3},
        {'bad_fraction': 0.02, 'background': 0.1, 'scan': 'jitter'},
        {'pattern_size_px': 32, 'object_size_px': 64},
        {'patterns': 1},
        {'patterns': 5, 'object_size_px': 72},
    ],
)
def test_a_clean_scan_is_silent(more, caplog):
    plain = {'object_size_px': 140, 'patterns': 300, 'seed': 7}
    assert check_scan(simulate_scan(Simulation(**{**plain, **more}))) == ()
    assert caplog.text == ''


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (lambda c: np.sqrt(c).astype(np.float32), 'square roots of multiples of 1,'),
        (np.sqrt, 'square roots of multiples of 1,'),
        (lambda c: np.rint(np.sqrt(c)), 'of what photon counts must have'),
        (lambda c: (c / c.max()).astype(np.float32), 'normalised counts'),
        (lambda c: np.sqrt(c / c.max()), 'square roots of multiples of'),
        (lambda c: 7 * c, 'multiples of 7 '),
        (lambda c: c / 4, 'multiples of 0.25'),
    ],
)
def test_numbers_that_are_no_counts(scan, change, text):
    finding = named(with_counts(scan, change))['counts']
    assert finding.level == WARNING
    assert text in finding.saw


def test_smoothed_counts_lack_noise():
    made = simulate_scan(Simulation(probe='gaussian', patterns=60, object_size_px=110))
    rng = np.random.default_rng(0)
    smooth = replace(made, counts=0.2 * made.counts + rng.uniform(0, 1e-2, made.counts.shape))
    assert 'no integers' in named(smooth)['counts'].saw


@pytest.mark.parametrize('photons', [1e4, 1e5, 1e6])
def test_photons_have_the_noise_of_photons(photons):
    made = simulate_scan(
        Simulation(probe='gaussian', patterns=60, object_size_px=110, photons_per_frame=photons)
    )
    assert noise_over_photons(Sample(made)) == pytest.approx(1, abs=0.1)


@given(
    quantum=st.floats(1e-6, 1e3),
    multiples=st.lists(st.integers(1, 2000), min_size=40, max_size=200, unique=True),
)
@settings(max_examples=60, deadline=None)
def test_the_quantum_divides_all(quantum, multiples):
    values = np.unique([*multiples, 1]) * quantum
    assert quantum_of(values) == pytest.approx(quantum, rel=1e-6)
    assert quantum_of(np.sqrt(values)) is None


@pytest.mark.parametrize(
    ('name', 'cure'),
    [
        ('flip x', 'flip one axis'),
        ('flip y', 'flip one axis'),
        ('swap axes', 'swap the axes of'),
        ('swap axes, flip y and x', 'swap the axes of'),
        ('swap axes, flip y', 'swap the axes and flip one'),
        ('swap axes, flip x', 'swap the axes and flip one'),
    ],
)
def test_turned_patterns(scan, name, cure):
    finding = named(reoriented(scan, name))['orientation']
    assert finding.level == WARNING
    assert cure in finding.cure


def test_a_turn_by_180_degrees_has_no_curl(scan):
    assert 'orientation' not in named(reoriented(scan, 'flip y and x'))


def test_a_background_is_told_of(scan):
    more = np.random.default_rng(2).poisson(20.0, scan.counts.shape)
    finding = named(with_counts(scan, lambda counts: counts + more))['background']
    assert finding.level == NOTE
    assert 'background' not in named(scan)
    assert '% of all counts' in finding.saw


@given(y=st.integers(-9, 9), x=st.integers(-9, 9))
@settings(max_examples=25, deadline=None)
def test_the_centre_is_measured(y, x):
    made = simulate_scan(Simulation(patterns=40, object_size_px=110, seed=1))
    moved = replace(made, counts=np.roll(made.counts, (y, x), (1, 2)))
    sample = Sample(moved)
    assert off_centre_px(sample.mean, sample.far, sample.good) == pytest.approx((y, x), abs=0.3)
    level = getattr(named(moved).get('centre'), 'level', None)
    away = np.hypot(y, x)
    assert level == (None if away == 0 else NOTE if away < 2.7 else WARNING) or 2.7 < away < 3.3


def test_shifted_patterns(scan):
    shifted = replace(scan, counts=np.fft.fftshift(scan.counts, axes=(1, 2)))
    assert 'FFT-shifted' in named(shifted)['centre'].saw
    assert 'np.fft.fftshift' in named(shifted)['centre'].cure


@pytest.mark.parametrize('factor', [0.7, 1.4])
def test_a_probe_of_another_scale(scan, factor):
    """A probe that is wider in space has a narrower far field."""
    n, wide = 64, simulate_scan(Simulation(patterns=1, object_size_px=110)).probe
    axis = (np.arange(n) - (n - 1) / 2) / factor + (n - 1) / 2
    y, x = np.meshgrid(axis, axis, indexing='ij')
    from scipy.ndimage import map_coordinates

    scaled = [
        map_coordinates(m.real, [y, x], order=1) + 1j * map_coordinates(m.imag, [y, x], order=1)
        for m in wide
    ]
    wrong = replace(scan, probe=np.array(scaled))
    assert bright_field_scale(Sample(wrong))[0] == pytest.approx(factor, rel=0.1)
    assert f'{bright_field_scale(Sample(wrong))[0]:.2f} times' in named(wrong)['bright field'].saw


def test_probes_that_do_not_fit(scan):
    narrow = np.zeros_like(scan.probe)
    narrow[0, 32, 32] = 1
    assert 'lie within' in named(replace(scan, probe=narrow))['probe width'].saw
    assert 'outer' in named(replace(scan, probe=np.ones_like(scan.probe)))['probe width'].saw
    corner = named(replace(scan, probe=np.fft.fftshift(scan.probe, axes=(1, 2))))['probe width']
    assert 'FFT-shifted' in corner.saw
    far = named(replace(scan, probe=narrow))['probe curvature']
    assert 'far field' in far.saw


def test_lengths_that_contradict(scan):
    right = Geometry((62e-9, 62e-9), None, (1e-4, 1e-4), 2.0, 6249.203)  # 0.1984 nm
    agree = replace(scan, geometry=right)
    assert 'lengths' not in named(agree)
    binned = replace(right, detector_pixel_size_m=(2e-4, 2e-4))
    both = named(replace(scan, geometry=binned))['lengths'].saw
    assert both.startswith('The object pixel is 62 nm, but ')
    assert both.endswith(' is 31 nm: a factor of 2')


@pytest.mark.parametrize(('axis', 'pixel_m'), [('y', (124e-9, 62e-9)), ('x', (62e-9, 124e-9))])
def test_lengths_that_contradict_along_one_axis(scan, axis, pixel_m):
    """The lengths that are told are those of that axis."""
    wrong = replace(scan, geometry=Geometry(pixel_m, None, (1e-4, 1e-4), 2.0, 6249.203))
    saw = named(wrong)['lengths'].saw
    assert saw.startswith(f'The object pixel is 124 nm in {axis}, but ')
    assert saw.endswith(' is 62 nm: a factor of 2')


def test_near_field(scan):
    far = Geometry((62e-9, 62e-9), None, None, 2.0, 6249.203)
    assert 'near field' not in named(replace(scan, geometry=far))
    near = replace(far, detector_distance_m=1e-4)
    finding = named(replace(scan, geometry=near))['near field']
    assert finding.level == WARNING
    assert 'Fresnel number' in finding.saw
    declared = named(replace(scan, geometry=Geometry(near_field=True)))['near field']
    assert 'declares near-field data' in declared.saw


def test_cut_off_counts(scan):
    top = scan.counts.max()
    finding = named(replace(scan, counts=np.minimum(scan.counts, top // 4)))['saturation']
    assert f'{top // 4}' in finding.saw


def test_dead_and_hot_pixels(scan):
    counts = scan.counts.copy()
    y, x = np.unravel_index(scan.counts.mean(0).argmax(), (64, 64))
    counts[:, y, x] = 0
    counts[:, 3, 4] = scan.counts.max() - np.arange(len(counts)) % 9
    spoiled = replace(scan, counts=counts)
    assert np.argwhere(dead_pixels(Sample(spoiled))).tolist() == [[y, x]]
    assert np.argwhere(hot_pixels(Sample(spoiled))).tolist() == [[3, 4]]
    assert f'[{y}, {x}]' in named(spoiled)['dead pixels'].saw
    assert '[3, 4]' in named(spoiled)['hot pixels'].saw
    bad = np.zeros((64, 64), bool)
    bad[[y, 3], [x, 4]] = True
    assert named(replace(spoiled, bad_pixels=bad)) == {}


@pytest.mark.parametrize('dtype', ['uint16', '>u4', 'int32', 'float32'])
def test_pixels_that_a_detector_marks(scan, dtype):
    """Gaps and masked pixels at the largest number, as Dectris writes them, are nothing else."""
    counts = np.minimum(scan.counts, 60_000).astype(dtype)
    mark = 2**32 - 1 if dtype == 'float32' else np.iinfo(dtype).max
    counts[:, 20:24] = counts[:, :, 50] = counts[:, 3, 4] = mark
    (finding,) = check_scan(replace(scan, counts=counts))
    assert (finding.check, finding.level) == ('stuck pixels', WARNING)
    assert finding.saw.startswith('317 pixels ([0, 50], ')
    bad = np.zeros((64, 64), bool)
    bad[20:24] = bad[:, 50] = bad[3, 4] = True
    assert named(replace(scan, counts=counts, bad_pixels=bad)) == {}


def test_counts_cut_off_in_every_pattern_are_not_stuck(scan):
    counts = np.minimum(scan.counts, int(scan.counts.min(0).max()) // 2)
    assert (np.ptp(counts, axis=0) == 0)[counts[0] > 60].any()
    found = named(replace(scan, counts=counts))
    assert 'saturation' in found
    assert 'stuck pixels' not in found


def test_a_mask_of_good_pixels(scan):
    bad = np.zeros((64, 64), bool)
    bad[20:24] = True
    assert '3840 of 4096' in check_scan(replace(scan, bad_pixels=~bad))[0].saw
    assert 'bad pixels' not in named(replace(scan, bad_pixels=bad))


def test_the_focus_of_a_wide_beam_is_no_hot_pixel():
    """A Gaussian beam without an object: nearly all of its light in one pixel."""
    r = np.arange(64) - 31.5
    beam = np.exp(-(r[:, None] ** 2 + r**2) / (2 * 15.5**2))
    light = np.abs(np.fft.fftshift(np.fft.fft2(beam))) ** 2
    drawn = np.random.default_rng(0).poisson(light / light.sum() * 1e6, (40, 64, 64))
    made = Scan(drawn, np.random.default_rng(1).uniform(0, 40, (40, 2)), beam)
    assert not hot_pixels(Sample(made)).any()
    point = np.zeros((64, 64))
    point[32, 32] = 1  # which would spread its light over the whole detector
    assert hot_pixels(Sample(replace(made, probe=point)))[32, 32]


def test_copies_of_patterns(scan):
    counts = scan.counts.copy()
    counts[[20, 21, 200]] = counts[[19, 19, 100]]
    copied = replace(scan, counts=counts)
    assert repeated_frames(Sample(copied)).tolist() == [20, 21, 200]
    assert '3 of 300 patterns (rows 20, 21, 200)' in named(copied)['repeated patterns'].saw


def test_positions_that_stand_still(scan):
    positions = scan.positions_px.copy()
    positions[50:60] = positions[50]
    finding = named(replace(scan, positions_px=positions))['repeated positions']
    assert finding.level == NOTE
    assert finding.saw.startswith('9 of 300')


@pytest.mark.parametrize(
    ('factor', 'check'), [(1e-3, 'position unit'), (30, 'overlap')], ids=['small', 'large']
)
def test_positions_in_a_wrong_unit(scan, factor, check):
    wrong = replace(
        scan, positions_px=factor * scan.positions_px, frame=None, true_object=None
    )  # fmt: skip
    assert named(wrong)[check].level == WARNING
    assert 'Check the unit' in named(wrong)[check].cure


def test_a_guessed_probe_needs_more_overlap():
    made = simulate_scan(Simulation(scan='raster', step_px=16, object_size_px=140))
    assert 'overlap' not in named(made)
    assert named(made, probe_is_guess=True)['overlap'].level == NOTE


def test_a_stray_position(scan):
    positions = scan.positions_px.copy()
    positions[7] += 500
    stray = replace(scan, positions_px=positions, frame=None, true_object=None)
    assert 'rows 7' in named(stray)['stray positions'].saw


@pytest.mark.parametrize('strays', [1, 3], ids=['one', 'three together'])
@pytest.mark.parametrize('path', ['random', 'raster', 'spiral', 'jitter'])
def test_a_stray_position_says_nothing_of_the_overlap(path, strays):
    made = simulate_scan(Simulation(scan=path, object_size_px=160, patterns=200))
    positions = made.positions_px.copy()
    positions[7 : 7 + strays] += 2000
    stray = replace(made, positions_px=positions, frame=None, true_object=None)
    assert Sample(stray).step_px == pytest.approx(Sample(made).step_px, rel=0.05)
    assert 'overlap' not in named(stray)


@pytest.mark.parametrize(('dy', 'dx'), [(16, 16), (3, 24), (60, 60), (0, 10)])
def test_no_position_of_a_regular_path_is_left_out(scan, dy, dx):
    """Nor where lines are far from each other, nothing overlaps, or there is one line only."""
    y, x = np.mgrid[:20, :10].reshape(2, -1) if dy else (np.zeros(200), np.arange(200))
    apart = replace(
        scan.take(np.arange(200)), positions_px=np.stack([dy * y, dx * x], 1), frame=None,
        true_object=None,
    )  # fmt: skip
    assert Sample(apart).step_px == pytest.approx(np.sqrt(dy * dx) if dy else dx, rel=0.05)


def test_positions_in_another_order(scan):
    mixed = np.random.default_rng(0).permutation(scan.positions_px)
    assert named(replace(scan, positions_px=mixed))['order'].level == WARNING


def test_the_beam_was_off(scan):
    share = np.ones(300)
    share[[10, 11, 12, 150]] = 0.02, 0.02, 0.02, 0
    assert off_rows(Sample(thinned(scan, share))).tolist() == [10, 11, 12, 150]
    assert '4 of 300' in named(thinned(scan, share))['beam off'].saw


def test_the_beam_was_off_for_a_while_on_a_raster():
    made = simulate_scan(Simulation(scan='raster', patterns=400, object_size_px=164))
    share = np.ones(400)
    share[203:225] = 0.03
    assert off_rows(Sample(thinned(made, share))).tolist() == list(range(203, 225))


def test_the_beam_drifts(scan):
    finding = named(thinned(scan, np.linspace(1, 0.75, 300)))['beam drift']
    assert finding.level == WARNING
    drift = int(finding.saw.split('change by ')[1].split('%')[0])
    assert -30 <= drift <= -18


def test_the_beam_jumps(scan):
    finding = named(thinned(scan, np.where(np.arange(300) < 200, 1, 0.6)))['beam jump']
    assert finding.level == WARNING
    at = int(finding.saw.split('near pattern ')[1].split(',')[0])
    assert abs(at - 200) <= 25


def test_a_jump_on_a_steady_path_is_a_note():
    made = simulate_scan(
        Simulation(scan='raster', patterns=400, object_size_px=164, amplitude_low=0.9)
    )
    finding = named(thinned(made, np.where(np.arange(400) < 210, 1, 0.5)))['beam jump']
    assert finding.level == NOTE
    assert 'edge of the specimen' in finding.saw


def test_a_fault_of_a_check_is_told_and_costs_nothing(scan, monkeypatch, caplog):
    def broken(sample):
        yield Finding('early', NOTE, 'a', 'b', 'c')
        raise ZeroDivisionError('of its own')

    monkeypatch.setattr(checks, 'CHECKS', (broken, *checks.CHECKS))
    found = check_scan(replace(scan, counts=7 * scan.counts.astype(np.int64)))
    assert [finding.check for finding in found] == ['counts', 'early']
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert 'Internal fault: the check "broken"' in record.getMessage()
    assert record.exc_info[0] is ZeroDivisionError


def test_findings_are_told_at_their_level(caplog):
    caplog.set_level(logging.INFO)
    checks.tell([Finding('x', WARNING, 'Saw', 'Why', 'Do'), Finding('y', NOTE, 'S', 'W', 'D')], 'n')
    told = [(record.levelno, record.getMessage()) for record in caplog.records]
    assert told == [
        (logging.WARNING, 'n: x: Saw. Why. Do.'), (logging.INFO, 'n: y: S. W. D.'),
    ]  # fmt: skip


def test_a_scan_of_one_colour_is_no_fault(caplog):
    blank = Scan(np.ones((20, 16, 16), np.uint8), np.zeros((20, 2)), np.ones((16, 16)))
    check_scan(blank)
    counts = np.zeros((20, 16, 16), np.uint16)
    counts[:, 8, 8] = 500  # of which nothing is left without what is the same in all
    check_scan(Scan(counts, np.random.default_rng(0).uniform(0, 9, (20, 2)), np.ones((16, 16))))
    assert caplog.text == ''


def run(capsys, *argv):
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command(scan, tmp_path, capsys):
    files.save_scan(scan, tmp_path / 'clean.npz')
    code, out, err = run(capsys, 'check', tmp_path / 'clean.npz', '--no-orientation', '--json')
    assert (code, json.loads(out)['findings']) == (0, [])
    assert '300 patterns, 0 warnings, 0 notes' in err
    files.save_scan(replace(scan, counts=7 * scan.counts.astype('i8')), tmp_path / 'bad.npz')
    code, out, err = run(capsys, 'check', tmp_path / 'bad.npz', '--no-orientation', '--json')
    report = json.loads(out)
    assert (code, report['warnings'], report['notes']) == (3, 1, 0)
    assert set(report['findings'][0]) == {'check', 'level', 'saw', 'why', 'cure'}
    assert 'warning: counts: The values are multiples of 7' in err


def test_the_command_reconstructs_in_all_orientations(toy, scan, tmp_path, capsys):
    """The toy finds the same error everywhere: nothing is clear, and nothing is said."""
    files.save_scan(scan, tmp_path / 'scan.npz')
    assert run(capsys, 'check', tmp_path / 'scan.npz')[0] == 0
    assert run(capsys, 'check', tmp_path / 'none.npz')[0] == 1


def test_the_command_tells_the_orientation_that_fits(toy, scan, tmp_path, capsys, monkeypatch):
    """A turn by 180 degrees, which only a reconstruction sees."""
    errors = dict.fromkeys(orientation.orientations(), 0.05) | {'flip y and x': 0.01}
    found = orientation.Judgement(errors, 100, 0.005)
    monkeypatch.setattr(orientation, 'judge', lambda scan, **more: found)
    files.save_scan(scan, tmp_path / 'scan.npz')
    code, out, _ = run(capsys, 'check', tmp_path / 'scan.npz', '--json')
    (finding,) = json.loads(out)['findings']
    assert (code, finding['check'], finding['level']) == (3, 'orientation', WARNING)
    assert 'best after: flip y and x (fourier_error 0.0100 instead of 0.0500)' in finding['saw']
    assert 'np.flip' in finding['cure']
    assert run(capsys, 'check', tmp_path / 'scan.npz', '--no-orientation')[0] == 0


@pytest.mark.parametrize('command', ['reconstruct', 'train'])
def test_runs_tell_and_go_on(toy, scan, tmp_path, capsys, caplog, command):
    files.save_scan(replace(scan, counts=7 * scan.counts.astype('i8')), tmp_path / 'scan.npz')
    more = ['--model', tmp_path / 'm.h5.zip', '--epochs', 1] if command == 'train' else []
    more += ['--sweeps', 1] if command == 'reconstruct' else []
    assert run(capsys, command, tmp_path / 'scan.npz', *more)[0] == 0
    assert caplog.text.count('multiples of 7') == 1
    caplog.clear()
    assert run(capsys, command, tmp_path / 'scan.npz', *more, '--no-checks')[0] == 0
    assert 'multiples of 7' not in caplog.text
