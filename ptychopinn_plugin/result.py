"""What comes out and how far we are: images, epochs, sweeps, reconstructions. NumPy only; letters
as in `scan`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from .scan import Complex, Double, Float, Frame


@dataclass(frozen=True, eq=False)
class ObjectImage:
    """A reconstructed object in a frame.

    object       (H, W) complex64, reads as transmission: about 1 in vacuum
    weight       (H, W) float32, sum of the shifted |P|^2 over the scan, relative to its maximum
    origin_px    (y, x) scan coordinate of object[0, 0]
    uncertainty  (H, W) float32 one sigma of the phase [rad], or None
    place_m      (y, x) size of a pixel and (y, x) position of object[0, 0] [m], or None
    """

    object: Complex
    weight: Float
    origin_px: tuple[float, float] = (0.0, 0.0)
    uncertainty: Float | None = None
    place_m: tuple[tuple[float, float], tuple[float, float]] | None = None

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

    `image`, `probe` (P, N, N) and `loss`: the mean of sum(|F| - sqrt(I))^2 / sum(I) met during the
    sweep. `start` says what sweep 0 is: 'network', 'gradients' or 'flat'. `positions_px` (M, 2) are
    the scan's own unless they are corrected, `intensities` (M,) those of
    the beam, relative to their geometric mean, or None where it does not fluctuate; `background` is
    that of `Scan`.
    """

    number: int
    total: int
    image: ObjectImage
    probe: Complex
    loss: float
    positions_px: Double
    start: str = ''
    intensities: Double | None = None
    background: float = 0.0


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What `reconstruct` returns.

    losses            fourier_error of the start, then the loss of every sweep
    fourier_error     sum(|F| - sqrt(I))^2 / sum(I) over good pixels for the object and probe
    start_fourier_error  the same for the start, over at most 256 patterns spread over the scan
    estimate          the start image (network or flat), before any sweep
    half_scan_frc50   where the Fourier ring correlation of two half scans first falls below 1/2
                      [share of Nyquist], or None
    positions_px      (M, 2) where the patterns are: the scan's own unless they were corrected
    intensities       (M,) of the beam, relative to their geometric mean, where it was found to
                      fluctuate and patterns were scaled to it, else None
    background        counts per pixel and pattern that were taken for no diffraction
    measured, predicted  (N, N) pattern in counts, for the figure; `example` is its row
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
    positions_px: Double
    seconds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    example: int = 0
    measured: Float | None = None
    predicted: Float | None = None
    half_scan_frc50: float | None = None
    intensities: Double | None = None
    background: float = 0.0

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
