"""The steps that run on a GPU, where there is none."""

from __future__ import annotations

from functools import partial
from importlib import import_module

import numpy as np
import pytest

from ptychopinn_plugin import starts
from ptychopinn_plugin.backends import registry
from ptychopinn_plugin.config import ReconstructionConfig
from ptychopinn_plugin.light import light_of
from ptychopinn_plugin.scaling import normalised_probe
from ptychopinn_plugin.sweep_plan import plan_sweep
from ptychopinn_plugin.sweeper import Sweeper

from ..backends_under_test import BACKENDS
from ..conftest import fluctuating

UPDATES = {'AssignAddVariableOp', 'AssignSubVariableOp'}
ARITHMETIC = {'Add', 'AddV2', 'Sub', 'Mul', 'FloorDiv', 'FloorMod', 'Maximum', 'Minimum'}


@pytest.mark.parametrize('name', BACKENDS)
@pytest.mark.parametrize('settings', [{}, {'update_probe': True}])
@pytest.mark.parametrize('uneven', [False, True])
def test_what_finds_no_room_on_the_device_is_made_batch_by_batch(
    small_scan, name, settings, uneven, monkeypatch
):
    registry.load(name)
    module = import_module(f'ptychopinn_plugin.backends.{name}.device_step')
    make_step, limit = module.DeviceStep, 'HELD_BYTES'
    if name == 'torch':
        import torch

        make_step, limit = partial(make_step, device=torch.device('cpu')), 'CACHE_BYTES'
    scan = fluctuating(small_scan, 0.2)[0] if uneven else small_scan
    probe, light = normalised_probe(scan), light_of(scan, normalised_probe(scan))
    config = ReconstructionConfig(sweep_batch_size=7, **settings)  # some are filled up
    made = []
    for room in (None, 0):
        if room is not None:
            monkeypatch.setattr(module, limit, room)
            monkeypatch.setattr(module, 'AHEAD', 4)
        sweeper = Sweeper(scan, starts.gradient_start(scan), probe, config, make_step, light)
        assert (sweeper.step.amplitudes is None) == (room == 0)
        losses = [sweeper.sweep(plan_sweep(k, 8)) for k in range(1, 7 if uneven else 4)]
        assert sweeper.beam.fluctuates == uneven
        made.append((losses, sweeper.object, sweeper.probe))
    for held, fresh in zip(*made, strict=True):
        np.testing.assert_allclose(fresh, held, rtol=1e-5, atol=1e-5 * np.abs(held).max())


@pytest.mark.skipif('tensorflow' not in BACKENDS, reason='of TensorFlow')
@pytest.mark.parametrize('settings', [{}, {'update_probe': True}, {'correct_positions': True}])
def test_it_asks_for_no_kernel_that_a_gpu_lacks(small_scan, settings):
    """Updates of complex variables, and int32: that is calculated with on the CPU."""
    import tensorflow as tf

    from ptychopinn_plugin.backends.tensorflow.device_step import DeviceStep

    probe = normalised_probe(small_scan)
    config = ReconstructionConfig(**settings)
    sweeper = Sweeper(
        small_scan, starts.flat_start(small_scan), probe, config, DeviceStep,
        light_of(small_scan, probe),
    )  # fmt: skip
    sweeper.sweep(plan_sweep(2, 4, correct_positions='correct_positions' in settings))
    step = sweeper.step
    graphs = [step.graph.get_concrete_function()]
    if step.lights is not None:
        graphs.append(step.lights.get_concrete_function())
    asked = [op for graph in graphs for op in _operations(graph.graph)]
    assert {'FFT2D', 'IFFT2D'} <= {op.type for op in asked}
    for op in asked:
        if op.type in UPDATES:
            assert not op.inputs[1].dtype.is_complex, op.name
        if op.type in ARITHMETIC and op.outputs[0].dtype == tf.int32:
            assert op.outputs[0].shape.rank == 0, op.name


def _operations(graph):
    """Every operation of a graph and of the loops and branches in it."""
    for op in graph.get_operations():
        yield op
        for name in ('body', 'cond', 'then_branch', 'else_branch'):
            try:
                inner = op.get_attr(name).name
            except ValueError:
                continue
            yield from _operations(graph._get_function(inner).graph)
