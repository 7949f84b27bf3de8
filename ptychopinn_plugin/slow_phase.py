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

A slope of the amplitude moves patterns too where the wavefront is curved, as one side of the beam,
which looks elsewhere, gets brighter: a Gaussian beam out of focus by as much as a phase of 5 or 10
times the logarithm of the amplitude. That is a gradient, which no curl tells. But the counts of
every pattern tell the amplitude under it, so the first phase and the first sweeps' go without what
that feigns.

Letters as in `scan`; the modulus and the miss may carry any common factor.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
SEEN = 0.9  # of the light, at least: with less, counts tell what is scattered past a beam stop
CHANCE = 2.0  # times what two halves of the patterns differ by is not believed
LEAST_FEIGNED_RAD = 2.0  # by a logarithm of the amplitude: where it is less, sweeps bear it
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
        self,
        corner_px: NDArray[np.int64],
        probe: Complex,
        shape: tuple[int, int],
        good: Float | None = None,
    ) -> None:
        """Take a probe (P, N, N), and good (N, N) as `ramp_sums` does."""
        self.shape, self.side = shape, probe.shape[-1]
        power = (np.abs(probe) ** 2).sum(0)
        width_px = float(np.sqrt(power.sum() ** 2 / (power**2).sum()))
        self.pitch_px = max(1, int(width_px / CELLS))
        y, x = (fft.next_fast_len(-(-n // self.pitch_px) + 1, True) for n in shape)
        self._grid = y, x
        self._band = _bands(self._grid)
        cells = _cells((power / power.max()).astype(np.float32), self.pitch_px)
        self._power = fft.rfft2(cells, self._grid)
        self.tells = _tells(probe, good)
        self.feigned_px = _feigned(probe, good) if self.tells else None
        self.move(corner_px)

    def move(self, corner_px: NDArray[np.int64]) -> None:
        """Put the patterns elsewhere, (M, 2)."""
        # Between cells a pattern is shared among the four that are next.
        (y, x), (down, right) = (v.T for v in np.divmod(corner_px, self.pitch_px))
        near = [(y + i) * self._grid[1] + x + j for i in (0, 1) for j in (0, 1)]
        sides = [np.stack([self.pitch_px - r, r]) / self.pitch_px for r in (down, right)]
        self._place = np.concatenate(near)
        self._part = np.einsum('im,jm->ijm', *sides).reshape(4, -1)

    def phase(self, sums: Array, brighter: Double | None = None, *, doubting: bool = True) -> Float:
        """Return the phase (H, W) [rad] to add to the object, for the `ramp_sums` (M, 5), less what
        an amplitude feigns that is to become `brighter`. Without `doubting` all of the
        displacements are taken for the object's.
        """
        known = self.ramps(sums)[1]
        light = self._light(known)
        field = self._slopes(sums, known, light, brighter)
        waves = potential(field[0], field[1])
        if doubting:
            waves *= self._believed(field[0], field[1], light > JUDGED * float(light.max()))
        return self._refined(waves)

    def brighter(self, counts: Double, object_: Complex | None = None) -> Double | None:
        """Return by how much the logarithm of the amplitude under each pattern is to grow, (M,),
        but for their mean, for the patterns to have these counts (M,); None where they do not tell.
        Without an object (H, W) it is flat.
        """
        if self.feigned_px is None:
            return None
        found: Double = np.log(np.maximum(counts, 1))
        if object_ is not None:
            power = np.zeros(self._grid, np.float32)
            cells = _cells(object_.real**2 + object_.imag**2, self.pitch_px)
            power[: len(cells), : cells.shape[1]] = cells
            found -= np.log(np.maximum(self._under(power), 1e-30))
        found -= found.mean()
        return found / 2

    def shared(self, values: Double, of: Array) -> Double:
        """Return what the patterns that overlap with each one, and itself, have of values (M,) on
        average, by the light on common ground, (M,): those `of` which there is one.
        """
        return self._under(self._spread(values * of) / self._light(of.astype(np.float64)))

    def _slopes(self, sums: Array, known: Double, light: Float, brighter: Double | None) -> Float:
        """Return the missing slopes of the phase on the grid, (2, ...) [rad per cell]; see
        `phase`.
        """
        if brighter is None or self.feigned_px is None:
            return self._field(self.ramps(sums)[0], known, light)
        y, x = np.gradient(self._logarithm(known, brighter, light))
        slopes = np.stack([y, x])  # per cell
        feigned = self.feigned_px * (2 * np.pi / self.side)
        # Without it patterns lie nearer to their predictions, and fewer of them too far.
        own = np.stack([self._under(s) for s in slopes], 1) / self.pitch_px
        ramps = self.ramps(sums, own @ self.feigned_px)[0] + own @ feigned
        field = self._field(ramps, known, light)
        field -= np.einsum('iyx,ij->jyx', slopes, feigned.astype(np.float32))
        return field

    def _logarithm(self, known: Double, brighter: Double, light: Float) -> Float:
        """Return `brighter` on the grid, as far as two halves of the patterns agree: counts that
        jump from one to the next are no object's.
        """
        lit = light > JUDGED * float(light.max())
        halves = []
        for k in (0, 1):
            part = known.copy()
            part[k::2] = 0
            halves.append(self._spread(part * brighter) / self._light(part))
        mean, apart = (halves[0] + halves[1]) / 2, (halves[0] - halves[1]) / 2
        both, chance = (
            self._by_band(fft.dctn((v - v[lit].mean()) * lit, norm='ortho')) for v in (mean, apart)
        )
        share = np.clip(1 - CHANCE * chance / np.maximum(both, 1e-30), 0, 1).astype(np.float32)
        logarithm: Float = fft.idctn(fft.dctn(mean, norm='ortho') * share[self._band], norm='ortho')
        return logarithm

    def _light(self, known: Double) -> Float:
        """Return how well the ramps on the grid are known, for those of the patterns (M,)."""
        light = np.maximum(self._spread(known), 0)
        return light + np.float32(max(UNLIT * float(light.max()), 1e-30))

    def _field(self, ramps: Double, known: Double, light: Float) -> Float:
        """Return ramps (M, 2), known so well (M,), on the grid, (2, ...) [rad per cell]."""
        field = np.stack([self._spread(known * ramps[:, k]) for k in (0, 1)])
        return field / light * np.float32(self.pitch_px)

    def _under(self, values: Float) -> Double:
        """Return what the beam of each pattern sees of values on the grid, (M,)."""
        seen = fft.irfft2(fft.rfft2(values) * self._power.conj(), self._grid).ravel()[self._place]
        shares: Double = (seen.reshape(4, -1) * self._part).sum(0)
        return shares / float(self._power[0, 0].real)

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

    def ramps(self, sums: Array, away_px: Double | float = 0.0) -> tuple[Double, Double]:
        """Return the missing ramps (M, 2) (y, x) [rad/px] and how well each is known (M,), of
        patterns that something else moves `away_px` (M, 2).
        """
        sums = sums.astype(np.float64)
        _, _, yy, xx, yx = sums.T
        known = np.sqrt(np.maximum(yy * xx - yx**2, 0))
        move = _moves(sums) - away_px
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


def _moves(sums: Double) -> Double:
    """Return how far patterns with such `ramp_sums` (M, 5) lie from their predictions [px],
    (M, 2).
    """
    vy, vx, yy, xx, yx = sums.T
    damping = DAMPING * (yy + xx) / 2 + 1e-30
    yy, xx = yy + damping, xx + damping
    slope = np.stack([xx * vy - yx * vx, yy * vx - yx * vy], 1) / (yy * xx - yx**2)[:, None]
    moves: Double = -2 * slope
    return moves


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


def _cells(picture: Float, pitch_px: int) -> Float:
    """Return the sums of a picture (H, W) over cells of so many pixels a side."""
    height, width = (-(-n // pitch_px) for n in picture.shape)
    padded = np.zeros((height * pitch_px, width * pitch_px), picture.dtype)
    padded[: picture.shape[0], : picture.shape[1]] = picture
    sums: Float = padded.reshape(height, pitch_px, width, pitch_px).sum((1, 3))
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


def first_phase(scan: Scan, probe: Complex, threads: int = 1) -> Float:
    """Return the phase (H, W) that the patterns' displacements against a flat object give, with the
    normalised probe (P, N, N); less what their counts tell that the amplitude feigns.
    """
    probe = probe * flat_transmission(scan)
    modulus, good = _flat_modulus(probe), (~scan.bad_pixels).astype(np.float32)
    if scan.background:
        modulus = np.sqrt(modulus**2 + np.float32(scan.background))
    slow = SlowPhase(windows(scan).corner_px, probe, scan.frame.shape, good)
    sums, of = np.empty((len(scan), SUMS), np.float32), _sums_of_one(modulus, good)

    def displacements(start: int) -> None:
        rows = slice(start, start + BATCH)
        miss = amplitudes(scan.patterns(rows))
        miss -= modulus
        miss *= good
        sums[rows] = of(miss)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(displacements, range(0, len(scan), BATCH)))
    return slow.phase(sums, slow.brighter(scan.signal), doubting=False)  # judged as a whole


def _flat_modulus(probe: Complex) -> Float:
    """Return the modulus (N, N) of the pattern of a flat object under a probe (P, N, N)."""
    modulus: Float = np.sqrt((np.abs(_far(probe)) ** 2).sum(0)).astype(np.float32)
    return modulus


def _tells(probe: Complex, good: Float | None) -> bool:
    """Return whether counts tell of the object under a probe (P, N, N): bad pixels hide little of
    the light.
    """
    power = _flat_modulus(probe) ** 2
    return good is None or float((power * good).sum()) >= SEEN * float(power.sum())


def _feigned(probe: Complex, good: Float | None) -> Double | None:
    """Return how far patterns move by a slope of the logarithm of the amplitude, 1 per pixel along
    y and x, [px], (2, 2); None where that is little; probe (P, N, N).
    """
    modulus = _flat_modulus(probe)
    good = np.ones_like(modulus) if good is None else good
    power, r = (np.abs(probe) ** 2).sum(0), np.arange(probe.shape[-1])
    y, x = (r - (power.sum(k) * r).sum() / power.sum() for k in (1, 0))
    field = _far(probe)
    changes = [(field.conj() * _far(probe * side)).real.sum(0) for side in (y[:, None], x)]
    miss = np.stack(changes) / np.maximum(modulus, 1e-12) * good
    moves = _moves(_sums_of_one(modulus, good)(miss.astype(np.float32)).astype(np.float64))
    return moves if np.abs(moves).max() > LEAST_FEIGNED_RAD * len(r) / (2 * np.pi) else None


def _far(probe: Complex) -> Complex:
    """Return the far field (P, N, N) of a flat object."""
    field: Complex = fft.fftshift(fft.fft2(probe, norm='ortho'), (-2, -1))
    return field


def _sums_of_one(modulus: Float, good: Float) -> Callable[[Float], Float]:
    """Return what gives the `ramp_sums` of one modulus (N, N) and many misses (B, N, N)."""
    own = ramp_sums(modulus[None], np.zeros_like(modulus)[None], good)[:, 2:]
    slopes = np.zeros((2, *modulus.shape), np.float32)
    slopes[0, 1:-1] = modulus[2:] - modulus[:-2]
    slopes[1, :, 1:-1] = modulus[:, 2:] - modulus[:, :-2]

    def of(miss: Float) -> Float:
        # Not by a matrix product: NumPy's threads spin, and slow those of a framework for a while.
        first = np.einsum('bp,sp->bs', miss.reshape(len(miss), -1), slopes.reshape(2, -1))
        return np.concatenate([first, np.repeat(own, len(miss), 0)], 1)

    return of
