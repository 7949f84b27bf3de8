"""Which way round the patterns lie, told without a reconstruction.

An object moves a pattern's first moment by a vector that is nearly the gradient of a function of
the position: of its phase under the probe, and under a curved probe of its transmission too. A
gradient has no curl. So the slopes d(moment_a)/d(position_b), fitted among neighbours, are a
symmetric 2x2 matrix; after a wrong flip or swap of the patterns' axes it is another combination of
its entries that vanishes. A turn by 180 degrees keeps the symmetry and cannot be seen.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import uniform_filter

from ..scan import Double
from .finding import WARNING, Finding
from .sample import LIT, Sample

NEIGHBOURS = 9
FLAT = 0.05  # neighbours on a line give no slope across it
FEWEST = 30
WIDEST_STEP = 0.8  # of the probe's diameter: beyond it moments of neighbours have no slope
# Squares of the combination that should vanish, over the smallest of the others; benchmarks/checks.
MARGIN = 1.8


def turned(sample: Sample) -> Iterator[Finding]:
    """Find flipped or swapped detector axes."""
    curl = curls(sample)
    if curl is None:
        return
    best = int(curl.argmin())
    ratio = curl[0] / max(curl[best], 1e-300)
    if best and ratio > MARGIN:
        cure = {1: 'flip one axis', 2: 'swap the axes', 3: 'swap the axes and flip one'}[best]
        yield Finding(
            'orientation',
            WARNING,
            f'The patterns move with the positions as if their axes were flipped or swapped (the '
            f'curl of their displacements is {ratio:.1f} times that after: {cure})',
            'Wrong axes still give a picture, a wrong one at a high error',
            f'Probably {cure} of the patterns; ptychopinn-plugin orient SCAN says which one',
        )


def curls(sample: Sample) -> Double | None:
    """Return the mean square of what vanishes where the patterns lie as loaded, with one axis
    flipped, with the axes swapped, and turned by 90 degrees, (4,); None where there are no slopes.
    """
    if sample.step_px > WIDEST_STEP * sample.diameter_px:
        return None
    slopes = slopes_of_moments(sample)
    if len(slopes) < FEWEST:
        return None
    (yy, yx), (xy, xx) = np.moveaxis(slopes, 0, -1)
    squares: Double = np.square([yx - xy, yx + xy, xx - yy, xx + yy]).mean(1)
    return squares


def slopes_of_moments(sample: Sample) -> Double:
    """Return d(first moment (y, x))/d(position (y, x)), each (2, 2), where neighbours span both."""
    side = sample.side
    frames, positions = sample.neighbour_frames, sample.scan.positions_px[sample.neighbours]
    if len(frames) < NEIGHBOURS:
        return np.zeros((0, 2, 2))
    smooth = uniform_filter(sample.mean, 3)
    lit = (smooth > LIT * smooth.max()) & sample.good
    axis = np.arange(side) - side // 2
    weights = np.stack([lit * axis[:, None], lit * axis, lit], -1).astype(np.float32)
    sums = (frames.reshape(len(frames), -1) @ weights.reshape(-1, 3)).astype(np.float64)
    centre = sums[:, :2].sum(0) / max(sums[:, 2].sum(), 1e-300)
    moments = (sums[:, :2] - centre * sums[:, 2:]) / max(sums[:, 2].mean(), 1e-300)
    near = _nearest(positions)
    away = positions[near] - positions[near].mean(1, keepdims=True)
    moved = moments[near] - moments[near].mean(1, keepdims=True)
    spread = np.einsum('mka,mkb->mab', away, away)
    small, large = np.linalg.eigvalsh(spread).T
    flat = small <= FLAT * large
    slopes: Double = np.einsum('mka,mkb->mab', moved, away)[~flat] @ np.linalg.inv(spread[~flat])
    return slopes


def _nearest(positions: Double) -> Double:
    from scipy.spatial import cKDTree

    rows: Double = cKDTree(positions).query(positions, k=NEIGHBOURS)[1]
    return rows
