"""Small simulated scans as the host hands them over, with the object that they were made from.

NumPy alone, and the host's geometry: `x_px = (x_m - centre_x_m) / width_m + (W - 1) / 2`, the
probe's middle at `(N - 1) / 2`, zero frequency of a pattern at `[N // 2, N // 2]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptychodus.api.geometry import PixelGeometry
from ptychodus.api.object import Object, ObjectCenter
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.probe_positions import ProbePosition, ProbePositionSequence
from ptychodus.api.product import Product, ProductMetadata
from ptychodus.api.reconstruct import ReconstructInput

Array = NDArray[Any]

DISTANCE_M, DETECTOR_PIXEL_M, ENERGY_EV = 2.0, 75e-6, 8000.0
WAVELENGTH_M = 1.23984198e-6 / ENERGY_EV
MARGIN_PX = 2.0  # between the outermost patches and the edge of the object
# Every release of the host has some of these.
METADATA = {
    'name': 'contract', 'comments': 'a small simulated scan', 'detector_distance_m': DISTANCE_M,
    'photon_energy_eV': ENERGY_EV, 'probe_energy_eV': ENERGY_EV, 'probe_photon_count': 1e5,
    'exposure_time_s': 0.25, 'mass_attenuation_m2_per_kg': 0.5, 'mass_attenuation_m2_kg': 0.5,
    'tomography_angle_deg': 12.5, 'far_field': True,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Example:
    """An input whose object is a flat guess, and the true object (H, W) in the same frame."""

    parameters: ReconstructInput
    truth: Array

    def solved(self) -> ReconstructInput:
        """Return the input with the true object in its product, as a finished run leaves it."""
        return _with_object(self.parameters, self.truth)


def simulate_input(
    *,
    object_shape: tuple[int, int] = (72, 88),
    side_px: int = 32,
    step_px: float = 6.0,
    centre_m: tuple[float, float] = (-3.1e-6, 5.3e-6),
    first_index: int = 7,
    modes: int = 1,
    bad_pixels: int = 0,
    photons: float = 1e5,
    seed: int = 0,
) -> Example:
    """Return a scan of a random object on a jittered raster, with Poisson noise.

    `centre_m` is (y, x); `photons` the mean per pattern; bad pixels read zero or far too much.
    """
    rng = np.random.default_rng(seed)
    truth = _specimen(object_shape, rng)
    probe = _probe(side_px, modes)
    positions_px = _raster(object_shape, side_px, step_px, rng)
    expected = _intensity(truth, probe, positions_px)
    scale = photons / expected.sum((1, 2)).mean()
    counts = rng.poisson(expected * scale).astype(np.int32)
    mask = _spoil(counts, bad_pixels, rng)
    pixel_m = WAVELENGTH_M * DISTANCE_M / (side_px * DETECTOR_PIXEL_M)
    pixel = PixelGeometry(width_m=pixel_m, height_m=pixel_m)
    middle_px = (np.array(object_shape) - 1) / 2
    positions_m = (positions_px - middle_px) * pixel_m + centre_m
    product = Product(
        metadata=_metadata(),
        probe_positions=positions_of(positions_m, first_index),
        probes=ProbeSequence(probe[np.newaxis] * np.sqrt(scale), None, pixel),
        object_=Object(np.ones_like(truth), pixel, ObjectCenter(x_m=centre_m[1], y_m=centre_m[0])),
        losses=[],
    )
    return Example(ReconstructInput(counts, mask, product), truth)


# Each differs from the first in one thing that a reconstructor may have overlooked.
EXAMPLES: Mapping[str, Callable[[], Example]] = {
    'standard': simulate_input,
    'tall': partial(simulate_input, object_shape=(90, 66), centre_m=(0.0, 0.0), first_index=0),
    'modes': partial(simulate_input, modes=2),
    'bad pixels': partial(simulate_input, bad_pixels=12),
}


def positions_of(positions_m: Array, first_index: int) -> ProbePositionSequence:
    """Return positions (M, 2), as (y, x) in metres, as the host's."""
    return ProbePositionSequence(
        [
            ProbePosition(index=first_index + row, x_m=float(x), y_m=float(y))
            for row, (y, x) in enumerate(positions_m)
        ]
    )


def with_counts(parameters: ReconstructInput, counts: Array) -> ReconstructInput:
    """Return the input with other patterns."""
    return replace(parameters, diffraction_patterns=counts)


def without_mask(parameters: ReconstructInput) -> ReconstructInput:
    """Return the input with `bad_pixels=None`, as a scan without a mask has it."""
    unmasked: Any = None
    return replace(parameters, bad_pixels=unmasked)


def _lost(parameters: ReconstructInput) -> ReconstructInput:
    points = [replace(p, x_m=float('nan')) for p in parameters.product.probe_positions]
    product = replace(parameters.product, probe_positions=ProbePositionSequence(points))
    return replace(parameters, product=product)


def _short(parameters: ReconstructInput) -> ReconstructInput:
    return with_counts(parameters, parameters.diffraction_patterns[:-3].copy())


def _misfit(parameters: ReconstructInput) -> ReconstructInput:
    given = parameters.product.probes
    array = given.get_array()[..., 2:-2, 2:-2].copy()
    probes = ProbeSequence(array, None, given.get_pixel_geometry())
    return replace(parameters, product=replace(parameters.product, probes=probes))


# What nobody can reconstruct, made from what one can.
BROKEN: Mapping[str, Callable[[ReconstructInput], ReconstructInput]] = {
    'NaN positions': _lost,
    'fewer patterns than positions': _short,
    'a probe of another size': _misfit,
}


def _with_object(parameters: ReconstructInput, array: Array) -> ReconstructInput:
    given = parameters.product.object_
    made = Object(array.copy(), given.get_pixel_geometry(), given.get_center())
    return replace(parameters, product=replace(parameters.product, object_=made))


def _metadata() -> ProductMetadata:
    known = {field.name for field in fields(ProductMetadata)}
    chosen: dict[str, Any] = {key: value for key, value in METADATA.items() if key in known}
    return ProductMetadata(**chosen)


def _specimen(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Return a random object without any symmetry: amplitude 0.6 to 1, phase within 0.8."""
    y, x = (np.fft.fftfreq(n) for n in shape)
    pass_band = np.exp(-((np.hypot(y[:, None], x) / 0.09) ** 2))
    amplitude, phase = (
        np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) * pass_band).real for _ in range(2)
    )
    amplitude = 0.8 + 0.2 * np.tanh(amplitude / amplitude.std())
    specimen: Array = amplitude * np.exp(0.8j * np.tanh(phase / phase.std()))
    return specimen


def _probe(side: int, modes: int) -> Array:
    """Return a curved Gaussian beam and its second mode (P, N, N), longer in x than in y."""
    r = np.arange(side) - (side - 1) / 2
    y, x = r[:, None] / (0.13 * side), r / (0.16 * side)
    beam = np.exp(-(y**2 + x**2) / 2 + 2j * np.pi * 0.25 * (r[:, None] ** 2 + r**2) / side)
    return np.stack([beam * (0.5 * x) ** k for k in range(modes)]) + 0j


def _raster(
    shape: tuple[int, int], side: int, step: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return positions (M, 2) in object pixels, rows first."""
    first = (side - 1) / 2 + MARGIN_PX
    axes = [np.linspace(first, n - 1 - first, round((n - 1 - 2 * first) / step) + 1) for n in shape]
    grid = np.stack(np.meshgrid(*axes, indexing='ij'), -1).reshape(-1, 2)
    return grid + rng.uniform(-MARGIN_PX / 2, MARGIN_PX / 2, grid.shape)


def _intensity(truth: Array, probe: Array, positions_px: Array) -> Array:
    """Return the expected patterns (M, N, N): patches at whole pixels, the rest moves the probe."""
    side = probe.shape[-1]
    corner = positions_px - (side - 1) / 2
    whole = np.floor(corner).astype(int)
    rows, columns = whole[:, :1] + np.arange(side), whole[:, 1:] + np.arange(side)
    patches = truth[rows[:, :, None], columns[:, None, :]]
    f = np.fft.fftfreq(side)
    dy, dx = (corner - whole).T[:, :, None, None]
    ramp = np.exp(-2j * np.pi * (f[:, None] * dy + f * dx))
    moved = np.fft.ifft2(np.fft.fft2(probe) * ramp[:, None])
    waves = np.fft.fft2(moved * patches[:, None], norm='ortho')
    power: Array = (np.abs(np.fft.fftshift(waves, (-2, -1))) ** 2).sum(1)
    return power


def _spoil(counts: Array, number: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    mask = np.zeros(counts.shape[1:], bool)
    mask.flat[rng.choice(mask.size, number, replace=False)] = True
    y, x = np.nonzero(mask)
    counts[:, y[::2], x[::2]] = 0
    counts[:, y[1::2], x[1::2]] = 1_000_000
    return mask
