"""The two shared simulations as the goals were set on them: by the scripts that came with them.

    make bench-shared                   # 10 minutes
    python benchmarks/shared_scans.py [--readings 5] [--peer-python .venv-peers/bin/python]

pty-chi LSQML is run by `shared/peers/run_ptychi.py` as it is (batches of 64), ours with the weights
of the wheel and the start and sweeps of `reconstruct`; both are scored by
`shared/peers/compare.py`. Each number of epochs or sweeps is a run from the start, every reading of
ours in a process of its own, half of them before LSQML and half after it. The clocks run from the
scan in memory to the picture. Prints the times to phase SSIM 0.95 and what ours has after 3 s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SHARED = Path(__file__).resolve().parents[2] / 'shared'
FILES = ('sim64_photographs.npz', 'sim64_lines.npz')
WANTED, GIVEN_S, AGAIN_S = 0.95, 3.0, 0.975
FIRST_EPOCHS, MOST_EPOCHS = 10, 160
# pty-chi loads torchvision, which may have been built for another torch; see `contenders.pty_chi`.
PEER = 'import contenders.pty_chi, runpy, sys; sys.argv = sys.argv[1:]; '
PEER += 'sys.path.insert(0, sys.argv[0].rpartition("/")[0]); '
PEER += 'runpy.run_path(sys.argv[0], run_name="__main__")'

Reading = tuple[float, float]  # seconds, phase SSIM


def ours(file: Path, sweeps: int) -> Reading:
    """Reconstruct in this process, which is to be a new one; see the module."""
    from ptychopinn_plugin import load_scan, pipeline
    from ptychopinn_plugin.backends import registry
    from ptychopinn_plugin.config import ReconstructionConfig, RuntimeConfig
    from ptychopinn_plugin.pretrained import pretrained

    backend = registry.load('torch')
    pretrained()
    scan = load_scan(file)
    settings = ReconstructionConfig(sweeps=sweeps)
    runtime = RuntimeConfig(device='cpu', threads=2)
    begun = time.perf_counter()
    *_, last = pipeline.iterate(
        scan, None, backend=backend, reconstruction=settings, runtime=runtime
    )
    seconds = time.perf_counter() - begun
    sys.path.insert(0, str(SHARED / 'peers'))
    import compare  # type: ignore[import-not-found]

    with np.load(file, allow_pickle=False) as archive:
        truth = archive['true_object']
        light = compare.illumination(archive, truth.shape)
    return seconds, float(compare.compare(last.image.object, truth, light)['phase_ssim'])


def child(command: list[str]) -> Any:
    """Return the JSON of the last line that a command prints; raises where it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, cwd=Path(__file__).parent
    )
    if done.returncode:
        raise SystemExit(f'{" ".join(command)} failed:\n{done.stderr}')
    return json.loads(done.stdout.strip().splitlines()[-1])


def read_ours(file: Path, sweeps: int) -> Reading:
    """Return a reading of ours in a new process."""
    seconds, score = child([sys.executable, __file__, '--child', str(file), str(sweeps)])
    return seconds, score


def read_lsqml(python: Path, file: Path, epochs: int) -> Reading:
    """Return a reading of the shared script in a new process."""
    script = str(SHARED / 'peers' / 'run_ptychi.py')
    command = [str(python.absolute()), '-c', PEER, script, str(file), '--epochs', str(epochs)]
    found = child(command)
    return found['seconds'], found['phase_ssim']


def fewest(read: Callable[[int], Reading], first: int, most: int) -> tuple[int, Reading]:
    """Return the least number at which `read` gives WANTED, found by doubling and halving."""
    low, high, reached = first - 1, first, read(first)
    while reached[1] < WANTED:
        print(f'    {high:>4}: {reached[0]:6.2f} s, {reached[1]:.4f}', flush=True)
        if high >= most:
            raise SystemExit(f'{WANTED} is not reached with {most}')
        low, high = high, min(2 * high, most)
        reached = read(high)
    while high - low > max(1, high // 20):
        middle = (low + high) // 2
        found = read(middle)
        print(f'    {middle:>4}: {found[0]:6.2f} s, {found[1]:.4f}', flush=True)
        if found[1] >= WANTED:
            high, reached = middle, found
        else:
            low = middle
    return high, reached


def measure(file: Path, python: Path, readings: int) -> None:
    """Print what one scan gives."""
    print(f'{file.name}: ours', flush=True)
    sweeps, _ = fewest(lambda n: read_ours(file, n), 2, 20)
    times = [read_ours(file, sweeps)[0] for _ in range(readings // 2)]
    print('  LSQML', flush=True)
    epochs, (theirs, score) = fewest(
        lambda n: read_lsqml(python, file, n), FIRST_EPOCHS, MOST_EPOCHS
    )
    found = [read_ours(file, sweeps) for _ in range(readings - len(times))]
    times += [seconds for seconds, _ in found]
    typical, slowest = statistics.median(times), max(times)
    print(
        f'  to {WANTED}: ours {sweeps} sweeps, median {typical:.3f} s of {readings}, slowest '
        f'{slowest:.3f} s ({found[0][1]:.4f}); LSQML {epochs} epochs, {theirs:.2f} s ({score:.4f}):'
        f' {theirs / typical:.0f} times, of the slowest {theirs / slowest:.0f}', flush=True
    )  # fmt: skip
    seconds, score = read_ours(file, 40)
    print(f'  40 sweeps: {score:.4f} after {seconds:.2f} s (wanted: {AGAIN_S} in {GIVEN_S:g} s)')


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--readings', type=int, default=5)
    parser.add_argument('--peer-python', type=Path, default=Path('.venv-peers/bin/python'))
    parser.add_argument('--child', nargs=2, metavar=('FILE', 'SWEEPS'), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(ours(Path(given.child[0]), int(given.child[1]))))
        return
    if not (SHARED / 'peers').is_dir():
        raise SystemExit(f'The scans and scripts that this compares with are not in {SHARED}')
    for name in FILES:
        measure(SHARED / 'data' / name, given.peer_python, given.readings)


if __name__ == '__main__':
    main()
