"""What a training step sees, decided once for every back end: groups of patterns of one scan as
arrays, in an order fixed by seed and epoch. NumPy only.

A batch is made of compact clusters of neighbours, so that its patches overlap on the common canvas;
which patterns make a cluster changes from epoch to epoch. Letters as in `scan`; C patterns make a
group.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .config import ModelConfig, TrainingConfig
from .geometry import windows
from .grouping import Rows, clusters, neighbour_groups
from .scaling import amplitudes, network_scale, normalised_probe, normalised_truth
from .scan import Complex, Float, Scan

logger = logging.getLogger(__name__)

CLUSTER = 2  # neighbours drawn together, many pairs to a batch; measured in benchmarks/RESEARCH.md


@dataclass(frozen=True, eq=False)
class Source:
    """A scan made ready for networks: usable rows, scales and, for supervised training, the truth.

    probe (P, N, N) normalised; good (N, N) float32, 1 is good; corner_px, shift_px (M, 2)
    """

    scan: Scan
    rows: Rows
    probe: Complex
    good: Float
    corner_px: NDArray[np.int64]
    shift_px: Float
    scale: float
    truth: Complex | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """B groups of C patterns: inputs (B, C, N, N), and per pattern counts (B C, N, N), corner_px
    and shift_px (B C, 2).
    """

    source: Source
    inputs: Float
    counts: Float
    corner_px: NDArray[np.int64]
    shift_px: Float

    def __len__(self) -> int:
        """The number of patterns."""
        return len(self.counts)


def source(scan: Scan, rows: Rows | None = None, *, supervised: bool = False) -> Source:
    """Return a scan made ready, with only `rows` in use."""
    probe, place = normalised_probe(scan), windows(scan)
    return Source(
        scan=scan,
        rows=np.arange(len(scan)) if rows is None else rows,
        probe=probe,
        good=(~scan.bad_pixels).astype(np.float32),
        corner_px=place.corner_px,
        shift_px=place.shift_px,
        scale=network_scale(scan),
        truth=normalised_truth(scan, probe) if supervised else None,
    )


def batch(source: Source, groups: Rows) -> Batch:
    """Return the arrays of groups (B, C) of scan rows."""
    rows = groups.reshape(-1)
    counts = np.where(source.scan.bad_pixels, 0, source.scan.patterns(rows)).astype(np.float32)
    inputs = amplitudes(counts) * np.float32(source.scale)
    return Batch(
        source,
        inputs.reshape(*groups.shape, *inputs.shape[1:]),
        counts,
        source.corner_px[rows],
        source.shift_px[rows],
    )


class Batches:
    """The batches of the epoch number `epoch`, drawn from it and the seed alone.

    `fixed` repeats the same batches for ever, as validation wants.
    """

    def __init__(
        self, sources: list[Source], channels: int, size: int, seed: int, *, fixed: bool = False
    ) -> None:
        self.sources, self.channels, self.size = sources, channels, size
        self.seed, self.fixed, self.epoch = seed, fixed, 0

    def __iter__(self) -> Iterator[Batch]:
        rng = np.random.default_rng([self.seed, self.epoch, int(self.fixed)])
        plan = [(s, groups) for s in self.sources for groups in self._groups(s, rng)]
        order = np.arange(len(plan)) if self.fixed else rng.permutation(len(plan))
        for number in order:
            yield batch(*plan[number])

    def __len__(self) -> int:
        return sum(len(self._groups(s, np.random.default_rng(0))) for s in self.sources)

    def _groups(self, source: Source, rng: np.random.Generator) -> list[Rows]:
        """Return the groups (B, C) of every batch of a scan: clusters dealt at random into
        batches.
        """
        positions = source.scan.positions_px[source.rows]
        groups = source.rows[
            neighbour_groups(positions, self.channels, None if self.fixed else rng)
        ]
        cut = clusters(positions, min(CLUSTER, self.size), rng)
        dealt = np.concatenate([cut[i] for i in rng.permutation(len(cut))])
        return np.array_split(groups[dealt], -(-len(dealt) // self.size))


def datasets(
    scans: Sequence[Scan], validation: Sequence[Scan], model: ModelConfig, training: TrainingConfig
) -> tuple[Batches, Batches | None]:
    """Return the batches to train on and, where there are any, to validate on."""
    supervised, channels = model.mode == 'supervised', model.gridsize**2
    held: list[Source] = [source(s, supervised=supervised) for s in validation]
    used: list[Source] = []
    for number, scan in enumerate(scans):
        fraction = 0.0 if validation else training.validation_fraction
        rows, out = split(len(scan), fraction, channels, training.seed + number)
        made = source(scan, rows, supervised=supervised)
        used.append(made)
        if len(out):
            held.append(replace(made, rows=out))
    if not held and training.validation_fraction:
        logger.info('Too few patterns to hold any out: the training loss is what is watched')
    size = max(1, training.batch_size)
    train_set = Batches(used, channels, size, training.seed)
    return train_set, Batches(held, channels, size, training.seed, fixed=True) if held else None


def split(m: int, fraction: float, channels: int, seed: int) -> tuple[Rows, Rows]:
    """Return (training, held-out) rows of a scan; nothing is held out when too few patterns would
    be left.
    """
    count = round(m * fraction)
    if count < channels or m - count < max(channels, count):
        return np.arange(m), np.arange(0)
    order = np.random.default_rng([seed, 7]).permutation(m)
    return np.sort(order[count:]), np.sort(order[:count])
