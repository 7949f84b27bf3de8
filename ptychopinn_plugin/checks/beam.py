"""Whether the beam was on, and steady: totals of patterns against those of their neighbours, since
what the specimen does to one pattern it does nearly to those that overlap with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..beam_intensity import without_beam
from ..scan import Double
from .finding import NOTE, WARNING, Finding
from .sample import Rows, Sample

NEIGHBOURS = 6
NEAR = 0.5  # of the probe's diameter: so far apart two patterns see much the same
FEWEST_PAIRS = 8
DARK = 2e-3  # of the brightest patterns
BINS, FEWEST_BINS, PER_BIN = 12, 4, 10
ORDERED = 0.8  # share of the pattern's number that a quadratic in the position explains
DRIFT, JUMP, ORDERED_JUMP = 0.08, 0.12, 0.15
CERTAIN = 5.0  # standard errors
SHARED = 2.0  # pairs share patterns: so many times fewer are independent
OUTSTANDING = 8.0  # times what is usual along the path
MOST = 0.6  # of all change in one step
NAMED = 5
UNEXPLAINED = 'more than the specimen explains'
EDGE = 'which a straight edge of the specimen along the path would also do'


def off(sample: Sample) -> Iterator[Finding]:
    """Find patterns taken without the beam."""
    rows = off_rows(sample)
    if len(rows):
        totals = sample.scan.totals
        shown = ', '.join(str(row) for row in rows[:NAMED]) + ', ...' * (len(rows) > NAMED)
        yield Finding(
            'beam off', WARNING,
            f'{len(rows)} of {len(totals)} patterns (rows {shown}) have {totals[rows].max():.3g} '
            f'counts or fewer; the median is {np.median(totals):.3g}',
            'Where the beam was off the object would come out dark, so the sweeps leave out what '
            'overlaps with brighter patterns',
            'Leave these patterns out of the scan, or measure again what they should have shown',
        )  # fmt: skip


def off_rows(sample: Sample) -> Rows:
    """Return the patterns that are much darker than their neighbours, or black."""
    totals = sample.scan.totals
    black = totals < DARK * np.quantile(totals, 0.99)
    black[without_beam(sample.scan)] = True
    rows: Rows = np.flatnonzero(black)
    return rows


def steady(sample: Sample) -> Iterator[Finding]:
    """Find a beam that jumps during the scan or, where the path comes back to places, drifts."""
    pairs = pairs_of_neighbours(sample)
    if is_ordered(sample.scan.positions_px):
        at, step, usual = step_on_the_way(pairs, len(sample.scan))
        if abs(step) > ORDERED_JUMP and abs(step) > OUTSTANDING * usual:
            yield _changed('beam jump', NOTE, step, f'near pattern {at}', EDGE)
        return
    fitted = beam_over_time(pairs, len(sample.scan))
    if fitted is None:
        return
    level, error = fitted
    time, steps = np.linspace(-0.5, 0.5, len(level)), np.diff(level)
    slope, at = float(level @ time / (time @ time)), int(np.abs(steps).argmax())
    jump = float(steps[at])
    if abs(jump) > max(JUMP, CERTAIN * error, MOST * float(np.ptp(level))):
        frame = round((at + 1) * len(sample.scan) / len(level))
        yield _changed('beam jump', WARNING, jump, f'near pattern {frame}', UNEXPLAINED)
    elif abs(slope) > max(DRIFT, CERTAIN * error / float(np.sqrt(2 * (time @ time)))):
        where = 'from the first pattern to the last'
        yield _changed('beam drift', WARNING, slope, where, UNEXPLAINED)


def _changed(check: str, level: str, logarithm: float, where: str, doubt: str) -> Finding:
    return Finding(
        check, level, f'The counts change by {np.expm1(logarithm):+.0%} {where}, {doubt}',
        'A changing beam is reconstructed as a changing transmission of the specimen',
        'Normalise the patterns by a monitor of the beam, or reconstruct the parts apart',
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Pairs:
    """Overlapping neighbours (K,): pattern `one` before pattern `other`, and the logarithm of the
    ratio of their totals.
    """

    one: Rows
    other: Rows
    ratio: Double


def pairs_of_neighbours(sample: Sample) -> Pairs:
    """Return each pattern with its nearest neighbours that see much the same, black ones left
    out.
    """
    totals = sample.scan.totals
    number = min(NEIGHBOURS, len(totals) - 1)
    if number < 1:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    apart, near = sample.tree.query(sample.scan.positions_px, k=number + 1)
    one, other = np.repeat(np.arange(len(totals)), number + 1), near.ravel()
    lit = totals > DARK * np.quantile(totals, 0.99)
    kept = (one != other) & (apart.ravel() < NEAR * sample.diameter_px) & lit[one] & lit[other]
    pairs = np.unique(np.sort(np.stack([one[kept], other[kept]], -1), axis=1), axis=0)
    one, other = pairs.T
    ratio = np.log(totals[other] / totals[one])
    if len(ratio):  # edges of the specimen
        ratio = np.clip(ratio, *np.quantile(ratio, (0.02, 0.98)))
    return Pairs(one, other, ratio)


def beam_over_time(pairs: Pairs, patterns: int) -> tuple[Double, float] | None:
    """Return the logarithm of the beam in equal times of the scan, (T,), and the error of a step
    between two of them, by least squares; None where some time touches no other.
    """
    bins = min(BINS, patterns // PER_BIN)
    since, until = pairs.one * bins // patterns, pairs.other * bins // patterns
    apart = since != until
    since, until, ratio = since[apart], until[apart], pairs.ratio[apart]
    normal, right = np.zeros((bins, bins)), np.zeros(bins)
    for a, b in ((since, until), (until, since)):
        np.add.at(normal, (a, a), 1)
        np.add.at(normal, (a, b), -1)
    np.add.at(right, until, ratio)
    np.add.at(right, since, -ratio)
    if bins < FEWEST_BINS or np.linalg.matrix_rank(normal) < bins - 1:
        return None
    inverse = np.linalg.pinv(normal)
    level: Double = inverse @ right
    left = np.std(ratio - level[until] + level[since])
    return level, float(SHARED * left * np.sqrt(2 * np.diag(inverse).max()))


def step_on_the_way(pairs: Pairs, patterns: int) -> tuple[int, float, float]:
    """Return the pattern before which the totals change most, the logarithm of that change, and
    what is usual along the path: means over the neighbours on either side of each moment.
    """
    change, number = np.zeros(patterns + 1), np.zeros(patterns + 1)
    for rows, sign in ((pairs.one + 1, 1), (pairs.other + 1, -1)):
        np.add.at(change, rows, sign * pairs.ratio)
        np.add.at(number, rows, sign)
    change, number = np.cumsum(change), np.cumsum(number)
    known = number >= max(
        FEWEST_PAIRS, 0.5 * np.median(number)
    )  # at both ends few pairs say little
    if not known.any():
        return 0, 0.0, 0.0
    change = np.where(known, change / np.maximum(number, 1), 0)
    at = int(np.abs(change).argmax())
    return at, float(change[at]), float(np.median(np.abs(change[known])))


def is_ordered(positions: Double) -> bool:
    """Tell whether the number of a pattern is nearly a smooth function of its position (M, 2)."""
    y, x = ((positions - positions.mean(0)) / np.maximum(np.ptp(positions, axis=0), 1e-9)).T
    terms = np.stack([np.ones_like(y), y, x, y * y, x * x, y * x], -1)
    number = np.linspace(-1, 1, len(y))
    left = number - terms @ np.linalg.lstsq(terms, number, rcond=None)[0]
    return bool(1 - left.var() / max(number.var(), 1e-9) > ORDERED)
