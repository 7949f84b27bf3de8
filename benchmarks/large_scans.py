"""Time and memory of `ptychopinn-plugin reconstruct` against the number of patterns.

    python benchmarks/large_scans.py [--patterns 1000 10000 100000] [--sweeps 2] [--packed]

Each scan (128x128 uint16, steps of 9 px, 1e5 photons per frame) is made on the fly into an HDF5
file, reconstructed by a new process, and deleted. `--packed` compresses the file, which the reader
then unpacks into a temporary file; without it the patterns are mapped where they are. The largest
file takes 3.3 GB, packed ones as much again while they are read.

Prints a line per scan and a JSON object last. Memory is that of the whole process tree, a shared
page once, sampled: `own` cannot be taken back by the system, `all` has the mapped files, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from ptychopinn_plugin import files, reference
from ptychopinn_plugin.geometry import relative_illumination, windows
from ptychopinn_plugin.metrics import compare
from ptychopinn_plugin.scan import Frame, Scan
from ptychopinn_plugin.simulate.positions import jitter
from ptychopinn_plugin.simulate.probes import make_probe
from ptychopinn_plugin.simulate.specimens import SPECIMENS

SIDE, STEP_PX, PHOTONS, AT_ONCE = 128, 9.0, 1e5, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--patterns', type=int, nargs='+', default=[1000, 10_000, 100_000])
    parser.add_argument('--sweeps', type=int, default=2)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--packed', action='store_true')
    parser.add_argument('--folder', type=Path, help='where there is room for the largest')
    options = parser.parse_args()
    rows = []
    for count in options.patterns:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            scan = _made(Path(name) / 'scan.h5', count, options.seed, packed=options.packed)
            rows.append({'patterns': count} | _reconstructed(Path(name), scan, options.sweeps))
        print(*(f'{k} {v:.4g}' for k, v in rows[-1].items()), flush=True)
    print(json.dumps({'packed': options.packed, 'sweeps': options.sweeps, 'scans': rows}))


def _made(file: Path, count: int, seed: int, *, packed: bool) -> Scan:
    """Write a scan; return it with counts of one."""
    rng = np.random.default_rng(seed)
    across = int(np.ceil(np.sqrt(count)))
    span = STEP_PX * (across - 1)
    size = int(span) + SIDE + 4
    object_ = SPECIMENS['leaves']((size, size), rng, (0.5, 1.0), (-1.0, 1.0))
    positions = jitter(count, span, rng) + (SIDE - 1) / 2 + 2
    blank = np.broadcast_to(np.uint8(1), (count, SIDE, SIDE))
    probe = make_probe('zone-plate', SIDE, 1).astype(np.complex64)
    probe *= np.sqrt(PHOTONS / (np.abs(probe) ** 2).sum())
    scan = Scan(blank, positions, probe, frame=Frame((size, size)), true_object=object_)
    files.save_scan(scan.take(np.arange(2)), file)
    at = windows(scan)
    with h5py.File(file, 'a') as h5:
        columns = {'y': positions[:, 0], 'x': positions[:, 1]}
        places = {f'probe_position_{axis}_px': values for axis, values in columns.items()}
        for key, values in (places | {'scan_index': np.arange(count)}).items():
            del h5[key]
            h5[key] = values
        del h5['patterns']
        how = {'chunks': (AT_ONCE, SIDE, SIDE), 'compression': 'lzf'} if packed else {}
        patterns = h5.create_dataset('patterns', (count, SIDE, SIDE), 'u2', **how)
        for start in range(0, count, AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            wave = reference.illuminate(
                reference.extract(object_, at.corner_px[rows], SIDE),
                reference.shift_probe(probe, at.shift_px[rows]),
            )
            patterns[rows] = rng.poisson(reference.intensity(reference.far_field(wave)))
    return scan


def _reconstructed(folder: Path, scan: Scan, sweeps: int) -> dict[str, float]:
    command = shutil.which('ptychopinn-plugin', path=Path(sys.executable).parent)
    assert command is not None, 'install the package first'
    begun = time.perf_counter()
    process = subprocess.Popen(
        [command, 'reconstruct', folder / 'scan.h5', '--output', folder / 'out.npz',
         '--sweeps', str(sweeps), '--json'],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    own = both = 0
    while process.poll() is None:
        now = [_memory_bytes(p) for p in _tree(process.pid)]
        own, both = max(own, sum(o for o, _ in now)), max(both, sum(b for _, b in now))
        time.sleep(0.2)
    seconds = time.perf_counter() - begun
    assert process.stdout is not None
    said = process.stdout.read()
    if process.returncode:
        raise SystemExit(said)
    laps = json.loads(said.splitlines()[-1])['seconds']
    with np.load(folder / 'out.npz') as arrays:
        found = arrays['object']
    assert scan.true_object is not None
    score = compare(found, scan.true_object, relative_illumination(scan, scan.probe))
    return {
        'file_gb': (folder / 'scan.h5').stat().st_size / 1e9,
        'phase_ssim': score.phase_ssim,
        'seconds': seconds,
        **{f'{k}_us_per_pattern': v / len(scan) * 1e6 for k, v in laps.items()},
        'sweep_us_per_pattern': laps['sweeps'] / len(scan) / sweeps * 1e6,
        'own_gb': own / 1e9,
        'all_gb': both / 1e9,
    }


def _tree(root: int) -> list[int]:
    found = [root]
    for process in found:
        try:
            for task in os.listdir(f'/proc/{process}/task'):
                found += map(int, Path(f'/proc/{process}/task/{task}/children').read_text().split())
        except OSError:  # it has ended
            continue
    return found


def _memory_bytes(process: int) -> tuple[int, int]:
    """Return what a process has of memory: without and with what is mapped from files."""
    try:
        lines = Path(f'/proc/{process}/smaps_rollup').read_text().splitlines()[1:]
    except OSError:
        return 0, 0
    sizes = {key: int(rest.split()[0]) * 1024 for key, rest in (line.split(':') for line in lines)}
    return sizes['Pss_Anon'] + sizes['Pss_Shmem'], sizes['Pss']


if __name__ == '__main__':
    main()
