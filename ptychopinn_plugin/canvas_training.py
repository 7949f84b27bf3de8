"""What a training step of the `unrolled` architecture sees: crops of the canvas after the last
sweep, and what is missing of them.

The known object says it in supervised mode. In pinn mode two halves of the scan are reconstructed
apart, and each is the other's target: their noise has nothing in common, so the network learns what
both show (Noise2Noise, arXiv:1803.04189), from counts alone. NumPy only.

A band at the lower edge of every canvas is held out where there is no validation scan.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from .backends.base import StepCallback, StopTraining
from .canvas import LARGEST, NOISE_PX, Canvas, View, fold, unit
from .canvas_plan import MULTIPLE_PX
from .config import ModelConfig, ReconstructionConfig, TrainingConfig
from .errors import DataError, TrainingError, require
from .light import light_of
from .result import ObjectImage, Sweep
from .scaling import normalised_probe, normalised_truth
from .scan import Complex, Float, Scan
from .smoothing import planes, smoothed, wave
from .starts import best_start
from .sweep_plan import plan_sweep
from .uncertainty import halves

Refine = Callable[[Scan, ObjectImage, Complex, ReconstructionConfig], Iterator[Sweep]]

SWEEPS = (5, 10, 20)  # after which a canvas is looked at
CROP_PX = 96
TARGET_PX = NOISE_PX  # slower phase differences than this are not the network's to mend
LEAST_PATTERNS = 32
# Added to the mean squares in the loss, in units of the noise: what no training can explain.
FLOOR = 0.002


@dataclass(frozen=True, eq=False)
class Example:
    """A canvas; what is missing of it, (2, H, W) in the view's units; how much each pixel counts,
    (H, W).
    """

    view: View
    missing: Float
    trust: Float

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.trust.shape[0], self.trust.shape[1]

    def rows(self, first: int, last: int) -> Example:
        """Return the part from row `first` to before row `last`."""
        return self.crop(first, 0, (last - first, self.shape[1]))

    def crop(self, y: int, x: int, shape: tuple[int, int]) -> Example:
        """Return the part of a shape (h, w) that begins at (y, x)."""
        part = np.s_[..., y : y + shape[0], x : x + shape[1]]
        v = self.view
        view = View(v.fine[part], v.coarse[part], v.state, v.unit[part])
        return Example(view, self.missing[part], self.trust[part])

    def turned(self, quarters: int, mirrored: bool, conjugated: bool) -> Example:
        """Return the example of the object turned, mirrored, or with the sign of its phase changed:
        physics cannot tell them apart.
        """

        def turn(maps: Float) -> Float:
            maps = np.rot90(maps, quarters, (-2, -1))
            return maps[..., ::-1, :] if mirrored else maps

        sign = np.float32(-1 if conjugated else 1)
        fine = turn(self.view.fine) * np.array([1, sign, 1, sign], np.float32)[:, None, None]
        missing = turn(self.missing) * np.array([1, sign], np.float32)[:, None, None]
        view = replace(self.view, fine=fine, coarse=turn(self.view.coarse))
        return Example(view, missing, turn(self.trust))


@dataclass(frozen=True, eq=False)
class Batch:
    """B crops: inputs (B, INPUTS, h, w), missing (B, OUTPUTS, h, w), trust (B, 4, h, w)."""

    inputs: Float
    missing: Float
    trust: Float

    def __len__(self) -> int:
        return len(self.inputs)


def examples(scan: Scan, mode: str, refine: Refine) -> list[Example]:
    """Return the canvases of a scan; `refine` makes sweeps. Raises `DataError`."""
    if mode == 'supervised':
        truth = normalised_truth(scan, normalised_probe(scan))
        return [example(scan, sweep, last, truth) for sweep, last in _looked_at(scan, refine)]
    require(
        len(scan) >= LEAST_PATTERNS,
        DataError,
        f'{scan.name}: the scan has too few patterns to be halved',
        expected=f'at least {LEAST_PATTERNS} patterns',
        received=f'{len(scan)} patterns',
        cure='Train on a larger scan',
    )
    parts = [scan.take(rows) for rows in halves(scan.positions_px)]
    looked = [list(_looked_at(part, refine)) for part in parts]
    made = []
    for part, own, others in zip(parts, looked, reversed(looked), strict=True):
        target = others[-1][0].image.object
        made += [example(part, sweep, last, target) for sweep, last in own]
    return made


def _reporting(refine: Refine, on_step: StepCallback) -> Refine:
    def sweeps(
        scan: Scan, start: ObjectImage, probe: Complex, config: ReconstructionConfig
    ) -> Iterator[Sweep]:
        for sweep in refine(scan, start, probe, config):
            on_step(0.0)
            yield sweep

    return sweeps


def _looked_at(scan: Scan, refine: Refine) -> Iterator[tuple[Sweep, Complex]]:
    """Yield the last sweep of every run and the object before it."""
    start = best_start(scan).image
    for sweeps in SWEEPS:
        config = ReconstructionConfig(sweeps=sweeps)
        before, last = deque(refine(scan, start, normalised_probe(scan), config), maxlen=2)
        yield last, before.image.object


def example(scan: Scan, sweep: Sweep, last: Complex, target: Complex) -> Example:
    light = light_of(scan, normalised_probe(scan))
    canvas = Canvas(scan, light)
    pace = plan_sweep(sweep.number, sweep.total, sparse=light.sparse).pace
    view = canvas.view(sweep.image.object, last, loss=sweep.loss, pace=pace, number=sweep.number)
    found, target = sweep.image.object[canvas.part], target[canvas.part]
    compared = planes(found * target.conj()) * np.sqrt(canvas.relative)
    slow = unit(wave(smoothed(compared, TARGET_PX)))
    noise = np.abs(view.unit)
    missing = (target * slow - found) * view.unit.conj() / np.maximum(noise, 1e-12) ** 2
    maps = np.clip(np.stack([missing.real, missing.imag]), -LARGEST, LARGEST).astype(np.float32)
    return Example(view, maps, canvas.trust)


class Batches:
    """The batches of the epoch number `epoch`, drawn from it and the seed alone."""

    def __init__(self, examples: list[Example], size: int, seed: int) -> None:
        self.examples, self.size, self.seed, self.epoch = examples, size, seed, 0
        least = min(min(e.shape) for e in examples)
        self._side = min(CROP_PX, least) // MULTIPLE_PX * MULTIPLE_PX

    def __iter__(self) -> Iterator[Batch]:
        rng = np.random.default_rng([self.seed, self.epoch])
        for _ in range(len(self)):
            yield batch([self._draw(rng) for _ in range(self.size)])

    def __len__(self) -> int:
        crops = sum(prod(e.shape) for e in self.examples) / self._side**2
        return max(1, round(crops / self.size))

    def _draw(self, rng: np.random.Generator) -> Example:
        example = self.examples[rng.integers(len(self.examples))]
        y, x = (int(rng.integers(n - self._side + 1)) for n in example.shape)
        part = example.crop(y, x, (self._side, self._side))
        return part.turned(int(rng.integers(4)), rng.random() < 0.5, rng.random() < 0.5)


class Held:
    """Whole examples, one to a batch, the same in every epoch."""

    def __init__(self, examples: list[Example]) -> None:
        self.examples, self.epoch = examples, 0

    def __iter__(self) -> Iterator[Batch]:
        return (batch([example]) for example in self.examples)

    def __len__(self) -> int:
        return len(self.examples)


def batch(drawn: Sequence[Example]) -> Batch:
    """Return examples of one shape as arrays for the network."""
    return Batch(
        np.stack([e.view.inputs() for e in drawn]),
        np.stack([fold(e.missing) for e in drawn]),
        # What is padded does not count.
        np.stack([np.tile(fold(_ended(e.trust)), (2, 1, 1)) for e in drawn]),
    )


def _ended(trust: Float) -> Float:
    """Return trust (H, W) as (1, H', W'), zero where the sides are filled up."""
    return np.pad(trust, [(0, -n % MULTIPLE_PX) for n in trust.shape])[None]


def datasets(
    scans: Sequence[Scan],
    validation: Sequence[Scan],
    model: ModelConfig,
    training: TrainingConfig,
    refine: Refine,
    on_step: StepCallback,
) -> tuple[Batches, Held | None]:
    """Return the batches to train on and, where there are any, to validate on.

    `on_step` is called with no progress after every sweep; raises `TrainingError` when it stops the
    training, and `DataError`.
    """
    refine = _reporting(refine, on_step)
    try:
        used = [e for scan in scans for e in examples(scan, model.mode, refine)]
        held = [e for scan in validation for e in examples(scan, model.mode, refine)]
    except StopTraining as reason:
        raise TrainingError(
            f'{str(reason) or "Stopped"} (before the first epoch had finished)'
        ) from reason
    fraction = 0.0 if validation else training.validation_fraction
    if fraction:
        cuts = [_cut(e, fraction) for e in used]
        held = [e.rows(cut, e.shape[0]) for e, cut in zip(used, cuts, strict=True)]
        used = [e.rows(0, cut) for e, cut in zip(used, cuts, strict=True)]
    made = Batches(used, training.batch_size, training.seed)
    return made, Held(held) if held else None


def _cut(example: Example, fraction: float) -> int:
    """Return the row from which a canvas is held out: below it lies this share of what counts."""
    counts = np.cumsum(example.trust.sum(1, dtype=np.float64))
    row = int(np.searchsorted(counts, (1 - fraction) * counts[-1]))
    return max(MULTIPLE_PX, row // MULTIPLE_PX * MULTIPLE_PX)
