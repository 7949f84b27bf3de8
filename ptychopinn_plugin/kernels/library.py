"""The compiled library: where it lies and whether it is the one that this code expects."""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path

logger = logging.getLogger(__name__)

VERSION = 6  # of the functions and their arguments, as in kernels.c
NAME = '_kernels.so'


def found(folder: Path | None = None) -> ctypes.CDLL | None:
    """Return the library of this package, or None where there is none that fits."""
    file = (folder or Path(__file__).parent) / NAME
    if not file.is_file():
        return None
    try:
        library = ctypes.CDLL(str(file))
        number = library.version
    except (OSError, AttributeError) as error:
        logger.warning('%s cannot be loaded, so NumPy does its work: %s', file, error)
        return None
    number.restype = ctypes.c_int64
    if number() != VERSION:
        logger.warning(
            '%s is of version %d, not %d, so NumPy does its work. Install the package anew',
            file, number(), VERSION,
        )  # fmt: skip
        return None
    return library
