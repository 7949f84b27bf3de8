"""What the host asks for a panel, and how one is put together."""

from __future__ import annotations

import logging

from ptychodus.controller.data import FileDialogFactory
from ptychodus.controller.parameters import ParameterViewController, ParameterWidget
from ptychodus.controller.processing import ReconstructorViewControllerFactory
from PyQt5.QtWidgets import QLabel, QVBoxLayout, QWidget

from ..library import PluginLibrary
from ..reconstructor import NeuralReconstructor
from ..settings import CONFIGS
from .backend_choice import BackendChoice
from .loss_plot import LossPlot
from .model_line import ModelLine
from .setting_groups import SettingGroup

logger = logging.getLogger('ptychopinn_plugin')


class PanelFactory(ReconstructorViewControllerFactory):
    """Makes the panels of PINN and Supervised, which share their settings."""

    def __init__(self, library: PluginLibrary, file_dialog_factory: FileDialogFactory) -> None:
        super().__init__()
        self._library, self._file_dialogs = library, file_dialog_factory
        library.link.has_window = True

    @property
    def name(self) -> str:
        """The library that the panels belong to."""
        return self._library.name

    def create_view_controller(self, reconstructor_name: str) -> QWidget:
        """Return the panel of a reconstructor by its name in any case; a label if it fails."""
        try:
            return self._panel(reconstructor_name)
        except Exception as error:  # Ptychodus must start
            text = f'PtychoPINN-Plugin has no panel: {type(error).__name__}: {error}'
            logger.warning('%s. Run: ptychopinn-plugin doctor', text)
            logger.debug('Details', exc_info=error)
            return QLabel(text)

    def _panel(self, reconstructor_name: str) -> QWidget:
        found = {r.name.casefold(): r for r in self._library}
        return self._filled(found[reconstructor_name.casefold()])

    def _filled(self, reconstructor: NeuralReconstructor) -> QWidget:
        settings = self._library.settings
        parts: list[ParameterViewController] = [
            ModelLine(reconstructor, self._file_dialogs),
            BackendChoice(settings),
            *(SettingGroup(settings, config) for config in CONFIGS),
            LossPlot(reconstructor.card),
        ]
        panel = ParameterWidget(parts)  # keeps them: an observer is held by nobody else
        layout = QVBoxLayout(panel)
        for part in parts:
            layout.addWidget(part.get_widget())
        layout.addStretch()
        return panel
