"""A training and a reconstruction: the events of a child process as the host's outputs.

Imported when the first run starts: Ptychodus need not wait for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from ptychodus.api.product import LossValue, Product
from ptychodus.api.reconstruct import ReconstructInput, ReconstructOutput, TrainOutput

from .. import files
from ..errors import OutputError
from ..result import Epoch, Sweep
from ..scan import Array, Scan
from ..worker import Event, ReconstructJob, Run, Saved, Started, Step, StopRun, TrainJob
from ..worker.protocol import CURVE, MODEL
from .convert import product_of_sweep, scan_of_input
from .link import HostLink
from .model_card import EXTENSION, ModelCard

logger = logging.getLogger(__name__)

PROGRESS_PER_EPOCH = 100
INPAINTED_AT_ONCE = 256  # patterns, in float64
FULL = (
    'The sweeps that wait for the script to take them fill 1 GiB: of those that follow it gets the '
    'last one, and the losses of all'
)
MODEL_FILE, CURVE_FILE, CHECKPOINTS = 'model' + EXTENSION, 'training_loss.png', 'model.training'


class Training:
    """A training run: yields after every epoch and leaves its model in the output folder."""

    def __init__(self, job: TrainJob, output_path: Path, card: ModelCard, link: HostLink) -> None:
        self._job, self._output_path = job, output_path
        self._card, self._link = card, link
        self._goal = job.training.epochs * PROGRESS_PER_EPOCH
        self._history: list[Epoch] = []
        self._saved = False

    def outputs(self) -> Iterator[TrainOutput]:
        """Train. Stopped, also by closing this generator, keep the best model so far."""
        with Run(self._job, self._link.stopping) as run:
            try:
                for event in run:
                    self._take(event, run)
                    if isinstance(event, Epoch):
                        yield self._output()
            except GeneratorExit:
                run.stop()
                for event in run:
                    self._take(event, run)
                raise
            finally:
                self._end(run)

    def _take(self, event: Event, run: Run) -> None:
        if isinstance(event, Started):
            logger.info('Training with %s on %s', event.backend, event.device)
        elif isinstance(event, Step):
            self._link.show_progress(int(event.share * self._goal), self._goal)
        elif isinstance(event, Epoch):
            self._history.append(event)
            logger.info(
                'Epoch %d/%d: training loss %.4g, validation loss %.4g, %.1f s',
                event.number, event.total, event.training_loss, event.validation_loss,
                event.seconds,
            )  # fmt: skip
            self._card.history = tuple(self._history)
            self._link.in_foreground(self._card.notify_observers)
        elif isinstance(event, Saved):
            # Taken first: an output that cannot be written must not cost the model.
            self._card.read(run.folder / MODEL)
            logger.info('Training %s. Model: %s', event.ended, self._card.summary())
            self._deliver(run)

    def _deliver(self, run: Run) -> None:
        target = self._output_path / MODEL_FILE
        self._card.path = None
        try:
            run.deliver(MODEL, target)
        except OutputError:
            logger.warning('The model is loaded and not yet on the disk: save it elsewhere')
            raise
        self._card.path, self._saved = target, True

    def _end(self, run: Run) -> None:
        self._link.in_foreground(self._card.notify_observers)
        if self._saved and (run.folder / CURVE).exists():
            run.deliver(CURVE, self._output_path / CURVE_FILE)
        elif not self._history:
            logger.warning('The training ended before its first epoch had finished: no model')

    def _output(self) -> TrainOutput:
        return TrainOutput(
            training_loss=[LossValue(e.number, e.training_loss) for e in self._history],
            validation_loss=[LossValue(e.number, e.validation_loss) for e in self._history],
            progress=self._history[-1].number * PROGRESS_PER_EPOCH,
        )


def reconstruction(
    parameters: ReconstructInput, job: ReconstructJob, link: HostLink
) -> Iterator[ReconstructOutput]:
    """Yield the product of the start and of every sweep.

    A window that cannot follow is spared the sweeps in between, never the last one; so is a script
    that takes nothing until the run ends, and whose memory they would fill.
    """
    losses: list[float] = []
    waiting: Sweep | None = None
    told = False

    def output(sweep: Sweep) -> ReconstructOutput:
        product = product_of_sweep(
            parameters, job.scan, sweep, losses, update_probe=job.reconstruction.update_probe,
            correct_positions=job.reconstruction.correct_positions,
        )  # fmt: skip
        # One yield alone is all of the work; the start of several is none of it.
        return ReconstructOutput(product, sweep.number if sweep.total else 1)

    try:
        run = Run(job, link.stopping)
    except StopRun:
        return
    with run:
        for event in run:
            if isinstance(event, Started):
                logger.info('Reconstructing with %s on %s', event.backend, event.device)
            elif isinstance(event, Sweep):
                losses.append(event.loss)
                waiting = event
                if event.number in (0, event.total) or not (link.is_behind() or link.is_full()):
                    waiting = None
                    made = output(event)
                    yield made
                    link.sent(_size_bytes(made.product))
                elif link.is_full() and not told:
                    told = True
                    logger.info(FULL)
    if waiting is not None:  # it was stopped
        yield output(waiting)
    if losses:
        logger.info('%d sweeps, error %.5f', len(losses) - 1, losses[-1])


def _size_bytes(product: Product) -> int:
    return product.object_.get_array().nbytes + product.probes.get_array().nbytes


def export(parameters: ReconstructInput, target: Path) -> int:
    """Write a scan for training; return the number of its patterns."""
    scan = scan_of_input(parameters)
    # Ptychodus asks for it in its main thread: the window stands still until it is written.
    files.save_scan(_for_export(scan), target, packed=False)
    return len(scan)


def _for_export(scan: Scan) -> Scan:
    counts = scan.counts
    if scan.bad_pixels.any():
        counts = _inpainted(counts, scan.bad_pixels)
    # Zeros, as the host writes: to its own adapters every value is another object.
    return replace(scan, counts=counts, scan_index=np.zeros(len(scan), np.int64))


def _inpainted(counts: Array, bad_pixels: Array) -> Array:
    """Return counts (M, N, N) with the bad pixels continued from their neighbours, as in 1.7."""
    from skimage.restoration import inpaint_biharmonic

    filled = counts.copy()
    for start in range(0, len(counts), INPAINTED_AT_ONCE):
        block = counts[start : start + INPAINTED_AT_ONCE]
        smooth = inpaint_biharmonic(
            np.moveaxis(block, 0, -1).astype(np.float64), bad_pixels, channel_axis=-1
        )
        values = np.maximum(smooth[bad_pixels].T, 0)
        filled[start : start + len(block), bad_pixels] = (
            np.rint(values) if counts.dtype.kind in 'ui' else values
        )
    return filled
