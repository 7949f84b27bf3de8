"""Which patterns go together: spread batches for physics sweeps, neighbour groups and clusters for
networks.

Indices only; patterns are never copied. Positions are (M, 2) (y, x) in object pixels; every draw is
seeded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from .errors import DataError, require
from .scan import Double

Rows = NDArray[np.int64]


def compact_order(positions_px: Double) -> Rows:
    """Return the rows (M,) in an order in which near numbers are near places: halves of the longer
    side, again and again.
    """
    order, counts = np.arange(len(positions_px)), np.array([len(positions_px)])
    while counts.max() > 2:  # all parts of a level at once
        first, part = np.cumsum(counts) - counts, np.repeat(np.arange(len(counts)), counts)
        places = positions_px[order]
        sides = np.maximum.reduceat(places, first) - np.minimum.reduceat(places, first)
        along = places[np.arange(len(order)), sides.argmax(1)[part]]
        along[counts[part] <= 2] = 0  # these stay as they are
        order = order[np.lexsort((along, part))]
        halves = np.stack([counts // 2, counts - counts // 2], 1)
        counts = np.where(counts[:, None] > 2, halves, np.stack([counts, 0 * counts], 1)).ravel()
        counts = counts[counts > 0]
    return order


def spread_batches(positions_px: Double, size: int) -> list[Rows]:
    """Deal the patterns into batches of at most `size` whose members lie far apart.

    The compact order is cut into `size` runs of neighbours; each batch takes one pattern of every
    run.
    """
    order = compact_order(positions_px)
    count = -(-len(order) // size)
    return [order[start::count] for start in range(count)]


def clusters(positions_px: Double, size: int, rng: np.random.Generator) -> list[Rows]:
    """Cut the scan into compact clusters of at most `size` patterns, differently for every draw of
    `rng`.

    The plane is turned by a random angle and the order begins at a random place, so that the
    borders move.
    """
    angle = rng.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    order = np.roll(compact_order(positions_px @ turn), int(rng.integers(size)))
    return np.array_split(order, -(-len(order) // size))


def neighbour_groups(
    positions_px: Double, channels: int, rng: np.random.Generator | None = None
) -> Rows:
    """Return for every pattern a group (M, C) of different neighbours that holds the pattern itself
    first.

    Without `rng` the C - 1 nearest are taken; with it they are drawn from the 2 C nearest. Raises
    `DataError` when the scan has fewer than C patterns.
    """
    m = len(positions_px)
    require(
        m >= channels,
        DataError,
        'The scan has too few patterns for this grid size',
        expected=f'at least gridsize**2 = {channels} patterns',
        received=f'{m} patterns',
        cure='Lower gridsize',
    )
    own = np.arange(m)[:, None]
    if channels == 1:
        return own
    reach = min(m, 2 * channels if rng is not None else channels)
    found = np.asarray(KDTree(positions_px).query(positions_px, k=reach + (reach < m))[1])
    # Twice measured positions are at distance zero: the pattern itself need not come first.
    others = np.array([row[row != i][: reach - 1] for i, row in enumerate(found)])
    if rng is not None:
        others = np.take_along_axis(others, rng.random(others.shape).argsort(axis=1), axis=1)
    return np.concatenate([own, others[:, : channels - 1]], axis=1)
