"""A probe moved by any fraction of a pixel, as a sum of a few fixed waves. NumPy only.

The Fourier shift theorem multiplies every frequency k [1/px] by exp(-2 pi i k d). For |d| <= 1/2
that is a fast series of Chebyshev polynomials in 2 d (Jacobi and Anger,
https://dlmf.nist.gov/10.12),

    exp(-2 pi i k d) = sum_n c_n (-i)^n J_n(pi k) T_n(2 d),    c_0 = 1, else 2,

and a product of two of them in two dimensions. So every moved probe is a sum, with real
coefficients, of the same few waves: one small matrix product for a batch instead of a transform for
each pattern, nothing to keep between sweeps, and the same matrix turned round gathers what the
patterns say of the probe.

Letters as in `scan`; K waves.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import fft
from scipy.special import jv

from .scan import Array, Complex, Float

TOLERANCE = 5e-5  # of the moved probe, where the series is worst
LARGEST_DEGREE = 9

Product = Callable[[Float, Float], Float]


class ShiftedProbe:
    """The waves of one probe (P, N, N). `sign` (N, N), if any, multiplies what is moved; `product`
    multiplies matrices, and may return read-only ones.
    """

    def __init__(
        self, probe: Complex, sign: Float | None = None, product: Product = np.matmul
    ) -> None:
        self.shape, self.sign, self.product = probe.shape, sign, product
        self._filters = _filters(probe.shape[-1], LARGEST_DEGREE)
        self.degree = _degree(probe, self._filters)
        self.orders = [(n, m) for n in range(self.degree + 1) for m in range(self.degree + 1 - n)]
        self.waves = np.empty((len(self.orders), *probe.shape), np.complex64)
        self.replace(probe)

    def replace(self, probe: Complex) -> None:
        """Take another probe of the same shape and about as fine."""
        spectrum = fft.fft2(probe.astype(np.complex64))
        filters = self._filters
        for wave, (n, m) in zip(self.waves, self.orders, strict=True):
            wave[:] = fft.ifft2(spectrum * (filters[n, :, None] * filters[m]), overwrite_x=True)
        if self.sign is not None:
            self.waves *= self.sign

    def coefficients(self, shift_px: Float) -> Float:
        """Return the share of every wave in probes moved by (B, 2) (y, x) [px], (B, K)."""
        angle = np.arccos(np.clip(2 * shift_px.astype(np.float64), -1, 1))
        y, x = (np.cos(angle[:, axis, None] * np.arange(self.degree + 1)) for axis in (0, 1))
        n, m = np.array(self.orders).T
        made: Float = np.ascontiguousarray(y[:, n] * x[:, m], np.float32)
        return made

    def moved(self, coefficients: Float) -> Complex:
        """Return the moved probes (B, P, N, N) for their coefficients (B, K)."""
        made = self.product(coefficients, _numbers(self.waves)).view(np.complex64)
        return made.reshape(-1, *self.shape)

    def gathered(self, coefficients: Float, waves: Complex) -> Complex:
        """Return the sum of waves (B, P, N, N), each moved back, (P, N, N): the adjoint of
        `moved`.
        """
        across = np.ascontiguousarray(coefficients.T)
        parts = self.product(across, _numbers(waves)).view(np.complex64).reshape(self.waves.shape)
        if self.sign is not None:
            parts = parts * self.sign
        spectrum = np.zeros(self.shape, np.complex64)
        filters = self._filters.conj()
        for part, (n, m) in zip(parts, self.orders, strict=True):
            spectrum += fft.fft2(part) * (filters[n, :, None] * filters[m])
        made: Complex = fft.ifft2(spectrum)
        return made


def _filters(side: int, degree: int) -> Complex:
    """Return c_n (-i)^n J_n(pi k) on the unshifted frequencies, (degree + 1, N)."""
    k = np.fft.fftfreq(side)
    n = np.arange(degree + 1)[:, None]
    made: Complex = (np.where(n, 2, 1) * (-1j) ** n * jv(n, math.pi * k)).astype(np.complex64)
    return made


def _degree(probe: Complex, filters: Complex) -> int:
    """Return the least degree whose series is exact enough for this probe in the corners."""
    power = (np.abs(np.fft.fft2(probe.astype(np.complex128))) ** 2).sum(0)
    k = np.fft.fftfreq(probe.shape[-1])
    half = np.exp(-1j * math.pi * k)
    limit = TOLERANCE**2 * power.sum()
    for degree in range(1, LARGEST_DEGREE):
        error = 0.0
        for sign in (1, -1):  # of the shift along x
            series = sum(
                filters[n, :, None] * sum(sign**m * filters[m] for m in range(degree + 1 - n))
                for n in range(degree + 1)
            )
            exact = half[:, None] * half**sign
            error = max(error, float((power * np.abs(series - exact) ** 2).sum()))
        if error <= limit:
            return degree
    return LARGEST_DEGREE


def _numbers(waves: Array) -> Float:
    """Return contiguous waves (B, ...) as a matrix of real numbers on the same memory."""
    return waves.reshape(len(waves), -1).view(np.float32)
