"""The part of the phase that varies slowly, from how far each pattern lies from its prediction.

Sweeps fix fine detail in a few passes and slow phase waves in hundreds: under one probe such a
wave is a ramp, and a ramp g [rad/px] only moves the pattern by t = g N / (2 pi) pixels. So it is
measured as a displacement, by least squares over the pixels of each pattern,

    sqrt(I) - |F| = -t . grad |F|,

the ramps of all patterns are spread over the object with |P|^2, weighted by how well each is known,
and Poisson's equation turns the field of gradients into a phase (free borders, by cosine
transforms). Exact for a phase that is linear under the probe; what is left is fine detail, which
the sweeps see. Five sums per pattern are all it needs; and as the field is no finer than the probe,
it is spread and integrated on a grid of a few cells across the probe.

What moves patterns otherwise (a beam that points elsewhere, a wrong probe or position) is no
gradient of a phase: half of such a field is curl, which no phase can have. So in every band of
wavelengths the curl tells how much of the divergence to believe.

Letters as in `scan`; the modulus and the miss may carry any common factor.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from .geometry import windows
from .scaling import amplitudes, flat_transmission
from .scan import Array, Complex, Double, Float, Scan

SUMS = 5
LARGEST_MOVE_PX = 1.0  # of a pattern, in one correction: beyond it |F| is not linear
DAMPING = 1e-2  # of the mean squared slope: patterns without structure say nothing
DOUBT = 0.5  # of as much divergence as there is curl; more slows sound scans, see RESEARCH.md
BANDS_PER_OCTAVE = 2
CELLS = 8.0  # across the probe, at least
JUDGED = 0.1  # of the brightest spot: where the curl is looked at
UNLIT = 1e-3  # of the brightest spot: darker parts keep their phase
BATCH = 32
# Where a beam fills the window, patterns vary from pixel to pixel, and differences over two pixels
# do not tell where they move: how well they must, see `followed`.
LEAST_FOLLOWED = 0.17


def followed(probe: Complex) -> float:
    """Return how well differences over two pixels tell how a pattern moves under the probe
    (P, N, N): 1 where the beam is narrow, 0 and less where it fills the window.

    Detail of a pattern of d px of the beam's autocorrelation has a slope of 2 pi d / N, and the
    differences have its sine; returned is the lesser correlation of the two along y and x.
    """
    power, side = (np.abs(probe) ** 2).sum(0), probe.shape[-1]
    shared = fft.irfft2(np.abs(fft.rfft2(power, (2 * side, 2 * side))) ** 2)
    turn = 4 * np.pi * np.fft.fftfreq(2 * side)
    found = []
    for axis in (1, 0):
        of = shared.sum(axis) * turn
        found.append(float((of * np.sin(turn)).sum() / max(float((of * turn).sum()), 1e-30)))
    return min(found)


def ramp_sums(modulus: Float, miss: Float, good: Float | None = None) -> Float:
    """Return (B, 5): slope y and x times miss, slope y^2, x^2, and y times x, summed over pixels.

    modulus and miss = sqrt(I) - modulus are (B, N, N), miss zero on bad pixels; good (N, N) is 1 or
    0. Slopes are differences over two pixels.
    """
    dy, dx = modulus[:, 2:] - modulus[:, :-2], modulus[:, :, 2:] - modulus[:, :, :-2]
    if good is not None:
        dy *= good[1:-1]
        dx *= good[:, 1:-1]
    pairs = (
        (dy, miss[:, 1:-1]), (dx, miss[:, :, 1:-1]),
        (dy, dy), (dx, dx), (dy[:, :, 1:-1], dx[:, 1:-1]),
    )  # fmt: skip
    return np.stack([np.einsum('byx,byx->b', a, b) for a, b in pairs], axis=1)


class SlowPhase:
    """Ramps of the patterns at corner_px (M, 2) to a phase on the object, shape (H, W)."""

    def __init__(
        self, corner_px: NDArray[np.int64], probe: Complex, shape: tuple[int, int]
    ) -> None:
        self.shape, self.side = shape, probe.shape[-1]
        power = (np.abs(probe) ** 2).sum(0)
        width_px = float(np.sqrt(power.sum() ** 2 / (power**2).sum()))
        self.pitch_px = max(1, int(width_px / CELLS))
        y, x = (fft.next_fast_len(-(-n // self.pitch_px) + 1, True) for n in shape)
        self._grid = y, x
        self.move(corner_px)
        self._band = _bands(self._grid)
        cells = _cells((power / power.max()).astype(np.float32), self.pitch_px)
        self._power = fft.rfft2(cells, self._grid)

    def move(self, corner_px: NDArray[np.int64]) -> None:
        """Put the patterns elsewhere, (M, 2)."""
        # Between cells a pattern is shared among the four that are next.
        (y, x), (down, right) = (v.T for v in np.divmod(corner_px, self.pitch_px))
        near = [(y + i) * self._grid[1] + x + j for i in (0, 1) for j in (0, 1)]
        sides = [np.stack([self.pitch_px - r, r]) / self.pitch_px for r in (down, right)]
        self._place = np.concatenate(near)
        self._part = np.einsum('im,jm->ijm', *sides).reshape(4, -1)

    def phase(self, sums: Array, *, doubting: bool = True) -> Float:
        """Return the phase (H, W) [rad] to add to the object, for the `ramp_sums` (M, 5); without
        `doubting` all of the displacements are taken for the object's.
        """
        ramps, known = self.ramps(sums)
        light, *field = (self._spread(v) for v in (known, known * ramps[:, 0], known * ramps[:, 1]))
        light = np.maximum(light, 0) + np.float32(max(UNLIT * float(light.max()), 1e-30))
        light /= self.pitch_px  # slopes in radians per cell
        slope_y, slope_x = field[0] / light, field[1] / light
        waves = potential(slope_y, slope_x)
        if doubting:
            waves *= self._believed(slope_y, slope_x, light > JUDGED * float(light.max()))
        return self._refined(waves)

    def _refined(self, waves: Float) -> Float:
        """Return the phase (H, W) of cosines on the grid."""
        height, width = self._grid
        fine = np.zeros((height * self.pitch_px, width * self.pitch_px), np.float32)
        fine[:height, :width] = waves * np.float32(self.pitch_px)
        phase: Float = fft.idctn(fine, norm='ortho', overwrite_x=True)
        return phase[: self.shape[0], : self.shape[1]]

    def _believed(self, slope_y: Float, slope_x: Float, lit: Array) -> Float:
        """Return by what share to believe each wave of the potential of slopes, on the grid."""
        own_y, own_x = ((s - s[lit].mean()) * lit for s in (slope_y, slope_x))
        along, across = (
            self._by_band(potential(*pair)) for pair in ((own_y, own_x), (-own_x, own_y))
        )
        share = np.clip(1 - DOUBT * across / np.maximum(along, 1e-30), 0, 1)
        believed: Float = share.astype(np.float32)[self._band]
        return believed

    def _by_band(self, spectrum: Float) -> Double:
        """Return the power of the gradient of a potential in every band and half its neighbours."""
        power = spectrum**2 * -_laplacian(spectrum.shape)
        return np.convolve(np.bincount(self._band.ravel(), power.ravel()), [0.5, 1, 0.5], 'same')

    def ramps(self, sums: Array) -> tuple[Double, Double]:
        """Return the missing ramps (M, 2) (y, x) [rad/px] and how well each is known (M,)."""
        vy, vx, yy, xx, yx = sums.astype(np.float64).T
        known = np.sqrt(np.maximum(yy * xx - yx**2, 0))
        damping = DAMPING * (yy + xx) / 2 + 1e-30
        yy, xx = yy + damping, xx + damping
        slope = np.stack([xx * vy - yx * vx, yy * vx - yx * vy], 1) / (yy * xx - yx**2)[:, None]
        move = -2 * slope
        length = np.maximum(np.hypot(*move.T), 1e-30)[:, None]
        move *= np.minimum(1, LARGEST_MOVE_PX / length)
        return move * (2 * np.pi / self.side), known

    def _spread(self, values: Double) -> Float:
        """Return the values (M,) spread over the grid with |P|^2."""
        parts = (self._part * values).ravel()
        points = np.bincount(self._place, parts, self._grid[0] * self._grid[1])
        points = points.reshape(self._grid).astype(np.float32)
        spread: Float = fft.irfft2(fft.rfft2(points) * self._power, self._grid)
        return spread


def potential(slope_y: Float, slope_x: Float) -> Float:
    """Return the cosines (H, W) of the phase, mean zero, whose gradient is nearest to the slopes
    [rad/px], each (H, W).
    """
    height, width = slope_y.shape
    inner_y, inner_x = (slope_y[1:] + slope_y[:-1]) / 2, (slope_x[:, 1:] + slope_x[:, :-1]) / 2
    divergence = np.zeros((height, width), np.float32)
    divergence[:-1] += inner_y
    divergence[1:] -= inner_y
    divergence[:, :-1] += inner_x
    divergence[:, 1:] -= inner_x
    spectrum: Float = fft.dctn(divergence, norm='ortho') / _laplacian((height, width))
    spectrum[0, 0] = 0
    return spectrum


def integrate(slope_y: Float, slope_x: Float) -> Float:
    """Return the phase (H, W), mean zero, whose gradient is nearest to the slopes [rad/px], each
    (H, W).
    """
    phase: Float = fft.idctn(potential(slope_y, slope_x), norm='ortho')
    return phase


def _cells(picture: Float, pitch_px: int) -> Float:
    """Return the sums of a picture (N, N) over cells of so many pixels a side."""
    missing = -len(picture) % pitch_px
    count = (len(picture) + missing) // pitch_px
    padded = np.pad(picture, (0, missing)).reshape(count, pitch_px, count, pitch_px)
    sums: Float = padded.sum((1, 3))
    return sums


@lru_cache(maxsize=4)
def _laplacian(shape: tuple[int, ...]) -> Float:
    """Return the eigenvalues (H, W) of the Laplacian with free borders; -1 for the mean."""
    y, x = (2 * np.cos(np.pi * np.arange(n) / n) - 2 for n in shape)
    values: Float = (y[:, None] + x).astype(np.float32)
    values[0, 0] = -1
    values.flags.writeable = False
    return values


def _bands(shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the band of wavelengths of each cosine, (H, W); the mean is in the first."""
    y, x = (np.arange(n) / n for n in shape)
    wave = np.hypot(y[:, None], x) * max(shape)  # half waves across the longer side
    wave[0, 0] = 1
    made: NDArray[np.uint8] = np.floor(BANDS_PER_OCTAVE * np.log2(wave)).astype(np.uint8)
    return made


def mean_ramp(object_: Complex, weight: Float) -> tuple[float, float]:
    """Return the mean phase gradient (y, x) [rad/px] of an object (H, W) where there is light.

    With an unknown probe it is not in the data (PH-12): O e^{-i g r} under P e^{i g r} predicts the
    same patterns.
    """
    light = np.sqrt(weight[1:, 1:])
    own = object_[1:, 1:] * light
    y, x = ((own * other.conj() * light).sum() for other in (object_[:-1, 1:], object_[1:, :-1]))
    return float(np.angle(y)), float(np.angle(x))


def plane(shape: tuple[int, int], ramp: tuple[float, float]) -> Complex:
    """Return exp(i g r), (H, W), of a ramp g (y, x) [rad/px] that is zero in the middle."""
    y, x = (np.exp(1j * g * (np.arange(n) - (n - 1) / 2)) for n, g in zip(shape, ramp, strict=True))
    wave: Complex = (y[:, None] * x).astype(np.complex64)
    return wave


def first_phase(scan: Scan, probe: Complex) -> Float:
    """Return the phase (H, W) that the patterns' displacements against a flat object give, with the
    normalised probe (P, N, N).
    """
    field = np.fft.fft2(probe * flat_transmission(scan), norm='ortho')
    modulus = np.fft.fftshift(np.sqrt((np.abs(field) ** 2).sum(0))).astype(np.float32)
    good = (~scan.bad_pixels).astype(np.float32)
    slow = SlowPhase(windows(scan).corner_px, probe, scan.frame.shape)
    sums = np.empty((len(scan), SUMS), np.float32)
    for start in range(0, len(scan), BATCH):
        rows = slice(start, start + BATCH)
        miss = amplitudes(scan.patterns(rows))
        miss -= modulus
        miss *= good
        # One predicted pattern for all: its slopes are taken once.
        sums[rows] = _sums_of_one(modulus, miss, good)
    return slow.phase(sums, doubting=False)  # a first guess, judged by the patterns as a whole


def _sums_of_one(modulus: Float, miss: Float, good: Float) -> Float:
    """Return `ramp_sums` of one modulus (N, N) and many misses (B, N, N)."""
    own = ramp_sums(modulus[None], np.zeros_like(modulus)[None], good)
    slopes = np.zeros((2, *modulus.shape), np.float32)
    slopes[0, 1:-1] = modulus[2:] - modulus[:-2]
    slopes[1, :, 1:-1] = modulus[:, 2:] - modulus[:, :-2]
    # Not by a matrix product: NumPy's threads spin, and slow those of a framework for a while.
    first = np.einsum('bp,sp->bs', miss.reshape(len(miss), -1), slopes.reshape(2, -1))
    return np.concatenate([first, np.repeat(own[:, 2:], len(miss), 0)], 1)
