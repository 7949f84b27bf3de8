"""The far field on a CPU, batch by batch and in place: transforms by a framework, everything else
by NumPy in the same memory, for every back end.

Small operations of the frameworks take fresh memory, and their loops over complex numbers are not
vectorised: NumPy's take a third of the time or less. GPUs and gradients have the functions of
`backends.*.physics`.

The waves carry a chessboard of signs, which moves the zero frequency to the middle, where the
detector has it (the sides of patterns are even), so that counts are used as they are stored.
Letters as in `scan`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .geometry import Windows, windows
from .grouping import Rows
from .kernels import load
from .kernels.plain import moduli
from .result import ObjectImage
from .scaling import amplitudes
from .scan import Complex, Double, Float, Scan
from .shifted_probe import ShiftedProbe
from .transforms import Transforms, aligned

BATCH = 32


class FarField:
    """Waves of at most `size` patterns under one probe (P, N, N), and the memory for them."""

    def __init__(self, transforms: Transforms, scan: Scan, probe: Complex, size: int) -> None:
        self.transforms, self.scan, self.side = transforms, scan, scan.side_px
        self.background = float(scan.background * scan.side_px**2)  # as the fields are
        good = ~scan.bad_pixels
        self.good = None if good.all() else good.astype(np.float32, order='C')
        self.kernels = load()
        if self.kernels.product is not None:
            self.transforms = replace(transforms, product=self.kernels.product)
        self.shifted = ShiftedProbe(probe, self.transforms, signed=True)
        self._remember(size)

    def beside(self, size: int) -> FarField:
        """Return another of the same probe, for another thread."""
        other = copy(self)
        other._remember(size)
        return other

    def _remember(self, size: int) -> None:
        self.waves, self.probes = (aligned((size, *self.shifted.shape)) for _ in range(2))
        self.modulus = np.empty((size, 1, self.side, self.side), np.float32)
        self.miss = np.empty_like(self.modulus)

    def measured(self, rows: Rows) -> Float:
        """Return the amplitudes times N, (B, N, N), of patterns; zero on bad pixels."""
        found = np.ascontiguousarray(amplitudes(self.scan.patterns(rows)))  # of flipped views too
        found *= np.float32(self.side)
        if self.good is not None:
            found *= self.good
        return found

    def light(self, coefficients: Float) -> Complex:
        """Return the probes (B, P, N, N), with their signs, for coefficients (B, K); the next call
        overwrites them.
        """
        return self.shifted.moved(coefficients, self.probes[: len(coefficients)])

    def field(self, object_: Complex, corner_px: NDArray[np.int64], probes: Complex) -> Complex:
        """Return N times the far field (B, P, N, N) of the windows at `corner_px` (B, 2)."""
        waves = self.waves[: len(corner_px)]
        self.kernels.illuminate(object_, corner_px, probes, waves)
        return self.transforms.fft2(waves)

    def moduli(self, field: Complex) -> Float:
        """Return N times the root of the expected counts, (B, P, N, N) -> (B, 1, N, N)."""
        return moduli(field, self.modulus[: len(field)], self.background)

    def ramps(self, modulus: Float, miss: Float) -> Float:
        """Return the `ramp_sums` (B, 5) of moduli and misses (B, 1, N, N)."""
        return self.kernels.ramps(modulus, miss, self.good)


class Judge:
    """Tells how badly objects explain the patterns of a scan under one probe (P, N, N), whose
    relative intensities are (M,) or the same for all.
    """

    def __init__(
        self,
        transforms: Transforms,
        scan: Scan,
        probe: Complex,
        intensities: Double | None = None,
    ) -> None:
        self._scan, self._far = scan, FarField(transforms, scan, probe, BATCH)
        self._intensities = np.ones(len(scan)) if intensities is None else intensities
        self._lit = self._intensities > 0
        shape = BATCH, len(probe), scan.side_px
        self._corrector = self._far.kernels.corrector(
            shape, self._far.good, transforms.threads(), self._far.background
        )

    def errors(self, images: Sequence[ObjectImage], rows: Rows) -> list[float]:
        """Return sum(|F| - sqrt(I))^2 / sum(I) over the good pixels of some patterns, as a steady
        beam would have made them, without those of no intensity, of each of several images in one
        frame.
        """
        place, missed = windows(self._scan, images[0].frame), [0.0] * len(images)
        rows = rows[self._lit[rows]]
        objects = [np.ascontiguousarray(image.object) for image in images]
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            amplitude = self._far.measured(part)
            amplitude /= np.sqrt(self._intensities[part, None, None], dtype=np.float32)
            if self._corrector is not None:
                amplitude = self._corrector.turned(amplitude)
            for number, object_ in enumerate(objects):
                missed[number] += self._missed(object_, place, part, amplitude)
        counts = float((self._scan.totals[rows] / self._intensities[rows]).sum())
        scale = self._scan.side_px**2 * max(counts, 1)
        return [found / scale for found in missed]

    def pattern(self, image: ObjectImage, row: int) -> Float:
        """Return the pattern of a row in counts, (N, N)."""
        found: Float = self.patterns(image, np.array([row]))[0]
        return found

    def patterns(self, image: ObjectImage, rows: Rows) -> Float:
        """Return the patterns of at most BATCH rows in counts, (B, N, N)."""
        place, object_ = windows(self._scan, image.frame), np.ascontiguousarray(image.object)
        found = self._moduli(object_, place, rows)[:, 0]
        found = (found / np.float32(self._scan.side_px)) ** 2
        found *= self._intensities[rows, None, None]
        return found

    def _moduli(self, object_: Complex, place: Windows, part: Rows) -> Float:
        far = self._far
        probes = far.light(far.shifted.coefficients(place.shift_px[part]))
        return far.moduli(far.field(object_, place.corner_px[part], probes))

    def _missed(self, object_: Complex, place: Windows, part: Rows, amplitude: Float) -> float:
        far = self._far
        if self._corrector is not None:
            moved = far.shifted.coefficients(place.shift_px[part]), far.shifted.waves
            return self._corrector.misfit(object_, place.corner_px[part], moved, amplitude)
        found = self._moduli(object_, place, part)
        if far.good is not None:
            found *= far.good
        found -= amplitude[:, None]
        flat = found.reshape(-1)
        return float(np.dot(flat, flat))


def predict(
    transforms: Transforms,
    scan: Scan,
    image: ObjectImage,
    probe: Complex,
    rows: Rows | None = None,
    intensities: Double | None = None,
) -> tuple[float, Callable[[int], Float]]:
    """Return sum(|F| - sqrt(I))^2 / sum(I) over the good pixels of some patterns, all by default,
    and a function that predicts the pattern of a row in counts, (N, N). The beam's relative
    intensities are (M,) or the same for all.
    """
    judge = Judge(transforms, scan, probe, intensities)
    (error,) = judge.errors([image], np.arange(len(scan)) if rows is None else rows)
    return error, partial(judge.pattern, image)
