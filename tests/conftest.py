"""A small scan for everybody, and a back end of NumPy alone that drives pipeline and command line
in seconds.
"""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.backends import registry
from ptychopinn_plugin.backends.base import Model, StopTraining
from ptychopinn_plugin.errors import TrainingError
from ptychopinn_plugin.plan import weight_shapes
from ptychopinn_plugin.result import Epoch, ObjectImage, Sweep
from ptychopinn_plugin.simulate import Simulation, simulate_scan

SHARED = Path(__file__).resolve().parents[2] / 'shared'


class ToyBackend:
    """Epochs that count down, an estimate of ones, sweeps that walk to the true object."""

    name = 'toy'

    def versions(self):
        return {'toy': '1'}

    def device(self, runtime):
        return 'cpu'

    def train(
        self, scans, validation, model, training, runtime, folder, on_epoch, on_step,
        *, initial=None, resume=False,
    ):  # fmt: skip
        history, ended = [], 'finished'
        try:
            for number in range(1, training.epochs + 1):
                on_step((number - 0.5) / training.epochs)
                history.append(Epoch(number, training.epochs, 1 / number, 2 / number, 1e-3, 0.0))
                on_epoch(history[-1])
        except StopTraining:
            ended = 'stopped'
            if not history:
                raise TrainingError('Stopped before the first epoch had finished') from None
        weights = {k: np.zeros(s, np.float32) for k, s in weight_shapes(model).items()}
        return Model(model, weights, training, tuple(history), 'toy', {'ended': ended})

    def estimate(self, scan, model, reconstruction, runtime):
        return self._image(scan, np.ones(scan.frame.shape, np.complex64))

    def refine(self, scan, start, probe, reconstruction, runtime):
        for number in range(1, reconstruction.sweeps + 1):
            share = number / reconstruction.sweeps
            object_ = (1 - share) * start.object + share * scan.true_object
            yield Sweep(
                number, reconstruction.sweeps, replace(start, object=object_), probe, 1 - share
            )

    def predict(self, scan, image, probe, runtime):
        return 0.5, lambda row: scan.counts[row].astype(np.float32)

    def _image(self, scan, object_):
        return ObjectImage(object_, np.ones(object_.shape, np.float32), scan.frame.origin_px)


@pytest.fixture
def toy(monkeypatch):
    """Register the toy back end as the one that `auto` takes."""
    module = types.ModuleType('toy_package.backend')
    module.BACKEND = ToyBackend()
    package = types.ModuleType('toy_package')
    package.__spec__ = types.SimpleNamespace(name='toy_package')
    monkeypatch.setitem(sys.modules, 'toy_package', package)
    monkeypatch.setitem(sys.modules, 'toy_package.backend', module)
    entry = registry.Entry('toy_package.backend', (), 'pip install toy')
    monkeypatch.setattr(registry, 'BACKENDS', {'toy': entry})
    return module.BACKEND


@pytest.fixture(scope='session')
def small_scan():
    """120 patterns of 32x32 on a small object, 1e6 photons per frame."""
    return simulate_scan(
        Simulation(pattern_size_px=32, object_size_px=90, patterns=120, specimen='leaves', seed=3)
    )
