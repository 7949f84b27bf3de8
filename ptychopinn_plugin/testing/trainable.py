"""The contract of a `TrainableReconstructor`: TC-1 to TC-15, and all of a `Reconstructor`'s."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from ptychodus.api.reconstruct import TrainableReconstructor, TrainOutput

from .exported import assert_npz
from .reconstructor import ReconstructorContract
from .recording import close_early, in_worker, record, refused
from .traces import traces

QT_FILTER = re.compile(r'[^()]+ \(\*\.[^\s()*]+( \*\.[^\s()*]+)*\)')


@dataclass(frozen=True, eq=False)
class Training:
    """A finished training: its yields, the goal before it and at each, the changed files of its
    input folder.
    """

    outputs: tuple[TrainOutput, ...]
    goals: tuple[Any, ...]
    changed: tuple[str, ...]
    output_folder: Path
    trained: TrainableReconstructor


class TrainableReconstructorContract(ReconstructorContract):
    """Derive a test class and say how your reconstructor is made. Make its training short."""

    needs_model: ClassVar[bool] = True  # to reconstruct
    exports_npz: ClassVar[bool] = True  # as the host's own adapters read it; False leaves TC-14 out
    train_limit_s: ClassVar[float] = 300.0
    train_close_s: ClassVar[float] = 20.0  # to keep the model of a training that is stopped

    def make_reconstructor(self) -> TrainableReconstructor:
        """Return a new reconstructor without a model."""
        raise NotImplementedError

    def make_ready(self) -> TrainableReconstructor:
        """Return the reconstructor of the standard training."""
        return self.training().trained

    def fill_training_folder(self, folder: Path) -> None:
        """Put what `train` reads into a folder: what the reconstructor itself exports."""
        self.export(folder)

    def export(self, folder: Path) -> None:
        """Export the standard example to a folder."""
        file, given = folder / 'train_data.npz', self.example().solved()
        self.make_reconstructor().export_training_data(file, given)

    def training_folder(self) -> Path:
        """Return a new folder with training data."""
        folder = self.new_folder()
        self.fill_training_folder(folder)
        return folder

    def training(self) -> Training:
        """Return the standard training, made once."""
        made: Training = self.once('training', lambda: self.train(self.training_folder()))
        return made

    def model_file(self) -> Path:
        """Return the model file of the standard training."""
        training = self.training()
        return training.output_folder / ('model' + training.trained.get_model_file_extension())

    def train(self, input_folder: Path) -> Training:
        """Train a new reconstructor to the end."""
        trainer, output_folder = self.make_reconstructor(), self.new_folder()

        def work() -> Training:
            before = _bytes_of(input_folder)
            goals, outputs = [trainer.get_progress_goal()], []
            for output in trainer.train(input_folder, output_folder):
                outputs.append(output)
                goals.append(trainer.get_progress_goal())
            assert outputs, 'train yielded nothing'
            after = _bytes_of(input_folder)
            changed = sorted(k for k in before | after if before.get(k) != after.get(k))
            return Training(tuple(outputs), tuple(goals), tuple(changed), output_folder, trainer)

        return in_worker(work, self.train_limit_s)

    def test_tc1_there_is_no_model_at_first(self) -> None:
        """TC-1: a new reconstructor has no model."""
        assert not self.make_reconstructor().is_model_loaded(), 'a model is loaded'

    def test_tc2_its_filters_are_those_of_file_dialogs(self) -> None:
        """TC-2: the file filters read `Name (*.ext)`, and the model's has the extension."""
        made = self.make_reconstructor()
        for text in (made.get_model_file_filter(), made.get_training_data_file_filter()):
            good = all(QT_FILTER.fullmatch(part) for part in text.split(';;'))
            assert good, f'not a file filter: {text!r}'
        patterns = re.findall(r'\*\S+?(?=[\s)])', made.get_model_file_filter())
        wanted = '*' + made.get_model_file_extension()
        assert wanted in patterns, f'the filter of models {patterns} has no {wanted}'

    def test_tc3_its_extension_begins_with_a_dot(self) -> None:
        """TC-3: the host makes `model<extension>` of it."""
        extension = self.make_reconstructor().get_model_file_extension()
        assert re.fullmatch(r'\.[^\s/\\]+', extension), f'extension {extension!r}'

    def test_tc4_without_a_model_there_is_nothing_to_save(self) -> None:
        """TC-4: `save_model` without a model raises, with a message, and writes no file."""
        made, folder = self.make_reconstructor(), self.new_folder()
        with refused('saving without a model'):
            made.save_model(folder / ('model' + made.get_model_file_extension()))
        assert not list(folder.iterdir()), 'a file was written'

    def test_tc5_without_a_model_it_runs_or_says_that_it_needs_one(self) -> None:
        """TC-5: where a model is needed, `reconstruct` without one raises, with a message: the
        host's Infer button can be pressed before a model is loaded. Else it runs.
        """
        made, parameters = self.make_reconstructor(), self.example().parameters
        if self.needs_model:
            with refused('reconstructing without a model'):
                in_worker(lambda: list(made.reconstruct(parameters)), self.limit_s)
        else:
            self.assert_runs(made, parameters, 'without a model')

    @pytest.mark.parametrize('trouble', ['truncated', 'empty', 'missing', 'foreign'])
    def test_tc6_a_bad_model_file_is_refused(self, trouble: str) -> None:
        """TC-6: a bad model file raises, with a message; whoever had no model still has none, and
        whoever had one still has it.
        """
        file = self._bad_model(trouble)
        new, had = self.make_reconstructor(), self.make_reconstructor()
        had.load_model_from_file(self.model_file())
        for made in (new, had):
            with refused(f'a model file that is {trouble}'):
                made.load_model_from_file(file)
        assert not new.is_model_loaded(), 'a model is loaded after the file was refused'
        assert had.is_model_loaded(), 'the model is lost after another file was refused'
        if trouble == 'truncated':  # the one that can get half way
            self.assert_same_result(record(had, self.example().parameters, self.limit_s), trouble)

    def test_tc7_training_yields_losses(self) -> None:
        """TC-7: every yield is a `TrainOutput` with the losses so far, finite."""
        outputs = self.training().outputs
        assert all(isinstance(o, TrainOutput) for o in outputs), f'{outputs}'
        for output in outputs:
            assert output.training_loss, 'a yield has no training loss'
            for loss in (*output.training_loss, *output.validation_loss):
                assert math.isfinite(loss.value), f'a loss is not finite: {loss}'
        lengths = [len(o.training_loss) for o in outputs]
        assert lengths == sorted(lengths), f'losses get lost: {lengths}'

    def test_tc8_progress_of_the_training_rises_to_the_goal(self) -> None:
        """TC-8: as in RC-1 and RC-4; the goal is asked anew at every yield."""
        training = self.training()
        progress, goals = [o.progress for o in training.outputs], training.goals
        assert all(type(goal) is int and goal > 0 for goal in goals), f'goals {goals}'
        assert all(a < b for a, b in itertools.pairwise(progress)), f'does not rise: {progress}'
        assert all(p <= g for p, g in zip(progress, goals[1:], strict=True)), 'beyond the goal'
        assert progress[-1] == goals[-1], f'ends at {progress[-1]} of {goals[-1]}'

    def test_tc9_training_leaves_a_model(self) -> None:
        """TC-9: after a training the model is loaded, and stands as `model<extension>` in the
        output folder: the host saves none itself.
        """
        assert self.training().trained.is_model_loaded(), 'no model is loaded after the training'
        assert self.model_file().is_file(), f'there is no {self.model_file().name}'

    def test_tc10_a_saved_model_does_the_same(self) -> None:
        """TC-10: saved and loaded into a new reconstructor, the model gives the same result."""
        trained, again = self.training().trained, self.make_reconstructor()
        file = self.new_folder() / ('saved' + trained.get_model_file_extension())
        trained.save_model(file)
        again.load_model_from_file(file)
        assert again.is_model_loaded(), 'no model is loaded'
        run = record(again, self.example().parameters, self.limit_s)
        self.assert_same_result(run, 'the model saved and loaded')

    def test_tc11_an_empty_folder_is_refused(self) -> None:
        """TC-11: a folder without training data raises, with a message, and leaves no model."""
        trainer, folder = self.make_reconstructor(), self.new_folder()
        with refused('an empty folder'):
            in_worker(lambda: list(trainer.train(self.new_folder(), folder)), self.train_limit_s)
        left = [p.name for p in folder.iterdir() if p.name.startswith('model') and p.is_file()]
        assert not left, f'there is a model file: {left}'
        assert not trainer.is_model_loaded(), 'a model is loaded'

    def test_tc12_a_stopped_training_keeps_its_model(self) -> None:
        """TC-12: closed after its first yield, as by the host's Stop, a training ends within
        seconds, leaves no process, thread or temporary file, and keeps a model that can be loaded.
        """
        trainer, folder, data = self.make_reconstructor(), self.new_folder(), self.training_folder()
        with traces(self.may_leave) as left:
            seconds = in_worker(
                lambda: close_early(trainer.train(data, folder)), self.train_limit_s
            )
        assert seconds <= self.train_close_s, f'closing took {seconds:.1f} s'
        assert not left, f'left behind: {left}'
        file = folder / ('model' + trainer.get_model_file_extension())
        assert file.is_file(), f'there is no {file.name}'
        assert trainer.is_model_loaded(), 'no model is loaded'
        again = self.make_reconstructor()
        again.load_model_from_file(file)
        assert again.is_model_loaded(), 'its model file does not load'

    def test_tc13_it_trains_on_what_it_exports(self) -> None:
        """TC-13: a folder with nothing but its own export is enough to train on."""
        folder = self.new_folder()
        self.export(folder)
        assert list(folder.iterdir()), 'nothing was exported'
        base = TrainableReconstructorContract
        if type(self).fill_training_folder is base.fill_training_folder:
            self.training()  # was on just that
        else:
            self.train(folder)

    def test_tc14_its_export_has_the_keys_of_the_host(self) -> None:
        """TC-14: an NPZ export has the arrays that the host's own adapters read: x is a column,
        positions are the middles of the patches in pixels of the object.
        """
        if not self.exports_npz:
            pytest.skip('it exports another format')
        file, given = self.new_folder() / 'exported.npz', self.example().solved()
        self.make_reconstructor().export_training_data(file, given)
        assert file.is_file(), f'there is no {file.name}'
        with np.load(file, allow_pickle=False) as stored:
            assert_npz({key: stored[key] for key in stored.files}, given)

    def test_tc15_training_leaves_its_data_as_it_was(self) -> None:
        """TC-15: a training changes, adds and removes nothing in its input folder."""
        changed = self.training().changed
        assert not changed, f'the training data was changed: {changed}'

    def _bad_model(self, trouble: str) -> Path:
        good = self.model_file()
        file = self.new_folder() / good.name
        if trouble == 'truncated':
            whole = good.read_bytes()
            file.write_bytes(whole[: len(whole) // 2])
        elif trouble == 'empty':
            file.touch()
        elif trouble == 'foreign':
            with file.open('wb') as stream:
                np.savez(stream, weights=np.arange(10.0))
        return file


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}
