"""Scans and results on disk. Formats are recognised by content; every write is whole or absent.

The formats, the scale and the refusals are specified in specs/data_contracts.md.
"""

from __future__ import annotations

from .formats import RESULT_SUFFIXES, SCAN_SUFFIXES, describe, load_scan, save_result, save_scan
from .paths import check_target
from .product import (
    Product,
    StoredObject,
    load_object,
    load_product,
    save_product,
    save_reconstruction_npz,
)

__all__ = [
    'RESULT_SUFFIXES', 'SCAN_SUFFIXES', 'Product', 'StoredObject', 'check_target', 'describe',
    'load_object', 'load_product', 'load_scan', 'save_product', 'save_reconstruction_npz',
    'save_result', 'save_scan',
]  # fmt: skip
