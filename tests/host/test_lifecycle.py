"""Training and reconstruction as Ptychodus calls them, with the toy back end. Clauses LC-."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import signal
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
from ptychodus.api.object import Object, ObjectCenter
from ptychodus.api.product import Product
from ptychodus.api.reconstruct import ReconstructInput
from stopwatch import assert_within
from toy_backend import displacement

from ptychopinn_plugin import pipeline
from ptychopinn_plugin.archive import load_model
from ptychopinn_plugin.checks import check_scan
from ptychopinn_plugin.config import ReconstructionConfig, RuntimeConfig
from ptychopinn_plugin.errors import (
    ConfigError,
    DataError,
    ModelFileError,
    OutputError,
    WorkerError,
)
from ptychopinn_plugin.files import load_scan, save_scan
from ptychopinn_plugin.host import link
from ptychopinn_plugin.host.attachment import library_of
from ptychopinn_plugin.scaling import flat_transmission, normalised_probe
from ptychopinn_plugin.worker import client

from .conftest import PINN, SUPERVISED, set_value

pytestmark = pytest.mark.usefixtures('toy_child')


@pytest.fixture
def reconstructor(loaded):
    core, _ = loaded
    return next(iter(library_of(core.processing_core.processing_api)))


@pytest.fixture
def parameters(loaded):
    core, product = loaded
    return core.processing_core.processing_api.get_reconstruct_input(
        product_index=product.get_product_index()
    )


@pytest.fixture
def trained(loaded, host_folder, tmp_path):
    """Train for two epochs; return the output folder."""
    core, product = loaded
    set_value(core, 'Training', 'Epochs', 2)
    product.train_reconstructor_local(host_folder, tmp_path, algorithm=PINN, block=True)
    return tmp_path


def children():
    """Return the processes that this one started and that still run."""
    found = psutil.Process().children(recursive=True)
    return [p.pid for p in found if p.status() != psutil.STATUS_ZOMBIE]


def test_reconstruct_yields_the_start_and_every_sweep(loaded, small_scan):
    core, product = loaded
    set_value(core, 'Reconstruction', 'Sweeps', 3)
    set_value(core, 'Reconstruction', 'Start', 'flat')
    out = product.reconstruct_local(algorithm=PINN, block=True).get_product()
    given = product.get_product()
    assert [v.epoch for v in out.losses] == [0, 1, 2, 3]
    first, *losses = (v.value for v in out.losses)
    flat = ReconstructionConfig(start='flat')
    start = pipeline.begin(small_scan, reconstruction=flat, runtime=RuntimeConfig())
    assert first == pytest.approx(start.loss, rel=1e-3)
    np.testing.assert_allclose(losses, [2 / 3, 1 / 3, 0], atol=1e-12)
    # The toy's last sweep is half of the flat start.
    np.testing.assert_allclose(out.object_.get_array(), flat_transmission(small_scan) / 2)
    assert out.object_.get_center() == given.object_.get_center()
    assert out.object_.get_pixel_geometry() == given.object_.get_pixel_geometry()
    assert out.object_.dtype == np.complex64
    assert list(out.probe_positions) == list(given.probe_positions)
    assert replace(out.metadata, name='') == replace(given.metadata, name='')


def test_corrected_positions_are_in_the_product(loaded, small_scan):
    """In the host's metres, in its order, on the pixels of an object that holds them all."""
    core, product = loaded
    for key, value in (('Sweeps', 2), ('Start', 'flat'), ('CorrectPositions', True)):
        set_value(core, 'Reconstruction', key, value)
    out = product.reconstruct_local(algorithm=PINN, block=True).get_product()
    given = product.get_product()
    pixel, off = out.object_.get_pixel_geometry(), displacement(small_scan)
    for before, after, (y, x) in zip(given.probe_positions, out.probe_positions, off, strict=True):
        assert after.index == before.index
        assert after.y_m - before.y_m == pytest.approx(y * pixel.height_m, rel=1e-6)
        assert after.x_m - before.x_m == pytest.approx(x * pixel.width_m, rel=1e-6)
    geometry, side = out.object_.get_geometry(), small_scan.side_px
    assert (geometry.height_px, geometry.width_px) > small_scan.frame.shape
    for points, scale in ((out.probe_positions, 1), (given.probe_positions, 0)):
        mapped = [geometry.map_coordinates_probe_to_object(point) for point in points]
        at = np.array([[point.y_px, point.x_px] for point in mapped])
        corner = at - (side - 1) / 2
        assert (corner > -1).all()
        assert (corner + side < np.array(out.object_.get_array().shape[1:]) + 1).all()
        moved = at - small_scan.positions_px - scale * off
        np.testing.assert_allclose(moved, moved[:1].repeat(len(moved), 0), atol=1e-3)


def test_every_yield_has_its_own_progress_losses_and_picture(reconstructor, parameters, loaded):
    set_value(loaded[0], 'Reconstruction', 'Sweeps', 4)
    outputs = list(reconstructor.reconstruct(parameters))
    assert [o.progress for o in outputs] == [0, 1, 2, 3, 4]
    assert reconstructor.get_progress_goal() == 4
    assert [len(o.product.losses) for o in outputs] == [1, 2, 3, 4, 5]
    pictures = [o.product.object_.get_array() for o in outputs]
    assert not any(np.array_equal(a, b) for a, b in itertools.pairwise(pictures))


def test_a_window_is_spared_what_it_cannot_show(reconstructor, parameters, loaded):
    """The host's main thread does not come round here: it shows nothing after the start."""
    core, _ = loaded
    link = library_of(core.processing_core.processing_api).link
    link.has_window = True
    set_value(core, 'Reconstruction', 'Sweeps', 30)
    outputs = list(reconstructor.reconstruct(parameters))
    assert [o.progress for o in outputs] == [0, 30]
    assert len(outputs[-1].product.losses) == 31


def test_a_script_that_waits_is_spared_what_would_fill_its_memory(
    reconstructor, parameters, loaded, monkeypatch, caplog
):
    """Until the run ends the host takes nothing: it would hold every sweep."""
    core, product = loaded
    set_value(core, 'Reconstruction', 'Sweeps', 10)
    outputs = list(reconstructor.reconstruct(parameters))
    assert [o.progress for o in outputs] == list(range(11))
    core._task_manager.run_foreground_tasks()
    caplog.set_level(logging.INFO)
    size = outputs[0].product.object_.get_array().nbytes
    monkeypatch.setattr(link, 'WAITING_BYTES', 4 * size)
    outputs = list(reconstructor.reconstruct(parameters))
    assert [o.progress for o in outputs] == [0, 1, 2, 3, 10]
    assert len(outputs[-1].product.losses) == 11
    assert caplog.text.count('wait for the script') == 1
    core._task_manager.run_foreground_tasks()
    taken = []
    for output in reconstructor.reconstruct(parameters):
        taken.append(output.progress)
        core._task_manager.run_foreground_tasks()
    assert taken == list(range(11))
    out = product.reconstruct_local(algorithm=PINN, block=True).get_product()
    assert len(out.losses) == 11


def test_no_sweep_at_all_still_moves_the_bar(reconstructor, parameters, loaded):
    set_value(loaded[0], 'Reconstruction', 'Sweeps', 0)
    assert reconstructor.get_progress_goal() == 1
    assert [o.progress for o in reconstructor.reconstruct(parameters)] == [1]


def test_the_probe_keeps_its_shape_and_takes_the_scale_of_the_data(reconstructor, parameters):
    given = parameters.product.probes.get_array()
    *_, last = reconstructor.reconstruct(parameters)
    probe = last.product.probes.get_array()
    factor = probe / given
    assert np.ptp(np.abs(factor)) < 1e-5 * np.abs(factor).max()
    scan = load_scan_of(parameters)
    np.testing.assert_allclose(probe[0], normalised_probe(scan), rtol=1e-5)


def load_scan_of(parameters):
    from ptychopinn_plugin.host.convert import scan_of_input

    return scan_of_input(parameters)


def test_the_probe_is_the_sweeps_when_it_is_to_be_updated(reconstructor, parameters, loaded):
    set_value(loaded[0], 'Reconstruction', 'UpdateProbe', True)
    *_, last = reconstructor.reconstruct(parameters)
    probes = last.product.probes
    assert probes.get_array().shape == parameters.product.probes.get_array().shape
    assert probes.get_array().dtype == np.complex64
    assert probes.get_pixel_geometry() == parameters.product.probes.get_pixel_geometry()


def moved(parameters, shift_px, shape):
    """Return the input with its object cut to `shape` and its frame moved by whole pixels."""
    obj = parameters.product.object_
    pixel, centre = obj.get_pixel_geometry(), obj.get_center()
    old_y, old_x = obj.height_px, obj.width_px
    y = centre.y_m + (shift_px[0] + (shape[0] - old_y) / 2) * pixel.height_m
    x = centre.x_m + (shift_px[1] + (shape[1] - old_x) / 2) * pixel.width_m
    made = Object(np.ones(shape, complex), pixel, ObjectCenter(x_m=x, y_m=y))
    product = Product(
        parameters.product.metadata,
        parameters.product.probe_positions,
        parameters.product.probes,
        made,
        [],
    )
    return ReconstructInput(parameters.diffraction_patterns, parameters.bad_pixels, product)


def test_another_frame_of_the_object_is_kept(reconstructor, parameters):
    """Positions fall on the same metres, whatever array they are looked at in."""
    wide = moved(parameters, (-5, -9), (104, 111))
    *_, last = reconstructor.reconstruct(wide)
    assert last.product.object_.get_array().shape == (1, 104, 111)
    assert last.product.object_.get_center() == wide.product.object_.get_center()
    a, b = load_scan_of(parameters), load_scan_of(wide)
    np.testing.assert_allclose(b.positions_px - a.positions_px, [[5, 9]] * len(a), atol=1e-6)


def test_an_object_that_is_too_small_makes_room(reconstructor, parameters, caplog):
    """The picture covers the scan, in the same metres."""
    small = moved(parameters, (20, 20), (40, 40))
    *_, last = reconstructor.reconstruct(small)
    obj = last.product.object_
    assert obj.height_px > 40
    geometry = obj.get_geometry()
    y = [p.y_m for p in parameters.product.probe_positions]
    assert geometry.minimum_y_m <= min(y)
    assert geometry.minimum_y_m + geometry.height_m >= max(y)
    assert 'reaches beyond' in caplog.text


def test_inputs_are_not_touched(reconstructor, parameters):
    arrays = (
        parameters.diffraction_patterns,
        parameters.product.object_.get_array(),
        parameters.product.probes.get_array(),
    )
    before = [a.copy() for a in arrays]
    list(reconstructor.reconstruct(parameters))
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_a_model_the_network_start_is_a_clear_error(loaded, caplog):
    core, product = loaded
    set_value(core, 'Reconstruction', 'Start', 'network')
    with pytest.raises(ConfigError, match=r'no model for the network start.*Load a model'):
        product.reconstruct_local(algorithm=PINN, block=True)
    assert 'There is no model' in caplog.text  # the status pane shows records alone


def test_a_model_that_is_no_start_is_a_clear_error(reconstructor, parameters, loaded, trained):
    """The default architecture works between the sweeps and makes no object of the patterns."""
    assert reconstructor.is_model_loaded()
    assert reconstructor.can_start()
    set_value(loaded[0], 'Reconstruction', 'Start', 'network')
    assert not reconstructor.can_start()
    with pytest.raises(ConfigError, match=r'autoencoder.*architecture=unrolled.*another start'):
        next(reconstructor.reconstruct(parameters))
    assert children() == []


def test_errors_reach_the_status_pane(loaded):
    core, product = loaded
    set_value(core, 'Reconstruction', 'Start', 'network')
    with pytest.raises(ConfigError):
        product.reconstruct_local(algorithm=PINN, block=True)
    handler = core.processing_core.processing_api.task_monitor.get_log_handler()
    assert any('[ERROR]' in m and 'There is no model' in m for m in handler.messages())


def test_a_setting_that_cannot_be_is_refused_when_the_run_starts(loaded):
    core, product = loaded
    set_value(core, 'Runtime', 'Backend', 'theano')
    with pytest.raises(ConfigError, match=r'backend is not one of its choices.*theano'):
        product.reconstruct_local(algorithm=PINN, block=True)
    set_value(core, 'Runtime', 'Backend', 'auto')
    product.reconstruct_local(algorithm=PINN, block=True)


def test_training_writes_model_curve_and_checkpoint_folder(trained, loaded):
    core, _ = loaded
    assert {'model.h5.zip', 'training_loss.png'} <= {p.name for p in trained.iterdir()}
    assert not [p for p in trained.iterdir() if '.part' in p.name]
    assert load_model(trained / 'model.h5.zip').config.mode == 'pinn'
    library = library_of(core.processing_core.processing_api)
    assert [r.is_model_loaded() for r in library] == [True, False]


def test_the_supervised_reconstructor_trains_supervised_models(loaded, host_folder, tmp_path):
    core, product = loaded
    set_value(core, 'Training', 'Epochs', 1)
    product.train_reconstructor_local(host_folder, tmp_path, algorithm=SUPERVISED, block=True)
    assert load_model(tmp_path / 'model.h5.zip').config.mode == 'supervised'


def test_train_yields_one_output_per_epoch_with_both_losses(
    reconstructor, loaded, host_folder, tmp_path
):
    set_value(loaded[0], 'Training', 'Epochs', 3)
    outputs, goals = [], []
    for output in reconstructor.train(host_folder, tmp_path):
        outputs.append(output)
        goals.append(reconstructor.get_progress_goal())
    assert [o.progress for o in outputs] == [100, 200, 300]
    assert goals == [300] * 3
    assert [(v.epoch, v.value) for v in outputs[-1].training_loss] == [
        (1, 1),
        (2, 1 / 2),
        (3, 1 / 3),
    ]
    assert [v.value for v in outputs[-1].validation_loss] == [2, 1, 2 / 3]
    assert reconstructor.get_progress_goal() == 20  # a reconstruction's again


def test_the_bar_moves_inside_an_epoch(loaded, host_folder, tmp_path, monkeypatch):
    monkeypatch.setenv('TOY_STEP_S', '0.15')
    core, product = loaded
    set_value(core, 'Training', 'Epochs', 1)
    monitor = core.processing_core.processing_api.task_monitor
    seen = []
    original = monitor.update_progress

    def update(*values):
        seen.append(values)
        original(*values)

    monkeypatch.setattr(monitor, 'update_progress', update)
    product.train_reconstructor_local(host_folder, tmp_path, algorithm=PINN, block=True)
    values = [progress for progress, goal in seen if goal == 100]
    assert values == sorted(values)
    assert len([v for v in values if 0 < v < 100]) >= 3


def test_settings_are_read_when_a_run_starts(loaded, host_folder, tmp_path):
    core, product = loaded
    for key, value in (
        ('Epochs', 1),
        ('BatchSize', 7),
        ('LearningRate', 0.25),
        ('Loss', 'amplitude'),
    ):
        set_value(core, 'Training', key, value)
    set_value(core, 'Model', 'Architecture', 'autoencoder')
    set_value(core, 'Model', 'Gridsize', 2)
    product.train_reconstructor_local(host_folder, tmp_path, algorithm=PINN, block=True)
    model = load_model(tmp_path / 'model.h5.zip')
    assert (model.config.gridsize, model.config.pattern_size_px) == (2, 32)
    assert (model.training.epochs, model.training.batch_size) == (1, 7)
    assert (model.training.learning_rate, model.training.loss) == (0.25, 'amplitude')


def test_save_and_load_give_the_same_picture(loaded, trained, tmp_path):
    core, product = loaded
    api = core.processing_core.processing_api
    first = product.reconstruct_local(algorithm=PINN, block=True).get_product()
    api.save_model_to_file(tmp_path / 'copy.h5.zip', algorithm=PINN)
    api.load_model_from_file(tmp_path / 'copy.h5.zip', algorithm=SUPERVISED)
    second = product.reconstruct_local(algorithm=SUPERVISED, block=True).get_product()
    np.testing.assert_array_equal(first.object_.get_array(), second.object_.get_array())


def test_a_refused_model_leaves_the_one_before(reconstructor, trained, tmp_path):
    before = reconstructor.card.summary()
    for name, content in (('empty', b''), ('text', b'hello'), ('zip', b'PK\3\4' + bytes(40))):
        path = tmp_path / f'{name}.h5.zip'
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=name):
            reconstructor.load_model_from_file(path)
    assert reconstructor.card.summary() == before
    assert 'epochs with toy' in before


def test_saving_without_a_model_is_an_error(reconstructor, tmp_path):
    with pytest.raises(ConfigError, match='There is no model to save'):
        reconstructor.save_model(tmp_path / 'model.h5.zip')
    assert not (tmp_path / 'model.h5.zip').exists()


def stop_when(core, condition):
    """Press the host's Stop as soon as `condition()`; return the list that gets the time."""
    pressed = []

    def watch():
        while not condition():
            time.sleep(0.01)
        core.processing_core.processing_api.task_monitor.stop_processing()
        pressed.append(time.monotonic())

    threading.Thread(target=watch, daemon=True).start()
    return pressed


def test_stop_in_mid_epoch_keeps_the_best_model_so_far(
    loaded, reconstructor, host_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv('TOY_STEP_S', '0.1')
    core, product = loaded
    set_value(core, 'Training', 'Epochs', 1000)
    pressed = stop_when(core, lambda: len(reconstructor.card.history) >= 2)
    product.train_reconstructor_local(host_folder, tmp_path, algorithm=PINN, block=True)
    assert_within(2, pressed[0])  # the stop, the model, and the loss curve
    assert len(load_model(tmp_path / 'model.h5.zip').history) >= 2
    assert reconstructor.is_model_loaded()
    assert children() == []


def test_stop_in_the_first_epoch_tells_that_there_is_no_model(
    loaded, reconstructor, host_folder, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv('TOY_STEP_S', '30')
    core, product = loaded
    pressed = stop_when(core, lambda: children() != [])
    product.train_reconstructor_local(host_folder, tmp_path, algorithm=PINN, block=True)
    assert_within(2, pressed[0])
    assert 'before its first epoch had finished: no model' in caplog.text
    assert not reconstructor.is_model_loaded()
    assert not (tmp_path / 'model.h5.zip').exists()


def test_closing_the_generator_keeps_the_best_model_so_far(
    loaded, reconstructor, host_folder, tmp_path, monkeypatch
):
    monkeypatch.setenv('TOY_STEP_S', '0.02')
    set_value(loaded[0], 'Training', 'Epochs', 1000)
    outputs = reconstructor.train(host_folder, tmp_path)
    next(outputs)
    outputs.close()
    assert reconstructor.is_model_loaded()
    assert len(load_model(tmp_path / 'model.h5.zip').history) >= 1
    assert children() == []


def test_stop_ends_a_reconstruction_between_sweeps(loaded, monkeypatch):
    monkeypatch.setenv('TOY_STEP_S', '30')
    core, product = loaded
    pressed = stop_when(core, lambda: children() != [])
    out = product.reconstruct_local(algorithm=PINN, block=True).get_product()
    assert_within(2, pressed[0])
    assert len(out.losses) <= 1
    assert children() == []


def test_stop_while_the_scan_is_written_yields_nothing(reconstructor, parameters, loaded):
    core, _ = loaded
    core.processing_core.processing_api.task_monitor.stop_processing()
    assert list(reconstructor.reconstruct(parameters)) == []
    assert children() == []


def test_leaving_the_host_during_a_training_does_not_hang(host_folder, tmp_path, monkeypatch):
    """The window is closed: the host joins its worker thread."""
    from ptychodus.model import ModelCore

    monkeypatch.setenv('TOY_STEP_S', '30')
    with ModelCore(log_level=logging.WARNING) as core:
        workflow = core.workflow_api
        diffraction = workflow.load_assembled_diffraction_data(host_folder / 'diffraction.h5')
        product = workflow.load_product(host_folder / 'product.h5', diffraction=diffraction)
        product.train_reconstructor_local(host_folder, tmp_path, algorithm=PINN)
        while not children():
            time.sleep(0.05)
        begun = time.monotonic()
    assert_within(5, begun)
    assert children() == []


@pytest.mark.parametrize('seed', range(10))
def test_a_killed_child_is_an_error_and_the_next_run_works(
    loaded, reconstructor, host_folder, tmp_path, monkeypatch, seed
):
    monkeypatch.setenv('TOY_STEP_S', '0.02')
    core, product = loaded
    set_value(core, 'Training', 'Epochs', 1000)
    set_value(core, 'Reconstruction', 'Sweeps', 1000)
    moment = np.random.default_rng(seed).uniform(0, 1)
    killed = []

    def kill():
        while not children():
            time.sleep(0.005)
        time.sleep(moment)
        os.kill(children()[0], signal.SIGKILL)
        killed.append(time.monotonic())

    threading.Thread(target=kill, daemon=True).start()
    run = {
        0: lambda: product.train_reconstructor_local(
            host_folder, tmp_path, algorithm=PINN, block=True
        ),
        1: lambda: product.reconstruct_local(
            algorithm=PINN, block=True, output_product_file=tmp_path / 'product.h5'
        ),
    }[seed % 2]
    with pytest.raises(WorkerError, match='signal 9'):
        run()
    # The host's own wait for the end of a run ticks once a second.
    assert_within(1.5, killed[0])
    left = {p.name for p in tmp_path.rglob('*') if p.is_file()}
    assert not any('.part' in name or name.startswith('model') for name in left)
    for file in tmp_path.glob('product*.h5'):
        from ptychopinn_plugin.files import load_product

        load_product(file)
    monkeypatch.setenv('TOY_STEP_S', '0')
    set_value(core, 'Reconstruction', 'Sweeps', 2)
    out = product.reconstruct_local(algorithm=PINN, block=True).get_product()
    assert len(out.losses) == 3


def test_an_output_folder_that_cannot_be_written_is_refused_at_once(loaded, host_folder, tmp_path):
    _, product = loaded
    begun = time.monotonic()
    with pytest.raises(OutputError, match='Cannot write'):
        product.train_reconstructor_local(
            host_folder, tmp_path / 'nowhere', algorithm=PINN, block=True
        )
    assert_within(3, begun)


@pytest.mark.parametrize('full', ['model.h5.zip', 'loss.png'])
def test_a_disk_that_is_full_at_the_end_does_not_cost_the_model(
    loaded, reconstructor, host_folder, tmp_path, monkeypatch, caplog, full
):
    def copy(source, target):
        if Path(source).name == full:
            raise OSError(28, 'No space left on device')
        return original(source, target)

    original = shutil.copyfile
    monkeypatch.setattr(client.shutil, 'copyfile', copy)
    set_value(loaded[0], 'Training', 'Epochs', 2)
    seen, observer = [], Mock()
    observer._update.side_effect = lambda card: seen.append(card.model is not None)
    reconstructor.card.add_observer(observer)
    folder = tmp_path / 'out'
    folder.mkdir()

    def train():
        for _ in reconstructor.train(host_folder, folder):
            loaded[0]._task_manager.run_foreground_tasks()

    with pytest.raises(OutputError, match=r'Cannot write .*out.*No space left'):
        train()
    loaded[0]._task_manager.run_foreground_tasks()
    assert seen[-1]  # the panel knows
    written = [p.name for p in folder.iterdir()]
    assert written == ([] if full == 'model.h5.zip' else ['model.h5.zip'])
    assert ('not yet on the disk' in caplog.text) == (written == [])
    reconstructor.save_model(tmp_path / 'elsewhere.h5.zip')
    assert len(load_model(tmp_path / 'elsewhere.h5.zip').history) == 2


TRAINING_FOLDERS = {
    'the host files': (('diffraction.h5', 'product.h5'), ['in'], []),
    'the training file': (('train_data.npz', 'a.npz', 'diffraction.h5', 'product.h5'),
                          ['train_data.npz'], []),
    'with a test file': (('train_data.npz', 'test_data.npz'),
                         ['train_data.npz'], ['test_data.npz']),
    'exported files': (('a.npz', 'b.h5', 'c.cxi', 'product.h5', 'diffraction.h5'),
                       ['a.npz', 'b.h5', 'c.cxi'], []),
    'exported files and a test file': (('b.npz', 'test_data.npz'), ['b.npz'], ['test_data.npz']),
    'rubbish beside': (('a.npz', 'notes.txt', 'broken.npz', 'result.npz', 'model.npz'),
                       ['a.npz'], []),
}  # fmt: skip


@pytest.mark.parametrize('case', TRAINING_FOLDERS)
def test_what_an_input_folder_holds_for_a_training(case, host_folder, small_scan, tmp_path):
    from ptychopinn_plugin.host.training_files import find_training_files

    names, scans, validation = TRAINING_FOLDERS[case]
    folder = tmp_path / 'in'
    folder.mkdir()
    for name in names:
        if name in ('diffraction.h5', 'product.h5'):
            shutil.copy(host_folder / name, folder)
        elif name == 'result.npz':
            np.savez(folder / name, object=np.ones((4, 4), complex), weight=np.ones((4, 4)))
        elif name in ('notes.txt', 'broken.npz', 'model.npz'):
            (folder / name).write_bytes(b'PK\3\4 nothing of the kind')
        else:
            save_scan(small_scan, folder / name)
    found = find_training_files(folder)
    assert [p.name for p in found.scans] == scans
    assert [p.name for p in found.validation] == validation


@pytest.mark.parametrize('names', [(), ('diffraction.h5',), ('product.h5',), ('test_data.npz',)])
def test_a_folder_with_nothing_to_train_on_is_refused(
    names, loaded, host_folder, small_scan, tmp_path
):
    _, product = loaded
    folder = tmp_path / 'in'
    folder.mkdir()
    for name in names:
        if name.endswith('.h5'):
            shutil.copy(host_folder / name, folder)
        else:
            save_scan(small_scan, folder / name)
    with pytest.raises(DataError, match=r'nothing to train on.*train_data\.npz.*Export training'):
        product.train_reconstructor_local(folder, tmp_path, algorithm=PINN, block=True)
    assert not (tmp_path / 'model.h5.zip').exists()


def test_the_exported_file_is_what_both_read(loaded, tmp_path, small_scan):
    core, product = loaded
    target = tmp_path / 'train_data.npz'
    product.export_training_data(target, algorithm=PINN)
    back = load_scan(target)
    np.testing.assert_array_equal(back.counts, small_scan.counts)
    np.testing.assert_allclose(back.positions_px, small_scan.positions_px, atol=1e-5)
    with np.load(target) as stored:
        assert str(stored['diff3d_scale']) == 'counts'
        for key in ('xcoords', 'ycoords', 'xcoords_start', 'ycoords_start'):
            assert stored[key].shape == (120,)
        np.testing.assert_allclose(stored['xcoords'], small_scan.positions_px[:, 1], atol=1e-5)
        assert stored['diff3d'].shape == (120, 32, 32)
        assert stored['probeGuess'].shape == (1, 32, 32)
        assert stored['objectGuess'].shape == (90, 90)
        assert not stored['scan_index'].any()  # one object, to the host's own adapters
    set_value(core, 'Training', 'Epochs', 1)
    product.train_reconstructor_local(tmp_path, tmp_path, algorithm=PINN, block=True)
    assert (tmp_path / 'model.h5.zip').exists()


def test_bad_pixels_are_filled_in_the_exported_file(reconstructor, parameters, tmp_path):
    """A reader that ignores `bad_pixels` must not meet the detector's overflow mark."""
    bad = np.zeros((32, 32), bool)
    bad[10, 12] = bad[20, 3] = True
    patterns = np.array(parameters.diffraction_patterns)
    patterns[:, bad] = np.iinfo(patterns.dtype).max
    marked = replace(parameters, diffraction_patterns=patterns, bad_pixels=bad)
    reconstructor.export_training_data(tmp_path / 'a.npz', marked)
    with np.load(tmp_path / 'a.npz') as stored:
        np.testing.assert_array_equal(stored['bad_pixels'], bad)
        good = parameters.diffraction_patterns
        assert stored['diff3d'].max() <= good.max()
        np.testing.assert_array_equal(stored['diff3d'][:, ~bad], good[:, ~bad])


def test_an_export_is_not_packed(reconstructor, parameters, tmp_path, small_scan):
    """Packing takes half a minute per GB, and the window stands still; the command line packs."""
    ours, packed = tmp_path / 'ours.npz', tmp_path / 'packed.npz'
    reconstructor.export_training_data(ours, parameters)
    save_scan(small_scan, packed)
    for path, kind in ((ours, zipfile.ZIP_STORED), (packed, zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(path) as members:
            assert {m.compress_type for m in members.infolist()} == {kind}
    np.testing.assert_array_equal(load_scan(ours).counts, load_scan(packed).counts)


def test_an_export_without_a_suffix_is_npz(reconstructor, parameters, tmp_path):
    reconstructor.export_training_data(tmp_path / 'scan', parameters)
    assert (tmp_path / 'scan.npz').exists()


def test_findings_are_in_the_log_and_the_run_goes_on(loaded, reconstructor, parameters, caplog):
    copied = parameters.diffraction_patterns.copy()
    copied[5:9] = copied[4]
    wrong = replace(parameters, diffraction_patterns=copied)
    *_, last = reconstructor.reconstruct(wrong)
    assert last.product.losses
    (record,) = [r for r in caplog.records if 'repeated patterns' in r.getMessage()]
    assert record.levelname == 'WARNING'
    assert record.name.startswith('ptychopinn_plugin')
    assert 'are exact copies of others' in record.getMessage()
    caplog.clear()
    set_value(loaded[0], 'Runtime', 'Checks', False)
    *_, last = reconstructor.reconstruct(wrong)
    assert last.product.losses
    assert 'exact copies' not in caplog.text


def test_a_reconstruction_is_not_told_the_detectors_pixel(parameters, host_folder):
    """The check of the lengths needs it: README and RE-7 send users to the files."""
    assert load_scan_of(parameters).geometry.detector_pixel_size_m is None
    from_files = load_scan(host_folder).geometry
    assert from_files.detector_pixel_size_m
    wrong = replace(from_files, photon_energy_eV=1.25 * from_files.photon_energy_eV)
    (finding,) = check_scan(replace(load_scan(host_folder), geometry=wrong))
    assert finding.check == 'lengths'


def test_near_field_and_varying_probes_are_told(reconstructor, parameters, caplog):
    from ptychodus.api.probe import ProbeSequence

    given = parameters.product
    probes = given.probes.get_array()
    varying = ProbeSequence(
        np.concatenate([probes, 0.1 * probes]),
        np.ones((len(given.probe_positions), 2)),
        given.probes.get_pixel_geometry(),
    )
    metadata = given.metadata
    if hasattr(metadata, 'far_field'):
        metadata = replace(metadata, far_field=False)
    product = Product(metadata, given.probe_positions, varying, given.object_, [])
    *_, last = reconstructor.reconstruct(replace(parameters, product=product))
    assert 'varies over the scan (OPR)' in caplog.text
    assert ('near-field data' in caplog.text) == hasattr(metadata, 'far_field')
    assert last.product.probes.get_array().shape == (2, 1, 32, 32)
    assert last.product.probes.get_opr_weights_or_none() is not None


def test_an_input_that_cannot_be_is_an_error(reconstructor, parameters):
    cut = replace(parameters, diffraction_patterns=parameters.diffraction_patterns[:-1])
    with pytest.raises(DataError, match='Patterns and positions differ in number'):
        next(reconstructor.reconstruct(cut))


def test_the_command_is_the_toys():
    """These tests would pass with the real back end too, and take an hour."""
    assert Path(client.COMMAND[-1]).name == 'toy_child.py'


def test_what_libraries_leave_goes_with_the_run(reconstructor, parameters, monkeypatch, tmp_path):
    """PyTorch keeps a cache in the temporary folder; the child's is the job's own."""
    from ptychopinn_plugin.config import ReconstructionConfig, RuntimeConfig
    from ptychopinn_plugin.host.convert import scan_of_input
    from ptychopinn_plugin.worker import ReconstructJob, Run

    job = ReconstructJob(scan_of_input(parameters), ReconstructionConfig(sweeps=0), RuntimeConfig())
    with Run(job) as run:
        environment = Path(f'/proc/{run.pid}/environ')
        if not environment.exists():
            pytest.skip('the environment of a process cannot be read here')
        assert f'TMPDIR={run.folder}'.encode() in environment.read_bytes()


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda p: Product(p.metadata, p.probe_positions, p.probes, Object(None, None, None), []),
         'The object of the product has no place'),
        (lambda p: Product(p.metadata, type(p.probe_positions)([]), p.probes, p.object_, []),
         'Patterns and positions differ in number'),
    ],
)  # fmt: skip
def test_a_product_that_cannot_be_is_a_data_error(reconstructor, parameters, spoil, message):
    with pytest.raises(DataError, match=message):
        next(reconstructor.reconstruct(replace(parameters, product=spoil(parameters.product))))


def test_no_pattern_at_all_is_a_data_error(reconstructor, parameters):
    product = parameters.product
    empty = Product(
        product.metadata, type(product.probe_positions)([]), product.probes, product.object_, []
    )
    nothing = ReconstructInput(parameters.diffraction_patterns[:0], None, empty)
    with pytest.raises(DataError, match=r'no probe positions|The scan is empty'):
        next(reconstructor.reconstruct(nothing))
