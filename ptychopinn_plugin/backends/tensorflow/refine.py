"""Physics sweeps with TensorFlow: its transforms on a CPU, the whole step on a GPU; `sweeper`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import tensorflow as tf

from ... import sweeper
from ...config import ReconstructionConfig
from ...host_step import HostStep
from ...result import ObjectImage, Sweep
from ...scan import Complex, Scan
from ...sweeper import Step, Sweeper
from ...transforms import cores
from ..base import Model
from .canvas_network import runner
from .device_step import DeviceStep
from .memory import TRANSFORMS


def refine(
    scan: Scan,
    start: ObjectImage,
    probe: Complex,
    config: ReconstructionConfig,
    network: Model | None = None,
    *,
    on_gpu: bool = False,
) -> Iterator[Sweep]:
    """Yield the state after each of `config.sweeps` sweeps."""

    def make_step(made: Sweeper) -> Step:
        return DeviceStep(made) if on_gpu else HostStep(made, TRANSFORMS)

    make_run = None if network is None else partial(runner, network)
    threads = tf.config.threading.get_intra_op_parallelism_threads() or cores()
    yield from sweeper.refine(
        scan, start, probe, config, make_step, make_run, threads=threads, on_gpu=on_gpu
    )
