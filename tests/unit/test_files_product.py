"""Results: DC-9, DC-12 to DC-15, and the host's own product reader on what we write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from ptychopinn_plugin import files
from ptychopinn_plugin.errors import DataError, DataFileMissingError, OutputError
from ptychopinn_plugin.files import (
    check_target,
    describe,
    load_object,
    load_product,
    load_scan,
    save_result,
    save_scan,
)
from ptychopinn_plugin.geometry import relative_illumination
from ptychopinn_plugin.metrics import overlap
from ptychopinn_plugin.result import ObjectImage, Reconstruction
from ptychopinn_plugin.scan import Geometry, Scan

N, M = 16, 12
KNOWN = Geometry((2e-8, 3e-8), (1e-5, -2e-5), (75e-6, 50e-6), 2.0, 8000.0)
DATA = Path(__file__).resolve().parents[3] / 'shared' / 'data'


def small_scan(**more):
    rng = np.random.default_rng(6)
    return Scan(
        rng.poisson(rng.random((M, N, N)) * 50).astype(np.uint16),
        rng.random((M, 2)) * [15, 25] + [40, -60],
        (rng.random((2, N, N)) + 1j).astype(np.complex64),
        scan_index=np.arange(M) * 3,
        **more,
    )


def result_of(scan, **more):
    """Return a reconstruction in the frame of the scan."""
    rng = np.random.default_rng(7)
    shape = scan.frame.shape
    image = ObjectImage(
        (rng.random(shape) + 1j * rng.random(shape)).astype(np.complex64),
        rng.random(shape).astype(np.float32),
        scan.frame.origin_px,
    )
    made = Reconstruction(
        image,
        scan.probe * 3,
        (0.5, 0.25, 0.125),
        0.12,
        0.5,
        image,
        'toy',
        'flat',
        scan.positions_px,
    )
    return replace(made, **more)


@pytest.mark.parametrize('geometry', [KNOWN, Geometry()], ids=['scales', 'no scales'])
@pytest.mark.parametrize('suffix', ['.h5', '.hdf5'])
def test_the_host_reads_the_product(tmp_path, geometry, suffix):
    """DC-9, DC-14: the host maps the positions to the pixels of our object."""
    io = pytest.importorskip('ptychodus.api.io')
    scan = small_scan(geometry=geometry)
    result = result_of(scan, positions_px=scan.positions_px + np.array([0.25, -0.5]))
    save_result(tmp_path / f'p{suffix}', scan, result)
    product = io.load_product(tmp_path / f'p{suffix}')
    grid = product.object_.get_geometry()
    y = grid.map_probe_positions_to_object_y_px(product.probe_positions)
    x = grid.map_probe_positions_to_object_x_px(product.probe_positions)
    want = result.positions_px - scan.frame.origin_px
    np.testing.assert_allclose(np.stack([y, x], 1), want, atol=1e-6)
    np.testing.assert_array_equal(product.probe_positions.get_indexes(), scan.scan_index)
    np.testing.assert_array_equal(product.object_.get_layer(0), result.image.object)
    np.testing.assert_array_equal(product.probes.get_array(), result.probe[None])
    assert [loss.value for loss in product.losses] == [0.5, 0.25, 0.125]
    assert [loss.epoch for loss in product.losses] == [0, 1, 2]
    power = (np.abs(result.probe) ** 2).sum()
    assert product.metadata.probe_photon_count == pytest.approx(power, rel=1e-5)
    assert product.metadata.name == 'scan'
    energy = 8000.0 if geometry is KNOWN else 0.0
    assert product.metadata.photon_energy_eV == energy
    assert np.isfinite(product.metadata.photon_wavelength_m)
    assert grid.pixel_width_m == (3e-8 if geometry is KNOWN else 1.0)
    io.save_product(tmp_path / 'again.h5', product)  # nothing the host misses when it writes


def test_the_centre_is_that_of_the_image(tmp_path):
    """DC-9: an image in another frame than the scan's still lies where it was measured."""
    scan = small_scan(geometry=KNOWN)
    result = result_of(scan)
    y, x = scan.frame.origin_px
    wider = ObjectImage(
        np.ones((scan.frame.shape[0] + 10, scan.frame.shape[1] + 4), np.complex64),
        np.ones((scan.frame.shape[0] + 10, scan.frame.shape[1] + 4), np.float32),
        (y - 6, x - 1),
    )
    for name, image in (('a', result.image), ('b', wider)):
        save_result(tmp_path / f'{name}.h5', scan, replace(result, image=image))
    a, b = (load_product(tmp_path / f'{name}.h5') for name in 'ab')
    np.testing.assert_allclose(a.positions_m, b.positions_m)
    np.testing.assert_allclose(a.object_centre_m, KNOWN.object_centre_m)
    np.testing.assert_allclose(
        b.pixels(b.positions_m), result.positions_px - wider.origin_px, atol=1e-6
    )


def test_product_and_patterns_make_the_scan_again(tmp_path):
    """DC-3, DC-9: our product beside the host's patterns gives the scan's own coordinates."""
    scan = small_scan(geometry=KNOWN)
    save_result(tmp_path / 'product.h5', scan, result_of(scan))
    with h5py.File(tmp_path / 'diffraction.h5', 'w') as h5:
        h5['patterns'], h5['indexes'] = scan.counts, scan.scan_index
    back = load_scan(tmp_path)
    np.testing.assert_allclose(back.positions_px, scan.positions_px, atol=1e-6)
    assert back.frame == scan.frame
    np.testing.assert_allclose(back.geometry.object_centre_m, KNOWN.object_centre_m)
    facts = describe(tmp_path / 'product.h5')
    assert facts['kind'] == 'product'
    assert facts['patterns'] == M
    assert facts['pixel_size_m'] == [2e-8, 3e-8]
    json.dumps(facts)
    json.dumps(describe(tmp_path))


def test_npz_result(tmp_path):
    """DC-13: plain arrays, no pickles."""
    scan = small_scan()
    result = result_of(scan)
    save_result(tmp_path / 'r.npz', scan, result)
    with np.load(tmp_path / 'r.npz', allow_pickle=False) as stored:
        assert stored['object'].dtype == np.complex64
        assert stored['weight'].dtype == np.float32
        assert stored['probe'].shape == (2, N, N)
        np.testing.assert_array_equal(stored['origin_px'], scan.frame.origin_px)
        np.testing.assert_array_equal(stored['losses'], result.losses)
        assert float(stored['fourier_error']) == 0.12
        assert str(stored['backend']) == 'toy'
        assert 'uncertainty' not in stored
    facts = describe(tmp_path / 'r.npz')
    assert (facts['kind'], facts['sweeps'], facts['backend']) == ('result', 2, 'toy')
    assert facts['object_shape'] == list(scan.frame.shape)
    json.dumps(facts)
    sigma = np.ones(scan.frame.shape, np.float32)
    with_sigma = replace(result, image=replace(result.image, uncertainty=sigma))
    save_result(tmp_path / 's.npz', scan, with_sigma)
    with np.load(tmp_path / 's.npz') as stored:
        np.testing.assert_array_equal(stored['uncertainty'], sigma)


@pytest.mark.parametrize('suffix', ['.npz', '.h5'])
def test_load_object_of_a_result(tmp_path, suffix):
    """DC-15: object, weight and place come back as they were."""
    scan = small_scan(geometry=KNOWN)
    result = result_of(scan)
    save_result(tmp_path / f'r{suffix}', scan, result)
    image = load_object(tmp_path / f'r{suffix}')
    assert isinstance(image, ObjectImage)
    np.testing.assert_array_equal(image.object, result.image.object)
    np.testing.assert_array_equal(image.weight, result.image.weight)
    assert image.origin_px == pytest.approx(scan.frame.origin_px)


def test_load_object_of_a_foreign_product(tmp_path):
    """DC-15: without a stored weight, the light of its own positions and probe."""
    scan = small_scan(geometry=KNOWN)
    save_result(tmp_path / 'r.h5', scan, result_of(scan))
    with h5py.File(tmp_path / 'r.h5', 'r+') as h5:
        del h5['ptychopinn_plugin_weight'], h5['object'].attrs['origin_px']
    image = load_object(tmp_path / 'r.h5')
    assert image.origin_px == (0.0, 0.0)
    np.testing.assert_allclose(image.weight, relative_illumination(scan, scan.probe), rtol=1e-5)


def test_load_object_of_a_scan(tmp_path, caplog):
    """DC-15: true_object, else reference_object, else objectGuess; `key` picks another."""
    scan = small_scan()
    scan = replace(scan, positions_px=scan.positions_px - scan.frame.origin_px, frame=None)
    rng = np.random.default_rng(8)
    arrays = {
        'xcoords': scan.positions_px[:, 1],
        'ycoords': scan.positions_px[:, 0],
        'probeGuess': scan.probe,
        'diff3d': scan.counts,
    }
    shape = scan.frame.shape
    for name in ('objectGuess', 'reference_object', 'true_object'):
        arrays[name] = (rng.random(shape) + 0.1j).astype(np.complex128)
        np.savez(tmp_path / 'a.npz', **arrays)
        image = load_object(tmp_path / 'a.npz')
        np.testing.assert_allclose(image.object, arrays[name], rtol=1e-6)
        np.testing.assert_allclose(image.weight, relative_illumination(scan, scan.probe))
    image = load_object(tmp_path / 'a.npz', key='objectGuess')
    np.testing.assert_allclose(image.object, arrays['objectGuess'], rtol=1e-6)
    arrays['small'] = np.ones((5, 5))
    np.savez(tmp_path / 'a.npz', **arrays)
    assert load_object(tmp_path / 'a.npz', key='small').weight.all()
    assert 'Positions lie outside the object' in caplog.text
    with pytest.raises(DataError, match=r'a\.npz: diff3d has several layers or the wrong rank'):
        load_object(tmp_path / 'a.npz', key='diff3d')
    with pytest.raises(DataError, match=r'a\.npz: The array nope is missing'):
        load_object(tmp_path / 'a.npz', key='nope')


def test_load_object_refuses(tmp_path):
    np.savez(tmp_path / 'a.npz', other=np.ones(3))
    with pytest.raises(DataError, match=r'a\.npz: The file holds no object.*keys=other'):
        load_object(tmp_path / 'a.npz')
    np.savez(tmp_path / 'b.npz', object=np.full((9, 9), np.nan))
    with pytest.raises(DataError, match=r'b\.npz: object contains NaN'):
        load_object(tmp_path / 'b.npz')
    np.savez(tmp_path / 'c.npz', object=np.array([None]))
    with pytest.raises(DataError, match=r'c\.npz: The array object does not hold numbers'):
        load_object(tmp_path / 'c.npz')
    with pytest.raises(DataFileMissingError, match='does not exist'):
        load_object(tmp_path / 'none.h5')


def test_describe_a_scan(tmp_path):
    """DC-15: describing never asks what the numbers are."""
    scan = small_scan()
    save_scan(scan, tmp_path / 'a.npz')
    facts = describe(tmp_path / 'a.npz')
    json.dumps(facts)
    assert facts['kind'] == 'scan'
    assert facts['diffraction'] == 'counts'
    assert facts['counts_per_frame'] == pytest.approx(scan.totals.mean())
    arrays = {
        'xcoords': scan.positions_px[:, 1],
        'ycoords': scan.positions_px[:, 0],
        'probeGuess': scan.probe,
    }
    np.savez(tmp_path / 'b.npz', diff3d=np.sqrt(scan.counts.astype(np.float32)), **arrays)
    facts = describe(tmp_path / 'b.npz')
    assert facts['diffraction'] == 'amplitude'
    assert facts['counts_per_frame'] == pytest.approx(scan.totals.mean(), rel=1e-5)
    np.savez(tmp_path / 'c.npz', diff3d=scan.counts * 0.37, **arrays)
    facts = describe(tmp_path / 'c.npz')
    assert facts['diffraction'] == 'unknown'
    assert facts['counts_per_frame'] is None
    np.savez(tmp_path / 'd.npz', probe=scan.probe)
    assert describe(tmp_path / 'd.npz') == {'kind': 'arrays', 'arrays': ['probe']}


def test_save_result_refuses(tmp_path):
    scan = small_scan()
    for name in ('r.tif', 'r'):
        with pytest.raises(OutputError, match=r'The suffix is unknown.*\.npz.*suffix='):
            save_result(tmp_path / name, scan, result_of(scan))
    with pytest.raises(OutputError, match='Cannot write'):
        save_result(tmp_path / 'none' / 'r.npz', scan, result_of(scan))
    assert list(tmp_path.iterdir()) == []


def test_check_target(tmp_path):
    """DC-12: before the slow work."""
    check_target(None)
    check_target(tmp_path / 'new.png')
    check_target('new.png')
    with pytest.raises(OutputError, match='The output is a folder'):
        check_target(tmp_path)
    with pytest.raises(OutputError, match=r'Cannot write.*existing, writable folder'):
        check_target(tmp_path / 'none' / 'a.npz')
    with pytest.raises(OutputError, match='Cannot write'):
        check_target(Path(__file__) / 'a.npz')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may write all')
def test_check_target_in_a_locked_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match='Cannot write'):
        check_target(tmp_path / 'a.npz')


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    """DC-12: whole or absent."""
    scan = small_scan()
    for name in ('r.npz', 'r.h5'):
        target = tmp_path / name
        target.write_text('old')
        broken = replace(result_of(scan), losses=('no number',))
        with pytest.raises(ValueError, match='no number'):
            save_result(target, scan, broken)
        assert target.read_text() == 'old'
    assert len(list(tmp_path.iterdir())) == 2


def test_import_takes_no_framework():
    code = (
        'import sys, ptychopinn_plugin.files as f; print([m for m in '
        "('h5py', 'ptychodus', 'torch', 'matplotlib', 'skimage', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'
    assert set(files.__all__) >= {'load_scan', 'save_scan', 'save_result', 'describe'}


@pytest.mark.skipif(not DATA.exists(), reason='the shared data are not here')
def test_the_real_scan(tmp_path):
    path = DATA / 'siemens_star_velociprobe.npz'
    scan = load_scan(path, probe_key='reference_probe')
    assert scan.probe.shape == (3, 128, 128)
    image = load_object(path)
    assert image.object.shape == (480, 477)
    assert image.weight.max() == 1
    facts = describe(path)
    assert facts['patterns'] == 516
    assert facts['counts_per_frame'] == pytest.approx(4.6e5, rel=0.05)


def product_of(path, obj, centre_m, pixel_m=10e-9):
    """Write a product as another program does: its own object array, no origin in pixels."""
    with h5py.File(path, 'w') as h5:
        h5['object'], h5['probe'] = obj[None], np.ones((1, 1, 8, 8), np.complex64)
        for axis, key in zip('yx', ('height', 'width'), strict=True):
            h5['object'].attrs[f'pixel_{key}_m'] = pixel_m
            h5['object'].attrs[f'center_{axis}_m'] = centre_m['yx'.index(axis)]
            h5[f'probe_position_{axis}_m'] = centre_m['yx'.index(axis)] + np.linspace(-1, 1, 4) * (
                10 * pixel_m
            )
        h5['probe_position_indexes'] = np.arange(4)
    return path


def test_products_are_compared_where_their_metres_put_them(tmp_path, caplog):
    """Two programs, one scan, two object arrays: the larger one begins elsewhere."""
    rng = np.random.default_rng(3)
    wide = np.exp(1j * rng.random((60, 70))).astype(np.complex64)
    one = product_of(tmp_path / 'one.h5', wide[12:52, 7:57], (3e-6, -2e-6))
    # The centre of the part is (31.5, 31.5) px, of the whole (29.5, 34.5).
    other = product_of(tmp_path / 'other.h5', wide, (3e-6 - 20e-9, -2e-6 + 30e-9))
    a, b, _ = overlap(load_object(one), load_object(other))
    np.testing.assert_array_equal(a, b)
    assert a.shape == (40, 50)
    coarse = product_of(tmp_path / 'coarse.h5', wide, (3e-6, -2e-6), 20e-9)
    assert 'different size' not in caplog.text
    overlap(load_object(one), load_object(coarse))
    assert 'pixels of different size' in caplog.text


def test_a_name_that_is_no_text_costs_no_result(tmp_path):
    """A file that is named in Latin-1, from an old share."""
    scan = small_scan(name=os.fsdecode(b'st\xe4rn'))
    save_result(tmp_path / 'a.h5', scan, result_of(scan))
    assert load_product(tmp_path / 'a.h5').losses
    save_scan(scan, tmp_path)
    assert len(load_scan(tmp_path)) == M
    with h5py.File(tmp_path / 'product.h5') as h5:
        assert h5.attrs['name'].startswith('st')
