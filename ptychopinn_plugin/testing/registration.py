"""Where a reconstructed object lies, and which way round, against the object that was measured.

Compared is `|grad log O - mean|`: it does not change with the factor and the linear phase that a
ptychogram leaves open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

ORIENTATIONS: Mapping[str, Callable[[Array], Array]] = {
    'as it is': lambda a: a,
    'upside down': lambda a: a[::-1],
    'mirrored left to right': lambda a: a[:, ::-1],
    'turned by 180 degrees': lambda a: a[::-1, ::-1],
    'transposed': lambda a: a.T,
    'turned by 90 degrees': lambda a: a.T[::-1],
    'turned by 270 degrees': lambda a: a.T[:, ::-1],
    'transposed and turned by 180 degrees': lambda a: a.T[::-1, ::-1],
}


@dataclass(frozen=True)
class Place:
    """The orientation that fits best, the shift (y, x) in pixels, the correlation there, and
    whether the phase has the other sign.
    """

    orientation: str
    shift_px: tuple[float, float]
    correlation: float
    conjugated: bool


def locate(found: Array, truth: Array, margin_px: int) -> Place:
    """Return how `found` lies on `truth`, both (H, W), without their dark margin."""
    square = _middle(truth.shape, min(truth.shape) - 2 * margin_px)
    reference, image = _slopes(truth[square]), _slopes(found[square])
    backwards = float(np.vdot(reference.imag, image.imag)) < 0
    sizes = _contrast(reference), _contrast(image)
    places = [_place(name, turn(sizes[1]), sizes[0]) for name, turn in ORIENTATIONS.items()]
    name, shift_px, correlation = max(places, key=lambda place: place[2])
    return Place(name, shift_px, correlation, backwards)


def _middle(shape: tuple[int, ...], side: int) -> tuple[slice, ...]:
    """Return a square: each of the eight orientations can be laid on it."""
    return tuple(slice((n - side) // 2, (n - side) // 2 + side) for n in shape)


def _place(name: str, image: Array, reference: Array) -> tuple[str, tuple[float, float], float]:
    """Return name, shift and correlation of the best place of an image."""
    cross = np.fft.fft2(reference).conj() * np.fft.fft2(image)
    correlation = np.fft.ifft2(cross).real / reference.size
    y, x = divmod(int(correlation.argmax()), correlation.shape[1])
    shift_px = _vertex(correlation[:, x], y), _vertex(correlation[y], x)
    return name, shift_px, float(correlation.max())


def _vertex(line: Array, at: int) -> float:
    """Return where a parabola through a peak and its neighbours is highest, zero in the middle."""
    left, middle, right = (float(line[(at + k) % line.size]) for k in (-1, 0, 1))
    curvature = left - 2 * middle + right
    whole = (at + line.size // 2) % line.size - line.size // 2
    return whole + (0.5 * (left - right) / curvature if curvature else 0.0)


def _slopes(array: Array) -> Array:
    """Return the slopes of the logarithm (2, H - 1, W - 1) along y and x, less their means."""
    safe = np.where(np.abs(array) > 1e-6 * np.abs(array).mean(), array, 1e-6)
    corner = safe[:-1, :-1]
    slopes = np.log(np.stack([safe[1:, :-1] / corner, safe[:-1, 1:] / corner]))
    result: Array = slopes - slopes.mean((1, 2), keepdims=True)
    return result


def _contrast(slopes: Array) -> Array:
    """Return the steepness, of mean 0 and standard deviation 1, fading to the edge."""
    size = np.sqrt((np.abs(slopes) ** 2).sum(0))
    fade = np.hanning(size.shape[0] + 2)[1:-1, None] * np.hanning(size.shape[1] + 2)[1:-1]
    image = (size - np.average(size, weights=fade)) * fade
    result: Array = image / (image.std() or 1.0)
    return result
