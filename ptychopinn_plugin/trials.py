"""Reconstructions that are not the user's."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from . import background, beam_intensity, looks, starts, sweeper


@contextmanager
def unheard() -> Iterator[None]:
    """Keep what is told of a trial or a repeat from being taken for news of the user's scan.
    Warnings are heard, and so is what other threads reconstruct meanwhile.
    """
    here = threading.get_ident()

    def heard(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.thread != here

    loggers = [module.logger for module in (starts, sweeper, looks, beam_intensity, background)]
    for told in loggers:
        told.addFilter(heard)
    try:
        yield
    finally:
        for told in loggers:
            told.removeFilter(heard)
