"""What was measured. NumPy only.

Axis glossary, used in every docstring of the package:

    M  patterns (scan positions)        N  pattern side, pixels
    P  incoherent probe modes           H, W  object rows, columns
    B  patterns in a batch              C  channels (gridsize**2 neighbouring patterns)

Order is always (y, x). Object pixel coordinates are those of the scan file: pixel centres have
integer coordinates, and `positions_px` are where the probe array's centre `(N - 1) / 2` falls, so a
patch's corner is `position - (N - 1) / 2`. Counts cross boundaries, amplitudes do not (the square
root lives in `scaling`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, require
from .mapped import batch, rows_of

Float = NDArray[np.float32]
Complex = NDArray[np.complex64]
Double = NDArray[np.float64]
Bool = NDArray[np.bool_]
Array = NDArray[Any]

MIN_PATTERN_PX, MAX_PATTERN_PX = 8, 4096
MAX_OBJECT_PX = 100_000
NOMINAL_PIXEL = 'pixel size'


@dataclass(frozen=True)
class Frame:
    """Where an object array lies in the scan's coordinates.

    `shape` is (H, W); `origin_px` is the (y, x) scan coordinate of `object[0, 0]`.
    """

    shape: tuple[int, int]
    origin_px: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Geometry:
    """Physical scales where the file knows them; `None` where it does not. Pairs are (y, x).

    `object_centre_m` is the position, in the scanner's metres, of the centre `((H-1)/2, (W-1)/2)`
    of the object array that `Scan.frame` describes; with `pixel_size_m` it ties object pixels to
    scanner metres. `near_field` is set where the file declares near-field data. `nominal` is the
    note of a file that had to hold numbers which nobody knew.
    """

    pixel_size_m: tuple[float, float] | None = None
    object_centre_m: tuple[float, float] | None = None
    detector_pixel_size_m: tuple[float, float] | None = None
    detector_distance_m: float | None = None
    photon_energy_eV: float | None = None
    near_field: bool = False
    nominal: str = ''

    @property
    def known_pixel_size_m(self) -> tuple[float, float] | None:
        """The object pixel, None where it is not known or nominal."""
        return None if NOMINAL_PIXEL in self.nominal else self.pixel_size_m


@dataclass(frozen=True, eq=False)
class Scan:
    """A far-field ptychographic scan, checked once when it is made.

    counts          (M, N, N)  detector counts, any integer or float dtype, kept as stored; the zero
                               frequency at [N // 2, N // 2]; may be memory-mapped
    positions_px    (M, 2)     float64 (y, x) object pixels of the probe array's centre (N - 1) / 2
    probe           (P, N, N)  complex64; only its shape is trusted, never its scale
    bad_pixels      (N, N)     bool, True is bad; none are when not given
    frame                      object array's shape and origin; made from the positions if absent
    object_guess    (H, W)     complex64 or None: the object array that came with the file
    true_object     (H, W)     complex64 or None: the known object of a simulation
    scan_index      (M,)       int64: the host's index of each pattern
    background                 counts of every pixel and pattern, on average, that are no
                               diffraction

    Raises `DataError` when the arrays cannot be a scan.
    """

    counts: Array
    positions_px: Double
    probe: Complex
    bad_pixels: Bool = None  # type: ignore[assignment]
    frame: Frame = None  # type: ignore[assignment]
    object_guess: Complex | None = None
    true_object: Complex | None = None
    scan_index: NDArray[np.int64] = None  # type: ignore[assignment]
    geometry: Geometry = field(default_factory=Geometry)
    name: str = 'scan'
    background: float = 0.0

    def __post_init__(self) -> None:
        counts = self.counts if isinstance(self.counts, np.ndarray) else np.asarray(self.counts)
        _check_patterns(counts)
        m, n = counts.shape[0], counts.shape[-1]
        self._put('counts', counts)
        self._put('positions_px', _checked_positions(self.positions_px, m))
        self._put('probe', _checked_probe(self.probe, n))
        self._put('bad_pixels', _checked_mask(self.bad_pixels, n))
        self._put('scan_index', _checked_index(self.scan_index, m))
        for key in ('object_guess', 'true_object'):
            self._put(key, _checked_object(getattr(self, key), key))
        self._put('frame', self.frame or self._default_frame())
        self._check_inside()
        self._check_counts()

    def _put(self, key: str, value: Any) -> None:
        object.__setattr__(self, key, value)

    def _default_frame(self) -> Frame:
        given = self.true_object if self.true_object is not None else self.object_guess
        if given is not None:
            return Frame((given.shape[0], given.shape[1]))
        return frame_around(self.positions_px, self.side_px)

    def _check_inside(self) -> None:
        corner = self.positions_px - (self.side_px - 1) / 2 - np.asarray(self.frame.origin_px)
        low, high = np.rint(corner.min(0)), np.rint(corner.max(0)) + self.side_px
        require(
            (low >= 0).all() and (high <= np.asarray(self.frame.shape)).all(),
            DataError,
            'Positions lie outside the object',
            expected=f'patches inside an object of {self.frame.shape} pixels',
            received=f'patches from (y, x)={low.tolist()} to {high.tolist()}',
            cure='Check the units, the order and the origin of the positions',
        )

    def _check_counts(self) -> None:
        total = 0.0
        for values in self._good_values():  # never a second copy of a large stack
            if values.dtype.kind == 'f':
                require(
                    np.isfinite(values).all(),
                    DataError,
                    'Diffraction patterns contain NaN or infinity in good pixels',
                    cure='Mark those pixels in bad_pixels',
                )
            if values.dtype.kind != 'u':
                require(
                    values.min() >= 0,
                    DataError,
                    'Diffraction patterns contain negative counts in good pixels',
                    expected='counts >= 0',
                    received=f'minimum={values.min()}',
                    cure='Clip the background or mark the pixels bad',
                )
            total += float(values.sum(dtype=np.float64))
        require(total > 0, DataError, 'All diffraction patterns are zero', cure='Check the file')

    @property
    def side_px(self) -> int:
        """Pattern side N, pixels."""
        return int(self.counts.shape[-1])

    def __len__(self) -> int:
        return int(self.counts.shape[0])

    def patterns(self, rows: Array | slice) -> Array:
        """Return the counts of some patterns (indices, a mask or a slice), read where they lie on
        the disk.
        """
        return batch(self.counts, rows)

    def _good_values(self, size: int = 256) -> Iterator[Array]:
        """Yield the good pixels of at most `size` patterns at a time, (patterns, pixels)."""
        good = ~self.bad_pixels
        for start in range(0, len(self), size):
            block = self.patterns(slice(start, start + size))
            yield block.reshape(len(block), -1) if good.all() else block[:, good]

    @cached_property
    def totals(self) -> Double:
        """Counts per pattern over the good pixels, (M,) float64."""
        return np.concatenate([v.sum(1, dtype=np.float64) for v in self._good_values()])

    @property
    def signal(self) -> Double:
        """The totals without the background, (M,) float64."""
        if not self.background:
            return self.totals
        return np.maximum(self.totals - self.background * float((~self.bad_pixels).sum()), 0)

    def take(self, rows: Array) -> Scan:
        """Return the scan with only the patterns `rows` (indices or a boolean mask), in the same
        frame.
        """
        return replace(
            self,
            counts=rows_of(self.counts, rows),
            positions_px=self.positions_px[rows],
            scan_index=self.scan_index[rows],
        )


def frame_around(positions_px: Double, side_px: int) -> Frame:
    """Return the smallest frame, on whole pixels, that holds every patch and its sub-pixel
    shift.
    """
    corner = np.asarray(positions_px, np.float64) - (side_px - 1) / 2
    low = np.floor(corner.min(0))
    extent = np.ceil(corner.max(0)) + side_px - low
    require(
        extent.max() <= MAX_OBJECT_PX,
        DataError,
        'The positions span too large an object',
        expected=f'at most {MAX_OBJECT_PX} pixels a side',
        received=f'{extent[0]:.0f}x{extent[1]:.0f} pixels',
        cure='Check that positions are in pixels',
    )
    return Frame((int(extent[0]), int(extent[1])), (float(low[0]), float(low[1])))


def _check_patterns(counts: Array) -> None:
    shape = f'counts.shape={counts.shape}'
    require(
        counts.ndim == 3,
        DataError,
        'Diffraction patterns have the wrong rank',
        expected='three axes (patterns, rows, columns)',
        received=shape,
    )
    last = counts.shape[0] == counts.shape[1]
    require(
        counts.shape[1] == counts.shape[2],
        DataError,
        'Diffraction patterns are not square',
        expected='(patterns, rows, columns), as many rows as columns',
        received=shape,
        cure='Put the axis of the patterns first, with np.moveaxis(patterns, -1, 0)'
        if last
        else 'Crop or pad the patterns to a square',
    )
    require(
        counts.shape[0] > 0,
        DataError,
        'The scan is empty',
        expected='at least one pattern',
        received=shape,
    )
    n = counts.shape[-1]
    require(
        MIN_PATTERN_PX <= n <= MAX_PATTERN_PX and n % 2 == 0,
        DataError,
        'The pattern size is not supported',
        expected=f'an even side from {MIN_PATTERN_PX} to {MAX_PATTERN_PX} pixels',
        received=f'N={n}',
        cure='Crop or pad the patterns',
    )
    require(
        counts.dtype.kind in 'uif',
        DataError,
        'Diffraction patterns are not real numbers',
        expected='integer or floating point counts',
        received=f'counts.dtype={counts.dtype}',
    )


def _checked_positions(given: Any, m: int) -> Double:
    positions = np.asarray(given)
    require(
        positions.ndim == 2 and positions.shape[1] == 2 and positions.dtype.kind in 'uif',
        DataError,
        'Positions have the wrong shape or type',
        expected='real numbers of shape (patterns, 2)',
        received=f'positions.shape={positions.shape}, dtype={positions.dtype}',
    )
    require(
        len(positions) == m,
        DataError,
        'Positions and patterns differ in number',
        expected=f'{m} positions',
        received=f'{len(positions)} positions',
    )
    check_finite(positions)
    return positions.astype(np.float64)


def check_finite(positions: Array) -> None:
    """Raise `DataError` unless all positions (M, 2) are finite."""
    lost = np.flatnonzero(~np.isfinite(positions).all(1))
    require(
        len(lost) == 0,
        DataError,
        'Positions contain NaN or infinity',
        expected='a finite position for each pattern',
        received=f'{len(lost)} of {len(positions)} are not, the first in row '
        f'{lost[0] if len(lost) else None}',
        cure='Leave these patterns out of the scan, or give them their positions',
    )


def _checked_probe(given: Any, n: int) -> Complex:
    probe = np.asarray(given)
    probe = probe[None] if probe.ndim == 2 else probe
    received = f'probe.shape={probe.shape}, dtype={probe.dtype}'
    require(
        probe.ndim == 3 and len(probe) > 0 and probe.dtype.kind in 'uifc',
        DataError,
        'The probe has the wrong shape or type',
        expected='complex numbers of shape (modes, N, N)',
        received=received,
    )
    require(
        probe.shape[1:] == (n, n),
        DataError,
        'Probe and patterns differ in size',
        expected=f'a probe of {n}x{n} pixels',
        received=received,
        cure='Put the axis of the modes first, with np.moveaxis(probe, -1, 0)'
        if probe.shape[:2] == (n, n)
        else 'Crop or pad one of them to the other',
    )
    require(np.isfinite(probe).all(), DataError, 'The probe contains NaN or infinity')
    require(probe.any(), DataError, 'The probe is zero everywhere', cure='Give a probe guess')
    return probe.astype(np.complex64)


def _checked_mask(given: Any, n: int) -> Bool:
    bad = np.zeros((n, n), bool) if given is None else np.asarray(given)
    require(
        bad.shape == (n, n),
        DataError,
        'The bad-pixel mask has another size than the patterns',
        expected=f'shape=({n}, {n})',
        received=f'bad_pixels.shape={bad.shape}',
    )
    require(
        not bad.all(),
        DataError,
        'Every detector pixel is marked bad',
        cure='In bad_pixels True is bad: invert a mask that marks the good pixels',
    )
    return bad.astype(bool)


def _checked_index(given: Any, m: int) -> NDArray[np.int64]:
    index = np.arange(m) if given is None else np.asarray(given)
    require(
        index.shape == (m,),
        DataError,
        'scan_index and patterns differ in number',
        expected=f'{m} entries',
        received=f'scan_index.shape={index.shape}',
    )
    return index.astype(np.int64)


def _checked_object(given: Any, key: str) -> Complex | None:
    if given is None:
        return None
    array = np.asarray(given)
    if array.ndim == 3 and len(array) == 1:
        array = array[0]
    require(
        array.ndim == 2 and array.dtype.kind in 'uifc',
        DataError,
        f'{key} has the wrong shape or type',
        expected='complex numbers of shape (rows, columns)',
        received=f'{key}.shape={array.shape}, dtype={array.dtype}',
    )
    require(np.isfinite(array).all(), DataError, f'{key} contains NaN or infinity')
    return array.astype(np.complex64)
