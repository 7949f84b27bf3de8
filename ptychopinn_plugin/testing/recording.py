"""A run as the host makes it, and what could be seen of it at each of its yields."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray
from ptychodus.api.object import Object
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.product import Product
from ptychodus.api.reconstruct import ReconstructInput, Reconstructor, ReconstructOutput

Array = NDArray[Any]
T = TypeVar('T')


@dataclass(frozen=True, eq=False)
class Record:
    """The yields of a run; the goal before it and at each yield; copies made at each yield; the
    parts of its input that were not the same after it.
    """

    outputs: tuple[ReconstructOutput, ...]
    goals: tuple[Any, ...]
    copies: tuple[dict[str, Array], ...]
    changed: tuple[str, ...]

    @property
    def final(self) -> Product:
        """The product of the last yield."""
        return self.outputs[-1].product


def record(reconstructor: Reconstructor, parameters: ReconstructInput, limit_s: float) -> Record:
    """Run to the end in a thread of its own; fails the test when that takes too long."""
    return in_worker(lambda: _record(reconstructor, parameters), limit_s)


def _record(reconstructor: Reconstructor, parameters: ReconstructInput) -> Record:
    before = {key: array.copy() for key, array in input_contents(parameters).items()}
    outputs, goals, copies = [], [reconstructor.get_progress_goal()], []
    for output in reconstructor.reconstruct(parameters):
        assert isinstance(output, ReconstructOutput), f'yielded {output!r}'
        outputs.append(output)
        goals.append(reconstructor.get_progress_goal())
        copies.append({key: array.copy() for key, array in contents(output.product).items()})
    assert outputs, 'reconstruct yielded nothing'
    after = input_contents(parameters)
    changed = [key for key, old in before.items() if not np.array_equal(after[key], old)]
    return Record(tuple(outputs), tuple(goals), tuple(copies), tuple(changed))


def in_worker(call: Callable[[], T], limit_s: float) -> T:
    """Return `call()`, made in a thread that is not the main one, as the host makes it.

    Raises what it raises, and fails the test when it takes longer than `limit_s`.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            errors.append(error)

    thread = threading.Thread(target=work, name='contract', daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        pytest.fail(f'It hangs: not done after {limit_s:g} s')
    if errors:
        raise errors[0]
    return results[0]


def close_early(outputs: Any) -> float:
    """Close a generator after its first yield, as the host's Stop does; return the seconds."""
    assert next(outputs, None) is not None, 'yielded nothing'
    begin = time.monotonic()
    outputs.close()
    return time.monotonic() - begin


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Fail unless the block raises an exception that says something."""
    raised: Exception | None = None
    try:
        yield
    except Exception as error:  # noqa: BLE001 - any will do
        raised = error
    assert raised is not None, f'{what}: no exception was raised'
    assert str(raised).strip(), f'{what}: {type(raised).__name__} without a message'


@contextmanager
def logged(logger_name: str) -> Iterator[list[logging.LogRecord]]:
    """Collect the records that reach a logger."""
    handler = _Collecting()
    logger = logging.getLogger(logger_name)
    logger.addHandler(handler)
    try:
        yield handler.records
    finally:
        logger.removeHandler(handler)


class _Collecting(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def contents(product: Product) -> dict[str, Array]:
    """Return what a product holds as arrays: its own arrays where it has arrays."""
    points = list(product.probe_positions)
    held = {
        'object': product.object_.get_array(),
        'probe': product.probes.get_array(),
        'index': np.array([p.index for p in points]),
        'positions': np.array([(p.y_m, p.x_m) for p in points]),
        'losses': np.array([(v.epoch, v.value) for v in product.losses]),
    }
    weights = product.probes.get_opr_weights_or_none()
    return held if weights is None else {**held, 'opr weights': weights}


def input_contents(parameters: ReconstructInput) -> dict[str, Array]:
    """Return everything in an input that a careless reconstructor could change."""
    held = {**contents(parameters.product), 'patterns': parameters.diffraction_patterns}
    mask: Array | None = parameters.bad_pixels
    return held if mask is None else {**held, 'bad pixels': mask}


def read_only(parameters: ReconstructInput) -> ReconstructInput:
    """Return a copy whose arrays refuse to be written to, as memory-mapped ones do."""
    product, mask = parameters.product, parameters.bad_pixels
    probes, obj = product.probes, product.object_
    locked = replace(
        product,
        probes=ProbeSequence(
            _locked(probes.get_array()),
            probes.get_opr_weights_or_none(),
            probes.get_pixel_geometry(),
        ),
        object_=Object(
            _locked(obj.get_array()),
            obj.get_pixel_geometry(),
            obj.get_center(),
            list(obj.layer_spacing_m),
        ),
    )
    return ReconstructInput(
        _locked(parameters.diffraction_patterns), None if mask is None else _locked(mask), locked
    )


def _locked(array: Array) -> Array:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def difference(a: Array, b: Array) -> float:
    """Return the largest difference relative to the largest value; infinite for other shapes."""
    if a.shape != b.shape:
        return float('inf')
    scale = float(np.abs(b).max(initial=0.0)) or 1.0
    return float(np.abs(a - b).max(initial=0.0)) / scale
