"""Incoherent modes of a probe: more of them from one, and the orthogonal ones that say the same.

Waves (P, N, N); their intensities add, so any unitary mixture of the modes describes the same beam.
"""

from __future__ import annotations

import numpy as np

from .reference import Wave
from .scan import Array, Bool, Complex

DARK = 1e-9  # of all power
MODE_DECAY = 0.3  # each mode has this share of the power of the one before: 0.72, 0.22, 0.06


def with_modes(given: Wave, modes: int) -> Wave:
    """Return `modes` orthogonal modes (P, N, N) of total power 1 that begin with those `given`."""
    made = given / np.sqrt(power(given))
    side = given.shape[-1]
    weight = np.abs(made[0]) ** 2 / power(made[:1])
    r = np.arange(side, dtype=np.float64) - (side - 1) / 2
    # Levelled off outside the beam, else the powers would lift its tails at the edge of the window.
    y = np.tanh(r / np.sqrt((weight.sum(1) * r**2).sum()))
    x = np.tanh(r / np.sqrt((weight.sum(0) * r**2).sum()))
    orders = [(s - j, j) for s in range(1, modes + 1) for j in range(s + 1)]
    for i, j in orders[: modes - len(made)]:
        mode = y[:, None] ** i * x**j * made[0]
        for other in (*made, *made):  # once more removes what rounding left
            mode = mode - (other.conj() * mode).sum() / power(other) * other
        mode *= np.sqrt(MODE_DECAY * power(made[-1]) / power(mode))
        made = np.concatenate([made, mode[None]])
    result: Wave = made / np.sqrt(power(made))
    return result


def adjusted(probe: Complex, modes: int) -> Complex:
    """Return the probe (P, N, N) with `modes` modes and the same total power: its first ones that
    have any, and more made from the first of them.
    """
    given = probe[~dark(probe)][:modes]
    made = with_modes(given.astype(np.complex128), modes) * np.sqrt(power(probe))
    result: Complex = made.astype(np.complex64)
    return result


def dark(probe: Complex) -> Bool:
    """Return which modes (P,) have no power to speak of: no update would give them any."""
    powers = (np.abs(probe.astype(np.complex128)) ** 2).sum((1, 2))
    found: Bool = powers <= DARK * powers.sum()
    return found


def orthogonal(probe: Complex) -> Complex:
    """Return the orthogonal modes (P, N, N), strongest first, that light the same (P, N, N).

    Each keeps the phase that makes its overlap with the old mode of its number real and positive.
    """
    flat = probe.reshape(len(probe), -1).astype(np.complex128)
    _, vectors = np.linalg.eigh(flat.conj() @ flat.T)
    mix = vectors[:, ::-1].T
    own = np.diag(mix)
    mix = mix * np.where(own == 0, 1, np.exp(-1j * np.angle(own)))[:, None]
    modes: Complex = (mix @ flat).reshape(probe.shape).astype(np.complex64)
    return modes


def power(waves: Array) -> float:
    """Return the total power of waves of any shape."""
    return float((np.abs(waves) ** 2).sum())
