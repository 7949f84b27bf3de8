"""Counts or amplitudes: what a diffraction array holds. Decided once, when a file is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import DataError, explain, require
from ..mapped import batch, blocks, made
from ..scan import Array, Bool, Double

KINDS = ('auto', 'counts', 'amplitude')

SAMPLE_PATTERNS = 16
# The square of a rounded square root is off by about two units in the last place; one is spare.
ROUNDING = 3.0
# Past this distance from an integer the test says nothing: random values would pass it too often.
INFORMATIVE = 0.1
MIN_INFORMATIVE_PIXELS = 16


def check_kind(diffraction: str) -> None:
    """Raise `DataError` unless `diffraction` is one of `KINDS`."""
    require(
        diffraction in KINDS,
        DataError,
        'The kind of diffraction data is unknown',
        expected=' | '.join(KINDS),
        received=f'diffraction={diffraction!r}',
    )


def as_counts(
    stored: Array,
    diffraction: str = 'auto',
    bad_pixels: Bool | None = None,
    *,
    unclear: str = '',
) -> Array:
    """Return stored patterns (M, N, N) as counts: as they are, or squared in float32.

    With 'auto': integers are counts; floats that are all integers are counts; floats whose squares
    are all integers are amplitudes, and the squares are rounded to those integers; anything else is
    `unclear` ('counts' where the format says so), or refused (DC-5). Only good pixels of some
    patterns are looked at: the host inpaints the bad ones.
    """
    check_kind(diffraction)
    if stored.ndim != 3 or stored.dtype.kind not in 'uif':
        return stored  # what cannot be patterns is refused by Scan
    if diffraction == 'amplitude':
        return _squared(stored, bad_pixels)
    kind = 'counts' if diffraction == 'counts' else judged(stored, bad_pixels) or unclear
    if not kind:
        raise DataError(
            explain(
                'The diffraction patterns may be counts or amplitudes',
                expected='integers (counts) or square roots of integers (amplitudes)',
                received=f'dtype={stored.dtype}, maximum={np.nanmax(stored):.6g}',
                cure='Say which they are with --diffraction counts or --diffraction amplitude',
            )
        )
    if kind == 'counts':
        return stored
    return _squared(stored, bad_pixels, np.rint)


def judged(stored: Array, bad_pixels: Bool | None = None) -> str:
    """Return 'counts' or 'amplitude' for patterns (M, N, N), '' where the numbers do not tell."""
    if stored.dtype.kind != 'f' or stored.ndim != 3 or stored.size == 0:
        return 'counts'
    values = _sample(stored, bad_pixels)
    # Integers first: their squares are integers as well. Negative numbers are refused by Scan.
    if len(values) == 0 or values.min() < 0 or (values == np.rint(values)).all():
        return 'counts'
    return 'amplitude' if _squares_are_integers(values, stored.dtype) else ''


def _sample(stored: Array, bad_pixels: Bool | None) -> Double:
    """Return the finite good pixels of some patterns: evenly spaced ones and the brightest."""
    with np.errstate(all='ignore'):
        totals = [batch(stored, r).sum((1, 2), dtype=np.float64) for r in blocks(stored)]
        brightest = np.argsort(np.nan_to_num(np.concatenate(totals)))[-4:]
    spaced = np.linspace(0, len(stored) - 1, min(SAMPLE_PATTERNS, len(stored))).astype(int)
    block = np.asarray(stored[np.union1d(spaced, brightest)], np.float64)
    if bad_pixels is not None and bad_pixels.shape == block.shape[1:]:
        block = block[:, ~bad_pixels]
    values = block.reshape(-1)
    return values[np.isfinite(values)]


def _squares_are_integers(values: Double, dtype: np.dtype[Any]) -> bool:
    squares = values**2
    # A float64 array may well hold float32 roots, so the coarser of the two counts.
    step = max(float(np.finfo(dtype).eps), float(np.finfo(np.float32).eps))
    tolerance = 1e-3 + ROUNDING * step * squares
    informative = (squares > 0) & (tolerance < INFORMATIVE)
    whole = np.rint(squares)
    # All near 0 are no counts but patterns scaled down.
    enough = (whole[informative] > 0).sum() >= MIN_INFORMATIVE_PIXELS
    return bool(enough and (np.abs(squares - whole) <= tolerance)[informative].all())


def _squared(
    stored: Array, bad_pixels: Bool | None, finish: Callable[[Array], Array] = np.asarray
) -> Array:
    def square(rows: Array) -> Array:
        # In float32 and never in the stored type: uint16 would wrap around.
        values = batch(stored, rows).astype(np.float32)
        negative = (values < 0).any(0)
        if bad_pixels is not None and bad_pixels.shape == negative.shape:
            negative &= ~bad_pixels  # detectors mark bad pixels with -1
        require(
            not negative.any(),
            DataError,
            'Diffraction amplitudes are negative',
            expected='amplitudes >= 0',
            received=f'minimum={np.nanmin(values)}',
        )
        return finish(np.square(values, out=values))

    return made(map(square, blocks(stored)), stored.shape, np.dtype(np.float32))
