"""Losses on torch tensors; the same definitions as `reference`, divided so that their size does not
depend on the dose.

Bad pixels drop out of every sum. Both losses are about (number of lit pixels) / (counts) at the
noise floor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...reference import COUNT_FLOOR


def poisson_loss(intensity: Tensor, counts: Tensor, good: Tensor) -> Tensor:
    """Return the Poisson deviance per count, sum(l - n + n log(n / l)) / sum(n), over good pixels.

    It is the negative log-likelihood less its value at l = n, so it is zero at the data;
    `COUNT_FLOOR` is added to both so that dark pixels have finite gradients.
    """
    n, expected = counts + COUNT_FLOOR, intensity + COUNT_FLOOR
    deviance = expected - n + n * torch.log(n / expected)
    return (deviance * good).sum() / (counts * good).sum().clamp(min=1)


def amplitude_loss(intensity: Tensor, counts: Tensor, good: Tensor) -> Tensor:
    """Return sum((sqrt(l) - sqrt(n))^2) / sum(n) over good pixels: the fourier_error,
    differentiable.
    """
    miss = torch.sqrt(intensity + COUNT_FLOOR) - torch.sqrt(counts + COUNT_FLOOR)
    return (miss.square() * good).sum() / (counts * good).sum().clamp(min=1)


def patch_loss(patches: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Return sum(w |O - T|^2) / sum(w |T|^2) of complex patches (B, N, N) under the light w (B, N,
    N).
    """
    miss = patches - truth
    error = miss.real.square() + miss.imag.square()
    power = truth.real.square() + truth.imag.square()
    return (weight * error).sum() / (weight * power).sum().clamp(min=1e-12)


LOSSES = {'poisson': poisson_loss, 'amplitude': amplitude_loss}
