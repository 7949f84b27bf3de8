"""Windows, far-field pixels and illumination (specs/physics.md PH-2)."""

from __future__ import annotations

import numpy as np
import pytest

from ptychopinn_plugin.geometry import (
    illumination,
    pixel_size_m,
    relative_illumination,
    windows,
)
from ptychopinn_plugin.scan import Frame, Scan

N = 8


def scan_at(positions, frame=None, modes=1, seed=0):
    rng = np.random.default_rng(seed)
    positions = np.asarray(positions, float)
    probe = rng.normal(size=(modes, N, N)) + 1j * rng.normal(size=(modes, N, N))
    return Scan(np.ones((len(positions), N, N), np.uint16), positions, probe, frame=frame)


def test_a_whole_pixel_position_has_no_shift():
    found = windows(scan_at([[3.5, 5.5]], Frame((20, 20))))
    np.testing.assert_array_equal(found.corner_px, [[0, 2]])
    np.testing.assert_array_equal(found.shift_px, 0)
    assert found.corner_px.dtype == np.int64
    assert found.shift_px.dtype == np.float32


def test_corner_and_shift_give_the_position_back():  # PH-2
    rng = np.random.default_rng(1)
    positions = rng.uniform(40, 90, (500, 2))
    scan = scan_at(positions, Frame((100, 110), (31.25, 29.5)))
    found = windows(scan)
    assert np.abs(found.shift_px).max() <= 0.5
    back = found.corner_px + found.shift_px + (N - 1) / 2 + np.array([31.25, 29.5])
    np.testing.assert_allclose(back, positions, atol=1e-6)


def test_another_frame_moves_the_corners_only():
    scan = scan_at([[10.2, 11.9], [12.4, 10.1]])
    first, second = windows(scan, Frame((40, 40))), windows(scan, Frame((40, 40), (-3.0, 2.0)))
    np.testing.assert_array_equal(second.corner_px - first.corner_px, [[3, -2]] * 2)
    np.testing.assert_allclose(second.shift_px, first.shift_px, atol=1e-6)


def test_rows_come_first():
    corner = windows(scan_at([[3.5, 10.5]], Frame((9, 30)))).corner_px
    np.testing.assert_array_equal(corner, [[0, 7]])


def test_windows_stay_inside_the_frame_made_from_positions():
    scan = scan_at(np.random.default_rng(2).uniform(-50, 50, (300, 2)))
    corner = windows(scan).corner_px
    assert corner.min() >= 0
    assert (corner.max(0) + N <= scan.frame.shape).all()


def test_the_far_field_pixel():
    # 12.398 keV is 0.1 nm; 0.1 nm * 2 m / (64 * 50 um) = 62.5 nm.
    dy, dx = pixel_size_m(12398.41984, 2.0, (50e-6, 100e-6), 64)
    assert dy == pytest.approx(62.5e-9, rel=1e-9)
    assert dx == pytest.approx(31.25e-9, rel=1e-9)


def test_illumination_is_the_power_of_all_modes_and_patterns():
    scan = scan_at([[3.5, 3.5], [3.5, 3.5], [10.5, 6.5]], Frame((20, 25)), modes=3)
    power = (np.abs(scan.probe) ** 2).sum(0)
    expected = np.zeros((20, 25))
    expected[:8, :8] += 2 * power
    expected[7:15, 3:11] += power
    np.testing.assert_allclose(illumination(scan, scan.probe), expected, rtol=1e-6)


def test_relative_illumination_peaks_at_one():
    scan = scan_at([[5.0, 5.0], [9.3, 7.7]])
    light = relative_illumination(scan, scan.probe * 1e3)
    assert light.dtype == np.float32
    assert light.shape == scan.frame.shape
    assert light.max() == 1
    np.testing.assert_allclose(light, relative_illumination(scan, scan.probe), rtol=1e-5)
