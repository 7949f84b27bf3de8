"""The model file: round trip and form (specs/model_archive.md MA-1 .. MA-7, MA-14)."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import h5py
import numpy as np
import pytest

from ptychopinn_plugin import archive, weights_file
from ptychopinn_plugin.backends.base import Model
from ptychopinn_plugin.config import ModelConfig, TrainingConfig
from ptychopinn_plugin.errors import ModelFileError, OutputError
from ptychopinn_plugin.network_weights import weight_shapes
from ptychopinn_plugin.result import Epoch

CONFIG = ModelConfig(architecture='autoencoder', pattern_size_px=32, gridsize=2, n_filters_scale=1)
HISTORY = (Epoch(1, 7, 0.5, 0.25, 1e-3, 1.5), Epoch(2, 7, 0.1 + 0.2, 0.125, 1e-4, 1.25))
SUMMARY = {'versions': {'torch': '9.9'}, 'best_epoch': 2, 'ended': 'stopped', 'scans': ['a', 'b']}


@pytest.fixture(scope='module')
def model():
    rng = np.random.default_rng(5)
    weights = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in weight_shapes(CONFIG).items()
    }
    return Model(CONFIG, weights, TrainingConfig(epochs=7, seed=3), HISTORY, 'torch', SUMMARY)


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / 'wts.h5.zip'
    archive.save_model(model, path)
    return path


def manifest_of(path):
    with zipfile.ZipFile(path) as z:
        return json.loads(z.read('manifest.json'))


def test_round_trip_keeps_everything(model, saved):  # MA-5
    loaded = archive.load_model(saved)
    assert loaded.config == model.config
    assert loaded.training == model.training
    assert loaded.history == HISTORY
    assert loaded.writer == 'torch'
    assert loaded.summary == SUMMARY
    assert list(loaded.weights) == list(weight_shapes(CONFIG))
    for name, values in model.weights.items():
        assert loaded.weights[name].dtype == np.float32
        np.testing.assert_array_equal(loaded.weights[name], values)


@pytest.mark.parametrize(
    'name', ['model', 'model.bin', 'ein modell \N{GREEK SMALL LETTER PSI}.h5.zip']
)
def test_any_file_name_works(model, tmp_path, name):  # MA-1
    archive.save_model(model, tmp_path / name)
    assert archive.load_model(str(tmp_path / name)).config == CONFIG
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_members_and_checksums(saved):  # MA-1, MA-2
    manifest = manifest_of(saved)
    with zipfile.ZipFile(saved) as z:
        assert sorted(z.namelist()) == ['config.json', 'manifest.json', 'weights.h5']
        for name in ('config.json', 'weights.h5'):
            data = z.read(name)
            assert manifest['members'][name] == {
                'sha256': sha256(data).hexdigest(), 'size': len(data),
            }  # fmt: skip
        config = json.loads(z.read('config.json'))
    assert config['model']['gridsize'] == 2
    assert config['training']['epochs'] == 7


def test_manifest_facts(saved):  # MA-2
    manifest = manifest_of(saved)
    assert manifest['format'] == 'ptychopinn-plugin model'
    assert manifest['format_version'] == 1
    assert manifest['requires'] == '0.1.0'
    assert manifest['writer'] == 'torch'
    assert manifest['versions']['torch'] == '9.9'
    assert manifest['versions']['ptychopinn-plugin']
    created = datetime.fromisoformat(manifest['created'])
    assert abs(datetime.now(UTC) - created) < timedelta(minutes=5)
    assert manifest['history']['validation_loss'] == [0.25, 0.125]


def test_non_finite_numbers_are_null_and_come_back_as_nan(model, tmp_path):  # MA-2
    history = (Epoch(1, 1, float('inf'), float('nan'), 1e-3, 0.0),)
    odd = replace(model, history=history, summary={'loss': float('nan'), 'n': np.int64(3)})
    archive.save_model(odd, tmp_path / 'm')
    assert manifest_of(tmp_path / 'm')['history']['training_loss'] == [None]
    loaded = archive.load_model(tmp_path / 'm')
    assert np.isnan([loaded.history[0].training_loss, loaded.history[0].validation_loss]).all()
    assert loaded.summary == {'loss': None, 'n': 3}


def test_a_model_without_history_or_versions(model, tmp_path):
    archive.save_model(replace(model, history=(), summary={}), tmp_path / 'm')
    assert archive.load_model(tmp_path / 'm').history == ()


def test_the_same_weights_give_the_same_bytes(model):  # MA-4: no times inside
    shapes = weight_shapes(CONFIG)
    data = weights_file.pack(model.weights, shapes)
    assert data == weights_file.pack(dict(reversed(model.weights.items())), shapes)
    with h5py.File(io.BytesIO(data), 'r') as file:  # times count seconds: equal bytes prove little
        assert not any(h5py.h5g.get_objinfo(file.id, n.encode()).mtime for n in shapes)


def test_describe_reads_no_weights(saved, monkeypatch):  # MA-14
    monkeypatch.setattr(weights_file, 'unpack', lambda *_: pytest.fail('weights were read'))
    opened = []
    original = zipfile.ZipFile.open

    def open_member(self, name, *args, **more):
        opened.append(getattr(name, 'filename', name))
        return original(self, name, *args, **more)

    monkeypatch.setattr(zipfile.ZipFile, 'open', open_member)
    facts = archive.describe_model(saved)
    assert opened == ['manifest.json', 'config.json']
    assert facts['kind'] == 'model'
    assert facts['writer'] == 'torch'
    assert facts['epochs'] == 2
    assert facts['model']['pattern_size_px'] == 32
    assert facts['parameters'] == sum(int(np.prod(s)) for s in weight_shapes(CONFIG).values())
    json.dumps(facts, allow_nan=False)


def test_is_model(saved, tmp_path):  # MA-14
    np.savez(tmp_path / 'scan.npz', a=np.ones(2))
    (tmp_path / 'text').write_text('manifest.json')
    assert archive.is_model(saved)
    for other in ('scan.npz', 'text', '.', 'absent'):
        assert not archive.is_model(tmp_path / other)


def test_a_missing_folder_is_an_output_error(model, tmp_path):  # MA-6
    with pytest.raises(OutputError, match='Cannot write'):
        archive.save_model(model, tmp_path / 'absent' / 'm')


def test_a_failed_save_keeps_the_old_file(model, saved, monkeypatch):  # MA-6
    before = saved.read_bytes()
    original = zipfile.ZipFile.writestr

    def full(self, info, data):
        if info.filename == 'weights.h5':
            raise OSError(28, 'No space left on device')
        original(self, info, data)

    monkeypatch.setattr(zipfile.ZipFile, 'writestr', full)
    with pytest.raises(OutputError, match='No space left on device'):
        archive.save_model(model, saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda w: w.pop('amplitude.head.bias'), 'missing amplitude.head.bias'),
        (lambda w: w.update(more=np.ones(3, np.float32)), 'unknown more'),
        (lambda w: w.update({'phase.head.bias': np.ones(5, np.float32)}), r'shape=\(5,\)'),
        (lambda w: w.update({'phase.head.bias': np.ones(4)}), 'dtype=float64'),
        (lambda w: w.update({'phase.head.bias': np.full(4, np.nan, np.float32)}), 'NaN'),
    ],
)
def test_a_model_that_would_not_load_is_not_written(model, tmp_path, change, message):  # MA-6
    weights = dict(model.weights)
    change(weights)
    with pytest.raises(ModelFileError, match=message):
        archive.save_model(replace(model, weights=weights), tmp_path / 'm')
    assert not list(tmp_path.iterdir())
