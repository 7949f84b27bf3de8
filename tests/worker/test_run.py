"""One child per run: its events, and what becomes of it when anything goes wrong. Clauses WK-."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from stopwatch import assert_within

from ptychopinn_plugin import mapped, pipeline
from ptychopinn_plugin.archive import load_model
from ptychopinn_plugin.backends import registry
from ptychopinn_plugin.config import (
    ModelConfig,
    ReconstructionConfig,
    RuntimeConfig,
    TrainingConfig,
)
from ptychopinn_plugin.errors import (
    BackendUnavailableError,
    ConfigError,
    DataError,
    OutOfMemoryError,
    OutputError,
    PluginError,
    WorkerError,
)
from ptychopinn_plugin.files import save_scan
from ptychopinn_plugin.mapped import place_of
from ptychopinn_plugin.result import Epoch, Sweep
from ptychopinn_plugin.worker import (
    ReconstructJob,
    Run,
    Saved,
    Started,
    StopRun,
    TrainJob,
    client,
    protocol,
)
from ptychopinn_plugin.worker.protocol import MODEL, Decoder

TESTS = Path(__file__).parents[1]


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it did not happen in time'
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch, tmp_path):
    """Every test ends without a job folder and without a thread more."""
    folder = tmp_path / 'temporary'
    folder.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(folder))
    monkeypatch.setenv('TMPDIR', str(folder))
    before = threading.active_count()
    yield
    gc.collect()
    assert [p for p in folder.iterdir() if p.name.startswith('ptychopinn-job')] == []
    assert threading.active_count() <= before


@pytest.fixture
def reconstruction(small_scan):
    return ReconstructJob(small_scan, ReconstructionConfig(sweeps=4), RuntimeConfig())


@pytest.fixture
def training(small_scan, tmp_path):
    def job(epochs=3, **more):
        file = tmp_path / 'scan.npz'
        save_scan(small_scan, file)
        more = {'scans': (file,), **more}
        return TrainJob(
            model=ModelConfig(architecture='autoencoder'),
            training=TrainingConfig(epochs=epochs),
            runtime=RuntimeConfig(),
            checkpoints=tmp_path / 'checkpoints',
            **more,
        )

    return job


def test_a_reconstruction_in_the_child_is_that_of_this_process(reconstruction, toy, toy_child):
    here = list(
        pipeline.iterate(
            reconstruction.scan,
            backend=registry.load('auto'),
            reconstruction=reconstruction.reconstruction,
            runtime=reconstruction.runtime,
        )
    )
    with Run(reconstruction) as run:
        events = list(run)
    sweeps = [e for e in events if isinstance(e, Sweep)]
    (started,) = (e for e in events if isinstance(e, Started))
    assert (started.backend, started.device) == ('toy', 'cpu')
    assert [s.number for s in sweeps] == [0, 1, 2, 3, 4]
    for there, one in zip(sweeps, here, strict=True):
        assert (there.number, there.total, there.loss) == (one.number, one.total, one.loss)
        np.testing.assert_array_equal(there.image.object, one.image.object)
        np.testing.assert_array_equal(there.image.weight, one.image.weight)
        np.testing.assert_array_equal(there.probe, one.probe)
        assert there.image.origin_px == one.image.origin_px


def test_the_first_picture_does_not_wait_for_the_framework(reconstruction, toy_child, monkeypatch):
    monkeypatch.setenv('TOY_TROUBLE', 'hang')
    with Run(reconstruction) as run:
        start = next(iter(run))
    assert start.number == 0
    config, runtime = reconstruction.reconstruction, reconstruction.runtime
    here = pipeline.begin(reconstruction.scan, reconstruction=config, runtime=runtime)
    np.testing.assert_array_equal(start.image.object, here.image.object)
    assert start.loss == here.loss


def test_there_is_no_picture_from_a_device_that_may_not_be_there(
    reconstruction, toy_child, monkeypatch
):
    monkeypatch.setenv('TOY_TROUBLE', 'error')
    job = replace(reconstruction, runtime=RuntimeConfig(device='cuda'))
    with Run(job) as run, pytest.raises(WorkerError, match='a bug'):
        next(iter(run))


def test_an_error_of_the_start_is_that_of_this_process(reconstruction, toy_child):
    wrong = replace(reconstruction.reconstruction, probe_modes=2)
    job = replace(reconstruction, reconstruction=wrong)
    with Run(job) as run, pytest.raises(ConfigError, match='Probe modes are guesses'):
        list(run)


def test_a_training_reports_epochs_and_hands_over_the_model(training, toy_child, tmp_path):
    with Run(training()) as run:
        events = list(run)
        run.deliver(MODEL, tmp_path / 'model.h5.zip')
    epochs = [e for e in events if isinstance(e, Epoch)]
    assert [e.number for e in epochs] == [1, 2, 3]
    assert [type(e) for e in events][-1] is Saved
    assert len(load_model(tmp_path / 'model.h5.zip').history) == 3


def test_child_and_parent_agree_on_everything_a_scan_holds(small_scan, tmp_path):
    from ptychopinn_plugin.worker.protocol import read_job, write_job

    job = ReconstructJob(small_scan, ReconstructionConfig(sweeps=7), RuntimeConfig(threads=2))
    write_job(job, tmp_path)
    back = read_job(tmp_path)
    for key in ('counts', 'positions_px', 'probe', 'bad_pixels', 'true_object', 'scan_index'):
        np.testing.assert_array_equal(getattr(back.scan, key), getattr(small_scan, key))
        assert getattr(back.scan, key).dtype == getattr(small_scan, key).dtype
    assert place_of(back.scan.counts) is not None
    assert back.scan.frame == small_scan.frame
    assert back.scan.geometry == small_scan.geometry
    assert (back.reconstruction, back.runtime) == (job.reconstruction, job.runtime)


@pytest.mark.parametrize(
    ('trouble', 'how'),
    [
        ('crash', 'signal 11.*Lower the batch size'),
        ('killed', 'signal 9.*Lower the batch size'),
        ('exit', 'exit code 3.*Look at the log'),
    ],
)
def test_a_child_that_dies_is_an_error_within_a_second(
    reconstruction, toy_child, monkeypatch, caplog, trouble, how
):
    monkeypatch.setenv('TOY_TROUBLE', trouble)
    with Run(reconstruction) as run:
        run._process.wait(20)
        died = time.monotonic()
        with pytest.raises(WorkerError, match=f'The process that computes died.*{how}'):
            list(run)
        assert_within(1, died)
    if trouble == 'crash':
        assert 'about to die' in caplog.text


def test_lines_on_their_way_when_the_child_has_gone_are_not_lost(
    reconstruction, toy_child, monkeypatch
):
    def listen(run):
        run._process.wait(20)
        for line in run._process.stdout:
            time.sleep(3 * client.POLL_S)
            run._lines.put(line)
        run._lines.put(None)

    monkeypatch.setattr(Run, '_listen', listen)
    with Run(reconstruction) as run:
        assert [e.number for e in run if isinstance(e, Sweep)] == [0, 1, 2, 3, 4]


@pytest.mark.skipif(os.name != 'posix', reason='sleep')
def test_the_death_of_a_child_whose_own_child_lives_on_is_told(
    reconstruction, toy_child, monkeypatch
):
    monkeypatch.setenv('TOY_TROUBLE', 'parent')
    with Run(reconstruction) as run:
        run._process.wait(20)
        died = time.monotonic()
        with pytest.raises(WorkerError, match='exit code 3'):
            list(run)
        assert_within(client.LAST_LINES_S + 1, died)


def test_an_error_of_the_child_is_raised_as_what_it_is(training, toy_child, tmp_path):
    bad = tmp_path / 'bad.npz'
    np.savez(bad, xcoords=np.zeros(3))
    with Run(training(scans=(bad,))) as run, pytest.raises(DataError, match=r'bad\.npz'):
        list(run)


def test_an_error_that_nobody_foresaw_names_itself(reconstruction, toy_child, monkeypatch, caplog):
    monkeypatch.setenv('TOY_TROUBLE', 'error')
    with Run(reconstruction) as run, pytest.raises(WorkerError, match='ZeroDivisionError: a bug'):
        list(run)
    assert 'Traceback' in caplog.text


def test_too_little_memory_says_what_to_lower(reconstruction, toy_child, monkeypatch):
    monkeypatch.setenv('TOY_TROUBLE', 'memory')
    with Run(reconstruction) as run, pytest.raises(OutOfMemoryError, match='Lower the batch size'):
        list(run)


def test_a_child_that_floods_its_outputs_blocks_nothing(reconstruction, toy_child, monkeypatch):
    monkeypatch.setenv('TOY_TROUBLE', 'chatty')
    with Run(reconstruction) as run:
        assert sum(isinstance(e, Sweep) for e in run) == 5
        assert len(run._tail) <= client.TAIL_BYTES


def test_a_missing_back_end_is_the_same_error_as_without_a_child(small_scan, toy_child):
    job = ReconstructJob(small_scan, ReconstructionConfig(), RuntimeConfig(backend='torch'))
    with Run(job) as run, pytest.raises(PluginError, match='Unknown back end'):
        list(run)
    assert issubclass(BackendUnavailableError, PluginError)


def test_stop_ends_a_reconstruction_at_once_and_without_an_error(
    reconstruction, toy_child, monkeypatch
):
    monkeypatch.setenv('TOY_STEP_S', '30')
    stopped = []
    with Run(reconstruction, lambda: bool(stopped)) as run:
        seen = []
        for event in run:
            seen.append(event)
            if isinstance(event, Sweep):
                stopped.append(time.monotonic())
        assert_within(1, stopped[0])
    assert [e.number for e in seen if isinstance(e, Sweep)] == [0]


def test_stop_ends_the_writing_of_a_large_scan(reconstruction, toy_child, monkeypatch, tmp_path):
    """No child is started then, and `nothing_is_left`."""
    monkeypatch.setattr(client, '_spawn', lambda folder: pytest.fail('a child was started'))
    monkeypatch.setattr(mapped, 'BLOCK_BYTES', reconstruction.scan.counts.nbytes // 8)
    written = []

    def stopping():
        (file,) = (tmp_path / 'temporary').glob('*/counts.npy')
        written.append(file.stat().st_size)
        return len(written) == 4

    with pytest.raises(StopRun):
        Run(reconstruction, stopping)
    assert len(written) == 4
    assert written[-1] < reconstruction.scan.counts.nbytes / 2


@pytest.mark.parametrize('order', ['C', 'F'])
@pytest.mark.parametrize('dtype', ['u1', '>u2', 'u4', 'f4', 'f8'])
def test_counts_are_written_in_blocks_as_by_numpy(small_scan, monkeypatch, tmp_path, dtype, order):
    monkeypatch.setattr(mapped, 'BLOCK_BYTES', 7 * 32 * 32)
    counts = np.array(small_scan.counts % 200, dtype, order=order)
    protocol._save(tmp_path / 'blocks.npy', counts, protocol.never)
    np.save(tmp_path / 'whole.npy', np.ascontiguousarray(counts))
    assert (tmp_path / 'blocks.npy').read_bytes() == (tmp_path / 'whole.npy').read_bytes()


def test_stop_ends_a_hanging_child(reconstruction, toy_child, monkeypatch):
    monkeypatch.setenv('TOY_TROUBLE', 'hang')
    numbers, told = [], []
    with Run(reconstruction, lambda: bool(told) and time.monotonic() - told[0] > 0.5) as run:
        for event in run:
            numbers.append(event.number)
            told.append(time.monotonic())
        pid = run.pid
    assert_within(2.5, told[0])
    assert numbers == [0]
    assert not alive(pid)


def test_stop_in_mid_epoch_keeps_the_best_model_so_far(training, toy_child, monkeypatch, tmp_path):
    monkeypatch.setenv('TOY_STEP_S', '0.1')
    asked = None
    with Run(training(epochs=100)) as run:
        events = []
        for event in run:
            events.append(event)
            if asked is None and isinstance(event, Epoch) and event.number == 2:
                run.stop()
                asked = time.monotonic()
            if isinstance(event, Saved):
                assert_within(1, asked)
        run.deliver(MODEL, tmp_path / 'model.h5.zip')
    assert [e.number for e in load_model(tmp_path / 'model.h5.zip').history] == [1, 2]


def test_stop_before_the_first_epoch_is_no_error_and_no_model(training, toy_child, monkeypatch):
    monkeypatch.setenv('TOY_STEP_S', '30')
    begun = time.monotonic()
    with Run(training(), lambda: time.monotonic() - begun > 1) as run:
        events = list(run)
    assert not any(isinstance(e, Saved) for e in events)
    assert_within(3, begun)


@pytest.mark.skipif(os.name != 'posix', reason='signals')
def test_a_frozen_training_does_not_hold_up_the_stop(training, toy_child, monkeypatch, caplog):
    monkeypatch.setenv('TOY_STEP_S', '0.02')
    monkeypatch.setattr(client, 'HEAR_S', 0.5)
    with Run(training(epochs=1000)) as run:
        for event in run:
            if isinstance(event, Epoch):
                os.kill(run.pid, signal.SIGSTOP)
                wait_until(lambda: psutil.Process(run.pid).status() == psutil.STATUS_STOPPED)
                run.stop()
                begun = time.monotonic()
        assert_within(2, begun)
    assert 'did not stop within 0.5 s' in caplog.text


@pytest.mark.skipif(os.name != 'posix', reason='signals')
@pytest.mark.parametrize('seed', range(5))
def test_a_kill_at_a_random_moment_is_told_within_a_second(training, toy_child, monkeypatch, seed):
    monkeypatch.setenv('TOY_STEP_S', '0.01')
    moment = np.random.default_rng(seed).uniform(0, 1.5)
    killed = []
    with Run(training(epochs=1000)) as run:

        def kill():
            os.kill(run.pid, signal.SIGKILL)
            killed.append(time.monotonic())

        timer = threading.Timer(moment, kill)
        timer.start()
        with pytest.raises(WorkerError, match='signal 9'):
            list(run)
        assert_within(1, killed[0])
        timer.join()


def test_leaving_the_run_early_ends_the_child(reconstruction, toy_child, monkeypatch):
    monkeypatch.setenv('TOY_STEP_S', '30')
    with Run(reconstruction) as run:
        next(iter(run))
        pid = run.pid
    assert not alive(pid)


def test_no_child_outlives_its_parent(tmp_path, small_scan):
    """The parent is killed: nobody is left to clean up but the child itself."""
    save_scan(small_scan, tmp_path / 'scan.npz')
    code = f"""
import sys; sys.path.insert(0, {str(TESTS)!r})
from ptychopinn_plugin.files import load_scan
from ptychopinn_plugin.config import *
from ptychopinn_plugin.worker import *
from ptychopinn_plugin.worker import client
client.COMMAND = (sys.executable, {str(TESTS / 'toy_child.py')!r})
scan = load_scan({str(tmp_path / 'scan.npz')!r})
run = Run(ReconstructJob(scan, ReconstructionConfig(), RuntimeConfig()))
next(iter(run))
print(run.pid, run.folder, flush=True)
import time; time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, '-c', code], stdout=subprocess.PIPE, text=True,
        env={**os.environ, 'TOY_STEP_S': '60'},
    )  # fmt: skip
    pid, folder = parent.stdout.readline().split()
    assert alive(int(pid))
    parent.kill()
    parent.wait()
    wait_until(lambda: not alive(int(pid)))
    wait_until(lambda: not Path(folder).exists())
    parent.stdout.close()


def test_a_script_needs_no_main_guard(tmp_path, small_scan):
    """Read from standard input, where multiprocessing's spawn waits for ever."""
    save_scan(small_scan, tmp_path / 'scan.npz')
    code = f"""
import sys; sys.path.insert(0, {str(TESTS)!r})
from ptychopinn_plugin.files import load_scan
from ptychopinn_plugin.config import *
from ptychopinn_plugin.worker import *
from ptychopinn_plugin.worker import client
client.COMMAND = (sys.executable, {str(TESTS / 'toy_child.py')!r})
scan = load_scan({str(tmp_path / 'scan.npz')!r})
with Run(ReconstructJob(scan, ReconstructionConfig(sweeps=2), RuntimeConfig())) as run:
    print(len(list(run)))
"""
    done = subprocess.run(
        [sys.executable], input=code, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ['4']


def test_a_module_in_the_working_folder_is_not_imported(reconstruction, tmp_path, monkeypatch):
    """`numpy.py` beside the user's data must not become the child's NumPy."""
    (tmp_path / 'numpy.py').write_text('raise SystemExit("the wrong numpy")')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(client.sys, 'path', ['', *sys.path])
    with Run(reconstruction) as run:
        assert any(isinstance(event, Started) for event in run)


def test_a_full_temporary_folder_says_what_to_do(reconstruction, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(client.protocol.np, 'save', full)
    with pytest.raises(OutputError, match=r'temporary folder.*No space left.*TMPDIR'):
        Run(reconstruction)


def test_a_python_that_does_not_start_is_an_error(reconstruction, monkeypatch):
    monkeypatch.setattr(client, 'COMMAND', ('/no/such/python',))
    with pytest.raises(WorkerError, match=r'could not be started.*/no/such/python'):
        Run(reconstruction)


@pytest.mark.parametrize(
    'line',
    [b'hello\n', b'{}\n', b'[1]\n', b'{"event": "Unknown"}\n', b'\xff\xfe\n', b'3\n', b'null\n'],
)
def test_a_line_that_is_no_event_is_passed_over(line, tmp_path):
    assert Decoder(tmp_path).event(line) is None


def test_the_childs_sweeps_wait_for_the_parent(small_scan, toy_child):
    job = ReconstructJob(small_scan, ReconstructionConfig(sweeps=60), RuntimeConfig())
    with Run(job) as run:
        events = iter(run)
        next(events), next(events)
        wait_until(lambda: len(list(run.folder.glob('*.probe.npy'))) >= 8)
        time.sleep(0.3)
        assert len(list(run.folder.glob('*.probe.npy'))) == 8
        assert sum(isinstance(e, Sweep) for e in events) == 60
        assert list(run.folder.glob('state-*')) == []


def test_the_childs_log_is_the_parents(reconstruction, caplog):
    with caplog.at_level(logging.INFO), Run(reconstruction) as run:
        next(iter(run))
    assert 'Back end auto: taking' in caplog.text


def test_a_fault_in_the_childs_log_comes_with_its_traceback(
    reconstruction, toy_child, monkeypatch, caplog
):
    monkeypatch.setenv('TOY_TROUBLE', 'check')
    with Run(reconstruction) as run:
        assert sum(isinstance(e, Sweep) for e in run) == 5
    (record,) = [r for r in caplog.records if 'Internal fault' in r.getMessage()]
    assert (record.levelname, record.name) == ('ERROR', 'ptychopinn_plugin.worker.client')
    text = record.getMessage()
    assert all(part in text for part in ('check "failing"', 'in failing', 'ZeroDivisionError'))
    assert len(text) < 9000


@pytest.mark.skipif(os.name != 'posix', reason='modes')
def test_the_data_of_a_run_are_private(reconstruction, toy_child):
    with Run(reconstruction) as run:
        assert run.folder.stat().st_mode & 0o777 == 0o700
