"""How sweeps go: steps, momentum, regularisation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from ptychopinn_plugin.light import Light
from ptychopinn_plugin.scan import Scan
from ptychopinn_plugin.simulate.probes import make_probe
from ptychopinn_plugin.sweep_plan import (
    MOST_HELD,
    REGULARISATION,
    STEADY,
    batch_size,
    due,
    following,
    held_out,
    hurried,
    little_left,
    momentum_for,
    plan_sweep,
    regularisation,
    settled,
    softness,
    unsteady,
)


def seen_by(views):
    """The light of a scan each of whose pixels is seen by so many patterns."""
    return Light(np.ones((2, 2), np.float32), np.full((2, 2), views, np.float32))


def plans(total, **more):
    return [plan_sweep(k, total, **more) for k in range(1, total + 1)]


@pytest.mark.parametrize('total', [1, 2, 3, 4, 5, 10, 20, 101])
@pytest.mark.parametrize(('sparse', 'of', 'last'), [(False, 2, 2), (True, 4, 4)])
def test_steps_are_full_and_then_shrink(total, sparse, of, last):
    paces = [p.pace for p in plans(total, sparse=sparse)]
    full = total - total // of
    assert paces[:full] == [1.25] * full
    assert (np.diff(paces) <= 1e-12).all()
    if total >= of:
        assert paces[-1] == pytest.approx(min(1.0, max(0.1, last / total)))
    assert min(paces) >= 0.1 - 1e-12


def test_the_settling_sweeps_follow_the_poisson_gradient():
    assert [p.fall for p in plans(6)] == [1, 1, 1, 0.5, 0.5, 0.5]
    assert [p.fall for p in plans(5)] == [1, 1, 1, 0.5, 0.5]
    assert [p.fall for p in plans(10, sparse=True)] == [1] * 8 + [0.5] * 2


def test_a_network_looks_on_the_way_where_patterns_hardly_overlap():
    assert [p.network for p in plans(10)] == [0] * 9 + [0.8]
    looks = {
        total: [k for k, p in enumerate(plans(total, sparse=True), 1) if p.network]
        for total in (1, 2, 4, 9, 10, 20)
    }
    assert looks == {
        1: [1], 2: [1, 2], 4: [1, 4], 9: [1, 4, 9], 10: [1, 4, 10], 20: [1, 4, 9, 20],
    }  # fmt: skip


def test_few_sweeps_over_bright_patterns_are_hurried():
    beam = np.zeros((1, 16, 16), np.complex64)
    beam[:, 4:12, 4:12] = 1
    bright, dim = beam * np.float32(1001**0.5), beam * np.float32(999**0.5)
    assert [hurried(k, bright) for k in (1, 9, 10, 20)] == [True, True, False, False]
    assert not hurried(1, dim)


def test_the_first_and_last_sweeps_are_not_pushed():
    moved = [p.momentum for p in plans(20)]
    assert moved == [0.0] + [0.5] * 17 + [0.0] * 2
    assert plans(1)[0].momentum == plans(2)[1].momentum == 0


def test_the_corrections_come_less_and_less_often():
    assert [k for k in range(40) if due(k)] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    assert [k for k, p in enumerate(plans(8), 1) if p.correct] == [1, 2, 3, 4, 6, 8]
    assert not any(p.correct for p in plans(8, slow_phase=False))


def test_dim_light_may_be_damped_in_the_last_sweeps():
    def damped(total, **kind):
        return [k for k, p in enumerate(plans(total, **kind), 1) if p.damp < math.inf]

    assert damped(20) == [16, 17, 18, 19, 20]
    assert damped(6) == [5, 6]
    assert damped(5) == []
    assert damped(20, sparse=True) == [16, 17, 18, 19, 20]
    assert damped(12, sparse=True) == [10, 11, 12]
    assert damped(11, sparse=True) == []
    assert plan_sweep(20, 20).damp == 0.9
    assert plan_sweep(20, 20, sparse=True).damp == 0.95


def test_little_is_left_where_losses_hardly_fall():
    assert not little_left([], 0.9)
    assert not little_left([1.0], 0.9)
    assert not little_left([1.0, 0.8], 0.9)
    assert not little_left([1.0, 1.5], math.inf)
    assert little_left([1.0, 0.5, 0.49], 0.9)


def test_held_out_patterns_are_a_few_fixed_ones():
    rows = held_out(1000, seed=3)
    assert len(set(rows)) == len(rows) == 50
    assert rows.min() >= 0
    assert rows.max() < 1000
    assert (np.diff(rows) > 0).all()
    assert (held_out(1000, seed=3) == rows).all()
    assert (held_out(1000, seed=4) != rows).any()
    assert len(held_out(100_000, seed=0)) == MOST_HELD
    assert held_out(31, seed=0) is None


def test_settled_is_when_a_sweep_gains_nothing():
    falling = [1.0, 0.5, 0.25, 0.125]
    assert not settled(falling)
    assert settled([*falling, 0.1249])
    assert settled([*falling, 0.2])  # worse: the others' noise is being learnt
    assert not settled([1.0, 1.0, 1.0])  # too early to say
    assert not settled([*falling, 0.2], corrected=True)
    assert settled([*falling, 0.2, 0.2, 0.2, 0.2], corrected=True)


def test_positions_are_corrected_once_there_is_an_object_and_never_at_the_end():
    assert [k for k, p in enumerate(plans(5, correct_positions=True), 1) if p.move] == [2, 3, 4]
    assert not any(p.move for p in plans(2, correct_positions=True))
    assert not any(p.move for p in plans(20))


def test_few_photons_are_regularised_more():
    probe = make_probe('zone-plate', 64, 1)
    found = [regularisation(probe * np.sqrt(photons)) for photons in (1e3, 1e5, 1.5e5, 1e8)]
    assert found[0] == 0.5
    assert found[0] >= found[1] > found[2] > found[3] == 0.1


def test_a_batch_keeps_its_patterns_apart(small_scan):
    light = seen_by(7)
    assert batch_size(small_scan, 20, light) == batch_size(small_scan, 5, light) == 120 // 12
    few = replace(
        small_scan,
        counts=small_scan.counts[:9],
        positions_px=small_scan.positions_px[:9],
        scan_index=None,
    )
    assert batch_size(few, 20, light) == 4


def test_where_patterns_lie_on_top_of_each_other_few_go_together(small_scan):
    """A batch that sees a pixel more than three times: its steps would diverge."""
    assert [batch_size(small_scan, 20, seen_by(v)) for v in (36, 45, 90)] == [10, 8, 4]
    assert batch_size(small_scan, 20, seen_by(45), on_gpu=True) == 8


def test_the_probe_takes_less_of_its_step_where_a_batch_covers_the_object():
    """Else object and probe would both take a whole step for what they miss together."""
    found = [following(seen_by(20), size / 400) for size in (4, 10, 20, 40, 400)]
    assert found == pytest.approx([1, 1, 0.85, 0.55, 0.1])


@pytest.mark.parametrize(
    ('side', 'patterns', 'size'),
    [
        (16, 4000, 256),
        (16, 900, 75),
        (16, 120, 10),
        (128, 1600, 128),
        (256, 9000, 32),
    ],
)
def test_batches_are_larger_on_a_gpu(side, patterns, size):
    counts = np.broadcast_to(np.ones((1, 1, 1), np.uint8), (patterns, side, side))
    scan = Scan(
        counts=counts,
        positions_px=np.broadcast_to(np.full(2, side / 2), (patterns, 2)),
        probe=np.ones((1, side, side), np.complex64),
    )
    light = seen_by(7)
    assert batch_size(scan, 20, light, on_gpu=True) == size
    assert batch_size(scan, 3, light, on_gpu=True) == size
    assert batch_size(scan, 9, light) == min(size, 32)
    assert batch_size(scan, 8, light) == min(size, 24)


def test_a_loss_that_rises_above_the_least_is_unsteady():
    assert not unsteady([5.0])
    assert not unsteady([5.0, 3.0, 2.0])
    assert not unsteady([5.0, 2.0, 2.05])
    assert unsteady([5.0, 2.0, 2.1])
    assert unsteady([5.0, 2.0, 2.05, 2.1])


def test_softness_tells_edges():
    y, x = np.mgrid[:128, :128] - 63.5
    square = y**2 + x**2
    assert softness((square < 40**2).astype(float)) == pytest.approx(1.8, abs=0.01)
    assert softness(np.exp(-square / 100)) == pytest.approx(np.log(10) / np.log(2), abs=0.05)
    assert softness(3 * np.exp(-square / 300)) == pytest.approx(np.log(10) / np.log(2), abs=0.05)


@pytest.mark.parametrize(
    ('kind', 'soft'), [('zone-plate', False), ('airy', False), ('gaussian', True)]
)
@pytest.mark.parametrize('modes', [1, 3])
@pytest.mark.parametrize('side', [64, 128])
def test_a_beam_without_an_edge_is_damped_from_the_first(kind, soft, modes, side):
    probe = 1e4 * make_probe(kind, side, modes).astype(np.complex64)
    assert regularisation(probe) == (STEADY if soft else REGULARISATION[0])
    assert regularisation(1e-3 * probe) == REGULARISATION[1]


@pytest.mark.parametrize(
    ('kind', 'photons', 'views', 'expected'),
    [
        ('gaussian', 1e6, 10, 0.65),
        ('gaussian', 1e6, 3, 0.575),  # hardly overlapping: it piles up
        ('gaussian', 1e6, 1.5, 0.5),
        ('gaussian', 1e4, 10, 0.5),  # noise piles up
        ('zone-plate', 1e6, 10, 0.5),
        ('airy', 1e6, 10, 0.5),
    ],
)
def test_slow_waves_are_pushed_on_where_no_edge_tells_of_them(kind, photons, views, expected):
    probe = np.sqrt(photons) * make_probe(kind, 64, 1).astype(np.complex64)
    assert momentum_for(probe, seen_by(views)) == pytest.approx(expected)


def test_counts_are_asked_in_the_first_sweeps_only():
    assert [p.told for p in plans(6)] == [True] * 4 + [False] * 2


def test_an_edge_in_the_object_is_as_good_as_one_on_the_detector():
    y, x = np.mgrid[:64, :64] - 31.5
    hole = (y**2 + x**2 < 81).astype(np.complex64)[None]
    assert regularisation(1e3 * hole) == REGULARISATION[0]
