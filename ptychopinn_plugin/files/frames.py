"""Where a scan lies in the object array that came with its file.

A stored object defines the frame. A constant one is only a placeholder: it is no guess, and where
the positions do not fit inside it the frame is made from them, with a warning.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

from ..errors import DataError, require
from ..scan import Array, Complex, Double, Frame, Geometry, frame_around

logger = logging.getLogger(__name__)

ORIGIN = (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Place:
    """The frame of a scan (None: made from the positions), its object guess and its scales."""

    frame: Frame | None
    object_guess: Complex | None
    geometry: Geometry


def place(
    positions_px: Double,
    side_px: int,
    guess: Array | None,
    geometry: Geometry | None = None,
    *,
    truth: Array | None = None,
    origin_px: tuple[float, float] = ORIGIN,
) -> Place:
    """Return the frame that a file's object arrays give to its positions (M, 2), in object pixels.

    A true object or a guess with structure is binding: `Scan` refuses positions outside it.
    `geometry.object_centre_m` is that of `guess` and moves with the frame. Positions that cannot be
    positions are left to `Scan` to refuse.
    """
    geometry = geometry or Geometry()
    guess = None if guess is None else single_layer(guess, 'The object guess')
    usable = positions_px.ndim == 2 and len(positions_px) > 0 and np.isfinite(positions_px).all()
    if usable:
        _check_units(positions_px)
    kept = None if guess is None or is_constant(guess) else guess
    if truth is not None:
        frame = Frame((truth.shape[-2], truth.shape[-1]), origin_px) if truth.ndim > 1 else None
        kept = kept if frame and kept is not None and kept.shape == frame.shape else None
        return Place(frame, kept, geometry)
    if guess is None:
        return Place(None, None, geometry)
    frame = Frame((guess.shape[0], guess.shape[1]), origin_px)
    if kept is not None or not usable or fits(positions_px, side_px, frame):
        return Place(frame, kept, geometry)
    around = frame_around(positions_px, side_px)
    logger.warning(
        'The scan reaches beyond the placeholder object of %dx%d pixels, which is left out',
        *frame.shape,
    )
    return Place(around, None, _moved(geometry, frame, around))


def pair_of(stored: Array | None, key: str) -> tuple[float, float]:
    """Return a stored (y, x) pair of finite numbers, (0, 0) where there is none."""
    if stored is None:
        return ORIGIN
    require(
        stored.shape == (2,) and stored.dtype.kind in 'uif' and bool(np.isfinite(stored).all()),
        DataError,
        f'{key} is not a pair',
        expected='two finite numbers (y, x)',
        received=f'{key}.shape={stored.shape}, dtype={stored.dtype}',
    )
    return float(stored[0]), float(stored[1])


def fits(positions_px: Double, side_px: int, frame: Frame) -> bool:
    """Tell whether every patch of whole pixels lies inside a frame."""
    corner = np.rint(positions_px - (side_px - 1) / 2 - np.asarray(frame.origin_px))
    inside = (corner.min(0) >= 0) & (corner.max(0) + side_px <= np.asarray(frame.shape))
    return bool(inside.all())


def middle_px(frame: Frame) -> Double:
    """Return the (y, x) scan coordinates of the centre of a frame."""
    return np.asarray(frame.origin_px) + (np.asarray(frame.shape) - 1) / 2


def is_constant(array: Array) -> bool:
    """Tell whether an object array is one value everywhere: a frame, but no guess."""
    return array.size > 0 and bool((array == array.flat[0]).all())


def single_layer(stored: Array, what: str = 'The object') -> Complex:
    """Return an object (H, W) or (1, H, W) as (H, W) complex64; refuse several layers."""
    require(
        stored.ndim == 2 or (stored.ndim == 3 and len(stored) == 1),
        DataError,
        f'{what} has several layers or the wrong rank',
        expected='one layer: (rows, columns) or (1, rows, columns)',
        received=f'shape={stored.shape}',
        cure='Multi-slice objects are not supported',
    )
    require(
        stored.size > 0 and stored.dtype.kind in 'uifc',
        DataError,
        f'{what} is empty or does not hold numbers',
        received=f'shape={stored.shape}, dtype={stored.dtype}',
    )
    require(np.isfinite(stored).all(), DataError, f'{what} contains NaN or infinity')
    return stored.reshape(stored.shape[-2:]).astype(np.complex64)


def _check_units(positions_px: Double) -> None:
    # Metres taken for pixels give a scan of one spot, which fails without an error.
    extent = np.ptp(positions_px, axis=0)
    require(
        len(positions_px) == 1 or extent.max() >= 1,
        DataError,
        'All positions lie within one pixel',
        expected='positions in object pixels',
        received=f'extent={extent[0]:.3g} x {extent[1]:.3g}',
        cure='Check the units of the positions',
    )


def _moved(geometry: Geometry, old: Frame, new: Frame) -> Geometry:
    if geometry.object_centre_m is None or geometry.pixel_size_m is None:
        return geometry
    shift = (middle_px(new) - middle_px(old)) * np.asarray(geometry.pixel_size_m)
    y, x = (np.asarray(geometry.object_centre_m) + shift).tolist()
    return replace(geometry, object_centre_m=(y, x))
