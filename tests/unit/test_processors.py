"""The kernels as lesser processors have them: the same numbers, and no slower than they must be."""

from __future__ import annotations

import ast
import ctypes
import platform
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from ptychopinn_plugin.kernels.compiled import Compiled
from ptychopinn_plugin.shifted_probe import ShiftedProbe

ROOT = Path(__file__).parents[2]
SIDE, MODES, BATCH = 64, 2, 11
FLOATS = (16, 8, 4)  # of a vector: AVX-512, AVX2, what every processor has

pytestmark = pytest.mark.skipif(
    platform.machine() != 'x86_64' or platform.system() != 'Linux' or not shutil.which('cc'),
    reason='there is one version only',
)


@pytest.fixture(scope='module')
def versions(tmp_path_factory):
    """The library for each number of floats."""
    tree = ast.parse((ROOT / 'hatch_build.py').read_text())
    (flags,) = (ast.literal_eval(n.value) for n in tree.body
                if isinstance(n, ast.Assign) and n.targets[0].id == 'FLAGS')  # fmt: skip
    sources = sorted(map(str, (ROOT / 'ptychopinn_plugin' / 'kernels').glob('*.c')))
    made = {}
    for floats in FLOATS:
        target = tmp_path_factory.mktemp('kernels') / f'{floats}.so'
        command = ['cc', *flags, '-Wall', '-Wextra', '-Werror', f'-DMOST_FLOATS={floats}']
        subprocess.run([*command, '-o', str(target), *sources, '-lm'], check=True, timeout=120)
        made[floats] = Compiled(ctypes.CDLL(str(target)))
    return made


class Step:
    """A batch of patterns under a probe that is not known, one thread."""

    def __init__(self, compiled):
        rng = np.random.default_rng(0)

        def waves(*shape):
            return (rng.normal(size=(*shape, 2)) @ [1, 1j]).astype(np.complex64)

        self.object = waves(2 * SIDE, 2 * SIDE)
        shifted = ShiftedProbe(waves(MODES, SIDE, SIDE))
        self.moved = shifted.coefficients(rng.uniform(-0.5, 0.5, (BATCH, 2))), shifted.waves
        self.corner_px = rng.integers(0, SIDE, (BATCH, 2))
        self.amplitude = SIDE * rng.uniform(0.1, 3, (BATCH, SIDE, SIDE)).astype(np.float32)
        self.share = np.zeros_like(self.amplitude)
        self.corrector = compiled.corrector((BATCH, MODES, SIDE), None, 1)

    def __call__(self):
        return self.corrector(
            self.object, self.corner_px, self.moved, self.amplitude, self.share, (0.5, 0.7),
            ramps=True, crowded=np.ones(BATCH, bool), regularisation=0.3, few=6,
        )  # fmt: skip


@pytest.mark.parametrize('floats', FLOATS[1:])
def test_every_processor_takes_the_same_step(versions, floats):
    made = []
    for version in (versions[floats], versions[16]):
        step = Step(version)
        error, ramps, said = step()
        made.append((np.array(error), ramps, said.shares.copy(), step.object, step.share))
    for a, b in zip(*made, strict=True):
        assert np.abs(a - b).max() <= 2e-5 * np.abs(b).max()


@pytest.mark.parametrize('floats', FLOATS)
def test_products_are_right_on_every_processor(versions, floats):
    rng = np.random.default_rng(1)
    for rows in range(1, 10):
        a, b = (rng.normal(size=s).astype(np.float32) for s in ((rows, 7), (7, 1031)))
        np.testing.assert_allclose(versions[floats].product(a, b), a @ b, atol=1e-5)


def test_no_processor_is_slowed_by_vectors_that_it_does_not_have(versions):
    """Twice is what narrower vectors cost, up to five times without any; wider ones than a
    processor has once made it twelve times.
    """
    steps = {floats: Step(version) for floats, version in versions.items()}
    took = dict.fromkeys(FLOATS, float('inf'))
    for _ in range(30):
        for floats, step in steps.items():
            begun = time.perf_counter()
            step()
            took[floats] = min(took[floats], time.perf_counter() - begun)
    assert took[8] < 5 * took[16]
    assert took[4] < 10 * took[16]
