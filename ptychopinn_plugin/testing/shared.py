"""What the clauses of one contract class share, so that a slow run is made once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar


class Shared:
    """A store for every class that is derived, not inherited from its bases."""

    _store: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._store = {}

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """Return what `make` returned the first time; what it raised is not kept."""
        if key not in self._store:
            self._store[key] = make()
        return self._store[key]

    def new_folder(self) -> Path:
        """Return an empty folder that goes when the tests end."""
        root = self.once('root', lambda: tempfile.TemporaryDirectory(prefix='contract-'))
        return Path(tempfile.mkdtemp(dir=root.name))
