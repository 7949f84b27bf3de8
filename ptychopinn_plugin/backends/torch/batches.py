"""The batches of `batching` as tensors, for Lightning's loaders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from ... import batching
from ...batching import Source


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

    def __len__(self) -> int:
        """The number of patterns."""
        return len(self.counts)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(
            self.source,
            self.inputs.to(device),
            self.counts.to(device),
            self.corner_px.to(device),
            self.shift_px.to(device),
        )


def tensors(batch: batching.Batch) -> Batch:
    """Return a batch as tensors on the same memory."""
    return Batch(
        batch.source,
        torch.from_numpy(batch.inputs),
        torch.from_numpy(batch.counts),
        torch.from_numpy(batch.corner_px),
        torch.from_numpy(batch.shift_px),
    )


class Drawn(Protocol):
    """Batches of arrays, drawn anew for every epoch."""

    epoch: int

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


class Batches(IterableDataset[Any]):
    """The batches of the epoch number `epoch`, each turned into tensors by `convert`."""

    def __init__(self, batches: Drawn, convert: Callable[[Any], Any] = tensors) -> None:
        self.batches, self.convert = batches, convert

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration draws."""
        return self.batches.epoch

    @epoch.setter
    def epoch(self, number: int) -> None:
        self.batches.epoch = number

    def __iter__(self) -> Iterator[Any]:
        return map(self.convert, self.batches)

    def __len__(self) -> int:
        return len(self.batches)
