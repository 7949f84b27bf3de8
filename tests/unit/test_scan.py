"""What a Scan refuses (DC-10), each by the text of its message."""

from __future__ import annotations

import numpy as np
import pytest

from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.scan import Frame, Scan, frame_around

N, M = 8, 5


def arrays(**changes):
    rng = np.random.default_rng(0)
    made = {
        'counts': rng.poisson(20, (M, N, N)).astype(np.uint16),
        'positions_px': 10 + rng.random((M, 2)) * 6,
        'probe': np.ones((2, N, N), np.complex64),
    }
    return made | changes


def changed(key, index, value, dtype=None):
    array = arrays()[key]
    array = array.astype(dtype or array.dtype)
    array[index] = value
    return {key: array}


REFUSALS = [
    ({'counts': np.ones((N, N))}, r'wrong rank.*received: counts\.shape=\(8, 8\)'),
    ({'counts': np.ones((M, N, N + 2))}, 'not square.*Crop or pad'),
    ({'counts': np.ones((N, N, M))}, 'not square.*moveaxis'),
    ({'counts': np.ones((0, N, N))}, 'scan is empty'),
    ({'counts': np.ones((M, 7, 7))}, 'pattern size is not supported.*N=7'),
    ({'counts': np.ones((M, 6, 6))}, 'pattern size is not supported.*N=6'),
    ({'counts': np.ones((M, N, N), complex)}, 'not real numbers'),
    ({'counts': np.zeros((M, N, N), np.uint16)}, 'patterns are zero'),
    (changed('counts', (1, 2, 3), np.nan, np.float32), 'NaN or infinity in good pixels'),
    (changed('counts', (1, 2, 3), np.inf, np.float32), 'NaN or infinity in good pixels'),
    (changed('counts', (1, 2, 3), -1, np.int32), 'negative counts.*minimum=-1'),
    ({'positions_px': np.ones((M, 3))}, 'Positions have the wrong shape'),
    ({'positions_px': np.ones((M, 2), complex)}, 'Positions have the wrong shape or type'),
    ({'positions_px': np.ones((M - 1, 2))}, 'Positions and patterns differ in number'),
    (changed('positions_px', (3, 1), np.nan), 'Positions contain NaN.*1 of 5 .*row 3.*Leave'),
    (changed('positions_px', (0, 1), 1e7), 'span too large an object'),
    ({'probe': np.ones((1, 1, N, N), complex)}, 'probe has the wrong shape'),
    ({'probe': np.ones((0, N, N), complex)}, 'probe has the wrong shape'),
    ({'probe': np.ones((N + 2, N + 2), complex)}, 'Probe and patterns differ in size.*Crop or'),
    ({'probe': np.ones((N, N, 3), complex)}, 'Probe and patterns differ in size.*moveaxis'),
    (changed('probe', (0, 1, 1), np.nan), 'probe contains NaN'),
    ({'probe': np.zeros((N, N), complex)}, 'probe is zero everywhere'),
    ({'bad_pixels': np.zeros((N, N + 1), bool)}, 'mask has another size'),
    ({'bad_pixels': np.ones((N, N), bool)}, 'Every detector pixel is marked bad'),
    ({'scan_index': np.arange(M + 1)}, 'scan_index and patterns differ'),
    ({'frame': Frame((12, 12))}, 'Positions lie outside the object.*12'),
    ({'object_guess': np.ones((12, 40), complex)}, 'Positions lie outside the object'),
    ({'object_guess': np.ones((2, 40, 40), complex)}, 'object_guess has the wrong shape'),
    ({'true_object': np.full((40, 40), np.nan)}, 'true_object contains NaN'),
]


@pytest.mark.parametrize(('change', 'text'), REFUSALS, ids=[text[:40] for _, text in REFUSALS])
def test_refuses(change, text):
    with pytest.raises(DataError, match=f'(?i){text}') as caught:
        Scan(**arrays(**change))
    assert '\n' not in str(caught.value)


def test_accepts_and_completes():
    scan = Scan(**arrays())
    assert scan.counts.dtype == np.uint16
    assert not scan.bad_pixels.any()
    np.testing.assert_array_equal(scan.scan_index, np.arange(M))
    corner = scan.positions_px - (N - 1) / 2 - np.asarray(scan.frame.origin_px)
    assert (corner >= 0).all()
    assert (np.ceil(corner) + N <= np.asarray(scan.frame.shape)).all()


def test_bad_pixels_may_hold_anything():
    counts = arrays()['counts'].astype(np.float32)
    counts[:, 3, 4], counts[:, 3, 5] = np.nan, -7
    bad = np.zeros((N, N), bool)
    bad[3, 4:6] = True
    scan = Scan(**arrays(counts=counts, bad_pixels=bad))
    expected = arrays()['counts'].astype(float)
    expected[:, bad] = 0
    np.testing.assert_allclose(scan.totals, expected.sum((1, 2)))


def test_take_keeps_the_frame():
    scan = Scan(**arrays(scan_index=np.arange(M) + 7))
    part = scan.take(np.array([3, 1]))
    assert part.frame == scan.frame
    np.testing.assert_array_equal(part.scan_index, [10, 8])


def test_frame_around_is_on_whole_pixels():
    frame = frame_around(np.array([[3.5, 4.0], [9.5, 4.25]]), N)
    assert frame == Frame((14, 9), (0.0, 0.0))
