"""The panel in Ptychodus's real window, driven as a user drives it. Clauses GUI-."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import time
from dataclasses import make_dataclass
from pathlib import Path
from traceback import format_exception
from unittest.mock import Mock

import numpy as np
import pytest
from stopwatch import assert_within

from ptychopinn_plugin import archive, config
from ptychopinn_plugin.backends import registry
from ptychopinn_plugin.config import declared
from ptychopinn_plugin.host import attachment
from ptychopinn_plugin.host.attachment import library_of
from ptychopinn_plugin.host.settings import CONFIGS, DECIDED_ELSEWHERE, group_name, key_name
from ptychopinn_plugin.host.settings import _parameters as parameters_of
from ptychopinn_plugin.result import Epoch

from . import window as gui  # it chooses Qt's platform before Qt is imported
from .window import PINN, SUPERVISED, Window, pick

from PyQt5.QtCore import QLocale, QPoint, Qt  # isort: skip
from PyQt5.QtGui import QImage  # isort: skip
from PyQt5.QtTest import QTest  # isort: skip
from PyQt5.QtWidgets import QCheckBox, QComboBox, QLabel, QLineEdit, QSpinBox, QToolButton, QWidget  # isort: skip

# Stop, and the end of a run, are seen at the ticks of the host's timer.
TICK_S = 1.0
SETTINGS = [(c, f, s) for c in CONFIGS for f, s in declared(c) if f.name not in DECIDED_ELSEWHERE]
ADVANCED = [f'{c.__name__}.{f.name}' for c, f, s in SETTINGS if s.advanced]


@pytest.fixture(scope='session')
def qt():
    """The one QApplication."""
    return gui.application()


@pytest.fixture
def dialogs(monkeypatch):
    """Collect the exception dialogs, which would wait for a click for ever."""
    from ptychodus.view.widgets import ExceptionDialog

    shown = []
    monkeypatch.setattr(ExceptionDialog, 'show_exception', lambda *a: shown.append(a))
    return shown


@pytest.fixture(autouse=True)
def no_error_in_a_slot(monkeypatch):
    """Collect what leaves a slot; without a hook PyQt would abort the process."""
    errors = []
    monkeypatch.setattr(sys, 'excepthook', lambda *e: errors.append(''.join(format_exception(*e))))
    yield
    assert errors == []


@pytest.fixture
def window(qt, core, host_folder, dialogs):
    """The main window with the small scan and our first algorithm."""
    made = Window(core)
    made.open_scan(host_folder)
    made.choose(PINN)
    yield made
    made.close()
    assert dialogs == []


@pytest.fixture
def model_file(toy_model, tmp_path):
    """A model file."""
    path = tmp_path / 'other' / 'given.h5.zip'
    path.parent.mkdir()
    archive.save_model(toy_model, path)
    return path


@pytest.fixture(scope='session')
def toy_model(small_scan, tmp_path_factory):
    """Two epochs of the toy."""
    import toy_backend

    return toy_backend.ToyBackend().train(
        [small_scan], [], config.ModelConfig(architecture='autoencoder', pattern_size_px=32),
        config.TrainingConfig(epochs=2),
        config.RuntimeConfig(), tmp_path_factory.mktemp('toy'), lambda e: None, lambda s: None,
    )  # fmt: skip


def reconstructors(window):
    return list(library_of(window.model.processing_core.processing_api))


def parameter(window, name):
    class_name, field = name.split('.')
    group = group_name(getattr(config, class_name))
    return window.model.settings_registry[group].parameters()[key_name(field)]


def history(count):
    return tuple(Epoch(n, count, 1 / n, 2 / n, 1e-3, 0.1) for n in range(1, count + 1))


@pytest.fixture
def training_folder(host_folder, tmp_path):
    """A folder with the scan, to write the model to."""
    folder = tmp_path / 'training'
    folder.mkdir()
    for path in host_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


# --- What is shown


@pytest.mark.parametrize('key', [PINN, SUPERVISED])
def test_the_panel_shows_every_declared_setting_once(window, key):
    window.choose(key)
    for class_, field, setting in SETTINGS:
        name = f'{class_.__name__}.{field.name}'
        (editor,) = window.panel.findChildren(QWidget, name)
        assert setting.help in editor.toolTip()
        assert shown_value(editor) == parameter(window, name).get_value(), name
        if isinstance(editor, QSpinBox):
            assert (editor.minimum(), editor.maximum()) == (setting.low, setting.high)
        if setting.choices:
            items = [editor.itemData(i) for i in range(editor.count())]
            assert items == list(setting.choices)
    texts = [label.text() for label in window.panel.findChildren(QLabel)]
    boxes = [box.text() for box in window.panel.findChildren(QCheckBox)]
    for _, field, setting in SETTINGS:
        unit = f' [{setting.unit}]' if setting.unit else ''
        is_box = isinstance(field.default, bool)
        wanted = f'{setting.label}{unit}' + ('' if is_box else ':')
        assert wanted in (boxes if is_box else texts)
    shown = {w.objectName() for w in window.panel.findChildren(QWidget)}
    assert not any(name.endswith(DECIDED_ELSEWHERE) for name in shown)


def shown_value(editor):
    if isinstance(editor, QComboBox):
        return editor.currentData()
    if isinstance(editor, QCheckBox):
        return editor.isChecked()
    if isinstance(editor, QSpinBox):
        return editor.value()
    return float(editor.findChild(QLineEdit).text())


def test_the_parts_come_in_order(window):
    tops = [
        window.label('model_summary'),
        window.editor('RuntimeConfig.backend'),
        *(window.box(title) for title in ('Model', 'Training', 'Reconstruction', 'Runtime')),
        window.box('Training loss'),
    ]
    heights = [w.mapTo(window.panel, w.rect().topLeft()).y() for w in tops]
    assert heights == sorted(heights)
    assert len(set(heights)) == len(heights)


def test_advanced_settings_are_folded_away(window):
    assert ADVANCED
    for name in ADVANCED:
        assert not window.editor(name).isVisible()
    assert window.editor('TrainingConfig.epochs').isVisible()
    buttons = [b for b in window.panel.findChildren(QToolButton) if b.text() == 'Advanced']
    assert len(buttons) == len({name.split('.')[0] for name in ADVANCED})
    for button in buttons:
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)
    assert all(window.editor(name).isVisible() for name in ADVANCED)
    QTest.mouseClick(buttons[0], Qt.MouseButton.LeftButton)
    assert not window.editor(ADVANCED[0]).isVisible()


def test_a_new_setting_of_any_type_appears_by_itself(qt):
    """Nothing is listed by hand."""
    from ptychodus.api.parameters import ParameterGroup

    from ptychopinn_plugin.host.panel.setting_groups import SettingGroup

    class_ = make_dataclass('NewConfig', [
        ('size', int, config.setting(5, 'Size', 'Help.', unit='px', low=1)),
        ('free', int, config.setting(-5, 'Free', 'Help.')),
        ('shift', float, config.setting(-1.5, 'Shift', 'Help.', unit='um')),
        ('title', str, config.setting('x', 'Title', 'Help.', advanced=True)),
        ('flag', bool, config.setting(True, 'Flag', 'Help.')),
    ])  # fmt: skip
    parameters = parameters_of(ParameterGroup(), class_)
    settings = type('S', (), {'parameter': lambda self, c, name: parameters[name]})()
    group = SettingGroup(settings, class_)
    box = group.get_widget()
    assert box.title() == 'New'
    edited = {'size': 7, 'free': -9, 'shift': -0.25, 'title': 'a', 'flag': False}
    for name, value in edited.items():
        parameters[name].set_value(value)
        editor = box.findChild(QWidget, f'NewConfig.{name}')
        shown = editor.text() if isinstance(editor, QLineEdit) else shown_value(editor)
        assert shown == (str(value) if isinstance(editor, QLineEdit) else value)
    type_in(box.findChild(QWidget, 'NewConfig.shift').findChild(QLineEdit), '-2.5')
    type_in(box.findChild(QLineEdit, 'NewConfig.free'), '-12')
    type_in(box.findChild(QLineEdit, 'NewConfig.title'), 'b')
    assert [parameters[n].get_value() for n in ('shift', 'free', 'title')] == [-2.5, -12, 'b']
    labels = [label.text() for label in box.findChildren(QLabel)]
    assert {'Size [px]:', 'Free:', 'Shift [um]:', 'Title:'} <= set(labels)
    tips = [box.findChild(QWidget, f'NewConfig.{n}').toolTip() for n in ('size', 'shift')]
    assert tips == ['Help.\nAt least 1 px', 'Help.\nIn um']


def test_the_back_ends_say_what_is_installed(qt, core, monkeypatch):
    monkeypatch.setattr(registry, 'missing', lambda name: [name] * (name == 'tensorflow'))
    with contextlib.closing(Window(core)) as window:
        window.choose(PINN)
        combo = window.editor('RuntimeConfig.backend')
        texts = [combo.itemText(i) for i in range(combo.count())]
        assert texts == ['auto', 'torch', 'tensorflow (not installed)']
        pick(combo, 'tensorflow (not installed)')
        assert parameter(window, 'RuntimeConfig.backend').get_value() == 'tensorflow'
        note = window.label('backend_note').text()
        assert note == (
            'Installed: torch. auto takes torch.\n'
            "tensorflow is not installed. Run: pip install 'ptychopinn-plugin[tensorflow]'"
        )


def test_without_any_back_end_both_pip_lines_are_shown(monkeypatch):
    from ptychopinn_plugin.host.panel.backend_choice import installed_text

    monkeypatch.setattr(registry, 'missing', lambda name: [name])
    first, *lines = installed_text().splitlines()
    assert first == 'No back end is installed.'
    assert [line.split('Run: ')[1] for line in lines] == [
        entry.pip for entry in registry.BACKENDS.values()
    ]


PROGRAM = """
import json, sys
sys.path.insert(0, {tests!r})
def main():
    from ptychodus.model import ModelCore
    from host.window import PINN, Window, application
    application()
    with ModelCore() as model:
        window = Window(model)
        window.choose(PINN)
        shown = window.editor('TrainingConfig.epochs').isVisible()
        window.close()
    heavy = ('torch', 'lightning', 'tensorflow', 'keras')
    print(json.dumps([shown, [m for m in heavy if m in sys.modules]]))
if __name__ == '__main__':
    main()
"""


def test_the_window_imports_no_framework():
    """Also: the panel comes by the hook alone, where nobody has imported the controller yet."""
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM.format(tests=str(Path(__file__).parents[1]))],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [True, []]


# --- Settings, both ways


def test_a_spin_box_changes_the_setting_and_back(window):
    epochs = window.editor('TrainingConfig.epochs')
    epochs.setValue(77)
    assert parameter(window, 'TrainingConfig.epochs').get_value() == 77
    parameter(window, 'TrainingConfig.epochs').set_value(12)
    assert epochs.value() == 12
    window.choose(SUPERVISED)
    assert window.editor('TrainingConfig.epochs').value() == 12  # one setting, two panels


def test_the_largest_seed_fits_its_spin_box(window):
    seed = window.editor('TrainingConfig.seed')
    parameter(window, 'TrainingConfig.seed').set_value(2**31 - 1)
    assert seed.value() == 2**31 - 1
    seed.setValue(3)
    seed.setValue(2**31 - 1)
    assert parameter(window, 'TrainingConfig.seed').get_value() == 2**31 - 1


def test_the_other_editors_change_their_settings(window):
    box = window.editor('ReconstructionConfig.update_probe')
    QTest.mouseClick(box, Qt.MouseButton.LeftButton, pos=QPoint(8, box.height() // 2))
    assert parameter(window, 'ReconstructionConfig.update_probe').get_value() is True
    pick(window.editor('ReconstructionConfig.start'), 'flat')
    assert parameter(window, 'ReconstructionConfig.start').get_value() == 'flat'
    rate = window.editor('TrainingConfig.learning_rate').findChild(QLineEdit)
    type_in(rate, '2e-4')
    assert parameter(window, 'TrainingConfig.learning_rate').get_value() == 2e-4
    type_in(rate, '-0.5')  # its range has no minus
    assert parameter(window, 'TrainingConfig.learning_rate').get_value() == 0.5
    type_in(rate, '7')  # above its range
    assert parameter(window, 'TrainingConfig.learning_rate').get_value() == 1.0
    assert float(rate.text()) == 1.0


def type_in(edit, text):
    edit.selectAll()
    QTest.keyClicks(edit, text)
    QTest.keyClick(edit, Qt.Key.Key_Return)


@pytest.fixture
def language(request):
    """Let the desktop speak another language."""
    before = QLocale()
    QLocale.setDefault(QLocale(request.param))
    yield
    QLocale.setDefault(before)


@pytest.mark.parametrize(
    ('language', 'typed', 'value'),
    [
        ('en_US', '0.002', 0.002),
        ('en_US', '0,002', 0.002),
        ('de_DE', '0,002', 0.002),
        ('de_DE', '0.002', 0.002),
        ('de_DE', '2e-4', 0.0002),
        ('fr_FR', '0,002', 0.002),
        ('fr_FR', '0.002', 0.002),
        ('ar_EG', '0.002', 0.002),
    ],
    indirect=['language'],
)
def test_decimal_numbers_in_other_languages(language, window, typed, value):
    """What the host's own line takes there aborts Ptychodus, or is another number."""
    rate = window.editor('TrainingConfig.learning_rate').findChild(QLineEdit)
    assert rate.hasAcceptableInput()
    type_in(rate, typed)
    assert parameter(window, 'TrainingConfig.learning_rate').get_value() == value
    assert float(rate.text()) == value


@pytest.mark.parametrize('language', ['en_US', 'de_DE', 'fr_FR', 'ar_EG'], indirect=True)
def test_whole_numbers_in_other_languages(language, window):
    for name in ('TrainingConfig.patience', 'TrainingConfig.seed'):
        editor = window.editor(name)
        editor.setValue(12345)
        line = editor.findChild(QLineEdit)
        shown = line.text()
        type_in(line, '7')
        assert parameter(window, name).get_value() == 7
        line.setText(shown)
        QTest.keyClick(line, Qt.Key.Key_Return)
        assert parameter(window, name).get_value() == 12345


def test_settings_are_saved_and_come_back(window, tmp_path):
    ini = tmp_path / 'settings.ini'
    window.editor('TrainingConfig.epochs').setValue(33)
    pick(window.editor('TrainingConfig.schedule'), 'plateau')
    window.model.settings_registry.save_settings(ini)
    window.editor('TrainingConfig.epochs').setValue(44)
    pick(window.editor('TrainingConfig.schedule'), 'constant')
    window.choose(SUPERVISED)
    window.model.settings_registry.open_settings(ini)
    assert window.algorithms.currentText() == PINN
    assert window.editor('TrainingConfig.epochs').value() == 33
    assert window.editor('TrainingConfig.schedule').currentData() == 'plateau'


def test_an_unknown_choice_is_shown_and_kept(window, tmp_path):
    ini = tmp_path / 'settings.ini'
    window.model.settings_registry.save_settings(ini)
    text = ini.read_text()
    assert 'cosine' in text
    ini.write_text(text.replace('cosine', 'cosinus'))
    window.model.settings_registry.open_settings(ini)
    combo = window.editor('TrainingConfig.schedule')
    assert combo.currentText() == 'cosinus (unknown)'
    assert parameter(window, 'TrainingConfig.schedule').get_value() == 'cosinus'
    pick(combo, 'cosine')
    assert parameter(window, 'TrainingConfig.schedule').get_value() == 'cosine'


# --- Runs


@pytest.mark.usefixtures('toy_child')
def test_train_then_infer(window, training_folder, monkeypatch):
    monkeypatch.setenv('TOY_STEP_S', '0.1')
    assert not window.status.stop_button.isVisible()
    window.editor('TrainingConfig.epochs').setValue(4)
    window.answer(folder=training_folder)
    assert window.button('Infer').isEnabled()  # a flat start needs no model
    pick(window.editor('ReconstructionConfig.start'), 'network')
    pick(window.editor('ModelConfig.architecture'), 'autoencoder')
    assert not window.button('Infer').isEnabled()
    window.click('Train')
    window.wait(window.status.stop_button.isVisible)
    window.wait(lambda: 0 < window.status.progress_bar.value() < 400)
    assert window.status.progress_bar.maximum() == 400
    assert not window.button('Infer').isEnabled()
    lines = window.box('Training loss').axes.get_lines
    window.wait(lambda: len(lines()) > 0 and 0 < len(lines()[0].get_xdata()) < 4)  # live
    window.wait(lambda: not window.is_processing())
    begun = time.monotonic()
    window.wait(window.button('Infer').isEnabled)
    window.wait(lambda: not window.status.stop_button.isVisible())
    assert_within(2 * TICK_S, begun)
    assert '4 epochs with toy' in window.label('model_summary').text()
    assert [line.get_label() for line in lines()] == ['Training', 'Validation']
    assert [list(line.get_ydata()) for line in lines()] == [
        pytest.approx([k / n for n in range(1, 5)]) for k in (1, 2)
    ]
    before = window.products.count()
    window.infer(sweeps=3, seconds=20)
    assert window.products.count() == before + 1
    assert PINN in window.products.currentText()
    assert window.plotted_losses() == [0, 1, 2, 3]


@pytest.mark.usefixtures('toy_child')
def test_stop_keeps_the_model_of_the_finished_epochs(window, training_folder, monkeypatch):
    monkeypatch.setenv('TOY_STEP_S', '0.05')
    window.editor('TrainingConfig.epochs').setValue(1000)
    window.answer(folder=training_folder)
    window.click('Train')
    window.wait(lambda: len(reconstructors(window)[0].card.history) >= 2)
    window.wait(window.status.stop_button.isVisible)
    QTest.mouseClick(window.status.stop_button, Qt.MouseButton.LeftButton)
    # The child writes the model and the loss curve, for which it imports matplotlib.
    begun = time.monotonic()
    window.wait(lambda: not window.is_processing())
    assert_within(3, begun)
    begun = time.monotonic()
    window.wait(lambda: not window.status.stop_button.isVisible())
    assert_within(2 * TICK_S, begun)
    model = archive.load_model(training_folder / 'model.h5.zip')
    assert 2 <= len(model.history) < 1000
    assert reconstructors(window)[0].card.path == training_folder / 'model.h5.zip'
    assert f'{len(model.history)} epochs' in window.label('model_summary').text()
    assert window.button('Infer').isEnabled()


@pytest.mark.usefixtures('toy_child')
@pytest.mark.parametrize('step_s', ['0.5', '0.005'], ids=['slow', 'fast'])
def test_stop_ends_an_inference(window, monkeypatch, step_s):
    """Also sweeps that come faster than the host can show them, a third of a second each."""
    monkeypatch.setenv('TOY_STEP_S', step_s)
    window.editor('ReconstructionConfig.sweeps').setValue(4000)
    window.click('Infer')
    window.wait(window.status.stop_button.isVisible)
    QTest.mouseClick(window.status.stop_button, Qt.MouseButton.LeftButton)
    assert window.is_processing()
    begun = time.monotonic()
    window.wait(lambda: not window.is_processing())
    assert_within(2 * TICK_S, begun)
    window.wait(lambda: not window.status.stop_button.isVisible())


@pytest.mark.usefixtures('toy_child')
def test_fast_sweeps_do_not_freeze_the_window(window, monkeypatch):
    """It is spared the sweeps in between; the last one and all losses are there."""
    monkeypatch.setenv('TOY_STEP_S', '0.02')
    window.editor('ReconstructionConfig.sweeps').setValue(150)
    repository = window.model.product_core.product_repository
    lengths = set()  # of the losses: one more with every sweep
    observer = Mock()
    observer.handle_losses_changed.side_effect = lambda index, losses: lengths.add(len(losses))
    repository.add_observer(observer)
    window.click('Infer')
    shown = [0]

    def done():
        shown.append(len(lengths - {0}))
        return len(repository) == 2 and len(repository[1].get_losses()) == 151

    window.wait(done)
    # Between two looks at the window's events: a picture, and the last one, which waits for none.
    assert 1 <= np.diff(shown).max() <= 2
    assert shown[-1] < 151


@pytest.mark.usefixtures('toy_child')
def test_an_error_reaches_the_status_pane(window, tmp_path):
    empty = tmp_path / 'empty'
    empty.mkdir()
    window.answer(folder=empty)
    window.click('Train')
    window.wait(lambda: str(empty) in window.text)
    assert 'training' in window.text.lower()
    window.wait(lambda: not window.is_processing())
    assert window.button('Train').isEnabled()


@pytest.mark.usefixtures('toy_child')
def test_closing_during_a_training_does_not_hang(qt, host_folder, training_folder, monkeypatch):
    from ptychodus.model import ModelCore

    monkeypatch.setenv('TOY_STEP_S', '0.2')
    assert attachment.attach()
    with ModelCore(log_level=logging.WARNING) as model:
        window = Window(model)
        window.open_scan(host_folder)
        window.choose(PINN)
        window.editor('TrainingConfig.epochs').setValue(1000)
        window.answer(folder=training_folder)
        window.click('Train')
        window.wait(lambda: window.status.progress_bar.value() > 0)
        window.close()
        begun = time.monotonic()
    assert_within(5, begun)


# --- The Infer button


def test_infer_follows_model_start_and_product(window, model_file):
    start = parameter(window, 'ReconstructionConfig.start')
    infer = window.button('Infer')
    start.set_value('network')
    assert not infer.isEnabled()
    start.set_value('flat')
    assert infer.isEnabled()
    start.set_value('network')
    reconstructors(window)[0].load_model_from_file(model_file)
    assert infer.isEnabled()
    window.choose(SUPERVISED)  # it has no model
    assert not infer.isEnabled()
    window.choose(PINN)
    assert infer.isEnabled()
    window.products.setCurrentIndex(-1)
    assert not infer.isEnabled()
    assert not window.button('Train').isEnabled()


def test_choosing_a_product_does_not_enable_infer_without_a_model(window, host_folder):
    parameter(window, 'ReconstructionConfig.start').set_value('network')
    window.open_scan(host_folder)
    window.products.setCurrentIndex(1)
    assert window.button('Train').isEnabled()
    assert not window.button('Infer').isEnabled()


def test_a_model_without_a_product_does_not_enable_infer(qt, core, model_file):
    with contextlib.closing(Window(core)) as window:
        window.choose(PINN)
        window.answer(open=model_file)
        window.controller._processing_controller._load_model_action.trigger()
        assert reconstructors(window)[0].is_model_loaded()
        assert not window.button('Infer').isEnabled()


def test_other_libraries_are_left_alone(window, model_file):
    parameter(window, 'ReconstructionConfig.start').set_value('network')
    others = [k for k in (window.algorithms.itemText(i) for i in range(window.algorithms.count()))
              if k not in (PINN, SUPERVISED)]  # fmt: skip
    for key in others[:1]:
        window.choose(key)
        button = window.controller._processing_controller._actions_view.reconstruct_button
        for enabled in (True, False):
            button.setEnabled(enabled)
            reconstructors(window)[0].card.notify_observers()
            parameter(window, 'ReconstructionConfig.start').set_value('flat' if enabled else 'auto')
            assert button.isEnabled() is enabled


def test_a_host_without_the_buttons_logs_one_warning(window, caplog):
    library = library_of(window.model.processing_core.processing_api)
    attachment._watch(library, object())
    (record,) = caplog.records
    assert 'Infer may stay grey' in record.getMessage()


def test_a_panel_that_fails_is_a_label(window, monkeypatch, caplog):
    from ptychopinn_plugin.host.panel import PanelFactory, factory

    def broken(card):
        raise RuntimeError('no such font')

    monkeypatch.setattr(factory, 'LossPlot', broken)
    made = PanelFactory(library_of(window.model.processing_core.processing_api), window.files)
    label = made.create_view_controller('pinn')
    assert isinstance(label, QLabel)
    assert 'no such font' in label.text()
    assert 'no such font' in caplog.text


# --- Model files


def test_load_model_in_the_panel(window, model_file):
    assert window.label('model_summary').text() == 'No model is loaded.'
    assert not window.button('Save Model...').isEnabled()
    window.answer(open=model_file)
    window.click('Load Model...')
    assert '2 epochs with toy' in window.label('model_summary').text()
    assert window.button('Save Model...').isEnabled()
    window.wait(lambda: len(window.box('Training loss').axes.get_lines()) == 2)


def test_the_hosts_load_model_is_seen(window, model_file):
    window.answer(open=model_file)
    window.controller._processing_controller._load_model_action.trigger()
    assert '2 epochs with toy' in window.label('model_summary').text()


def test_save_model_adds_the_extension(window, model_file, tmp_path):
    reconstructors(window)[0].load_model_from_file(model_file)
    for name, written in (('a', 'a.h5.zip'), ('b.h5.zip', 'b.h5.zip'), ('v1.2', 'v1.2.h5.zip')):
        window.answer(save=tmp_path / name)
        window.click('Save Model...')
        assert len(archive.load_model(tmp_path / written).history) == 2
    window.answer(save=None)  # cancelled
    window.click('Save Model...')


def test_errors_of_load_and_save_are_shown(window, model_file, tmp_path, dialogs):
    reconstructors(window)[0].load_model_from_file(model_file)
    bad = tmp_path / 'bad.h5.zip'
    bad.write_bytes(b'no model')
    window.answer(open=bad, save=tmp_path / 'nowhere' / 'x' / 'm.h5.zip')
    window.click('Load Model...')
    (tmp_path / 'nowhere').write_text('a file, not a folder')
    window.click('Save Model...')
    assert [name for name, _ in dialogs] == ['Load Model', 'Save Model']
    assert '2 epochs with toy' in window.label('model_summary').text()
    dialogs.clear()


# --- The plot


def test_without_a_history_a_line_of_text_stands_there(window):
    box = window.box('Training loss')
    assert not box.canvas.isVisible()
    (text,) = box.findChildren(QLabel)
    assert text.isVisible()
    assert 'after the first epoch' in text.text()


def test_a_hidden_panel_draws_when_it_is_seen(window):
    card, box = reconstructors(window)[0].card, window.box('Training loss')
    window.choose(SUPERVISED)
    card.history = history(3)
    card.notify_observers()
    QTest.qWait(50)
    assert len(box.axes.get_lines()) == 0
    window.choose(PINN)
    window.wait(lambda: len(box.axes.get_lines()) == 2)
    assert box.canvas.isVisible()
    assert box.axes.get_yscale() == 'log'
    assert box.axes.get_xlabel() == 'Epoch'
    assert [t.get_text() for t in box.axes.get_legend().get_texts()] == ['Training', 'Validation']


@pytest.mark.parametrize('losses', [(0.0, 1.0), (0.0, 0.0), (-0.1, -0.2), (0.1, -0.2)])
def test_losses_that_no_logarithmic_axis_shows_have_a_linear_one(window, losses):
    """Those of the architecture unrolled lie below zero; without validation its losses are NaN."""
    card, box = reconstructors(window)[0].card, window.box('Training loss')
    nan = float('nan')
    card.history = tuple(Epoch(n, 2, v, nan, 1e-3, 0.1) for n, v in enumerate(losses, 1))
    card.notify_observers()
    window.wait(lambda: box.axes.get_xlabel() == 'Epoch')
    (line,) = box.axes.get_lines()
    assert tuple(line.get_ydata()) == losses
    assert [t.get_text() for t in box.axes.get_legend().get_texts()] == ['Training']
    low, high = box.axes.get_ylim()
    assert low < min(losses) <= max(losses) < high
    assert box.axes.get_yscale() == 'linear'


# --- Pictures


@pytest.mark.slow
def test_the_pictures_of_the_documentation_with_pytorch(window, training_folder, tmp_path):
    """What docs/make_screenshots.py does, on a small scan."""
    panel, result = tmp_path / 'panel.png', tmp_path / 'infer.png'
    window.train(training_folder, epochs=2, filters=1, seconds=120)
    window.infer(sweeps=3, seconds=60)
    window.scroll_area.ensureWidgetVisible(window.box('Training loss'))
    window.picture(panel)
    assert 'epochs with torch' in window.label('model_summary').text()
    canvas = window.box('Training loss').canvas
    corner = canvas.mapTo(window.view, canvas.rect().topLeft())
    assert colours(panel, corner.x(), corner.y(), canvas.width(), canvas.height()) > 30
    window.show_object('Amplitude')
    window.picture(result)
    image = window.view.object_image_view.image_widget
    corner = image.mapTo(window.view, image.rect().topLeft())
    assert colours(result, corner.x(), corner.y(), image.width(), image.height()) > 30


def colours(path, *rectangle):
    """Return how many colours a part of a picture has."""
    part = QImage(str(path)).copy(*rectangle)
    assert not part.isNull()
    return len({part.pixel(x, y) for x in range(part.width()) for y in range(part.height())})
