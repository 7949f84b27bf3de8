"""Ours against what a user would pick instead, in one run on one machine.

    make bench-peers                    # all cases, about an hour
    make bench-peers PEERS=--quick      # small versions of three
    python benchmarks/peers.py [--quick] [--threads 2] [--device cpu] [--seconds 10]
        [--cases TEXT ...] [--contenders NAME ...] [--peer-python .venv-peers/bin/python]
        [--output build/peers]

Each contender works on each case in a process of its own, all with the same number of threads, the
same scale of the probe and, but for our own start, the same flat start. Its clock stops while it is
scored. Writes peers.json, peers.txt (time to given qualities) and peers.png (quality against time).
Times are those of a shared machine: look at the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from contenders.race import CONTENDERS, race

from ptychopinn_plugin import load_scan, save_scan
from ptychopinn_plugin.scan import Frame, Scan
from ptychopinn_plugin.simulate import Simulation, simulate_scan
from ptychopinn_plugin.simulate.probes import zone_plate

SHARED = Path(__file__).resolve().parents[2] / 'shared' / 'data'
OURS = next(iter(CONTENDERS))
NAMES = max(len(c.label) for c in CONTENDERS.values()) + 1  # characters of the widest
TARGETS = (0.9, 0.95)
NEAR = 0.02  # below the best that any contender reached in the case: the third target
MISSING = 'not installed: `make bench-peers` makes its environment, {}'

Row = dict[str, float]
Entry = dict[str, Any]  # 'rows': [Row], 'trouble': text or ''


@dataclass(frozen=True)
class Case:
    """A scan: simulated, or read from a shared file; `defocus` is that of a wrong probe guess."""

    name: str
    simulation: Simulation | None = None
    file: str = ''
    defocus: float = 0.0
    update_probe: bool = False
    longer: float = 1.0  # times the seconds of the others

    def scan(self) -> Scan:
        """Return the scan as the contenders get it, with the truth to score against."""
        if self.simulation is None:
            return _read(SHARED / self.file)
        scan = simulate_scan(self.simulation)
        if self.defocus:
            guess = zone_plate(scan.side_px, self.defocus)[None].astype(np.complex64)
            scan = replace(scan, probe=guess)
        return scan

    @property
    def unknown_probe(self) -> bool:
        """Whether contenders have to improve the probe."""
        return bool(self.defocus) or self.update_probe


def _grid(
    name: str, side: int, step: float, across: int, seed: int, more: dict[str, Any], **case: Any
) -> Case:
    """Return a case of a jittered raster, `across` patterns wide and `step` [px] apart."""
    size = side + 2 + int(np.ceil(step * (across - 1)))
    made: dict[str, Any] = {'scan': 'jitter', 'step_px': step, **more}
    settings = Simulation(object_size_px=size, pattern_size_px=side, seed=seed, **made)
    return Case(name, settings, **case)


def _one(specimen: str, photons: float, **more: Any) -> dict[str, Any]:
    return {'specimen': specimen, 'photons_per_frame': photons, **more}


# The zone plate's beam is 0.36 N wide (23 px at N = 64): the overlap is 1 - step / width.
CASES = (
    _grid('leaves 64, 80 %, 1e6', 64, 4.6, 23, 901, _one('leaves', 1e6)),
    _grid('lines 64, 60 %, 1e5', 64, 9.2, 20, 902, _one('lines', 1e5)),
    _grid('field 64, 60 %, 1e4', 64, 9.2, 20, 903, _one('field', 1e4)),
    _grid('leaves 64, no overlap, 1e5', 64, 23.0, 11, 904, _one('leaves', 1e5)),
    _grid(
        'sparse: photographs 64, 18 px raster, 1e5', 64, 18.0, 12, 905,
        _one('photographs', 1e5, scan='raster'),
    ),
    _grid('photographs 128, 70 %, 1e5', 128, 14.0, 17, 906, _one('photographs', 1e5)),
    _grid('leaves 256, 70 %, 1e6', 256, 28.0, 13, 907, _one('leaves', 1e6), longer=2),
    Case(
        'wide: leaves 64, 640 px, 6000 random, 1e5',
        Simulation(patterns=6000, object_size_px=640, seed=908, **_one('leaves', 1e5)),
        longer=3,
    ),
    _grid(
        'leaves 64, 75 %, 1e6, probe unknown', 64, 5.8, 20, 909, _one('leaves', 1e6), defocus=0.30
    ),
    _grid(
        'lines 128, 75 %, 1e5, probe unknown', 128, 11.5, 16, 910, _one('lines', 1e5), defocus=0.42
    ),
    Case('shared: photographs 64, random, 1e6', file='sim64_photographs.npz', longer=2.5),
    Case('shared: lines 64, random, 1e6', file='sim64_lines.npz', longer=2.5),
    Case(
        'real: Siemens star 128, 80 %, probe unknown', file='siemens_star_velociprobe.npz',
        update_probe=True, longer=2,
    ),
)  # fmt: skip

QUICK = (
    _grid('leaves 64, 70 %, 1e6', 64, 7.0, 13, 911, _one('leaves', 1e6)),
    _grid(
        'sparse: photographs 64, 18 px raster, 1e5', 64, 18.0, 8, 912,
        _one('photographs', 1e5, scan='raster'),
    ),
    _grid(
        'lines 64, 75 %, 1e5, probe unknown', 64, 5.8, 12, 913, _one('lines', 1e5), defocus=0.30
    ),
)  # fmt: skip


def _read(file: Path) -> Scan:
    """Return a shared scan; where there is no truth, the reference that came with it stands in."""
    scan = load_scan(file)
    if scan.true_object is not None:
        return scan
    with np.load(file, allow_pickle=False) as archive:
        truth = archive['reference_object'].astype(np.complex64)
    return replace(scan, true_object=truth, frame=Frame((truth.shape[0], truth.shape[1])))


class Runner:
    """Runs a contender in a process of its own."""

    def __init__(self, threads: int, device: str, peer_python: Path) -> None:
        self.threads, self.device, self.peer_python = threads, device, peer_python
        self.missing = _why_missing(peer_python)

    def run(self, name: str, case: Case, scan_file: Path, seconds: float) -> Entry:
        """Return what it reached; `trouble` says what ended it early."""
        peer = CONTENDERS[name].peer
        if peer and self.missing:
            return {'rows': [], 'trouble': self.missing}
        python = str(self.peer_python) if peer else sys.executable
        out = scan_file.with_suffix(f'.{name}.jsonl')
        command = [
            python, __file__, '--child', name, str(scan_file), str(out), str(seconds),
            str(int(case.unknown_probe)), '--threads', str(self.threads), '--device', self.device,
        ]  # fmt: skip
        trouble = self._wait(command, 180 + 5 * seconds)
        lines = out.read_text(encoding='utf-8').splitlines() if out.exists() else []
        rows = [json.loads(line) for line in lines]
        if any('phase_ssim' not in row for row in rows):
            trouble = trouble or 'diverged'
        return {'rows': [row for row in rows if 'phase_ssim' in row], 'trouble': trouble}

    def _wait(self, command: list[str], timeout: float) -> str:
        """Run a command to its end; return what went wrong, or nothing."""
        number = str(self.threads)
        names = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')
        env = {**os.environ, **dict.fromkeys(names, number)}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, env=env
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f'cut off after {timeout:.0f} s'
        if done.returncode == 0:
            return ''
        last = (done.stderr.strip().splitlines() or [''])[-1]
        return f'failed (exit {done.returncode}): {last}'


def _why_missing(python: Path) -> str:
    """Return why that environment cannot run pty-chi, or nothing."""
    command = [str(python.absolute()), '-c', 'import contenders.pty_chi']
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=180, cwd=Path(__file__).parent
        )
    except FileNotFoundError:
        return MISSING.format(python)
    except subprocess.TimeoutExpired:
        return 'pty-chi did not load within 180 s'
    last = (done.stderr.strip().splitlines() or [''])[-1]
    return '' if done.returncode == 0 else f'pty-chi does not load from {python}: {last}'


def measure(
    cases: list[Case], names: list[str], runner: Runner, seconds: float
) -> Iterator[tuple[str, dict[str, Entry]]]:
    """Yield (case, {contender: what it reached}) case after case."""
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(cases):
            file = Path(folder) / f'{number}.npz'
            save_scan(case.scan(), file)
            given = seconds * case.longer
            yield case.name, {name: runner.run(name, case, file, given) for name in names}
            file.unlink()


def time_to(rows: list[Row], target: float) -> float | None:
    """Return the seconds until the phase SSIM was `target` for the first time it was looked at."""
    return next((row['seconds'] for row in rows if row['phase_ssim'] >= target), None)


def summary(entries: dict[str, Entry]) -> dict[str, dict[str, Any]]:
    """Return {contender: times to the targets, ratios to ours, best scores} of a case."""
    best = {
        k: max(e['rows'], key=lambda r: r['phase_ssim']) for k, e in entries.items() if e['rows']
    }
    top = max((row['phase_ssim'] for row in best.values()), default=0.0)
    targets = {**{f'{t:g}': t for t in TARGETS}, 'near best': top - NEAR}
    out: dict[str, dict[str, Any]] = {}
    ours = entries.get(OURS, {'rows': []})['rows']
    for name in best:
        rows = entries[name]['rows']
        times = {label: time_to(rows, value) for label, value in targets.items()}
        ratios = {
            label: _ratio(times[label], time_to(ours, value)) for label, value in targets.items()
        }
        out[name] = {
            'seconds_to': times, 'ratio_to_ours': ratios, 'target_near_best': top - NEAR,
            'best': best[name], 'last': rows[-1],
        }  # fmt: skip
    return out


def _ratio(theirs: float | None, ours: float | None) -> float | None:
    return theirs / ours if theirs is not None and ours else None


def table(case: str, entries: dict[str, Entry]) -> str:
    """Return a case's lines of the text table."""
    found = summary(entries)
    near = next((s['target_near_best'] for s in found.values()), 0.0)
    heads = [f'SSIM {t:g}' for t in TARGETS] + [f'SSIM {near:.3f}*']
    line = ' ' * (NAMES + 2) + ''.join(f'{h:>12}{"ratio":>7}' for h in heads)
    line += f'{"best SSIM":>11}{"at s":>8}{"MAE rad":>9}{"FRC50":>7}{"Fourier":>10}'
    line += f'{"sweeps":>8}{"in s":>8}'
    lines = [case, line]
    for name, entry in entries.items():
        label = CONTENDERS[name].label
        if name in found:
            lines.append(f'  {label:<{NAMES}}' + _numbers(found[name]))
        if entry['trouble']:
            lines.append(f'  {label:<{NAMES}}  {entry["trouble"]}')
    return '\n'.join(lines)


def _numbers(s: dict[str, Any]) -> str:
    cells = []
    for label, seconds in s['seconds_to'].items():
        ratio = s['ratio_to_ours'][label]
        cells.append(f'{"never" if seconds is None else f"{seconds:.2f} s":>12}')
        cells.append(f'{"-" if ratio is None else f"{ratio:.{0 if ratio >= 10 else 1}f}":>7}')
    best, last = s['best'], s['last']
    return ''.join(cells) + (
        f'{best["phase_ssim"]:>11.4f}{best["seconds"]:>8.2f}{best["phase_mae_rad"]:>9.4f}'
        f'{best["frc50"]:>7.2f}{last["fourier_error"]:>10.2e}{last["sweep"]:>8d}'
        f'{last["seconds"]:>8.1f}'
    )


def overview(results: dict[str, dict[str, Entry]]) -> str:
    """Return how each contender fares against ours over all cases, at the near-best target."""
    lines = ['Over all cases, time to within 0.02 of the best SSIM of the case (*)']
    for name, contender in CONTENDERS.items():
        if not any(name in entries for entries in results.values()):
            continue
        found = [s for s in map(summary, results.values()) if name in s]
        reached = [s[name] for s in found if s[name]['seconds_to']['near best'] is not None]
        ratios = [r for s in reached if (r := s['ratio_to_ours']['near best']) is not None]
        median = f'{statistics.median(ratios):.2f}' if ratios else '-'
        sooner = sum(r < 1 for r in ratios)
        alone = len(reached) - len(ratios)
        lines.append(
            f'  {contender.label:<{NAMES}}reached it in {len(reached):>2} of {len(found):>2}; '
            f'time / ours: median {median:>6} over {len(ratios):>2}; sooner than ours in {sooner}; '
            f'where ours never did: {alone}'
        )
    return '\n'.join(lines)


def draw(results: dict[str, dict[str, Entry]], path: Path) -> None:
    """Draw phase SSIM against time: a panel per case, a line per contender."""
    from matplotlib.figure import Figure

    columns = min(4, len(results))
    rows = -(-len(results) // columns)
    figure = Figure((3.9 * columns, 2.9 * rows + 0.7), layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel()[len(results) :]:
        axes.set_visible(False)
    for axes, (case, entries) in zip(grid.ravel(), results.items(), strict=False):
        _panel(axes, case, entries)
    for axes in grid[:, 0]:
        axes.set_ylabel('phase SSIM')
    for column in range(columns):
        shown = [axes for axes in grid[:, column] if axes.get_visible()]
        shown[-1].set_xlabel('seconds of computing')
    drawn = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in grid.ravel()]
    found = {label: handle for pairs in drawn for handle, label in pairs}
    labels, handles = list(found), list(found.values())
    fitting = max(1, min(len(labels), int(1.6 * columns)))
    figure.legend(handles, labels, loc='outside upper center', ncols=fitting, frameon=False)
    figure.savefig(path, dpi=130)


def _panel(axes: Any, case: str, entries: dict[str, Entry]) -> None:
    low = 1.0
    for number, (name, contender) in enumerate(CONTENDERS.items()):
        rows = entries.get(name, {'rows': []})['rows']
        if not rows:
            continue
        x, y = [max(r['seconds'], 1e-3) for r in rows], [r['phase_ssim'] for r in rows]
        style = {'linewidth': 2.4, 'zorder': 3} if name == OURS else {'linewidth': 1.4}
        axes.plot(x, y, color=f'C{number}', label=contender.label, **style)
        axes.plot(x[-1], y[-1], 'o', markersize=3, color=f'C{number}')
        low = min(low, *y, 1.0)
    for target in TARGETS:
        axes.axhline(target, linewidth=0.6, color='0.6', linestyle=':')
    if any(entry['rows'] for entry in entries.values()):
        axes.set_xscale('log')
    axes.set_ylim(max(low - 0.03, 0), 1.005)
    axes.set_title(textwrap.fill(case, 40), fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)


def write(results: dict[str, dict[str, Entry]], facts: dict[str, Any], folder: Path) -> None:
    """Write numbers, text and figure."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        case: {'contenders': entries, 'summary': summary(entries)}
        for case, entries in results.items()
    }
    document = json.dumps({'run': facts, 'cases': record}, indent=1)
    (folder / 'peers.json').write_text(document, encoding='utf-8')
    tables = [table(*item) for item in results.items()]
    text = '\n\n'.join([*tables, overview(results)])
    (folder / 'peers.txt').write_text(text + '\n', encoding='utf-8')
    draw(results, folder / 'peers.png')


def chosen(args: argparse.Namespace) -> list[Case]:
    """Return the cases to run; says which shared ones there are no files for."""
    cases = [c for c in (QUICK if args.quick else CASES) if any(t in c.name for t in args.cases)]
    for case in cases:
        if case.file and not (SHARED / case.file).is_file():
            print(f'{case.name}: left out, its file {case.file} is not there')
    return [c for c in cases if not c.file or (SHARED / c.file).is_file()]


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--quick', action='store_true', help='small versions of three cases')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--seconds', type=float, help='of computing for each: 10, quick 6')
    parser.add_argument('--cases', nargs='+', default=[''], help='only names with one of these')
    parser.add_argument('--contenders', nargs='+', choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument('--peer-python', type=Path, default=Path('.venv-peers/bin/python'))
    parser.add_argument('--output', type=Path, default=Path('build/peers'))
    parser.add_argument('--child', nargs=5, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    args = arguments()
    if args.child:
        name, scan, out, seconds, update = args.child
        race(
            name, Path(scan), Path(out), threads=args.threads, device=args.device,
            seconds=float(seconds), update_probe=update == '1',
        )  # fmt: skip
        return
    seconds = args.seconds or (6 if args.quick else 10)
    runner = Runner(args.threads, args.device, args.peer_python)
    facts = {
        'threads': args.threads, 'device': args.device, 'seconds': seconds, 'quick': args.quick,
        'python': platform.python_version(), 'cores': os.cpu_count(),
    }  # fmt: skip
    results: dict[str, dict[str, Entry]] = {}
    for case, entries in measure(chosen(args), args.contenders, runner, seconds):
        results[case] = entries
        print(table(case, entries), end='\n\n', flush=True)
        write(results, facts, args.output)  # after every case: the run is long
    if results:
        print(overview(results))
        print(f'Written to {args.output}')


if __name__ == '__main__':
    main()
