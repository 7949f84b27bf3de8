"""What a person reads, on standard error: lines, and one progress bar with time left (plain lines
when it is not a terminal). Text of files steers no terminal.
"""

from __future__ import annotations

import logging
import sys
from types import TracebackType
from typing import Any

from ..errors import printable


class Bar:
    """A rich progress bar of `total` steps, or one line per note where nobody watches."""

    def __init__(self, title: str, total: float) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True)
        self._live = self._console.is_terminal
        self._progress = Progress(
            TextColumn('{task.description}'), BarColumn(), TextColumn('{task.percentage:>3.0f} %'),
            TimeElapsedColumn(), TextColumn('left'), TimeRemainingColumn(),
            TextColumn('{task.fields[note]}'),
            console=self._console, transient=False, disable=not self._live,
        )  # fmt: skip
        self._task = self._progress.add_task(title, total=total, note='')
        self._title = title

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def move(self, done: float, note: str | None = None, *, total: float | None = None) -> None:
        """Show that `done` steps (of another `total`, if given) are done, with a note about the
        last one.
        """
        note = None if note is None else printable(note)
        fields: dict[str, Any] = {} if note is None else {'note': note}
        if total is not None:
            fields['total'] = total
        self._progress.update(self._task, completed=done, **fields)
        if note and not self._live:
            print(f'{self._title}: {note}', file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Print a line for a person, on standard error so that standard output stays for results."""
    print(printable(text), file=sys.stderr, flush=True)


class PrintableLines(logging.Formatter):
    """Formats records, tracebacks included, as lines that steer no terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        return '\n'.join(map(printable, super().format(record).split('\n')))
