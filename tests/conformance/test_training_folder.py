"""What a training leaves in its folder, who may stop it when, and what it may be resumed with."""

from __future__ import annotations

import csv
import math

import pytest

from ptychopinn_plugin.backends import training_folder
from ptychopinn_plugin.backends.base import StopTraining
from ptychopinn_plugin.errors import BackendUnavailableError, ConfigError, OutputError

from .test_backend import CANVAS, SMALL, backend, every_architecture, loss_curve, train

__all__ = ['backend']


def rates(trained):
    return [e.learning_rate for e in trained.history]


def logged(folder):
    with (folder / 'csv' / 'metrics.csv').open(newline='') as stream:
        return [int(row['number']) for row in csv.DictReader(stream)]


class TestStop:
    @every_architecture
    def test_a_validation_can_be_stopped(self, backend, small_scan, tmp_path, model):
        shares = []

        def stop(share):
            shares.append(share)
            if shares.count(0.5) == 2:
                raise StopTraining

        trained = train(
            backend, small_scan, tmp_path, model=model, epochs=4, on_step=stop,
            validation=[small_scan],
        )  # fmt: skip
        assert len(trained.history) == 1
        assert shares == sorted(shares)

    @pytest.mark.parametrize('number', [1, 3])
    def test_an_epoch_that_is_told_is_kept(self, backend, small_scan, tmp_path, number):
        def stop(epoch):
            if epoch.number == number:
                raise StopTraining('good enough')

        trained = train(backend, small_scan, tmp_path, epochs=5, on_epoch=stop)
        losses = [e.validation_loss for e in trained.history]
        assert len(losses) == number
        assert trained.summary['best_epoch'] == 1 + losses.index(min(losses))
        assert trained.summary['ended'] == 'good enough'


class TestFolder:
    def test_two_trainings_do_not_share_one(self, backend, small_scan, tmp_path):
        refused = []

        def second(epoch):
            if epoch.number == 1:
                with pytest.raises(OutputError, match='Another training writes') as error:
                    train(backend, small_scan, tmp_path, seed=1, epochs=1)
                refused.append(str(error.value))

        first = train(backend, small_scan, tmp_path, epochs=2, on_epoch=second)
        assert str(tmp_path) in refused[0]
        assert loss_curve(first) == loss_curve(train(backend, small_scan, tmp_path, epochs=2))

    def test_a_logger_that_is_missing_costs_nothing(
        self, backend, small_scan, tmp_path, monkeypatch
    ):
        train(backend, small_scan, tmp_path, epochs=1)
        before = sorted(tmp_path.rglob('*'))
        monkeypatch.setattr(training_folder, 'find_spec', lambda name: None)
        with pytest.raises(BackendUnavailableError, match='pip install tensorboard'):
            train(backend, small_scan, tmp_path, epochs=1, logger='tensorboard')
        assert sorted(tmp_path.rglob('*')) == before

    def test_a_folder_that_cannot_be_locked_is_told(
        self, backend, small_scan, tmp_path, monkeypatch, caplog
    ):
        def refuse(file):
            raise OSError(95, 'Operation not supported')

        monkeypatch.setattr(training_folder, '_lock', refuse)
        with caplog.at_level('INFO'):
            train(backend, small_scan, tmp_path, epochs=1)
        assert 'cannot be locked' in caplog.text


class TestResume:
    @pytest.mark.parametrize('schedule', ['cosine', 'constant'])
    def test_more_epochs_have_their_own_rates(self, backend, small_scan, tmp_path, schedule):
        train(backend, small_scan, tmp_path, epochs=2, schedule=schedule)
        trained = train(backend, small_scan, tmp_path, epochs=4, schedule=schedule, resume=True)
        turns = [math.cos(math.pi * done) for done in (0, 1 / 2, 2 / 4, 3 / 4)]
        shares = [0.01 + 0.99 * (1 + t) / 2 if schedule == 'cosine' else 1 for t in turns]
        assert rates(trained) == pytest.approx([2e-3 * share for share in shares])
        assert logged(tmp_path) == [1, 2, 3, 4]

    def test_an_unbroken_training_has_the_same_log(self, backend, small_scan, tmp_path):
        train(backend, small_scan, tmp_path, epochs=2)
        train(backend, small_scan, tmp_path, epochs=3)
        assert logged(tmp_path) == [1, 2, 3]

    def test_it_goes_on_after_the_last_epoch_even_if_another_was_best(
        self, backend, small_scan, tmp_path
    ):
        ruinous, told = {'learning_rate': 0.3, 'schedule': 'constant'}, []
        whole = train(backend, small_scan, tmp_path, epochs=3, **ruinous)
        again = train(
            backend, small_scan, tmp_path, epochs=4, resume=True, **ruinous,
            on_epoch=lambda epoch: told.append(epoch.number),
        )  # fmt: skip
        assert whole.summary['best_epoch'] == again.summary['best_epoch'] == 1
        assert told == [4]
        assert loss_curve(again)[:3] == loss_curve(whole)
        assert logged(tmp_path) == [1, 2, 3, 4]

    def test_fewer_epochs_are_the_end(self, backend, small_scan, tmp_path):
        whole = train(backend, small_scan, tmp_path, epochs=3)
        again = train(backend, small_scan, tmp_path, epochs=2, resume=True)
        assert loss_curve(again) == loss_curve(whole)
        assert again.summary['ended'] == 'finished'

    @pytest.mark.parametrize(
        ('other', 'named'),
        [
            ({'learning_rate': 1e-4}, 'learning_rate=0.002'),
            ({'seed': 5}, 'seed=0'),
            ({'model': CANVAS}, "architecture='autoencoder'"),
        ],
    )
    def test_other_settings_are_refused(self, backend, small_scan, tmp_path, other, named):
        train(backend, small_scan, tmp_path, epochs=1)
        with pytest.raises(ConfigError, match='other settings') as error:
            train(backend, small_scan, tmp_path, epochs=2, resume=True, **other)
        assert named in str(error.value)

    def test_more_patience_is_had(self, backend, small_scan, tmp_path):
        settings = {'epochs': 12, 'learning_rate': 0.05, 'schedule': 'constant'}
        ended = train(backend, small_scan, tmp_path, patience=1, **settings)
        assert len(ended.history) < 12
        longer = train(backend, small_scan, tmp_path, patience=100, resume=True, **settings)
        assert len(longer.history) == 12

    def test_a_training_of_which_no_settings_are_known(self, backend, small_scan, tmp_path, caplog):
        train(backend, small_scan, tmp_path, epochs=1)
        for content in ('', '[]', None):
            if content is None:
                (tmp_path / 'settings.json').unlink()
            else:
                (tmp_path / 'settings.json').write_text(content)
            with caplog.at_level('INFO'):
                trained = train(backend, small_scan, tmp_path, epochs=2, resume=True)
            assert len(trained.history) == 2
            assert 'settings.json is missing' in caplog.text
            caplog.clear()


def test_without_held_out_patterns_the_training_loss_is_watched(
    backend, small_scan, tmp_path, caplog
):
    with caplog.at_level('INFO'):
        trained = train(
            backend, small_scan, tmp_path, epochs=8, learning_rate=0.05, schedule='plateau',
            patience=0, validation_fraction=0.004,
        )  # fmt: skip
    assert all(math.isnan(e.validation_loss) for e in trained.history)
    assert rates(trained)[-1] < 0.05
    assert 'the training loss is what is watched' in caplog.text


def test_the_tasks_of_a_job_are_not_ours(backend, small_scan, tmp_path, monkeypatch):
    for name, value in {'NTASKS': '16', 'JOB_NAME': 'reco', 'JOB_ID': '1'}.items():
        monkeypatch.setenv(f'SLURM_{name}', value)
    assert len(train(backend, small_scan, tmp_path, model=SMALL, epochs=1).history) == 1


def test_a_training_leaves_the_framework_as_it_was(backend, small_scan, tmp_path):
    if backend.name != 'torch':
        pytest.skip('it has no such switch')
    import torch

    train(backend, small_scan, tmp_path, epochs=1)
    assert not torch.are_deterministic_algorithms_enabled()
