"""The host's HDF5 files: DC-3 to DC-7, DC-11 and the refusals of DC-10."""

from __future__ import annotations

import logging
import zlib

import h5py
import numpy as np
import pytest

from ptychopinn_plugin.errors import DataError, DataFileMissingError
from ptychopinn_plugin.files import describe, load_object, load_scan, save_scan
from ptychopinn_plugin.scan import Geometry, Scan

N, M, H, W = 16, 12, 40, 44
DY, DX, CY, CX = 2e-8, 3e-8, 1e-5, -2e-5


def made():
    """Return counts, positions (y, x) in object pixels, probe and object of a small scan."""
    rng = np.random.default_rng(2)
    return (
        rng.poisson(rng.random((M, N, N)) * 50).astype(np.uint16),
        np.stack([9 + rng.random(M) * 20, 9 + rng.random(M) * 25], 1),
        (rng.random((2, N, N)) + 1j).astype(np.complex64),
        (rng.random((H, W)) + 0.2j).astype(np.complex64),
    )


def write_product(path, *, index=None, positions=None, drop=(), attrs=(), **changes):
    """Write a product file as the host does; `changes` replace datasets."""
    _, px, probe, obj = made()
    px = px if positions is None else positions
    metres = (px - [(H - 1) / 2, (W - 1) / 2]) * [DY, DX] + [CY, CX]
    data = {
        'probe_position_indexes': np.arange(len(px)) if index is None else index,
        'probe_position_x_m': metres[:, 1],
        'probe_position_y_m': metres[:, 0],
        'probe': probe[None],
        'object': obj[None],
        'object_layer_spacing_m': np.zeros(0),
    } | changes
    with h5py.File(path, 'w') as h5:
        h5.attrs['name'] = 'a product'
        h5.attrs['detector_object_distance_m'] = 2.0
        h5.attrs['photon_energy_eV'] = 8000.0
        for key, value in data.items():
            if key not in drop:
                h5[key] = value
        if isinstance(h5.get('object'), h5py.Dataset):
            h5['object'].attrs.update(
                {'pixel_height_m': DY, 'pixel_width_m': DX, 'center_y_m': CY, 'center_x_m': CX}
                | dict(attrs)
            )
    return path


def write_diffraction(path, *, index=None, patterns=None, bad=None, compression='lzf'):
    counts = made()[0] if patterns is None else patterns
    with h5py.File(path, 'w') as h5:
        h5['indexes'] = np.arange(len(counts)) if index is None else index
        chosen = compression if isinstance(compression, dict) else {'compression': compression}
        stored = h5.create_dataset('patterns', data=counts, **chosen)
        stored.attrs['detector_pixel_height_m'] = 75e-6
        stored.attrs['detector_pixel_width_m'] = 50e-6
        h5['bad_pixels'] = np.zeros((N, N), bool) if bad is None else bad
    return path


@pytest.fixture
def folder(tmp_path):
    """A folder with the pair that the host leaves."""
    where = tmp_path / 'run 7'
    where.mkdir()
    write_product(where / 'product.h5')
    write_diffraction(where / 'diffraction.h5')
    return where


def test_reads_the_pair(folder):
    """DC-3: metres become pixels of the object array by the host's formula."""
    counts, positions, probe, obj = made()
    for given in (folder, folder / 'diffraction.h5'):
        scan = load_scan(given)
        np.testing.assert_array_equal(scan.counts, counts)
        np.testing.assert_allclose(scan.positions_px, positions, atol=1e-6)
        np.testing.assert_array_equal(scan.probe, probe)
        np.testing.assert_array_equal(scan.object_guess, obj)
        assert scan.frame.shape == (H, W)
        assert scan.geometry.pixel_size_m == (DY, DX)
        assert scan.geometry.object_centre_m == (CY, CX)
        assert scan.geometry.detector_pixel_size_m == (75e-6, 50e-6)
        assert scan.geometry.detector_distance_m == 2.0
        assert scan.geometry.photon_energy_eV == 8000.0
    assert load_scan(folder).name == 'run 7'


def test_another_product_can_be_given(folder, tmp_path):
    (folder / 'product.h5').rename(tmp_path / 'other.h5')
    with pytest.raises(DataFileMissingError, match=r'product\.h5 does not exist.*--product'):
        load_scan(folder)
    assert len(load_scan(folder, product=tmp_path / 'other.h5')) == M


def test_opens_the_filters_of_detectors(folder):
    hdf5plugin = pytest.importorskip('hdf5plugin')
    write_diffraction(folder / 'diffraction.h5', compression=dict(hdf5plugin.Bitshuffle()))
    np.testing.assert_array_equal(load_scan(folder).counts, made()[0])


def test_a_filter_that_is_not_installed_is_no_damage(folder):
    hdf5plugin = pytest.importorskip('hdf5plugin')
    file = folder / 'diffraction.h5'
    write_diffraction(file, compression=dict(hdf5plugin.Zstd()))
    known, unknown = (number.to_bytes(2, 'little') for number in (hdf5plugin.ZSTD_ID, 32099))
    stored = file.read_bytes()
    assert stored.count(known) == 1
    file.write_bytes(stored.replace(known, unknown))
    with pytest.raises(DataError, match=r'filter that is not installed.*filter=32099 .*h5repack'):
        load_scan(folder)


def test_pairs_by_index(folder, caplog):
    """DC-4: duplicates averaged, gaps interpolated, what lies outside dropped and counted."""
    positions = made()[1]
    known = np.array([2, 3, 3, 6, 9])
    write_product(folder / 'product.h5', index=known, positions=positions[:5])
    order = np.array([9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11])
    write_diffraction(folder / 'diffraction.h5', index=order)
    with caplog.at_level(logging.WARNING):
        scan = load_scan(folder)
    np.testing.assert_array_equal(scan.scan_index, [9, 2, 3, 4, 5, 6, 7, 8])
    twice = positions[1:3].mean(0)
    between = twice + (positions[3] - twice) / 3
    np.testing.assert_allclose(
        scan.positions_px[:4], [positions[4], positions[0], twice, between], atol=1e-6
    )
    np.testing.assert_array_equal(scan.counts[0], made()[0][0])
    assert '4 patterns without a position were dropped, 4 positions were interpolated' in (
        caplog.text
    )


def test_host_files_hold_counts(folder):
    """DC-5: fractions in a host file are counts; square roots of integers never are."""
    counts = made()[0].astype(np.float32)
    write_diffraction(folder / 'diffraction.h5', patterns=counts * 0.37)
    np.testing.assert_array_equal(load_scan(folder).counts, counts * np.float32(0.37))
    write_diffraction(folder / 'diffraction.h5', patterns=np.sqrt(counts))
    np.testing.assert_array_equal(load_scan(folder).counts, counts)
    assert describe(folder)['diffraction'] == 'amplitude'
    np.testing.assert_allclose(
        load_scan(folder, diffraction='counts').counts, np.sqrt(counts), rtol=1e-6
    )


def test_a_placeholder_object_does_not_bind(folder, caplog):
    """DC-6: the frame then comes from the positions, and its centre in metres moves with it."""
    attrs = {'center_y_m': CY, 'center_x_m': CX}
    write_product(folder / 'product.h5', object=np.ones((1, 20, 20), complex), attrs=attrs)
    with caplog.at_level(logging.WARNING):
        scan = load_scan(folder)
    assert 'placeholder object of 20x20 pixels' in caplog.text
    assert scan.object_guess is None
    middle = np.asarray(scan.frame.origin_px) + (np.asarray(scan.frame.shape) - 1) / 2
    want = np.array([CY, CX]) + (middle - 9.5) * [DY, DX]
    np.testing.assert_allclose(scan.geometry.object_centre_m, want, rtol=1e-9)


PRODUCT_REFUSALS = [
    ({'object': np.ones((2, H, W), complex)}, r'product\.h5: The object has several layers'),
    ({'drop': ['probe']}, r'product\.h5: The dataset probe is missing.*keys=object'),
    ({'drop': ['object']}, r'product\.h5: The dataset object is missing'),
    ({'attrs': {'pixel_width_m': 0.0}}, 'no usable pixel size.*pixel_width_m=0'),
    ({'attrs': {'pixel_width_m': np.nan}}, 'pixel_width_m is not a number'),
    ({'probe_position_x_m': np.ones(3)}, 'not three lists of the same length'),
    ({'probe_position_x_m': np.full(M, np.nan)}, 'Positions contain NaN'),
    ({'probe_position_x_m': np.full(M, CX + 1.0)}, 'Positions lie outside the object'),
    ({'probe': np.ones((1, 1, N + 2, N + 2), complex)}, 'Probe and patterns differ in size'),
    ({'index': np.arange(M) + 500}, 'No pattern has a position.*0..11'),
    ({'positions': np.zeros((0, 2))}, 'holds no probe positions'),
    ({'probe': np.array(['text'], dtype='S4')}, 'probe does not hold numbers'),
]


@pytest.mark.parametrize(
    ('change', 'text'), PRODUCT_REFUSALS, ids=[t[:40] for _, t in PRODUCT_REFUSALS]
)
def test_refuses_a_product(folder, change, text):
    """DC-10: one line that names the file."""
    write_product(folder / 'product.h5', **change)
    with pytest.raises(DataError, match=text) as caught:
        load_scan(folder)
    message = str(caught.value)
    assert message.startswith(('product.h5: ', 'diffraction.h5: '))
    assert '\n' not in message


def test_refuses_patterns(folder):
    file = folder / 'diffraction.h5'
    for change, text in (
        ({'patterns': made()[0][:, :, :-2]}, 'not square'),
        ({'patterns': made()[0][0]}, 'Patterns and indexes differ|wrong rank'),
        ({'patterns': np.zeros((M, N, N), int)}, 'patterns are zero'),
        ({'patterns': np.full((M, N, N), -1)}, 'negative counts'),
        ({'index': np.arange(M - 1)}, 'Patterns and indexes differ in number'),
        ({'index': np.arange(M) + 0.5}, 'indexes have the wrong shape or type'),
        ({'bad': np.zeros((N, N + 2), bool)}, 'mask has another size'),
        ({'bad': np.ones((N, N), bool)}, 'Every detector pixel is marked bad'),
    ):
        write_diffraction(file, **change)
        with pytest.raises(DataError, match=rf'^diffraction\.h5: .*({text})'):
            load_scan(folder)


def test_refuses_links_to_other_files(folder, tmp_path):
    """DC-11: nothing is read from a file that was not named."""
    secret = tmp_path / 'secret.h5'
    with h5py.File(secret, 'w') as h5:
        h5['patterns'] = made()[0]
        h5['group/patterns'] = made()[0]
    layout = h5py.VirtualLayout(shape=(M, N, N), dtype=np.uint16)
    layout[:] = h5py.VirtualSource(secret, 'patterns', shape=(M, N, N))
    made()[0].tofile(tmp_path / 'raw.bin')
    ways = {
        'link to another file': lambda h5: h5.__setitem__(
            'patterns', h5py.ExternalLink(secret, '/patterns')
        ),
        'data from another file': lambda h5: h5.create_virtual_dataset('patterns', layout),
        'takes its data from another': lambda h5: h5.create_dataset(
            'patterns', (M, N, N), np.uint16, external=[(tmp_path / 'raw.bin', 0, M * N * N * 2)]
        ),
        'is a link to another': lambda h5: (
            h5.__setitem__('group', h5py.ExternalLink(secret, '/group')),
            h5.__setitem__('patterns', h5py.SoftLink('/group/patterns')),
        ),
        'goes in circles': lambda h5: h5.__setitem__('patterns', h5py.SoftLink('/patterns')),
    }
    for text, make in ways.items():
        with h5py.File(folder / 'diffraction.h5', 'w') as h5:
            h5['indexes'] = np.arange(M)
            make(h5)
        with pytest.raises(DataError, match=rf'^diffraction\.h5: .*{text}'):
            load_scan(folder)


def test_refuses_absurd_shapes_before_reading(folder):
    """DC-11: a shape with nothing behind it takes no memory."""
    for shape in ((10**9, N, N), (10**5, 64, 64)):
        with h5py.File(folder / 'diffraction.h5', 'w') as h5:
            h5['indexes'] = np.arange(3)
            h5.create_dataset('patterns', shape, np.uint32, chunks=(1, *shape[1:]))
        with pytest.raises(DataError, match=r'patterns declares an absurd size.*on disk'):
            load_scan(folder)


@pytest.mark.parametrize('share', [0.1, 0.5, 0.9])
def test_refuses_truncated_files(folder, share):
    file = folder / 'diffraction.h5'
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match=r'^diffraction\.h5: The file is damaged') as caught:
        load_scan(folder)
    assert '\n' not in str(caught.value)


def test_refuses_damaged_chunks(folder):
    file = folder / 'diffraction.h5'
    write_diffraction(file, compression='gzip')
    whole = bytearray(file.read_bytes())
    start = whole.find(zlib.compress(made()[0][0].tobytes())[:2])
    with h5py.File(file) as h5:
        start = h5['patterns'].id.get_chunk_info(0).byte_offset
    whole[start : start + 40] = b'\xff' * 40
    file.write_bytes(bytes(whole))
    with pytest.raises(DataError, match=r'^diffraction\.h5: The file is damaged'):
        load_scan(folder)


def test_refuses_other_files(folder, tmp_path):
    with pytest.raises(DataError, match=r'product\.h5: The file is a product.*--product'):
        load_scan(folder / 'product.h5')
    with h5py.File(tmp_path / 'other.h5', 'w') as h5:
        h5['images'] = np.zeros(3)
    with pytest.raises(DataError, match=r'other\.h5: The HDF5 file holds no scan.*keys=images'):
        load_scan(tmp_path / 'other.h5')
    (tmp_path / 'text.h5').write_text('not HDF5 at all')
    with pytest.raises(DataError, match=r'text\.h5: The format is unknown'):
        load_scan(tmp_path / 'text.h5')
    with pytest.raises(DataError, match=r'text\.h5: The format is unknown'):
        load_object(tmp_path / 'text.h5')
    with pytest.raises(DataError, match='probe key can be chosen in NPZ files only'):
        load_scan(folder, probe_key='x')


def test_training_round_trip(tmp_path):
    """DC-7: a scan comes back, in its own coordinates, with what the host does not keep."""
    counts, positions, probe, _ = made()
    scan = Scan(
        counts,
        positions + np.array([50.5, -7]),
        probe,
        np.eye(N, dtype=bool),
        scan_index=np.arange(M) * 2,
        geometry=Geometry((DY, DX), (CY, CX), None, 2.0, 8000.0),
    )
    save_scan(scan, tmp_path / 'a.h5')
    back = load_scan(tmp_path / 'a.h5')
    for key in ('counts', 'probe', 'bad_pixels', 'scan_index'):
        np.testing.assert_array_equal(getattr(back, key), getattr(scan, key))
    np.testing.assert_allclose(back.positions_px, scan.positions_px)
    assert back.frame == scan.frame
    assert back.geometry.pixel_size_m == (DY, DX)
    assert back.object_guess is None
    with h5py.File(tmp_path / 'a.h5') as h5:  # what the host reads lies in the written object
        np.testing.assert_allclose(
            h5['probe_position_y_px'], scan.positions_px[:, 0] - scan.frame.origin_px[0]
        )
        assert h5['object'].shape == scan.frame.shape


def test_the_host_reads_our_training_file(tmp_path):
    """DC-7: patterns and product by the host's own readers."""
    plugin = pytest.importorskip('ptychodus.plugins.training_data_file')
    counts, positions, probe, obj = made()
    geometry = Geometry((DY, DX), (CY, CX), None, 2.0, 8000.0)
    for known in (geometry, Geometry()):
        scan = Scan(counts, positions, probe, object_guess=obj, geometry=known)
        save_scan(scan, tmp_path / 'a.h5')
        product = plugin.TrainingDataProductFileReader().read(tmp_path / 'a.h5')
        grid = product.object_.get_geometry()
        y = grid.map_probe_positions_to_object_y_px(product.probe_positions)
        x = grid.map_probe_positions_to_object_x_px(product.probe_positions)
        np.testing.assert_allclose(np.stack([y, x], 1), positions, atol=1e-6)
        np.testing.assert_array_equal(product.object_.get_layer(0), obj)
        dataset = plugin.TrainingDataDiffractionFileReader().read(tmp_path / 'a.h5')
        patterns = np.concatenate([array.get_patterns() for array in dataset])
        np.testing.assert_array_equal(patterns, counts)


def test_training_without_scales_and_with_a_truth(tmp_path):
    """DC-7, DC-14: the stand-in pixel reads back as unknown, the true object as it was."""
    counts, positions, probe, obj = made()
    scan = Scan(counts, positions, probe, true_object=obj)
    save_scan(scan, tmp_path / 'a.hdf5')
    back = load_scan(tmp_path / 'a.hdf5')
    np.testing.assert_array_equal(back.true_object, obj)
    assert back.geometry == Geometry()
    facts = describe(tmp_path / 'a.hdf5')
    assert (facts['patterns'], facts['pattern_size_px'], facts['probe_modes']) == (M, N, 2)
    assert facts['pixel_size_m'] is None
    assert facts['counts_per_frame'] == pytest.approx(counts.sum() / M)
    image = load_object(tmp_path / 'a.hdf5')
    np.testing.assert_array_equal(image.object, obj)
    assert image.weight.max() == 1
    assert image.weight[0, 0] == 0


def test_reads_what_the_host_writes(tmp_path):
    """DC-3, DC-7: the host's own writers, not our idea of them."""
    io = pytest.importorskip('ptychodus.api.io')
    from ptychodus.api.assemble import AssembledDiffractionData
    from ptychodus.api.geometry import PixelGeometry
    from ptychodus.api.object import Object, ObjectCenter
    from ptychodus.api.probe import ProbeSequence
    from ptychodus.api.probe_positions import ProbePosition, ProbePositionSequence
    from ptychodus.api.product import Product, ProductMetadata
    from ptychodus.api.reconstruct import ReconstructInput

    counts, positions, probe, obj = made()
    pixel = PixelGeometry(width_m=DX, height_m=DY)
    metres = (positions - [(H - 1) / 2, (W - 1) / 2]) * [DY, DX] + [CY, CX]
    product = Product(
        metadata=ProductMetadata('host', '', 2.0, 8000.0, 1e4, 0.0, 0.0, 0.0),
        probe_positions=ProbePositionSequence(
            [ProbePosition(i, x, y) for i, (y, x) in enumerate(metres)]
        ),
        probes=ProbeSequence(probe[None], None, pixel),
        object_=Object(obj[None], pixel, ObjectCenter(x_m=CX, y_m=CY)),
        losses=[],
    )
    bad = np.zeros((N, N), bool)
    bad[0, 0] = True
    given = ReconstructInput(counts, bad, product)
    io.save_ptychopinn_training_data(tmp_path / 'train.npz', given)
    io.save_training_data(tmp_path / 'train.h5', given)
    io.save_product(tmp_path / 'product.h5', product)
    data = AssembledDiffractionData(
        np.arange(M), counts, PixelGeometry(width_m=50e-6, height_m=75e-6), bad
    )
    io.save_diffraction_data(tmp_path / 'diffraction.h5', data)
    for name in ('train.npz', 'train.h5', 'diffraction.h5'):
        scan = load_scan(tmp_path / name)
        np.testing.assert_allclose(scan.positions_px, positions, atol=1e-6)
        np.testing.assert_array_equal(scan.counts[:, ~bad], counts[:, ~bad])
        np.testing.assert_array_equal(scan.bad_pixels, bad)
        np.testing.assert_allclose(scan.probe, probe)
        np.testing.assert_allclose(scan.object_guess, obj)
        assert scan.frame.shape == (H, W)
        np.testing.assert_array_equal(scan.scan_index, np.arange(M))
