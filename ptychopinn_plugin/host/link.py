"""What a running Ptychodus lends a reconstructor: the stop, the progress bar, the main thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

REST_S = 0.3  # for the window's own events, between two products


class HostLink:
    """Before `connect`, and in a script that builds the library alone, nothing stops or shows."""

    def __init__(self) -> None:
        self._monitor: Any = None
        self._tasks: Any = None
        self.has_window = False
        self._shown_s: float | None = 0.0

    def connect(self, monitor: Any, tasks: Any) -> None:
        """Take the host's task monitor and task manager."""
        self._monitor, self._tasks = monitor, tasks

    def stopping(self) -> bool:
        """Tell whether the user pressed Stop, or the host is closing."""
        asked = self._monitor is not None and bool(self._monitor.is_stopping)
        return asked or (self._tasks is not None and bool(self._tasks.is_stopping))

    def show_progress(self, progress: int, goal: int) -> None:
        """Move the host's progress bar between two yields."""
        if self._monitor is not None:
            self._monitor.update_progress(progress, goal)

    def sent(self) -> None:
        """Note that a product was handed to the host: behind it comes word that it was shown."""
        if self.has_window and self._tasks is not None:
            self._shown_s = None
            self._tasks.put_foreground_task(self._note)

    def is_behind(self) -> bool:
        """Tell whether a window still has to show what it got, or has just done so.

        Ptychodus takes a third of a second to show a product, and its main thread serves tasks
        until none is left: one more each time would freeze its window. Scripts and batch runs get
        every product.
        """
        if not self.has_window or self._tasks is None:
            return False
        return self._shown_s is None or time.monotonic() - self._shown_s < REST_S

    def _note(self) -> None:
        self._shown_s = time.monotonic()

    def in_foreground(self, task: Callable[[], None]) -> None:
        """Run `task` in the host's main thread, at once where there is no host."""
        if self._tasks is None:
            task()
        else:
            self._tasks.put_foreground_task(task)
