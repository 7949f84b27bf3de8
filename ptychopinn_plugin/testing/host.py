"""The contract of an algorithm inside a running Ptychodus: HO-1 to HO-3."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from ptychodus.api.assemble import AssembledDiffractionData
from ptychodus.api.geometry import PixelGeometry
from ptychodus.api.io import save_diffraction_data
from ptychodus.api.reconstruct import Reconstructor

from .inputs import BROKEN, DETECTOR_PIXEL_M, Example, simulate_input
from .recording import contents, difference, record, refused
from .shared import Shared


class HostContract(Shared):
    """Derive a test class and say which algorithm is yours, and how the host is started with it."""

    algorithm: ClassVar[str] = ''  # its key, in lower case
    tolerance: ClassVar[float] = 1e-5
    limit_s: ClassVar[float] = 120.0

    def open_core(self) -> AbstractContextManager[Any]:
        """Return a `ModelCore` that knows the algorithm, as a context manager."""
        from ptychodus.model import ModelCore

        core: AbstractContextManager[Any] = ModelCore(log_level=logging.WARNING)
        return core

    def prepare(self, core: Any) -> None:
        """Choose settings, load a model: whatever the algorithm needs before it can run."""

    def reconstructor_in(self, core: Any) -> Reconstructor:
        """Return the reconstructor behind the key."""
        api = core.processing_core.processing_api
        api.set_reconstructor_if_provided(self.algorithm)
        # The host has no public way to the reconstructor itself.
        found: Reconstructor = api._algorithm_parameter.get_current_reconstructor()
        return found

    def test_ho1_it_is_in_the_menu(self) -> None:
        """HO-1: its key is among the host's algorithms, and choosing it takes effect."""
        with self.open_core() as core:
            api = core.processing_core.processing_api
            known = list(api.available_reconstructors())
            assert self.algorithm in known, f'{self.algorithm} is not among {known}'
            name = self.reconstructor_in(core).name.casefold()
            assert self.algorithm.endswith(f'_{name}'), f'{self.algorithm} finds {name}'

    def test_ho2_through_the_host_it_gives_the_same(self) -> None:
        """HO-2: `reconstruct_local(block=True)` gives what the reconstructor itself gives."""
        with self._opened() as (core, example, diffraction):
            self._assert_runs(core, example, diffraction)

    def test_ho3_an_error_reaches_the_caller_and_the_next_run_works(self) -> None:
        """HO-3: what a run raises is raised by `block=True`, and the next run is as the first."""
        with self._opened() as (core, example, diffraction):
            broken = BROKEN['a probe of another size'](example.parameters).product
            handle = core.workflow_api.register_product(broken, diffraction=diffraction)
            with refused('a probe of another size'):
                handle.reconstruct_local(algorithm=self.algorithm, block=True)
            self._assert_runs(core, example, diffraction)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Example, Any]]:
        """Yield (core, example, diffraction data of the example in it)."""
        example: Example = self.once('example', simulate_input)
        file = self.new_folder() / 'diffraction.h5'
        _save(file, example)
        with self.open_core() as core:
            self.prepare(core)
            yield core, example, core.workflow_api.load_assembled_diffraction_data(file)

    def _assert_runs(self, core: Any, example: Example, diffraction: Any) -> None:
        product = example.parameters.product
        handle = core.workflow_api.register_product(product, diffraction=diffraction)
        try:
            made = handle.reconstruct_local(algorithm=self.algorithm, block=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            pytest.fail(f'the run in the host fails: {type(error).__name__}: {error}')
        through = made.get_product()
        given = core.processing_core.processing_api.get_reconstruct_input(
            product_index=handle.get_product_index()
        )
        direct = record(self.reconstructor_in(core), given, self.limit_s).final
        for name, array in contents(direct).items():
            off = difference(contents(through)[name], array)
            assert off <= self.tolerance, f'through the host, another {name}, by {off:.2g}'


def _save(file: Path, example: Example) -> None:
    parameters = example.parameters
    points = parameters.product.probe_positions
    pixel = PixelGeometry(width_m=DETECTOR_PIXEL_M, height_m=DETECTOR_PIXEL_M)
    indexes = np.array([p.index for p in points])
    data = AssembledDiffractionData(
        indexes, parameters.diffraction_patterns, pixel, parameters.bad_pixels
    )
    save_diffraction_data(file, data)
