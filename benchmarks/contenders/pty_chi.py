"""pty-chi's engines on the same scan, probe scale and flat start, at its own default settings but
for those named here and the batch size.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from contenders.race import State

from ptychopinn_plugin.scaling import normalised_probe
from ptychopinn_plugin.scan import Scan
from ptychopinn_plugin.starts import flat_start

try:
    import torchvision  # noqa: F401
except RuntimeError:
    # Built for another torch (CPU and CUDA wheels met), it lacks its compiled operators; with these
    # two declared it loads. pty-chi takes no more from it than a blur in Python.
    LIBRARY = torch.library.Library('torchvision', 'FRAGMENT')
    for operator in ('nms', 'qnms'):
        LIBRARY.define(f'{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')

from ptychi import api
from ptychi.api.options.task import PtychographyTaskOptions
from ptychi.api.task import PtychographyTask

HALF = 0.5  # pixel
EPOCHS = 100_000
DEVICES = {'cpu': api.Devices.CPU, 'cuda': api.Devices.GPU}


def run(
    scan: Scan, update_probe: bool, threads: int, device: str, engine: str, batch: int
) -> Iterator[State]:
    """Yield the object and probe after every epoch."""
    torch.manual_seed(0)
    options = _options(engine, min(batch, len(scan)), update_probe)
    options.reconstructor_options.default_device = DEVICES[device]
    task = _task(scan, options)
    for number in range(1, EPOCHS + 1):
        task.run(1)
        object_, probe = (
            task.get_data_to_cpu(name, as_numpy=True)[0].astype(np.complex64, copy=True)
            for name in ('object', 'probe')
        )
        yield State(number, object_, probe * np.float32(scan.side_px))


def _options(engine: str, batch: int, update_probe: bool) -> PtychographyTaskOptions:
    o = getattr(api, f'{engine}Options')()
    o.object_options.optimizable = True
    o.object_options.optimizer = api.Optimizers.SGD
    o.object_options.step_size = 1.0
    o.object_options.pixel_size_m = 1e-8
    o.object_options.determine_position_origin_coords_by = (
        api.ObjectPosOriginCoordsMethods.SPECIFIED
    )
    # It rounds positions first and adds the origin then; an even patch is centred between pixels.
    # With an origin on a pixel, rounding halves would move patches by one pixel, up or down.
    o.object_options.position_origin_coords = np.array([HALF, HALF])
    o.probe_options.optimizable = update_probe
    o.probe_position_options.optimizable = False
    o.opr_mode_weight_options.optimizable = False
    if engine == 'LSQML':
        # The probe's scale is right already, and this would spend the first epoch on it.
        o.reconstructor_options.rescale_probe_intensity_in_first_epoch = False
    o.reconstructor_options.batch_size = batch
    o.reconstructor_options.num_epochs = EPOCHS
    return o


def _task(scan: Scan, options: PtychographyTaskOptions) -> PtychographyTask:
    places = scan.positions_px - np.asarray(scan.frame.origin_px) - HALF
    y, x = places.astype(np.float32).T
    return PtychographyTask(
        options,
        diffraction_data=torch.from_numpy(scan.counts.astype(np.float32)),
        object_data=torch.from_numpy(flat_start(scan).object[None].astype(np.complex64)),
        # Its transforms have no norm: they take a probe that is N times weaker.
        probe_data=torch.from_numpy(normalised_probe(scan)[None] / np.float32(scan.side_px)),
        probe_position_x_px=torch.from_numpy(np.ascontiguousarray(x)),
        probe_position_y_px=torch.from_numpy(np.ascontiguousarray(y)),
        valid_pixel_mask=torch.from_numpy(~scan.bad_pixels),
    )
