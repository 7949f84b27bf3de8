"""The network of `canvas_plan` as a torch module: maps of the canvas in, what is missing out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...canvas_plan import OUTPUT_SHARE, CanvasPlan, canvas_plan
from ...plan import Conv
from ...scan import Float
from ..base import Model
from .network import key
from .weights import import_weights


class Convolution(nn.Conv2d):
    """A convolution whose weights are to be filled in: drawing some takes longer than a sweep."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


class CanvasNetwork(nn.Module):
    """(B, INPUTS, h, w) -> (B, OUTPUTS, h, w), h and w multiples of 4. Weights are to be filled
    in.
    """

    def __init__(self) -> None:
        super().__init__()
        self.plan: CanvasPlan = canvas_plan()
        self.convolutions = nn.ModuleDict(
            {
                key(c.name): Convolution(c.inputs, c.outputs, c.size, padding=c.size // 2)
                for c in self.plan.convolutions()
            }
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the answer."""
        plan = self.plan
        x = inputs.contiguous(memory_format=torch.channels_last)
        x = functional.relu(self._convolve(x, plan.first), inplace=True)
        skips = []
        for across, down in zip(plan.across, plan.down, strict=False):
            x = self._residual(x, across)
            skips.append(x)
            x = functional.relu(self._convolve_down(x, down), inplace=True)
        for across in plan.across[len(plan.down) :]:
            x = self._residual(x, across)
        for up, back in zip(reversed(plan.up), reversed(plan.back), strict=True):
            x = _sum(functional.pixel_shuffle(self._convolve(x, up), 2), skips.pop())
            x = self._residual(x, back)
        return self._convolve(x * OUTPUT_SHARE, plan.last)

    def _residual(self, x: Tensor, conv: Conv) -> Tensor:
        return _sum(functional.relu(self._convolve(x, conv), inplace=True), x)

    def _convolve_down(self, x: Tensor, conv: Conv) -> Tensor:
        """Convolve with what makes 2 x 2 pixels channels first: one strided convolution."""
        pointwise = self.convolutions[key(conv.name)]
        assert isinstance(pointwise, nn.Conv2d)
        weight = pointwise.weight.reshape(conv.outputs, -1, 2, 2)
        return functional.conv2d(x, weight, pointwise.bias, stride=2)

    def _convolve(self, x: Tensor, conv: Conv) -> Tensor:
        return self.convolutions[key(conv.name)](x)  # type: ignore[no-any-return]


def _sum(a: Tensor, b: Tensor) -> Tensor:
    """Return a + b, in the place of a where no gradient will ask for it."""
    return a + b if torch.is_grad_enabled() else a.add_(b)


def runner(model: Model, device: torch.device) -> Callable[[Float], Float]:
    """Return what `Canvas.corrected` asks for its answers."""
    network = CanvasNetwork()
    import_weights(network, model.weights)
    network.to(device).eval()

    @torch.inference_mode()
    def run(inputs: Float) -> Float:
        made = network(torch.from_numpy(inputs)[None].to(device))[0]
        answer: Float = made.contiguous().cpu().numpy()
        return answer

    return run
