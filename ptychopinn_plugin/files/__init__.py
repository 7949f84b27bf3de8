"""Scans and results on disk. Formats are recognised by content; every write is whole or absent.

The formats, the scale and the refusals are specified in specs/data_contracts.md.
"""

from __future__ import annotations

from .description import describe, is_scan
from .formats import (
    RESULT_SUFFIXES,
    SCAN_SUFFIXES,
    load_scan,
    save_result,
    save_scan,
    scan_sources,
    scan_targets,
)
from .hdf5 import Patterns, scan_of
from .objects import load_object
from .paths import check_distinct, check_target
from .product import Product, load_product

__all__ = [
    'RESULT_SUFFIXES', 'SCAN_SUFFIXES', 'Patterns', 'Product', 'check_distinct', 'check_target',
    'describe', 'is_scan', 'load_object', 'load_product', 'load_scan', 'save_result', 'save_scan',
    'scan_of', 'scan_sources', 'scan_targets',
]  # fmt: skip
