"""One input, computed by each back end in a process of its own, and by the oracle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin import reference
from ptychopinn_plugin.simulate import Simulation, simulate_scan

COMPUTE = Path(__file__).with_name('compute.py')
BACKENDS = ('torch', 'tensorflow')


@pytest.fixture(scope='session')
def given():
    """A scan with two probe modes, bad pixels and positions between pixels."""
    scan = simulate_scan(
        Simulation(
            pattern_size_px=32, object_size_px=90, patterns=120, modes=2, bad_fraction=0.02,
            specimen='leaves', seed=8,
        )
    )  # fmt: skip
    rng = np.random.default_rng(0)
    rows = rng.choice(len(scan), 6, replace=False)
    from ptychopinn_plugin.geometry import windows

    place = windows(scan)
    shape = (6, 32, 32)
    other = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    return {
        'counts': scan.counts,
        'positions_px': scan.positions_px,
        'probe': scan.probe,
        'bad_pixels': scan.bad_pixels,
        'true_object': scan.true_object,
        'object': scan.true_object,
        'corner_px': place.corner_px[rows],
        'shift_px': place.shift_px[rows],
        'patterns': np.where(scan.bad_pixels, 0, scan.counts[rows]).astype(np.float32),
        'other_patches': (0.3 * other + 0.7).astype(np.complex64),
    }


@pytest.fixture(scope='session')
def computed(given, tmp_path_factory):
    """Return {back end: {name: array}}; a back end that cannot be loaded fails."""
    folder = tmp_path_factory.mktemp('parity')
    np.savez(folder / 'given.npz', **given)
    out = {}
    for name in BACKENDS:
        target = folder / f'{name}.npz'
        done = subprocess.run(
            [sys.executable, str(COMPUTE), name, str(folder / 'given.npz'), str(target)],
            capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        with np.load(target) as stored:
            out[name] = {key: stored[key] for key in stored.files}
    return out


@pytest.fixture(scope='session')
def oracle(given):
    """The physics and the losses in double precision."""
    r, good = reference, ~given['bad_pixels']
    side, shape = 32, given['object'].shape
    probes = r.shift_probe(given['probe'], given['shift_px'])
    patches = r.extract(given['object'], given['corner_px'], side)
    return {
        'shift_phase': r.shift_phase(given['shift_px'], side),
        'shift_probe': probes,
        'extract': patches,
        'merge': r.merge(patches, given['corner_px'], shape),
        'far_field': r.far_field(r.illuminate(patches, probes)),
        'diffract': r.intensity(r.far_field(r.illuminate(patches, probes))),
        'good': good,
        'probes': probes,
    }
