"""A back end of NumPy alone: it drives pipeline, worker, host and command line in seconds."""

from __future__ import annotations

import os
import sys
import time
import types
from dataclasses import replace

import numpy as np

from ptychopinn_plugin.backends import registry
from ptychopinn_plugin.backends.base import Model, StopTraining
from ptychopinn_plugin.errors import TrainingError
from ptychopinn_plugin.network_weights import weight_shapes
from ptychopinn_plugin.result import Epoch, ObjectImage, Sweep

STEP_S = 'TOY_STEP_S'  # environment: seconds that every step takes
STEPS = 5  # per epoch


def pause():
    time.sleep(float(os.environ.get(STEP_S, '0')))


def displacement(scan):
    """Return by how much the toy moves the patterns, (M, 2) [px]: in turn, and one way in y and
    another in x.
    """
    return np.where(np.arange(len(scan)) % 2, 1.0, -1.0)[:, None] * [3.0, -4.0]


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
                for step in range(1, STEPS + 1):
                    pause()
                    on_step((number - 1 + step / STEPS) / training.epochs)
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

    def refine(self, scan, start, probe, reconstruction, runtime, network=None):
        for number in range(1, reconstruction.sweeps + 1):
            pause()
            share = number / reconstruction.sweeps
            truth = scan.true_object if scan.true_object is not None else 0.5 * start.object
            object_ = (1 - share) * start.object + share * truth
            positions = scan.positions_px
            if reconstruction.correct_positions:
                positions = positions + share * displacement(scan)
            yield Sweep(
                number, reconstruction.sweeps, replace(start, object=object_), probe, 1 - share,
                positions, background=scan.background,
            )  # fmt: skip

    def predict(self, scan, image, probe, runtime, intensities=None):
        return 0.5, lambda row: scan.counts[row].astype(np.float32)

    def _image(self, scan, object_):
        return ObjectImage(object_, np.ones(object_.shape, np.float32), scan.frame.origin_px)


def entry(backend):
    """Make a back end importable and return its entry in the registry's table."""
    module = types.ModuleType('toy_package.backend')
    module.BACKEND = backend
    package = types.ModuleType('toy_package')
    package.__spec__ = types.SimpleNamespace(name='toy_package')
    sys.modules.update({'toy_package': package, 'toy_package.backend': module})
    return registry.Entry('toy_package.backend', (), 'pip install toy')


def install(backend=None):
    """Make the toy the only back end of this process: the one that `auto` takes."""
    registry.BACKENDS.clear()
    registry.BACKENDS['toy'] = entry(backend or ToyBackend())
