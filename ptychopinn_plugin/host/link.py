"""What a running Ptychodus lends a reconstructor: the stop, the progress bar, the main thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class HostLink:
    """Before `connect`, and in a script that builds the library alone, nothing stops or shows."""

    def __init__(self) -> None:
        self._monitor: Any = None
        self._tasks: Any = None

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

    def in_foreground(self, task: Callable[[], None]) -> None:
        """Run `task` in the host's main thread, at once where there is no host."""
        if self._tasks is None:
            task()
        else:
            self._tasks.put_foreground_task(task)
