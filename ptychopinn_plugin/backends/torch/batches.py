"""What a training step sees: groups of patterns of one scan as tensors, in an order fixed by seed
and epoch.

A batch is made of compact clusters of neighbours, so that its patches overlap on the common canvas;
which patterns make a cluster changes from epoch to epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from ...geometry import windows
from ...grouping import Rows, clusters, neighbour_groups
from ...scaling import amplitudes, network_scale, normalised_probe, normalised_truth
from ...scan import Scan

CLUSTER = 2  # neighbours drawn together, many pairs to a batch; measured in benchmarks/RESEARCH.md


@dataclass(frozen=True, eq=False)
class Source:
    """A scan made ready for networks: rows usable, scales and, for supervised training, the
    truth.
    """

    scan: Scan
    rows: Rows
    probe: Tensor  # (P, N, N) normalised
    good: Tensor  # (N, N) float32, 1 is good
    corner_px: Tensor  # (M, 2) int64
    shift_px: Tensor  # (M, 2) float32
    scale: float
    truth: Tensor | None = None  # (H, W)


@dataclass(frozen=True, eq=False)
class Batch:
    """B groups of C patterns: inputs (B, C, N, N), and per pattern counts (B C, N, N), corners,
    shifts (B C, 2).
    """

    source: Source
    inputs: Tensor
    counts: Tensor
    corner_px: Tensor
    shift_px: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(
            self.source,
            self.inputs.to(device),
            self.counts.to(device),
            self.corner_px.to(device),
            self.shift_px.to(device),
        )


def source(scan: Scan, rows: Rows | None = None, *, supervised: bool = False) -> Source:
    """Return a scan made ready, with only `rows` in use."""
    probe, place = normalised_probe(scan), windows(scan)
    return Source(
        scan=scan,
        rows=np.arange(len(scan)) if rows is None else rows,
        probe=torch.from_numpy(probe),
        good=torch.from_numpy((~scan.bad_pixels).astype(np.float32)),
        corner_px=torch.from_numpy(place.corner_px),
        shift_px=torch.from_numpy(place.shift_px),
        scale=network_scale(scan),
        truth=torch.from_numpy(normalised_truth(scan, probe)) if supervised else None,
    )


def batch(source: Source, groups: Rows) -> Batch:
    """Return the tensors of groups (B, C) of scan rows."""
    rows = groups.reshape(-1)
    counts = np.where(source.scan.bad_pixels, 0, source.scan.counts[rows]).astype(np.float32)
    inputs = amplitudes(counts) * np.float32(source.scale)
    where = torch.from_numpy(rows)
    return Batch(
        source,
        torch.from_numpy(inputs.reshape(*groups.shape, *inputs.shape[1:])),
        torch.from_numpy(counts),
        source.corner_px[where],
        source.shift_px[where],
    )


class Batches(IterableDataset[Batch]):
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
