"""A process that is killed while it writes: the old file is whole, or the new one is."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from ptychopinn_plugin import archive, files

from .writers import SCANS, WEIGHTS, write

KILLS, MOST_KILLS = 40, 240

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')


def write_in_turn(name, scans, folder, begun):
    """Write one scan and another to the same place, until killed."""
    try:
        os.write(begun, b'.')
        while True:
            for scan in scans:
                write(name, scan, folder)
    finally:
        os._exit(1)


def kill_after(seconds, name, scans, folder):
    """Return how the writer ended."""
    waiting, begun = os.pipe()
    pid = os.fork()
    if pid == 0:
        write_in_turn(name, scans, folder, begun)
    os.read(waiting, 1)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    for end in (waiting, begun):
        os.close(end)
    return os.waitpid(pid, 0)[1]


@pytest.fixture(scope='module')
def scans(small_scan):
    """Two scans that differ in everything that a file holds."""
    other = replace(
        small_scan,
        counts=small_scan.counts[::-1].copy(),
        positions_px=small_scan.positions_px[::-1].copy(),
        scan_index=small_scan.scan_index[::-1].copy(),
        probe=2 * small_scan.probe,
    )
    return small_scan, other


def are_same(found, scan):
    """Tell whether two scans are one; a file may move all of the positions together."""
    steps = (np.diff(s.positions_px, axis=0) for s in (found, scan))
    return (
        np.array_equal(found.counts, scan.counts)
        and np.allclose(found.probe, scan.probe)
        and np.allclose(*steps, atol=0.01)
    )


@pytest.mark.parametrize('name', [*SCANS, 'model.h5.zip'])
def test_a_kill_at_a_random_moment_leaves_the_old_file_or_the_new_one(name, scans, tmp_path):
    write(name, scans[0], tmp_path)
    begun = time.monotonic()
    write(name, scans[0], tmp_path)
    both_s = 2 * (time.monotonic() - begun)
    rng = np.random.default_rng(7)
    for number in range(MOST_KILLS):
        # On a machine that has slowed down since, no kill may come as late as the first file.
        if number >= KILLS and list(tmp_path.rglob('.*.part*')):
            break
        longest_s = both_s * (1 + number // KILLS)
        assert kill_after(rng.uniform(0, longest_s), name, scans, tmp_path) == signal.SIGKILL
        if name in SCANS:
            found = files.load_scan(tmp_path / name)
            assert any(are_same(found, scan) for scan in scans)
        else:
            found = archive.load_model(tmp_path / name).weights
            sign = np.sign(found[next(iter(WEIGHTS))] / WEIGHTS[next(iter(WEIGHTS))]).flat[0]
            assert all(np.array_equal(found[k], sign * v) for k, v in WEIGHTS.items())
    # They stay: one of them can be the second file of a pair.
    assert list(tmp_path.rglob('.*.part*')), 'no kill came in the middle: they show nothing'
