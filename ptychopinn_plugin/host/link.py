"""What a running Ptychodus lends a reconstructor: the stop, the progress bar, the main thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

REST_S = 0.3  # for the window's own events, between two products
WAITING_BYTES = 2**30  # of products that the main thread has not taken


class HostLink:
    """Before `connect`, and in a script that builds the library alone, nothing stops or shows."""

    def __init__(self) -> None:
        self._monitor: Any = None
        self._tasks: Any = None
        self.has_window = False
        self._shown_s: float | None = 0.0
        # Each is counted by one thread alone.
        self._sent_bytes = self._taken_bytes = 0

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

    def sent(self, size_bytes: int) -> None:
        """Note that a product was handed to the host: behind it comes word that it was taken."""
        if self._tasks is not None:
            self._shown_s = None
            self._sent_bytes += size_bytes
            self._tasks.put_foreground_task(lambda: self._note(size_bytes))

    def is_full(self) -> bool:
        """Tell whether enough products wait for the main thread: one that waits for the run itself,
        as in a script, takes none before the end.
        """
        return self._sent_bytes - self._taken_bytes >= WAITING_BYTES

    def is_behind(self) -> bool:
        """Tell whether a window still has to show what it got, or has just done so.

        Ptychodus takes a third of a second to show a product, and its main thread serves tasks
        until none is left: one more each time would freeze its window. Scripts and batch runs are
        never behind; see `is_full`.
        """
        if not self.has_window or self._tasks is None:
            return False
        return self._shown_s is None or time.monotonic() - self._shown_s < REST_S

    def _note(self, size_bytes: int) -> None:
        self._shown_s = time.monotonic()
        self._taken_bytes += size_bytes

    def in_foreground(self, task: Callable[[], None]) -> None:
        """Run `task` in the host's main thread, at once where there is no host."""
        if self._tasks is None:
            task()
        else:
            self._tasks.put_foreground_task(task)
