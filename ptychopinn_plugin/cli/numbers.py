"""Numbers of a report."""

from __future__ import annotations

import sys

import numpy as np


def finite(value: float) -> float | None:
    """Return a number that JSON can hold."""
    return float(value) if np.isfinite(value) else None


def peak_memory_bytes() -> int | None:
    """Return the largest resident size of this process so far; None where the system does not
    tell.
    """
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024
