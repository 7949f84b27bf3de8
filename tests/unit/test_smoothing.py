"""Smoothing by products of small matrices."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ptychopinn_plugin.smoothing import REACH, planes, smoothed, wave


@pytest.mark.parametrize('shape', [(64, 64), (65, 31), (5, 200), (1, 1)])
@pytest.mark.parametrize('sigma', [2.0, 6.0, 8.0])
def test_every_plane_is_smoothed_as_scipy_does(shape, sigma):
    given = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    expected = [gaussian_filter(p, sigma, mode='constant', truncate=REACH) for p in given]
    made = smoothed(given, sigma)
    assert made.dtype == np.float32
    np.testing.assert_allclose(made, expected, atol=2e-6)


def test_a_wave_is_its_planes():
    given = np.array([[1 + 2j, 3 - 1j]], np.complex64)
    assert planes(given).dtype == np.float32
    np.testing.assert_array_equal(planes(given), [[[1, 3]], [[2, -1]]])
    np.testing.assert_array_equal(wave(planes(given)), given)
