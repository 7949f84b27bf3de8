"""The nouns: what was measured, what comes out, and how far we are. NumPy only.

Axis glossary, used in every docstring of the package:

    M  patterns (scan positions)        N  pattern side, pixels
    P  incoherent probe modes           H, W  object rows, columns
    B  patterns in a batch              C  channels (gridsize**2 neighbouring patterns)

Order is always (y, x). Object pixel coordinates are those of the scan file: pixel centres have integer
coordinates, and `positions_px` are where the probe array's centre `(N - 1) / 2` falls, so a patch's corner is
`position - (N - 1) / 2`. Counts cross boundaries, amplitudes do not (the square root lives in `scaling`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, explain

Float = NDArray[np.float32]
Complex = NDArray[np.complex64]
Double = NDArray[np.float64]
Bool = NDArray[np.bool_]
Array = NDArray[Any]

MAX_PATTERN_PX = 4096
MIN_PATTERN_PX = 8


@dataclass(frozen=True)
class Frame:
    """Where an object array lies in the scan's coordinates.

    `shape` is (H, W); `origin_px` is the (y, x) scan coordinate of `object[0, 0]`.
    """

    shape: tuple[int, int]
    origin_px: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Geometry:
    """Physical scales where the file knows them; `None` where it does not.

    `object_centre_m` is the (y, x) position, in the scanner's metres, of the centre `((H-1)/2, (W-1)/2)` of the
    object array that `Scan.frame` describes; with `pixel_size_m` it ties object pixels to scanner metres.
    """

    pixel_size_m: tuple[float, float] | None = None
    object_centre_m: tuple[float, float] | None = None
    detector_pixel_size_m: tuple[float, float] | None = None
    detector_distance_m: float | None = None
    photon_energy_eV: float | None = None  # noqa: N815 - unit suffix


@dataclass(frozen=True, eq=False)
class Scan:
    """A far-field ptychographic scan, checked once when it is made.

    counts          (M, N, N)  detector counts, any unsigned/signed integer or float dtype, kept as stored; the zero
                               frequency at [N // 2, N // 2]; may be memory-mapped
    positions_px    (M, 2)     float64 (y, x) object pixels of the probe array's centre (N - 1) / 2
    probe           (P, N, N)  complex64; only its shape is trusted, never its scale
    bad_pixels      (N, N)     bool, True is bad
    frame                      the object array's shape and origin; made from the positions when not given
    object_guess    (H, W)     complex64 or None: the object array that came with the file
    true_object     (H, W)     complex64 or None: the known object of a simulation
    scan_index      (M,)       int64: the host's index of each pattern

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

    def __post_init__(self) -> None:
        counts, positions, probe = self._checked_arrays()
        m, n = counts.shape[0], counts.shape[-1]
        bad = np.zeros((n, n), bool) if self.bad_pixels is None else np.asarray(self.bad_pixels)
        if bad.shape != (n, n):
            raise DataError(
                explain(
                    'The bad-pixel mask has another size than the patterns',
                    expected=f'shape=({n}, {n})',
                    received=f'bad_pixels.shape={bad.shape}',
                )
            )
        if bad.all():
            raise DataError(explain('Every detector pixel is marked bad', cure='Check bad_pixels'))
        index = np.arange(m) if self.scan_index is None else np.asarray(self.scan_index)
        if index.shape != (m,):
            raise DataError(
                explain(
                    'scan_index and patterns differ in number',
                    expected=f'{m} entries',
                    received=f'scan_index.shape={index.shape}',
                )
            )
        put = object.__setattr__
        put(self, 'counts', counts)
        put(self, 'positions_px', positions)
        put(self, 'probe', probe)
        put(self, 'bad_pixels', bad.astype(bool))
        put(self, 'scan_index', index.astype(np.int64))
        self._check_values()
        for key in ('object_guess', 'true_object'):
            put(self, key, self._checked_object(key))
        put(self, 'frame', self._checked_frame())

    def _checked_arrays(self) -> tuple[Array, Double, Complex]:
        counts = self.counts if isinstance(self.counts, np.ndarray) else np.asarray(self.counts)
        positions, probe = np.asarray(self.positions_px), np.asarray(self.probe)
        if counts.ndim != 3:
            raise DataError(
                explain(
                    'Diffraction patterns have the wrong rank',
                    expected='three axes (patterns, rows, columns)',
                    received=f'counts.shape={counts.shape}',
                )
            )
        if counts.shape[1] != counts.shape[2]:
            raise DataError(
                explain(
                    'Diffraction patterns are not square',
                    expected='as many rows as columns',
                    received=f'counts.shape={counts.shape}',
                    cure='Crop or pad the patterns to a square',
                )
            )
        if counts.shape[0] == 0:
            raise DataError(
                explain(
                    'The scan is empty',
                    expected='at least one pattern',
                    received=f'counts.shape={counts.shape}',
                )
            )
        m, n = counts.shape[0], counts.shape[-1]
        if not MIN_PATTERN_PX <= n <= MAX_PATTERN_PX or n % 2:
            raise DataError(
                explain(
                    'The pattern size is not supported',
                    expected=f'an even side from {MIN_PATTERN_PX} to {MAX_PATTERN_PX} pixels',
                    received=f'N={n}',
                    cure='Crop or pad the patterns',
                )
            )
        if counts.dtype.kind not in 'uif':
            raise DataError(
                explain(
                    'Diffraction patterns are not real numbers',
                    expected='integer or floating point counts',
                    received=f'counts.dtype={counts.dtype}',
                )
            )
        if positions.ndim != 2 or positions.shape[1] != 2 or positions.dtype.kind not in 'uif':
            raise DataError(
                explain(
                    'Positions have the wrong shape or type',
                    expected='real numbers of shape (patterns, 2)',
                    received=f'positions.shape={positions.shape}, dtype={positions.dtype}',
                )
            )
        if positions.shape[0] != m:
            raise DataError(
                explain(
                    'Positions and patterns differ in number',
                    expected=f'{m} positions',
                    received=f'{positions.shape[0]} positions',
                )
            )
        if probe.ndim == 2:
            probe = probe[None]
        if probe.ndim != 3 or probe.shape[0] == 0 or probe.dtype.kind not in 'uifc':
            raise DataError(
                explain(
                    'The probe has the wrong shape or type',
                    expected='complex numbers of shape (modes, N, N)',
                    received=f'probe.shape={probe.shape}, dtype={probe.dtype}',
                )
            )
        if probe.shape[1:] != (n, n):
            raise DataError(
                explain(
                    'Probe and patterns differ in size',
                    expected=f'a probe of {n}x{n} pixels',
                    received=f'probe.shape={probe.shape}',
                    cure='Crop or pad one of them to the other',
                )
            )
        return counts, positions.astype(np.float64), probe.astype(np.complex64)

    def _check_values(self) -> None:
        if not np.isfinite(self.positions_px).all():
            raise DataError(explain('Positions contain NaN or infinity'))
        if not np.isfinite(self.probe.view(np.float32)).all():
            raise DataError(explain('The probe contains NaN or infinity'))
        if not self.probe.any():
            raise DataError(explain('The probe is zero everywhere', cure='Give a probe guess'))
        total = 0.0
        good = ~self.bad_pixels
        for block in self.blocks():  # never a second copy of a large stack
            values = block[:, good]
            if block.dtype.kind == 'f' and not np.isfinite(values).all():
                raise DataError(
                    explain(
                        'Diffraction patterns contain NaN or infinity in good pixels',
                        cure='Mark those pixels in bad_pixels',
                    )
                )
            if block.dtype.kind != 'u' and values.min() < 0:
                raise DataError(
                    explain(
                        'Diffraction patterns contain negative counts in good pixels',
                        expected='counts >= 0',
                        received=f'minimum={values.min()}',
                        cure='Clip the background or mark the pixels bad',
                    )
                )
            total += float(values.sum(dtype=np.float64))
        if total <= 0:
            raise DataError(explain('All diffraction patterns are zero', cure='Check the file'))

    def _checked_object(self, key: str) -> Complex | None:
        value = getattr(self, key)
        if value is None:
            return None
        array = np.asarray(value)
        if array.ndim == 3 and array.shape[0] == 1:
            array = array[0]
        if array.ndim != 2 or array.dtype.kind not in 'uifc':
            raise DataError(
                explain(
                    f'{key} has the wrong shape or type',
                    expected='complex numbers of shape (rows, columns)',
                    received=f'{key}.shape={array.shape}, dtype={array.dtype}',
                )
            )
        array = array.astype(np.complex64)
        if not np.isfinite(array.view(np.float32)).all():
            raise DataError(explain(f'{key} contains NaN or infinity'))
        return array

    def _checked_frame(self) -> Frame:
        frame = self.frame
        if frame is None:
            given = self.true_object if self.true_object is not None else self.object_guess
            frame = frame_around(self.positions_px, self.side_px) if given is None else Frame(
                (given.shape[0], given.shape[1])
            )
        corner = self.positions_px - (self.side_px - 1) / 2 - np.asarray(frame.origin_px)
        low, high = np.rint(corner.min(0)), np.rint(corner.max(0)) + self.side_px
        if (low < 0).any() or (high > np.asarray(frame.shape)).any():
            raise DataError(
                explain(
                    'Positions lie outside the object',
                    expected=f'patches inside an object of {frame.shape[0]}x{frame.shape[1]} pixels',
                    received=f'patches from (y, x)=({low[0]:.0f}, {low[1]:.0f}) '
                    f'to ({high[0]:.0f}, {high[1]:.0f})',
                    cure='Check the units, the order and the origin of the positions',
                )
            )
        return frame

    @property
    def side_px(self) -> int:
        """Pattern side N, pixels."""
        return int(self.counts.shape[-1])

    def __len__(self) -> int:
        return int(self.counts.shape[0])

    def blocks(self, size: int = 256) -> list[Array]:
        """Cut the counts into views of at most `size` patterns, for one pass over a large stack."""
        return [self.counts[i : i + size] for i in range(0, len(self), size)]

    @cached_property
    def totals(self) -> Double:
        """Counts per pattern over the good pixels, (M,) float64."""
        good = ~self.bad_pixels
        return np.concatenate([b[:, good].sum(1, dtype=np.float64) for b in self.blocks()])

    def take(self, rows: Array) -> Scan:
        """Return the scan with only the patterns `rows` (indices or a boolean mask), same frame."""
        from dataclasses import replace

        return replace(
            self,
            counts=self.counts[rows],
            positions_px=self.positions_px[rows],
            scan_index=self.scan_index[rows],
            frame=self.frame,
        )


def frame_around(positions_px: Double, side_px: int) -> Frame:
    """Return the smallest frame, on whole pixels, that holds every patch and its sub-pixel shift."""
    corner = np.asarray(positions_px, np.float64) - (side_px - 1) / 2
    low = np.floor(corner.min(0))
    extent = np.ceil(corner.max(0)) + side_px - low
    if extent.max() > 100_000:
        raise DataError(
            explain(
                'The positions span too large an object',
                expected='at most 100000 pixels a side',
                received=f'{extent[0]:.0f}x{extent[1]:.0f} pixels',
                cure='Check that positions are in pixels',
            )
        )
    return Frame((int(extent[0]), int(extent[1])), (float(low[0]), float(low[1])))


@dataclass(frozen=True, eq=False)
class ObjectImage:
    """A reconstructed object in a frame.

    object       (H, W) complex64, reads as transmission: about 1 in vacuum
    weight       (H, W) float32, sum of the shifted |P|^2 over the scan, relative to its maximum
    origin_px    (y, x) scan coordinate of object[0, 0]
    uncertainty  (H, W) float32 one sigma of the phase [rad], or None
    """

    object: Complex
    weight: Float
    origin_px: tuple[float, float] = (0.0, 0.0)
    uncertainty: Float | None = None

    @property
    def amplitude(self) -> Float:
        """Modulus of the transmission, (H, W)."""
        return np.abs(self.object)

    @property
    def phase(self) -> Float:
        """Phase of the transmission [rad] in (-pi, pi], (H, W)."""
        return np.angle(self.object)

    @property
    def frame(self) -> Frame:
        """The frame this image lies in."""
        return Frame((self.object.shape[0], self.object.shape[1]), self.origin_px)


@dataclass(frozen=True)
class Epoch:
    """One finished training epoch: 1-based `number` of at most `total`, and its mean losses."""

    number: int
    total: int
    training_loss: float
    validation_loss: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Sweep:
    """The state after refinement sweep `number` of `total` (0 is the start, before any sweep).

    `image`, `probe` (P, N, N) and `loss`: the mean of sum(|F| - sqrt(I))^2 / sum(I) met during the sweep.
    """

    number: int
    total: int
    image: ObjectImage
    probe: Complex
    loss: float


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What `reconstruct` returns.

    losses            fourier_error of the start, then the loss of every sweep
    fourier_error     sum(|F| - sqrt(I))^2 / sum(I) over good pixels for the returned object and probe
    start_fourier_error  the same for the start (the network's own estimate, or flat)
    estimate          the start image (network or flat), before any sweep
    measured, predicted  (N, N) example pattern, counts, for the figure; `example` is its row in the scan
    seconds           wall seconds by stage: load, start, sweeps, evaluate, total
    """

    image: ObjectImage
    probe: Complex
    losses: tuple[float, ...]
    fourier_error: float
    start_fourier_error: float
    estimate: ObjectImage
    backend: str
    start: str
    seconds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    example: int = 0
    measured: Float | None = None
    predicted: Float | None = None

    @property
    def amplitude(self) -> Float:
        """Modulus of the transmission, (H, W)."""
        return self.image.amplitude

    @property
    def phase(self) -> Float:
        """Phase of the transmission [rad], (H, W)."""
        return self.image.phase

    @property
    def weight(self) -> Float:
        """Illumination weight, (H, W), 1 at its maximum."""
        return self.image.weight
