"""How close a reconstruction is to the truth, once what no data can fix has been removed (PH-12).

A global phase, the scale between probe and object, a linear phase ramp and a shift of a few pixels
are fitted over the illuminated box and taken out; then phase and amplitude are scored there. Phases
are compared on the circle: a wrap is not an error.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, require
from .result import ObjectImage
from .scan import Array, Bool, Complex, Double, Float

logger = logging.getLogger(__name__)

ROUNDS = 3  # ramp and shift disturb each other: each round finds both anew
LARGEST_SHIFT_PX = 4.0  # a larger one is a misfit of the correlation, not a registration
SHIFT_STEPS = 20  # per pixel
CLEARLY_BETTER = 0.5  # of the misfit in place is left after a shift that explains it
CLEAR_PEAK = 0.3  # of a whole ramp's peak, which between two bins still reaches 0.4
LIT_SHARE = 0.995  # of the box
SMALLEST_CUT_PX = 32  # the box is not cut below this side in search of `LIT_SHARE`
SMALLEST_BOX_PX = 3
PIXELS_AGREE = 1e-3  # of two objects: over a thousand pixels they are one apart then
SSIM_WINDOW_PX = 7
AMPLITUDE_PEAK = 1.0  # vacuum
SMALLEST_RANGE = 1e-3  # stands in for the range of a constant picture
FLAT = 1e-6  # share of the amplitude below which there is nothing but rounding to correlate
LARGEST_PSNR_DB = 120.0  # float32 tells no more apart, and JSON has no infinity

Box = tuple[int, int, int, int]
Wave = NDArray[np.complex128]


@dataclass(frozen=True)
class Comparison:
    """Scores over `box`, the rows and columns (top, bottom, left, right) of the illuminated part.

    phase_mae_rad       mean absolute error of the phase [rad]
    phase_ssim          structural similarity, data range that of the true phase
    phase_psnr_db       peak signal to noise [dB], peak the range of the true phase
    amplitude_mae       mean absolute error of the amplitude
    amplitude_ssim      structural similarity, data range that of the true amplitude
    amplitude_psnr_db   peak signal to noise [dB], peak 1 (vacuum)
    frc50               where Fourier ring correlation first falls below 1/2 [share of Nyquist]
    shift_px            (y, x) by which the reconstruction was moved onto the truth [px]
    """

    phase_mae_rad: float
    phase_ssim: float
    phase_psnr_db: float
    amplitude_mae: float
    amplitude_ssim: float
    amplitude_psnr_db: float
    frc50: float
    shift_px: tuple[float, float]
    box: Box

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-ready values."""
        values = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def compare(
    reconstruction: Complex, truth: Complex, weight: Array, threshold: float = 0.1
) -> Comparison:
    """Score a reconstruction against the truth, both (H, W) on the same pixels.

    `weight` (H, W) >= 0 is the light; where it exceeds `threshold` of its maximum counts as
    illuminated. Raises `DataError` when the arrays do not fit each other or nothing is illuminated.
    """
    got, wanted, box = _lit(reconstruction, truth, weight, threshold)
    got, shift = _aligned(got, wanted)
    phase = np.angle(wanted)
    # Without its modulus: where it is 0, the plain product would call the phase right.
    error = np.angle(np.exp(1j * np.angle(got)) * wanted.conj())
    amplitude, true_amplitude = np.abs(got), np.abs(wanted)
    phase_range = max(float(np.ptp(phase)), SMALLEST_RANGE)
    return Comparison(
        phase_mae_rad=float(np.abs(error).mean()),
        phase_ssim=_ssim(phase + error, phase),
        phase_psnr_db=_psnr_db(error, phase_range),
        amplitude_mae=float(np.abs(amplitude - true_amplitude).mean()),
        amplitude_ssim=_ssim(amplitude, true_amplitude),
        amplitude_psnr_db=_psnr_db(amplitude - true_amplitude, AMPLITUDE_PEAK),
        frc50=_first_below_half(*fourier_ring_correlation(got, wanted)),
        shift_px=shift,
        box=box,
    )


def apart_px(
    reconstruction: Complex, truth: Complex, weight: Array, threshold: float = 0.1
) -> tuple[int, int] | None:
    """Return the shift (y, x) [px] beyond those `compare` makes at which the two fit much better.

    None where there is none: their scores are then no matter of where the origins lie. Raises as
    `compare` does.
    """
    from skimage.registration import phase_cross_correlation

    got, wanted, _ = _lit(reconstruction, truth, weight, threshold)
    got = _without_ramp(_without_coarse_ramp(got, wanted), wanted)
    pair = _varying(got, wanted)
    if pair is None:
        return None
    found = np.rint(phase_cross_correlation(*pair)[0]).astype(int)  # type: ignore[no-untyped-call]
    room = np.subtract(got.shape, np.abs(found))
    if np.abs(found).max() <= LARGEST_SHIFT_PX or (2 * room < got.shape).any():
        return None
    here, there = (
        tuple(slice(start, start + n) for start, n in zip(np.maximum(s, 0), room, strict=True))
        for s in (found, -found)
    )
    misfit = 1 - _alike(pair[0][here], pair[1][there])
    worse = 1 - _alike(*pair)
    return (int(found[0]), int(found[1])) if misfit < CLEARLY_BETTER * worse else None


def overlap(image: ObjectImage, truth: ObjectImage) -> tuple[Complex, Complex, Float]:
    """Return both objects cut to the pixels they share, and the lesser of their weights there.

    Places in metres, where both have them, else origins are matched to whole pixels; `compare`
    finds the rest. Raises `DataError` when the two do not overlap.
    """
    offset = _offset_px(image, truth)
    low = np.maximum(offset, 0)
    high = np.minimum(image.object.shape, offset + truth.object.shape)
    require(
        (high > low).all(),
        DataError,
        'The two objects do not overlap',
        expected='objects with pixels in common',
        received=f'shapes {image.object.shape} and {truth.object.shape} at origins (y, x) '
        f'{image.origin_px} and {truth.origin_px}',
        cure='Check that both belong to the same scan',
    )
    here, there = (
        (slice(a[0], b[0]), slice(a[1], b[1]))
        for a, b in ((low, high), (low - offset, high - offset))
    )
    weight = np.minimum(image.weight[here], truth.weight[there])
    return image.object[here], truth.object[there], weight


def _offset_px(image: ObjectImage, truth: ObjectImage) -> Array:
    """Return where (y, x) the first pixel of `truth` lies in `image`."""
    # Each program may give a scan an object array of its own, of which an origin in pixels says
    # nothing; metres do.
    if image.place_m and truth.place_m:
        (size, here), (other, there) = image.place_m, truth.place_m
        if np.allclose(size, other, rtol=PIXELS_AGREE, atol=0):
            return _whole(np.subtract(there, here) / np.asarray(size))
        logger.warning(
            'The two objects have pixels of different size, (y, x) = %s m and %s m: scores mean '
            'little unless one of these is nominal. Resample one of them to the pixel of the other',
            size, other,
        )  # fmt: skip
    return _whole(np.subtract(truth.origin_px, image.origin_px))


def _whole(values: Array) -> Array:
    whole: Array = np.rint(values).astype(int)
    return whole


def fourier_ring_correlation(a: Array, b: Array) -> tuple[Double, Double]:
    """Return ring frequencies [share of Nyquist] and the correlation of two images on each.

    The largest square at the top left is used, under a Hann window, its mean removed first
    (doi:10.1016/j.jsb.2005.05.009); a ring without power correlates with nothing. Raises
    `DataError` when the shapes (H, W) differ.
    """
    require(
        a.shape == b.shape and a.ndim == 2,
        DataError,
        'The two images have different shapes',
        expected='two of shape (H, W)',
        received=f'{a.shape} and {b.shape}',
    )
    n = min(a.shape)
    hann = np.hanning(n)
    window = hann[:, None] * hann
    fa, fb = (np.fft.fft2((v[:n, :n] - v[:n, :n].mean()) * window) for v in (a, b))
    f = np.fft.fftfreq(n) * n
    rings = np.rint(np.hypot(f[:, None], f)).astype(int).ravel()
    shared, power_a, power_b = (
        np.bincount(rings, part.ravel())[: n // 2 + 1]
        for part in ((fa * fb.conj()).real, np.abs(fa) ** 2, np.abs(fb) ** 2)
    )
    power = np.sqrt(power_a) * np.sqrt(power_b)
    correlation = np.divide(shared, power, out=np.zeros_like(power), where=power > 0)
    return np.arange(n // 2 + 1) / (n / 2), correlation


def _check_pair(reconstruction: Array, truth: Array, weight: Array) -> None:
    require(
        truth.ndim == 2 and reconstruction.shape == truth.shape == weight.shape,
        DataError,
        'Reconstruction, truth and weight differ in shape',
        expected='three arrays of shape (H, W)',
        received=f'{reconstruction.shape}, {truth.shape} and {weight.shape}',
        cure='Cut them to what they share first, with metrics.overlap',
    )
    for name, array in (('reconstruction', reconstruction), ('truth', truth), ('weight', weight)):
        require(np.isfinite(array).all(), DataError, f'The {name} contains NaN or infinity')
    require(
        weight.size > 0 and weight.min() >= 0 and weight.max() > 0,
        DataError,
        'No part of the object is illuminated',
        expected='weights >= 0 that are not all zero',
        received=f'weights from {weight.min()} to {weight.max()}' if weight.size else 'no pixels',
        cure='Check the positions and the probe',
    )


def _lit(
    reconstruction: Complex, truth: Complex, weight: Array, threshold: float
) -> tuple[Wave, Wave, Box]:
    """Return both objects cut to the illuminated box, and the box."""
    _check_pair(reconstruction, truth, weight)
    box = _lit_box(weight > threshold * weight.max())
    cut = np.s_[box[0] : box[1], box[2] : box[3]]
    wanted = truth[cut].astype(np.complex128)
    require(
        wanted.any(),
        DataError,
        'The truth is zero everywhere in the illuminated part',
        cure='Check which array was read',
    )
    return reconstruction[cut].astype(np.complex128), wanted, box


def _lit_box(lit: Bool) -> Box:
    """Return the rectangle about the lit pixels, cut evenly until `LIT_SHARE` of it is lit."""
    sums = np.pad(lit.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    require(len(rows) > 0, DataError, 'No part of the object is above the threshold')
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    while min(bottom - top, right - left) > SMALLEST_CUT_PX:
        inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        if inside >= LIT_SHARE * (bottom - top) * (right - left):
            break
        top, bottom, left, right = top + 1, bottom - 1, left + 1, right - 1
    require(
        min(bottom - top, right - left) >= SMALLEST_BOX_PX,
        DataError,
        'The illuminated part is too small to be scored',
        expected=f'at least {SMALLEST_BOX_PX}x{SMALLEST_BOX_PX} pixels',
        received=f'{bottom - top}x{right - left} pixels',
    )
    return int(top), int(bottom), int(left), int(right)


def _aligned(got: Wave, wanted: Wave) -> tuple[Wave, tuple[float, float]]:
    """Return `got` freed of ramp, scale and shift against `wanted`, and the whole shift (y, x)."""
    from scipy.ndimage import fourier_shift

    got = _without_coarse_ramp(got, wanted)
    total = np.zeros(2)
    for _ in range(ROUNDS):
        got = _without_ramp(got, wanted)
        shift = _shift_px(got, wanted)
        total += shift
        got = np.fft.ifft2(fourier_shift(np.fft.fft2(got), shift))
    got = _without_ramp(got, wanted)
    a, b = np.abs(got), np.abs(wanted)
    scale = (a * b).sum() / max((a * a).sum(), np.finfo(float).tiny)
    return got * scale, (float(total[0]), float(total[1]))


def _without_coarse_ramp(got: Wave, wanted: Wave) -> Wave:
    """Return `got` without the whole periods of its ramp, where a fit to wrapped phases is lost."""
    product = got * wanted.conj()
    spectrum = np.abs(np.fft.fft2(product))
    peak = np.unravel_index(spectrum.argmax(), spectrum.shape)
    # Two pictures that share little have a highest peak too, but it says nothing.
    if spectrum[peak] < CLEAR_PEAK * np.abs(product).sum():
        return got
    fy, fx = (np.fft.fftfreq(n)[k] for n, k in zip(got.shape, peak, strict=True))
    y, x = (np.arange(n) for n in got.shape)
    level: Wave = got * np.exp(-2j * np.pi * (fy * y[:, None] + fx * x))
    return level


def _without_ramp(got: Wave, wanted: Wave) -> Wave:
    """Return `got` without the plane (offset, slopes) that fits its phase error best."""
    y, x = (np.arange(n) / n - 0.5 for n in got.shape)
    ones = np.ones(got.shape)
    basis = np.stack([v.ravel() for v in (ones, ones * y[:, None], ones * x)])
    light = (np.abs(got) * np.abs(wanted)).ravel()
    inverse = np.linalg.pinv((basis * light) @ basis.T)
    for _ in range(4):  # phases wrap: each fit starts from what the last one left
        got = got * np.exp(-1j * np.angle((got * wanted.conj()).sum()))
        plane = inverse @ (basis @ (light * np.angle(got * wanted.conj()).ravel()))
        got = got * np.exp(-1j * (plane @ basis).reshape(got.shape))
    level: Wave = got
    return level


def _shift_px(got: Wave, wanted: Wave) -> Double:
    """Return by how much (y, x) `got` must move to lie on `wanted`, zero where that is unclear."""
    from skimage.registration import phase_cross_correlation

    pair = _varying(got, wanted)
    if pair is None:
        return np.zeros(2)
    found = phase_cross_correlation(*pair, upsample_factor=SHIFT_STEPS)  # type: ignore[no-untyped-call]
    shift = np.asarray(found[0], np.float64)
    return shift if np.abs(shift).max() <= LARGEST_SHIFT_PX else np.zeros(2)


def _varying(got: Wave, wanted: Wave) -> tuple[Wave, Wave] | None:
    """Return the wanted picture and the got one less their means, None where one has no more."""
    waves = (wanted, got)
    pair = (wanted - wanted.mean(), got - got.mean())
    if any(np.abs(a).max() <= FLAT * np.abs(w).max() for a, w in zip(pair, waves, strict=True)):
        return None
    return pair


def _alike(a: Wave, b: Wave) -> float:
    """Return the modulus of the normalised correlation of two pictures."""
    power = float((np.abs(a) ** 2).sum() * (np.abs(b) ** 2).sum())
    return float(np.abs((a * b.conj()).sum()) / max(power, np.finfo(float).tiny) ** 0.5)


def _ssim(image: Double, truth: Double) -> float:
    from skimage.metrics import structural_similarity

    side = min(truth.shape)
    window = min(SSIM_WINDOW_PX, side - 1 + side % 2)  # odd
    span = max(float(np.ptp(truth)), SMALLEST_RANGE)
    score = structural_similarity(truth, image, data_range=span, win_size=window)  # type: ignore[no-untyped-call]
    return float(score)


def _psnr_db(error: Double, peak: float) -> float:
    floor = peak**2 * 10 ** (-LARGEST_PSNR_DB / 10)
    return float(10 * np.log10(peak**2 / max(float((error**2).mean()), floor)))


def _first_below_half(frequency: Double, correlation: Double) -> float:
    below = np.flatnonzero(correlation[1:] < 0.5)
    return float(frequency[below[0] + 1] if len(below) else frequency[-1])
