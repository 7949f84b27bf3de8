"""Scan paths over a square of `span` pixels, each (M, 2) float64 (y, x) in 0..span."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.random import Generator

from ..scan import Double

MARGIN_PX = 1.0  # between the patches and the edge of the object
GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
JITTER = 0.25  # largest displacement of a jittered raster, as a share of its step


def random(patterns: int, span: float, rng: Generator) -> Double:
    """Return positions that are uniform and independent."""
    return rng.uniform(0, span, (patterns, 2))


def raster(patterns: int, span: float, step: float = 0.0) -> Double:
    """Return a centred grid, row after row: `step` [px] apart, or of `patterns` points when 0."""
    if step:
        axis = np.arange(int(span / step + 1e-9) + 1) * step
        axis += (span - axis[-1]) / 2
        rows, columns = axis, axis
    else:
        height = max(1, round(np.sqrt(patterns)))
        rows, columns = _axis(height, span), _axis(-(-patterns // height), span)
    y, x = np.meshgrid(rows, columns, indexing='ij')
    grid: Double = np.stack([y.ravel(), x.ravel()], -1)
    return grid if step else grid[:patterns]


def jitter(patterns: int, span: float, rng: Generator, step: float = 0.0) -> Double:
    """Return `raster` with every point moved by up to `JITTER` of the step, to break its period."""
    grid = raster(patterns, span, step)
    step = step or span / max(1, round(np.sqrt(patterns)) - 1)
    return np.clip(grid + rng.uniform(-JITTER, JITTER, grid.shape) * step, 0, span)


def spiral(patterns: int, span: float) -> Double:
    """Return the first `patterns` points of a Fermat spiral, as dense as fits into the square."""
    for density in itertools.count(patterns):
        i = np.arange(2 * density)
        radius = span * np.sqrt((i + 0.5) / (np.pi * density))
        angle = i * GOLDEN_ANGLE
        points = span / 2 + radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], -1)
        inside = points[((points >= 0) & (points <= span)).all(1)]
        if len(inside) >= patterns:
            break
    path: Double = inside[:patterns]
    return path


def make_positions(
    kind: str, patterns: int, step: float, side: int, object_side: int, rng: Generator
) -> Double:
    """Return where the probe's centre `(N - 1) / 2` falls on the object, (M, 2) (y, x) [px]."""
    span = object_side - side - 2 * MARGIN_PX
    if kind == 'random':
        path = random(patterns, span, rng)
    elif kind == 'raster':
        path = raster(patterns, span, step)
    elif kind == 'jitter':
        path = jitter(patterns, span, rng, step)
    else:
        path = spiral(patterns, span)
    return path + MARGIN_PX + (side - 1) / 2


def _axis(number: int, span: float) -> Double:
    return np.linspace(0, span, number) if number > 1 else np.array([span / 2])
