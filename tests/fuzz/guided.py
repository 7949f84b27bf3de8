"""The reading child with the package instrumented for Atheris."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=['ptychopinn_plugin']):
    from .child import run

run(sys.argv[1])
