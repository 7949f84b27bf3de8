"""The child process: `python -m ptychopinn_plugin.worker.child JOB_FOLDER`.

It speaks on a private copy of standard output. What libraries print goes to standard error, which
the parent keeps the end of. It ends when its standard input ends, that is when the parent does.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from .. import archive, files, pipeline
from ..backends import registry
from ..backends.base import Backend, StopTraining
from ..config import RuntimeConfig
from ..errors import PluginError, WorkerError, out_of_memory
from ..result import Sweep
from ..scan import Scan
from . import protocol
from .protocol import Done, Event, Failed, Log, ReconstructJob, Saved, Started, Step, TrainJob

STEP_S = 0.1  # between two reports of progress
# For the start before the framework is imported: beside that, it takes ten times as long.
HEAD_START_S = 0.5
TRACE_LETTERS = 8000  # of a traceback in the log; an error can have a message of any length


class Channel:
    """The line to the parent: events out, the stop in."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._out = os.dup(1)  # not inherited by processes that a library may start
        os.dup2(2, 1)
        self.stop = threading.Event()

    def listen(self) -> None:
        """Watch for the stop and for the end of the parent, in a thread of its own."""
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, event: Event) -> None:
        """Send an event; ends the process where nobody listens any more."""
        line = protocol.encode(event, self._folder)
        try:
            with self._lock:
                while line:
                    line = line[os.write(self._out, line) :]
        except BrokenPipeError:
            self._orphaned()

    def _listen(self) -> None:
        while heard := os.read(0, 64):
            if protocol.STOP.strip() in heard:
                self.stop.set()
                self.send(protocol.Stopping())
        self._orphaned()

    def _orphaned(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)  # the parent can no longer
        os._exit(1)


class _Records(logging.Handler):
    def __init__(self, send: Callable[[Event], None]) -> None:
        super().__init__(logging.INFO)
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += '\n' + _cut(logging.Formatter().formatException(record.exc_info))
        self._send(Log(record.levelno, text))


def _cut(trace: str) -> str:
    half = TRACE_LETTERS // 2
    return trace if len(trace) <= 2 * half else f'{trace[:half]}\n...\n{trace[-half:]}'


def main(folder: Path) -> None:
    """Do the job of a folder and tell the parent; never returns."""
    # The parent decides about an interrupt: Ctrl-C must not tear a training that it wants to keep.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel(folder)
    channel.listen()
    own = logging.getLogger('ptychopinn_plugin')
    own.setLevel(logging.INFO)
    own.addHandler(_Records(channel.send))
    own.propagate = False
    channel.send(_outcome(folder, channel))
    sys.stderr.flush()
    os._exit(0)  # a framework can take seconds to tear itself down


def _outcome(folder: Path, channel: Channel) -> Done | Failed:
    try:
        job = protocol.read_job(folder)
        if isinstance(job, TrainJob):
            _train(job, folder, channel)
        else:
            _reconstruct(job, folder, channel)
    except PluginError as error:
        return Failed(type(error).__name__, str(error))
    except MemoryError as error:
        known = out_of_memory(error)
        return Failed(type(known).__name__, str(known))
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent must learn of it
        traceback.print_exc()
        return Failed(WorkerError.__name__, f'Unexpected {type(error).__name__}: {error}')
    return Done()


def _train(job: TrainJob, folder: Path, channel: Channel) -> None:
    scans, validation = (
        [files.load_scan(p) for p in paths] for paths in (job.scans, job.validation)
    )
    _load(job.runtime.backend, job, channel)
    _check((*scans, *validation), job.runtime)
    last = 0.0

    def step(share: float) -> None:
        nonlocal last
        if channel.stop.is_set():
            raise StopTraining('Stopped')
        if time.monotonic() - last > STEP_S:
            last = time.monotonic()
            channel.send(Step(share))

    model = pipeline.train(
        scans, validation=validation, model=job.model, training=job.training, runtime=job.runtime,
        folder=job.checkpoints, on_epoch=channel.send, on_step=step,
    )  # fmt: skip
    archive.save_model(model, folder / protocol.MODEL)
    channel.send(Saved(str(model.summary.get('ended', ''))))
    from ..report import save_loss_curve

    save_loss_curve(model.history, folder / protocol.CURVE)


def _reconstruct(job: ReconstructJob, folder: Path, channel: Channel) -> None:
    """Send the start and every sweep; the first picture need not wait for the framework."""
    name = registry.installed(job.runtime.backend)
    # Where a GPU is asked for, only the framework can tell whether there is one.
    late = job.runtime.device == 'cuda' or pipeline.starts_with_network(
        job.model, job.reconstruction
    )
    if late:
        backend = _load(name, job, channel)
        start = _begin(job, channel, backend)
        _check_start(job)
    else:
        beside = ThreadPoolExecutor(1)
        begun = beside.submit(_begin, job, channel)
        checked = beside.submit(_check_start, job)
        wait([begun], HEAD_START_S)
        backend = _load(name, job, channel)
        start = begun.result()
        checked.result()
    for sweep in pipeline.iterate(
        job.scan, job.model, backend=backend, reconstruction=job.reconstruction,
        runtime=job.runtime, start=start,
    ):  # fmt: skip
        if sweep is not start:
            _send_sweep(sweep, folder, channel)


def _begin(job: ReconstructJob, channel: Channel, backend: Backend | None = None) -> Sweep:
    start = pipeline.begin(
        job.scan, job.model, reconstruction=job.reconstruction, runtime=job.runtime,
        backend=backend,
    )  # fmt: skip
    channel.send(start)
    return start


def _check_start(job: ReconstructJob) -> None:
    _check([job.scan], job.runtime, probe_is_guess=job.reconstruction.update_probe)


def _check(scans: Iterable[Scan], runtime: RuntimeConfig, *, probe_is_guess: bool = False) -> None:
    if runtime.checks:
        from .. import checks  # what it imports takes as long as a start

        for scan in scans:
            checks.warn_about(scan, probe_is_guess=probe_is_guess)


def _send_sweep(sweep: Sweep, folder: Path, channel: Channel) -> None:
    while protocol.unread_sweeps(folder) >= protocol.UNREAD_SWEEPS:
        time.sleep(0.01)
    channel.send(sweep)


def _load(name: str, job: protocol.Job, channel: Channel) -> Backend:
    backend = registry.load(name)
    channel.send(Started(backend.name, backend.device(job.runtime)))
    return backend


if __name__ == '__main__':
    main(Path(sys.argv[1]))
