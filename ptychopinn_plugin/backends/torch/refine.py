"""Physics sweeps with PyTorch: its transforms on a CPU, the whole step on a GPU. See `sweeper`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from ... import sweeper
from ...config import ReconstructionConfig
from ...host_step import HostStep
from ...result import ObjectImage, Sweep
from ...scan import Complex, Scan
from ...sweeper import Step, Sweeper
from ..base import Model
from .canvas_network import runner
from .device_step import DeviceStep
from .transforms import TRANSFORMS


@torch.inference_mode()
def refine(
    scan: Scan,
    start: ObjectImage,
    probe: Complex,
    config: ReconstructionConfig,
    device: torch.device,
    network: Model | None = None,
    *,
    whole: bool | None = None,
) -> Iterator[Sweep]:
    """Yield the state after each of `config.sweeps` sweeps; `whole` takes the whole step on the
    device, as is done where that is a GPU.
    """

    def make_step(made: Sweeper) -> Step:
        on_device = device.type == 'cuda' if whole is None else whole
        return DeviceStep(made, device) if on_device else HostStep(made, TRANSFORMS)

    make_run = None if network is None else partial(runner, network, device)
    yield from sweeper.refine(
        scan, start, probe, config, make_step, make_run,
        threads=torch.get_num_threads(), on_gpu=device.type == 'cuda',
    )  # fmt: skip
