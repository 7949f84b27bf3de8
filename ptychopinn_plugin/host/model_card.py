"""The model that a reconstructor holds, and what a user wants to know about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptychodus.api.observer import Observable

from ..config import AUTOENCODER, UNROLLED

if TYPE_CHECKING:
    from ..backends.base import Model
    from ..result import Epoch

EXTENSION = '.h5.zip'


class ModelCard(Observable):
    """The loaded model, its facts, and the epochs of the training that runs or ran last.

    Observers are told in the host's main thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self.model: Model | None = None
        self.facts: Mapping[str, Any] = {}
        self.path: Path | None = None
        self.history: tuple[Epoch, ...] = ()

    def read(self, path: Path) -> None:
        """Take the model of a file; the one before stays when it is refused."""
        from .. import archive

        model, facts = archive.load_model(path), archive.describe_model(path)
        self.model, self.facts, self.path, self.history = model, facts, path, model.history

    def can_estimate(self) -> bool:
        """Tell whether there is a model that makes an object of the patterns, for a start."""
        return self.model is not None and self.model.config.architecture == AUTOENCODER

    def summary(self) -> str:
        """Return one line: architecture, mode, size, who wrote it, on what, when."""
        if self.model is None:
            return 'No model is loaded.'
        config, facts = self.model.config, self.facts
        trained = facts['summary'].get('scans')
        on = f' on {_names(trained)}' if trained else ''
        when = str(facts['created'])[:16].replace('T', ' ')
        # The network of the canvas takes any pattern size.
        sizes = (
            ''
            if config.architecture == UNROLLED
            else (f', N={config.pattern_size_px}, gridsize {config.gridsize}')
        )
        return (
            f'{config.architecture}, {config.mode}{sizes}; {len(self.model.history)} epochs with '
            f'{self.model.writer}{on}, {when}'
        )


def _names(scans: Any) -> str:
    names = [str(s) for s in scans] if isinstance(scans, (list, tuple)) else [str(scans)]
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')
