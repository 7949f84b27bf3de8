"""Physics sweeps on the object: batched regularised PIE over batches of patterns that lie far
apart.

Each step compares the predicted far-field amplitudes of a batch with the measured ones and merges
the correction onto the object,

    O += sum_j conj(P_j) F^-1{ (sqrt(I_j) / |F_j| - 1) F_j } / ((1 - a) sum_j |P_j|^2 + a max|P|^2),

with P_j the probe moved to position j and a = `REGULARISATION` (rPIE, doi:10.1364/OPTICA.4.000736).
The patterns of a batch are spread over the object, so that a batch steps nearly as far as one
pattern at a time would, and the batches stay the same in every sweep, so that the shifted probes
and the denominators are computed once. The order of the batches is drawn anew for every sweep.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...config import ReconstructionConfig
from ...geometry import windows
from ...grouping import spread_batches
from ...result import ObjectImage, Sweep
from ...scaling import amplitudes
from ...scan import Array, Complex, Scan
from . import physics

REGULARISATION = 0.3  # 0.02 diverges, 0.1 is faster for 5 sweeps and noisier after 20
CACHE_BYTES = (
    1 << 30
)  # shifted probes kept between sweeps; beyond it they are made anew for every batch


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's constants: rows (B,), corners (B, 2), amplitudes (B, N, N) with the zero frequency
    first.
    """

    rows: Array
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
        self.update_probe = config.update_probe
        self.rng = np.random.default_rng(config.seed)
        good = ~np.fft.ifftshift(scan.bad_pixels)
        self.good = None if good.all() else torch.from_numpy(good).to(device, torch.float32)
        self.total_counts = float(scan.totals.sum())
        size = config.sweep_batch_size or default_batch_size(scan)
        self.batches = _batches(scan, size, device)
        self.power = float(self.probe.abs().square().sum())
        held = 12 * len(scan) * self.probe.numel()
        self.cache: dict[int, tuple[Tensor, Tensor]] | None = (
            {} if held <= CACHE_BYTES and not self.update_probe else None
        )

    def sweep(self) -> float:
        """Visit every batch once in random order; return sum(|F| - sqrt(I))^2 / sum(I) met on the
        way.
        """
        error = 0.0
        for number in self.rng.permutation(len(self.batches)):
            error += self._step(int(number))
        if self.update_probe:
            self._fix_scale()
        return error / self.total_counts

    def _step(self, number: int) -> float:
        batch = self.batches[number]
        probes, weight = self._lighting(number)
        side = self.probe.shape[-1]
        patches = physics.extract(self.object, batch.corner_px, side)
        field = torch.fft.fft2(physics.illuminate(patches, probes), norm='ortho')
        modulus = field.abs() if len(self.probe) == 1 else physics.intensity(field).sqrt_()[:, None]
        miss = batch.amplitude[:, None] - modulus
        if self.good is not None:
            miss *= self.good
        error = float(torch.linalg.vector_norm(miss)) ** 2
        field *= miss.div_(modulus.add_(1e-6))
        change = torch.fft.ifft2(field, norm='ortho')
        if self.update_probe:
            self._step_probe(batch, patches, change)
        step = (
            (probes.conj() * change).sum(1)
            if len(self.probe) > 1
            else probes.conj()[:, 0] * change[:, 0]
        )
        self._merge(step.mul_(weight), batch.corner_px)
        return error

    def _lighting(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the shifted probes (B, P, N, N) and 1 / denominator (B, N, N) of a batch."""
        if self.cache is not None and number in self.cache:
            return self.cache[number]
        batch = self.batches[number]
        probes = physics.shift_probe(self.probe, batch.shift_px)
        power = physics.intensity(probes)
        shape = (self.object.shape[0], self.object.shape[1])
        total = physics.merge(power, batch.corner_px, shape)
        floor = REGULARISATION * power.max()
        weight = physics.extract(
            ((1 - REGULARISATION) * total + floor).reciprocal_(),
            batch.corner_px,
            self.probe.shape[-1],
        )
        if self.cache is not None:
            self.cache[number] = (probes, weight)
        return probes, weight

    def _merge(self, patches: Tensor, corner_px: Tensor) -> None:
        """Add patches to the object in place."""
        side = patches.shape[-1]
        if patches.is_cuda:
            self.object += physics.merge(patches, corner_px, tuple(self.object.shape))  # type: ignore[arg-type]
            return
        # Slices of contiguous rows are several times faster than a scatter through an index on a
        # CPU.
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

    def _fix_scale(self) -> None:
        """Keep the probe's power; what it gained or lost goes to the object."""
        gain = math.sqrt(self.power / float(self.probe.abs().square().sum()))
        self.probe *= gain
        self.object /= gain


def default_batch_size(scan: Scan) -> int:
    """Return a batch size that keeps the patterns of a batch apart and the arithmetic in the
    cache.
    """
    return max(4, min(32, len(scan) // 8))


def _batches(scan: Scan, size: int, device: torch.device) -> list[Batch]:
    place = windows(scan)
    good = ~scan.bad_pixels
    batches = []
    for rows in spread_batches(scan.positions_px, size):
        amplitude = np.fft.ifftshift(amplitudes(scan.counts[rows]) * good, axes=(-2, -1))
        batches.append(
            Batch(
                rows,
                torch.from_numpy(place.corner_px[rows]).to(device),
                torch.from_numpy(place.shift_px[rows]).to(device),
                torch.from_numpy(np.ascontiguousarray(amplitude)).to(device),
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
) -> Iterator[Sweep]:
    """Yield the state after each of `config.sweeps` sweeps."""
    sweeper = Sweeper(scan, start, probe, config, device)
    for number in range(1, config.sweeps + 1):
        loss = sweeper.sweep()
        image = ObjectImage(sweeper.object.cpu().numpy().copy(), start.weight, start.origin_px)
        yield Sweep(number, config.sweeps, image, sweeper.probe.cpu().numpy().copy(), loss)
