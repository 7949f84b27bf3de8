"""One step of the sweeps on a CPU against its formula, in one thread and in several."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from ptychopinn_plugin import far_field, host_step, kernels, reference
from ptychopinn_plugin.config import ReconstructionConfig
from ptychopinn_plugin.kernels.plain import Plain
from ptychopinn_plugin.light import light_of
from ptychopinn_plugin.result import ObjectImage
from ptychopinn_plugin.scan import Scan
from ptychopinn_plugin.simulate.probes import make_probe
from ptychopinn_plugin.sweep_plan import SweepPlan
from ptychopinn_plugin.sweeper import Sweeper
from ptychopinn_plugin.transforms import PLAIN

SIDE = 32
PLAN = SweepPlan(pace=0.8, momentum=0.0, correct=True, fall=0.5, network=0.0, move=True)


@pytest.fixture(autouse=True, params=['compiled', 'numpy'])
def kernel(request, monkeypatch):
    chosen = kernels.load() if request.param == 'compiled' else Plain()
    if chosen.name != request.param:
        pytest.skip('no C compiler made the library')
    monkeypatch.setattr(far_field, 'load', lambda: chosen)
    return chosen


@pytest.fixture
def scan():
    """Some windows overlap, some lie alone, in one batch of nine."""
    rng = np.random.default_rng(1)
    positions = np.array(
        [[20, 20], [24.3, 29.8], [31, 21.6], [100.2, 20], [104, 27], [20, 100], [20, 140.4],
         [60.3, 140], [140, 140]]
    )  # fmt: skip
    bad = np.zeros((SIDE, SIDE), bool)
    bad[3, 7] = True
    counts = rng.poisson(20, (9, SIDE, SIDE)).astype(np.uint16)
    return Scan(counts, positions, make_probe('airy', SIDE, 2).astype(np.complex64), bad)


def all_threads(monkeypatch):
    for name in ('LEAST_PIXELS', 'LEAST_FOR_WORKER'):
        monkeypatch.setattr(host_step, name, 1)


def made(scan, threads=1, size=9, **settings):
    rng = np.random.default_rng(2)
    shape = scan.frame.shape
    object_ = (rng.normal(size=(*shape, 2)) @ [1, 1j]).astype(np.complex64)
    image = ObjectImage(object_, np.ones(shape, np.float32), scan.frame.origin_px)
    transforms = replace(PLAIN, threads=lambda: threads)
    probe = scan.probe * np.float32(40)
    config = ReconstructionConfig(sweep_batch_size=size, **settings)
    return Sweeper(
        scan, image, probe, config, lambda s: host_step.HostStep(s, transforms),
        light_of(scan, probe), threads=threads,
    )  # fmt: skip


def corrected(sweeper_):
    """Return the object after one step, by its formula."""
    (batch,) = sweeper_.batches
    scan, good = sweeper_.scan, ~sweeper_.scan.bad_pixels
    probes = reference.shift_probe(sweeper_.probe, batch.shift_px)
    patches = reference.extract(sweeper_.object, batch.corner_px, SIDE)
    field = reference.far_field(reference.illuminate(patches, probes))
    modulus = np.sqrt((np.abs(field) ** 2).sum(1, keepdims=True))
    gain = (np.sqrt(scan.counts[batch.rows])[:, None] / modulus - 1) * good
    gain = np.maximum(gain, -PLAN.fall) * PLAN.pace
    axes = (-2, -1)
    change = np.fft.ifft2(np.fft.ifftshift(gain * field, axes=axes), norm='ortho')
    change = np.fft.fftshift(change, axes=axes)
    power = (np.abs(probes) ** 2).sum(1)
    light = reference.merge(power, batch.corner_px, sweeper_.object.shape)
    share = 1 / (
        (1 - sweeper_.regularisation) * reference.extract(light, batch.corner_px, SIDE)
        + sweeper_.regularisation * power.max()
    )
    steps = (probes.conj() * change).sum(1) * share
    return sweeper_.object + reference.merge(steps, batch.corner_px, sweeper_.object.shape)


@pytest.mark.parametrize('threads', [1, 2, 4])
def test_a_step_is_its_formula(scan, threads, kernel, monkeypatch):
    all_threads(monkeypatch)
    made_ = made(scan, threads)
    for _ in range(2):  # the second time with what the first one kept
        wanted = corrected(made_)
        made_.step(0, replace(PLAN, move=False))
        assert np.linalg.norm(made_.object - wanted) < 1e-4 * np.linalg.norm(wanted)
    step = made_.step
    found = step.corrector.threads if kernel.name == 'compiled' else len(step.parts)
    assert found == threads


@pytest.mark.parametrize('move', [True, False])
@pytest.mark.parametrize('threads', [2, 4, 50])
def test_threads_change_nothing(scan, threads, move, monkeypatch):
    all_threads(monkeypatch)
    settings = {'update_probe': True, 'correct_positions': move}
    alone, several = made(scan, 1, **settings), made(scan, threads, **settings)
    for _ in range(3):
        errors = [s.sweep(replace(PLAN, move=move)) for s in (alone, several)]
        assert errors[0] == pytest.approx(errors[1], rel=1e-5)
    for key in ('object', 'probe'):
        a, b = getattr(alone, key), getattr(several, key)
        assert np.linalg.norm(a - b) < 1e-4 * np.linalg.norm(a)
    if not move:
        return
    np.testing.assert_allclose(alone.positions.px, several.positions.px, atol=1e-4)
    assert (alone.positions.px != scan.positions_px).any()


@pytest.mark.parametrize('move', [True, False])
def test_arrays_may_lie_in_any_order(scan, move):
    def other(values):
        return np.ascontiguousarray(values.swapaxes(-1, -2)).swapaxes(-1, -2)

    turned = replace(
        scan, counts=other(scan.counts), bad_pixels=other(scan.bad_pixels),
        probe=other(scan.probe), positions_px=other(scan.positions_px),
    )  # fmt: skip
    settings, plan = {'update_probe': True, 'correct_positions': move}, replace(PLAN, move=move)
    a, b = made(scan, **settings), made(turned, **settings)
    assert b.sweep(plan) == pytest.approx(a.sweep(plan), rel=1e-6)
    assert np.linalg.norm(a.object - b.object) < 1e-5 * np.linalg.norm(a.object)


@pytest.mark.parametrize('threads', [1, 2, 3])
@pytest.mark.parametrize('update_probe', [True, False])
def test_what_corrects_at_once_finds_the_same(scan, update_probe, threads, kernel, monkeypatch):
    if kernel.name == 'numpy':
        pytest.skip('nothing does')
    all_threads(monkeypatch)
    one = made(scan, threads, update_probe=update_probe)
    monkeypatch.setattr(kernel, 'corrector', lambda *_: None)
    other = made(scan, update_probe=update_probe)
    assert one.step.corrector.threads == threads
    assert other.step.corrector is None
    plan = replace(PLAN, move=False)
    for _ in range(3):
        a, b = (s.step(0, plan) for s in (one, other))
        assert a[0] == pytest.approx(b[0], rel=1e-5)
        assert np.abs(a[1] - b[1]).max() < 1e-4 * np.abs(b[1]).max()
    for key in ('object', 'probe'):
        a, b = getattr(one, key), getattr(other, key)
        assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b)


@pytest.mark.parametrize('threads', [1, 2])
@pytest.mark.parametrize('sweeps', [3, 6])
def test_sweeps_in_one_go_find_the_same(scan, threads, sweeps, kernel, monkeypatch):
    """From the second one on, where what does not change is kept."""
    if kernel.name == 'numpy':
        pytest.skip('nothing does')
    all_threads(monkeypatch)
    one = made(scan, threads, size=2, sweeps=sweeps)
    monkeypatch.setattr(kernel, 'corrector', lambda *_: None)
    other = made(scan, size=2, sweeps=sweeps)
    assert len(one.batches) == 5
    for correct in (True, True, False, True):
        assert one.step.series is None or sweeps == 6
        plan = replace(PLAN, move=False, correct=correct)
        errors = [s.sweep(plan) for s in (one, other)]
        assert errors[0] == pytest.approx(errors[1], rel=1e-5)
        assert np.linalg.norm(one.object - other.object) < 1e-5 * np.linalg.norm(other.object)
    assert (one.step.series is not None) == (sweeps == 6)


def test_small_batches_stay_in_one_thread(scan):
    assert len(made(scan, 8, correct_positions=True).step.parts) == 1
    corrector = made(scan, 8).step.corrector
    assert corrector is None or corrector.threads == 1


def test_an_error_in_a_thread_is_raised(scan, monkeypatch):
    all_threads(monkeypatch)
    made_ = made(scan, 3, correct_positions=True)
    monkeypatch.setattr(made_.step.parts[-1].far, 'light', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made_.step(0, replace(PLAN, move=False))


def test_what_lies_alone_is_told(scan):
    (batch,) = made(scan).batches
    crowded = np.empty(9, bool)
    crowded[batch.rows] = batch.crowded(SIDE)
    assert crowded.tolist() == [True] * 5 + [False] * 4


def test_an_error_waits_for_the_other_threads(scan, monkeypatch):
    all_threads(monkeypatch)
    made_, ended = made(scan, 2, correct_positions=True), []
    first, other = (part.far for part in made_.step.parts)
    light = other.light

    def slow(*args):
        time.sleep(0.2)
        ended.append(True)
        return light(*args)

    monkeypatch.setattr(first, 'light', lambda *_: 1 / 0)
    monkeypatch.setattr(other, 'light', slow)
    with pytest.raises(ZeroDivisionError):
        made_.step(0, replace(PLAN, move=False))
    assert ended
