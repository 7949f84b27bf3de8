"""PyTorch's transforms for the far field on a CPU; see `transforms.Transforms`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from ...scan import Complex, Float
from ...transforms import Transforms


def _fft2(waves: Complex) -> Complex:
    made: Complex = torch.fft.fft2(torch.from_numpy(waves)).numpy()
    return made


def _ifft2(field: Complex) -> Complex:
    made: Complex = torch.fft.ifft2(torch.from_numpy(field)).numpy()
    return made


def _product(a: Float, b: Float, out: Float | None = None) -> Float:
    into = None if out is None else torch.from_numpy(out)
    with _alone():  # waking the others takes longer than matrices as small as these
        made: Float = torch.mm(torch.from_numpy(a), torch.from_numpy(b), out=into).numpy()
    return made


@contextmanager
def _alone() -> Iterator[None]:
    with flushing_denormals():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # of this thread
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def flushing_denormals() -> Iterator[None]:
    """Flush denormals, which slow a CPU by 40, in this thread; give the flag back after."""
    flushed = float(np.float32(1e-40) * np.float32(1)) == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)


TRANSFORMS = Transforms(_fft2, _ifft2, _product, torch.get_num_threads, _alone)
