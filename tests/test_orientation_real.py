"""The orientation of the published Siemens star; skipped where the data is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import ptychopinn_plugin as pp
from ptychopinn_plugin.config import ReconstructionConfig, RuntimeConfig
from ptychopinn_plugin.orientation import judge, noise_floor, suspicious

DATA = Path(__file__).resolve().parents[2] / 'shared' / 'data'
STAR = DATA / 'siemens_star_velociprobe.npz'
RUNTIME = RuntimeConfig(device='cpu')

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not STAR.exists(), reason='the reference data is not here'),
]


@pytest.mark.parametrize('probe_key', [None, 'reference_probe'])
def test_it_fits_as_loaded(probe_key):
    """Also with the poor probe guess of the file."""
    found = judge(pp.load_scan(STAR, probe_key=probe_key), runtime=RUNTIME, patterns=96)
    assert found.candidates == ('as loaded',)


def test_turned_positions_are_found():
    """Flipped along y, then swapped, while the asymmetric probe still agrees with the patterns."""
    scan = pp.load_scan(STAR, probe_key='reference_probe')
    positions = scan.positions_px.copy()
    positions[:, 0] = positions[:, 0].min() + positions[:, 0].max() - positions[:, 0]
    turned = replace(scan, positions_px=positions[:, ::-1], frame=None, object_guess=None)
    found = judge(turned, runtime=RUNTIME, patterns=96)
    assert found.candidates == ('swap axes, flip x',)


def test_a_good_reconstruction_is_not_doubted():
    scan = pp.load_scan(STAR, probe_key='reference_probe')
    result = pp.reconstruct(
        scan, reconstruction=ReconstructionConfig('flat', sweeps=6), runtime=RUNTIME
    )
    assert not suspicious(result.fourier_error, noise_floor(scan), 6)
