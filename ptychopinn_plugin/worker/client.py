"""The parent's side: one child per run, its events, and an end to it whatever happens."""

from __future__ import annotations

import logging
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from .. import errors
from ..atomic import atomic_path
from ..errors import LOWER, OutputError, PluginError, TrainingError, WorkerError, explain
from ..result import Epoch
from . import protocol
from .protocol import Done, Event, Failed, Job, Log, Stopping, TrainJob, never

logger = logging.getLogger(__name__)

# -P: a torch.py in the folder where the user happens to be must not be imported.
COMMAND = (sys.executable, '-P', '-m', 'ptychopinn_plugin.worker.child')
POLL_S = 0.05
HEAR_S = 2.0  # for a child to say that it heard the stop
LAST_LINES_S = 2.0  # for what a dead child wrote to arrive
FINISH_S = 20.0  # for a stopped training to save its best model
TAIL_BYTES = 16_384
# Where libraries put temporary files: into the job's folder, which goes with the job.
TEMPORARY = ('TMPDIR', 'TEMP', 'TMP')
TAIL_LINES = 20
# The kernel kills what takes the last of the memory; TensorFlow falls over where it gets none.
WANT_OF_MEMORY = {signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT} if os.name == 'posix' else set()


class Run:
    """A job in a child process: iterate over its events; `stop` or `close` ends it.

    `stopping` is asked several times a second while an event is waited for, and while the job is
    written: then there is no child, and `StopRun` is raised. Use as a context manager: leaving it
    leaves no process, thread or file behind.
    """

    def __init__(self, job: Job, stopping: Callable[[], bool] = never) -> None:
        self._stopping = stopping
        self._training = isinstance(job, TrainJob)
        self._deadline: float | None = None
        self._stopped = self._heard = self._killed = self._keeps = False
        self.folder = _job_folder()
        try:
            _write(job, self.folder, stopping)
            self._process = _spawn(self.folder)
        except BaseException:
            self._remove()
            raise
        self._decoder = protocol.Decoder(self.folder)
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._tail = bytearray()
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._listen, self._drain)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """Process number of the child."""
        return self._process.pid

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Event]:
        """Yield the child's events until its job is done or stopped.

        Raises the child's `PluginError`, or `WorkerError` when it dies.
        """
        while True:
            line = self._next_line()
            if line is None:
                if not self._killed:
                    raise self._death()
                return
            event = self._decoder.event(line)
            if isinstance(event, Done):
                return
            if isinstance(event, Failed):
                if self._stopped and event.kind == TrainingError.__name__:
                    logger.warning('%s', event.message)
                    return
                raise self._error(event)
            if isinstance(event, Log):
                logger.log(event.level, '%s', event.text)
            elif isinstance(event, Stopping):
                self._heard, self._deadline = True, time.monotonic() + FINISH_S
            elif event is not None:
                self._keeps |= self._training and isinstance(event, Epoch)
                yield event

    def stop(self) -> None:
        """Ask for an end: a training with a finished epoch saves its best model, all else dies."""
        if self._stopped:
            return
        self._stopped = True
        if not self._keeps:
            self._kill()
            return
        self._deadline = time.monotonic() + HEAR_S
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(protocol.STOP)
            self._process.stdin.flush()
        except OSError:  # it is dead; the end of its output tells
            logger.debug('The child ended before it could be stopped')

    def close(self) -> None:
        """End the child at once and remove its files."""
        self._kill()
        self._process.wait()
        for thread in self._threads:
            thread.join(timeout=5)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                try:
                    stream.close()
                except OSError:  # the stop that a dead child never took
                    logger.debug('A pipe of the child was closed already')
        self._remove()

    def deliver(self, name: str, target: Path) -> None:
        """Copy a file of the job folder to `target`, whole or not at all."""
        with atomic_path(target) as part:
            shutil.copyfile(self.folder / name, part)

    def _next_line(self) -> bytes | None:
        """Return the next line, None at the end; stop and kill on time."""
        while True:
            if self._stopping():
                self.stop()
            if (
                self._deadline is not None
                and time.monotonic() > self._deadline
                and not self._killed
            ):
                wait = FINISH_S if self._heard else HEAR_S
                logger.warning('The training did not stop within %g s and was ended', wait)
                self._kill()
            try:
                return self._lines.get(timeout=POLL_S)
            except queue.Empty:
                if self._process.poll() is None:
                    continue
                # Its last lines may still be on their way; but a grandchild may hold the pipe
                # open after the child's death, and then no end of them ever comes.
                try:
                    return self._lines.get(timeout=0 if self._killed else LAST_LINES_S)
                except queue.Empty:
                    return None

    def _kill(self) -> None:
        self._killed = True
        if self._process.poll() is None:
            self._process.kill()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _drain(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        while heard := os.read(stream.fileno(), 65_536):
            self._tail += heard
            del self._tail[:-TAIL_BYTES]

    def _death(self) -> WorkerError:
        code = self._process.wait()
        logger.error('The last lines of the process were:\n%s', self._last_lines() or '(none)')
        how = f'signal {-code}' if code < 0 else f'exit code {code}'
        cure = 'Look at the log'
        if -code in WANT_OF_MEMORY:
            cure = f'The memory was too little, often. {LOWER}'
        return WorkerError(explain('The process that computes died', received=how, cure=cure))

    def _error(self, failed: Failed) -> PluginError:
        kind = getattr(errors, failed.kind, WorkerError)
        if kind is WorkerError:
            logger.error('The last lines of the process were:\n%s', self._last_lines() or '(none)')
        error: PluginError = kind(failed.message)
        return error

    def _last_lines(self) -> str:
        self._threads[1].join(timeout=0.5)
        lines = bytes(self._tail).decode(errors='replace').strip().splitlines()
        return '\n'.join(lines[-TAIL_LINES:])

    def _remove(self) -> None:
        try:
            shutil.rmtree(self.folder)
        except FileNotFoundError:
            return
        except OSError as error:
            logger.warning('The temporary folder %s could not be removed: %s', self.folder, error)


def _job_folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix='ptychopinn-job-'))
    except OSError as error:
        raise _no_room(error) from error


def _write(job: Job, folder: Path, stopping: Callable[[], bool]) -> None:
    try:
        protocol.write_job(job, folder, stopping)
    except OSError as error:
        raise _no_room(error) from error


def _no_room(error: OSError) -> OutputError:
    return OutputError(
        explain(
            'Cannot write the data of the run to the temporary folder',
            expected=f'room in {tempfile.gettempdir()}',
            received=error.strerror or str(error),
            cure='Free some, or set TMPDIR to a folder with more',
        )
    )


def _spawn(folder: Path) -> subprocess.Popen[bytes]:
    # The child must find what the parent finds, in the same order.
    paths = os.pathsep.join(os.path.abspath(p) for p in sys.path if p)
    try:
        return subprocess.Popen(
            [*COMMAND, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, 'PYTHONPATH': paths, **dict.fromkeys(TEMPORARY, str(folder))},
            start_new_session=True,  # Ctrl-C in the terminal is for the parent
        )
    except OSError as error:
        raise WorkerError(
            explain(
                'The process that computes could not be started',
                received=str(error),
                cure=f'Check that {COMMAND[0]} runs',
            )
        ) from error
