"""The settings of one configuration class in a box, the advanced ones folded away."""

from __future__ import annotations

from ptychodus.controller.parameters import ParameterViewController
from PyQt5.QtCore import Qt
from PyQt5.QtWidgets import QFormLayout, QGroupBox, QLabel, QToolButton, QVBoxLayout, QWidget

from ...config import RuntimeConfig, declared
from ..settings import DECIDED_ELSEWHERE, PluginSettings
from .editors import editor_of, label_of, tool_tip

SHOWN_ELSEWHERE = {(RuntimeConfig, 'backend')}  # the back end has a place of its own


class SettingGroup(ParameterViewController):
    """A box with every declared setting of `config`, in the order of declaration."""

    def __init__(self, settings: PluginSettings, config: type) -> None:
        super().__init__()
        self._editors: list[ParameterViewController] = []
        plain, advanced = QFormLayout(), QFormLayout()
        for field, setting in declared(config):
            if field.name in DECIDED_ELSEWHERE or (config, field.name) in SHOWN_ELSEWHERE:
                continue
            editor = editor_of(settings.parameter(config, field.name), field, setting)
            editor.get_widget().setObjectName(f'{config.__name__}.{field.name}')
            self._editors.append(editor)
            is_check_box = isinstance(field.default, bool)
            label = QLabel('' if is_check_box else f'{label_of(setting)}:')
            label.setToolTip(tool_tip(setting))
            form = advanced if setting.advanced else plain
            form.addRow(label, editor.get_widget())
        self._widget = QGroupBox(config.__name__.removesuffix('Config'))
        layout = QVBoxLayout(self._widget)
        layout.addLayout(plain)
        if advanced.rowCount():
            layout.addWidget(Fold('Advanced', advanced))

    def get_widget(self) -> QWidget:
        """Return the box."""
        return self._widget


class Fold(QWidget):
    """A form behind an arrow, closed at first."""

    def __init__(self, title: str, form: QFormLayout) -> None:
        super().__init__()
        self.button, self.body = QToolButton(), QWidget()
        self.button.setText(title)
        self.button.setCheckable(True)
        self.button.setAutoRaise(True)
        self.button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.button.toggled.connect(self._open)
        form.setContentsMargins(0, 0, 0, 0)
        self.body.setLayout(form)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.button)
        layout.addWidget(self.body)
        self._open(False)

    def _open(self, is_open: bool) -> None:
        arrow = Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow
        self.button.setArrowType(arrow)
        self.body.setVisible(is_open)
