"""The host's Infer button, kept right for our algorithms.

The host leaves it grey after a training, and enables it without a model when a product is chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ptychodus.api.observer import Observable, Observer
from PyQt5.QtCore import QEvent, QObject

from ...config import ReconstructionConfig
from ..library import PluginLibrary
from ..reconstructor import NeuralReconstructor


class InferButton(Observer):
    """Enables Infer when the chosen product can be worked on and the reconstructor can start.

    It reads private parts of the host's controller: `AttributeError` where a version lacks them.
    """

    def __init__(self, library: PluginLibrary, processing_controller: Any) -> None:
        super().__init__()
        self._algorithm = processing_controller._algorithm_parameter
        self._button = processing_controller._actions_view.reconstruct_button
        # The host enables Train by what the chosen product allows, and by nothing else.
        self._train = processing_controller._actions_view.train_button
        self._reconstructors = tuple(r for r in library)
        self._start = library.settings.parameter(ReconstructionConfig, 'start')
        self._watched = (self._algorithm, self._start, *(r.card for r in self._reconstructors))
        for observable in self._watched:
            observable.add_observer(self)
        # Whatever the host does to the buttons is looked at again, in all of its versions.
        self._watcher = _EnabledWatcher(self._refresh)
        for button in (self._button, self._train):
            button.installEventFilter(self._watcher)
        self._refresh()

    def _current(self) -> NeuralReconstructor | None:
        current = self._algorithm.get_current_reconstructor()
        return next((r for r in self._reconstructors if r is current), None)

    def _refresh(self) -> None:
        reconstructor = self._current()
        if reconstructor is not None:
            can_act = self._train.isEnabledTo(self._train.parentWidget())
            self._button.setEnabled(can_act and reconstructor.can_start())

    def _update(self, observable: Observable) -> None:
        if any(observable is w for w in self._watched):
            self._refresh()


class _EnabledWatcher(QObject):
    """Calls `action` after a watched widget was enabled or disabled."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__()
        self._action = action

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Look at the event and leave it to the widget."""
        if event is not None and event.type() == QEvent.Type.EnabledChange:
            self._action()
        return False
