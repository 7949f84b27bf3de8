"""Hostile and damaged model files: one line, one error class (MA-7 .. MA-13)."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import tracemalloc
import zipfile
from hashlib import sha256

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptychopinn_plugin import archive, manifest, weights_file
from ptychopinn_plugin.backends.base import Model
from ptychopinn_plugin.config import ModelConfig, TrainingConfig
from ptychopinn_plugin.errors import ModelFileError
from ptychopinn_plugin.network_weights import weight_shapes
from ptychopinn_plugin.result import Epoch

CONFIG = ModelConfig(architecture='autoencoder', pattern_size_px=32, n_filters_scale=1)
SHAPES = weight_shapes(CONFIG)
NAME = 'encoder.0.0.kernel'
MODEL = Model(
    CONFIG,
    {name: np.full(shape, 0.5, np.float32) for name, shape in SHAPES.items()},
    TrainingConfig(epochs=3),
    (Epoch(1, 3, 1.0, 2.0, 1e-3, 4.0),),
    'torch',
    {'best_epoch': 1},
)


@pytest.fixture(scope='module')
def good(tmp_path_factory):
    """The bytes of a good model file."""
    path = tmp_path_factory.mktemp('good') / 'm.h5.zip'
    archive.save_model(MODEL, path)
    return path.read_bytes()


@pytest.fixture(scope='module')
def members(good):
    with zipfile.ZipFile(io.BytesIO(good)) as z:
        return {name: z.read(name) for name in archive.MEMBERS}


def sealed(members, *, manifest=None, packing=zipfile.ZIP_STORED, **changed):
    """Zip members with checksums that fit: the forger's file. `changed` uses _ for the dot."""
    made = {**members, **{name.replace('_', '.'): data for name, data in changed.items()}}
    noted = json.loads(members['manifest.json'])
    noted['members'] = {
        n: {'sha256': sha256(d).hexdigest(), 'size': len(d)}
        for n, d in made.items() if n != 'manifest.json'
    }  # fmt: skip
    noted.update(manifest or {})
    return zipped([('manifest.json', json.dumps(noted).encode())] + [
        (n, d) for n, d in made.items() if n != 'manifest.json'
    ], packing)  # fmt: skip


@pytest.mark.filterwarnings('ignore:Duplicate name')
def zipped(pairs, packing=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', packing) as z:
        for name, data in pairs:
            z.writestr(name, data)
    return buffer.getvalue()


def refused(tmp_path, data, message, reader=archive.load_model):
    path = tmp_path / 'bad.h5.zip'
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        reader(path)
    text = str(caught.value)
    assert re.search(message, text), text
    assert text.startswith(str(path))
    assert '\n' not in text
    assert len(text) < 1200 + len(str(path))
    return text


def hdf5(change=None, skip=()):
    """The bytes of a weights.h5 with good datasets but `skip`, then changed."""
    buffer = io.BytesIO()
    with h5py.File(buffer, 'w') as file:
        for name, values in MODEL.weights.items():
            if name not in skip:
                file.create_dataset(name, data=values)
        if change:
            change(file)
    return buffer.getvalue()


def test_the_forger_can_make_a_good_file(tmp_path, members):
    """Otherwise the tests below could be refused for another reason."""
    path = tmp_path / 'm'
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path.write_bytes(sealed(members, weights_h5=hdf5(), packing=packing))
        np.testing.assert_array_equal(archive.load_model(path).weights[NAME], MODEL.weights[NAME])


# --- MA-9 the container ---------------------------------------------------------------------------


def test_no_file(tmp_path):
    with pytest.raises(ModelFileError, match='There is no such model file'):
        archive.load_model(tmp_path / 'absent')


def test_a_folder(tmp_path):
    with pytest.raises(ModelFileError, match=r'not a regular file.*a folder'):
        archive.load_model(tmp_path)


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(ModelFileError, match='not a regular file'):
        archive.load_model(tmp_path / 'pipe')


@pytest.mark.parametrize('data', [b'', b'x', b'\x89HDF\r\n\x1a\n' + bytes(100), b'PK\5\6'])
def test_not_a_zip(tmp_path, data):
    refused(tmp_path, data, 'This is not a model file')


def test_an_empty_zip(tmp_path):
    refused(tmp_path, zipped([]), 'manifest.json is missing.*an empty zip')


@pytest.mark.parametrize('share', [0.1, 0.5, 0.9, 0.999999])
def test_cut_short(tmp_path, good, share):
    refused(tmp_path, good[: int(len(good) * share)], 'cut short')


def test_bytes_appended(tmp_path, good):
    refused(tmp_path, good + b'!', 'bytes appended')


@pytest.mark.parametrize('name', archive.MEMBERS)
def test_a_missing_member(tmp_path, members, name):
    pairs = [(n, d) for n, d in members.items() if n != name]
    refused(tmp_path, zipped(pairs), f'{name} is missing|missing member {name}')


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('model.pkl', 'foreign member model.pkl'),
        ('../../evil', r'unsafe name \.\./\.\./evil'),
        ('/etc/passwd', 'unsafe name /etc/passwd'),
        ('C:\\evil', 'unsafe name'),
        ('..\\evil', 'unsafe name'),
        ('a\nb', 'foreign member a b'),
        ('\N{SNOWMAN}' * 999, 'foreign member'),
    ],
)
def test_a_foreign_or_unsafe_member(tmp_path, members, name, message):
    refused(tmp_path, zipped([*members.items(), (name, b'')]), message)


@pytest.mark.filterwarnings('ignore:Duplicate name')
@pytest.mark.parametrize('name', archive.MEMBERS)
def test_a_duplicate_member(tmp_path, members, name):
    refused(tmp_path, zipped([*members.items(), (name, members[name])]), f'duplicate member {name}')


def test_a_directory_bomb_is_judged_before_it_is_parsed(tmp_path, members, monkeypatch):
    data = zipped([*members.items(), *((f'{i}', b'') for i in range(1000))])
    monkeypatch.setattr(zipfile, 'ZipFile', lambda *_: pytest.fail('the directory was parsed'))
    refused(tmp_path, data, 'zip directory is too large.*entries=1003')


def test_zip64_cannot_hide_a_directory(tmp_path, good):
    end = good[-22:]
    locator = b'PK\6\7' + struct.pack('<IQI', 0, len(good) - 22, 1)
    refused(tmp_path, good[:-22] + locator + end, 'zip directory is too large')


def with_flags(data, name, *, flag=None, packing=None):
    """Patch flag bits or the packing of a member in the central directory."""
    data = bytearray(data)
    at = data.rindex(name.encode()) - 46
    assert data[at : at + 4] == b'PK\1\2'
    if flag is not None:
        data[at + 8 : at + 10] = struct.pack('<H', flag)
    if packing is not None:
        data[at + 10 : at + 12] = struct.pack('<H', packing)
    return bytes(data)


@pytest.mark.parametrize('name', archive.MEMBERS)
@pytest.mark.parametrize('change', [{'flag': 1}, {'flag': 0x40}, {'packing': 14}, {'packing': 99}])
def test_encrypted_or_oddly_packed(tmp_path, good, name, change):
    message = f'{name} is encrypted or packed in an unknown way'
    refused(tmp_path, with_flags(good, name, **change), message)


# --- MA-10 limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'limit'),
    [('manifest.json', archive.MAX_MANIFEST_BYTES), ('config.json', archive.MAX_CONFIG_BYTES)],
)
def test_an_oversized_member(tmp_path, members, name, limit):
    pairs = {**members, name: b' ' * limit + members[name]}
    refused(tmp_path, zipped(pairs.items(), zipfile.ZIP_DEFLATED), f'{name} is larger than a model')


def test_a_bomb_costs_no_memory(tmp_path, members):
    data = sealed(members, weights_h5=bytes(2**28), packing=zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    try:
        refused(tmp_path, data, 'weights.h5 is larger than a model needs')
        assert tracemalloc.get_traced_memory()[1] < 2**26  # a quarter of the bomb
    finally:
        tracemalloc.stop()


def test_a_lying_size_in_the_zip_header(tmp_path, members):
    data = bytearray(sealed(members, packing=zipfile.ZIP_DEFLATED))
    at = data.rindex(b'weights.h5') - 46
    data[at + 24 : at + 28] = struct.pack('<I', 1000)
    refused(tmp_path, bytes(data), 'damaged')


def test_a_lying_size_in_the_manifest(tmp_path, members):
    noted = json.loads(members['manifest.json'])['members']
    noted['weights.h5']['size'] += 1
    refused(tmp_path, sealed(members, manifest={'members': noted}), 'weights.h5 is damaged')


# --- MA-11 checksums ------------------------------------------------------------------------------


@pytest.mark.parametrize('name', archive.MEMBERS)
def test_a_flipped_byte(tmp_path, good, members, name):
    at = good.index(members[name]) + len(members[name]) // 2
    bad = bytearray(good)
    bad[at] ^= 1
    refused(tmp_path, bytes(bad), f"damaged.*CRC-32.*{name}|CRC-32 for file '{name}'")


@pytest.mark.parametrize('name', ['config.json', 'weights.h5'])
def test_a_changed_member_with_a_good_crc(tmp_path, members, name):
    changed = bytearray(members[name])
    changed[len(changed) // 2] ^= 1
    refused(tmp_path, zipped({**members, name: bytes(changed)}.items()), f'{name} is damaged')


def test_hdf5_sees_no_byte_before_the_checksum(tmp_path, members, monkeypatch):
    monkeypatch.setattr(weights_file, 'unpack', lambda *_: pytest.fail('HDF5 was asked'))
    data = zipped({**members, 'weights.h5': members['weights.h5'] + b'!'}.items())
    refused(tmp_path, data, 'weights.h5 is damaged')


# --- MA-7 versions, MA-12 JSON --------------------------------------------------------------------


def test_a_newer_format_names_the_plugin_to_install(tmp_path, members):
    newer = {'format_version': 2, 'requires': '3.1.4', 'members': 'changed'}
    data = sealed(members, manifest=newer, new_member=b'')
    text = refused(tmp_path, data, 'written by a newer plug-in.*format_version=2')
    assert "pip install 'ptychopinn-plugin>=3.1.4'" in text
    refused(tmp_path, data, 'written by a newer plug-in', archive.describe_model)


@pytest.mark.parametrize('requires', ["1'; rm -rf /; '", None, '9' * 99, '1\n2'])
def test_untrusted_text_never_becomes_advice(tmp_path, members, requires):
    data = sealed(members, manifest={'format_version': 2, 'requires': requires})
    text = refused(tmp_path, data, 'written by a newer plug-in')
    assert "Run: pip install 'ptychopinn-plugin>=0" in text


@pytest.mark.parametrize('version', [0, -1, True, 1.0, '1', None, [1]])
def test_a_wrong_format_version(tmp_path, members, version):
    data = sealed(members, manifest={'format_version': version})
    refused(tmp_path, data, 'The format version is wrong')


def test_a_foreign_format(tmp_path, members):
    refused(tmp_path, sealed(members, manifest={'format': 'x' * 9999}), 'not a model of ptychopinn')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (b'{', 'manifest.json is not valid JSON'),
        (b'\xff\xfe\xfd', 'manifest.json is not valid JSON'),
        (b'[' * 100_000, 'manifest.json is not valid JSON'),
        (b'{"a": 1, "a": 2}', 'a key is repeated'),
        (b'{"a": NaN}', 'NaN is not a number'),
        (b'{"a": -Infinity}', '-Infinity is not a number'),
        (b'1' * 5000, 'manifest.json is not valid JSON'),
        (b'[]', 'manifest.json is not a JSON object.*list'),
        (b'{}', 'not a model of ptychopinn-plugin'),
    ],
)
def test_a_bad_manifest(tmp_path, members, text, message):
    data = zipped({**members, 'manifest.json': text}.items())
    refused(tmp_path, data, message)
    refused(tmp_path, data, message, archive.describe_model)


@pytest.mark.parametrize(
    'key', ['requires', 'writer', 'created', 'versions', 'members', 'summary', 'history']
)
def test_a_wrong_type_in_the_manifest(tmp_path, members, key):
    refused(tmp_path, sealed(members, manifest={key: 7}), f'{key} is missing or has the wrong type')


EMPTY = {name: [] for name, _ in manifest.COLUMNS}


@pytest.mark.parametrize(
    'history',
    [
        {},
        {**EMPTY, 'more': []},
        {**EMPTY, 'number': [1]},
        {**EMPTY, 'number': 'ab'},
        {name: [None] for name in EMPTY},
        {name: ['x'] for name in EMPTY},
        {name: [1.5] for name in EMPTY},
    ],
)
def test_a_malformed_history(tmp_path, members, history):
    refused(tmp_path, sealed(members, manifest={'history': history}), 'the history is malformed')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda c: c['model'].update(evil=1), 'Unknown settings for ModelConfig.*evil'),
        (lambda c: c['training'].update(evil=1), 'Unknown settings for TrainingConfig.*evil'),
        (lambda c: c.update(evil={}), 'does not hold the settings'),
        (lambda c: c.pop('training'), 'does not hold the settings'),
        (lambda c: c.update(model=[]), 'does not hold the settings'),
        (lambda c: c['model'].update(pattern_size_px=10**9), 'pattern_size_px is out of range'),
        (lambda c: c['model'].update(gridsize='2'), 'gridsize has the wrong type'),
        (lambda c: c['model'].update(gridsize=True), 'gridsize has the wrong type'),
        (lambda c: c['training'].update(learning_rate=10**400), 'learning_rate is out of range'),
        (lambda c: c['model'].update(architecture='x\n' * 9999), 'architecture is not one of'),
    ],
)
def test_bad_settings(tmp_path, members, change, message):
    config = json.loads(members['config.json'])
    change(config)
    data = sealed(members, config_json=json.dumps(config).encode())
    refused(tmp_path, data, f'config.json.*{message}')
    refused(tmp_path, data, message, archive.describe_model)


def test_settings_of_another_network(tmp_path, members):
    config = json.loads(members['config.json'])
    config['model']['gridsize'] = 2
    data = sealed(members, config_json=json.dumps(config).encode())
    refused(tmp_path, data, r'does not fit the network.*shape=\(\d+, 4, 3, 3\)')


# --- MA-13 HDF5 -----------------------------------------------------------------------------------


def external_storage(file):
    file.create_dataset(NAME, SHAPES[NAME], np.float32, external=[('outside.bin', 0, 10**6)])


def virtual(file):
    layout = h5py.VirtualLayout(SHAPES[NAME], np.float32)
    layout[:] = h5py.VirtualSource('outside.h5', 'x', SHAPES[NAME])
    file.create_virtual_dataset(NAME, layout)


HOSTILE = {
    'missing': (lambda f: None, f'missing {NAME}'),
    'extra': (lambda f: f.update({NAME: MODEL.weights[NAME], 'evil': [1.0]}), 'unknown evil'),
    'group': (lambda f: f.create_group(NAME), 'not a dataset'),
    'type': (lambda f: f.update({NAME: np.dtype('f4')}), 'not a dataset'),
    'soft link': (lambda f: f.update({NAME: h5py.SoftLink('/x')}), 'a link to elsewhere'),
    'external link': (
        lambda f: f.update({NAME: h5py.ExternalLink('outside.h5', '/x')}), 'a link to elsewhere',
    ),
    'external storage': (external_storage, 'external storage'),
    'virtual': (virtual, 'virtual, chunked or compact storage'),
    'chunked': (
        lambda f: f.create_dataset(NAME, data=MODEL.weights[NAME], chunks=True, compression='gzip'),
        'virtual, chunked or compact storage',
    ),
    'never written': (
        lambda f: f.create_dataset(NAME, SHAPES[NAME], np.float32), 'storage of another size',
    ),
    'shape': (lambda f: f.create_dataset(NAME, data=np.ones((2, 2), 'f4')), r'shape=\(2, 2\)'),
    'scalar': (lambda f: f.create_dataset(NAME, data=np.float32(1)), r'shape=\(\)'),
    'null': (lambda f: f.create_dataset(NAME, data=h5py.Empty('f4')), 'shape=None'),
    'huge': (lambda f: f.create_dataset(NAME, (2**20, 2**20), np.float32), r'shape=\(1048576'),
    'dtype': (lambda f: f.create_dataset(NAME, SHAPES[NAME], np.float64), 'dtype=float64'),
    'byte order': (lambda f: f.create_dataset(NAME, SHAPES[NAME], '>f4'), 'dtype=>f4'),
    'object': (lambda f: f.create_dataset(NAME, SHAPES[NAME], h5py.string_dtype()), 'dtype=object'),
    'nan': (
        lambda f: f.create_dataset(NAME, data=np.full(SHAPES[NAME], np.nan, np.float32)),
        'contains NaN or infinity',
    ),
    'infinity': (
        lambda f: f.create_dataset(NAME, data=np.full(SHAPES[NAME], -np.inf, np.float32)),
        'contains NaN or infinity',
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', HOSTILE)
def test_hostile_hdf5(tmp_path, members, case):
    change, message = HOSTILE[case]
    refused(tmp_path, sealed(members, weights_h5=hdf5(change, skip=[NAME])), message)


@pytest.mark.parametrize('data', [b'', b'\x80\x04.', b'\x89HDF\r\n\x1a\n', bytes(5000)])
def test_not_hdf5(tmp_path, members, data):
    refused(tmp_path, sealed(members, weights_h5=data), 'weights.h5 is not a readable HDF5 file')


def test_a_truncated_hdf5(tmp_path, members):
    data = members['weights.h5'][:-4096]
    refused(tmp_path, sealed(members, weights_h5=data), 'weights.h5 is not a readable HDF5 file')


# --- MA-11 at random ------------------------------------------------------------------------------


def loads_equal_or_refuses(path, data):
    path.write_bytes(data)
    try:
        loaded = archive.load_model(path)
    except ModelFileError as error:
        return str(error)
    assert loaded.config == MODEL.config
    assert loaded.training == MODEL.training
    assert loaded.history == MODEL.history
    for name, values in MODEL.weights.items():
        np.testing.assert_array_equal(loaded.weights[name], values)
    return 'equal'


CHEAP = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@CHEAP
@given(flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_random_flips(tmp_path, good, flips):
    bad = bytearray(good)
    for share, mask in flips:
        bad[int(share * (len(bad) - 1))] ^= mask
    assert '\n' not in loads_equal_or_refuses(tmp_path / 'm', bytes(bad))


@CHEAP
@given(offset=st.integers(0, 1500), mask=st.integers(1, 255), from_end=st.booleans())
def test_random_flips_of_headers(tmp_path, good, offset, mask, from_end):
    """Manifest and headers lie in the first and last bytes, which random places rarely meet."""
    bad = bytearray(good)
    bad[-1 - offset % 250 if from_end else offset] ^= mask
    assert '\n' not in loads_equal_or_refuses(tmp_path / 'm', bytes(bad))


@CHEAP
@given(share=st.floats(0, 1, exclude_max=True))
def test_random_truncations(tmp_path, good, share):
    refused(tmp_path, good[: int(share * len(good))], 'cut short|not a model file')
