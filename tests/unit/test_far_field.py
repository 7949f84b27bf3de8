"""The far field of a CPU against the oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ptychopinn_plugin import reference
from ptychopinn_plugin.far_field import BATCH, FarField, predict
from ptychopinn_plugin.geometry import windows
from ptychopinn_plugin.result import ObjectImage
from ptychopinn_plugin.scaling import normalised_probe
from ptychopinn_plugin.scan import Scan
from ptychopinn_plugin.slow_phase import ramp_sums
from ptychopinn_plugin.transforms import PLAIN


def close(a, b):
    return np.linalg.norm(a - b) < 2e-4 * np.linalg.norm(b)


@pytest.fixture(params=[(32, 1), (32, 2), (30, 1)], ids=str)
def scan(request):
    side, modes = request.param
    rng = np.random.default_rng(side + modes)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    spot = np.exp(-(y**2 + x**2) / 40) * np.exp(0.03j * (y**2 + x**2))
    probe = np.stack([spot, 0.4 * spot * x][:modes]).astype(np.complex64)
    positions = rng.uniform(side / 2, 70 - side / 2, (BATCH + 5, 2))
    bad = np.zeros((side, side), bool)
    bad[3, side // 2 - 2 :] = True
    counts = rng.poisson(30, (BATCH + 5, side, side)).astype(np.uint16)
    return Scan(counts, positions, probe, bad)


@pytest.fixture
def image(scan):
    rng = np.random.default_rng(4)
    made = rng.normal(size=(*scan.frame.shape, 2)).astype(np.float32) @ np.array([1, 1j])
    weight = np.ones(scan.frame.shape, np.float32)
    return ObjectImage(made.astype(np.complex64), weight, scan.frame.origin_px)


def expected(scan, image):
    at = windows(scan, image.frame)
    patches = reference.extract(image.object, at.corner_px, scan.side_px)
    probes = reference.shift_probe(normalised_probe(scan), at.shift_px)
    return reference.diffract(patches, probes)


def test_predicts_what_the_oracle_does(scan, image):
    error, pattern = predict(PLAIN, scan, image, normalised_probe(scan))
    wanted = expected(scan, image)
    assert close(pattern(3), wanted[3])
    miss = (np.sqrt(wanted) - np.sqrt(scan.counts))[:, ~scan.bad_pixels]
    assert error == pytest.approx((miss**2).sum() / scan.totals.sum(), rel=1e-3)


def test_some_patterns_have_an_error_of_their_own(scan, image):
    probe, rows = normalised_probe(scan), np.array([0, 4, 36])
    part = predict(PLAIN, scan, image, probe, rows)[0]
    assert part == pytest.approx(predict(PLAIN, scan.take(rows), image, probe)[0], rel=0.2)
    assert part != predict(PLAIN, scan, image, probe)[0]


def test_amplitudes_lie_where_the_detector_has_them(scan):
    far = FarField(PLAIN, scan, normalised_probe(scan), 4)
    found = far.measured(np.array([1, 2]))
    wanted = np.sqrt(scan.counts[[1, 2]] * ~scan.bad_pixels) * scan.side_px
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_ramps_are_those_of_the_detector(scan, image):
    far = FarField(PLAIN, scan, normalised_probe(scan), 4)
    at, rows = windows(scan), np.arange(4)
    probes = far.light(far.shifted.coefficients(at.shift_px[rows]))
    modulus = far.moduli(far.field(image.object, at.corner_px[rows], probes)).copy()
    miss = far.measured(rows)[:, None] - modulus * (1 if far.good is None else far.good)
    wanted_modulus = np.sqrt(expected(scan, image)[rows]).astype(np.float32) * scan.side_px
    good = (~scan.bad_pixels).astype(np.float32)
    wanted_miss = (np.sqrt(scan.counts[rows]) * scan.side_px - wanted_modulus) * good
    wanted = ramp_sums(wanted_modulus, wanted_miss.astype(np.float32), good)
    assert close(far.ramps(modulus, miss), wanted)


def test_a_damaged_pixel_changes_nothing(scan, image):
    counts = scan.counts.copy()
    counts[:, scan.bad_pixels] = 60_000
    probe = normalised_probe(scan)
    a, b = (predict(PLAIN, s, image, probe)[0] for s in (scan, replace(scan, counts=counts)))
    assert a == b
