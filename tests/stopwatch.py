"""Limits in seconds, on machines that stall.

A stall of the machine only ever adds time, and is no fault of ours: a test whose time is up runs
again, twice at most (`--only-rerun` in pyproject.toml). What is slow by itself is so every time.
"""

from __future__ import annotations

import time


class TooSlowError(AssertionError):
    """A limit in seconds was not kept; every other failure counts the first time."""


def assert_within(limit_s: float, begun_s: float, clock=time.monotonic) -> None:
    """Raise TooSlowError if more than `limit_s` have gone since `begun_s` on `clock`."""
    seconds = clock() - begun_s
    if seconds >= limit_s:
        raise TooSlowError(f'it took {seconds:.2f} s, not under {limit_s:g} s')
