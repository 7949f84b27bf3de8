"""How well an object and a probe explain the patterns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ... import far_field
from ...geometry import windows
from ...grouping import Rows
from ...result import ObjectImage
from ...scaling import amplitudes
from ...scan import Complex, Double, Float, Scan
from . import physics
from .transforms import TRANSFORMS

BATCH = 64


@torch.inference_mode()
def predict(
    scan: Scan,
    image: ObjectImage,
    probe: Complex,
    device: torch.device,
    intensities: Double | None = None,
    *,
    whole: bool | None = None,
) -> tuple[float, Callable[[int], Float]]:
    """Return sum(|F| - sqrt(I))^2 / sum(I) over good pixels, and a function that predicts the
    pattern of a row; see `far_field.predict`. `whole` is as in `refine`.
    """
    if not (device.type == 'cuda' if whole is None else whole):
        return far_field.predict(TRANSFORMS, scan, image, probe, intensities=intensities)
    place = windows(scan, image.frame)
    corner, shift = (torch.from_numpy(v).to(device) for v in (place.corner_px, place.shift_px))
    object_, modes = (torch.from_numpy(v).to(device) for v in (image.object, probe))
    good = torch.from_numpy((~scan.bad_pixels).astype(np.float32)).to(device)

    def patterns(rows: slice | Rows) -> torch.Tensor:
        patches = physics.extract(object_, corner[rows], scan.side_px)
        return physics.diffract(patches, physics.shift_probe(modes, shift[rows])) + scan.background

    bright = np.ones(len(scan)) if intensities is None else intensities
    error, lit = 0.0, np.flatnonzero(bright > 0)
    for start in range(0, len(lit), BATCH):
        rows = lit[start : start + BATCH]
        found = amplitudes(scan.patterns(rows))
        found /= np.sqrt(bright[rows, None, None], dtype=np.float32)
        measured = torch.from_numpy(found).to(device)
        error += float(((patterns(rows).sqrt() - measured).square() * good).sum())

    def pattern(row: int) -> Float:
        with torch.inference_mode():
            found: Float = patterns(slice(row, row + 1))[0].cpu().numpy()
        return found * np.float32(bright[row])

    return error / float((scan.totals[lit] / bright[lit]).sum()), pattern
