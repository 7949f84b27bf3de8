"""Counts to amplitudes and the scale of the probe: the only square root of counts in the package.

The probe's shape comes from the file, its power from the data. Vacuum lets the whole beam through,
so the brightest frames measure the beam itself: the power is the `VACUUM_QUANTILE` of the counts
per frame, and the object then reads as transmission, about 1 in vacuum, whatever the scale of the
file's probe. (The mean would read above 1 in vacuum by the root of the mean transmission; see
specs/physics.md.)
"""

from __future__ import annotations

import numpy as np

from . import reference
from .errors import DataError, explain, require
from .geometry import illumination, windows
from .scan import Array, Complex, Double, Float, Scan

VACUUM_QUANTILE = 0.99
COUNTS = 1e-12, 1e15  # of a beam: float32 holds the squares of its pixels
LEAST_SEEN = 1e-3  # of the beam on good pixels: with less, the object scattered what is seen there
PIXELS, SAMPLE = 2**22, (64, 256)  # of how many patterns a known object predicts the counts
ROOT_NOISE = 0.25  # the variance of a square root of a Poisson count
# A loss below such a share of what the noise of photons leaves is of scaled counts: photons have
# left 0.4 and more in all simulated scans.
SCALED, LARGEST_SCALE = 0.1, 15  # and 10 to the power of it


def amplitudes(counts: Array) -> Float:
    """Return the square root of counts as float32; anything below zero (bad pixels) becomes
    zero.
    """
    # Via float32 first: integer arithmetic on uint16 wraps around.
    values = counts.astype(np.float32)
    if counts.dtype.kind != 'u':
        np.maximum(values, 0, out=values)
    if counts.dtype.kind == 'f':
        np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0)
    return np.sqrt(values, out=values)


def noise_loss(scan: Scan) -> float:
    """Return the sum(|F| - sqrt(I))^2 / sum(I) that the noise of photons leaves, or less where
    counts are few.
    """
    noise = ROOT_NOISE * len(scan) * float((~scan.bad_pixels).sum())
    return noise / float(scan.totals.sum())


def mean_counts(scan: Scan) -> Double:
    """Return the mean counts of the good pixels (K,), over some patterns."""
    most = int(np.clip(PIXELS // scan.side_px**2, *SAMPLE))
    rows = np.linspace(0, len(scan) - 1, min(len(scan), most)).astype(int)
    mean: Double = scan.patterns(rows).mean(0, dtype=np.float64)[~scan.bad_pixels]
    return mean


def photons_per_count(mean: Double, loss: float) -> float:
    """Return for how many photons a count stands, if their noise is to leave no more than a loss,
    of patterns with such `mean_counts`: 1 where counts may well be photons.
    """
    photons = 10 ** np.linspace(0, LARGEST_SCALE, 10 * LARGEST_SCALE + 1)
    total = max(float(mean.sum()), 1e-30)
    if loss > SCALED * np.minimum(ROOT_NOISE, mean).sum() / total:
        return 1.0
    left = np.array([np.minimum(ROOT_NOISE / k, mean).sum() / total for k in photons])
    return float(photons[min(int((left > loss).sum()), len(photons) - 1)])


def beam_counts(totals: Double) -> float:
    """Return the counts per frame of the unobstructed beam, judged by the brightest frames: a scan
    that was broken off may have few of them. Raises `DataError` when single precision is too small
    for them.
    """
    found = float(np.quantile(totals[totals > 0], VACUUM_QUANTILE))
    require(
        COUNTS[0] <= found <= COUNTS[1],
        DataError,
        'The patterns are scaled far from counts',
        expected=f'{COUNTS[0]:g} to {COUNTS[1]:g} counts in the brightest patterns',
        received=f'{found:.3g}',
        cure='Scale the patterns so that one photon is 1',
    )
    return found


def normalised_probe(scan: Scan) -> Complex:
    """Return the probe (P, N, N) scaled so that vacuum predicts the beam's counts per frame.

    With bad pixels, only the part of the beam that falls on good detector pixels is compared; where
    they hide all of it, what is left is no measure, and the counts are taken for the whole.
    """
    probe = scan.probe.astype(np.complex128)
    far = np.fft.fftshift(np.fft.fft2(probe, norm='ortho'), axes=(-2, -1))
    whole, power = (np.abs(probe) ** 2).sum(), (np.abs(far) ** 2).sum(0)[~scan.bad_pixels].sum()
    if power <= LEAST_SEEN * whole:
        power = whole
    scaled: Complex = (probe * np.sqrt(beam_counts(scan.signal) / power)).astype(np.complex64)
    return scaled


def flat_transmission(scan: Scan) -> float:
    """Return the amplitude of the flat object that predicts the scan's mean counts per frame."""
    return float(np.sqrt(scan.signal.mean() / beam_counts(scan.signal)))


def network_scale(scan: Scan) -> float:
    """Return the factor on amplitudes before a network: the mean sum of squares becomes (N/2)^2."""
    return float(scan.side_px / 2 / np.sqrt(scan.totals.mean()))


def normalised_truth(scan: Scan, probe: Complex) -> Complex:
    """Return the known object (H, W) as transmission under the normalised `probe`, mean phase zero.

    The true object is taken, else the object that came with the file. Raises `DataError` when there
    is none, or when it is constant and so only a placeholder.
    """
    known = scan.true_object if scan.true_object is not None else scan.object_guess
    if known is None or not np.ptp(np.abs(known - known.flat[0])):
        raise DataError(
            explain(
                f'{scan.name}: supervised training needs a known object',
                expected='true_object or a reconstructed objectGuess in the scan file',
                received='none' if known is None else 'a constant object',
                cure='Reconstruct and export the scan first, or train in pinn mode',
            )
        )
    require(
        known.shape == scan.frame.shape,
        DataError,
        f'{scan.name}: the known object does not fill the frame of the positions',
        expected=f'shape={scan.frame.shape}',
        received=f'shape={known.shape}',
    )
    light = illumination(scan, probe)
    known = known * np.exp(-1j * np.angle((known * light).sum()))
    measured, expected = _compared(scan, known, probe, light)
    require(expected > 0, DataError, f'{scan.name}: the known object is zero under the light')
    truth: Complex = (known * np.sqrt(measured / expected)).astype(np.complex64)
    return truth


def _compared(scan: Scan, known: Complex, probe: Complex, light: Double) -> tuple[float, float]:
    """Return measured counts and those that the known object (H, W) predicts in the same places.

    Without bad pixels all its light under the probe is counted. What part of it falls on good ones
    depends on the object, so with them some patterns, far from one another, are predicted.
    """
    if not scan.bad_pixels.any():
        return float(scan.signal.sum()), float((np.abs(known) ** 2 * light).sum())
    most = int(np.clip(PIXELS // scan.side_px**2, *SAMPLE))
    rows = np.linspace(0, len(scan) - 1, min(len(scan), most)).astype(int)
    place, expected = windows(scan), 0.0
    for row in rows:
        patch = reference.extract(known, place.corner_px[row, None], scan.side_px)
        moved = reference.shift_probe(probe, place.shift_px[row, None])
        expected += float(reference.diffract(patch, moved)[0, ~scan.bad_pixels].sum())
    return float(scan.signal[rows].sum()), expected
