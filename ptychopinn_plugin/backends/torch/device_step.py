"""The step of the sweeps on a GPU; see `sweeper`.

A batch is some forty short kernels, which take longer to launch than to run. So they are recorded
once as a CUDA graph and played for every batch; which batch it is stands on the GPU, too, so that
nothing is told it or waits for it before the end of a sweep. All batches have the same size there:
a shorter one is filled up with patterns without light.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ...grouping import Rows
from ...scan import Float
from ...sweep_plan import CACHE_BYTES, SweepPlan
from ...sweeper import Sums, Sweeper
from . import physics

HELD_SHARE = 0.4  # of the GPU's free memory, for the amplitudes and again for the probes
WARM_UPS = 2  # before a recording: transforms are planned and memory is taken
AHEAD = 32  # batches whose amplitudes are made at a time


class DeviceStep:
    """A step that keeps object and probe on a device during a sweep. K batches of B patterns."""

    def __init__(self, sweeper: Sweeper, device: torch.device) -> None:
        self.sweeper, self.device = sweeper, device
        self.object, self.probe = self._tensor(sweeper.object), self._tensor(sweeper.probe)
        self.slopes = torch.zeros(2, *self.probe.shape, dtype=self.probe.dtype, device=device)
        self.background = float(sweeper.scan.background * sweeper.side**2)  # as the fields are
        good = ~np.fft.ifftshift(sweeper.scan.bad_pixels)
        self.good = None if good.all() else self._tensor(good.astype(np.float32))
        self.light = self._zeros(self.object.numel())
        self.window = physics.window(sweeper.side, self.object.shape[1], device)
        count, size = len(sweeper.batches), max(len(b.rows) for b in sweeper.batches)
        # What the recorded kernels read: which batches, in what order, how far they step, and a.
        self.order, self.turn = (self._zeros(n, dtype=torch.int64) for n in (count, 1))
        self.pace, self.least, self.a = self._zeros(), self._zeros(), self._zeros()
        self.first = self._zeros(count, size, dtype=torch.int64)
        self.shift_px = self._zeros(count, size, 2)
        self.present = self._zeros(count, size, 1, 1)
        # What they leave.
        self.missed = self._zeros(dtype=torch.float64)
        self.ramps, self.moves = (self._zeros(count, size, n) for n in (5, 6))
        self.graphs: dict[tuple[bool, bool], torch.cuda.CUDAGraph] = {}
        shape = size, len(sweeper.probe), sweeper.side, sweeper.side
        most = self._most_bytes()
        self.amplitude = self._zeros(size, 1, *shape[2:])
        self.amplitudes = self.probes = self.backs = None
        if 4 * count * self.amplitude.numel() <= most:
            self.amplitudes = self._zeros(count, *self.amplitude.shape)
            for number, amplitude in enumerate(self._made()):
                self.amplitudes[number, : len(amplitude)] = self._first(amplitude)
        if 16 * count * np.prod(shape) <= most and not sweeper.update_probe:
            self.probes, self.backs = (
                self._zeros(count, *shape, dtype=self.probe.dtype) for _ in range(2)
            )
        self.take_places()

    def _most_bytes(self) -> float:
        if self.device.type != 'cuda':
            return CACHE_BYTES
        return HELD_SHARE * torch.cuda.mem_get_info(self.device)[0]

    def _zeros(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.copy()).to(self.device)

    def _made(self) -> Iterator[Float]:
        """Yield the amplitudes of every batch."""
        count = len(self.sweeper.batches)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for start in range(0, count, AHEAD):
                numbers = range(start, min(count, start + AHEAD))
                yield from pool.map(self.sweeper.amplitude, numbers)

    def _first(self, amplitude: Float) -> Tensor:
        """Return amplitudes times N (B, 1, N, N), the zero frequency first, zero on bad pixels."""
        there = torch.fft.ifftshift(torch.from_numpy(amplitude).to(self.device), dim=(-2, -1))
        there *= self.sweeper.side
        if self.good is not None:
            there *= self.good
        made: Tensor = there[:, None]
        return made

    def take_places(self) -> None:
        """Take the places of the batches and a from the sweeper, and what depends on them."""
        self.a.fill_(self.sweeper.regularisation)
        width = self.object.shape[1]
        first, shift_px, present = (
            t.cpu().numpy() for t in (self.first, self.shift_px, self.present)
        )
        for number, batch in enumerate(self.sweeper.batches):
            rows = slice(0, len(batch.rows))
            first[number, rows] = batch.corner_px[:, 0] * width + batch.corner_px[:, 1]
            shift_px[number, rows] = batch.shift_px
            present[number, rows, 0, 0] = self.sweeper.beam.present[batch.rows]
        for tensor, array in (
            (self.first, first),
            (self.shift_px, shift_px),
            (self.present, present),
        ):
            tensor.copy_(torch.from_numpy(array))
        if self.probes is not None and self.backs is not None:
            for number in range(len(first)):
                index, shifts, there = self._places(number)
                self.probes[number], self.backs[number] = self._lighting(index, shifts, there)

    def take_gains(self, change: Float) -> None:
        """Multiply the amplitudes that are kept by the change (M,) of the sweeper's `gains`."""
        if self.amplitudes is not None:
            factors = self._tensor(self.sweeper.by_batch(change))
            self.amplitudes *= factors[:, :, None, None, None]

    def _places(self, number: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the flat pixels, the shifts and the presence of the patterns of a batch."""
        first, shift_px, present = (
            _of(t, number) for t in (self.first, self.shift_px, self.present)
        )
        return (first[:, None, None] + self.window).reshape(-1), shift_px, present

    def sweep(self, order: Rows, plan: SweepPlan) -> tuple[float, Sums, Sums]:
        """Take the batches in this order; see `sweeper.Step`."""
        self.pace.fill_(plan.pace)
        self.least.fill_(-plan.fall)
        self.missed.zero_()
        self.turn.zero_()
        self.order[: len(order)] = torch.from_numpy(order)
        if plan.move:
            self.slopes.copy_(torch.from_numpy(self.sweeper.slopes))
        for number in order.tolist():
            if self.amplitudes is None:
                amplitude = self._first(self.sweeper.amplitude(number))
                self.amplitude[: len(amplitude)], self.amplitude[len(amplitude) :] = amplitude, 0
            self._play(plan.correct, plan.move)
        return (
            float(self.missed) / self.sweeper.side**2,
            self._of_patterns(self.ramps, len(order)) if plan.correct else None,
            self._of_patterns(self.moves, len(order)) if plan.move else None,
        )

    def _of_patterns(self, sums: Tensor, count: int) -> Sums:
        """Return the sums of the patterns of the first so many batches."""
        pairs = zip(sums[:count].cpu().numpy(), self.sweeper.batches, strict=False)
        return np.concatenate([s[: len(b.rows)] for s, b in pairs])

    def _play(self, correct: bool, move: bool) -> None:
        if self.device.type != 'cuda':
            self._step(correct, move)
            return
        if (correct, move) not in self.graphs:
            self.graphs[correct, move] = self._recorded(correct, move)
        self.graphs[correct, move].replay()

    def _recorded(self, correct: bool, move: bool) -> torch.cuda.CUDAGraph:
        """Return the kernels of a batch; what they change is as it was."""
        changed = self.object, self.probe, self.missed, self.ramps, self.moves, self.turn
        before = [t.clone() for t in changed]
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._step(correct, move)
                self.turn.copy_(before[-1])
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step(correct, move)
        for tensor, was in zip(changed, before, strict=True):
            tensor.copy_(was)
        return graph

    def _step(self, correct: bool, move: bool) -> None:
        """Correct the object (and the probe) by the batch whose turn it is."""
        number = self.order.index_select(0, self.turn)
        index, shift_px, present = self._places(number)
        if self.probes is None or self.backs is None:
            probes, back = self._lighting(index, shift_px, present)
        else:
            probes, back = _of(self.probes, number), _of(self.backs, number)
        amplitude = self.amplitude if self.amplitudes is None else _of(self.amplitudes, number)
        flat = self.object.view(-1)
        patches = flat.index_select(0, index).view(amplitude[:, 0].shape)
        field = torch.fft.fft2(physics.illuminate(patches, probes))
        modulus = physics.modulus(field, self.background)
        miss = amplitude - modulus
        if self.good is not None:
            miss *= self.good
        self.missed += torch.dot(miss.view(-1), miss.view(-1))
        if correct:
            sums = physics.centred_ramp_sums(modulus[:, 0], miss[:, 0], self.good)
            self.ramps.index_copy_(0, number, sums[None])
        if move:
            sums = self._shift_sums(shift_px, patches, field, modulus, miss)
            self.moves.index_copy_(0, number, sums[None])
        field *= torch.maximum(miss.div_(modulus.add_(1e-6)), self.least).mul_(self.pace)
        change = torch.fft.ifft2(field)
        if self.sweeper.update_probe:
            self._step_probe(shift_px, present, patches, change)
        merged = change.mul_(back)
        merged = merged[:, 0] if merged.shape[1] == 1 else merged.sum(1)
        flat.index_add_(0, index, merged.reshape(-1))
        self.turn += 1

    def _shift_sums(
        self, shift_px: Tensor, patches: Tensor, field: Tensor, modulus: Tensor, miss: Tensor
    ) -> Tensor:
        """Return the `shift_sums` (B, 6) of a batch; miss falls no deeper than the step does."""
        slopes = physics.shift_probe(self.slopes.flatten(0, 1), shift_px)
        sloped = torch.fft.fft2(physics.illuminate(patches, slopes))
        sloped = sloped.unflatten(1, (2, len(self.probe)))
        fallen = torch.maximum(miss, self.least * modulus)[:, 0]
        return physics.shift_sums(field, sloped, modulus[:, 0], fallen, self.good)

    def _lighting(self, index: Tensor, shift_px: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch's shifted probes and conj(probes) / denominator, both (B, P, N, N)."""
        probes = physics.shift_probe(self.probe, shift_px) * present[:, None]
        power = physics.intensity(probes)
        # On a scratch canvas, wiped where it was used: the work does not grow with the object.
        self.light.index_add_(0, index, power.reshape(-1))
        total = self.light.index_select(0, index).reshape(power.shape)
        self.light.index_fill_(0, index, 0.0)
        most = power.max().clamp(min=1e-30)  # where none of them has light
        back = probes.conj() / ((1 - self.a) * total + self.a * most)[:, None]
        return probes, back

    def _step_probe(
        self, shift_px: Tensor, present: Tensor, patches: Tensor, change: Tensor
    ) -> None:
        """Move the probe modes along the correction, shifted back to the probe's own place."""
        phase = physics.shift_phase(shift_px, self.probe.shape[-1])[:, None]
        local = torch.fft.fft2(patches.conj()[:, None] * change)
        step = torch.fft.ifft2((local * phase.conj()).sum(0))
        density = (physics.intensity(patches[:, None]) * present).sum(0)
        self.probe += step * (self.sweeper.follow / density.max().clamp(min=1e-12))

    def hand_over(self) -> None:
        """Bring object and probe to the sweeper."""
        torch.from_numpy(self.sweeper.object).copy_(self.object)
        self.sweeper.probe = self.probe.cpu().numpy().copy()

    def take_over(self) -> None:
        """Take object and probe from the sweeper."""
        self.object.copy_(torch.from_numpy(self.sweeper.object))
        self.probe.copy_(torch.from_numpy(self.sweeper.probe))


def _of(stack: Tensor, number: int | Tensor) -> Tensor:
    """Return an element of a stack, by a number or by one that stands on the device, (1,)."""
    return stack[number] if isinstance(number, int) else stack.index_select(0, number)[0]
