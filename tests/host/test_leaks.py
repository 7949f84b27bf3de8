"""Many runs in one host, with a real back end: the benchmark with fewer of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / 'benchmarks' / 'leaks.py'


@pytest.mark.skipif(sys.platform != 'linux', reason='what a process holds is read from /proc')
def test_runs_leave_nothing_in_the_host():
    """Six scans of 12 MB would be felt if they were kept, or their traces in the child."""
    few = ['--reconstructions', '5', '--trainings', '1', '--patterns', '1500']
    done = subprocess.run(
        [sys.executable, BENCHMARK, *few], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    held = json.loads(done.stdout.splitlines()[-1])
    before, after = held['megabytes']
    assert after - before < 50
    for what in ('processes', 'threads', 'system_threads', 'open_files', 'temporary'):
        before, after = held[what]
        assert after <= before, f'{what}: {held[what]}'
    assert held['processes'] == [0, 0]
