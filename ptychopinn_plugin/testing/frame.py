"""What a reconstruction must hand back as it was given: everything but object, probe and losses."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
from ptychodus.api.product import Product

from .recording import contents, difference

GEOMETRY = 1e-9  # relative, for metres and metadata


def assert_same_frame(product: Product, given: Product) -> None:
    """Check that a product kept metadata, positions, pixel sizes, and the object's frame."""
    for key, value in asdict(given.metadata).items():
        kept = getattr(product.metadata, key)
        assert same(kept, value), f'metadata {key} is {kept!r}, was {value!r}'
    held, wanted = contents(product), contents(given)
    assert np.array_equal(held['index'], wanted['index']), 'other scan indexes'
    assert difference(held['positions'], wanted['positions']) <= GEOMETRY, 'other positions'
    assert held['object'].shape == wanted['object'].shape, f'the object is {held["object"].shape}'
    assert held['probe'].shape[-2:] == wanted['probe'].shape[-2:], f'probe {held["probe"].shape}'
    new, old = _lengths(product), _lengths(given)
    for key, value in old.items():
        assert same(new[key], value), f'{key} is {new[key]} m, was {value} m'


def _lengths(product: Product) -> dict[str, float]:
    """Return the pixel sizes and the centre of the object, in metres, by their names."""
    parts: dict[str, Any] = {
        'object': product.object_.get_pixel_geometry(),
        'centre of the object': product.object_.get_center(),
        'probe': product.probes.get_pixel_geometry(),
    }
    return {f'{what}, {k}': v for what, part in parts.items() for k, v in asdict(part).items()}


def same(kept: Any, value: Any) -> bool:
    """Tell whether a value was kept; a number to its relative rounding."""
    if isinstance(value, float):
        return math.isclose(kept, value, rel_tol=GEOMETRY)
    return bool(kept == value)
