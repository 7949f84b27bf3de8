"""Objects to look at, drawn from a generator; amplitude and phase are always different pictures.

Every public function takes (shape, rng, amplitude, phase): shape (H, W) of any size, the ranges of
the amplitude and of the phase [rad]; and returns the transmission (H, W) complex64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from ..scan import Array, Complex, Double

Shape = tuple[int, int]
Range = tuple[float, float]

# Those that ship inside the scikit-image wheel and fill their frame. `camera` and `coins` are left
# out: they are the object of the benchmark scan, which nothing may have been trained on.
PHOTOGRAPHS = (
    'astronaut', 'brick', 'cell', 'chelsea', 'coffee', 'grass', 'gravel', 'hubble_deep_field',
    'immunohistochemistry', 'moon', 'page', 'rocket',
)  # fmt: skip
LEAF_RADIUS_PX = 3.0
LINE_WIDTHS_PX = (1.0, 12.0)
FIELD_POWER = 3.0


def leaves(shape: Shape, rng: Generator, amplitude: Range, phase: Range) -> Complex:
    """Return dead leaves: disks, rectangles and bars of many sizes that hide one another."""
    return _transmission(_leaves(shape, rng), _leaves(shape, rng), amplitude, phase)


def lines(shape: Shape, rng: Generator, amplitude: Range, phase: Range) -> Complex:
    """Return thin and thick straight lines that cross at random."""
    return _transmission(_lines(shape, rng), _lines(shape, rng), amplitude, phase)


def field(shape: Shape, rng: Generator, amplitude: Range, phase: Range) -> Complex:
    """Return a Gaussian random field whose power falls as frequency to the -`FIELD_POWER`."""
    return _transmission(_field(shape, rng), _field(shape, rng), amplitude, phase)


def photographs(shape: Shape, rng: Generator, amplitude: Range, phase: Range) -> Complex:
    """Return two different photographs of scikit-image, cropped at random or mirrored to size."""
    first, second = (PHOTOGRAPHS[i] for i in rng.choice(len(PHOTOGRAPHS), 2, replace=False))
    return _transmission(
        _photograph(first, shape, rng), _photograph(second, shape, rng), amplitude, phase
    )


SPECIMENS: dict[str, Callable[[Shape, Generator, Range, Range], Complex]] = {
    'leaves': leaves,
    'lines': lines,
    'field': field,
    'photographs': photographs,
}


def _transmission(moduli: Double, angles: Double, amplitude: Range, phase: Range) -> Complex:
    """Return the complex object of two pictures in 0..1, stretched to the ranges."""
    modulus = amplitude[0] + (amplitude[1] - amplitude[0]) * moduli
    angle = phase[0] + (phase[1] - phase[0]) * angles
    made: Complex = (modulus * np.exp(1j * angle)).astype(np.complex64)
    return made


def _leaves(shape: Shape, rng: Generator) -> Double:
    smallest = LEAF_RADIUS_PX
    largest = max(2 * smallest, min(shape) / 6)
    # Radii fall as r^-3, which makes the picture look alike at every scale.
    mean_area = 2 * np.pi * smallest**2 * np.log(largest / smallest)
    number = int(3 * shape[0] * shape[1] / mean_area) + 10
    u = rng.random(number)
    radii = (largest**-2 + u * (smallest**-2 - largest**-2)) ** -0.5
    centres = rng.random((number, 2)) * shape
    picture = np.full(shape, rng.random())
    for radius, centre in zip(radii, centres, strict=True):
        _paint_leaf(picture, centre, radius, rng)
    return picture


def _paint_leaf(picture: Double, centre: Double, radius: float, rng: Generator) -> None:
    """Paint a disk, a rectangle or a bar, about `radius` [px] large, over `picture` (H, W)."""
    kind, value, angle = rng.integers(3), rng.random(), rng.random() * np.pi
    half = radius * np.array([(1.0, 1.0), rng.uniform(0.5, 1.0, 2), (1.8, 0.3)][kind])
    reach = int(np.ceil(np.hypot(*half))) + 1
    low = np.maximum(np.floor(centre).astype(int) - reach, 0)
    high = np.minimum(np.floor(centre).astype(int) + reach + 2, picture.shape)
    y = np.arange(low[0], high[0])[:, None] - centre[0]
    x = np.arange(low[1], high[1]) - centre[1]
    if kind == 0:
        outside = np.hypot(y, x) - radius
    else:
        u = np.abs(np.cos(angle) * x + np.sin(angle) * y) - half[0]
        v = np.abs(np.cos(angle) * y - np.sin(angle) * x) - half[1]
        outside = np.maximum(u, v)
    _blend(picture[low[0] : high[0], low[1] : high[1]], outside, value)


def _blend(part: Array, outside: Array, value: float) -> None:
    """Lay `value` over `part` in place where the distance `outside` [px] is below zero."""
    # One pixel of slope: jagged edges would scatter light along the axes only.
    part += np.clip(0.5 - outside, 0, 1) * (value - part)


def _lines(shape: Shape, rng: Generator) -> Double:
    picture = np.full(shape, rng.random())
    for _ in range(int(0.3 * (shape[0] + shape[1])) + 4):
        through = rng.random(2) * shape
        angle = rng.random() * np.pi
        width = np.exp(rng.uniform(*np.log(LINE_WIDTHS_PX)))
        _paint_line(picture, through, angle, width, rng.random())
    return picture


def _paint_line(picture: Double, through: Double, angle: float, width: float, value: float) -> None:
    """Paint an endless line, `width` [px] wide, at `angle` [rad] from the x axis."""
    if abs(np.tan(angle)) > 1:  # walk along the axis that the line follows more
        picture, through, angle = picture.T, through[::-1], np.pi / 2 - angle
    columns = np.arange(picture.shape[1])
    middle = through[0] + np.tan(angle) * (columns - through[1])
    reach = int(np.ceil((width / 2 + 1) / abs(np.cos(angle))))
    rows = np.rint(middle).astype(int) + np.arange(-reach, reach + 1)[:, None]
    inside = (rows >= 0) & (rows < picture.shape[0])
    at = rows[inside], np.broadcast_to(columns, rows.shape)[inside]
    outside = np.abs((rows - middle) * np.cos(angle))[inside] - width / 2
    part = picture[at]
    _blend(part, outside, value)
    picture[at] = part


def _field(shape: Shape, rng: Generator) -> Double:
    fy, fx = np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1])
    frequency = np.hypot(fy[:, None], fx)
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal(shape)) * frequency ** (-FIELD_POWER / 2)
    picture = np.fft.irfft2(spectrum, s=shape)
    picture /= max(float(picture.std()), 1e-30)
    return np.clip(0.5 + picture / 5, 0, 1)


def _photograph(name: str, shape: Shape, rng: Generator) -> Double:
    """Return a part of a photograph as (H, W) in 0..1."""
    from skimage import data

    picture = np.asarray(getattr(data, name)(), np.float64)
    picture = picture.mean(-1) if picture.ndim == 3 else picture
    shrink = max(1, min(picture.shape[0] // shape[0], picture.shape[1] // shape[1], 4))
    rows, columns = (s // shrink for s in picture.shape)
    picture = picture[: rows * shrink, : columns * shrink]
    picture = picture.reshape(rows, shrink, columns, shrink).mean((1, 3))
    # Mirroring rather than stretching: a large object keeps its fine detail.
    missing = [(0, max(0, wanted - had)) for wanted, had in zip(shape, picture.shape, strict=True)]
    picture = np.pad(picture, missing, mode='symmetric')
    y, x = (rng.integers(had - want + 1) for had, want in zip(picture.shape, shape, strict=True))
    picture = picture[y : y + shape[0], x : x + shape[1]]
    low, high = np.quantile(picture, (0.005, 0.995))
    stretched: Double = np.clip((picture - low) / max(float(high - low), 1e-12), 0, 1)
    return stretched
