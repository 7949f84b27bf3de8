"""The network's own estimate of the object: patches of every pattern, stitched where they belong.

Every pattern is the first of its own group once; each predicted patch is added at the position of
the pattern that its channel stands for, weighted by the light |P|^2 on it. Patches of different
positions are never mixed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...batching import batch, source
from ...grouping import neighbour_groups
from ...plan import plan
from ...result import ObjectImage
from ...scaling import flat_transmission
from ...scan import Scan
from ..base import Model
from . import physics
from .batches import tensors
from .network import Autoencoder
from .weights import import_weights

BATCH_PIXELS = (
    32 * 64 * 64
)  # patterns times their pixels in one pass: speed has levelled off, memory is small
UNLIT = (
    1e-6  # of the brightest pixel: below, the object is unknown and set to the mean transmission
)


@torch.inference_mode()
def estimate(scan: Scan, model: Model, device: torch.device) -> ObjectImage:
    """Return the stitched object in the scan's frame."""
    network = Autoencoder(plan(model.config))
    import_weights(network, model.weights)
    network.to(device).eval()
    made = source(scan)
    groups = neighbour_groups(scan.positions_px, model.config.gridsize**2)
    size = max(1, BATCH_PIXELS // (scan.side_px**2 * groups.shape[1]))
    shape = scan.frame.shape
    canvas = torch.zeros(shape[0] * shape[1], dtype=torch.complex64, device=device)
    total = torch.zeros(shape[0] * shape[1], device=device)
    probe = torch.from_numpy(made.probe).to(device)
    for start in range(0, len(groups), size):
        part = tensors(batch(made, groups[start : start + size])).to(device)
        light = physics.intensity(physics.shift_probe(probe, part.shift_px))
        patches = network(part.inputs).flatten(0, 1)
        index = physics.pixels(part.corner_px, scan.side_px, shape[1])
        canvas.index_add_(0, index, (patches * light).reshape(-1))
        total.index_add_(0, index, light.reshape(-1))
    return _image(scan, canvas.reshape(shape), total.reshape(shape))


def _image(scan: Scan, canvas: Tensor, total: Tensor) -> ObjectImage:
    relative = total / total.max()
    flat = torch.full_like(canvas, flat_transmission(scan))
    object_ = torch.where(relative > UNLIT, canvas / total.clamp(min=1e-30), flat)
    return ObjectImage(
        object_.cpu().numpy(), relative.cpu().numpy().astype(np.float32), scan.frame.origin_px
    )
