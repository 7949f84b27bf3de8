"""Ptychodus's real main window, as its `__main__` builds it, and what a user does in it.

For the tests and for docs/make_screenshots.py.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

os.environ.setdefault('QT_QPA_PLATFORM', 'offscreen')  # before Qt is imported

from ptychodus.controller import ControllerCore
from ptychodus.view import ViewCore
from PyQt5.QtCore import QCoreApplication, QEvent, Qt
from PyQt5.QtTest import QTest
from PyQt5.QtWidgets import (
    QApplication,
    QComboBox,
    QGroupBox,
    QLabel,
    QPushButton,
    QScrollArea,
    QStackedWidget,
    QWidget,
)

PINN, SUPERVISED = 'ptychopinn-plugin_pinn', 'ptychopinn-plugin_supervised'


def application():
    """Return the one QApplication of this process."""
    return QApplication.instance() or QApplication(['ptychodus'])


class Window:
    """The window of a running `ModelCore`, on its Processing page."""

    def __init__(self, model, size=(1400, 1000)):
        self.application = application()
        self.model = model
        self.view = ViewCore()
        self.controller = ControllerCore(model, self.view)
        self.controller.show_main_window('Ptychodus')
        self.view.resize(*size)
        self.go_to(self.view.processing_action)

    @property
    def files(self):
        """The host's file dialogs, to be answered by a test."""
        return self.controller._file_dialog_factory

    def answer(self, **paths):
        """Answer the file dialogs: open=, save=, folder=."""
        if 'open' in paths:
            self.files.get_open_file_path = lambda *a, **k: (paths['open'], '')
        if 'save' in paths:
            self.files.get_save_file_path = lambda *a, **k: (paths['save'], '')
        if 'folder' in paths:
            self.files.get_existing_directory_path = lambda *a, **k: paths['folder']

    def open_scan(self, folder: Path):
        """Open diffraction.h5 and product.h5 of a folder."""
        workflow = self.model.workflow_api
        diffraction = workflow.load_assembled_diffraction_data(folder / 'diffraction.h5')
        product = workflow.load_product(folder / 'product.h5', diffraction=diffraction)
        self.wait(lambda: self.products.currentIndex() >= 0)
        return product

    def go_to(self, action):
        """Choose a page in the navigation bar."""
        action.trigger()
        QTest.qWait(1)

    def choose(self, key):
        """Choose an algorithm in the combo box, as a user does."""
        pick(self.algorithms, key)

    @property
    def algorithms(self) -> QComboBox:
        """The combo box with the algorithms."""
        return self._combo(lambda box: box.findText(PINN) >= 0)

    @property
    def products(self) -> QComboBox:
        """The combo box with the products."""
        return self._combo(lambda box: box is not self.algorithms)

    def _combo(self, wanted):
        inside = self.scroll_area.findChildren(QComboBox)
        boxes = self.view.processing_view.findChildren(QComboBox)
        return next(b for b in boxes if b not in inside and wanted(b))

    @property
    def scroll_area(self) -> QScrollArea:
        """What the panels lie in."""
        return self.view.processing_view.findChild(QScrollArea)

    @property
    def panel(self):
        """The panel of the chosen algorithm."""
        return self.scroll_area.findChild(QStackedWidget).currentWidget()

    def editor(self, name):
        """Return the widget of a setting, by 'TrainingConfig.epochs'."""
        return self.panel.findChild(QWidget, name)

    def label(self, name) -> QLabel:
        """Return a label of the panel."""
        return self.panel.findChild(QLabel, name)

    def box(self, title) -> QGroupBox:
        """Return a group of the panel."""
        return next(b for b in self.panel.findChildren(QGroupBox) if b.title() == title)

    def button(self, text) -> QPushButton:
        """Return a button of the page that is not in a hidden panel."""
        buttons = self.view.findChildren(QPushButton)
        return next(b for b in buttons if b.text() == text and b.isVisibleTo(self.view))

    def click(self, text):
        """Click on a button with the mouse; it must be enabled."""
        button = self.button(text)
        assert button.isEnabled(), f'{text} is disabled'
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)

    @property
    def status(self):
        """The progress bar, the Stop button, the text and the plot at the right."""
        return self.view.processing_status_view

    @property
    def text(self) -> str:
        """What the status pane says."""
        return self.status.text_edit.toPlainText()

    def wait(self, condition, seconds=20.0):
        """Let the window live until the condition holds; return the seconds that took."""
        begun = time.perf_counter()
        while not condition():
            if time.perf_counter() - begun > seconds:
                raise TimeoutError(f'after {seconds} s; the status pane says:\n{self.text}')
            QTest.qWait(10)
        return time.perf_counter() - begun

    def is_processing(self) -> bool:
        """Tell whether the host's worker is at work."""
        return self.model.processing_core.processing_api.task_monitor.is_processing

    def train(self, folder: Path, *, epochs: int, filters: int, seconds: float):
        """Train on a folder to the end, by the Train button."""
        self.editor('TrainingConfig.epochs').setValue(epochs)
        self.editor('ModelConfig.n_filters_scale').setValue(filters)
        self.answer(folder=folder)
        self.click('Train')
        self.wait(lambda: f'{epochs} epochs with' in self.label('model_summary').text(), seconds)
        self.wait(lambda: not self.is_processing())
        self.wait(lambda: not self.status.stop_button.isVisible())

    def infer(self, *, sweeps: int, seconds: float):
        """Infer to the end, by the Infer button; the new product is the chosen one then."""
        self.editor('ReconstructionConfig.sweeps').setValue(sweeps)
        self.click('Infer')
        self.wait(lambda: len(self.plotted_losses()) == sweeps + 1, seconds)
        self.wait(lambda: not self.is_processing())

    def plotted_losses(self):
        """Return the epochs in the host's plot of the losses of the chosen product."""
        lines = self.status.axes.get_lines()
        return list(lines[0].get_xdata()) if lines else []

    def show_object(self, renderer: str):
        """Go to the object of the newest product: all of it, in one of the host's renderings."""
        self.go_to(self.view.object_action)
        tree = self.view.object_view.tree_view
        newest = tree.model().rowCount() - 1
        tree.setCurrentIndex(tree.model().index(newest, 0))
        ribbon = self.view.object_image_view.image_ribbon
        pick(ribbon.colormap_group_box.renderer_combo_box, renderer)
        QTest.qWait(200)
        ribbon.data_range_group_box.auto_button.click()
        ribbon.image_tools_group_box.home_button.click()
        QTest.qWait(200)

    def resize(self, size):
        """Give the window another size."""
        self.view.resize(*size)
        QTest.qWait(100)

    def picture(self, path: Path):
        """Write what is seen as PNG."""
        QTest.qWait(300)
        scroll_bar = self.status.text_edit.verticalScrollBar()
        scroll_bar.setValue(scroll_bar.maximum())
        QTest.qWait(100)
        assert self.view.grab().save(str(path))

    def close(self):
        """Close and delete the window, its timer and everything in it."""
        self.controller._run_tasks_timer.stop()
        self.view.close()
        self.view.deleteLater()
        QCoreApplication.sendPostedEvents(None, QEvent.DeferredDelete)
        self.application.processEvents()


def pick(box: QComboBox, text: str):
    """Choose an item of a combo box, as a user does: the host listens to `activated` only."""
    index = box.findText(text)
    assert index >= 0, f'{text!r} is not among {[box.itemText(i) for i in range(box.count())]}'
    box.setCurrentIndex(index)
    box.activated.emit(index)
    box.textActivated.emit(text)
