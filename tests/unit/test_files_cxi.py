"""CXI: DC-8 and the refusals of DC-10."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.errors import DataError, OutputError
from ptychopinn_plugin.files import describe, load_object, load_scan, save_scan
from ptychopinn_plugin.geometry import pixel_size_m
from ptychopinn_plugin.scan import Geometry, Scan

N, M = 16, 12
JOULE = 1.602176634e-19
DETECTOR = 'entry_1/instrument_1/detector_1'
TRANSLATION = 'entry_1/sample_1/geometry_1/translation'
PIXEL = pixel_size_m(8000.0, 2.0, (75e-6, 50e-6), N)


def made():
    """Return counts, positions (y, x) in pixels whose (0, 0) is at 0 m, and a probe."""
    rng = np.random.default_rng(4)
    return (
        rng.poisson(rng.random((M, N, N)) * 50).astype(np.int32),
        rng.random((M, 2)) * [15, 25] - [4, 90],
        (rng.random((2, N, N)) + 1j).astype(np.complex64),
    )


def write(path, *, drop=(), **changes):
    """Write a plain CXI file; a keyword with `__` for `/` replaces a dataset."""
    counts, positions, probe = made()
    translation = np.zeros((M, 3))
    translation[:, 1::-1] = positions * PIXEL
    data = {
        'entry_1/data_1/data': counts,
        TRANSLATION: translation,
        'entry_1/instrument_1/source_1/energy': 8000.0 * JOULE,
        f'{DETECTOR}/distance': 2.0,
        f'{DETECTOR}/y_pixel_size': 75e-6,
        f'{DETECTOR}/x_pixel_size': 50e-6,
        f'{DETECTOR}/mask': np.eye(N, dtype=np.uint32) * 0x1000,
        'entry_1/instrument_1/source_1/probe': probe,
    } | {k.replace('__', '/'): v for k, v in changes.items()}
    with h5py.File(path, 'w') as h5:
        for key, value in data.items():
            if key not in drop:
                h5[key] = value
    return path


def test_reads_a_plain_file(tmp_path):
    """DC-8: x first, metres, no change of sign; the pixel of the far field; any mask bit is bad."""
    counts, positions, probe = made()
    scan = load_scan(write(tmp_path / 'a.cxi'))
    np.testing.assert_array_equal(scan.counts, counts)
    np.testing.assert_allclose(scan.positions_px, positions, atol=1e-9)
    np.testing.assert_array_equal(scan.probe, probe)
    np.testing.assert_array_equal(scan.bad_pixels, np.eye(N, dtype=bool))
    assert scan.geometry.pixel_size_m == pytest.approx(PIXEL)
    assert scan.geometry.photon_energy_eV == pytest.approx(8000.0)
    assert scan.geometry.detector_pixel_size_m == (75e-6, 50e-6)
    middle = np.asarray(scan.frame.origin_px) + (np.asarray(scan.frame.shape) - 1) / 2
    np.testing.assert_allclose(scan.geometry.object_centre_m, middle * PIXEL)
    assert scan.object_guess is None
    assert scan.name == 'a'
    facts = describe(tmp_path / 'a.cxi')
    assert facts['pixel_size_m'] == pytest.approx(PIXEL)
    assert facts['bad_pixels'] == N


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        ('entry_1/data_1/data', f'{DETECTOR}/data'),
        (TRANSLATION, 'entry_1/data_1/translation'),
        (TRANSLATION, f'{DETECTOR}/translation'),
        (
            'entry_1/instrument_1/source_1/probe',
            'entry_1/instrument_1/source_1/illumination',
        ),
    ],
)
def test_reads_the_other_places(tmp_path, old, new):
    with h5py.File(write(tmp_path / 'a.cxi'), 'r+') as h5:
        h5.require_group(new.rpartition('/')[0])
        h5.move(old, new)
    scan = load_scan(tmp_path / 'a.cxi')
    np.testing.assert_allclose(scan.positions_px, made()[1], atol=1e-9)


def test_reads_one_mask_per_pattern_and_two_columns(tmp_path):
    masks = np.zeros((M, N, N), np.uint32)
    masks[3, 1, 2] = 1
    flat = (made()[1] * PIXEL)[:, ::-1]
    path = write(tmp_path / 'a.cxi', **{f'{DETECTOR}/mask': masks, TRANSLATION: flat})
    scan = load_scan(path)
    assert scan.bad_pixels[1, 2]
    assert scan.bad_pixels.sum() == 1
    np.testing.assert_allclose(scan.positions_px, made()[1], atol=1e-9)


def test_pairs_by_the_index_of_the_host(tmp_path):
    """DC-4 holds for the host's CXI files."""
    index = np.arange(M - 1)
    translation = np.zeros((M - 1, 3))
    translation[:, 1::-1] = made()[1][:-1] * PIXEL
    path = write(
        tmp_path / 'a.cxi',
        **{TRANSLATION: translation, 'entry_1/ptychodus/probe_position_indexes': index},
    )
    scan = load_scan(path)
    np.testing.assert_array_equal(scan.counts, made()[0][:-1])


REFUSALS = [
    ({'drop': ['entry_1/instrument_1/source_1/probe']}, 'has no probe.*--product'),
    ({'drop': ['entry_1/data_1/data']}, 'entry_1/data_1/data is missing'),
    ({'drop': [TRANSLATION]}, 'translation is missing'),
    ({'drop': [f'{DETECTOR}/distance']}, 'cannot be turned into pixels.*distance_m=None'),
    ({f'{DETECTOR}/x_pixel_size': 0.0}, 'cannot be turned into pixels'),
    ({f'{DETECTOR}/distance': np.nan}, 'distance is not a number'),
    ({f'{DETECTOR}/mask': np.zeros((N, N + 2))}, 'mask has another size'),
    ({TRANSLATION: np.zeros((M, 4))}, 'translations have the wrong shape'),
    ({TRANSLATION: np.zeros((M - 1, 3))}, 'Positions and patterns differ in number'),
    ({TRANSLATION: np.full((M, 3), np.inf)}, 'Positions contain NaN or infinity'),
    ({TRANSLATION: np.random.default_rng(0).random((M, 3)) * 1e3}, 'Check the units: transl'),
    ({TRANSLATION: np.random.default_rng(0).random((M, 3)) * 1e-12}, 'scan of 1 to 100000 pixels'),
    (
        {'entry_1/instrument_1/source_1/energy': 8000.0},
        r'translations do not fit the object pixel.*eV=4\.99.*energy in J',
    ),
    ({'entry_1/data_1/data': np.ones((N, N))}, 'wrong rank|differ in number'),
    ({'entry_1/data_1/data': np.zeros((M, N, N))}, 'patterns are zero'),
    ({'entry_1/data_1/data': np.full((M, N, N), np.nan)}, 'NaN or infinity'),
    ({'entry_1/instrument_1/source_1/probe': np.ones((N + 2, N + 2))}, 'Probe and patterns differ'),
]


@pytest.mark.parametrize(('change', 'text'), REFUSALS, ids=[t[:40] for _, t in REFUSALS])
def test_refuses(tmp_path, change, text):
    """DC-10: one line that names the file."""
    with pytest.raises(DataError, match=rf'^bad\.cxi: .*({text})') as caught:
        load_scan(write(tmp_path / 'bad.cxi', **change))
    assert '\n' not in str(caught.value)


def test_refuses_what_is_not_hdf5(tmp_path):
    (tmp_path / 'text.cxi').write_text('no')
    with pytest.raises(DataError, match=r'text\.cxi: The format is unknown'):
        load_scan(tmp_path / 'text.cxi')
    with pytest.raises(DataError, match=r'a\.cxi: The CXI file holds no object.*image_2'):
        load_object(write(tmp_path / 'a.cxi'))


def small_scan(**more):
    counts, positions, probe = made()
    return Scan(counts, positions, probe, np.eye(N, dtype=bool), **more)


def test_round_trip(tmp_path):
    scan = small_scan(geometry=Geometry(PIXEL, (1e-6, 2e-6), (75e-6, 50e-6), 2.0, 8000.0))
    save_scan(scan, tmp_path / 'a.cxi')
    back = load_scan(tmp_path / 'a.cxi')
    for key in ('counts', 'probe', 'bad_pixels', 'scan_index'):
        np.testing.assert_array_equal(getattr(back, key), getattr(scan, key))
    np.testing.assert_allclose(back.positions_px, scan.positions_px, atol=1e-6)
    assert back.frame == scan.frame
    assert back.geometry.pixel_size_m == pytest.approx(PIXEL)
    np.testing.assert_allclose(back.geometry.object_centre_m, (1e-6, 2e-6))


def test_round_trip_without_scales(tmp_path):
    """DC-14: the stand-in pixel of one metre reads back as unknown."""
    rng = np.random.default_rng(5)
    _, positions, _ = made()
    shape = small_scan().frame.shape
    truth = (rng.random(shape) + 0.1j).astype(np.complex64)
    counts, _, probe = made()
    scan = Scan(counts, positions - small_scan().frame.origin_px, probe, true_object=truth)
    save_scan(scan, tmp_path / 'a.cxi')
    back = load_scan(tmp_path / 'a.cxi')
    np.testing.assert_allclose(back.positions_px, scan.positions_px, atol=1e-9)
    np.testing.assert_array_equal(back.true_object, truth)
    assert back.geometry == Geometry()
    with pytest.raises(OutputError, match='Cannot write'):
        save_scan(scan, tmp_path / 'none' / 'a.cxi')


def test_the_host_reads_it(tmp_path):
    """DC-8: the host's own reader finds patterns, positions and probe."""
    cxi_file = pytest.importorskip('ptychodus.plugins.cxi_file')
    scan = small_scan(geometry=Geometry(PIXEL, (1e-6, 2e-6), (75e-6, 50e-6), 2.0, 8000.0))
    path = tmp_path / 'a.cxi'
    save_scan(scan, path)
    dataset = cxi_file.CXIDiffractionFileReader().read(path)
    patterns = np.concatenate([array.get_patterns() for array in dataset])
    np.testing.assert_array_equal(patterns, scan.counts)
    np.testing.assert_array_equal(dataset.get_bad_pixels(), scan.bad_pixels)
    product = cxi_file.CXIProductFileIO().read(path)
    geometry = product.object_.get_geometry()
    y = geometry.map_probe_positions_to_object_y_px(product.probe_positions)
    x = geometry.map_probe_positions_to_object_x_px(product.probe_positions)
    want = scan.positions_px - scan.frame.origin_px
    np.testing.assert_allclose(np.stack([y, x], 1), want, atol=1e-6)
    np.testing.assert_array_equal(product.probes.get_array()[0], scan.probe)
    assert product.metadata.photon_energy_eV == pytest.approx(8000.0)


def test_reads_what_the_host_writes(tmp_path):
    """DC-8, DC-15: the object of the host's own product in CXI."""
    cxi_file = pytest.importorskip('ptychodus.plugins.cxi_file')
    scan = small_scan(geometry=Geometry(PIXEL, (1e-6, 2e-6), (75e-6, 50e-6), 2.0, 8000.0))
    save_scan(scan, tmp_path / 'ours.cxi')
    product = cxi_file.CXIProductFileIO().read(tmp_path / 'ours.cxi')
    cxi_file.CXIProductFileIO().write(tmp_path / 'theirs.cxi', product)
    image = load_object(tmp_path / 'theirs.cxi')
    assert image.object.shape == scan.frame.shape
    assert image.weight.max() == 1
