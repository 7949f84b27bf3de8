"""How the learning rate falls, for both back ends."""

from __future__ import annotations

import math

LOWEST_SHARE = 1 / 100  # of the rate, where the cosine ends


def cosine(epochs: int, total: int) -> float:
    """Return the share of the learning rate after some of all epochs."""
    return LOWEST_SHARE + (1 - LOWEST_SHARE) * (1 + math.cos(math.pi * epochs / total)) / 2
