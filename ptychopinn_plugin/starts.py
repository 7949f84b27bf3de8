"""Where the sweeps begin without a network: a flat object, or the phase that the patterns' own
displacements give.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from .centring import OFF_CENTRE_PX, off_centre_px
from .far_field import Judge
from .geometry import relative_illumination
from .result import ObjectImage
from .scaling import flat_transmission, normalised_probe
from .scan import Scan
from .slow_phase import first_phase, plane
from .transforms import PLAIN

logger = logging.getLogger(__name__)

PIXELS, LEAST_AVERAGED = 2**20, 48  # of how many patterns the mean is taken
SAMPLE = 256  # patterns: enough to choose, and to tell an error to a few per cent


class Start(NamedTuple):
    """The name of a start, its image, and its `sampled_errors`."""

    name: str
    image: ObjectImage
    error: float


def best_start(scan: Scan, threads: int = 1) -> Start:
    """Return the start that fits the patterns better."""
    flat, ramp = flat_start(scan), common_ramp(scan)
    image = gradient_start(scan, flat, ramp, threads)
    flat = _tilted(flat, ramp)
    flat_error, error = sampled_errors(scan, flat, image, threads=threads)
    if flat_error <= error:
        logger.info('Starting flat: the phase gradients of the patterns do not fit better')
        return Start('flat', flat, flat_error)
    return Start('gradients', image, error)


def flat_start(scan: Scan) -> ObjectImage:
    """Return the flat object that predicts the mean counts per frame."""
    value = np.complex64(flat_transmission(scan))
    weight = relative_illumination(scan, scan.probe)
    return ObjectImage(np.full(scan.frame.shape, value), weight, scan.frame.origin_px)


def gradient_start(
    scan: Scan,
    flat: ObjectImage | None = None,
    ramp: tuple[float, float] | None = None,
    threads: int = 1,
) -> ObjectImage:
    """Return the flat object (`flat_start`) with the phase that the displacements of the patterns
    give; what they have in common (`common_ramp`) is found as a whole: one by one they tell a pixel
    at most.
    """
    probe = normalised_probe(scan)
    ramp = common_ramp(scan) if ramp is None else ramp
    if any(ramp):
        probe = probe * plane((scan.side_px, scan.side_px), ramp)
    flat, phase = flat or flat_start(scan), first_phase(scan, probe, threads)
    turned = flat.object * np.exp(1j * phase)
    return _tilted(replace(flat, object=turned.astype(np.complex64)), ramp)


def common_ramp(scan: Scan) -> tuple[float, float]:
    """Return the phase ramp (y, x) [rad/px] of an object that shifts the patterns to where they
    lie; zero where they lie on the probe's far field.
    """
    most = max(LEAST_AVERAGED, PIXELS // scan.side_px**2)
    rows = np.linspace(0, len(scan) - 1, min(len(scan), most)).astype(int)
    good, far = ~scan.bad_pixels, np.fft.fft2(scan.probe.astype(np.complex128))
    power = np.fft.fftshift((np.abs(far) ** 2).sum(0)) * good
    mean = np.where(good, scan.patterns(rows).mean(0, dtype=np.float64), 0)
    y, x = off_centre_px(mean, power, good)
    if np.hypot(y, x) < OFF_CENTRE_PX:
        return 0.0, 0.0
    logger.info('The patterns lie (y, x) = (%.1f, %.1f) px off the centre of the beam', y, x)
    return 2 * np.pi * y / scan.side_px, 2 * np.pi * x / scan.side_px


def _tilted(image: ObjectImage, ramp: tuple[float, float]) -> ObjectImage:
    """Return the image with a phase ramp (y, x) [rad/px]."""
    if not any(ramp):
        return image
    turn = plane((image.object.shape[0], image.object.shape[1]), ramp)
    return replace(image, object=image.object * turn)


def sampled_errors(scan: Scan, *images: ObjectImage, threads: int = 1) -> list[float]:
    """Return the fourier_error of each of several images in one frame over at most `SAMPLE`
    patterns, far from one another.
    """
    rows = np.linspace(0, len(scan) - 1, min(len(scan), SAMPLE)).astype(int)
    transforms = replace(PLAIN, threads=lambda: threads)
    return Judge(transforms, scan, normalised_probe(scan)).errors(images, rows)
