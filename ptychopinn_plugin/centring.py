"""How far the patterns of a scan lie beside the probe's far field. Letters as in `scan`."""

from __future__ import annotations

import numpy as np
from scipy import fft

from .scan import Array, Double

OFF_CENTRE_PX = 0.7  # centred patterns lie nearer: benchmarks/checks.py


def off_centre_px(counts: Array, far: Array, good: Array) -> tuple[float, float]:
    """Return by how much (y, x) the mean pattern (N, N) lies beside the probe's far field (N, N),
    both in counts of any scale, zero where not good (N, N), the zero frequency in the middle [px].
    """
    n = counts.shape[-1]
    seen, probe = np.sqrt(np.maximum(counts, 0)), np.sqrt(far)
    overlap = fft.ifft2(fft.fft2(seen) * fft.fft2(probe).conj()).real
    # Bad pixels hide another part of the probe at every shift.
    shown = fft.ifft2(fft.fft2(good * 1.0) * fft.fft2(probe**2).conj()).real
    match = overlap / np.sqrt(np.maximum(shown, 1e-3 * shown.max()))
    y, x = np.unravel_index(int(match.argmax()), match.shape)
    return _peak(match[:, x], int(y), n), _peak(match[y], int(x), n)


def _peak(values: Double, at: int, n: int) -> float:
    """Return the place of the peak at index `at` of a cyclic curve, between -n/2 and n/2."""
    before, here, after = values[at - 1], values[at], values[(at + 1) % n]
    bend = before - 2 * here + after
    part = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return float((at + n // 2) % n - n // 2 + part)
