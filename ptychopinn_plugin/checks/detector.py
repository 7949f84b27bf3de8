"""Pixels that do not measure: masked, stuck, saturated, dead, hot."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import rank_filter, uniform_filter

from ..scan import Bool, Double, Float
from .finding import WARNING, Finding
from .sample import MOST, SEVERAL, Sample

BRIGHTEST = 16  # patterns that are looked at for saturation besides the sample
PLATEAU = 5  # pixels at the largest value
HOT = 5.0  # times the third brightest neighbour, in nine patterns of ten
HOT_COUNTS = 4.0
DEAD_COUNTS = 60.0  # that a pixel should have seen in all patterns together, and saw none
STOPPED = 0.2  # of the light around in the probe's far field: a beam stop, not a dead pixel
LIVE, RANK = 10, 5  # of the 5x5 pixels around that many see something; the sixth darkest counts
SCATTERED = 10.0  # times the probe's far field: there its nulls hide nothing
EXPLAINED = 0.3  # of a hot pixel, by the probe's far field
NAMED = 4


def masked(sample: Sample) -> Iterator[Finding]:
    """Find a mask that hides most of the detector."""
    bad = sample.scan.bad_pixels & ~sample.stuck
    if bad.mean() > MOST:
        yield Finding(
            'bad pixels', WARNING, f'{bad.sum()} of {bad.size} pixels are marked bad',
            'What they saw is left out, and little is left to explain',
            'True is bad: invert a mask that marks the good pixels',
        )  # fmt: skip


def stuck(sample: Sample) -> Iterator[Finding]:
    """Find pixels that read one large value in every pattern."""
    found = sample.stuck
    if found.any():
        value = float(sample.scan.patterns(sample.rows[:1])[0][found].max())
        yield Finding(
            'stuck pixels', WARNING,
            f'{_places(found)} at one value in all {len(sample.rows)} patterns looked at (up to '
            f'{value:.10g})',
            'Detectors mark so what does not measure; taken for counts it outshines the pattern',
            'Mark them in bad_pixels; the other checks have left them out',
        )  # fmt: skip


def saturated(sample: Sample) -> Iterator[Finding]:
    """Find values cut off at a largest one."""
    brightest = np.argsort(sample.scan.totals)[-BRIGHTEST:]
    frames = np.concatenate([sample.frames, sample.read(np.sort(brightest))])
    frames = frames[:, ~hot_pixels(sample)]
    top, at_top, below = plateau(frames)
    if at_top >= PLATEAU and at_top > below:
        yield Finding(
            'saturation', WARNING,
            f'{at_top} pixels of {len(frames)} patterns read the largest value, {top:.6g}, and '
            f'only {below} lie just below it',
            'Cut-off counts pull the bright field, and with it the amplitude and the slow phase, '
            'down',
            'Mark saturated pixels in bad_pixels, or measure with an attenuator',
        )  # fmt: skip


def plateau(frames: Float) -> tuple[float, int, int]:
    """Return the largest value, how many pixels have it, and how many are within a fifth below."""
    top = float(frames.max())
    floor = min(0.8 * top, top - 1)
    return top, int((frames == top).sum()), int(((frames >= floor) & (frames < top)).sum())


def hot(sample: Sample) -> Iterator[Finding]:
    """Find pixels that are bright in every pattern whatever their neighbours see."""
    found = hot_pixels(sample)
    if found.any():
        yield Finding(
            'hot pixels', WARNING,
            f'{_places(found)} far above all neighbours in every pattern (up to '
            f'{sample.mean[found].max():.4g} counts)',
            'A pixel that counts without light adds a fine ripple to the whole object',
            'Mark hot pixels in bad_pixels; where it is the direct beam behind a central stop, '
            'give a probe that has it',
        )  # fmt: skip


def hot_pixels(sample: Sample) -> Bool:
    """Return which pixels (N, N) are hot; none of a few patterns, where speckles are as sharp."""
    if len(sample.frames) < SEVERAL:
        return np.zeros_like(sample.good)
    low = np.partition(sample.frames, len(sample.frames) // 10, axis=0)[len(sample.frames) // 10]
    around = _third_brightest(sample.mean)
    # The focus of a wide, flat beam is as sharp as that; the probe's far field shows it.
    expected = _third_brightest(sample.far)
    predicted = sample.far * sample.mean.sum()
    sharp = (sample.far > HOT / 2 * expected) & (predicted > EXPLAINED * low)
    found: Bool = (low > HOT * around + HOT_COUNTS * _unit(sample)) & ~sharp & sample.good
    return found


def _unit(sample: Sample) -> float:
    """Return what one count is at most, so that normalised patterns are judged too."""
    lit = sample.frames[sample.frames > 0]
    return min(1.0, float(lit.min())) if len(lit) else 1.0


def _third_brightest(image: Double) -> Double:
    """Return the third largest of the eight neighbours of each pixel, (N, N)."""
    padded = np.pad(image, 1, mode='edge')
    n = len(image)
    around = [
        padded[y : y + n, x : x + n] for y in range(3) for x in range(3) if (y, x) != (1, 1)
    ]  # fmt: skip
    third: Double = np.sort(np.stack(around), axis=0)[-3]
    return third


def dead(sample: Sample) -> Iterator[Finding]:
    """Find pixels that see nothing amid light."""
    found = dead_pixels(sample)
    if found.any():
        yield Finding(
            'dead pixels', WARNING,
            f'{_places(found)} zero in all {len(sample.rows)} patterns looked at, amid light',
            'A hole that is taken for darkness adds a ripple to the object and dims it',
            'Mark dead pixels and gaps between modules in bad_pixels',
        )  # fmt: skip


def dead_pixels(sample: Sample) -> Bool:
    """Return which pixels (N, N) are dead; none of a few patterns, where speckles have zeros."""
    if len(sample.frames) < SEVERAL:
        return np.zeros_like(sample.good)
    total = sample.mean * len(sample.frames)
    live = (total > 0) & sample.good
    # The darker of the live pixels around: one bright neighbour is no reason to expect light.
    known = np.where(live, total, np.inf)
    around = rank_filter(known, RANK, size=5, mode='nearest')
    several = np.isfinite(rank_filter(known, LIVE - 1, size=5, mode='nearest'))
    light = uniform_filter(sample.far, 5)
    scattered = around > SCATTERED * light * total.sum()
    stopped = (sample.far < STOPPED * light) & ~scattered
    lit = several & (around > DEAD_COUNTS * _unit(sample))
    found: Bool = ~live & sample.good & lit & ~stopped
    return found


def _places(found: Bool) -> str:
    """Return how many pixels, and where the first are, with the verb."""
    places = np.argwhere(found)
    named = ', '.join(f'[{y}, {x}]' for y, x in places[:NAMED])
    number = len(places)
    rest = ', ...' if number > NAMED else ''
    return f'{number} pixel{"s" * (number != 1)} ({named}{rest}) {"are" if number != 1 else "is"}'
