"""One contender on one scan: its sweeps under a clock that stops while they are scored.

A contender is a function `(scan, update_probe, threads, device) -> Iterator[State]`, kept in a
module that imports all it needs. The clock runs from the call, with the scan in memory and the
modules imported, to the state that is scored: preparing and starting are in, scoring is not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import ptychopinn_plugin as pp
from ptychopinn_plugin.metrics import compare
from ptychopinn_plugin.scan import Complex, Scan

DENSE = 10  # every sweep is scored up to here, then every 15 %
RUNS = 3  # times `seconds` for a contender that begins anew for every number of sweeps
MOST_SCORING = 1.5  # seconds of scoring per second on the clock, beyond the dense part


@dataclass(frozen=True, eq=False)
class State:
    """After sweep `number`: object (H, W) in the scan's frame, probe (P, N, N) in root counts.

    `whole` says that it is the end of a run of its own, whose time is that of this state alone.
    """

    number: int
    object: Complex
    probe: Complex
    whole: bool = False


Sweeps = Callable[..., Iterator[State]]


@dataclass(frozen=True)
class Contender:
    """`module.function` of this folder, called with `options`; `peer` is one with its own
    environment.
    """

    label: str
    module: str
    options: dict[str, Any] = field(default_factory=dict)
    peer: bool = False


# The first is what the others are compared with. A start from a trained network is one line more:
#   'network': Contender('ours, network start', 'sweeps', {'start': 'network', 'model': 'FILE'}),
CONTENDERS = {
    'ours': Contender('ours', 'sweeps', {'start': 'auto'}),
    'ours alone': Contender('ours, no network', 'sweeps', {'correction': False}),
    'plain': Contender(
        'ours, flat, no slow phase, no network',
        'sweeps',
        {'start': 'flat', 'slow': False, 'correction': False},
    ),
    'epie': Contender('ePIE, NumPy', 'epie'),
    'lsqml': Contender('pty-chi LSQML, 16', 'pty_chi', {'engine': 'LSQML', 'batch': 16}, peer=True),
    'lsqml64': Contender(
        'pty-chi LSQML, 64', 'pty_chi', {'engine': 'LSQML', 'batch': 64}, peer=True
    ),
    # It adds up a batch's updates: with 64, overlapping patterns make it diverge.
    'rpie': Contender('pty-chi rPIE, 16', 'pty_chi', {'engine': 'RPIE', 'batch': 16}, peer=True),
}


def race(
    name: str,
    scan_file: Path,
    out: Path,
    *,
    threads: int,
    device: str,
    seconds: float,
    update_probe: bool,
) -> None:
    """Let a contender compute for about `seconds`; append a line of JSON per scored state to
    `out`.
    """
    import torch

    contender = CONTENDERS[name]
    run: Sweeps = import_module(f'contenders.{contender.module}').run
    scan = pp.load_scan(scan_file)
    judge = Judge(scan, threads, device)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # of this thread: NumPy's too
    # A GPU that sleeps takes a second to wake up: nobody's fault.
    torch.fft.fft2(torch.zeros(8, 64, 64, dtype=torch.complex64, device=device)).abs().sum().item()
    states = run(scan, update_probe, threads, device, **contender.options)
    clock = cpu = spent = spent_in_all = 0.0
    due = 0
    with out.open('a', encoding='utf-8') as file:
        while clock < seconds and spent_in_all < RUNS * seconds:
            begun, begun_cpu = time.perf_counter(), time.process_time()
            state = next(states, None)
            took, took_cpu = time.perf_counter() - begun, time.process_time() - begun_cpu
            spent_in_all += took
            if state is None:
                break
            clock, cpu = (took, took_cpu) if state.whole else (clock + took, cpu + took_cpu)
            wanted = state.whole or (state.number >= due and spent <= MOST_SCORING * clock + 10)
            if not wanted and clock < seconds:  # the last one is always scored
                continue
            due = state.number + 1 if state.number < DENSE else int(1.15 * state.number) + 1
            begun = time.perf_counter()
            scores = judge.scores(state)
            spent += time.perf_counter() - begun
            row = {'sweep': state.number, 'seconds': clock, 'cpu_seconds': cpu, **scores}
            print(json.dumps(row), file=file, flush=True)


class Judge:
    """The same scores for every contender."""

    def __init__(self, scan: Scan, threads: int, device: str) -> None:
        from ptychopinn_plugin.backends import registry
        from ptychopinn_plugin.config import RuntimeConfig
        from ptychopinn_plugin.starts import flat_start

        self.scan, self.flat = scan, flat_start(scan)
        self.backend = registry.load('torch')
        self.runtime = RuntimeConfig(backend='torch', device=device, threads=threads)

    def scores(self, state: State) -> dict[str, float]:
        """Return the qualities of a state; no number where it has diverged."""
        from dataclasses import replace

        assert self.scan.true_object is not None
        if not (np.isfinite(state.object).all() and np.isfinite(state.probe).all()):
            return {}
        image = replace(self.flat, object=state.object)
        error, _ = self.backend.predict(self.scan, image, state.probe, self.runtime)
        found = compare(image.object, self.scan.true_object, image.weight)
        return {
            'phase_ssim': found.phase_ssim,
            'phase_mae_rad': found.phase_mae_rad,
            'frc50': found.frc50,
            'fourier_error': error,
            'shift_px': max(map(abs, found.shift_px)),
        }
