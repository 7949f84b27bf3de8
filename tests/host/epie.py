"""Somebody else's reconstructor: ePIE in NumPy. It shares nothing with ours."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from ptychodus.api.object import Object
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.product import LossValue
from ptychodus.api.reconstruct import (
    ReconstructorLibrary,
    ReconstructOutput,
    TrainableReconstructor,
    TrainOutput,
)

logger = logging.getLogger('epie')
SWEEPS, EPOCHS = 6, 3


class Epie(TrainableReconstructor):
    """ePIE whose model is the size of its steps."""

    name = 'ePIE'

    def __init__(self):
        self.step = None
        self.goal = SWEEPS

    def get_progress_goal(self):
        return self.goal

    def reconstruct(self, parameters):
        try:
            self.check(parameters)
            yield from self.sweeps(parameters)
        except (ValueError, RuntimeError) as error:
            logger.error('%s', error)
            raise

    def check(self, parameters):
        if self.step is None:
            raise RuntimeError('There is no model')
        points = [(p.y_m, p.x_m) for p in parameters.product.probe_positions]
        if not np.isfinite(points).all():
            raise ValueError('Positions are not finite')
        if len(points) != len(parameters.diffraction_patterns):
            raise ValueError('Patterns and positions differ in number')
        if (
            parameters.product.probes.get_array().shape[-2:]
            != parameters.diffraction_patterns[0].shape
        ):
            raise ValueError('Patterns and probe differ in size')

    def sweeps(self, parameters):
        obj = self.start(parameters)
        losses = []
        for number in range(1, SWEEPS + 1):
            losses.append(LossValue(number, self.sweep(parameters, obj)))
            yield ReconstructOutput(self.product(parameters, obj, losses), number)

    def start(self, parameters):
        return np.ones_like(parameters.product.object_.get_layer(0))

    def sweep(self, parameters, obj):
        probe = parameters.product.probes.get_array()[0]
        side, error = probe.shape[-1], 0.0
        mask = parameters.bad_pixels
        good = np.ones((side, side), bool) if mask is None else ~mask
        f = np.fft.fftfreq(side)
        for corner, counts in zip(
            positions_px(parameters.product) - (side - 1) / 2,
            parameters.diffraction_patterns,
            strict=True,
        ):
            y, x = np.floor(corner).astype(int)
            dy, dx = corner - (y, x)
            ramp = np.exp(-2j * np.pi * (f[:, None] * dy + f * dx))
            beam = np.fft.ifft2(np.fft.fft2(probe) * ramp)
            patch = obj[y : y + side, x : x + side]
            waves = np.fft.fftshift(np.fft.fft2(beam * patch, norm='ortho'), (-2, -1))
            size = np.sqrt((np.abs(waves) ** 2).sum(0))
            target = np.where(good, np.sqrt(np.where(good, counts, 0).astype(float)), size)
            waves *= target / np.maximum(size, 1e-9)
            new = np.fft.ifft2(np.fft.ifftshift(waves, (-2, -1)), norm='ortho')
            change = (beam.conj() * (new - beam * patch)).sum(0)
            patch += self.step * change / (np.abs(beam) ** 2).sum(0).max()
            error += float(((target - size) ** 2).sum())
        return error / len(parameters.diffraction_patterns)

    def product(self, parameters, obj, losses):
        given = parameters.product
        old = given.object_
        made = Object(obj.copy(), old.get_pixel_geometry(), old.get_center())
        probes = given.probes
        kept = ProbeSequence(probes.get_array().copy(), None, probes.get_pixel_geometry())
        return replace(given, object_=made, probes=kept, losses=list(losses))

    def is_model_loaded(self):
        return self.step is not None

    def get_model_file_filter(self):
        return 'ePIE Model (*.epie.json)'

    def get_model_file_extension(self):
        return '.epie.json'

    def load_model_from_file(self, file_path):
        facts = json.loads(Path(file_path).read_text())
        self.step = float(facts['step'])

    def save_model(self, file_path):
        if self.step is None:
            raise RuntimeError('There is no model to save')
        Path(file_path).write_text(json.dumps({'step': self.step}))

    def get_training_data_file_filter(self):
        return 'NumPy Zipped Archive (*.npz)'

    def export_training_data(self, file_path, parameters):
        product = parameters.product
        y, x = positions_px(product).T
        np.savez(
            file_path, xcoords=x, ycoords=y, xcoords_start=x, ycoords_start=y,
            diff3d=parameters.diffraction_patterns, probeGuess=product.probes.get_array()[0],
            objectGuess=product.object_.get_layer(0), scan_index=np.zeros(len(x), int),
        )  # fmt: skip

    def train(self, input_path, output_path):
        self.goal = EPOCHS
        try:
            brightness = [np.load(p)['diff3d'].mean() for p in sorted(input_path.glob('*.npz'))]
            if not brightness:
                raise FileNotFoundError(f'No training data in {input_path}')
            losses = []
            for epoch in range(1, EPOCHS + 1):
                self.step = 0.7 + 0.1 * epoch / EPOCHS + 1e-3 * np.tanh(brightness[0])
                self.save_model(output_path / 'model.epie.json')
                losses.append(LossValue(epoch, 1 / epoch))
                yield TrainOutput(list(losses), [], epoch)
        finally:
            self.goal = SWEEPS


def positions_px(product):
    obj = product.object_
    pixel, centre = obj.get_pixel_geometry(), obj.get_center()
    return np.array(
        [
            (
                (p.y_m - centre.y_m) / pixel.height_m + (obj.height_px - 1) / 2,
                (p.x_m - centre.x_m) / pixel.width_m + (obj.width_px - 1) / 2,
            )
            for p in product.probe_positions
        ]
    )


class EpieLibrary(ReconstructorLibrary):
    """A library of it."""

    name = 'Toys'

    def __init__(self):
        super().__init__('epie')
        self.reconstructors = [Epie()]

    def __iter__(self):
        return iter(self.reconstructors)
