"""The `unrolled` architecture as frozen data: a small convolutional network on the object canvas
that works between physics sweeps; see `canvas` for what it sees and gives.

It works at half of the canvas's resolution, so that its cost stays below that of a sweep: residual
convolutions (x + relu(conv(x))) at three resolutions, joined by skips. Downward four neighbouring
pixels become channels, (channel, row, column), and a 1x1 convolution mixes them; upward the same
backwards. What the network gives is `OUTPUT_SHARE` of its last convolution, which keeps the first
steps of a training small. The probe, the pattern size and the scan enter only through the physics,
so that one set of weights serves all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from .plan import Conv

FOLD = 2  # canvas pixels per network pixel and direction
WIDTHS = (24, 48, 96)
MULTIPLE_PX: int = FOLD * 2 ** (len(WIDTHS) - 1)  # of which a canvas must be for the network
INPUTS, OUTPUTS = 23, 8
OUTPUT_SHARE = 0.1
BLOCK_GAIN = 0.3


@dataclass(frozen=True)
class CanvasPlan:
    """The convolutions in the order of use: `down`, `across[i]` at level i, `up`, `back[i]`."""

    first: Conv
    across: tuple[Conv, ...]
    down: tuple[Conv, ...]
    up: tuple[Conv, ...]
    back: tuple[Conv, ...]
    last: Conv

    def convolutions(self) -> list[Conv]:
        """Return every convolution in canonical order."""
        return [self.first, *self.across, *self.down, *self.up, *self.back, self.last]


@cache
def canvas_plan() -> CanvasPlan:
    """Return the plan of the network."""
    deepest = len(WIDTHS) - 1
    # The deepest level has two convolutions; every other one on the way down and one back up.
    levels = [*enumerate(WIDTHS), (deepest, WIDTHS[deepest])]
    across = [
        Conv(f'across.{n}', width, width, gain=BLOCK_GAIN) for n, (_, width) in enumerate(levels)
    ]
    pairs = list(pairwise(WIDTHS))
    return CanvasPlan(
        first=Conv('first', INPUTS, WIDTHS[0]),
        across=tuple(across),
        down=tuple(Conv(f'down.{i}', 4 * a, b, size=1) for i, (a, b) in enumerate(pairs)),
        up=tuple(Conv(f'up.{i}', b, 4 * a, size=1) for i, (a, b) in enumerate(pairs)),
        back=tuple(Conv(f'back.{i}', a, a, gain=BLOCK_GAIN) for i, (a, _) in enumerate(pairs)),
        last=Conv('last', WIDTHS[0], OUTPUTS, gain=BLOCK_GAIN),
    )
