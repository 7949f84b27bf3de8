"""Plain ePIE in NumPy, one pattern at a time (Maiden and Rodenburg 2009,
doi:10.1016/j.ultramic.2009.05.012):

    O += a conj(P) / max |P|^2 (psi' - psi),    P += b conj(O) / max |O|^2 (psi' - psi),

psi' being psi = P O with the measured amplitudes on the detector, and a = b = 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from contenders.race import State

from ptychopinn_plugin.geometry import windows
from ptychopinn_plugin.scaling import amplitudes, normalised_probe
from ptychopinn_plugin.scan import Array, Complex, Float, Scan
from ptychopinn_plugin.starts import flat_start

KEPT_BYTES = 1 << 30  # of shifted probes; with more, or a changing probe, they are made anew


def run(scan: Scan, update_probe: bool, threads: int, device: str) -> Iterator[State]:
    """Yield the object and probe after every sweep, from the flat start; NumPy's transforms use one
    thread, on the CPU whatever the device of the others.
    """
    rng = np.random.default_rng(0)
    object_, probe = flat_start(scan).object.copy(), normalised_probe(scan)
    place, side = windows(scan), scan.side_px
    good = np.fft.ifftshift(~scan.bad_pixels)
    measured = np.fft.ifftshift(amplitudes(scan.counts), axes=(-2, -1)) * np.float32(side)
    keep = not update_probe and len(scan) * probe.nbytes < KEPT_BYTES
    kept = [_shifted(probe, s) for s in place.shift_px] if keep else []
    number = 0
    while True:
        number += 1
        for row in rng.permutation(len(scan)):
            y, x = place.corner_px[row]
            patch = object_[y : y + side, x : x + side]
            beam = kept[row] if keep else _shifted(probe, place.shift_px[row])
            change = _change(patch * beam, measured[row], good)
            if update_probe:
                step = (patch.conj() * change) / (np.abs(patch) ** 2).max()
                moved = probe + _shifted(step, -place.shift_px[row])
                probe = moved.astype(np.complex64, copy=False)
            power = (np.abs(beam) ** 2).sum(0).max()
            patch += (beam.conj() * change).sum(0) / power
        yield State(number, object_.copy(), probe)


def _change(wave: Complex, measured: Float, good: Array) -> Complex:
    """Return psi' - psi of the modes (P, N, N); bad pixels keep what is predicted."""
    field = np.fft.fft2(wave)
    modulus = np.abs(field[0]) if len(field) == 1 else np.sqrt((np.abs(field) ** 2).sum(0))
    ratio = np.where(good, measured / (modulus + np.float32(1e-6)) - np.float32(1), np.float32(0))
    return np.fft.ifft2(ratio * field).astype(np.complex64, copy=False)


def _shifted(wave: Complex, shift_px: Float) -> Complex:
    """Return the wave (P, N, N) moved by (y, x) [px]."""
    if not shift_px.any():
        return wave
    k = np.fft.fftfreq(wave.shape[-1])
    y, x = (np.exp(-2j * np.pi * k * d).astype(np.complex64) for d in shift_px)
    moved = np.fft.ifft2(np.fft.fft2(wave) * (y[:, None] * x))
    return moved.astype(np.complex64, copy=False)
