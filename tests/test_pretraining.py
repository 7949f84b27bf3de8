"""`benchmarks/pretrain.py`, from which the weights in the wheel come, from its scans to a model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ptychopinn_plugin as pp
from ptychopinn_plugin.pretrained import pretrained

SCRIPT = Path(__file__).parents[1] / 'benchmarks' / 'pretrain.py'


@pytest.mark.slow
def test_scans_are_made_once_and_a_training_goes_on_where_it_stopped(tmp_path):
    def run(steps):
        arguments = ('--scans', '3', '--steps', str(steps), '--batch', '2', '--report', '2',
                     '--jobs', '2', '--folder', str(tmp_path), '--device', 'cpu')  # fmt: skip
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *arguments, '--output', str(model)],
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    model = tmp_path / 'model.h5.zip'
    run(2)
    made = {f: f.stat().st_mtime_ns for f in tmp_path.glob('[0-9]*.npz')}
    assert len(made) == 3
    first = pp.load_model(model).weights
    said = run(4)
    assert '4 steps' in said
    assert '2 steps,' not in said
    assert {f: f.stat().st_mtime_ns for f in tmp_path.glob('[0-9]*.npz')} == made
    second = pp.load_model(model).weights
    assert set(second) == set(pretrained().weights)
    assert any((second[k] != first[k]).any() for k in second)
    assert all(np.isfinite(v).all() for v in second.values())
