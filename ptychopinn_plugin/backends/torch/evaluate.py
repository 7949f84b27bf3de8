"""How well an object and a probe explain the patterns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ... import far_field
from ...geometry import windows
from ...result import ObjectImage
from ...scaling import amplitudes
from ...scan import Complex, Float, Scan
from . import physics
from .transforms import TRANSFORMS

BATCH = 64


@torch.inference_mode()
def predict(
    scan: Scan,
    image: ObjectImage,
    probe: Complex,
    device: torch.device,
    *,
    whole: bool | None = None,
) -> tuple[float, Callable[[int], Float]]:
    """Return sum(|F| - sqrt(I))^2 / sum(I) over good pixels, and a function that predicts the
    pattern of a row. `whole` is as in `refine`.
    """
    if not (device.type == 'cuda' if whole is None else whole):
        return far_field.predict(TRANSFORMS, scan, image, probe)
    place = windows(scan, image.frame)
    corner, shift = (torch.from_numpy(v).to(device) for v in (place.corner_px, place.shift_px))
    object_, modes = (torch.from_numpy(v).to(device) for v in (image.object, probe))
    good = torch.from_numpy((~scan.bad_pixels).astype(np.float32)).to(device)

    def patterns(rows: slice) -> torch.Tensor:
        patches = physics.extract(object_, corner[rows], scan.side_px)
        return physics.diffract(patches, physics.shift_probe(modes, shift[rows]))

    error = 0.0
    for start in range(0, len(scan), BATCH):
        rows = slice(start, start + BATCH)
        measured = torch.from_numpy(amplitudes(scan.patterns(rows))).to(device)
        error += float(((patterns(rows).sqrt() - measured).square() * good).sum())

    def pattern(row: int) -> Float:
        with torch.inference_mode():
            return patterns(slice(row, row + 1))[0].cpu().numpy()

    return error / float(scan.totals.sum()), pattern
