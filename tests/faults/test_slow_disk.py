"""A disk that answers late, as over a network: who reads meanwhile gets the old file or the new."""

from __future__ import annotations

import os
import signal
import time

import pytest

from ptychopinn_plugin import archive, files

from .test_kills import are_same, scans, write_in_turn
from .writers import SCANS, WEIGHTS, write

__all__ = ['scans']
# A machine under load reads and writes once in the time watched: both files are waited for.
LATE_S, WATCHED_S, MOST_S = 0.02, 1.5, 120

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')


def late(call):
    def slow(*args, **kwargs):
        time.sleep(LATE_S)
        return call(*args, **kwargs)

    return slow


@pytest.mark.parametrize('name', [*(s for s in SCANS if s != 'pair'), 'model.h5.zip'])
def test_who_reads_while_it_is_written_gets_a_whole_file(name, scans, tmp_path, monkeypatch):
    write(name, scans[0], tmp_path)
    for call in ('fsync', 'replace', 'rename'):
        monkeypatch.setattr(os, call, late(getattr(os, call)))
    waiting, ready = os.pipe()
    pid = os.fork()
    if pid == 0:
        write_in_turn(name, scans, tmp_path, ready)
    try:
        os.read(waiting, 1)
        begun, seen = time.monotonic(), set()
        while (gone := time.monotonic() - begun) < WATCHED_S or (len(seen) < 2 and gone < MOST_S):
            if name in SCANS:
                found = files.load_scan(tmp_path / name)
                same = [are_same(found, scan) for scan in scans]
                assert any(same)
                seen.add(same.index(True))
            else:
                weights = archive.load_model(tmp_path / name).weights
                assert weights.keys() == WEIGHTS.keys()
                seen.add(float(next(iter(weights.values())).flat[0]))
        assert len(seen) == 2
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for side in (waiting, ready):
            os.close(side)
