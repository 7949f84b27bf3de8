"""Positions: their unit, their overlap, whether they are different, and whether they belong to
their patterns.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import mapped
from ..scan import Float
from .finding import NOTE, WARNING, Finding
from .sample import Rows, Sample

ONE_SPOT = 0.1  # of the probe's diameter: the whole scan within it
SEVERAL = 9
KNOWN_PROBE, GUESSED_PROBE = 0.1, 0.4  # overlap that each needs
SAME_PX = 1e-6
FAINT_COUNTS = 50
NAMED = 5
CLOSE = 0.2  # of the probe's diameter
UNLIKE, STRUCTURE = 0.94, 4.0
PAIRS = 400


def overlap(sample: Sample) -> Iterator[Finding]:
    """Find positions in a wrong unit, and scans whose patterns hardly overlap."""
    if len(sample.scan) < 2:
        return
    extent = float(np.ptp(sample.scan.positions_px, axis=0).max())
    diameter, step = sample.diameter_px, sample.step_px
    share = 1 - step / diameter
    unit = 'Check the unit of the positions (m, mm, um or object pixels) and the object pixel size'
    if len(sample.scan) >= SEVERAL and extent < ONE_SPOT * diameter:
        yield Finding(
            'position unit', WARNING,
            f'All {len(sample.scan)} positions lie within {extent:.3g} px; the probe is '
            f'{diameter:.3g} px wide',
            'A scan of one spot has no overlap to solve from', unit,
        )  # fmt: skip
    elif share <= 0:
        yield Finding(
            'overlap', WARNING,
            f'Positions are {step:.3g} px apart and the probe is {diameter:.3g} px wide: '
            f'neighbours do not overlap',
            'Without overlap every pattern is solved alone, and its picture is arbitrary',
            unit + '; else scan with smaller steps',
        )  # fmt: skip
    elif share < (GUESSED_PROBE if sample.probe_is_guess else KNOWN_PROBE):
        probe = 'a probe that is updated' if sample.probe_is_guess else 'a known probe'
        yield Finding(
            'overlap', NOTE,
            f'Neighbours overlap by {share:.0%}, {step:.3g} px of a probe of {diameter:.3g} px',
            f'With {probe} that is little: slow phase and the scale of the probe are badly known',
            'Scan with smaller steps, or keep a probe that is known from a denser scan fixed',
        )  # fmt: skip


def alone(sample: Sample) -> Iterator[Finding]:
    """Find single positions far away from all others."""
    nearest = sample.nearest_px
    rows = np.flatnonzero(nearest > sample.alone_px)
    if len(sample.scan) >= SEVERAL and 0 < len(rows) < len(nearest) // 4:
        yield Finding(
            'stray positions', WARNING,
            f'{len(rows)} positions ({_named(rows)}) are {nearest[rows].min():.3g} px or more from '
            f'the next; the median is {np.median(nearest):.3g} px',
            'They enlarge the object and tie to nothing', 'Correct or leave out these patterns',
        )  # fmt: skip


def repeated(sample: Sample) -> Iterator[Finding]:
    """Find patterns that are copies of others, and positions that several patterns share."""
    rows = repeated_frames(sample)
    if len(rows):
        yield Finding(
            'repeated patterns', WARNING,
            f'{len(rows)} of {len(sample.scan)} patterns ({_named(rows)}) are exact copies of '
            f'others, noise included',
            'A detector that was read twice, or a file written twice: they belong to no position',
            'Leave the copies out, and check that the others still belong to their positions',
        )  # fmt: skip
    if len(sample.scan) < SEVERAL:
        return
    _, first, times = np.unique(
        np.rint(sample.scan.positions_px / SAME_PX), axis=0, return_index=True, return_counts=True
    )
    shared = int(times[times > 1].sum() - (times > 1).sum())
    if shared and len(first) > 1:
        yield Finding(
            'repeated positions', NOTE,
            f'{shared} of {len(sample.scan)} patterns have exactly the position of another',
            'A motor or an encoder that stood still does this, and so do repeated exposures, which '
            'are harmless',
            'If each position was exposed once, check the positions',
        )  # fmt: skip


def repeated_frames(sample: Sample) -> Rows:
    """Return the patterns that equal an earlier one in every pixel."""
    totals, counts = sample.scan.totals, sample.scan.counts
    bright = np.flatnonzero(totals > FAINT_COUNTS * min(1.0, float(totals.max()) / 1e6))
    middle = slice(sample.side // 2 - 2, sample.side // 2 + 2)
    weights = np.arange(1, 4 * sample.side + 1) * sample.good[middle].ravel()
    keys = np.stack([totals, np.zeros(len(totals))], -1)
    for rows in mapped.blocks(counts):
        lines = sample.scan.patterns(slice(rows[0], rows[-1] + 1))[:, middle]
        keys[rows, 1] = lines.reshape(len(rows), -1) @ weights.astype(np.float64)
    keys = keys[bright]
    order = np.lexsort(keys.T)
    alike = (keys[order][1:] == keys[order][:-1]).all(1)
    pairs = zip(bright[order][1:][alike], bright[order][:-1][alike], strict=True)
    same = [max(a, b) for a, b in pairs if np.array_equal(*counts[[a, b]][:, sample.good])]
    return np.array(sorted(same), np.int64)


def order(sample: Sample) -> Iterator[Finding]:
    """Find patterns and positions in different orders."""
    found = likeness(sample)
    if found is None:
        return
    ratio, structure = found
    if ratio > UNLIKE and structure > STRUCTURE:
        yield Finding(
            'order', WARNING,
            f'Patterns of neighbouring positions differ as much as those of distant ones (ratio '
            f'{ratio:.2f}; noise alone would leave {1 / structure:.2f})',
            'The patterns do not belong to these positions, or not in this order',
            'Check the order of the scan (snake or raster, rows or columns), missing frames, and '
            'that both files are of the same scan',
        )  # fmt: skip


def likeness(sample: Sample) -> tuple[float, float] | None:
    """Return how far patterns of neighbours differ over how far distant ones do, and the latter
    over the noise; None where neighbours hardly overlap.
    """
    rows = sample.neighbours
    positions = sample.scan.positions_px[rows]
    close = np.flatnonzero(sample.nearest_px[rows] < CLOSE * sample.diameter_px)
    if len(close) < max(2 * SEVERAL, len(rows) // 2):
        return None
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(0)
    one = rng.choice(close, min(PAIRS, len(close)), replace=False)
    other = cKDTree(positions).query(positions[one], k=2)[1][:, 1]
    far = rng.choice(len(rows), len(one))
    apart = np.linalg.norm(positions[far] - positions[one], axis=1)
    distant = apart > 0.7 * sample.diameter_px
    if distant.sum() < SEVERAL:
        return None
    frames = sample.neighbour_frames
    near, away = _differ(frames, one, other), _differ(frames, one[distant], far[distant])
    noise = 0.5 * np.minimum(frames[one], 1).sum((1, 2)).mean()
    return float(near / max(away, 1e-300)), float(away / max(noise, 1e-300))


def _differ(frames: Float, one: Rows, other: Rows) -> float:
    """Return the mean squared distance of the roots of patterns."""
    miss = np.sqrt(frames[one]) - np.sqrt(frames[other])
    return float((miss**2).sum((1, 2)).mean())


def _named(rows: Rows) -> str:
    return 'rows ' + ', '.join(str(row) for row in rows[:NAMED]) + ', ...' * (len(rows) > NAMED)
