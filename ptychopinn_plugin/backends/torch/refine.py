"""Physics sweeps on the object: batched regularised PIE over batches of patterns that lie far
apart.

Each step compares the predicted far-field amplitudes of a batch with the measured ones and merges
the correction onto the object,

    O += sum_j conj(P_j) F^-1{ (sqrt(I_j) / |F_j| - 1) F_j } / ((1 - a) sum_j |P_j|^2 + a max|P|^2),

with P_j the probe moved to position j (rPIE, doi:10.1364/OPTICA.4.000736), times the pace of
`sweep_plan`, which also chooses a, the momentum between sweeps and the batches.
The patterns of a batch are spread over the object, so that a batch steps nearly as far as one
pattern at a time would, and the batches stay the same in every sweep, so that the shifted probes
and the denominators are computed once. The order of the batches is drawn anew for every sweep.
Between sweeps the slowly varying phase is corrected; see `slow_phase`. A network corrects the
object where the plan says so; see `canvas`. So are positions; see `position_correction`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...canvas import Canvas
from ...config import ReconstructionConfig
from ...geometry import windows
from ...grouping import spread_batches
from ...position_correction import Positions, shift_slopes, shift_sums
from ...probe_modes import orthogonal
from ...result import ObjectImage, Sweep
from ...scaling import amplitudes
from ...scan import Complex, Float, Scan
from ...slow_phase import SlowPhase, mean_ramp, plane, ramp_sums
from ...sweep_plan import CACHE_BYTES, SweepPlan, batch_size, plan_sweep, regularisation
from ..base import Model
from . import physics
from .canvas_network import runner


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's constants: corners, shifts (B, 2), amplitudes times N (B, 1, N, N), zero first."""

    corner_px: Tensor
    shift_px: Tensor
    amplitude: Tensor


class Sweeper:
    """The object and probe while they are refined; `sweep` takes one pass over all patterns."""

    def __init__(
        self,
        scan: Scan,
        start: ObjectImage,
        probe: Complex,
        config: ReconstructionConfig,
        device: torch.device,
    ) -> None:
        self.object = torch.from_numpy(start.object.copy()).to(device)
        self.probe = torch.from_numpy(probe.copy()).to(device)
        self.update_probe, self.weight = config.update_probe, start.weight
        self.rng = np.random.default_rng(config.seed)
        good = ~np.fft.ifftshift(scan.bad_pixels)
        self.good = None if good.all() else torch.from_numpy(good).to(device, torch.float32)
        self.total_counts = float(scan.totals.sum())
        size = config.sweep_batch_size or batch_size(scan)
        self.batches = _batches(scan, size, device)
        self.side = self.probe.shape[-1]
        self.light = torch.zeros(self.object.numel(), device=device)
        self.power = float(self.probe.abs().square().sum())
        held = 16 * len(scan) * self.probe.numel()
        self.cache: dict[int, tuple[Tensor, Tensor]] | None = (
            {} if held <= CACHE_BYTES and not self.update_probe else None
        )
        corner_px = torch.cat([b.corner_px for b in self.batches]).cpu().numpy()
        self.slow = SlowPhase(corner_px, probe, scan.frame.shape)
        self.regularisation, self.last = regularisation(probe), self.object.clone()
        self.positions: Positions | None = None
        if config.correct_positions:
            self.positions = Positions(scan, spread_batches(scan.positions_px, size))
        self.slopes, self.moves = self.probe[None], [np.empty(0, np.float32)] * len(self.batches)

    def sweep(self, plan: SweepPlan) -> float:
        """Visit every batch once in random order; return sum(|F| - sqrt(I))^2 / sum(I) met on the
        way. Then correct the slow phase, if planned, by the displacements met on the way.
        """
        error = 0.0
        ramps: list[Tensor | None] = [None] * len(self.batches)
        if plan.move:
            self.slopes = torch.from_numpy(shift_slopes(self.probe.cpu().numpy())).to(self.probe)
        for number in self.rng.permutation(len(self.batches)):
            error += self._step(int(number), plan, ramps)
        if self.update_probe:
            self._fix_ambiguities()
        if plan.correct:
            phase = self.slow.phase(torch.cat([r for r in ramps if r is not None]).cpu().numpy())
            turn = torch.from_numpy(phase).to(self.object.device)
            self.object *= torch.polar(torch.ones_like(turn), turn)
        if plan.move:
            self._move_patterns()
        return error / self.total_counts

    def push(self, momentum: float) -> None:
        """Push the object on by a share of its change since the last push."""
        now = self.object.clone()
        if momentum:
            self.object += momentum * (now - self.last)
        self.last = now

    def _step(self, number: int, plan: SweepPlan, ramps: list[Tensor | None]) -> float:
        batch = self.batches[number]
        probes, back = self._lighting(number)
        patches = physics.extract(self.object, batch.corner_px, self.side)
        # Transforms without a norm are faster than unitary ones; the amplitudes carry the factor N.
        field = torch.fft.fft2(physics.illuminate(patches, probes))
        modulus = _modulus(field)
        miss = batch.amplitude - modulus
        if self.good is not None:
            miss *= self.good
        error = (float(torch.linalg.vector_norm(miss)) / self.side) ** 2
        if plan.correct:
            ramps[number] = _ramp_sums(modulus[:, 0], miss[:, 0], self.good)
        if plan.move:
            self.moves[number] = self._shift_sums(batch, patches, field, modulus, miss, plan)
        field *= miss.div_(modulus.add_(1e-6)).clamp_(min=-plan.fall).mul_(plan.pace)
        change = torch.fft.ifft2(field)
        if self.update_probe:
            self._step_probe(batch, patches, change)
        change *= back
        self._merge(change[:, 0] if len(self.probe) == 1 else change.sum(1), batch.corner_px)
        return error

    def _lighting(self, number: int) -> tuple[Tensor, Tensor]:
        """Return a batch's shifted probes and conj(probes) / denominator, both (B, P, N, N)."""
        if self.cache is not None and number in self.cache:
            return self.cache[number]
        batch = self.batches[number]
        probes = physics.shift_probe(self.probe, batch.shift_px)
        power = physics.intensity(probes)
        # On a scratch canvas, wiped where it was used: the work does not grow with the object.
        index = physics.pixels(batch.corner_px, self.side, self.object.shape[1])
        self.light.index_add_(0, index, power.reshape(-1))
        total = self.light.index_select(0, index).reshape(power.shape)
        self.light.index_fill_(0, index, 0.0)
        floor = self.regularisation * power.max()
        back = probes.conj() / ((1 - self.regularisation) * total + floor)[:, None]
        if self.cache is not None:
            self.cache[number] = (probes, back)
        return probes, back

    def _merge(self, patches: Tensor, corner_px: Tensor) -> None:
        """Add patches to the object in place."""
        side = self.side
        if patches.is_cuda:
            self.object += physics.merge(patches, corner_px, tuple(self.object.shape))  # type: ignore[arg-type]
            return
        # On a CPU slices of rows take 180 us for 32 windows of 64x64, a scatter by index 310.
        canvas, values = self.object.numpy(), patches.numpy()
        for (y, x), value in zip(corner_px.tolist(), values, strict=True):
            canvas[y : y + side, x : x + side] += value

    def _step_probe(self, batch: Batch, patches: Tensor, change: Tensor) -> None:
        """Move the probe modes along the correction, shifted back to the probe's own place."""
        phase = physics.shift_phase(batch.shift_px, self.probe.shape[-1])[:, None]
        local = torch.fft.fft2(patches.conj()[:, None] * change)
        step = torch.fft.ifft2((local * phase.conj()).sum(0))
        density = patches.abs().square().sum(0)
        self.probe = self.probe + step / density.max().clamp(min=1e-12)

    def _shift_sums(
        self,
        batch: Batch,
        patches: Tensor,
        field: Tensor,
        modulus: Tensor,
        miss: Tensor,
        plan: SweepPlan,
    ) -> Float:
        """Return the `shift_sums` (B, 6) of a batch; miss falls no deeper than the step does."""
        sloped = physics.shift_probe(self.slopes.flatten(0, 1), batch.shift_px)
        sloped = torch.fft.fft2(physics.illuminate(patches, sloped))
        sloped = sloped.unflatten(1, (2, len(self.probe)))
        modulus, miss = modulus[:, 0], torch.maximum(miss, -plan.fall * modulus)[:, 0]
        if field.is_cuda:
            return physics.shift_sums(field, sloped, modulus, miss, self.good).cpu().numpy()
        good = None if self.good is None else self.good.numpy()
        return shift_sums(field.numpy(), sloped.numpy(), modulus.numpy(), miss.numpy(), good)

    def _move_patterns(self) -> None:
        """Correct the positions, and what depends on them."""
        assert self.positions is not None
        self.positions.correct(np.concatenate(self.moves))
        place, device = self.positions.windows, self.object.device
        for number, rows in enumerate(self.positions.batches):
            self.batches[number] = replace(
                self.batches[number],
                corner_px=torch.from_numpy(place.corner_px[rows]).to(device),
                shift_px=torch.from_numpy(place.shift_px[rows]).to(device),
            )
        if self.cache is not None:
            self.cache.clear()
        self.slow.move(place.corner_px[np.concatenate(self.positions.batches)])

    def _fix_ambiguities(self) -> None:
        """Keep the probe's power, its modes orthogonal, and the object without a phase ramp: what
        the data cannot tell goes to the other of the two.
        """
        device = self.object.device
        if len(self.probe) > 1:
            self.probe = torch.from_numpy(orthogonal(self.probe.cpu().numpy())).to(device)
        gain = math.sqrt(self.power / float(self.probe.abs().square().sum()))
        y, x = mean_ramp(self.object.cpu().numpy(), self.weight)
        self.probe *= gain * torch.from_numpy(plane((self.side, self.side), (y, x))).to(device)
        turn = torch.from_numpy(plane(self.weight.shape, (-y, -x))).to(device) / gain
        self.object *= turn
        self.last *= turn


def _modulus(field: Tensor) -> Tensor:
    """Return the square root of the intensity, (B, P, N, N) -> (B, 1, N, N)."""
    if field.is_cuda:
        return physics.intensity(field).sqrt_()[:, None]
    # NumPy's loops over complex numbers are vectorised, torch's are not: 90 us against 330.
    values = field.numpy()
    if values.shape[1] == 1:
        return torch.from_numpy(np.abs(values))
    power = (values.real**2 + values.imag**2).sum(1, keepdims=True)
    return torch.from_numpy(np.sqrt(power, out=power))


def _ramp_sums(modulus: Tensor, miss: Tensor, good: Tensor | None) -> Tensor:
    if modulus.is_cuda:
        return physics.ramp_sums(modulus, miss, good)
    allowed = None if good is None else good.numpy()
    return torch.from_numpy(ramp_sums(modulus.numpy(), miss.numpy(), allowed))


def _batches(scan: Scan, size: int, device: torch.device) -> list[Batch]:
    place = windows(scan)
    good = ~scan.bad_pixels
    batches = []
    for rows in spread_batches(scan.positions_px, size):
        amplitude = np.fft.ifftshift(amplitudes(scan.counts[rows]) * good, axes=(-2, -1))
        batches.append(
            Batch(
                torch.from_numpy(place.corner_px[rows]).to(device),
                torch.from_numpy(place.shift_px[rows]).to(device),
                torch.from_numpy(amplitude[:, None] * np.float32(scan.side_px)).to(device),
            )
        )
    return batches


@torch.inference_mode()
def refine(
    scan: Scan,
    start: ObjectImage,
    probe: Complex,
    config: ReconstructionConfig,
    device: torch.device,
    network: Model | None = None,
) -> Iterator[Sweep]:
    """Yield the state after each of `config.sweeps` sweeps."""
    sweeper = Sweeper(scan, start, probe, config, device)
    positions = sweeper.positions
    corrector = None
    if network is not None:
        run = runner(network, device)
        corrector = partial(Canvas(scan, probe).corrected, run)
    last = start.object
    for number in range(1, config.sweeps + 1):
        plan = plan_sweep(
            number, config.sweeps,
            slow_phase=config.slow_phase, correct_positions=config.correct_positions,
        )  # fmt: skip
        loss = sweeper.sweep(plan)
        found = sweeper.object.cpu().numpy().copy()
        if corrector is not None and plan.network:
            if positions is not None:
                corrector = partial(Canvas(positions.scan, probe).corrected, run)
            found = corrector(
                found, last, loss=loss, pace=plan.pace, number=number, share=plan.network
            )
            sweeper.object = torch.from_numpy(found.copy()).to(device)
        last = found
        image = ObjectImage(found, start.weight, start.origin_px)
        yield Sweep(
            number, config.sweeps, image, sweeper.probe.cpu().numpy().copy(), loss,
            scan.positions_px if positions is None else positions.px,
        )  # fmt: skip
        sweeper.push(plan.momentum)
