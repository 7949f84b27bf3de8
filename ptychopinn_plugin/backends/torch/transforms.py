"""PyTorch's transforms for the far field on a CPU; see `transforms.Transforms`."""

from __future__ import annotations

import numpy as np
import torch

from ...scan import Complex, Float
from ...transforms import Transforms


def _empty(shape: tuple[int, ...]) -> Complex:
    return np.empty(shape, np.complex64)


def _fft2(waves: Complex) -> Complex:
    made: Complex = torch.fft.fft2(torch.from_numpy(waves)).numpy()
    return made


def _ifft2(field: Complex) -> Complex:
    made: Complex = torch.fft.ifft2(torch.from_numpy(field)).numpy()
    return made


def _product(a: Float, b: Float) -> Float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # waking the others takes longer than matrices as small as these
    made: Float = (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()
    torch.set_num_threads(threads)
    return made


def _alone() -> None:
    torch.set_num_threads(1)  # these and the next are of the calling thread
    torch.set_flush_denormal(True)


TRANSFORMS = Transforms(_empty, _fft2, _ifft2, _product, torch.get_num_threads, _alone)
