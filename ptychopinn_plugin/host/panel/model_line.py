"""The model that the reconstructor holds, and its Load and Save, which the host's window lacks in
part.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from ptychodus.api.observer import Observable, Observer
from ptychodus.controller.data import FileDialogFactory
from ptychodus.controller.parameters import ParameterViewController
from ptychodus.view.widgets import ExceptionDialog
from PyQt5.QtCore import Qt
from PyQt5.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from ..model_card import EXTENSION
from ..reconstructor import NeuralReconstructor

logger = logging.getLogger(__name__)


class ModelLine(ParameterViewController, Observer):
    """The summary of the model card beside two buttons."""

    def __init__(
        self, reconstructor: NeuralReconstructor, file_dialog_factory: FileDialogFactory
    ) -> None:
        super().__init__()
        self._reconstructor, self._file_dialogs = reconstructor, file_dialog_factory
        self._summary = QLabel()
        self._summary.setObjectName('model_summary')
        self._summary.setWordWrap(True)
        self._summary.setTextFormat(Qt.TextFormat.PlainText)  # file names are not markup
        self._load, self._save = QPushButton('Load Model...'), QPushButton('Save Model...')
        self._load.clicked.connect(self._load_model)
        self._save.clicked.connect(self._save_model)
        self._widget = self._arranged()
        self._show_card()
        reconstructor.card.add_observer(self)

    def get_widget(self) -> QWidget:
        """Return the line."""
        return self._widget

    def _arranged(self) -> QWidget:
        widget, buttons = QWidget(), QVBoxLayout()
        buttons.addWidget(self._load)
        buttons.addWidget(self._save)
        layout = QHBoxLayout(widget)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._summary, stretch=1)
        layout.addLayout(buttons)
        return widget

    def _show_card(self) -> None:
        self._summary.setText(self._reconstructor.card.summary())
        self._save.setEnabled(self._reconstructor.is_model_loaded())

    def _load_model(self) -> None:
        name_filter = self._reconstructor.get_model_file_filter()
        path, _ = self._file_dialogs.get_open_file_path(
            self._widget, 'Load Model', name_filters=[name_filter], selected_name_filter=name_filter
        )
        if path:
            _attempt('Load Model', self._reconstructor.load_model_from_file, path)

    def _save_model(self) -> None:
        name_filter = self._reconstructor.get_model_file_filter()
        path, _ = self._file_dialogs.get_save_file_path(
            self._widget, 'Save Model', name_filters=[name_filter], selected_name_filter=name_filter
        )
        if path:
            _attempt('Save Model', self._reconstructor.save_model, with_extension(path))

    def _update(self, observable: Observable) -> None:
        if observable is self._reconstructor.card:
            self._show_card()


def with_extension(path: Path) -> Path:
    """Return the path of a model file, with the extension that a user left out."""
    return path if path.name.endswith(EXTENSION) else path.with_name(path.name + EXTENSION)


def _attempt(name: str, action: Callable[[Path], None], path: Path) -> None:
    try:
        action(path)
    except Exception as error:  # one that leaves a slot would end Ptychodus
        logger.debug('%s', name, exc_info=error)  # the reconstructor has logged the error
        ExceptionDialog.show_exception(name, error)
