"""What the network of `canvas_plan` sees of a reconstruction between two sweeps, and how its answer
changes the object. NumPy only; every back end runs the convolutions between the two.

The object is seen in a local gauge, divided by the phase of its own mean over `MEAN_PX`, less that
mean and in units of the local noise: a global phase, a ramp, slow waves, which the sweeps treat
better, and the photon count vanish from the picture, and the answer turns and grows with them.
The noise is judged by the finest diagonal detail over `NOISE_PX`, which real objects have least of.
Inputs per pixel of half resolution, (INPUTS, H / 2, W / 2):

    0 - 15   object and its change by the last sweep, real and imaginary part, of 2 x 2 pixels
    16       light: photons per pixel over the whole scan (logarithmic)
    17       views: by how many patterns a pixel is seen well (logarithmic)
    18, 19   the noise (logarithmic) and the modulus of the mean
    20 - 22  the same everywhere: misfit of the last sweep over that of photon noise (logarithmic),
             its pace, its number (logarithmic)

The answer, (OUTPUTS, H / 2, W / 2), is what is missing of the object in the same gauge and units,
real and imaginary part of 2 x 2 pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import fft

from .canvas_plan import FOLD, MULTIPLE_PX
from .light import BRIGHT, Light
from .scan import Array, Complex, Double, Float, Scan

MEAN_PX, NOISE_PX = 6.0, 8.0
# Least square of the noise: of an object that is exact, and times the photons per pixel.
LEAST_NOISE, LEAST_PHOTON_NOISE = 1e-6, 0.05
DARK = 0.03  # of the brightest pixel: from here to `BRIGHT` the answer counts more and more
ROOT_NOISE = 0.25  # the variance of a square root of a Poisson count
FEW_PHOTONS = 5000.0  # per pixel over the scan
LARGEST = 100.0  # of the inputs in units of the noise


@dataclass(frozen=True, eq=False)
class View:
    """What is seen of an object.

    fine    (4, H, W) object and change, real and imaginary part
    coarse  (4, H, W) light, views, noise and mean
    state   (3,) misfit, pace and number of the sweep
    unit    (H, W) complex64 unit of the network's answer: the noise in the gauge
    """

    fine: Float
    coarse: Float
    state: Float
    unit: Complex

    def inputs(self) -> Float:
        """Return what the network takes, (INPUTS, h, w); the sides are padded where need be."""
        fine = fold(self.fine)
        coarse = fold(self.coarse).reshape(len(self.coarse), FOLD**2, *fine.shape[1:]).mean(1)
        same = np.broadcast_to(self.state[:, None, None], (len(self.state), *fine.shape[1:]))
        return np.concatenate([fine, coarse, same])


class Canvas:
    """What is known of a scan's canvas before the first sweep, under its light."""

    def __init__(self, scan: Scan, light: Light) -> None:
        self.shape = scan.frame.shape
        self.light = np.clip(light.photons + 1e-2, 10**-2.1, 10**7.5)
        self.relative = light.relative
        self.trust = np.clip((self.relative - DARK) / (BRIGHT - DARK), 0, 1)
        self._mean_light = smoothed(self.relative, MEAN_PX) + np.float32(1e-3)
        self._known = np.stack([np.log10(self.light) / 3 - 1, np.log10(light.views)])
        self._root_noise = ROOT_NOISE * len(scan) * float((~scan.bad_pixels).sum())
        self._counts = float(scan.totals.sum())

    def view(
        self, object_: Complex, last: Complex, *, loss: float, pace: float, number: int
    ) -> View:
        """Return what is seen of an object (H, W) that was `last` a sweep ago.

        `loss` is that of sweep `number`, which went at `pace`; see `result.Sweep`.
        """
        gauge = unit(smoothed(object_ * self.relative, MEAN_PX))
        seen = object_ * gauge.conj()
        mean = smoothed(seen * self.relative, MEAN_PX) / self._mean_light
        noise = self.noise(seen)
        detail, change = (seen - mean) / noise, (object_ - last) * gauge.conj() / noise
        fine = np.stack([detail.real, detail.imag, change.real, change.imag])
        coarse = np.stack([*self._known, np.log10(noise) / 1.5 + 1, np.abs(mean)])
        misfit = np.log10(np.clip(loss * self._counts / self._root_noise, 0.3, 1e3))
        return View(
            np.clip(fine, -LARGEST, LARGEST).astype(np.float32),
            coarse.astype(np.float32),
            np.array([misfit, pace, np.log2(number) / 4], np.float32),
            noise * gauge,
        )

    def noise(self, seen: Complex) -> Float:
        """Return one sigma (H, W) of what looks like noise in a complex picture (H, W)."""
        diagonal = np.zeros(seen.shape, np.float32)
        rows = seen[:-1] - seen[1:]
        diagonal[:-1, :-1] = np.abs((rows[:, :-1] - rows[:, 1:]) / 2) ** 2
        variance = np.maximum(smoothed(diagonal, NOISE_PX), 0)
        made: Float = np.sqrt(variance + LEAST_PHOTON_NOISE / self.light + LEAST_NOISE)
        return made.astype(np.float32)

    def corrected(
        self,
        run: Callable[[Float], Float],
        object_: Complex,
        last: Complex,
        *,
        loss: float,
        pace: float,
        number: int,
        share: float = 1.0,
    ) -> Complex:
        """Return the object (H, W) with a share of what the network `run` finds missing, less of it
        where there is little light, and of a share below one less where photons are so many that
        there is no noise to take off; see `view`.
        """
        view = self.view(object_, last, loss=loss, pace=pace, number=number)
        height, width = self.shape
        real, imag = unfold(run(view.inputs()))[:, :height, :width] * self.trust
        if share < 1:
            share = share * np.minimum(1, FEW_PHOTONS / self.light).astype(np.float32)
        real, imag = real * share, imag * share
        made: Complex = (object_ + (real + 1j * imag) * view.unit).astype(np.complex64)
        return made


def smoothed(wave: Array, sigma_px: float) -> Array:
    """Return a wave (H, W), real or complex, convolved with a Gaussian; outside it is zero."""
    height, width = wave.shape
    margin, real = int(3 * sigma_px), wave.dtype.kind == 'f'
    there, back, kind = (
        (fft.rfft2, fft.irfft2, np.float32) if real else (fft.fft2, fft.ifft2, np.complex64)
    )
    size = tuple(fft.next_fast_len(n + margin, real) for n in (height, width))
    y, x = fft.fftfreq(size[0]), (fft.rfftfreq if real else fft.fftfreq)(size[1])
    kernel = _gaussian(y, sigma_px)[:, None] * _gaussian(x, sigma_px)
    spectrum = there(wave.astype(kind, copy=False), size)
    spectrum *= kernel
    made: Array = back(spectrum, size)[:height, :width]
    return made


def _gaussian(frequency: Double, sigma_px: float) -> Float:
    """Return the transform of a Gaussian at frequencies [1/px]."""
    made: Float = np.exp(-2 * (np.pi * sigma_px * frequency) ** 2).astype(np.float32)
    return made


def unit(wave: Complex) -> Complex:
    """Return the phase factor of a wave, less than one where the wave nearly vanishes."""
    modulus = np.abs(wave)
    made: Complex = (wave / (modulus + max(1e-3 * float(modulus.max()), 1e-30))).astype(
        np.complex64
    )
    return made


def fold(maps: Float) -> Float:
    """Return maps (C, H, W) with neighbouring pixels as channels (channel, row, column), padded for
    the network: (4 C, H / 2, W / 2).
    """
    missing = [(0, 0), *((0, -n % MULTIPLE_PX) for n in maps.shape[1:])]
    maps = np.pad(maps, missing, mode='edge')
    channels, height, width = maps.shape
    cut = maps.reshape(channels, height // FOLD, FOLD, width // FOLD, FOLD)
    return cut.transpose(0, 2, 4, 1, 3).reshape(-1, height // FOLD, width // FOLD)


def unfold(maps: Float) -> Float:
    """Undo `fold`, but for the padding."""
    channels, height, width = maps.shape
    cut = maps.reshape(channels // FOLD**2, FOLD, FOLD, height, width)
    return cut.transpose(0, 3, 1, 4, 2).reshape(-1, height * FOLD, width * FOLD)
