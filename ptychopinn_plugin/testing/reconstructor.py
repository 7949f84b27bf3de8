"""The contract of a `Reconstructor`: RC-1 to RC-17."""

from __future__ import annotations

import itertools
import logging
import math
from typing import Any, ClassVar

import numpy as np
import pytest
from ptychodus.api.product import Product
from ptychodus.api.reconstruct import ReconstructInput, Reconstructor, ReconstructOutput

from . import inputs
from .frame import assert_same_frame
from .inputs import BROKEN, EXAMPLES, Example
from .recording import (
    Record,
    close_early,
    contents,
    difference,
    in_worker,
    input_contents,
    logged,
    read_only,
    record,
    refused,
)
from .registration import locate
from .shared import Shared
from .traces import traces


class ReconstructorContract(Shared):
    """Derive a test class and say how your reconstructor is made."""

    claims_quality: ClassVar[bool] = True  # False leaves RC-16 out
    refuses_bad_input: ClassVar[bool] = True  # False leaves RC-17 out
    logger_name: ClassVar[str] = ''  # the library's; '' leaves the records out of RC-17
    tolerance: ClassVar[float] = 1e-5  # between two runs of the same input
    likeness: ClassVar[float] = 0.5  # least correlation with the true object, 0 to 1
    place_px: ClassVar[float] = 0.5
    limit_s: ClassVar[float] = 120.0  # of a run; longer is a hang
    close_s: ClassVar[float] = 5.0  # to end a run that is stopped
    may_leave: ClassVar[tuple[str, ...]] = ()  # name patterns of temporary files that are for all

    def make_reconstructor(self) -> Reconstructor:
        """Return a new reconstructor."""
        raise NotImplementedError

    def make_ready(self) -> Reconstructor:
        """Return a new reconstructor that can reconstruct: with a model where it needs one."""
        return self.make_reconstructor()

    def example(self, kind: str = 'standard') -> Example:
        """Return a simulated input; the tests leave it as it is."""
        made: Example = self.once(f'example {kind}', EXAMPLES[kind])
        return made

    def standard_run(self) -> Record:
        """Return the run of the standard example, made once."""
        made: Record = self.once('standard run', lambda: self.run(self.example().parameters))
        return made

    def ready(self) -> Reconstructor:
        """Return a reconstructor that can reconstruct, the same for all clauses."""
        made: Reconstructor = self.once('ready', self.make_ready)
        return made

    def run(self, parameters: ReconstructInput, what: str = 'the standard input') -> Record:
        """Reconstruct to the end what must not be refused."""
        return self.assert_runs(self.ready(), parameters, what)

    def assert_runs(
        self, reconstructor: Reconstructor, parameters: ReconstructInput, what: str
    ) -> Record:
        """Return the record of a run that must not fail."""
        try:
            return record(reconstructor, parameters, self.limit_s)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            pytest.fail(f'{what}: {type(error).__name__}: {error}')

    def closing(self) -> tuple[float, list[str]]:
        """Return how long the end of a run took that was closed, and what it left; made once."""
        made: tuple[float, list[str]] = self.once('closing', self._closed)
        return made

    def _closed(self) -> tuple[float, list[str]]:
        reconstructor, parameters = self.ready(), self.example().parameters
        with traces(self.may_leave) as left:
            seconds = in_worker(
                lambda: close_early(reconstructor.reconstruct(parameters)), self.limit_s
            )
        return seconds, left

    def test_rc1_its_goal_is_always_positive(self) -> None:
        """RC-1: the progress goal is a positive integer before and throughout a run; at 0 the host
        shows neither bar nor Stop button.
        """
        goals = self.standard_run().goals
        assert all(type(goal) is int and goal > 0 for goal in goals), f'goals {goals}'

    def test_rc2_nothing_happens_before_the_first_next(self) -> None:
        """RC-2: `reconstruct` returns at once with an iterator that can be closed, and has neither
        looked at its input nor started anything.
        """
        reconstructor, nothing = self.ready(), _Untouchable()
        with traces(self.may_leave) as left:
            iterator: Any = reconstructor.reconstruct(nothing)  # type: ignore[arg-type]
            assert hasattr(iterator, '__next__'), f'not an iterator: {iterator!r}'
            assert hasattr(iterator, 'close'), 'cannot be closed: make it a generator'
            iterator.close()
        assert not left, f'left behind: {left}'

    def test_rc3_it_yields_outputs(self) -> None:
        """RC-3: it yields one `ReconstructOutput` or more; without one the host shows nothing."""
        outputs = self.standard_run().outputs
        assert all(isinstance(o, ReconstructOutput) for o in outputs), f'{outputs}'

    def test_rc4_progress_rises_to_the_goal(self) -> None:
        """RC-4: progress is an integer, rises with every yield (the host names files by it), never
        passes the goal and ends at it.
        """
        run = self.standard_run()
        progress = [o.progress for o in run.outputs]
        assert all(type(p) is int and p >= 0 for p in progress), f'progress {progress}'
        assert all(a < b for a, b in itertools.pairwise(progress)), f'does not rise: {progress}'
        pairs = list(zip(progress, run.goals[1:], strict=True))
        assert all(p <= goal for p, goal in pairs), f'beyond the goal: {pairs}'
        assert progress[-1] == run.goals[-1], f'ends at {progress[-1]} of {run.goals[-1]}'

    def test_rc5_the_product_keeps_what_was_measured(self) -> None:
        """RC-5: metadata, positions, pixel sizes, and the frame of the object are the input's."""
        given = self.example().parameters.product
        for output in self.standard_run().outputs:
            assert_same_frame(output.product, given)

    def test_rc6_object_and_probe_are_complex_and_finite(self) -> None:
        """RC-6: object and probe of every yield are complex and finite."""
        for output in self.standard_run().outputs:
            for name in ('object', 'probe'):
                array = contents(output.product)[name]
                assert np.iscomplexobj(array), f'the {name} is {array.dtype}'
                assert np.isfinite(array).all(), f'the {name} is not finite'

    def test_rc7_losses_are_finite_and_grow_with_the_yields(self) -> None:
        """RC-7: every product carries the losses so far, finite: the host plots them."""
        products = [output.product for output in self.standard_run().outputs]
        losses = [[(v.epoch, v.value) for v in product.losses] for product in products]
        assert all(losses), 'a product has no losses'
        numbers = [len(values) for values in losses]
        assert all(a < b for a, b in itertools.pairwise(numbers)), f'{numbers} losses do not grow'
        assert all(math.isfinite(v) for _, v in losses[-1]), f'not finite: {losses[-1]}'
        epochs = [epoch for epoch, _ in losses[-1]]
        assert all(a < b for a, b in itertools.pairwise(epochs)), f'epochs do not rise: {epochs}'

    def test_rc8_every_product_is_its_own(self) -> None:
        """RC-8: no product changes after its yield, shares memory with another or with the input:
        the host keeps and edits them.
        """
        run, given = self.standard_run(), input_contents(self.example().parameters)
        earlier: list[Any] = [given[name] for name in ('object', 'probe')]
        for number, (output, copies) in enumerate(zip(run.outputs, run.copies, strict=True)):
            held = contents(output.product)
            for name, copy in copies.items():
                assert np.array_equal(held[name], copy), f'{name} of yield {number} changed later'
            for name in ('object', 'probe'):
                shared = any(np.shares_memory(held[name], other) for other in earlier)
                assert not shared, f"{name} of yield {number} is also somebody else's"
            earlier += [held[name] for name in ('object', 'probe')]

    def test_rc9_the_input_is_left_as_it_was(self) -> None:
        """RC-9: a run changes nothing in its input."""
        changed = self.standard_run().changed
        assert not changed, f'the input was changed: {", ".join(changed)}'

    def test_rc10_read_only_arrays_are_taken(self) -> None:
        """RC-10: arrays that cannot be written to are taken, and the result is the same."""
        run = self.run(read_only(self.example().parameters), 'read-only arrays')
        self.assert_same_result(run, 'read-only arrays')

    def test_rc11_the_mask_may_be_none(self) -> None:
        """RC-11: `bad_pixels=None` is taken and means that there are none."""
        run = self.run(inputs.without_mask(self.example().parameters), 'no mask')
        self.assert_same_result(run, 'no mask')

    def test_rc12_counts_may_be_floats(self) -> None:
        """RC-12: integer and floating counts give the same result."""
        parameters = self.example().parameters
        counts = parameters.diffraction_patterns.astype(np.float32)
        run = self.run(inputs.with_counts(parameters, counts), 'float counts')
        self.assert_same_result(run, 'float counts')

    @pytest.mark.parametrize('kind', [kind for kind in EXAMPLES if kind != 'standard'])
    def test_rc13_it_takes_every_kind_of_input(self, kind: str) -> None:
        """RC-13: another frame and first index, several probe modes, and bad pixels are taken."""
        example = self.example(kind)
        final = self.run(example.parameters, kind).final
        assert_same_frame(final, example.parameters.product)
        assert np.isfinite(final.object_.get_array()).all(), 'the object is not finite'
        if self.claims_quality:
            self.assert_in_place(example, final)

    def test_rc14_it_ends_at_once_when_it_is_closed(self) -> None:
        """RC-14: closed after its first yield, as by the host's Stop, it ends within seconds and
        leaves no process, thread or temporary file.
        """
        seconds, left = self.closing()
        assert seconds <= self.close_s, f'closing took {seconds:.1f} s'
        assert not left, f'left behind: {left}'

    def test_rc15_it_runs_again_after_it_was_closed(self) -> None:
        """RC-15: the run after one that was closed gives what a first one gives."""
        self.standard_run()
        self.closing()
        self.assert_same_result(self.run(self.example().parameters), 'a run after a closed one')

    def test_rc16_the_object_lies_where_it_is(self) -> None:
        """RC-16: the object is found where it was measured, to half a pixel, and the right way
        round, in the host's coordinates.
        """
        if not self.claims_quality:
            pytest.skip('it does not claim quality')
        self.assert_in_place(self.example(), self.standard_run().final)

    @pytest.mark.parametrize('trouble', list(BROKEN))
    def test_rc17_it_refuses_what_cannot_be(self, trouble: str) -> None:
        """RC-17: an input that cannot be reconstructed raises an exception that says why, and the
        library's logger says so too: the host's status pane shows records and no exceptions.
        """
        if not self.refuses_bad_input:
            pytest.skip('it does not look at its input')
        broken = BROKEN[trouble](self.example().parameters)
        reconstructor = self.ready()
        with logged(self.logger_name) as records, refused(trouble):
            in_worker(lambda: list(reconstructor.reconstruct(broken)), self.limit_s)
        if self.logger_name:
            errors = [r for r in records if r.levelno >= logging.ERROR]
            assert errors, f'{trouble}: no error is logged to {self.logger_name}'

    def assert_same_result(self, run: Record, what: str) -> None:
        """Check that a run gave what the standard run gave."""
        last, standard = contents(run.final), contents(self.standard_run().final)
        for name in ('object', 'probe'):
            off = difference(last[name], standard[name])
            assert off <= self.tolerance, f'{what}: another {name}, by {off:.2g} of its largest'

    def assert_in_place(self, example: Example, product: Product) -> None:
        """Check where an object lies and which way round."""
        side = example.parameters.diffraction_patterns.shape[-1]
        found = product.object_.get_layers_flattened()
        place = locate(found, example.truth, side // 2 - 2)
        like = f'the object is like the true one to {place.correlation:.2f}'
        assert place.correlation >= self.likeness, f'{like}, not {self.likeness:g}'
        assert place.orientation == 'as it is', f'the object is {place.orientation}'
        assert not place.conjugated, 'the phase of the object has the wrong sign'
        far = max(map(abs, place.shift_px))
        assert far <= self.place_px, f'the object is {place.shift_px} px (y, x) off its place'


class _Untouchable:
    """An input that nobody may look at."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f'it asks for {name} of its input before the first next()')
