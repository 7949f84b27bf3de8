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
from typing import Protocol

import numpy as np
from scipy.special import jv

from .kernels.corrector import Filters
from .scan import Array, Complex, Float
from .transforms import PLAIN, Transforms, aligned

TOLERANCE = 5e-5  # of the moved probe, where the series is worst
LARGEST_DEGREE = 9


class Filter(Protocol):
    """What filters probes without a framework, see `kernels.corrector`."""

    def filtered(self, probe: Complex, filters: Filters, out: Complex) -> None: ...

    def gathered(self, waves: Complex, filters: Filters) -> Complex: ...


class ShiftedProbe:
    """The waves of one probe (P, N, N). `signed` gives what is moved a chessboard of signs, N even:
    it moves the zero frequency of the transform to the middle.

    filters  what makes the waves
    """

    def __init__(
        self, probe: Complex, transforms: Transforms = PLAIN, *, signed: bool = False
    ) -> None:
        self.shape, self.transforms, side = probe.shape, transforms, probe.shape[-1]
        filters = _filters(side, LARGEST_DEGREE)
        self.degree = _degree(probe, filters)
        # The terms of low degree first: where few will do, they are the first.
        orders = [(n - m, m) for n in range(self.degree + 1) for m in range(n + 1)]
        self.sign: Float | None = None
        if signed:
            place = np.arange(side)
            self.sign = np.where((place[:, None] + place) % 2, -1, 1).astype(np.float32)
            filters = np.fft.fftshift(filters, axes=1)  # to where the signs move the spectrum
        self.filters = Filters(filters[: self.degree + 1], np.array(orders, np.int64))
        n, m = self.filters.orders.T
        self._filters = (filters[n, :, None] * filters[m, None])[:, None]
        self._spectra = aligned((len(orders), *self.shape))
        self.waves = aligned(self._spectra.shape)
        self._replace(self.signed(probe), PLAIN)  # by SciPy: the same numbers in every back end

    def few(self, degree: int) -> int:
        """Return how many waves are of at most this degree."""
        return min((degree + 1) * (degree + 2) // 2, len(self.filters.orders))

    def signed(self, probe: Complex) -> Complex:
        """Return a probe with the signs that what is moved has, or without them again."""
        own = probe.astype(np.complex64)
        if self.sign is not None:
            own *= self.sign
        return own

    def replace(self, probe: Complex, by: Filter | None = None) -> None:
        """Take another probe of the same shape and about as fine."""
        own = self.signed(probe)
        if by is None:
            self._replace(own, self.transforms)
        else:
            by.filtered(own, self.filters, self.waves)

    def _replace(self, own: Complex, transforms: Transforms) -> None:
        room = aligned((1, *self.shape))
        room[0] = own
        np.multiply(transforms.fft2(room), self._filters, out=self._spectra)
        self.waves[:] = transforms.ifft2(self._spectra)

    def coefficients(self, shift_px: Float) -> Float:
        """Return the share of every wave in probes moved by (B, 2) (y, x) [px], (B, K)."""
        angle = np.arccos(np.clip(2 * shift_px.astype(np.float64), -1, 1))
        y, x = (np.cos(angle[:, axis, None] * np.arange(self.degree + 1)) for axis in (0, 1))
        n, m = self.filters.orders.T
        made: Float = np.ascontiguousarray(y[:, n] * x[:, m], np.float32)
        return made

    def moved(self, coefficients: Float, out: Complex | None = None) -> Complex:
        """Return the moved probes (B, P, N, N) for their coefficients (B, K); `out` has room for
        them.
        """
        room = None if out is None else _numbers(out)
        made = self.transforms.product(coefficients, _numbers(self.waves), room).view(np.complex64)
        return made.reshape(-1, *self.shape)

    def gathered(self, coefficients: Float, waves: Complex) -> Complex:
        """Return the sum of waves (B, P, N, N), each moved back, (P, N, N): the adjoint of
        `moved`.
        """
        return self.collected(self.shares(coefficients, waves))

    def shares(self, coefficients: Float, waves: Complex, degree: int = LARGEST_DEGREE) -> Complex:
        """Return what `collected` makes the sum of, (K, P, N, N), to some degree; of several
        groups, added.
        """
        across = np.ascontiguousarray(coefficients[:, : self.few(degree)].T)
        made = self.transforms.product(across, _numbers(waves)).view(np.complex64)
        return made.reshape(-1, *self.shape)

    def collected(self, shares: Complex, by: Filter | None = None) -> Complex:
        """Return the sum, (P, N, N), of the waves that gave these `shares`."""
        if by is None:
            own = aligned(shares.shape)
            own[:] = shares
            spectrum = aligned((1, *self.shape))
            back = self._filters[: len(own)].conj()
            np.sum(self.transforms.fft2(own) * back, axis=0, out=spectrum[0])
            made: Complex = self.transforms.ifft2(spectrum)[0]
        else:
            made = by.gathered(shares, self.filters)
        return made if self.sign is None else made * self.sign


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
