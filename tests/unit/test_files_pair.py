"""A scan as the host's two files: DC-3, DC-9, DC-16."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.cli import main
from ptychopinn_plugin.errors import DataError, DataFileMissingError, OutputError
from ptychopinn_plugin.files import describe, load_object, load_scan, save_scan
from ptychopinn_plugin.geometry import pixel_size_m
from ptychopinn_plugin.scan import Frame, Geometry

PIXEL, CENTRE = (6e-9, 9e-9), (2e-6, -3e-6)
DETECTOR = pixel_size_m(8000.0, 1.5, PIXEL, 32)
KNOWN = Geometry(PIXEL, CENTRE, DETECTOR, 1.5, 8000.0)


def test_everything_comes_back(small_scan, tmp_path):
    bad = np.zeros((32, 32), bool)
    bad[3, 5] = True
    index = np.arange(120)[::-1] + 7
    scan = replace(small_scan, geometry=KNOWN, bad_pixels=bad, scan_index=index)
    save_scan(scan, tmp_path)
    back = load_scan(tmp_path)
    for key in ('counts', 'bad_pixels', 'scan_index', 'true_object'):
        np.testing.assert_array_equal(getattr(back, key), getattr(scan, key))
    np.testing.assert_allclose(back.positions_px, scan.positions_px, atol=1e-6)
    np.testing.assert_allclose(back.probe, scan.probe)
    assert back.frame == scan.frame
    assert back.geometry.pixel_size_m == pytest.approx(PIXEL)
    assert back.geometry.object_centre_m == pytest.approx(CENTRE)
    assert back.geometry.detector_pixel_size_m == pytest.approx(DETECTOR)


@pytest.mark.parametrize('form', ['pair', 'pair/diffraction.h5', 'a.h5', 'a.cxi', 'a.npz'])
def test_every_form_of_a_scan_can_be_compared(small_scan, tmp_path, capsys, form):
    (tmp_path / 'pair').mkdir()
    for name in (form.partition('/')[0], 'other.npz'):
        save_scan(small_scan, tmp_path / name)
    for pair in ((form, 'other.npz'), ('other.npz', form)):
        assert main(['compare', *(str(tmp_path / name) for name in pair), '--json']) == 0
        score = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert score['phase_ssim'] == pytest.approx(1, abs=1e-6)


def test_the_object_of_a_pair_is_in_its_product(small_scan, tmp_path):
    save_scan(small_scan, tmp_path)
    of_folder, of_product = load_object(tmp_path), load_object(tmp_path / 'product.h5')
    np.testing.assert_array_equal(of_folder.object, of_product.object)
    np.testing.assert_array_equal(of_folder.weight, of_product.weight)
    assert (load_object(tmp_path, key='object').object == 1).all()
    (tmp_path / 'product.h5').unlink()
    with pytest.raises(DataFileMissingError, match=r'product\.h5 does not exist.*the product'):
        load_object(tmp_path / 'diffraction.h5')
    (tmp_path / 'diffraction.h5').unlink()
    with pytest.raises(DataFileMissingError, match=r'holds no diffraction\.h5'):
        load_object(tmp_path)


def test_a_frame_that_begins_elsewhere_comes_back(small_scan, tmp_path):
    shifted = replace(
        small_scan,
        positions_px=small_scan.positions_px + np.array([40, -13]),
        frame=Frame(small_scan.frame.shape, (40.0, -13.0)),
    )
    save_scan(shifted, tmp_path)
    back = load_scan(tmp_path)
    np.testing.assert_allclose(back.positions_px, shifted.positions_px, atol=1e-6)
    assert back.frame == shifted.frame


def test_the_host_puts_every_pattern_on_its_pixel(small_scan, tmp_path):
    from ptychodus.api.io import load_product

    save_scan(replace(small_scan, geometry=KNOWN), tmp_path)
    product = load_product(tmp_path / 'product.h5')
    geometry = product.object_.get_geometry()
    x = np.array([p.x_m for p in product.probe_positions]) - geometry.center_x_m
    y = np.array([p.y_m for p in product.probe_positions]) - geometry.center_y_m
    x, y = x / geometry.pixel_width_m, y / geometry.pixel_height_m
    middle = (np.array(small_scan.frame.shape) - 1) / 2
    np.testing.assert_allclose(np.stack([y, x], 1) + middle, small_scan.positions_px, atol=1e-6)
    assert (product.object_.get_array() == 1).all()  # the truth is not given away as a guess


@pytest.mark.parametrize(
    'known',
    [
        Geometry(),
        Geometry(pixel_size_m=PIXEL),
        Geometry(photon_energy_eV=8000.0, detector_distance_m=1.5),
        Geometry(None, None, DETECTOR, 1.5, 8000.0),
        Geometry(PIXEL, None, None, None, 8000.0),
    ],
)
def test_an_incomplete_geometry_is_made_consistent(small_scan, tmp_path, known):
    save_scan(replace(small_scan, geometry=known), tmp_path)
    with (
        h5py.File(tmp_path / 'product.h5') as product,
        h5py.File(tmp_path / 'diffraction.h5') as diffraction,
    ):
        size = tuple(product['object'].attrs[f'pixel_{k}_m'] for k in ('height', 'width'))
        energy = product.attrs['photon_energy_eV']
        assert product.attrs['probe_energy_eV'] == energy  # the name before 1.7
        distance = product.attrs['detector_object_distance_m']
        attrs = diffraction['patterns'].attrs
        detector = tuple(attrs[f'detector_pixel_{k}_m'] for k in ('height', 'width'))
        nominal = 'Nominal' in product.attrs['comments']
    assert pixel_size_m(energy, distance, detector, 32) == pytest.approx(size)
    assert nominal == (known.detector_pixel_size_m is None)
    if known.pixel_size_m or known.detector_pixel_size_m:
        assert size == pytest.approx(PIXEL)


@pytest.mark.parametrize(
    ('known', 'pixel', 'text'),
    [
        (Geometry(), None, 'energy 10 keV, distance 1 m, pixel size 10 nm'),
        (Geometry(PIXEL, None, None, None, 8000.0), PIXEL, 'it: distance 1 m'),
        (Geometry(None, None, None, 1.5, 8000.0), None, 'it: pixel size 10 nm'),
        (Geometry(None, None, DETECTOR, 1.5, 8000.0), PIXEL, ''),
    ],
)
def test_what_is_nominal_stays_so(small_scan, tmp_path, caplog, known, pixel, text):
    """No length that was made up is one of the scan when it is read, nor in what is made of it."""
    save_scan(replace(small_scan, geometry=known), tmp_path)
    assert text in caplog.text
    back = load_scan(tmp_path).geometry
    assert back.nominal.endswith(text)
    assert bool(back.nominal) == bool(text)
    assert back.known_pixel_size_m == (None if pixel is None else pytest.approx(pixel))
    assert describe(tmp_path)['nominal'] == (back.nominal or None)
    for name in ('a.cxi', 'a.h5') if pixel is None else ():
        save_scan(load_scan(tmp_path), tmp_path / name)
        assert load_scan(tmp_path / name).geometry == Geometry()
    other = tmp_path / 'other'
    other.mkdir()
    save_scan(load_scan(tmp_path), other)
    assert load_scan(other).geometry == back
    with h5py.File(tmp_path / 'product.h5', 'a') as product:
        assert product.attrs['comments'] == back.nominal
        product.attrs['comments'] = f'{back.nominal}\nGood spot'
    assert load_scan(tmp_path).geometry == back


def test_the_energy_of_an_older_host_is_read(small_scan, tmp_path):
    save_scan(replace(small_scan, geometry=KNOWN), tmp_path)
    with h5py.File(tmp_path / 'product.h5', 'a') as product:
        del product.attrs['photon_energy_eV']
    assert load_scan(tmp_path).geometry.photon_energy_eV == 8000.0


def test_a_folder_that_cannot_be_written_is_an_error(small_scan, tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('pathlib.Path.touch', refuse)
    with pytest.raises(OutputError, match='No space left'):
        save_scan(small_scan, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_convert_and_simulate_make_the_folder(small_scan, tmp_path, capsys):
    save_scan(small_scan, tmp_path / 'scan.npz')
    assert main(['convert', str(tmp_path / 'scan.npz'), str(tmp_path / 'pair')]) == 0
    assert {p.name for p in (tmp_path / 'pair').iterdir()} == {'diffraction.h5', 'product.h5'}
    np.testing.assert_array_equal(load_scan(tmp_path / 'pair').counts, small_scan.counts)
    assert main(['convert', str(tmp_path / 'pair'), str(tmp_path / 'back.npz')]) == 0
    np.testing.assert_array_equal(load_scan(tmp_path / 'back.npz').counts, small_scan.counts)
    argv = ['simulate', str(tmp_path / 'made'), '--patterns', '20', '--object-size-px', '100']
    assert main(argv) == 0
    assert len(load_scan(tmp_path / 'made')) == 20
    assert main(['convert', str(tmp_path / 'scan.npz'), str(tmp_path / 'no' / 'where')]) == 1


class TestInterruptedBetweenTheFiles:
    """The process is gone after the first of the two renames, over an older scan or over none."""

    @pytest.fixture(params=[True, False], ids=['over another scan', 'in an empty folder'])
    def folder(self, request, small_scan, tmp_path, monkeypatch):
        replaced = []

        def replace_once(part, target, *, then=os.replace):
            if replaced:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            replaced.append(target)
            then(part, target)

        if request.param:
            save_scan(small_scan.take(np.arange(7, 120)), tmp_path)
        with monkeypatch.context() as m:
            m.setattr(os, 'replace', replace_once)
            with pytest.raises(OutputError, match='product'):
                save_scan(replace(small_scan, geometry=KNOWN), tmp_path)
        return tmp_path

    def test_the_new_scan_is_whole(self, folder, small_scan, caplog):
        back = load_scan(folder)
        assert 'interrupted' in caplog.text
        np.testing.assert_array_equal(back.counts, small_scan.counts)
        np.testing.assert_allclose(
            back.positions_px - back.positions_px[0],
            small_scan.positions_px - small_scan.positions_px[0],
            atol=1e-6,
        )

    def test_two_scans_are_never_mixed(self, folder):
        for part in folder.glob('.*.part*'):
            part.unlink()
        with pytest.raises(DataError, match=r'not written together|does not exist'):
            load_scan(folder)

    def test_half_of_a_part_is_not_taken(self, folder):
        (part,) = folder.glob('.*.part*')
        part.write_bytes(part.read_bytes()[:-100])
        with pytest.raises(DataError, match=r'not written together|does not exist'):
            load_scan(folder)

    def test_who_insists_may_mix(self, folder):
        product = folder / 'product.h5'
        if not product.exists():
            pytest.skip('there is nothing to mix it with')
        assert 0 < len(load_scan(folder, product=product)) <= 120

    def test_a_product_that_another_program_wrote_is_taken(self, folder, small_scan):
        with h5py.File(next(folder.glob('.*.part*')), 'a') as h5:
            del h5.attrs['ptychopinn_writing']
            h5.flush()
        next(folder.glob('.*.part*')).rename(folder / 'product.h5')
        np.testing.assert_array_equal(load_scan(folder).counts, small_scan.counts)
