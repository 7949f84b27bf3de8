"""Whether the numbers are counts, by the steps between them and by their noise, and all of them of
diffraction.

Counts are multiples of one quantum, amplitudes roots of such multiples, and where no quantum is
left the noise still tells: a pattern is the square of a wave of limited extent, so its Fourier
transform ends at twice that extent and what lies beyond is noise (or more, where the probe has
wide tails). For photon counts its power is their sum.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import fft
from scipy.ndimage import uniform_filter

from ..background import background_of
from ..scan import Array, Double
from .finding import NOTE, WARNING, Finding
from .sample import Sample

NOISE_FRAMES = 48
BEYOND = 0.6  # of N, from the centre of the Fourier transform of a pattern
QUIET = 0.6  # noise power over that of photons: clean scans have 0.87 and more
QUANTA = 12  # the smallest value may be that many quanta
FEWEST_VALUES = 3
MOST_VALUES = 20_000
LARGEST = 3000  # quanta; above it float32 does not tell multiples apart
TOLERANCE = 2e-3

AMPLITUDES = 'Amplitudes taken for counts give a flat, wrong object'
SCALED = 'Noise, dose and the regularisation of the sweeps are judged in photons'


def background(sample: Sample) -> Iterator[Finding]:
    """Find counts in the darkest pixels that are no diffraction."""
    found = background_of(sample.scan)
    if found:
        share = found * float(sample.good.sum()) / float(sample.scan.totals.mean())
        yield Finding(
            'background', NOTE,
            f'The darkest pixels have {found:.3g} counts in every pattern that do not vary as '
            f'diffraction does: {share:.1%} of all counts, if they are everywhere',
            'The sweeps allow for as many everywhere; what is not uniform is taken for diffraction',
            'Shield the detector, shorten the way through air; subtract nothing beforehand',
        )  # fmt: skip


def counts(sample: Sample) -> Iterator[Finding]:
    """Find amplitudes, scaled counts and smoothed counts."""
    values = _values(sample)
    if len(values) < FEWEST_VALUES:
        return
    quantum = quantum_of(values)
    root = quantum_of(values**2) if quantum is None else None
    noise = noise_over_photons(sample)
    top = f'largest value {values.max():.4g}'
    if root is not None:
        yield _finding(
            f'The values are square roots of multiples of {root:.4g}, not integers ({top})',
            AMPLITUDES,
            f'Read the patterns with --diffraction amplitude{_times(1 / root)}',
        )
    elif quantum is not None and quantum > 1 + TOLERANCE:
        yield _finding(
            f'The values are multiples of {quantum:.4g} ({top})', SCALED,
            f'Divide the patterns by {quantum:.6g}, so that one photon is 1',
        )  # fmt: skip
    elif quantum is not None and quantum < 1 - TOLERANCE:
        yield _finding(
            f'The values are multiples of {quantum:.4g}, not integers ({top}): normalised counts',
            SCALED, f'Multiply the patterns by {1 / quantum:.6g}',
        )  # fmt: skip
    elif noise < QUIET:
        kind = 'integers' if quantum is not None else 'no integers'
        yield _finding(
            f'The noise is {noise:.2g} of what photon counts must have ({top}, {kind})',
            'Square roots of counts, normalised, averaged and smoothed counts look like this. '
            + AMPLITUDES,
            'Give detector counts; roots are read with --diffraction amplitude',
        )


def _times(factor: float) -> str:
    return '' if abs(factor - 1) < TOLERANCE else f' and multiply their squares by {factor:.6g}'


def _finding(saw: str, why: str, cure: str) -> Finding:
    return Finding('counts', WARNING, saw, why, cure)


def _values(sample: Sample) -> Double:
    """Return the positive values of good pixels: the smallest, and the largest."""
    values = np.unique(sample.frames[sample.frames > 0])
    few = values[:MOST_VALUES].astype(np.float64)  # large ones say nothing of a quantum
    return np.append(few, float(values[-1])) if len(values) else few


def quantum_of(values: Array) -> float | None:
    """Return the number that all `values` are multiples of, None where there is none.

    The smallest value is that quantum, or a few of them.
    """
    least = float(values.min())
    for quanta in range(1, QUANTA + 1):
        quantum = least / quanta
        multiples = values[values < LARGEST * quantum] / quantum
        if len(multiples) < min(32, len(values)):
            continue
        off = np.abs(multiples - np.rint(multiples))
        if (off < TOLERANCE + 4e-7 * multiples).all():
            return quantum
    return None


def noise_over_photons(sample: Sample) -> float:
    """Return the noise power of the patterns over that of photon counts with their sum.

    At least about 1 for photon counts. Infinite where there are too few of them to tell.
    """
    frames = sample.frames[:NOISE_FRAMES].astype(np.float64)
    if sample.scan.bad_pixels.any():  # holes would look like noise
        shown = uniform_filter(sample.good * 1.0, 5)
        around = uniform_filter(frames, (0, 5, 5)) / np.maximum(shown, 1e-3)
        frames = np.where(sample.good, frames, around)
    transformed = fft.rfft2(frames, axes=(1, 2))
    frequency = np.hypot(fft.fftfreq(sample.side)[:, None], fft.rfftfreq(sample.side))
    power = (np.abs(transformed[:, frequency > BEYOND]) ** 2).mean()
    total = frames.sum((1, 2)).mean()
    return float(power / total) if total > 0 else float('inf')
