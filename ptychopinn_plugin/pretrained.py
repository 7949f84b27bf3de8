"""The network that comes with the plug-in: trained on simulated scans of procedural objects by
`benchmarks/pretrain.py`, never on a measured scan.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from .archive import load_model
from .backends.base import Model

FILE = Path(__file__).with_name('pretrained.h5.zip')


@cache
def pretrained() -> Model:
    """Return the model of the architecture `unrolled` that comes with the plug-in.

    Raises `ModelFileError` when the file is missing or damaged: the installation is broken.
    """
    return load_model(FILE)
