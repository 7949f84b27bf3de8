"""The choice of the back end, and what is installed. Asking imports no framework."""

from __future__ import annotations

from ptychodus.controller.parameters import ParameterViewController
from PyQt5.QtCore import Qt
from PyQt5.QtWidgets import QFormLayout, QLabel, QVBoxLayout, QWidget

from ...backends import registry
from ...config import RuntimeConfig, declared
from ..settings import PluginSettings
from .editors import ChoiceViewController, label_of, tool_tip


class BackendChoice(ParameterViewController):
    """A combo box, and a line that says what `auto` takes and how to install what is missing."""

    def __init__(self, settings: PluginSettings) -> None:
        super().__init__()
        setting = next(s for field, s in declared(RuntimeConfig) if field.name == 'backend')
        self._choice = ChoiceViewController(
            settings.parameter(RuntimeConfig, 'backend'),
            {name: _text_of(name) for name in setting.choices},
            tool_tip=tool_tip(setting),
        )
        self._choice.get_widget().setObjectName('RuntimeConfig.backend')
        note = QLabel(installed_text())
        note.setObjectName('backend_note')
        note.setWordWrap(True)
        # The pip line is there to be copied.
        note.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        form = QFormLayout()
        form.addRow(f'{label_of(setting)}:', self._choice.get_widget())
        self._widget = QWidget()
        layout = QVBoxLayout(self._widget)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(form)
        layout.addWidget(note)

    def get_widget(self) -> QWidget:
        """Return the combo box with its line."""
        return self._widget


def installed_text() -> str:
    """Return what is installed, what `auto` takes, and a pip line for each that is missing."""
    ready = registry.available()
    taken = f'auto takes {ready[0]}.' if ready else 'No back end is installed.'
    absent = [name for name in registry.BACKENDS if name not in ready]
    lines = [f'{name} is not installed. Run: {registry.BACKENDS[name].pip}' for name in absent]
    installed = [f'Installed: {", ".join(ready)}.'] if ready else []
    return '\n'.join([' '.join([*installed, taken]), *lines])


def _text_of(name: str) -> str:
    absent = name in registry.BACKENDS and registry.missing(name)
    return f'{name} (not installed)' if absent else name
