"""Positions to integer windows and sub-pixel remainders; metres per object pixel; where the light fell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptychopinn_plugin.geometry import (
    illumination,
    pixel_size_m,
    relative_illumination,
    windows,
)
from ptychopinn_plugin.scan import Frame, Scan, frame_around

N = 8
HALF = (N - 1) / 2


def scan_at(positions, probe=None, **more):
    positions = np.atleast_2d(np.asarray(positions, float))
    probe = np.ones((1, N, N)) if probe is None else probe
    return Scan(np.ones((len(positions), N, N)), positions, probe, **more)


def test_the_corner_is_the_position_less_half_the_probe():
    scan = scan_at([[HALF, HALF], [HALF + 2, HALF + 5]], frame=Frame((20, 20)))
    made = windows(scan)
    np.testing.assert_array_equal(made.corner_px, [[0, 0], [2, 5]])
    np.testing.assert_array_equal(made.shift_px, 0)


def test_rows_come_before_columns():
    made = windows(scan_at([HALF + 1.25, HALF + 3.75], frame=Frame((20, 30))))
    np.testing.assert_array_equal(made.corner_px, [[1, 4]])
    np.testing.assert_allclose(made.shift_px, [[0.25, -0.25]])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-500, 500), st.floats(-500, 500)), min_size=1, max_size=5
    ),
    st.tuples(st.integers(-9, 0), st.integers(-9, 0)),
)  # fmt: skip
def test_corner_and_remainder_give_the_position_back(positions, margin):
    positions = np.array(positions)
    tight = frame_around(positions, N)
    origin = np.add(tight.origin_px, margin)
    frame = Frame((tight.shape[0] + 10, tight.shape[1] + 10), (origin[0], origin[1]))
    made = windows(scan_at(positions, frame=frame))
    back = made.corner_px + made.shift_px + HALF + frame.origin_px
    np.testing.assert_allclose(back, positions, atol=1e-4)
    assert np.abs(made.shift_px).max() <= 0.5
    assert (made.corner_px >= 0).all()
    assert (made.corner_px + N <= frame.shape).all()
    assert made.corner_px.dtype == np.int64
    assert made.shift_px.dtype == np.float32


def test_another_frame_moves_the_corners_only():
    scan = scan_at([[10.2, 12.7], [14.1, 20.4]], frame=Frame((30, 30)))
    moved = windows(scan, Frame((40, 40), (-3.0, -5.0)))
    np.testing.assert_array_equal(moved.corner_px, windows(scan).corner_px + [3, 5])
    np.testing.assert_allclose(moved.shift_px, windows(scan).shift_px, atol=1e-6)


def test_a_fractional_origin_goes_to_the_remainder():
    made = windows(scan_at([10.0, 10.1], frame=Frame((30, 30), (0.25, 0.0))))
    np.testing.assert_array_equal(made.corner_px, [[6, 7]])
    np.testing.assert_allclose(made.shift_px, [[0.25, -0.4]], atol=1e-6)


def test_the_object_pixel_of_a_known_instrument():
    # 8.8 keV, 1.92 m, 75 um pixels, 128 of them: 0.14089 nm * 1.92 m / 9.6 mm = 28.18 nm
    y, x = pixel_size_m(8800.0, 1.92, (75e-6, 150e-6), 128)
    assert y == pytest.approx(28.178e-9, rel=1e-4)
    assert x == pytest.approx(y / 2)


def test_light_adds_up_where_patches_overlap_and_over_modes():
    probe = np.stack([np.full((N, N), 2.0), np.full((N, N), 1j)])
    light = illumination(
        scan_at([[HALF, HALF], [HALF + 4, HALF]], probe, frame=Frame((16, 12))), probe
    )
    assert light.shape == (16, 12)
    np.testing.assert_allclose(light[:4, :N], 5)
    np.testing.assert_allclose(light[4:8, :N], 10)
    np.testing.assert_allclose(light[8:12, :N], 5)
    assert light[12:].sum() == light[:, N:].sum() == 0
    assert light.sum() == pytest.approx(2 * (np.abs(probe) ** 2).sum())


def test_relative_light_is_one_at_its_maximum():
    probe = np.random.default_rng(0).normal(size=(1, N, N)) * 1e-9
    light = relative_illumination(scan_at([[10, 10], [11, 13]], probe, frame=Frame((20, 20))), probe)
    assert light.dtype == np.float32
    assert light.max() == 1
    assert light.min() == 0
