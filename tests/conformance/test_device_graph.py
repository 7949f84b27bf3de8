"""What TensorFlow's step asks of a GPU, where there is none: its graph is the same."""

from __future__ import annotations

import pytest

from ptychopinn_plugin import starts
from ptychopinn_plugin.config import ReconstructionConfig
from ptychopinn_plugin.light import light_of
from ptychopinn_plugin.scaling import normalised_probe
from ptychopinn_plugin.sweep_plan import plan_sweep
from ptychopinn_plugin.sweeper import Sweeper

from ..backends_under_test import BACKENDS

UPDATES = {'AssignAddVariableOp', 'AssignSubVariableOp'}
ARITHMETIC = {'Add', 'AddV2', 'Sub', 'Mul', 'FloorDiv', 'FloorMod', 'Maximum', 'Minimum'}


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
