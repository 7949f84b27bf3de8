"""The compiled kernels against NumPy's, and what becomes of a library that does not fit."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft

from ptychopinn_plugin import kernels
from ptychopinn_plugin.kernels import library
from ptychopinn_plugin.kernels.compiled import Compiled
from ptychopinn_plugin.kernels.corrector import Beam, Filters, Given
from ptychopinn_plugin.kernels.plain import Plain
from ptychopinn_plugin.shifted_probe import ShiftedProbe
from ptychopinn_plugin.transforms import aligned

PLAIN = Plain()
FOUND = library.found()
needs_library = pytest.mark.skipif(FOUND is None, reason='no C compiler made the library')
SIZES = {
    'batch': st.integers(1, 5),
    'modes': st.integers(1, 3),
    'side': st.sampled_from([2, 4, 6, 16, 34, 64]),
    'seed': st.integers(0, 2**32 - 1),
}


@pytest.fixture(scope='module')
def compiled():
    return Compiled(FOUND)


class Drawn:
    """Arrays of one size, and corners on a canvas that is barely larger than a window."""

    def __init__(self, batch, modes, side, seed):
        self.rng = rng = np.random.default_rng(seed)
        self.shape, self.one = (batch, modes, side, side), (batch, side, side)
        self.canvas = side + int(rng.integers(0, 5)), side + int(rng.integers(0, 9))
        room = np.array(self.canvas) - side + 1
        self.corner_px = rng.integers(0, room, (batch, 2))

    def real(self, shape=None):
        return self.rng.uniform(0.1, 3, shape or self.one).astype(np.float32)

    def waves(self, shape=None):
        shape = shape or self.shape
        return (self.rng.normal(size=(*shape, 2)) @ [1, 1j]).astype(np.complex64)


def close(a, b):
    return np.abs(a - b).max() <= 2e-5 * max(np.abs(b).max(), 1e-30)


@needs_library
@settings(max_examples=60, deadline=None)
@given(
    **SIZES, good=st.booleans(), keep=st.booleans(), fall=st.sampled_from([1.0, 0.5, 0.3]),
    pace=st.sampled_from([0.7, 1.0, 1.25]), background=st.sampled_from([0.0, 0.8]),
)  # fmt: skip
def test_responses_are_the_same(
    compiled, batch, modes, side, seed, good, keep, fall, pace, background
):
    d = Drawn(batch, modes, side, seed)
    field, amplitude = d.waves(), d.real()
    field[0, :, 0, 0] = 0  # no light: nothing to scale
    mask = (d.rng.random((side, side)) > 0.2).astype(np.float32) if good else None
    one, made = (batch, 1, side, side), []
    for k in (PLAIN, compiled):
        out, seen = np.empty_like(field), (np.empty(one, np.float32), np.empty(one, np.float32))
        limits = (fall, pace)
        error = k.respond(
            field, amplitude, mask, limits, out, seen, keep=keep, background=background
        )
        made.append((error, out, *(seen if keep else ())))
    assert made[0][0] == pytest.approx(made[1][0], rel=1e-5)
    for a, b in zip(made[1][1:], made[0][1:], strict=True):
        assert close(a, b)


@needs_library
@settings(max_examples=60, deadline=None)
@given(**SIZES)
def test_what_meets_a_canvas_is_the_same(compiled, batch, modes, side, seed):
    d = Drawn(batch, modes, side, seed)
    object_, probes, change = d.waves(d.canvas), d.waves(), d.waves()
    for name in ('illuminate', 'witness'):
        made = []
        for k in (PLAIN, compiled):
            out = np.empty_like(probes)
            density = getattr(k, name)(object_, d.corner_px, probes, out)
            made.append((out, density))
        assert close(made[1][0], made[0][0])
        assert name == 'illuminate' or close(made[1][1], made[0][1])
    made = [k.collect(change, probes, s, np.empty_like(probes)) for k in (PLAIN, compiled)
            for s in [Drawn(batch, modes, side, seed).real()]]  # fmt: skip
    assert close(made[1], made[0])
    for canvas, patches in ((object_, d.waves(d.one)), (d.real(d.canvas), d.real())):
        made = [canvas.copy(), canvas.copy()]
        PLAIN.merge(made[0], d.corner_px, patches)
        compiled.merge(made[1], d.corner_px, patches)
        np.testing.assert_array_equal(made[1], made[0])


@needs_library
@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 40), modes=st.integers(1, 3), seed=SIZES['seed'], count=st.integers(1, 12),
    side=st.sampled_from([16, 32, 64, 128, 256, 512]), threads=st.integers(1, 3),
    good=st.booleans(), known=st.booleans(), seen=st.booleans(), fall=st.sampled_from([1.0, 0.5]),
    few=st.integers(0, 12), background=st.sampled_from([0.0, 50.0]),
)  # fmt: skip
def test_a_batch_at_once_is_its_parts(
    compiled, batch, modes, side, seed, count, threads, good, known, seen, fall, few, background
):
    batch, few = max(1, min(batch, 2**17 // side**2)), min(few, count)
    d = Drawn(batch, modes, side, seed)
    object_, share, amplitude = d.waves(d.canvas), d.real(), side * d.real()
    coefficients, basis = d.real((batch, count)) - 1, d.waves((count, modes, side, side))
    mask = (d.rng.random((side, side)) > 0.2).astype(np.float32) if good else None
    crowded, limits, a = d.rng.random(batch) > 0.3, (fall, 0.7), 0.2
    waves, modulus = np.empty(d.shape, np.complex64), np.empty((batch, 1, side, side), np.float32)
    miss = np.empty_like(modulus)
    probes = np.einsum('bk,kpyx->bpyx', coefficients, basis)
    if not known:
        PLAIN.powers(probes, share)
        light, floor = np.zeros(d.canvas, np.float32), a * float(share.max())
        PLAIN.merge(light, d.corner_px[crowded], share[crowded])
        PLAIN.shares(light, d.corner_px, crowded, share, (1 - a, floor))
    PLAIN.illuminate(object_, d.corner_px, probes, waves)
    field = fft.fft2(waves)
    error = PLAIN.respond(
        field, amplitude, mask, limits, waves, (modulus, miss), keep=True, background=background
    )
    change = fft.ifft2(waves)
    density = PLAIN.witness(object_, d.corner_px, change, waves)
    shares = np.einsum('bk,bpyx->kpyx', coefficients[:, :few], waves.conj())
    patches = PLAIN.collect(change, probes, share, np.empty_like(probes))
    corrected = object_.copy()
    PLAIN.merge(corrected, d.corner_px, patches)

    corrector = compiled.corrector((40, modes, side), mask, threads, background)
    for _ in range(2):  # the second time with what the first one left
        own, held = object_.copy(), share.copy() if known else np.full_like(share, np.nan)
        made = corrector(
            own, d.corner_px, (coefficients, basis), corrector.turned(amplitude), held, limits,
            ramps=seen, crowded=None if known else crowded, regularisation=a,
            few=few,
        )  # fmt: skip
    assert made[0] == pytest.approx(error, rel=1e-5)
    assert close(held, share)
    assert close(own, corrected)
    assert (made[1] is None) == (not seen)
    if seen:
        sums = PLAIN.ramps(modulus, miss, mask)
        assert np.abs(made[1] - sums).max() < 1e-5 * (np.abs(sums).max() + side**2)
    assert (made[2] is None) == (few == 0)
    if few:
        assert close(made[2].shares, shares)
        assert close(made[2].density, density)


@needs_library
@pytest.mark.parametrize('threads', [1, 2])
def test_a_batch_at_once_keeps_to_its_own(compiled, threads):
    """A window off the canvas, arrays of other shapes, and what is not a number in one pattern."""
    d = Drawn(2, 1, 16, 3)
    object_, basis, share, amplitude = (
        d.waves((40, 40)),
        d.waves((3, 1, 16, 16)),
        d.real(),
        d.real(),
    )
    corrector = compiled.corrector((2, 1, 16), None, threads)
    corner_px = np.array([[0, 0], [24, 24]])

    def run(object_=object_, corner_px=corner_px, share=share, basis=basis, **more):
        own, moved = object_.copy(), (np.ones((2, 3), np.float32), basis)
        corrector(own, corner_px, moved, amplitude, share, (1.0, 1.0), **more)
        return own

    assert np.isfinite(run()).all()
    spoilt = object_.copy()
    spoilt[39, 39] = np.nan
    np.testing.assert_array_equal(run(spoilt)[:24, :24], run()[:24, :24])
    for wrong in ([0, 25], [-1, 0]):
        with pytest.raises(IndexError, match='does not lie on a canvas'):
            run(corner_px=np.array([[0, 0], wrong]))
    for wrong in (
        {'share': share[:1]}, {'basis': basis[:2]}, {'corner_px': np.zeros((3, 2), int)},
        {'crowded': np.ones(3, bool)},
    ):  # fmt: skip
        with pytest.raises(ValueError, match='shape'):
            run(**wrong)
    with pytest.raises(ValueError, match='at most 3 waves'):
        run(few=4)


@needs_library
@settings(max_examples=30, deadline=None)
@given(modes=st.integers(1, 3), seed=SIZES['seed'], threads=st.integers(1, 3), good=st.booleans(),
       side=st.sampled_from([16, 64, 128]), seen=st.booleans())  # fmt: skip
def test_a_series_is_its_batches_in_that_order(compiled, modes, seed, threads, good, side, seen):
    d = Drawn(7, modes, side, seed)
    object_, basis = d.waves(d.canvas), d.waves((3, modes, side, side))
    mask = (d.rng.random((side, side)) > 0.2).astype(np.float32) if good else None
    corrector = compiled.corrector((3, modes, side), mask, threads)
    share, coefficients = 0.1 * d.real(), d.real((7, 3)) - 1
    amplitude = corrector.turned(side * d.real())
    cuts, order, limits = (slice(0, 3), slice(3, 5), slice(5, 7)), np.array([2, 0]), (0.5, 0.7)
    crowded = d.rng.random(7) > 0.5  # without meaning: the shares are given
    known = [
        Given(d.corner_px[c], coefficients[c], amplitude[c], share[c], crowded[c]) for c in cuts
    ]

    one, errors, ramps = object_.copy(), 0.0, {}
    for number in order:
        k = known[number]
        moved = k.coefficients, basis
        error, ramps[number], _ = corrector(
            one, k.corner_px, moved, k.amplitude, k.share, limits, ramps=True
        )
        errors += error
    other = object_.copy()
    series = corrector.series(other, basis, known)
    for _ in range(2):  # the second time with what the first one left
        other[:] = object_
        found = series(order, limits, ramps=seen)
    assert close(other, one)
    assert found[0] == pytest.approx(errors, rel=1e-6)
    assert (found[1] is None) == (not seen)
    if seen:
        assert close(found[1], np.concatenate([ramps[0], ramps[2]]))


@needs_library
@settings(max_examples=30, deadline=None)
@given(modes=st.integers(1, 3), seed=SIZES['seed'], threads=st.integers(1, 3),
       side=st.sampled_from([16, 64]), fresh=st.booleans())  # fmt: skip
def test_a_series_moves_the_probe_with_every_batch(compiled, modes, seed, threads, side, fresh):
    d = Drawn(7, modes, side, seed)
    object_, probe = d.waves(d.canvas), d.waves((modes, side, side))
    corrector = compiled.corrector((3, modes, side), None, threads)
    one, other = (ShiftedProbe(probe, signed=True) for _ in range(2))
    coefficients, few = one.coefficients(d.rng.uniform(-0.5, 0.5, (7, 2))), one.few(2)
    amplitude, crowded, share = corrector.turned(side * d.real()), d.rng.random(7) > 0.3, d.real()
    cuts, order, limits = (slice(0, 3), slice(3, 5), slice(5, 7)), np.array([2, 0, 1]), (0.5, 0.7)

    moved, expected, shares = object_.copy(), probe.copy(), share.copy()
    for number in order:
        c = cuts[number]
        _, _, said = corrector(
            moved, d.corner_px[c], (coefficients[c], one.waves), amplitude[c], shares[c], limits,
            crowded=crowded[c] if fresh else None, regularisation=0.3, few=few,
        )  # fmt: skip
        expected += 0.7 * one.collected(said.shares, corrector) / said.density.max()
        one.replace(expected, corrector)

    given = [Given(d.corner_px[c], coefficients[c], amplitude[c], share[c], crowded[c])
             for c in cuts]  # fmt: skip
    beam = Beam(aligned(probe.shape), other.filters, few, 0.7)
    beam.probe[:] = other.signed(probe)
    series = corrector.series(object_, other.waves, given, regularisation=0.3, beam=beam)
    series(order, limits, shares=fresh)
    assert close(object_, moved)
    assert close(other.signed(beam.probe), expected)
    assert close(other.waves, one.waves)
    assert close(share, shares)


@needs_library
@pytest.mark.parametrize('threads', [1, 2])
def test_a_long_series_is_as_one_batch_after_another(compiled, threads):
    """Longer than what is done before the interpreter is asked."""
    d = Drawn(200, 1, 16, 5)
    object_, basis = d.waves(d.canvas), d.waves((1, 1, 16, 16))
    corrector = compiled.corrector((1, 1, 16), None, threads)
    ones, share, amplitude = np.ones((200, 1), np.float32), 0.01 * d.real(), 16 * d.real()
    known = [Given(*(v[k : k + 1] for v in (d.corner_px, ones, amplitude, share, ones[:, 0] > 0)))
             for k in range(200)]  # fmt: skip
    one, other = object_.copy(), object_.copy()
    errors = [corrector(one, k.corner_px, (k.coefficients, basis), k.amplitude, k.share, (1, 1))[0]
              for k in known]  # fmt: skip
    found, _ = corrector.series(other, basis, known)(np.arange(200), (1, 1))
    assert close(other, one)
    assert found == pytest.approx(sum(errors), rel=1e-6)


@needs_library
def test_a_series_keeps_to_its_own(compiled):
    d = Drawn(2, 1, 16, 3)
    object_, basis = d.waves((40, 40)), d.waves((1, 1, 16, 16))
    ones, share, amplitude = np.ones((2, 1), np.float32), d.real(), d.real()
    corrector = compiled.corrector((2, 1, 16), None, 2)

    def series(corner_px, share=share, **more):
        known = Given(np.array(corner_px), ones, amplitude, share, ones[:, 0] > 0)
        return corrector.series(object_, basis, [known])

    before = object_.copy()
    with pytest.raises(IndexError, match='does not lie on a canvas'):
        series([[0, 0], [0, 25]])(np.array([0]), (1.0, 1.0))
    with pytest.raises(IndexError, match='below 1'):
        series([[0, 0], [0, 24]])(np.array([1]), (1.0, 1.0))
    with pytest.raises(ValueError, match='shape'):
        series([[0, 0], [0, 24]], share[:1])
    with pytest.raises(ValueError, match='shape'):
        series([[0, 0]])
    assert series([[0, 0], [0, 24]])(np.array([], int), (1.0, 1.0)) == (0.0, None)
    np.testing.assert_array_equal(object_, before)


@needs_library
@pytest.mark.parametrize('threads', [1, 2])
@pytest.mark.parametrize('modes', [1, 2])
def test_a_misfit_corrects_nothing(compiled, threads, modes):
    d = Drawn(5, modes, 32, 4)
    object_, basis, amplitude = d.waves(d.canvas), d.waves((2, modes, 32, 32)), d.real()
    corrector = compiled.corrector((5, modes, 32), None, threads)
    moved, before = (d.real((5, 2)), basis), object_.copy()
    found = corrector.misfit(object_, d.corner_px, moved, amplitude)
    np.testing.assert_array_equal(object_, before)
    error, *_ = corrector(object_, d.corner_px, moved, amplitude, d.real(), (1.0, 1.0))
    assert found == pytest.approx(error, rel=1e-12)
    with pytest.raises(IndexError, match='does not lie on a canvas'):
        corrector.misfit(object_, d.corner_px - 1000, moved, amplitude)
    few = compiled.corrector((4, modes, 32), None, threads)  # has no room for five
    with pytest.raises(ValueError, match='shape'):
        few.misfit(object_, d.corner_px, moved, amplitude)


@needs_library
def test_threads_end_with_what_began_them(compiled):
    def running():
        return len(list(Path('/proc/self/task').iterdir()))

    before = running()
    corrector = compiled.corrector((2, 1, 16), None, 4)
    assert running() == before + 3
    del corrector
    assert running() == before


@needs_library
def test_a_copy_of_the_process_waits_for_no_thread(compiled):
    corrector = compiled.corrector((2, 1, 16), None, 4)
    child = os.fork()
    if child == 0:
        del corrector
        os._exit(0)
    until = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < until:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)


@needs_library
def test_numbers_too_small_are_flushed_and_the_flags_given_back(compiled):
    tiny, one = np.full((40, 40), 1e-42, np.complex64), np.ones((2, 16, 16), np.float32)
    corrector = compiled.corrector((2, 1, 16), None, 2)
    basis, waves = np.ones((1, 1, 16, 16), np.complex64), np.empty((2, 1, 16, 16), np.complex64)
    seen = np.empty((2, 1, 16, 16), np.float32), np.empty((2, 1, 16, 16), np.float32)
    field = 256 * tiny[None, None, :16, :16].repeat(2, 0)
    PLAIN.respond(field, one, None, (1.0, 1.0), waves, seen, keep=True)
    assert waves.all()  # so they would be found
    for count in (1, 2):
        own = tiny.copy()
        corrector(
            own, np.zeros((count, 2), int), (np.ones((count, 1), np.float32), basis), one[:count],
            one[:count], (1.0, 1.0),
        )  # fmt: skip
        assert np.abs(own).max() < 1e-40
    assert np.float32(1e-40) * np.float32(1) > 0


@needs_library
@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 9), inner=st.integers(1, 25), columns=st.integers(1, 200),
       seed=SIZES['seed'])  # fmt: skip
def test_products_are_those_of_matrices(compiled, rows, inner, columns, seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(size=s).astype(np.float32) for s in ((rows, inner), (inner, columns)))
    assert close(compiled.product(a, b), a @ b)
    out = np.empty((rows, columns), np.float32)
    assert compiled.product(a, b, out) is out
    assert close(out, a @ b)


@needs_library
@pytest.mark.parametrize('side', [2, 8, 24, 48, 96, 320, 1024])
def test_nothing_corrects_other_sides_at_once(compiled, side):
    assert compiled.corrector((2, 1, side), None, 1) is None


@needs_library
@settings(max_examples=60, deadline=None)
@given(**SIZES, good=st.booleans())
def test_powers_shares_and_ramps_are_the_same(compiled, batch, modes, side, seed, good):
    d = Drawn(batch, modes, side, seed)
    probes, light, crowded = d.waves(), d.real(d.canvas), d.rng.random(batch) > 0.5
    power = [np.empty(d.one, np.float32) for _ in range(2)]
    for k, out in zip((PLAIN, compiled), power, strict=True):
        k.powers(probes, out)
    assert close(power[1], power[0])
    made = [k.shares(light, d.corner_px, crowded, p.copy(), (0.7, 0.3))
            for k, p in zip((PLAIN, compiled), power, strict=True)]  # fmt: skip
    assert close(made[1], made[0])
    mask = (d.rng.random((side, side)) > 0.2).astype(np.float32) if good else None
    one = (batch, 1, side, side)
    modulus, miss = d.real(one), d.waves(one).real.copy() * (1 if mask is None else mask)
    made = [k.ramps(modulus, miss, mask) for k in (PLAIN, compiled)]
    scale = np.abs(made[0]).max() + side**2  # sums of signs cancel
    assert np.abs(made[1] - made[0]).max() < 1e-5 * scale


@pytest.mark.parametrize('kernel', [PLAIN, *([] if FOUND is None else [Compiled(FOUND)])])
def test_merging_adds_where_patches_overlap(kernel):
    canvas = np.zeros((5, 6), np.float32)
    kernel.merge(canvas, np.array([[0, 0], [1, 2]]), np.ones((2, 3, 3), np.float32))
    assert canvas.sum() == 18
    assert (canvas[1:3, 2] == 2).all()
    assert canvas[4].sum() == 0


@needs_library
@pytest.mark.parametrize('place', [(-1, 0), (0, -1), (3, 0), (0, 4), (2**62, 0)])
def test_a_window_beside_the_canvas_is_refused(compiled, place):
    d = Drawn(2, 1, 8, 0)
    canvas, corner_px = d.waves((10, 11)), np.array([[0, 0], place])
    before, out = canvas.copy(), np.zeros(d.shape, np.complex64)
    light, density = d.real((10, 11)), d.real()
    crowded = np.ones(2, bool)
    for act in (
        lambda: compiled.merge(canvas, corner_px, d.waves(d.one)),
        lambda: compiled.illuminate(canvas, corner_px, d.waves(), out),
        lambda: compiled.witness(canvas, corner_px, d.waves(), out),
        lambda: compiled.shares(light, corner_px, crowded, density, (1.0, 1.0)),
    ):
        with pytest.raises(IndexError, match='does not lie on a canvas'):
            act()
    np.testing.assert_array_equal(canvas, before)
    assert not out.any()


def _read_only(values):
    view = values.view()
    view.flags.writeable = False
    return view


@needs_library
def test_memory_that_is_not_what_c_expects_is_refused(compiled):
    d = Drawn(2, 1, 8, 0)
    canvas, probes, out = d.waves(d.canvas), d.waves(), np.empty(d.shape, np.complex64)
    for wrong in (
        (canvas.astype(np.complex128), d.corner_px, probes, out),
        (canvas, d.corner_px.astype(np.int32), probes, out),
        (canvas, d.corner_px[:1], probes, out),
        (canvas, d.corner_px, probes, out[:1]),
        (canvas, d.corner_px, probes[..., ::-1], out),
        (np.asfortranarray(canvas), d.corner_px, probes, out),
        (canvas, d.corner_px, probes, np.broadcast_to(probes[:1, :1], probes.shape)),
        (canvas, d.corner_px, probes, _read_only(out)),
        (canvas, d.corner_px, probes[..., :6].copy(), out[..., :6].copy()),
    ):
        with pytest.raises(ValueError, match='Expected'):
            compiled.illuminate(*wrong)


@needs_library
def test_what_is_no_number_stays_none(compiled):
    d = Drawn(1, 1, 8, 0)
    field, amplitude = d.waves(), d.real()
    field[0, 0, 2, 3] = np.nan
    seen = np.empty((1, 1, 8, 8), np.float32), np.empty((1, 1, 8, 8), np.float32)
    out = np.empty_like(field)
    assert np.isnan(compiled.respond(field, amplitude, None, (0.5, 0.5), out, seen, keep=False))
    assert np.isnan(out[0, 0, 2, 3])
    assert np.isfinite(out).sum() == 63


@needs_library
def test_the_largest_side_and_more(compiled, monkeypatch):
    d = Drawn(1, 2, 16, 0)
    field, amplitude, change, share = d.waves(), d.real(), d.waves(), d.real()
    seen = np.empty((1, 1, 16, 16), np.float32), np.empty((1, 1, 16, 16), np.float32)
    made = []
    for largest in (16, 15):  # as if the rows did not fit the library's memory
        monkeypatch.setattr(compiled, '_largest', largest)
        out = np.empty_like(field)
        compiled.respond(field, amplitude, None, (1.0, 1.0), out, seen, keep=False)
        made.append((out, compiled.collect(change, field, share, np.empty_like(field))))
    assert close(made[0][0], made[1][0])
    assert close(made[0][1], made[1][1])


@pytest.mark.skipif(sys.platform == 'win32' or not shutil.which('cc'), reason='no compiler')
def test_where_there_is_a_compiler_the_library_was_made():
    assert kernels.load().name == 'compiled'


def test_without_a_library_numpy_does_it(monkeypatch):
    monkeypatch.setattr(kernels, 'found', lambda: None)
    assert kernels.load.__wrapped__().name == 'numpy'


def test_a_library_that_does_not_load_is_told(tmp_path, caplog):
    assert library.found(tmp_path) is None
    assert not caplog.records
    (tmp_path / library.NAME).write_bytes(b'no library')
    with caplog.at_level(logging.WARNING):
        assert library.found(tmp_path) is None
    assert 'cannot be loaded, so NumPy does its work' in caplog.text


@pytest.mark.skipif(sys.platform == 'win32' or not shutil.which('cc'), reason='no compiler')
@pytest.mark.parametrize(
    ('source', 'told'),
    [
        ('long long version(void) { return 99; }', 'is of version 99, not'),
        ('int other(void) { return 0; }', 'cannot be loaded'),
    ],
)
def test_another_library_is_told(tmp_path, caplog, source, told):
    file = tmp_path / 'other.c'
    file.write_text(source)
    target = tmp_path / library.NAME
    subprocess.run(['cc', '-shared', '-fPIC', '-o', str(target), str(file)], check=True, timeout=60)
    with caplog.at_level(logging.WARNING):
        assert library.found(tmp_path) is None
    assert told in caplog.text


@needs_library
def test_loading_the_library_changes_nothing_for_the_process():
    """A library linked with -ffast-math would flush denormals everywhere."""
    file = str(Path(library.__file__).parent / library.NAME)
    code = f'import ctypes, numpy as np; ctypes.CDLL({file!r}); print(np.float32(1e-40) * 1)'
    done = subprocess.run([sys.executable, '-c', code], check=True, timeout=60, capture_output=True)
    assert float(done.stdout) > 0


@needs_library
@settings(max_examples=40, deadline=None)
@given(modes=st.integers(1, 3), few=st.integers(1, 7), threads=st.integers(1, 3),
       side=st.sampled_from([16, 32, 64, 128, 256, 512]), seed=SIZES['seed'])  # fmt: skip
def test_probes_are_filtered_and_gathered(compiled, modes, few, threads, side, seed):
    d = Drawn(few, modes, side, seed)
    probe, waves, by = d.waves(d.shape[1:]), d.waves(), d.waves((3, side))
    orders = d.rng.integers(0, 3, (few + 2, 2))
    corrector = compiled.corrector((1, modes, side), None, threads)
    y, x = orders[:few].T
    filters, made = by[y, :, None] * by[x, None], np.empty_like(waves)
    for _ in range(2):
        corrector.filtered(probe, Filters(by, orders), made)
        assert close(made, fft.ifft2(fft.fft2(probe) * filters[:, None]))
        found = corrector.gathered(waves, Filters(by, orders))
        assert close(found, fft.ifft2((fft.fft2(waves) * filters[:, None].conj()).sum(0)))
