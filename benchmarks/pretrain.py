"""Train the network that comes with the plug-in.

    python benchmarks/pretrain.py [--scans 4000] [--steps 60000] [--jobs 2] [--device cuda]
        [--initial MODEL [--kept SHARE]] [--seconds 600] [--folder build/pretrain] [--output FILE]

Makes scans of `random_scans`, sweeps over them, keeps what the network would see with what is
missing (one NPZ per scan), and trains on crops. Both halves go on where they were stopped: scans
that are there are not made again, and the training begins at its last checkpoint. The last scans
are held out.

Seven tenths of the sweeps over sparse scans have a network after one, two or three of its looks
(`--within`, by default the one that comes with the plug-in), so that later canvases are those that
it will see.

`--seconds` makes as many scans and takes as many steps as fit: a third of the time is for scans. A
scan takes 2 to 3 s on one core; a step of 16 crops 0.06 s with `--bfloat16` where a core has that,
one of 64 takes 5 ms on a GPU.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_scans import random_scan
from torch import Tensor
from torch.nn.functional import avg_pool2d, pixel_unshuffle

from ptychopinn_plugin import load_model, save_model, sweeper
from ptychopinn_plugin.atomic import atomic_path
from ptychopinn_plugin.backends.base import Model
from ptychopinn_plugin.backends.torch.canvas_module import CanvasBatch, CanvasModule
from ptychopinn_plugin.backends.torch.canvas_network import runner
from ptychopinn_plugin.backends.torch.transforms import TRANSFORMS
from ptychopinn_plugin.backends.torch.weights import export_weights, import_weights
from ptychopinn_plugin.canvas import View
from ptychopinn_plugin.canvas_plan import OUTPUTS
from ptychopinn_plugin.canvas_training import CROP_PX, Example, example
from ptychopinn_plugin.config import ModelConfig, ReconstructionConfig, TrainingConfig
from ptychopinn_plugin.errors import PluginError
from ptychopinn_plugin.host_step import HostStep
from ptychopinn_plugin.light import FEW_VIEWS
from ptychopinn_plugin.pretrained import pretrained
from ptychopinn_plugin.scaling import normalised_probe, normalised_truth
from ptychopinn_plugin.scan import Float, Scan
from ptychopinn_plugin.starts import best_start, flat_start
from ptychopinn_plugin.sweep_plan import NETWORK_SWEEPS

HELD = 40  # scans, of fewer than 160 a quarter
RATE, WARM_STEPS = 1.5e-3, 500
AVERAGE = 0.9995  # of the weights before, in the average that is kept
SETTLED = 0.5  # of the crops come from the second half of the sweeps
SCANS_SHARE = 1 / 3  # of the time
BRIGHT_TRUST = 0.99
NUMBER = 22  # of the inputs: tells the sweep
SPEED_STEPS = 300  # after which it is known how many fit
CPU = torch.device('cpu')
Views = list[tuple[Example, bool]]


def make(seed: int, folder: Path, within: Path | None) -> str:
    """Make the examples of one scan unless they are there; return what was done."""
    target = folder / f'{seed:06d}.npz'
    if target.exists():
        return 'there'
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    logging.disable(logging.CRITICAL)
    model = pretrained() if within is None else load_model(within)
    try:
        scan = random_scan(seed)
        found = list(canvases(scan, runner(model, CPU), np.random.default_rng([5, seed])))
    except PluginError as error:  # a scan without light on some pattern: another seed is as good
        return f'refused: {error}'
    arrays: dict[str, Any] = {
        'fine': np.stack([e.view.fine for e, _ in found]).astype(np.float16),
        'coarse': np.stack([e.view.coarse for e, _ in found]).astype(np.float16),
        'state': np.stack([e.view.state for e, _ in found]),
        'missing': np.stack([e.missing for e, _ in found]).astype(np.float16),
        'trust': found[0][0].trust.astype(np.float16),
        'settled': np.array([settled for _, settled in found]),
    }
    with atomic_path(target) as part, open(part, 'wb') as stream:
        np.savez(stream, allow_pickle=False, **arrays)
    return 'made'


def canvases(
    scan: Scan, run: Callable[[Float], Float], rng: np.random.Generator
) -> Iterator[tuple[Example, bool]]:
    """Yield (example, whether it is of the second half of the sweeps) of a run over a scan, as
    the network finds it: before its own answer.
    """
    probe = normalised_probe(scan)
    truth = normalised_truth(scan, probe)
    start = best_start(scan).image if rng.random() < 0.8 else flat_start(scan)
    total = int(rng.choice((3, 5, 8, 10, 15, 20, 30), p=(0.1, 0.15, 0.15, 0.2, 0.15, 0.15, 0.1)))
    answered = NETWORK_SWEEPS[: int(rng.choice(range(4), p=[0.3, 0.2, 0.2, 0.3]))]
    wanted = {*NETWORK_SWEEPS, int(rng.integers(total // 2, total)) + 1} - set(answered) | {total}

    def network(inputs: Float) -> Float:
        # Asked after some sweeps of a sparse scan, and after the last of any.
        number = round(2 ** (4 * float(inputs[NUMBER, 0, 0])))
        return (
            run(inputs)
            if number in answered and number < total
            else np.zeros((OUTPUTS, *inputs.shape[1:]), np.float32)
        )

    last, config = start.object, ReconstructionConfig(sweeps=total)
    step = partial(HostStep, transforms=TRANSFORMS)
    for sweep in sweeper.refine(scan, start, probe, config, step, lambda: network):
        if sweep.number in wanted:
            yield example(scan, sweep, last, truth), sweep.number > total / 2
        last = sweep.image.object


def made_until(seeds: range, jobs: int, until: float, work: Callable[[int], str]) -> None:
    """Make scans until the time is up."""
    begun, done, refused = time.monotonic(), 0, 0
    pending: set[Future[str]] = set()
    with ProcessPoolExecutor(jobs) as pool:
        for seed in seeds:
            if time.monotonic() > until:
                break
            pending.add(pool.submit(work, seed))
            if len(pending) < 2 * jobs:
                continue
            ended, pending = wait(pending, return_when=FIRST_COMPLETED)
            for task in ended:
                done, refused = done + 1, refused + task.result().startswith('refused')
                if done % 100 == 0:
                    seconds = time.monotonic() - begun
                    print(f'{done} scans, {refused} refused, {seconds:.0f} s', flush=True)
        for task in pending:
            task.result()


def read(file: Path) -> Views:
    """Return the examples of one scan, in half precision."""
    with np.load(file, allow_pickle=False) as z:
        arrays = {k: z[k] for k in z.files}
    nowhere = np.zeros(arrays['trust'].shape, np.complex64)
    return [
        (Example(View(fine, coarse, state, nowhere), missing, arrays['trust']), bool(settled))
        for fine, coarse, state, missing, settled in zip(
            arrays['fine'], arrays['coarse'], arrays['state'], arrays['missing'],
            arrays['settled'], strict=True,
        )
    ]  # fmt: skip


def sparse(e: Example) -> bool:
    """Return whether the network sees such a scan before the sweeps have settled."""
    views = 10 ** e.view.coarse[1].astype(np.float32)
    return bool(np.median(views[e.trust > BRIGHT_TRUST]) < FEW_VIEWS)


class Pool:
    """The examples of many scans on the device, from which crops are drawn there: pixels (S, 11)
    of fine, coarse, missing and trust, one example after the other.
    """

    def __init__(self, scans: list[Views], device: torch.device) -> None:
        examples = [
            (e, settled, n)
            for n, views in enumerate(scans)
            for e, settled in views
            if min(e.shape) >= CROP_PX and (settled or sparse(e))
        ]
        pixels = sum(e.trust.size for e, _, _ in examples)
        self.values = torch.empty((pixels, 11), dtype=torch.float16, device=device)
        first = [0, *np.cumsum([e.trust.size for e, _, _ in examples]).tolist()]
        for at, (e, _, _) in zip(first, examples, strict=False):
            maps = np.concatenate([e.view.fine, e.view.coarse, e.missing, e.trust[None]])
            part = torch.from_numpy(maps.reshape(11, -1)).to(device)
            self.values[at : at + e.trust.size] = part.T
        self.first = np.array(first[:-1])
        self.shapes = np.array([e.shape for e, _, _ in examples])
        self.states = np.stack([e.view.state for e, _, _ in examples])
        self.is_settled = np.array([settled for _, settled, _ in examples])
        self.groups: dict[bool, dict[int, list[int]]] = {False: {}, True: {}}
        for k, (_, settled, n) in enumerate(examples):
            self.groups[settled].setdefault(n, []).append(k)
        # Rows and columns of a crop as it lies, turned and mirrored in all eight ways.
        grid = np.mgrid[:CROP_PX, :CROP_PX]
        ways = [np.rot90(g, k, (1, 2)) for g in (grid, grid[:, ::-1]) for k in range(4)]
        self.ways = torch.from_numpy(np.stack(ways)).to(device)

    def one(self, number: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return a crop of one example, as it lies."""
        height, width = self.shapes[number]
        y, x = int(rng.integers(height - CROP_PX + 1)), int(rng.integers(width - CROP_PX + 1))
        return {
            'corner': np.array([self.first[number] + y * width + x]),
            'width': np.array([width]),
            'way': np.array([0]),
            'sign': np.ones(1, np.float32),
            'state': self.states[number][None],
        }

    def draw(self, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Return which crops to take next."""
        chosen = np.empty(count, np.int64)
        for k, late in enumerate((rng.random(count) < SETTLED).tolist()):
            scans = list((self.groups[late] or self.groups[not late]).values())
            chosen[k] = rng.choice(scans[rng.integers(len(scans))])
        height, width = self.shapes[chosen].T
        y, x = (rng.integers(n - CROP_PX + 1) for n in (height, width))
        return {
            'corner': self.first[chosen] + y * width + x,
            'width': width,
            'way': rng.integers(8, size=count),
            'sign': rng.choice([-1.0, 1.0], size=count).astype(np.float32),
            'state': self.states[chosen],
        }

    def crops(
        self, corner: Tensor, width: Tensor, way: Tensor, sign: Tensor, state: Tensor
    ) -> CanvasBatch:
        """Return these crops, turned, mirrored or conjugated."""
        rows, columns = self.ways[way].unbind(1)
        at = corner[:, None, None] + rows * width[:, None, None] + columns
        maps = self.values[at].permute(0, 3, 1, 2).float()
        fine, coarse, missing, trust = maps.split([4, 4, 2, 1], 1)
        one = torch.ones_like(sign)
        fine = fine * torch.stack([one, sign, one, sign], 1)[:, :, None, None]
        missing = missing * torch.stack([one, sign], 1)[:, :, None, None]
        coarse = avg_pool2d(coarse, 2)
        same = state[:, :, None, None].expand(-1, -1, *coarse.shape[2:])
        inputs = torch.cat([pixel_unshuffle(fine, 2), coarse, same], 1)
        return CanvasBatch(
            inputs, pixel_unshuffle(missing, 2), pixel_unshuffle(trust, 2).repeat(1, 2, 1, 1)
        )


class Trainer:
    """One step after another, recorded as a CUDA graph where there is a GPU."""

    def __init__(
        self, pool: Pool, module: CanvasModule, args: argparse.Namespace, device: torch.device
    ) -> None:
        self.pool, self.module, self.device = pool, module, device
        self.bfloat16 = args.bfloat16
        on_gpu = device.type == 'cuda'
        self.rate = torch.tensor(RATE, device=device)
        self.keep = torch.tensor(AVERAGE, device=device)
        self.optimizer = torch.optim.AdamW(
            module.parameters(), lr=self.rate, weight_decay=1e-4, capturable=on_gpu, foreach=on_gpu
        )
        self.average = [p.detach().clone() for p in module.parameters()]
        self.given = {
            k: torch.from_numpy(v).to(device)
            for k, v in pool.draw(args.batch, np.random.default_rng(0)).items()
        }
        self.loss = torch.zeros((), device=device)
        self.graph: torch.cuda.CUDAGraph | None = None

    def step(self, drawn: dict[str, np.ndarray], rate: float, keep: float) -> None:
        """Take one step; the loss is added to `loss`."""
        for name, values in drawn.items():
            self.given[name].copy_(torch.from_numpy(values), non_blocking=True)
        self.rate.fill_(rate)
        self.keep.fill_(keep)
        if self.device.type != 'cuda':
            self._step()
        else:
            if self.graph is None:
                self._record()
            assert self.graph is not None
            self.graph.replay()

    def wait(self) -> None:
        """Wait until all steps are done."""
        float(self.loss)

    def mean_loss(self, steps: int) -> float:
        """Return the mean loss of the last steps, and begin anew."""
        mean = float(self.loss) / steps
        self.loss.zero_()
        return mean

    def averaged(self) -> CanvasModule:
        """Return the module with the averaged weights, on the CPU."""
        made = CanvasModule(ModelConfig(architecture='unrolled'), TrainingConfig())
        with torch.no_grad():
            for own, value in zip(made.parameters(), self.average, strict=True):
                own.copy_(value)
        return made

    def state(self, step: int) -> dict[str, Any]:
        """Return what is needed to go on."""
        return {'module': self.module.state_dict(), 'optimizer': self.optimizer.state_dict(),
                'average': self.average, 'step': step}  # fmt: skip

    def restore(self, state: dict[str, Any]) -> int:
        """Go on from a `state`; return its step."""
        self.module.load_state_dict(state['module'])
        self.optimizer.load_state_dict(state['optimizer'])
        for own, value in zip(self.average, state['average'], strict=True):
            own.copy_(value)
        return int(state['step'])

    def _record(self) -> None:
        kept = [p.detach().clone() for p in self.module.parameters()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._step()
        with torch.no_grad():  # the steps before the recording do not count
            torch._foreach_copy_(list(self.module.parameters()), kept)
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()
            self.loss.zero_()

    def _step(self) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss = self.module.loss(self.pool.crops(**self.given))
        self.optimizer.zero_grad(set_to_none=False)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_mul_(self.average, self.keep)
            found = [p.detach() for p in self.module.parameters()]
            torch._foreach_add_(self.average, torch._foreach_mul(found, 1 - self.keep))
            self.loss += loss.detach()


def train(args: argparse.Namespace, files: list[Path], until: float) -> tuple[CanvasModule, int]:
    """Train, or go on; return the module with the averaged weights, and the steps taken."""
    device = torch.device(args.device)
    begun = time.monotonic()
    with ThreadPoolExecutor(args.jobs) as pool:
        scans = list(pool.map(read, files))
    kept = len(scans) - min(HELD, max(1, len(scans) // 4))
    held = Pool(scans[kept:], CPU)
    pool_ = Pool(scans[:kept], device)
    del scans
    print(
        f'{len(pool_.states)} canvases to train on, {len(held.states)} held out, '
        f'{pool_.values.nbytes / 1e9:.1f} GB, read in {time.monotonic() - begun:.0f} s',
        flush=True,
    )
    module = CanvasModule(ModelConfig(architecture='unrolled'), TrainingConfig())
    if args.initial:
        import_weights(module.network, load_model(args.initial).weights)
    module.to(device)
    trainer = Trainer(pool_, module, args, device)
    step, checkpoint = 0, args.folder / 'checkpoint.pt'
    if checkpoint.exists():
        step = trainer.restore(torch.load(checkpoint, weights_only=True, map_location=device))
    begun, first, total = time.monotonic(), step, args.steps
    while step < total:
        if step == first + SPEED_STEPS and until < float('inf'):
            trainer.wait()
            per_step = (time.monotonic() - begun) / SPEED_STEPS
            total = min(total, step + max(0, int((until - time.monotonic()) / per_step)))
            print(f'{1e3 * per_step:.1f} ms a step: {total} steps', flush=True)
        rate = args.rate * min(1, (step + 1) / WARM_STEPS)
        rate *= 0.01 + 0.99 * (1 + np.cos(np.pi * step / total)) / 2
        drawn = pool_.draw(args.batch, np.random.default_rng([6, step]))
        trainer.step(drawn, rate, min(AVERAGE, step / (step + 50)))
        step += 1
        if step % args.report == 0 or step == total:
            with atomic_path(checkpoint) as part:
                torch.save(trainer.state(step), part)
            mean = trainer.mean_loss(args.report)
            print(
                f'{step} steps, {time.monotonic() - begun:.0f} s: mean square left '
                f'{np.exp(mean):.3f}, held out {judged(trainer.averaged(), held)}',
                flush=True,
            )
    return trainer.averaged(), total


def judged(module: CanvasModule, held: Pool) -> str:
    """Return what the network leaves of the mean square on crops of held-out scans: geometric mean
    and the worst, of early and of settled canvases.
    """
    shares: dict[str, list[float]] = {'early': [], 'settled': []}
    rng = np.random.default_rng(1)
    with torch.inference_mode():
        for k in range(len(held.states)):
            drawn = held.one(k, rng)
            loss = module.loss(held.crops(**{n: torch.from_numpy(v) for n, v in drawn.items()}))
            shares['settled' if held.is_settled[k] else 'early'].append(float(loss.exp()))
    return ', '.join(
        f'{k} {np.exp(np.mean(np.log(v))):.3f} (worst {max(v):.2f})' for k, v in shares.items() if v
    )


def main() -> None:
    """Make, train, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--scans', type=int, default=4000)
    parser.add_argument('--first-seed', type=int, default=0)
    parser.add_argument('--steps', type=int, default=60_000)
    parser.add_argument('--rate', type=float, default=RATE)
    parser.add_argument('--batch', type=int, default=64)
    parser.add_argument('--bfloat16', action='store_true', help='convolutions in bfloat16')
    parser.add_argument('--report', type=int, default=1000, help='steps')
    parser.add_argument('--jobs', type=int, default=2)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--seconds', type=float, default=float('inf'))
    parser.add_argument('--folder', type=Path, default=Path('build/pretrain'))
    parser.add_argument('--within', type=Path, help='model that sweeps have within')
    parser.add_argument('--initial', type=Path)
    parser.add_argument(
        '--kept', type=float, default=0.0, help='share of the initial weights in what is written'
    )
    parser.add_argument('--output', type=Path, default=Path('build/pretrain/pretrained.h5.zip'))
    args = parser.parse_args()
    begun = time.monotonic()
    args.folder.mkdir(parents=True, exist_ok=True)
    seeds = range(args.first_seed, args.first_seed + args.scans)
    work = partial(make, folder=args.folder, within=args.within)
    made_until(seeds, args.jobs, begun + args.seconds * SCANS_SHARE, work)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    files = sorted(args.folder.glob('[0-9]*.npz'))
    module, steps = train(args, files, begun + args.seconds)
    weights = export_weights(module.network)
    if args.kept:
        initial = load_model(args.initial).weights
        weights = {k: args.kept * initial[k] + (1 - args.kept) * v for k, v in weights.items()}
    config = ModelConfig(architecture='unrolled', mode='supervised')
    summary = {'trained_by': 'benchmarks/pretrain.py', 'scans': len(files), 'steps': steps}
    save_model(Model(config, weights, writer='torch', summary=summary),
               args.output)  # fmt: skip
    print(f'Written: {args.output}')


if __name__ == '__main__':
    main()
