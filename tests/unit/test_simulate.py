"""Simulated scans: every kind is a scan, the noise is Poisson, and each part has its own stream."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from ptychopinn_plugin import reference as ref
from ptychopinn_plugin.config import declared
from ptychopinn_plugin.errors import ConfigError, DataError, DataFileMissingError
from ptychopinn_plugin.geometry import windows
from ptychopinn_plugin.simulate import Simulation, simulate_scan
from ptychopinn_plugin.simulate.probes import PROBES, load_probe, make_probe
from ptychopinn_plugin.simulate.specimens import SPECIMENS

SMALL = Simulation(pattern_size_px=32, object_size_px=72, patterns=30)
SCANS = ('random', 'raster', 'spiral', 'jitter')


def expected_counts(scan):
    """Predict the scan with the oracle from what it stores, (M, N, N)."""
    at = windows(scan)
    patches = ref.extract(scan.true_object, at.corner_px, scan.side_px)
    return ref.diffract(patches, ref.shift_probe(scan.probe, at.shift_px))


@pytest.mark.parametrize(('specimen', 'scan'), list(itertools.product(SPECIMENS, SCANS)))
@pytest.mark.parametrize('probe', PROBES)
def test_every_kind_is_a_scan(specimen, probe, scan):
    made = simulate_scan(replace(SMALL, specimen=specimen, probe=probe, scan=scan))
    assert made.counts.shape == (30, 32, 32)
    assert made.frame.shape == made.true_object.shape == (72, 72)
    corner = made.positions_px - 31 / 2
    assert corner.min() >= 1
    assert corner.max() <= 72 - 32 - 1
    assert np.ptp(corner, 0).min() > 20
    assert len(np.unique(corner, axis=0)) == 30
    amplitude, phase = np.abs(made.true_object), np.angle(made.true_object)
    assert 0.5 - 1e-6 <= amplitude.min() < 0.7 < 0.8 < amplitude.max() <= 1 + 1e-6
    assert -1 - 1e-6 <= phase.min() < -0.4 < 0.4 < phase.max() <= 1 + 1e-6
    # The photograph, leaf or line of the phase is not the one of the amplitude.
    assert abs(np.corrcoef(amplitude.ravel(), phase.ravel())[0, 1]) < 0.8


@pytest.mark.parametrize('specimen', SPECIMENS)
@pytest.mark.parametrize('shape', [(37, 90), (90, 37), (700, 530)])
def test_specimens_of_any_shape_keep_to_their_ranges(specimen, shape):
    rng = np.random.default_rng(5)
    made = SPECIMENS[specimen](shape, rng, (0.2, 0.4), (0.1, 0.3))
    assert made.shape == shape
    assert made.dtype == np.complex64
    assert np.abs(made).min() >= 0.2 - 1e-6
    assert np.abs(made).max() <= 0.4 + 1e-6
    assert np.angle(made).min() >= 0.1 - 1e-6
    assert np.angle(made).max() <= 0.3 + 1e-6
    assert np.abs(made).std() > 0.01
    assert np.angle(made).std() > 0.01


class TestSeed:
    def test_the_same_seed_repeats(self):
        one, two = simulate_scan(SMALL), simulate_scan(SMALL)
        for key in ('counts', 'positions_px', 'probe', 'true_object', 'bad_pixels'):
            np.testing.assert_array_equal(getattr(one, key), getattr(two, key))

    def test_another_seed_differs(self):
        one, two = simulate_scan(SMALL), simulate_scan(replace(SMALL, seed=1))
        for key in ('counts', 'positions_px', 'true_object'):
            assert (getattr(one, key) != getattr(two, key)).mean() > 0.3

    def test_parts_do_not_disturb_one_another(self):
        one = simulate_scan(SMALL)
        more = simulate_scan(
            replace(SMALL, photons_per_frame=1e4, background=3.0, bad_fraction=0.1, modes=2)
        )
        np.testing.assert_array_equal(one.true_object, more.true_object)
        np.testing.assert_array_equal(one.positions_px, more.positions_px)
        other = simulate_scan(replace(SMALL, specimen='field', probe='airy'))
        np.testing.assert_array_equal(one.positions_px, other.positions_px)
        longer = simulate_scan(replace(SMALL, patterns=40))
        np.testing.assert_array_equal(one.true_object, longer.true_object)


class TestCounts:
    def test_photons_per_frame(self):
        scan = simulate_scan(replace(SMALL, photons_per_frame=3e5))
        # 9e6 photons in all, so the mean is good to 3e-4.
        assert scan.totals.mean() == pytest.approx(3e5, rel=2e-3)
        assert expected_counts(scan).sum((1, 2)).mean() == pytest.approx(3e5, rel=1e-5)

    def test_probe_has_the_power_of_the_free_beam(self):
        scan = simulate_scan(replace(SMALL, amplitude_low=1.0))
        assert (np.abs(scan.probe) ** 2).sum() == pytest.approx(1e6, rel=1e-5)
        dim = simulate_scan(replace(SMALL, amplitude_low=0.5))
        assert 1.2e6 < (np.abs(dim.probe) ** 2).sum() < 4e6

    @pytest.mark.parametrize('modes', [1, 3])
    def test_noise_is_poisson(self, modes):
        scan = simulate_scan(replace(SMALL, modes=modes, patterns=100))
        mean = expected_counts(scan)
        lit = mean > 5
        score = (scan.counts - mean)[lit] / np.sqrt(mean[lit])
        assert lit.sum() > 20_000
        assert abs(score.mean()) < 4 / np.sqrt(lit.sum())
        assert score.var() == pytest.approx(1, abs=0.04)

    def test_background_is_added_to_every_pixel(self):
        scan = simulate_scan(replace(SMALL, background=7.0))
        surplus = scan.counts - expected_counts(scan)
        assert surplus.mean() == pytest.approx(7, abs=1.0)
        dark = expected_counts(scan) < 0.5
        assert dark.sum() > 500
        assert scan.counts[dark].mean() == pytest.approx(7, abs=0.7)
        assert scan.counts[dark].var() == pytest.approx(7, abs=1.5)

    def test_bad_pixels_are_marked_and_read_nonsense(self):
        scan = simulate_scan(replace(SMALL, bad_fraction=0.05))
        assert scan.bad_pixels.sum() == round(0.05 * 32 * 32)
        read = scan.counts[:, scan.bad_pixels]
        assert set(np.unique(read)) == {0, np.iinfo(scan.counts.dtype).max}
        clean = simulate_scan(SMALL)
        good = ~scan.bad_pixels
        np.testing.assert_array_equal(scan.counts[:, good], clean.counts[:, good])
        assert not clean.bad_pixels.any()

    @pytest.mark.parametrize(('photons', 'dtype'), [(1e5, 'u2'), (1e8, 'u4')])
    def test_dtype_holds_the_brightest_pixel(self, photons, dtype):
        scan = simulate_scan(replace(SMALL, photons_per_frame=photons))
        assert scan.counts.dtype == dtype
        assert scan.totals.mean() == pytest.approx(photons, rel=5e-3)


class TestProbes:
    @pytest.mark.parametrize('kind', PROBES)
    def test_modes_are_orthogonal_and_fall(self, kind):
        probe = make_probe(kind, 64, 4).reshape(4, -1)
        gram = probe.conj() @ probe.T
        power = gram.diagonal().real
        assert np.abs(gram - np.diag(gram.diagonal())).max() < 1e-12
        assert power.sum() == pytest.approx(1)
        np.testing.assert_allclose(power[1:] / power[:-1], 0.3, rtol=1e-9)

    @pytest.mark.parametrize('side', [32, 64, 128])
    @pytest.mark.parametrize('kind', PROBES)
    def test_beam_is_centred_and_well_inside(self, kind, side):
        light = np.abs(make_probe(kind, side, 1)[0]) ** 2
        r = np.arange(side) - (side - 1) / 2
        assert abs(light.sum(1) @ r) < 1e-6
        assert abs(light.sum(0) @ r) < 1e-6
        cut = side // 6
        assert light[cut:-cut, cut:-cut].sum() > 0.97
        profile = light.sum(0)
        assert 2 < (profile > profile.max() / 2).sum() <= side / 3 + 1

    def test_zone_plate_has_a_dark_centre_on_the_detector(self):
        far = np.abs(ref.far_field(make_probe('zone-plate', 64, 1)))[0]
        assert far[32, 32] < 1e-6 * far.max()
        assert np.abs(ref.far_field(make_probe('airy', 64, 1)))[0, 32, 32] > 0.5 * far.max()


class TestProbeFile:
    @pytest.fixture
    def beam(self):
        return make_probe('gaussian', 32, 2) * 50

    @pytest.fixture
    def path(self, tmp_path, beam):
        np.savez(tmp_path / 'p.npz', probeGuess=beam, flat=np.ones((32, 32)), zero=np.zeros((8, 8)))
        return tmp_path / 'p.npz'

    def test_file_is_the_probe(self, path, beam):
        scan = simulate_scan(replace(SMALL, probe='file', probe_file=str(path), modes=2))
        scale = scan.probe[0, 16, 16] / beam[0, 16, 16]
        assert abs(scale.imag) < 1e-6 * abs(scale)
        np.testing.assert_allclose(scan.probe, beam * scale, atol=1e-5 * np.abs(scan.probe).max())

    def test_smaller_file_is_padded_about_the_centre(self, path, beam):
        probe = load_probe(path, 'probeGuess', 64, 1)
        np.testing.assert_allclose(
            probe[0, 16:48, 16:48], beam[0] / np.linalg.norm(beam[0]), atol=1e-12
        )
        assert probe[0, :16].any() == probe[0, :, 48:].any() == False  # noqa: E712

    def test_missing_modes_are_made(self, path):
        probe = load_probe(path, 'probeGuess', 32, 4).reshape(4, -1)
        gram = np.abs(probe.conj() @ probe.T)
        assert np.abs(gram - np.diag(gram.diagonal())).max() < 1e-9
        assert gram.diagonal()[-1] > 1e-4

    def test_wrong_files_are_refused(self, path, tmp_path):
        with pytest.raises(ConfigError, match='too small for the probe'):
            load_probe(path, 'flat', 16, 1)
        with pytest.raises(DataError, match='probeGuess'):
            load_probe(path, 'nothing', 32, 1)
        with pytest.raises(DataError, match='not a probe'):
            load_probe(path, 'zero', 32, 1)
        with pytest.raises(DataFileMissingError, match='gone'):
            load_probe(tmp_path / 'gone.npz', 'probeGuess', 32, 1)
        (tmp_path / 'text.npz').write_text('hello')
        with pytest.raises(DataError, match='not an NPZ'):
            load_probe(tmp_path / 'text.npz', 'probeGuess', 32, 1)


class TestPositions:
    def test_raster_step(self):
        scan = simulate_scan(replace(SMALL, scan='raster', step_px=9.0))
        y, x = scan.positions_px.reshape(5, 5, 2).transpose(2, 0, 1)
        np.testing.assert_allclose(np.diff(y, axis=0), 9)
        np.testing.assert_allclose(np.diff(x, axis=1), 9)
        np.testing.assert_allclose(y.mean(), 71 / 2)  # in the middle of the object

    def test_jitter_stays_near_the_raster(self):
        raster = simulate_scan(replace(SMALL, scan='raster', step_px=9.0)).positions_px
        moved = simulate_scan(replace(SMALL, scan='jitter', step_px=9.0)).positions_px - raster
        assert 0 < np.abs(moved).max() <= 9 / 4
        assert np.abs(moved).mean() > 0.5

    @pytest.mark.parametrize('scan', SCANS)
    @pytest.mark.parametrize('patterns', [1, 2, 7, 200])
    def test_number(self, scan, patterns):
        assert len(simulate_scan(replace(SMALL, scan=scan, patterns=patterns))) == patterns

    def test_spiral_covers_evenly(self):
        positions = simulate_scan(replace(SMALL, scan='spiral', patterns=200)).positions_px
        quarter = (positions > 35.5) @ [1, 2]
        assert np.bincount(quarter, minlength=4).min() > 40


class TestSettings:
    @pytest.mark.parametrize(
        ('change', 'match'),
        [
            ({'pattern_size_px': 33}, 'odd'),
            ({'object_size_px': 33}, 'too small'),
            ({'probe': 'file'}, 'needs a file'),
            ({'probe_file': 'probes.npz'}, r'probe=file.*probe_file=probes\.npz'),
            ({'scan': 'random', 'step_px': 9.0}, r'raster or jitter.*step_px=9'),
            ({'scan': 'spiral', 'step_px': 9.0}, 'a scan that has none'),
            ({'specimen': 'cat'}, 'choices'),
            ({'photons_per_frame': -1.0}, 'out of range'),
            ({'modes': 1.5}, 'type'),
        ],
    )
    def test_nonsense_is_refused(self, change, match):
        with pytest.raises(ConfigError, match=match):
            replace(SMALL, **change)

    @pytest.mark.parametrize('scan', SCANS)
    def test_smallest_object(self, scan):
        """One pattern has room in it; several would be a scan that no reader takes."""
        smallest = replace(SMALL, object_size_px=34, scan=scan)
        assert len(simulate_scan(replace(smallest, patterns=1))) == 1
        with pytest.raises(ConfigError, match=r'within one pixel.*above 34.*object_size_px=34'):
            simulate_scan(replace(smallest, patterns=3))
        assert len(simulate_scan(replace(smallest, object_size_px=38, patterns=30))) == 30

    def test_every_field_is_declared(self):
        for field, setting in declared(Simulation):
            assert setting.label, field.name
            assert setting.help, field.name
