"""The correction of positions, against displacements that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ptychopinn_plugin import reference
from ptychopinn_plugin.geometry import windows
from ptychopinn_plugin.position_correction import (
    LARGEST_DISPLACEMENT_PX,
    LARGEST_STEP_PX,
    MOMENTUM,
    SUMS,
    Positions,
    moved_scan,
    shift_slopes,
    shift_sums,
    with_room,
)
from ptychopinn_plugin.scaling import normalised_probe
from ptychopinn_plugin.scan import Frame, frame_around
from ptychopinn_plugin.simulate import Simulation, simulate_scan
from ptychopinn_plugin.simulate.probes import make_probe

N = 32


@pytest.fixture(scope='module', params=[1, 2])
def scan(request):
    """Ten patterns without noise to speak of, with a few bad pixels."""
    return simulate_scan(
        Simulation(
            pattern_size_px=N, object_size_px=80, patterns=10, photons_per_frame=1e8, seed=4,
            modes=request.param, bad_fraction=0.02,
        )
    )  # fmt: skip


def sums_of(scan, object_, probe):
    """The sums (M, 6) for the patterns of a scan where it says they are."""
    at = windows(scan)
    patches = reference.extract(object_, at.corner_px, N)
    slopes = shift_slopes(probe).reshape(-1, N, N)
    probes, sloped = (reference.shift_probe(p, at.shift_px) for p in (probe, slopes))
    field = np.fft.fft2(patches[:, None] * probes)
    sloped = np.fft.fft2(patches[:, None] * sloped).reshape(len(scan), 2, *probe.shape)
    good = np.fft.ifftshift(~scan.bad_pixels).astype(float)
    modulus = np.sqrt((np.abs(field) ** 2).sum(1))
    measured = np.sqrt(np.fft.ifftshift(scan.counts, axes=(-2, -1)).astype(float)) * N
    return shift_sums(field, sloped, modulus, (measured - modulus) * good, good)


@pytest.mark.parametrize('axis', [0, 1])
@pytest.mark.parametrize('off_px', [0.1, -0.2])
def test_a_displacement_is_found_along_each_axis_with_its_sign(scan, axis, off_px):
    """Half of the patterns off by as much as the other half, the other way round."""
    off = np.zeros((10, 2))
    off[::2, axis], off[1::2, axis] = off_px, -off_px
    thought = replace(scan, positions_px=scan.positions_px - off)
    positions = Positions(thought)
    sums = sums_of(thought, scan.true_object, scan.probe)
    positions.correct(sums)
    found = positions.px - thought.positions_px
    share = found[:, axis] / off[:, axis]  # what is missed counts as noise until it is explained
    assert share.min() > 0.45
    assert share.max() < 1.05
    np.testing.assert_allclose(found[:, 1 - axis], 0, atol=0.25 * abs(off_px))


def test_many_steps_come_nearer(scan):
    off = np.random.default_rng(2).uniform(-0.8, 0.8, (10, 2))
    off -= off.mean(0)
    thought = replace(scan, positions_px=scan.positions_px - off)
    positions = Positions(thought)
    for _ in range(12):
        positions.correct(sums_of(positions.scan, scan.true_object, scan.probe))
    np.testing.assert_allclose(positions.px, scan.positions_px, atol=0.02)


def test_noise_alone_moves_nothing():
    """Patterns of 2e4 photons where they belong: what noise displaces them by shrinks away."""
    scan = simulate_scan(
        Simulation(pattern_size_px=N, object_size_px=90, patterns=60, photons_per_frame=2e4, seed=1)
    )
    probe = normalised_probe(scan) * np.float32(
        np.linalg.norm(scan.probe) / np.linalg.norm(normalised_probe(scan))
    )
    positions = Positions(scan)
    sums = sums_of(scan, scan.true_object, probe).astype(float)
    plain = [np.linalg.solve([[yy, yx], [yx, xx]], [y, x]) for y, x, yy, xx, yx, _ in sums]
    for _ in range(8):
        positions.correct(sums_of(positions.scan, scan.true_object, probe))
    moved = np.hypot(*(positions.px - scan.positions_px).T).mean()
    assert 0 < moved < 0.35 * np.hypot(*np.transpose(plain)).mean()


def test_the_slopes_are_those_of_a_moved_probe():
    probe = make_probe('zone-plate', N, 2).astype(np.complex64)
    step = 1e-3
    for axis in (0, 1):
        shift = np.zeros((2, 2))
        shift[:, axis] = step, -step
        ahead, behind = reference.shift_probe(probe, shift)
        slope = (ahead - behind) / (2 * step)
        found = shift_slopes(probe)[axis]
        assert np.abs(found - slope).max() < 1e-4 * np.abs(slope).max()


def test_bad_pixels_say_nothing(scan):
    at = np.argwhere(scan.bad_pixels)[:, None].T
    thought = replace(scan, positions_px=scan.positions_px + 0.1)
    counts = scan.counts.copy()
    counts[:, at[0], at[1]] = 12345
    a, b = (sums_of(s, scan.true_object, scan.probe) for s in (
        thought, replace(thought, counts=counts)))  # fmt: skip
    np.testing.assert_array_equal(a, b)


def test_slopes_of_bad_pixels_are_left_out():
    rng = np.random.default_rng(0)
    field, sloped = rng.normal(size=(2, 3, 2, 2, 8, 8)).astype(np.float32) * (1 + 0.5j)
    field, modulus = field[:, 0], np.ones((3, 8, 8), np.float32)
    good = (rng.random((8, 8)) > 0.3).astype(np.float32)
    miss = rng.normal(size=(3, 8, 8)).astype(np.float32) * good
    masked = shift_sums(field, sloped, modulus, miss, good)
    np.testing.assert_allclose(masked, shift_sums(field, sloped * good, modulus, miss), rtol=1e-5)
    assert np.abs(masked / shift_sums(field, sloped, modulus, miss) - 1)[:, 2:4].min() > 0.05


def test_what_all_patterns_share_is_no_displacement(scan):
    thought = replace(scan, positions_px=scan.positions_px - np.array([0.2, -0.1]))
    positions = Positions(thought)
    positions.correct(sums_of(thought, scan.true_object, scan.probe))
    np.testing.assert_allclose(positions.px.mean(0), thought.positions_px.mean(0), atol=1e-9)
    assert np.abs(positions.px - thought.positions_px).max() < 0.05


def pulled(along):
    """Sums (10, 6) that pull the first pattern up and the second down, the others nowhere."""
    sums = np.zeros((10, SUMS))
    sums[:, 2:4] = 1e6 * N**2
    sums[0, 0], sums[1, 0] = along * 1e6 * N**2, -along * 1e6 * N**2
    return sums


def test_a_step_and_a_displacement_have_their_limits(scan):
    scan = with_room(scan)
    positions = Positions(scan)
    positions.correct(pulled(50.0))
    moved = positions.px - scan.positions_px
    np.testing.assert_allclose(np.hypot(*moved.T)[:2], LARGEST_STEP_PX)
    assert moved[0, 0] > 0 > moved[1, 0]
    positions.correct(pulled(50.0))
    moved = positions.px - scan.positions_px
    np.testing.assert_allclose(np.abs(moved[:2, 0]), LARGEST_STEP_PX * (2 + MOMENTUM))
    for _ in range(20):
        positions.correct(pulled(50.0))
    moved = np.hypot(*(positions.px - scan.positions_px).T)
    np.testing.assert_allclose(moved[:2], LARGEST_DISPLACEMENT_PX)
    assert (positions.scan.positions_px == positions.px).all()


def test_patterns_that_say_nothing_stay(scan):
    positions = Positions(scan)
    positions.correct(np.zeros((10, SUMS), np.float32))
    assert (positions.px == scan.positions_px).all()


@pytest.mark.parametrize('origin_px', [(0.0, 0.0), (-7.0, 3.0)])
def test_room_is_made_only_where_it_is_missing(scan, origin_px):
    corner = scan.positions_px - (N - 1) / 2
    placed = replace(
        scan, positions_px=scan.positions_px - corner.min(0) + (2.0, 40.0) + np.array(origin_px),
        frame=Frame((150, 150), origin_px), true_object=None,
    )  # fmt: skip
    made = with_room(placed)
    assert made.frame.origin_px == (origin_px[0] - 4, origin_px[1])
    assert made.frame.shape == (154, 150)
    tight = replace(
        placed, positions_px=placed.positions_px, frame=frame_around(placed.positions_px, N)
    )
    made = with_room(tight)
    for off in ((-6, 0), (6, 0), (0, -6), (0, 6), (4.2, 4.2)):
        at = windows(moved_scan(made, tight.positions_px + np.array(off), made.frame))
        assert (at.corner_px >= 0).all()
        assert (at.corner_px + N <= made.frame.shape).all()
    assert with_room(made).frame == made.frame
