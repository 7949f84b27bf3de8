"""The losses of the training that runs or ran last, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from ptychodus.api.observer import Observable, Observer
from ptychodus.controller.parameters import ParameterViewController
from PyQt5.QtCore import Qt, QTimer
from PyQt5.QtGui import QShowEvent
from PyQt5.QtWidgets import QGroupBox, QLabel, QVBoxLayout, QWidget

from ...report import scale_losses
from ...result import Epoch
from ..model_card import ModelCard

HEIGHT_PX = 230
EMPTY = 'The losses appear here after the first epoch of a training.'
MANY_EPOCHS = 60  # from here on a line alone is clearer than its markers
CURVES = (('training_loss', 'Training'), ('validation_loss', 'Validation'))


class LossPlot(ParameterViewController, Observer):
    """Shows the history of a card."""

    def __init__(self, card: ModelCard) -> None:
        super().__init__()
        self._card, self._widget = card, LossBox()
        self._widget.take(card.history)
        card.add_observer(self)

    def get_widget(self) -> QWidget:
        """Return the box with the plot."""
        return self._widget

    def _update(self, observable: Observable) -> None:
        if observable is self._card:
            self._widget.take(self._card.history)


class LossBox(QGroupBox):
    """The curves, or a line of text before the first epoch; drawn only while it is seen."""

    def __init__(self) -> None:
        super().__init__('Training loss')
        self._history: Sequence[Epoch] = ()
        self._drawn: Sequence[Epoch] = ()
        self._empty, self.canvas = QLabel(EMPTY), _canvas()
        self._empty.setWordWrap(True)
        self.axes: Any = self.canvas.figure.add_subplot(111)
        layout = QVBoxLayout(self)
        layout.addWidget(self._empty)
        layout.addWidget(self.canvas)
        # Epochs come in bursts, at the ticks of the host's timer: one drawing for all of them.
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self._draw)
        self.take(())

    def take(self, history: Sequence[Epoch]) -> None:
        """Show these losses."""
        self._history = history
        self._empty.setVisible(not history)
        self.canvas.setVisible(bool(history))
        self._soon.start()

    def showEvent(self, event: QShowEvent | None) -> None:
        """Draw what has come since the box was last seen."""
        self._soon.start()
        super().showEvent(event)

    def _draw(self) -> None:
        if self.isVisible() and self._history is not self._drawn:
            self._drawn = self._history
            draw_losses(self.axes, self._history)
            self.canvas.draw_idle()


def _canvas() -> Any:
    canvas_class: Any = FigureCanvasQTAgg
    canvas = canvas_class(Figure(layout='constrained'))
    canvas.setFixedHeight(HEIGHT_PX)
    # The wheel is for the panel to scroll.
    canvas.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
    return canvas


def draw_losses(axes: Any, history: Sequence[Epoch]) -> None:
    """Draw the losses over the epochs."""
    axes.clear()
    numbers = [epoch.number for epoch in history]
    marker = '.' if len(history) < MANY_EPOCHS else ''
    for name, label in CURVES:
        losses = np.array([getattr(epoch, name) for epoch in history], float)
        losses[~np.isfinite(losses)] = np.nan
        if np.isfinite(losses).any():  # without held-out patterns there is no validation loss
            axes.plot(numbers, losses, marker=marker, label=label)
    axes.set_xlabel('Epoch')
    axes.set_ylabel('Loss')
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(True, alpha=0.4)
    if axes.lines:
        scale_losses(axes, 5, 3)
        # Above the curves: there is no room beside them.
        axes.legend(frameon=False, ncols=2, loc='lower right', bbox_to_anchor=(1, 1))
