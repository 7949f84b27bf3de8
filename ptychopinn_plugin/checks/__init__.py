"""Numbers that lie, found before a reconstruction hides them. NumPy and SciPy only.

Each check measures something that a true scan cannot show, or seldom, at thresholds that were set
on simulated and real scans (benchmarks/checks.py). Nothing here stops a run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from ..scan import Scan
from .beam import off, steady
from .detector import dead, hot, masked, saturated, stuck
from .finding import NOTE, WARNING, Finding, tell
from .optics import bright_field, centre, lengths, near_field, window
from .places import alone, order, overlap, repeated
from .sample import Sample
from .turned import turned
from .values import background, counts

__all__ = ['CHECKS', 'NOTE', 'WARNING', 'Finding', 'check_scan', 'tell', 'warn_about']

logger = logging.getLogger(__name__)

CHECKS: tuple[Callable[[Sample], Iterator[Finding]], ...] = (
    masked, stuck, counts, background, saturated, hot, dead, centre, bright_field, window,
    lengths, near_field, overlap, alone, repeated, order, turned, off, steady,
)  # fmt: skip


def check_scan(scan: Scan, *, probe_is_guess: bool = False) -> tuple[Finding, ...]:
    """Return what looks wrong with a scan, warnings first.

    `probe_is_guess` asks for the overlap that an unknown probe needs. A check that fails is logged
    with its traceback, and the others go on.
    """
    sample = Sample(scan, probe_is_guess=probe_is_guess)
    found: list[Finding] = []
    for check in CHECKS:
        try:
            found += check(sample)
        except Exception:  # a fault of a check must not cost the reconstruction
            logger.exception('Internal fault: the check "%s" of a scan failed', check.__name__)
    return tuple(sorted(found, key=lambda finding: finding.level != WARNING))


def warn_about(scan: Scan, *, probe_is_guess: bool = False) -> None:
    """Log what looks wrong with a scan: what a run does when it begins."""
    tell(check_scan(scan, probe_is_guess=probe_is_guess), scan.name)
