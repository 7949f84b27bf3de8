"""Where the sweeps begin without a network: a flat object, or the phase that the patterns' own
displacements give.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from .far_field import predict
from .geometry import relative_illumination
from .result import ObjectImage
from .scaling import flat_transmission, normalised_probe
from .scan import Scan
from .slow_phase import first_phase
from .transforms import PLAIN

logger = logging.getLogger(__name__)

SAMPLE = 64


def best_start(scan: Scan) -> tuple[str, ObjectImage]:
    """Return the name and the image of the start that fits the patterns better."""
    flat = flat_start(scan)
    image = gradient_start(scan, flat)
    if sampled_error(scan, flat) <= sampled_error(scan, image):
        logger.info('Starting flat: the phase gradients of the patterns do not fit better')
        return 'flat', flat
    return 'gradients', image


def flat_start(scan: Scan) -> ObjectImage:
    """Return the flat object that predicts the mean counts per frame."""
    value = np.complex64(flat_transmission(scan))
    weight = relative_illumination(scan, scan.probe)
    return ObjectImage(np.full(scan.frame.shape, value), weight, scan.frame.origin_px)


def gradient_start(scan: Scan, flat: ObjectImage | None = None) -> ObjectImage:
    """Return the flat object (`flat_start`) with the phase that the displacements of the patterns
    give.
    """
    flat, phase = flat or flat_start(scan), first_phase(scan, normalised_probe(scan))
    turned = flat.object * np.exp(1j * phase)
    return replace(flat, object=turned.astype(np.complex64))


def sampled_error(scan: Scan, image: ObjectImage) -> float:
    """Return the fourier_error of an image over at most `SAMPLE` patterns, far from one another."""
    rows = np.linspace(0, len(scan) - 1, min(len(scan), SAMPLE)).astype(int)
    return predict(PLAIN, scan, image, normalised_probe(scan), rows)[0]
