"""The networks of `plan` as torch modules: patterns in, complex object patches out.

Input (B, C, N, N) normalised amplitudes, zero frequency at [N // 2, N // 2]; output (B, C, N, N)
complex64 patches whose centre is (N - 1) / 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...plan import Conv, Decoder, Plan


class Autoencoder(nn.Module):
    """PtychoPINN as published, for any even N; see `plan`. Weights are to be filled in."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        # Keys cannot hold dots in a ModuleDict; the canonical name is restored in `weights`.
        self.convolutions = nn.ModuleDict(
            {key(c.name): nn.Conv2d(c.inputs, c.outputs, 3, padding=1) for c in plan.convolutions()}
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, amplitudes: Tensor) -> Tensor:
        """Return complex patches (B, C, N, N) for normalised amplitudes (B, C, N, N)."""
        margin = (self.plan.padded_px - self.plan.side_px) // 2
        x = functional.pad(amplitudes, (margin,) * 4) if margin else amplitudes
        x = x.contiguous(memory_format=torch.channels_last)
        for stage in self.plan.encoder:
            x = functional.max_pool2d(self._stage(x, stage), 2)
        amplitude = torch.sigmoid(self._decode(x, self.plan.decoders['amplitude']))
        phase = math.pi * torch.tanh(self._decode(x, self.plan.decoders['phase']))
        return torch.polar(amplitude.contiguous(), phase.contiguous())

    def _stage(self, x: Tensor, stage: tuple[Conv, Conv]) -> Tensor:
        for conv in stage:
            x = functional.relu(self._convolve(x, conv), inplace=True)
        return x

    def _convolve(self, x: Tensor, conv: Conv) -> Tensor:
        return self.convolutions[key(conv.name)](x)  # type: ignore[no-any-return]

    def _decode(self, x: Tensor, decoder: Decoder) -> Tensor:
        """Return the pre-activation map (B, C, N, N): the fine centre inside the coarse outer
        frame.
        """
        for stage in decoder.stages:
            x = functional.interpolate(self._stage(x, stage), scale_factor=2, mode='nearest')
        side, centre = self.plan.side_px, self.plan.central_px
        fine = crop(self._convolve(x[:, : decoder.head.inputs], decoder.head), centre)
        margin = (side - centre) // 2
        fine = functional.pad(fine, (margin,) * 4)
        if decoder.frame is None:
            return fine
        coarse = self._convolve(x[:, decoder.head.inputs :], decoder.frame)
        coarse = crop(functional.interpolate(coarse, scale_factor=2, mode='nearest'), side)
        return fine + coarse * self._frame_mask(coarse)

    def _frame_mask(self, like: Tensor) -> Tensor:
        """Return 1 outside the central square, 0 inside, (N, N)."""
        margin = (self.plan.side_px - self.plan.central_px) // 2
        mask = like.new_ones(like.shape[-2:])
        mask[margin:-margin, margin:-margin] = 0
        return mask


def crop(x: Tensor, side: int) -> Tensor:
    """Return the central side x side of the last two axes."""
    margin = (x.shape[-1] - side) // 2
    return x[..., margin : margin + side, margin : margin + side]


def key(name: str) -> str:
    """Return the canonical convolution name as a module key."""
    return name.replace('.', '_')
