"""The story, told with a back end of NumPy alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ptychopinn_plugin as pp
from ptychopinn_plugin import background, pipeline, reference, starts
from ptychopinn_plugin.backends.base import StopTraining
from ptychopinn_plugin.config import ModelConfig, ReconstructionConfig, TrainingConfig
from ptychopinn_plugin.errors import BackendUnavailableError, ConfigError, DataError
from ptychopinn_plugin.geometry import windows
from ptychopinn_plugin.scaling import normalised_probe
from ptychopinn_plugin.simulate import Simulation, simulate_scan

from ..conftest import counting

PATCHES = ModelConfig(architecture='autoencoder')


def fourier_error(scan, object_):
    """What no framework is needed for, by the oracle."""
    at, probe = windows(scan), normalised_probe(scan)
    patches = reference.extract(object_, at.corner_px, scan.side_px)
    expected = reference.diffract(patches, reference.shift_probe(probe, at.shift_px))
    missed = np.sqrt(expected) - np.sqrt(scan.counts.astype(np.float64))
    return (missed**2).sum() / scan.totals.sum()


def test_reconstruct_tells_everything(toy, small_scan):
    seen = []
    result = pp.reconstruct(
        small_scan, reconstruction=ReconstructionConfig(sweeps=4), on_sweep=seen.append
    )
    assert [s.number for s in seen] == [0, 1, 2, 3, 4]
    assert result.losses[1:] == (0.75, 0.5, 0.25, 0.0)
    assert result.backend == 'toy'
    assert result.start == 'gradients'
    np.testing.assert_allclose(result.image.object, small_scan.true_object, atol=1e-6)
    assert result.estimate is seen[0].image
    assert result.fourier_error == 0.5
    start = fourier_error(small_scan, result.estimate.object)
    assert result.start_fourier_error == result.losses[0] == pytest.approx(start, rel=1e-4)
    assert result.measured.shape == result.predicted.shape == (32, 32)
    assert result.seconds['total'] >= result.seconds['start'] + result.seconds['sweeps'] > 0
    np.testing.assert_allclose(result.amplitude, np.abs(result.image.object))
    np.testing.assert_allclose(result.phase, np.angle(result.image.object))


def test_auto_start_takes_the_network_when_there_is_a_model(toy, small_scan):
    model = pp.train(small_scan, model=PATCHES, training=TrainingConfig(epochs=1))
    result = pp.reconstruct(small_scan, model, reconstruction=ReconstructionConfig(sweeps=0))
    assert result.start == 'network'
    assert (result.image.object == 1).all()
    flat = pp.reconstruct(small_scan, model, reconstruction=ReconstructionConfig('flat', 0))
    assert (flat.image.object != 1).all()


def test_network_start_needs_a_model(toy, small_scan):
    with pytest.raises(ConfigError, match='needs a model'):
        pp.reconstruct(small_scan, reconstruction=ReconstructionConfig(start='network'))


def test_model_of_another_pattern_size_is_refused(toy, small_scan):
    model = pp.train(small_scan, model=PATCHES, training=TrainingConfig(epochs=1))
    other = simulate_scan(Simulation(pattern_size_px=64, object_size_px=120, patterns=4))
    with pytest.raises(ConfigError, match=r'another size.*N=32.*N=64'):
        pp.reconstruct(other, model)


def test_train_takes_the_size_from_the_data(toy, small_scan):
    model = pp.train(small_scan, model=PATCHES, training=TrainingConfig(epochs=2))
    assert model.config.pattern_size_px == 32
    assert model.summary['versions'] == {'toy': '1'}
    assert len(model.history) == 2


def test_settings_that_the_architecture_does_not_use_are_told_once(toy, small_scan, caplog):
    given = {'gridsize': 2, 'mode': 'supervised'}
    training = TrainingConfig(epochs=2, loss='amplitude')
    pp.train(small_scan, model=ModelConfig(**given), training=training)
    told = 'Without effect (unrolled, supervised): gridsize=2, loss=amplitude'
    assert caplog.text.count(told) == caplog.text.count('Without effect') == 1
    pp.train(small_scan, model=replace(PATCHES, gridsize=2), training=training)
    pp.train(small_scan, training=TrainingConfig(epochs=2))
    assert caplog.text.count('Without effect') == 1


def test_scans_of_different_sizes_are_refused(toy, small_scan):
    other = simulate_scan(Simulation(pattern_size_px=64, object_size_px=120, patterns=4))
    with pytest.raises(DataError, match='different sizes'):
        pp.train([small_scan, other], model=PATCHES)


def test_no_scan_is_refused(toy):
    with pytest.raises(DataError, match='no scan to train on'):
        pp.train([])


def test_another_network_is_no_start(toy, small_scan):
    model = pp.train(small_scan, training=TrainingConfig(epochs=1))
    with pytest.raises(ConfigError, match='another network'):
        pp.train(
            small_scan, model=ModelConfig(architecture='autoencoder', gridsize=2), initial=model
        )


def test_a_model_of_other_filters_is_no_start(toy, small_scan):
    model = pp.train(small_scan, model=PATCHES, training=TrainingConfig(epochs=1))
    with pytest.raises(ConfigError, match='another network'):
        pp.train(small_scan, model=replace(PATCHES, n_filters_scale=4), initial=model)


@pytest.mark.parametrize('start', [ModelConfig(mode='supervised'), PATCHES])
def test_settings_that_change_no_weight_do_not_forbid_a_start(toy, small_scan, start, monkeypatch):
    """A model trained on known objects goes on with counts alone, and the other way round."""
    given = []
    kept = toy.train
    monkeypatch.setattr(toy, 'train', lambda *a, **k: given.append(k['initial']) or kept(*a, **k))
    model = pp.train(small_scan, model=start, training=TrainingConfig(epochs=1))
    other = replace(start, mode='pinn' if start.mode == 'supervised' else 'supervised')
    if start.architecture == 'unrolled':
        other = replace(other, gridsize=2, n_filters_scale=1, probe_big=False)
    trained = pp.train(small_scan, model=other, training=TrainingConfig(epochs=1), initial=model)
    assert given[-1] is model
    assert trained.config.mode == other.mode


def test_stop_keeps_what_was_trained(toy, small_scan):
    def stop(epoch):
        if epoch.number == 3:
            raise StopTraining

    model = pp.train(small_scan, training=TrainingConfig(epochs=9), on_epoch=stop)
    assert len(model.history) == 3


def test_repeats_for_the_uncertainty_keep_no_sweeps_in_memory(toy, small_scan, monkeypatch):
    """Each has a whole object."""
    refine, counts = counting(toy.refine)
    monkeypatch.setattr(toy, 'refine', refine)
    config = ReconstructionConfig('flat', sweeps=20)
    pp.reconstruct(small_scan, reconstruction=config, uncertainty=True)
    assert len(counts) == (1 + 2 + 2 + 2) * 20
    assert max(counts) <= 8  # the results that are compared, and those of the run that goes on


def test_flat_start_predicts_the_mean_counts(small_scan):
    image = starts.flat_start(replace(small_scan, probe=small_scan.probe * 7))
    assert image.frame == small_scan.frame
    assert 0 < np.abs(image.object[0, 0]) <= 1
    assert image.weight.max() == 1


def test_auto_without_a_model_begins_from_what_fits_better(toy, small_scan, monkeypatch):
    def start(name='auto'):
        config = ReconstructionConfig(start=name, sweeps=0)
        result = pp.reconstruct(small_scan, reconstruction=config)
        return result.start, result.image.object

    flat, gradients = starts.flat_start(small_scan), starts.gradient_start(small_scan)
    flat_error, error = starts.sampled_errors(small_scan, flat, gradients)
    assert error < flat_error
    name, image = start()
    assert name == 'gradients'
    np.testing.assert_array_equal(image, gradients.object)
    assert start('flat')[0] == 'flat'
    wrong = replace(gradients, object=gradients.object[::-1] * np.complex64(0.1))
    monkeypatch.setattr(starts, 'gradient_start', lambda *_, **__: wrong)
    name, image = start()
    assert name == 'flat'
    np.testing.assert_array_equal(image, flat.object)
    name, image = start('gradients')  # as the user insists
    assert name == 'gradients'
    np.testing.assert_array_equal(image, wrong.object)


def test_the_sampled_errors_are_fourier_errors(small_scan, monkeypatch):
    images = starts.flat_start(small_scan), starts.gradient_start(small_scan)
    whole = [fourier_error(small_scan, image.object) for image in images]
    assert starts.sampled_errors(small_scan, *images) == pytest.approx(whole, rel=1e-4)
    assert starts.sampled_errors(small_scan, *images, threads=2) == pytest.approx(whole, rel=1e-4)
    monkeypatch.setattr(starts, 'SAMPLE', 40)  # a third of them
    sampled = starts.sampled_errors(small_scan, *images)
    assert sampled == pytest.approx(whole, rel=0.1)
    assert sampled != pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize('wanted', [True, False])
def test_the_background_is_looked_for_once(toy, small_scan, monkeypatch, wanted):
    asked = []
    monkeypatch.setattr(background, 'background_of', lambda scan: asked.append(scan) or 0.0)
    config = ReconstructionConfig(sweeps=1, correct_background=wanted)
    pp.reconstruct(small_scan, reconstruction=config, uncertainty=True)
    assert asked == [small_scan] * wanted


@pytest.mark.parametrize(('found', 'wanted', 'sweeps'), [
    (5.0, True, 2), (5.0, False, 2), (0.0, True, 2), (5.0, True, 0)
])  # fmt: skip
def test_a_background_that_is_seen_is_learned_once(
    toy, small_scan, monkeypatch, found, wanted, sweeps
):
    asked = []

    def learned(scan, start, config, runtime, backend):
        asked.append((scan.background, config.sweeps))
        return background.told(scan, 7.0), start

    monkeypatch.setattr(background, 'background_of', lambda scan: found)
    monkeypatch.setattr(pipeline, 'learned', learned)
    config = ReconstructionConfig(sweeps=sweeps, correct_background=wanted)
    result = pp.reconstruct(small_scan, reconstruction=config, uncertainty=True)
    due = bool(found and wanted and sweeps)
    assert asked == [(found, sweeps)] * due
    assert result.background == (7.0 if due else found * wanted)


def test_unknown_public_name():
    with pytest.raises(AttributeError, match='no_such_thing'):
        _ = pp.no_such_thing


def test_missing_framework_names_the_pip_line(small_scan, monkeypatch):
    monkeypatch.setattr('ptychopinn_plugin.backends.registry.find_spec', lambda name: None)
    with pytest.raises(BackendUnavailableError, match='pip install'):
        pp.reconstruct(small_scan)
