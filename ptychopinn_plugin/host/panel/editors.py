"""One editor per setting, by its type, bound to the host's parameter in both directions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field
from typing import Any

from ptychodus.api.observer import Observable, Observer
from ptychodus.api.parameters import Parameter
from ptychodus.controller.parameters import (
    CheckBoxParameterViewController,
    DecimalLineEditParameterViewController,
    IntegerLineEditParameterViewController,
    LineEditParameterViewController,
    ParameterViewController,
    SpinBoxParameterViewController,
)
from PyQt5.QtCore import QLocale
from PyQt5.QtGui import QDoubleValidator, QValidator
from PyQt5.QtWidgets import QComboBox, QLineEdit

from ...config import Setting


class ChoiceViewController(ParameterViewController, Observer):
    """A combo box whose texts may differ from the values.

    The host's own shows its first item for a value it does not know; this one shows the value.
    """

    def __init__(
        self, parameter: Parameter[str], texts: Mapping[str, str], *, tool_tip: str = ''
    ) -> None:
        super().__init__()
        self._parameter = parameter
        self._widget = QComboBox()
        self._widget.setToolTip(tool_tip)
        for value, text in texts.items():
            self._widget.addItem(text, value)
        self._show_value()
        self._widget.activated.connect(self._take_value)
        parameter.add_observer(self)

    def get_widget(self) -> QComboBox:
        """Return the combo box."""
        return self._widget

    def _take_value(self, index: int) -> None:
        self._parameter.set_value(self._widget.itemData(index))

    def _show_value(self) -> None:
        value = self._parameter.get_value()
        index = self._widget.findData(value)
        if index < 0:  # from an INI file edited by hand; a run refuses it and says why
            self._widget.addItem(f'{value} (unknown)', value)
            index = self._widget.count() - 1
        self._widget.setCurrentIndex(index)

    def _update(self, observable: Observable) -> None:
        if observable is self._parameter:
            self._show_value()


class DecimalValidator(QDoubleValidator):
    """Takes numbers as Python writes them, whatever the desktop's language.

    The host's own asks for the language's form, which the host cannot read. A decimal comma becomes
    a point as it is typed.
    """

    def __init__(self, bottom: float, parent: QLineEdit) -> None:
        super().__init__(parent)
        locale = QLocale.c()
        locale.setNumberOptions(QLocale.NumberOption.RejectGroupSeparator)
        self.setLocale(locale)
        self.setBottom(bottom)

    def validate(self, a0: str | None, a1: int) -> tuple[QValidator.State, str, int]:
        """Return the state of a text, the text, and the place of the cursor."""
        return super().validate((a0 or '').replace(',', '.'), a1)


class DecimalViewController(DecimalLineEditParameterViewController):
    """The host's line for a decimal number, in every language."""

    def __init__(self, parameter: Any, *, is_signed: bool, tool_tip: str) -> None:
        super().__init__(parameter, is_signed=is_signed, tool_tip=tool_tip)
        for line in self.get_widget().findChildren(QLineEdit):
            line.setValidator(DecimalValidator(-math.inf if is_signed else 0.0, line))


def editor_of(parameter: Any, field: Field[Any], setting: Setting) -> ParameterViewController:
    """Return the editor of a setting; a check box carries its label itself."""
    tip, value = tool_tip(setting), field.default
    if setting.choices:
        return ChoiceViewController(parameter, {c: c for c in setting.choices}, tool_tip=tip)
    if isinstance(value, bool):
        return CheckBoxParameterViewController(parameter, label_of(setting), tool_tip=tip)
    if isinstance(value, int):
        if setting.low is None:  # the host's spin box needs one
            return IntegerLineEditParameterViewController(parameter, tool_tip=tip)
        return SpinBoxParameterViewController(parameter, tool_tip=tip)
    if isinstance(value, float):
        signed = setting.low is None or setting.low < 0
        return DecimalViewController(parameter, is_signed=signed, tool_tip=tip)
    return LineEditParameterViewController(parameter, tool_tip=tip)


def label_of(setting: Setting) -> str:
    """Return the label, with the unit in brackets."""
    return f'{setting.label} [{setting.unit}]' if setting.unit else setting.label


def tool_tip(setting: Setting) -> str:
    """Return the help, with unit and range."""
    unit = f' {setting.unit}' if setting.unit else ''
    low, high = (None if v is None else f'{v:g}' for v in (setting.low, setting.high))
    if low and high:
        return f'{setting.help}\n{low} to {high}{unit}'
    if low or high:
        return f'{setting.help}\nAt {"least" if low else "most"} {low or high}{unit}'
    return f'{setting.help}\nIn{unit}' if unit else setting.help
