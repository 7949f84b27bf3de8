"""What the network of the canvas sees, and what its answer does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ptychopinn_plugin.canvas import DARK, FEW_PHOTONS, LARGEST, Canvas, fold, unfold
from ptychopinn_plugin.canvas_plan import INPUTS, MULTIPLE_PX, OUTPUTS, WIDTHS, canvas_plan
from ptychopinn_plugin.light import BRIGHT, Light, light_of
from ptychopinn_plugin.scaling import normalised_probe
from ptychopinn_plugin.slow_phase import plane
from ptychopinn_plugin.smoothing import planes

STATE = {'loss': 0.01, 'pace': 0.5, 'number': 4}


@pytest.fixture(scope='module')
def canvas(small_scan):
    return Canvas(small_scan, light_of(small_scan, normalised_probe(small_scan)))


def noisy(scan, sigma=0.1, seed=0):
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(2, *scan.frame.shape)) * sigma / np.sqrt(2)
    return (scan.true_object + noise[0] + 1j * noise[1]).astype(np.complex64)


@pytest.mark.parametrize('shape', [(3, 16, 24), (1, 17, 23), (4, 8, 9)])
def test_folding_keeps_every_pixel(shape):
    maps = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    folded = fold(maps)
    assert folded.shape[0] == 4 * shape[0]
    assert all(n % (MULTIPLE_PX // 2) == 0 for n in folded.shape[1:])
    np.testing.assert_array_equal(unfold(folded)[:, : shape[1], : shape[2]], maps)


def test_folded_channels_are_channel_row_column():
    maps = np.zeros((2, 8, 8), np.float32)
    maps[1, 3, 4] = 1
    channel, y, x = np.argwhere(fold(maps))[0]
    assert (channel, y, x) == (4 + 2, 1, 2)


RAMP = plane((90, 90), (0.02, -0.03)).astype(np.complex64)


@pytest.mark.parametrize(('turn', 'share'), [(np.exp(2.3j), 1e-4), (RAMP, 0.05)])
def test_a_phase_that_no_data_can_fix_is_not_seen(canvas, small_scan, turn, share):
    object_, last = noisy(small_scan), noisy(small_scan, seed=1)
    one = canvas.view(object_, last, **STATE)
    other = canvas.view(object_ * turn, last * turn, **STATE)
    lit = canvas.relative > 0.3
    difference = np.abs(one.fine - other.fine)[:, lit]
    assert np.median(difference) < share * np.abs(one.fine[:, lit]).mean()


def test_the_answer_turns_with_the_object(canvas, small_scan):
    object_, turn = noisy(small_scan), np.complex64(np.exp(1.1j))

    def corrected(o):
        def answer(inputs):
            shape = (OUTPUTS, *inputs.shape[1:])
            return np.random.default_rng(3).normal(size=shape).astype(np.float32)

        return canvas.corrected(answer, o, o, **STATE)

    np.testing.assert_allclose(corrected(object_ * turn), corrected(object_) * turn, atol=2e-5)


def test_the_noise_is_judged_right_where_the_object_is_smooth(canvas, small_scan):
    for sigma in (0.02, 0.2):
        flat = replace(small_scan, true_object=np.ones(small_scan.frame.shape, np.complex64))
        found = canvas.noise(planes(noisy(flat, sigma))[:, *canvas.part])[canvas.relative > 0.3]
        assert np.median(found) == pytest.approx(sigma, rel=0.1)


def test_noise_has_a_floor_that_falls_with_the_light(canvas):
    found = canvas.noise(np.ones((2, *canvas.trust.shape), np.float32))
    assert found.min() >= 1e-3
    assert found[canvas.relative < 0.05].mean() > found[canvas.relative > 0.5].mean()


def test_no_answer_changes_nothing_and_no_answer_counts_in_the_dark(canvas, small_scan):
    object_ = noisy(small_scan)
    same = canvas.corrected(lambda v: np.zeros((OUTPUTS, *v.shape[1:])), object_, object_, **STATE)
    np.testing.assert_array_equal(same, object_)
    changed = canvas.corrected(
        lambda v: np.ones((OUTPUTS, *v.shape[1:])), object_, object_, **STATE
    )
    assert changed.dtype == np.complex64
    same = changed == object_
    assert same[canvas.part][canvas.relative < DARK].all()
    assert not same[canvas.part][canvas.relative > BRIGHT].any()
    same[canvas.part] = True
    assert same.all()


@pytest.mark.parametrize(
    ('photons', 'share', 'counts'), [(2, 0.8, 0.4), (2, 1, 1), (0.1, 0.8, 0.8)]
)
def test_a_share_of_an_answer_counts_less_where_photons_are_many(
    small_scan, photons, share, counts
):
    lit = np.full(small_scan.frame.shape, photons * FEW_PHOTONS, np.float32)
    canvas = Canvas(small_scan, Light(lit, np.full_like(lit, 9)))
    object_ = noisy(small_scan)

    def change(share):
        run = lambda v: np.ones((OUTPUTS, *v.shape[1:]))  # noqa: E731
        return canvas.corrected(run, object_, object_, share=share, **STATE) - object_

    expected = counts * np.median(np.abs(change(1.0)))
    assert np.median(np.abs(change(share))) == pytest.approx(expected, rel=1e-3)


def test_the_part_that_is_seen_holds_all_that_gets_light(small_scan):
    light = light_of(small_scan, normalised_probe(small_scan))
    dark = light.photons.copy()
    dark[:40], dark[:, 60:] = 0, 0
    canvas = Canvas(small_scan, Light(dark, light.views))
    rows, columns = canvas.part
    lit = dark > DARK * dark.max()
    assert lit[canvas.part].sum() == lit.sum()
    for part, axis in ((rows, 1), (columns, 0)):
        size = part.stop - part.start
        assert size % MULTIPLE_PX == 0
        assert size < np.flatnonzero(lit.any(axis)).size + MULTIPLE_PX
    assert canvas.trust.shape == (rows.stop - rows.start, columns.stop - columns.start)


def test_inputs_are_finite_whatever_the_object(canvas, small_scan):
    for object_ in (
        np.zeros(canvas.shape, np.complex64),
        np.full(canvas.shape, 1e6, np.complex64),
        noisy(small_scan, 1e3),
    ):
        seen = canvas.view(object_, noisy(small_scan), loss=1e9, pace=1.0, number=1).inputs()
        height, width = canvas.trust.shape
        assert seen.shape == (INPUTS, height // 2, width // 2)
        assert seen.dtype == np.float32
        assert np.isfinite(seen).all()
        assert np.abs(seen[:16]).max() <= LARGEST


def test_channels_of_the_plan_chain():
    made = canvas_plan()
    assert (made.first.inputs, made.last.outputs) == (INPUTS, OUTPUTS)
    assert [c.outputs for c in made.across] == [*WIDTHS, WIDTHS[-1]]
    for i, (down, up) in enumerate(zip(made.down, made.up, strict=True)):
        assert (down.inputs, down.outputs) == (4 * WIDTHS[i], WIDTHS[i + 1])
        assert (up.inputs, up.outputs) == (down.outputs, down.inputs)
    names = [c.name for c in made.convolutions()]
    assert len(set(names)) == len(names)
