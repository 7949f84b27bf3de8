"""Groups, clusters and batches: everyone once, together or apart as asked."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from ptychopinn_plugin.errors import DataError
from ptychopinn_plugin.grouping import clusters, compact_order, neighbour_groups, spread_batches


def grid(rows, columns, jitter=0.2, seed=0):
    rng = np.random.default_rng(seed)
    points = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing='ij'), -1)
    points = points.reshape(-1, 2) * 10.0 + rng.normal(0, jitter, (rows * columns, 2))
    return rng.permutation(points)


POINTS = {
    'grid': grid(15, 17),
    'line': np.stack([np.arange(100.0), np.zeros(100)], 1),
    'one': np.zeros((1, 2)),
    'same place': np.full((50, 2), 3.0),
}


def covers(parts, m):
    return sorted(np.concatenate(parts).tolist()) == list(range(m))


@pytest.mark.parametrize('name', POINTS)
def test_compact_order_is_a_permutation(name):
    order = compact_order(POINTS[name])
    assert covers([order], len(POINTS[name]))


def test_near_numbers_are_near_places():
    points = POINTS['grid']
    steps = np.linalg.norm(np.diff(points[compact_order(points)], axis=0), axis=1)
    random = np.linalg.norm(np.diff(points, axis=0), axis=1)
    assert steps.mean() < 0.25 * random.mean()


@pytest.mark.parametrize('name', POINTS)
@pytest.mark.parametrize('size', [1, 7, 32, 1000])
def test_spread_batches_hold_every_row_once(name, size):
    points = POINTS[name]
    batches = spread_batches(points, size)
    assert covers(batches, len(points))
    assert max(map(len, batches)) <= size
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    assert len(batches) == -(-len(points) // size)


def closest(points, batches):
    return np.mean([pdist(points[b]).min() for b in batches if len(b) > 1])


def test_spread_batches_lie_apart():
    points = POINTS['grid']
    rng = np.random.default_rng(1)
    random = np.array_split(rng.permutation(len(points)), 16)
    assert closest(points, spread_batches(points, 16)) > 1.5 * closest(points, random)


@pytest.mark.parametrize('name', POINTS)
@pytest.mark.parametrize('size', [1, 7, 32, 1000])
def test_clusters_hold_every_row_once(name, size):
    points = POINTS[name]
    parts = clusters(points, size, np.random.default_rng(0))
    assert covers(parts, len(points))
    assert max(map(len, parts)) <= size
    assert min(map(len, parts)) > 0


def test_clusters_are_compact():
    points = POINTS['grid']
    parts = clusters(points, 16, np.random.default_rng(0))
    spread = np.median([pdist(points[p]).mean() for p in parts])
    assert spread < 0.45 * pdist(points).mean()


def test_clusters_differ_between_draws_and_repeat_with_a_seed():
    def drawn(rng):
        return {frozenset(p.tolist()) for p in clusters(POINTS['grid'], 16, rng)}

    rng = np.random.default_rng(0)
    first, second = drawn(rng), drawn(rng)
    assert len(first & second) < len(first) / 2
    assert drawn(np.random.default_rng(0)) == first


@pytest.mark.parametrize('seed', [None, 0])
@pytest.mark.parametrize('channels', [1, 4, 9, 16])
@pytest.mark.parametrize('name', ['grid', 'line', 'same place'])
def test_groups_hold_themselves_first_and_no_row_twice(name, channels, seed):
    points = POINTS[name]
    rng = None if seed is None else np.random.default_rng(seed)
    groups = neighbour_groups(points, channels, rng)
    assert groups.shape == (len(points), channels)
    np.testing.assert_array_equal(groups[:, 0], np.arange(len(points)))
    assert all(len(set(row)) == channels for row in groups.tolist())


def test_without_rng_the_nearest_are_taken():
    points = POINTS['grid']
    distance = cdist(points, points)
    taken = np.take_along_axis(distance, neighbour_groups(points, 5), 1)
    np.testing.assert_allclose(np.sort(taken, 1), np.sort(distance, 1)[:, :5])


def test_with_rng_they_are_drawn_from_twice_as_many():
    points = POINTS['grid']
    rank = cdist(points, points).argsort(1).argsort(1)
    drawn = [neighbour_groups(points, 4, np.random.default_rng(s)) for s in range(6)]
    ranks = np.take_along_axis(rank, np.concatenate(drawn, 1), 1)
    assert ranks.max() == 7  # 2 C nearest, itself included
    assert (drawn[0] != drawn[1]).any()
    np.testing.assert_array_equal(drawn[0], neighbour_groups(points, 4, np.random.default_rng(0)))


def test_twice_measured_positions():
    points = np.repeat(grid(4, 4), 3, axis=0)
    groups = neighbour_groups(points, 4)
    np.testing.assert_array_equal(groups[:, 0], np.arange(48))
    assert all(len(set(row)) == 4 for row in groups.tolist())
    twins = np.linalg.norm(points[groups[:, 1:3]] - points[groups[:, :1]], axis=-1)
    np.testing.assert_array_equal(twins, 0)


@pytest.mark.parametrize('seed', [None, 0])
def test_exactly_as_many_patterns_as_channels(seed):
    rng = None if seed is None else np.random.default_rng(seed)
    groups = neighbour_groups(grid(2, 2), 4, rng)
    assert all(set(row) == {0, 1, 2, 3} for row in groups.tolist())


def test_too_few_patterns():
    with pytest.raises(DataError, match=r'at least gridsize\*\*2 = 4 patterns.*3 patterns'):
        neighbour_groups(np.eye(3, 2), 4)
