"""Physics sweeps with PyTorch: its transforms on a CPU, the whole step on a GPU. See `sweeper`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ... import sweeper
from ...config import ReconstructionConfig
from ...host_step import HostStep
from ...result import ObjectImage, Sweep
from ...scan import Complex, Scan
from ...sweep_plan import CACHE_BYTES, SweepPlan
from ...sweeper import Step, Sweeper, kept
from ..base import Model
from . import physics
from .canvas_network import runner
from .transforms import TRANSFORMS


class DeviceStep:
    """A step on a GPU, which keeps object and probe there during a sweep."""

    def __init__(self, sweeper: Sweeper, device: torch.device) -> None:
        self.sweeper, self.device = sweeper, device
        self.object, self.probe = self._tensor(sweeper.object), self._tensor(sweeper.probe)
        good = ~np.fft.ifftshift(sweeper.scan.bad_pixels)
        self.good = None if good.all() else self._tensor(good.astype(np.float32))
        self.light = torch.zeros(self.object.numel(), device=device)
        pixels = len(sweeper.scan) * sweeper.side**2
        self.measured: dict[int, Tensor] | None = {} if 4 * pixels <= CACHE_BYTES else None
        held = 16 * pixels * len(sweeper.probe) <= CACHE_BYTES and not sweeper.update_probe
        self.lights: dict[int, tuple[Tensor, Tensor]] | None = {} if held else None
        self.take_places()

    def take_places(self) -> None:
        """Take the places of the batches from the sweeper, and forget what depended on them."""
        batches = self.sweeper.batches
        self.places = [(self._tensor(b.corner_px), self._tensor(b.shift_px)) for b in batches]
        if self.lights is not None:
            self.lights.clear()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.copy()).to(self.device)

    def __call__(self, number: int, plan: SweepPlan) -> tuple[float, Tensor | None, Tensor | None]:
        """Correct the object (and the probe) by one batch; see `sweeper.Step`."""
        side = self.sweeper.side
        corner_px, shift_px = self.places[number]
        probes, back = kept(self.lights, number, partial(self._lighting, number))
        patches = physics.extract(self.object, corner_px, side)
        field = torch.fft.fft2(physics.illuminate(patches, probes))
        modulus = physics.intensity(field).sqrt_()[:, None]
        miss = kept(self.measured, number, partial(self._amplitude, number)) - modulus
        if self.good is not None:
            miss *= self.good
        error = (float(torch.linalg.vector_norm(miss)) / side) ** 2
        ramps = None
        if plan.correct:
            ramps = physics.centred_ramp_sums(modulus[:, 0], miss[:, 0], self.good).cpu()
        moves = None
        if plan.move:
            moves = self._shift_sums(shift_px, patches, field, modulus, miss, plan).cpu()
        field *= miss.div_(modulus.add_(1e-6)).clamp_(min=-plan.fall).mul_(plan.pace)
        change = torch.fft.ifft2(field)
        if self.sweeper.update_probe:
            self._step_probe(shift_px, patches, change)
        merged = (change * back).sum(1)
        shape = self.object.shape[0], self.object.shape[1]
        self.object += physics.merge(merged, corner_px, shape)
        return error, ramps, moves

    def _shift_sums(
        self,
        shift_px: Tensor,
        patches: Tensor,
        field: Tensor,
        modulus: Tensor,
        miss: Tensor,
        plan: SweepPlan,
    ) -> Tensor:
        """Return the `shift_sums` (B, 6) of a batch; miss falls no deeper than the step does."""
        slopes = self._tensor(self.sweeper.slopes).flatten(0, 1)
        sloped = physics.illuminate(patches, physics.shift_probe(slopes, shift_px))
        sloped = torch.fft.fft2(sloped).unflatten(1, (2, len(self.probe)))
        fallen = torch.maximum(miss, -plan.fall * modulus)[:, 0]
        return physics.shift_sums(field, sloped, modulus[:, 0], fallen, self.good)

    def _amplitude(self, number: int) -> Tensor:
        return self._tensor(self.sweeper.amplitude(number))

    def _lighting(self, number: int) -> tuple[Tensor, Tensor]:
        """Return a batch's shifted probes and conj(probes) / denominator, both (B, P, N, N)."""
        corner_px, shift_px = self.places[number]
        probes = physics.shift_probe(self.probe, shift_px)
        power = physics.intensity(probes)
        # On a scratch canvas, wiped where it was used: the work does not grow with the object.
        index = physics.pixels(corner_px, self.sweeper.side, self.object.shape[1])
        self.light.index_add_(0, index, power.reshape(-1))
        total = self.light.index_select(0, index).reshape(power.shape)
        self.light.index_fill_(0, index, 0.0)
        a = self.sweeper.regularisation
        back = probes.conj() / ((1 - a) * total + a * power.max())[:, None]
        return probes, back

    def _step_probe(self, shift_px: Tensor, patches: Tensor, change: Tensor) -> None:
        """Move the probe modes along the correction, shifted back to the probe's own place."""
        phase = physics.shift_phase(shift_px, self.probe.shape[-1])[:, None]
        local = torch.fft.fft2(patches.conj()[:, None] * change)
        step = torch.fft.ifft2((local * phase.conj()).sum(0))
        density = patches.abs().square().sum(0)
        self.probe = self.probe + step / density.max().clamp(min=1e-12)

    def hand_over(self) -> None:
        """Bring object and probe to the sweeper."""
        self.sweeper.object[:] = self.object.cpu().numpy()
        self.sweeper.probe = self.probe.cpu().numpy().copy()

    def take_over(self) -> None:
        """Take object and probe from the sweeper."""
        self.object, self.probe = (
            self._tensor(self.sweeper.object), self._tensor(self.sweeper.probe)
        )  # fmt: skip


@torch.inference_mode()
def refine(
    scan: Scan,
    start: ObjectImage,
    probe: Complex,
    config: ReconstructionConfig,
    device: torch.device,
    network: Model | None = None,
    *,
    whole: bool | None = None,
) -> Iterator[Sweep]:
    """Yield the state after each of `config.sweeps` sweeps; `whole` takes the whole step on the
    device, as is done where that is a GPU.
    """

    def make_step(made: Sweeper) -> Step:
        on_device = device.type == 'cuda' if whole is None else whole
        return DeviceStep(made, device) if on_device else HostStep(made, TRANSFORMS)

    run = None if network is None else runner(network, device)
    yield from sweeper.refine(scan, start, probe, config, make_step, run)
