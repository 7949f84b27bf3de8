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

Only the part of the canvas that gets light is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .canvas_plan import FOLD, INPUTS, MULTIPLE_PX
from .light import BRIGHT, Light
from .scaling import noise_loss
from .scan import Complex, Float, Scan
from .smoothing import planes, smoothed, wave

MEAN_PX, NOISE_PX = 6.0, 8.0
# Least square of the noise: of an object that is exact, and times the photons per pixel.
LEAST_NOISE, LEAST_PHOTON_NOISE = 1e-6, 0.05
DARK = 0.03  # of the brightest pixel: from here to `BRIGHT` the answer counts more and more
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
        made = np.empty((INPUTS, *fine.shape[1:]), np.float32)
        made[: len(fine)] = fine
        own = made[len(fine) : len(fine) + len(self.coarse)]
        fold(self.coarse).reshape(len(self.coarse), FOLD**2, *fine.shape[1:]).mean(1, out=own)
        made[len(fine) + len(self.coarse) :] = self.state[:, None, None]
        return made


class Canvas:
    """What is known of a scan's canvas before the first sweep, under its light.

    shape  (H, W) of the object
    part   rows and columns that hold all that gets light: the rest of what is here is of this part
    """

    def __init__(self, scan: Scan, light: Light, photons_per_count: float = 1.0) -> None:
        self.shape = scan.frame.shape
        self.part = _lit(light.relative > DARK)
        photons = light.photons[self.part] * np.float32(photons_per_count)
        views = light.views[self.part]
        self.light = np.clip(photons + 1e-2, 10**-2.1, 10**7.5)
        self.relative = np.ascontiguousarray(light.relative[self.part])
        self.trust = np.clip((self.relative - DARK) / (BRIGHT - DARK), 0, 1)
        self._least_noise = LEAST_PHOTON_NOISE / self.light + np.float32(LEAST_NOISE)
        self._per_light = 1 / (smoothed(self.relative[None], MEAN_PX)[0] + np.float32(1e-3))
        self._known = np.stack([np.log10(self.light) / 3 - 1, np.log10(views)])
        self._noise_loss = noise_loss(scan) / photons_per_count

    def view(
        self, object_: Complex, last: Complex, *, loss: float, pace: float, number: int
    ) -> View:
        """Return what is seen of an object (H, W) that was `last` a sweep ago.

        `loss` is that of sweep `number`, which went at `pace`; see `result.Sweep`.
        """
        now, before = object_[self.part], last[self.part]
        gauge = unit(wave(smoothed(planes(now) * self.relative, MEAN_PX)))
        back = gauge.conj()
        seen = planes(now * back)
        mean = self._mean(seen)
        noise = self.noise(seen)
        fine = np.concatenate([seen - mean, planes((now - before) * back)])
        fine *= 1 / noise
        coarse = np.stack([*self._known, np.log10(noise) / 1.5 + 1, np.hypot(*mean)])
        misfit = np.log10(np.clip(loss / self._noise_loss, 0.3, 1e3))
        return View(
            np.clip(fine, -LARGEST, LARGEST, out=fine),
            coarse,
            np.array([misfit, pace, np.log2(number) / 4], np.float32),
            noise * gauge,
        )

    def noise(self, seen: Float) -> Float:
        """Return one sigma (h, w) of what looks like noise in the real and the imaginary part of
        a picture, (2, h, w).
        """
        rows = seen[:, :-1] - seen[:, 1:]
        diagonal = np.zeros_like(seen[0])
        diagonal[:-1, :-1] = ((rows[:, :, :-1] - rows[:, :, 1:]) ** 2).sum(0) / 4
        noise: Float = np.sqrt(smoothed(diagonal[None], NOISE_PX)[0] + self._least_noise)
        return noise

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
        height, width = self.trust.shape
        missing = unfold(run(view.inputs()))[:, :height, :width] * self.trust
        if share < 1:
            missing *= np.float32(share) * np.minimum(1, np.float32(FEW_PHOTONS) / self.light)
        made = object_.astype(np.complex64)
        made[self.part] += wave(missing) * view.unit
        return made

    def _mean(self, seen: Float) -> Float:
        mean: Float = smoothed(seen * self.relative, MEAN_PX) * self._per_light
        return mean


def _lit(trusted: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the smallest part of a canvas that holds all that is trusted, its sides multiples of
    `MULTIPLE_PX` where the canvas has room.
    """
    found = []
    for axis in (1, 0):
        lit = np.flatnonzero(trusted.any(axis))
        size, first, last = trusted.shape[1 - axis], int(lit[0]), int(lit[-1]) + 1
        wanted = min(size, -(-(last - first) // MULTIPLE_PX) * MULTIPLE_PX)
        first = min(first, size - wanted)
        found.append(slice(first, first + wanted))
    return found[0], found[1]


def unit(field: Complex) -> Complex:
    """Return the phase factor of a field, less than one where the field nearly vanishes."""
    modulus = np.abs(field)
    made: Complex = field * (1 / (modulus + np.float32(max(1e-3 * float(modulus.max()), 1e-30))))
    return made


def fold(maps: Float) -> Float:
    """Return maps (C, H, W) with neighbouring pixels as channels (channel, row, column), padded for
    the network: (4 C, H / 2, W / 2).
    """
    missing = [(0, 0), *((0, -n % MULTIPLE_PX) for n in maps.shape[1:])]
    if any(n for _, n in missing):
        maps = np.pad(maps, missing, mode='edge')
    channels, height, width = maps.shape
    cut = maps.reshape(channels, height // FOLD, FOLD, width // FOLD, FOLD)
    return cut.transpose(0, 2, 4, 1, 3).reshape(-1, height // FOLD, width // FOLD)


def unfold(maps: Float) -> Float:
    """Undo `fold`, but for the padding."""
    channels, height, width = maps.shape
    cut = maps.reshape(channels // FOLD**2, FOLD, FOLD, height, width)
    return cut.transpose(0, 3, 1, 4, 2).reshape(-1, height * FOLD, width * FOLD)
