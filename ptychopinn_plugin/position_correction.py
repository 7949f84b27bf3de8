"""Where the patterns were really taken, found between sweeps from what each of them misses.

A pattern that was taken d [px] from where it was thought to be differs from its prediction by

    sqrt(I) - |F| = d . s,   s = Re{ conj(F) F{-O grad P} } / |F|  (summed over modes),

so d follows by least squares over the pixels of the pattern, the Gauss-Newton step of the amplitude
error (doi:10.1364/OE.16.007264). The slope of the probe is exact, by its Fourier transform; six
sums per pattern are all that is needed. A displacement goes on by half of its last change, since a
sweep sees only what the object has not yet taken up of it.

Photon noise and an object that is not finished displace patterns too. So a displacement is taken
from a normal distribution about the measured position, whose width is that of the displacements
found, and weighed against what the pattern misses: where they are no more than noise, they shrink
away. A displacement of all patterns alike only moves the object, and is removed; a stretched or
turned scan is not ambiguous, since the probe and the detector tell the scale and the axes. Numbers
and measurements: benchmarks/RESEARCH.md.

Letters as in `scan`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .geometry import Windows, windows_at
from .scan import Array, Complex, Double, Float, Frame, Scan

SUMS = 6
LARGEST_STEP_PX = 1.0  # of a pattern, by one sweep
LARGEST_DISPLACEMENT_PX = 6.0  # from the measured position
MOMENTUM = 0.5
DAMPING, DAMPING_MEDIAN = 0.05, 0.01  # of the squared slopes of a pattern, of the median pattern
DOUBT = 16.0  # variances of what patterns miss: while the object is not known, they err alike


def shift_slopes(probe: Complex) -> Complex:
    """Return the derivatives (2, P, N, N) of a probe (P, N, N) moved along y and x, per pixel."""
    k = np.fft.fftfreq(probe.shape[-1])
    spectrum = np.fft.fft2(probe)
    moved = [np.fft.ifft2(spectrum * (-2j * np.pi * a)) for a in (k[:, None], k[None])]
    return np.stack(moved).astype(np.complex64)


def shift_sums(
    field: Complex, sloped: Complex, modulus: Float, miss: Float, good: Float | None = None
) -> Float:
    """Return (B, 6): slope y and x times miss, slope y^2, x^2, y times x, and y^2 + x^2 times miss
    squared, summed over pixels.

    field is (B, P, N, N), sloped (B, 2, P, N, N) that of the exit waves of `shift_slopes`; modulus
    and miss, which follows it, are (B, N, N); good (N, N) is 1 or 0.
    """
    slope = (field.real[:, None] * sloped.real + field.imag[:, None] * sloped.imag).sum(2)
    slope /= modulus[:, None] + np.float32(1e-6)
    if good is not None:
        slope *= good
    y, x = slope[:, 0], slope[:, 1]
    missed = (slope**2).sum(1) * miss
    pairs = ((y, miss), (x, miss), (y, y), (x, x), (y, x), (missed, miss))
    return np.stack([np.einsum('byx,byx->b', a, b) for a, b in pairs], axis=1)


class Positions:
    """The positions of a scan while they are corrected."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._displacement = np.zeros((len(scan), 2))
        self._change = np.zeros((len(scan), 2))

    @property
    def px(self) -> Double:
        """Where the patterns are now, (M, 2)."""
        return self._scan.positions_px + self._displacement

    @property
    def windows(self) -> Windows:
        """The windows of the patterns now."""
        return windows_at(self.px, self._scan.side_px, self._scan.frame)

    @property
    def scan(self) -> Scan:
        """The scan with its patterns where they are now."""
        return moved_scan(self._scan, self.px, self._scan.frame)

    def correct(self, sums: Array) -> None:
        """Move the patterns by one step, for `shift_sums` (M, 6); where they are zero a pattern
        stays.
        """
        step = _step(sums.astype(np.float64), self._displacement)
        self._change = MOMENTUM * self._change + step
        found = self._displacement + self._change - self._change.mean(0)
        self._displacement = _limited(found, LARGEST_DISPLACEMENT_PX)


def _step(sums: Double, displacement: Double) -> Double:
    """Return by how much the patterns should move, (M, 2) [px], for sums (M, 6)."""
    sums, missed = sums[:, :5], sums[:, 5]
    mean = (sums[:, 2] + sums[:, 3]) / 2
    damping = DAMPING * mean + DAMPING_MEDIAN * np.median(mean) + 1e-30
    found = displacement + _solved(sums, damping)
    found -= found.mean(0)
    noise = missed / (2 * mean + 1e-30)
    known = DOUBT * noise / max(float((found**2).mean()), 1e-12)
    pulled = sums.copy()
    pulled[:, :2] -= known[:, None] * displacement
    return _limited(_solved(pulled, damping + known), LARGEST_STEP_PX)


def _solved(sums: Double, damping: Double) -> Double:
    """Return the least squares solutions (M, 2) with the damping (M,) added to the squares."""
    vy, vx, yy, xx, yx = sums.T
    yy, xx = yy + damping, xx + damping
    move = np.stack([xx * vy - yx * vx, yy * vx - yx * vy], 1) / (yy * xx - yx**2)[:, None]
    return np.asarray(move, np.float64)


def _limited(vectors: Double, largest: float) -> Double:
    length = np.maximum(np.hypot(*vectors.T), 1e-30)[:, None]
    return np.asarray(vectors * np.minimum(1, largest / length))


def with_room(scan: Scan) -> Scan:
    """Return the scan in a frame, larger where need be, that holds every position that a correction
    may find. The objects that came with the scan fill another frame and stay behind.
    """
    origin, shape = np.asarray(scan.frame.origin_px), np.asarray(scan.frame.shape)
    corner = scan.positions_px - (scan.side_px - 1) / 2 - origin
    room = math.ceil(LARGEST_DISPLACEMENT_PX)
    before = np.maximum(room - np.floor(corner.min(0)), 0).astype(int)
    end = np.ceil(corner.max(0)) + scan.side_px + room
    height, width = (int(n) for n in before + np.maximum(shape, end).astype(int))
    y, x = (float(v) for v in origin - before)
    return moved_scan(scan, scan.positions_px, Frame((height, width), (y, x)))


def moved_scan(scan: Scan, positions_px: Double, frame: Frame) -> Scan:
    """Return the scan with other positions (M, 2) in another frame, without objects."""
    return replace(
        scan, positions_px=positions_px, frame=frame, object_guess=None, true_object=None
    )
