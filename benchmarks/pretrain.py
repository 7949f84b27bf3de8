"""Train the network that comes with the plug-in.

    python benchmarks/pretrain.py [--scans 1500] [--steps 30000] [--jobs 2] [--initial MODEL]
        [--folder build/pretrain] [--output ptychopinn_plugin/pretrained.h5.zip]

Makes scans of `random_scans`, sweeps over them, keeps what the network would see with what is
missing (one NPZ per scan), and trains on crops. Both halves go on where they were stopped: scans
that are there are not made again, and the training begins at its last checkpoint. The last scans
are held out. About 1 s per scan and core, and 0.12 s per step on one core.
"""

from __future__ import annotations

import argparse
import logging
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from random_scans import random_scan

from ptychopinn_plugin import load_model, save_model
from ptychopinn_plugin.atomic import atomic_path
from ptychopinn_plugin.backends.base import Model
from ptychopinn_plugin.backends.torch.canvas_module import CanvasBatch, CanvasModule, canvas_tensors
from ptychopinn_plugin.backends.torch.refine import refine
from ptychopinn_plugin.backends.torch.weights import export_weights, import_weights
from ptychopinn_plugin.canvas import View
from ptychopinn_plugin.canvas_training import CROP_PX, Example, batch, example
from ptychopinn_plugin.config import ModelConfig, ReconstructionConfig, TrainingConfig
from ptychopinn_plugin.errors import PluginError
from ptychopinn_plugin.scaling import normalised_probe, normalised_truth
from ptychopinn_plugin.starts import best_start, flat_start
from ptychopinn_plugin.sweep_plan import NETWORK_SWEEPS

HELD = 40
BATCH = 8
RATE, WARM_STEPS = 1.5e-3, 200
AVERAGE = 0.998  # of the weights before, in the average that is kept
SETTLED = 0.75  # of the crops come from the second half of the sweeps
CPU = torch.device('cpu')


def make(seed: int, folder: Path) -> str:
    """Make the examples of one scan unless they are there; return what was done."""
    target = folder / f'{seed:06d}.npz'
    if target.exists():
        return 'there'
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    logging.disable(logging.CRITICAL)
    try:
        scan = random_scan(seed)
        found = list(canvases(scan, np.random.default_rng([5, seed])))
    except PluginError as error:  # a scan without light on some pattern: another seed is as good
        return f'refused: {error}'
    arrays = {
        'fine': np.stack([e.view.fine for e, _ in found]).astype(np.float16),
        'coarse': np.stack([e.view.coarse for e, _ in found]).astype(np.float16),
        'state': np.stack([e.view.state for e, _ in found]),
        'missing': np.stack([e.missing for e, _ in found]).astype(np.float16),
        'trust': found[0][0].trust.astype(np.float16),
        'settled': np.array([settled for _, settled in found]),
    }
    with atomic_path(target) as part, open(part, 'wb') as stream:
        np.savez(stream, **arrays)
    return 'made'


def canvases(scan, rng):
    """Yield (example, whether it is of the second half of the sweeps) of two runs over a scan."""
    probe = normalised_probe(scan)
    truth = normalised_truth(scan, probe)
    start = best_start(scan)[1] if rng.random() < 0.8 else flat_start(scan)
    choices, chances = (3, 5, 8, 10, 15, 20, 30), (0.1, 0.15, 0.15, 0.2, 0.15, 0.15, 0.1)
    for total in rng.choice(choices, 2, replace=False, p=chances).tolist():
        wanted = {NETWORK_SWEEPS[int(rng.integers(2))], int(rng.integers(total // 2, total)) + 1}
        last = start.object
        for sweep in refine(scan, start, probe, ReconstructionConfig(sweeps=total), CPU):
            if sweep.number in wanted or sweep.number == total:
                yield example(scan, sweep, last, truth), sweep.number > total / 2
            last = sweep.image.object


def read(file: Path) -> list[tuple[Example, bool]]:
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


def single(e: Example) -> Example:
    """Return an example in single precision."""
    view = replace(
        e.view, fine=e.view.fine.astype(np.float32), coarse=e.view.coarse.astype(np.float32)
    )
    return Example(view, e.missing.astype(np.float32), e.trust.astype(np.float32))


def draw(scans: list[list[tuple[Example, bool]]], rng: np.random.Generator) -> Example:
    """Return a random crop, turned and mirrored at random."""
    scan = scans[rng.integers(len(scans))]
    fitting = [e for e, settled in scan if settled] if rng.random() < SETTLED else []
    chosen = fitting or [e for e, _ in scan]
    whole = chosen[rng.integers(len(chosen))]
    side = min(CROP_PX, *(n // 8 * 8 for n in whole.shape))
    y, x = (int(rng.integers(n - side + 1)) for n in whole.shape)
    part = single(whole.crop(y, x, (side, side)))
    return part.turned(int(rng.integers(4)), rng.random() < 0.5, rng.random() < 0.5)


def tensors(examples: list[Example]) -> CanvasBatch:
    """Return a batch for the module."""
    return canvas_tensors(batch(examples))


def train(args: argparse.Namespace, files: list[Path]) -> CanvasModule:
    """Train, or go on; return the module with the averaged weights."""
    held, used = [read(f) for f in files[-HELD:]], [read(f) for f in files[:-HELD]]
    print(f'{len(used)} scans to train on, {len(held)} held out', flush=True)
    module, rng = CanvasModule(ModelConfig(architecture='unrolled'), TrainingConfig()), None
    if args.initial:
        import_weights(module.network, load_model(args.initial).weights)
    average = {k: v.clone() for k, v in module.state_dict().items()}
    optimizer = torch.optim.AdamW(module.parameters(), RATE, weight_decay=1e-4)
    step, checkpoint = 0, args.folder / 'checkpoint.pt'
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        module.load_state_dict(state['module'])
        optimizer.load_state_dict(state['optimizer'])
        average, step = state['average'], state['step']
    begun, losses = time.perf_counter(), []
    while step < args.steps:
        rng = np.random.default_rng([6, step])
        rate = args.rate * min(1, (step + 1) / WARM_STEPS)
        for group in optimizer.param_groups:
            group['lr'] = rate * (0.01 + 0.99 * (1 + np.cos(np.pi * step / args.steps)) / 2)
        loss = module.loss(tensors([draw(used, rng) for _ in range(BATCH)]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        keep = min(AVERAGE, step / (step + 50))
        for name, value in module.state_dict().items():
            average[name].mul_(keep).add_(value, alpha=1 - keep)
        losses.append(float(loss.detach()))
        step += 1
        if step % 500 == 0 or step == args.steps:
            state = {'module': module.state_dict(), 'average': average,
                     'optimizer': optimizer.state_dict(), 'step': step}  # fmt: skip
            with atomic_path(checkpoint) as part:
                torch.save(state, part)
            print(
                f'{step} steps, {time.perf_counter() - begun:.0f} s: mean square left '
                f'{np.exp(np.mean(losses[-500:])):.3f}, held out {judged(average, held)}',
                flush=True,
            )
    module.load_state_dict(average)
    return module


def judged(weights, held) -> str:
    """Return what the network leaves of the mean square on held-out scans: geometric mean and the
    worst, of early and of settled canvases.
    """
    module = CanvasModule(ModelConfig(architecture='unrolled'), TrainingConfig())
    module.load_state_dict(weights)
    shares: dict[str, list[float]] = {'early': [], 'settled': []}
    with torch.inference_mode():
        for e, settled in (pair for scan in held for pair in scan):
            share = float(torch.exp(module.loss(tensors([single(e)]))))
            shares['settled' if settled else 'early'].append(share)
    return ', '.join(
        f'{k} {np.exp(np.mean(np.log(v))):.3f} (worst {max(v):.2f})' for k, v in shares.items() if v
    )


def main() -> None:
    """Make, train, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--scans', type=int, default=1500)
    parser.add_argument('--first-seed', type=int, default=0)
    parser.add_argument('--steps', type=int, default=30_000)
    parser.add_argument('--rate', type=float, default=RATE)
    parser.add_argument('--jobs', type=int, default=2)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--folder', type=Path, default=Path('build/pretrain'))
    parser.add_argument('--initial', type=Path)
    parser.add_argument('--output', type=Path, default=Path('build/pretrain/pretrained.h5.zip'))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    seeds = range(args.first_seed, args.first_seed + args.scans)
    with ProcessPoolExecutor(args.jobs) as pool:
        states = pool.map(partial(make, folder=args.folder), seeds)
        for seed, done in zip(seeds, states, strict=True):
            if done.startswith('refused') or (seed + 1) % 50 == 0:
                print(f'scan {seed}: {done}', flush=True)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    module = train(args, sorted(args.folder.glob('[0-9]*.npz')))
    config = ModelConfig(architecture='unrolled', mode='supervised')
    summary = {'trained_by': 'benchmarks/pretrain.py', 'scans': args.scans, 'steps': args.steps}
    save_model(Model(config, export_weights(module.network), writer='torch', summary=summary),
               args.output)  # fmt: skip
    print(f'Written: {args.output}')


if __name__ == '__main__':
    main()
