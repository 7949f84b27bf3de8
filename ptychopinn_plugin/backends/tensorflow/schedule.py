"""How the learning rate falls: the schedules of the settings, as PyTorch defines them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...config import TrainingConfig
from ..rates import cosine

PLATEAU_FACTOR, PLATEAU_PATIENCE, PLATEAU_THRESHOLD = 0.5, 3, 1e-4


class Rate:
    """The learning rate of the coming epoch."""

    def __init__(self, training: TrainingConfig) -> None:
        self._training = training
        self.value = training.learning_rate
        self._best, self._bad = math.inf, 0

    def step(self, epochs: int, loss: float) -> None:
        """Set the rate after `epochs` finished epochs, the last with this watched loss."""
        if self._training.schedule == 'cosine':
            self.value = self._training.learning_rate * cosine(epochs, self._training.epochs)
        elif self._training.schedule == 'plateau':
            self._watch(loss)

    def _watch(self, loss: float) -> None:
        if loss < self._best * (1 - PLATEAU_THRESHOLD):
            self._best, self._bad = loss, 0
            return
        self._bad += 1
        if self._bad > PLATEAU_PATIENCE:
            self.value, self._bad = self.value * PLATEAU_FACTOR, 0

    def state(self) -> list[float]:
        """Return what a checkpoint keeps."""
        return [self.value, self._best, float(self._bad)]

    def restore(self, state: Sequence[float], epochs: int) -> None:
        """Take back what a checkpoint kept after so many epochs; there may be more to come now."""
        self.value, self._best, self._bad = float(state[0]), float(state[1]), int(state[2])
        if self._training.schedule == 'cosine':
            self.step(epochs, math.inf)
