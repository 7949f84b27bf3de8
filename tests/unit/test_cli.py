"""Commands, flags, exit codes and JSON, with a back end of NumPy alone."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
import zipfile
from contextlib import ExitStack

import h5py
import numpy as np
import pytest
from toy_backend import displacement

from ptychopinn_plugin import files, load_model, load_scan, pipeline
from ptychopinn_plugin.cli import commands, demo, main
from ptychopinn_plugin.cli.flags import build_parser, settings
from ptychopinn_plugin.cli.progress import Bar
from ptychopinn_plugin.cli.targets import training_folder
from ptychopinn_plugin.config import (
    ModelConfig,
    ReconstructionConfig,
    RuntimeConfig,
    TrainingConfig,
    declared,
    without_effect,
)
from ptychopinn_plugin.pretrained import FILE as PRETRAINED
from ptychopinn_plugin.result import Epoch

from ..conftest import room


@pytest.fixture
def scan_file(small_scan, tmp_path):
    path = tmp_path / 'scan.npz'
    files.save_scan(small_scan, path)
    return path


def run(capsys, *argv):
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    last = out.strip().splitlines()[-1] if out.strip() else ''
    return code, json.loads(last) if last.startswith('{') else None, err


def test_corrected_positions_are_reported_and_written(toy, scan_file, small_scan, tmp_path, capsys):
    target = tmp_path / 'out.npz'
    code, report, err = run(
        capsys, 'reconstruct', scan_file, '--correct-positions', '--sweeps', 2, '--output', target,
        '--figure', tmp_path / 'out.png', '--uncertainty', '--json',
    )  # fmt: skip
    assert code == 0
    assert report['mean_displacement_px'] == pytest.approx(5)
    assert report['max_displacement_px'] == pytest.approx(5)
    assert report['phase_ssim'] <= 1
    assert 'positions corrected by 5.00 px on average, at most 5.00 px' in err
    with np.load(target) as stored:
        moved = stored['positions_px'] - small_scan.positions_px
        np.testing.assert_allclose(moved, displacement(small_scan))
        assert stored['uncertainty'].shape == stored['object'].shape
    code, report, _ = run(capsys, 'reconstruct', scan_file, '--sweeps', 2, '--output', target)
    with np.load(target) as stored:
        np.testing.assert_allclose(stored['positions_px'], small_scan.positions_px)


def test_train_then_reconstruct(toy, scan_file, tmp_path, capsys):
    model = tmp_path / 'model.h5.zip'
    code, report, _ = run(
        capsys, 'train', scan_file, '--model', model, '--epochs', 3, '--json',
        '--architecture', 'autoencoder',
    )  # fmt: skip
    assert code == 0
    assert report['epochs'] == [1, 2, 3]
    assert report['training_loss'] == pytest.approx([1, 1 / 2, 1 / 3])
    assert report['validation_loss'] == pytest.approx([2, 1, 2 / 3])
    assert load_model(model).writer == 'toy'
    assert (training_folder(model) / 'loss.png').read_bytes().startswith(b'\x89PNG')

    product, figure = tmp_path / 'product.h5', tmp_path / 'figure.png'
    code, report, err = run(
        capsys, 'reconstruct', scan_file, '--model', model, '--sweeps', 3,
        '--output', product, '--figure', figure, '--json',
    )  # fmt: skip
    assert code == 0
    assert {
        'backend',
        'patterns',
        'phase_ssim',
        'fourier_error',
        'seconds',
        'peak_memory_bytes',
    } <= set(report)
    assert {'load', 'start', 'sweeps', 'total'} <= set(report['seconds'])
    assert report['backend'] == 'toy'
    assert report['patterns'] == 120
    assert report['start'] == 'network'
    assert report['phase_ssim'] == pytest.approx(1, abs=1e-3)
    assert report['start_phase_ssim'] < 0.5
    assert report['peak_memory_bytes'] > 1e7
    assert 'phase SSIM' in err
    assert figure.read_bytes().startswith(b'\x89PNG')
    with h5py.File(product) as f:
        assert f['object'].shape[-2:] == (90, 90)


def test_npz_output_keys(toy, scan_file, small_scan, tmp_path, capsys):
    out = tmp_path / 'result.npz'
    assert run(capsys, 'reconstruct', scan_file, '--sweeps', 2, '--output', out)[0] == 0
    with np.load(out) as data:
        assert data['object'].dtype == np.complex64
        assert data['object'].shape == data['weight'].shape == small_scan.true_object.shape
        assert data['probe'].shape == (1, 32, 32)
        np.testing.assert_array_equal(data['origin_px'], [0, 0])
    code, score, _ = run(capsys, 'compare', out, scan_file, '--json')
    assert code == 0
    assert score['phase_ssim'] == pytest.approx(1, abs=1e-3)
    assert score['apart_px'] is None


def test_compare_tells_of_origins_that_do_not_fit(toy, scan_file, small_scan, tmp_path, capsys):
    other = tmp_path / 'elsewhere.npz'
    np.savez(other, object=np.roll(small_scan.true_object, 7, 0))
    code, score, err = run(capsys, 'compare', other, scan_file, '--json')
    assert (code, score['apart_px']) == (0, [-7, 0])
    assert 'much better (-7, 0) px' in err


def test_simulate_and_info(tmp_path, capsys):
    out = tmp_path / 'made.npz'
    code, report, _ = run(
        capsys, 'simulate', out, '--specimen', 'lines', '--patterns', 30, '--object-size-px', 100,
        '--photons-per-frame', 1e5, '--seed', 4, '--json',
    )  # fmt: skip
    assert code == 0
    assert report['patterns'] == len(load_scan(out)) == 30
    assert report['photons_per_frame'] < 1.1e5
    code, facts, err = run(capsys, 'info', out, '--json')
    assert code == 0
    assert facts['patterns'] == 30
    assert 'patterns' in err


def test_info_of_a_model(toy, scan_file, tmp_path, capsys):
    model = tmp_path / 'wts.h5.zip'
    run(capsys, 'train', scan_file, '--model', model, '--epochs', 1)
    code, facts, _ = run(capsys, 'info', model, '--json')
    assert code == 0
    assert 'toy' in json.dumps(facts)


STEERS = 'x\x1b]0;owned\x07\x1b[2J\x9b1m\r\u202ey'
ESCAPED = r'x\x1b]0;owned\x07\x1b[2J\x9b1m\r\u202ey'


def printable(text):
    return all(line.isprintable() for line in text.split('\n'))


def hostile_model(path):
    with zipfile.ZipFile(PRETRAINED) as good:
        members = {name: good.read(name) for name in good.namelist()}
    noted = json.loads(members['manifest.json'])
    noted['writer'], noted['summary'] = STEERS, {'scans': [STEERS], STEERS: {'a': STEERS}}
    members['manifest.json'] = json.dumps(noted).encode()
    with zipfile.ZipFile(path, 'w') as bad:
        for name, data in members.items():
            bad.writestr(name, data)


def test_text_of_a_model_file_steers_no_terminal(toy, scan_file, tmp_path, capsys, caplog):
    caplog.set_level('INFO')
    model = tmp_path / 'evil.h5.zip'
    hostile_model(model)
    code, _, err = run(capsys, 'info', model)
    assert code == 0
    assert f'writer: {ESCAPED}' in err
    assert printable(err)
    loaded = load_model(model)
    assert loaded.writer == ESCAPED
    assert loaded.summary == {'scans': [ESCAPED], ESCAPED: {'a': ESCAPED}}
    code, _, err = run(
        capsys, 'train', scan_file, '--model', tmp_path / 'm.h5.zip', '--initial', model,
        '--epochs', 1, '--mode', 'supervised',
    )  # fmt: skip
    assert code == 0
    assert f'a model that {ESCAPED} trained' in caplog.text
    assert printable(err + caplog.text)


def test_text_of_a_result_file_steers_no_terminal(tmp_path, capsys):
    result = tmp_path / 'evil.npz'
    np.savez(result, object=np.ones((40, 40), complex), backend=np.array(STEERS))
    code, _, err = run(capsys, 'info', result)
    assert code == 0
    assert f'backend: {ESCAPED}' in err
    assert printable(err)
    assert files.describe(result)['backend'] == ESCAPED


@pytest.mark.parametrize('debug', [[], ['--debug']])
def test_what_is_logged_steers_no_terminal(toy, debug, tmp_path, capsys, monkeypatch):
    def command(args):
        logging.getLogger('ptychopinn_plugin').warning('Seen: %s', STEERS)
        try:
            raise KeyError(STEERS)
        except KeyError:
            logging.getLogger('another').exception('Traced\nhere')
        with Bar('Work', 1) as bar:
            bar.move(1, STEERS)
        raise RuntimeError(STEERS)

    monkeypatch.setattr(commands, 'info', command)
    root = logging.getLogger()
    for name, value in (('handlers', []), ('level', root.level)):  # as in a process of its own
        monkeypatch.setattr(root, name, value)
    code, _, err = run(capsys, 'info', tmp_path, *debug)
    assert code == 1
    assert f'Seen: {ESCAPED}\nTraced\nhere\nTraceback' in err
    assert f'Work: {ESCAPED}' in err
    assert f'error: Unexpected RuntimeError: {ESCAPED} (--debug shows where)' in err
    assert printable(err)


def test_data_error_is_one_line_and_exit_code_1(toy, tmp_path, capsys):
    code, report, err = run(capsys, 'reconstruct', tmp_path / 'none.npz', '--json')
    assert code == 1
    assert 'none.npz' in report['error']
    assert err.strip().startswith('error: ')
    assert 'Traceback' not in err


def test_debug_shows_the_traceback(toy, tmp_path, capsys):
    assert 'Traceback' in run(capsys, 'reconstruct', tmp_path / 'none.npz', '--debug')[2]


def test_setting_out_of_range_is_exit_code_2(toy, scan_file, capsys):
    code, report, err = run(capsys, 'reconstruct', scan_file, '--sweeps', -1, '--json')
    assert code == 2
    assert 'sweeps is out of range' in report['error']
    assert 'sweeps is out of range' in err


@pytest.mark.parametrize('argv', [[], ['fly'], ['reconstruct'], ['train', 'a.npz']])
def test_usage_error_is_exit_code_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2


def test_unexpected_error_is_one_line(toy, scan_file, capsys, monkeypatch):
    monkeypatch.setattr(toy, 'refine', lambda *a: 1 / 0, raising=False)
    code, _, err = run(capsys, 'reconstruct', scan_file)
    assert code == 1
    assert 'ZeroDivisionError' in err
    assert 'Traceback' not in err


def test_interrupt_leaves_no_file(toy, scan_file, tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(toy, 'predict', interrupt, raising=False)
    out = tmp_path / 'out'
    out.mkdir()
    code, _, err = run(capsys, 'reconstruct', scan_file, '--output', out / 'result.npz')
    assert code == 1
    assert 'Interrupted' in err
    assert not list(out.iterdir())


def test_an_interrupt_keeps_the_sweeps_so_far(toy, scan_file, tmp_path, capsys, monkeypatch):
    refine, calls, at = toy.refine, [], [3]

    def interrupted(*args):
        for sweep in refine(*args):
            calls.append(sweep)
            if len(calls) == at[0]:
                raise KeyboardInterrupt
            yield sweep

    monkeypatch.setattr(toy, 'refine', interrupted, raising=False)
    out = tmp_path / 'out'
    out.mkdir()
    command = (
        'reconstruct', scan_file, '--sweeps', 4, '--output', out / 'r.npz', '--figure',
        out / 'r.png', '--json', '--uncertainty',
    )  # fmt: skip
    code, report, err = run(capsys, *command)
    assert code == 1  # what comes next in a script would take it for whole
    assert report['interrupted']
    assert report['sweeps'] == 2
    assert 'Interrupted: the result is that of sweep 2 of 4, without uncertainty' in err
    assert len(list(out.iterdir())) == 2
    with np.load(out / 'r.npz') as stored:
        np.testing.assert_array_equal(stored['object'], calls[1].image.object)
        assert len(stored['losses']) == 3
        assert 'uncertainty' not in stored
    at[0], calls[:] = 6, []  # in the first repeat of the uncertainty
    code, report, err = run(capsys, *command)
    assert (code, report['sweeps'], report['interrupted']) == (1, 4, True)
    assert 'sweep 4 of 4, without uncertainty' in err
    at[0], calls[:] = 0, []
    predict, wanted = toy.predict, []

    def late(*args):
        wanted.append(args)
        if len(wanted) == 1:  # after the last sweep
            raise KeyboardInterrupt
        return predict(*args)

    with monkeypatch.context() as patch:
        patch.setattr(toy, 'predict', late, raising=False)
        code, report, err = run(capsys, *command)
    assert (code, report['sweeps'], report['interrupted']) == (1, 4, True)
    assert 'sweep 4 of 4, without uncertainty' in err
    assert len(wanted) == 2
    at[0], calls[:] = 1, []  # nothing is done yet
    code, report, err = run(capsys, *command)
    assert (code, report) == (1, {'error': 'Interrupted'})


def test_only_who_asks_for_it_keeps_what_was_interrupted(toy, small_scan, monkeypatch):
    """A script that reconstructs one scan after the other ends at Ctrl-C."""

    def interrupt(sweep):
        if sweep.number == 2:
            raise KeyboardInterrupt

    for uncertainty in (False, True):
        with pytest.raises(KeyboardInterrupt):
            pipeline.reconstruct(small_scan, on_sweep=interrupt, uncertainty=uncertainty)


@pytest.mark.parametrize('file', ['last.ckpt', 'last.npz'])
@pytest.mark.parametrize(
    ('epochs', 'more', 'resumable'), [(2, '', True), (0, '--resume', True), (0, '', False)]
)
def test_an_interrupted_training_says_how_to_go_on(
    toy, scan_file, tmp_path, capsys, monkeypatch, file, epochs, more, resumable
):
    """Unless what lies there is of a training before."""
    model, folder = tmp_path / 'm.h5.zip', tmp_path / 'm.training'
    folder.mkdir()
    (folder / file).write_bytes(b'weights')

    def interrupted(*args, **_):
        for number in range(1, epochs + 1):
            args[6](Epoch(number, 9, 1.0, 1.0, 1e-3, 0.0))
        raise KeyboardInterrupt

    monkeypatch.setattr(toy, 'train', interrupted, raising=False)
    code, _, err = run(capsys, 'train', scan_file, '--model', model, *more.split())
    assert code == 1
    said = f'The last checkpoint is in {folder}: run the same again with --resume'
    last = err.strip().splitlines()[-1]
    assert last == (f'error: Interrupted. {said}' if resumable else 'error: Interrupted')
    assert not model.exists()


def test_target_is_checked_before_slow_work(toy, scan_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(toy, 'refine', lambda *a: pytest.fail('it began'), raising=False)
    code, _, err = run(
        capsys, 'reconstruct', scan_file, '--output', tmp_path / 'no' / 'such' / 'p.h5'
    )
    assert code == 1
    assert 'no' in err


@pytest.mark.parametrize('name', ['x.foo', 'x', 'x.cxi', '.npz', 'x.h5.zip', 'x.npz.bak'])
def test_a_suffix_that_no_result_has_is_refused_first(toy, scan_file, name, monkeypatch, capsys):
    monkeypatch.setattr('ptychopinn_plugin.files.load_scan', lambda *a, **k: pytest.fail('begun'))
    out = scan_file.with_name(name)
    code, _, err = run(capsys, 'reconstruct', scan_file, '--output', out)
    assert code == 1
    assert f'{name}: The suffix is unknown. Expected .npz, .h5, .hdf5. Received: suffix=' in err


@pytest.mark.parametrize(
    ('command', 'expected'),
    [
        ('reconstruct {scan} --figure {here}/x.jpg', '.png, .pdf, .svg'),
        ('reconstruct {scan} --figure {here}/x', '.png, .pdf, .svg'),
        ('train {scan} --model {here}/m.zip', '.h5.zip'),
        ('train {scan} --model {here}/m.npz', '.h5.zip'),
        ('train {scan} --model {here}/m', '.h5.zip'),
        ('simulate {here}/x.foo', '.npz, .h5, .hdf5, .cxi'),
        ('convert {scan} {here}/x.foo', '.npz, .h5, .hdf5, .cxi'),
        ('convert {scan} {here}/file', '.npz, .h5, .hdf5, .cxi'),
    ],
)
def test_other_targets_are_judged_by_their_suffix_first(
    toy, scan_file, command, expected, monkeypatch, capsys
):
    for slow in ('files.load_scan', 'simulate.simulate_scan'):
        monkeypatch.setattr(f'ptychopinn_plugin.{slow}', lambda *a, **k: pytest.fail('it began'))
    scan_file.with_name('file').write_text('a file, no folder')
    code, _, err = run(capsys, *command.format(scan=scan_file, here=scan_file.parent).split())
    assert code == 1
    assert f'The suffix is unknown. Expected {expected}.' in err


@pytest.fixture
def inputs(small_scan, scan_file, tmp_path):
    """One of each that a command reads, as {name: path}; what they hold is given in `bytes`."""
    pair, few = tmp_path / 'pair', small_scan.take(np.arange(4))
    pair.mkdir()
    for target in (pair, tmp_path / 'few.h5'):
        files.save_scan(few, target)
    probe, model = tmp_path / 'probe.npz', tmp_path / 'm.h5.zip'
    np.savez(probe, probeGuess=small_scan.probe)
    model.write_bytes(b'a model')
    for name in ('m.npz', 'm.png'):
        os.link(model, tmp_path / name)
    os.link(scan_file, tmp_path / 'scan.png')
    os.symlink(scan_file, tmp_path / 'link.npz')
    os.link(scan_file, tmp_path / 'twin.npz')
    os.link(tmp_path / 'few.h5', tmp_path / 'few.h5.zip')
    return {p: p.read_bytes() for p in sorted(tmp_path.rglob('*')) if p.is_file()}


@pytest.mark.parametrize(
    'command',
    [
        'reconstruct scan.npz --output scan.npz',
        'reconstruct scan.npz --output ../{here}/scan.npz',
        'reconstruct scan.npz --output twin.npz',
        'reconstruct link.npz --output scan.npz',
        'reconstruct few.h5 --output few.h5',
        'reconstruct pair --output pair/diffraction.h5',
        'reconstruct pair --output pair/product.h5',
        'reconstruct pair/diffraction.h5 --output pair/product.h5',
        'reconstruct pair/diffraction.h5 --product few.h5 --output few.h5',
        'reconstruct scan.png --figure scan.png',
        'reconstruct scan.npz --model m.npz --output m.npz',
        'reconstruct scan.npz --output m.npz --figure m.png',
        'train few.h5.zip --model few.h5.zip',
        'train few.h5 --validation few.h5.zip --model few.h5.zip',
        'train few.h5 --initial m.h5.zip --model m.h5.zip',
        'convert scan.npz link.npz',
        'convert pair pair',
        'convert pair/product.h5 pair',
        'simulate probe.npz --probe file --probe-file probe.npz',
    ],
)
def test_no_output_replaces_an_input(toy, command, inputs, tmp_path, monkeypatch, capsys):
    """DC-12: refused before anything is read, let alone computed, and whatever the name."""
    for slow in ('files.load_scan', 'archive.load_model', 'simulate.simulate_scan'):
        monkeypatch.setattr(f'ptychopinn_plugin.{slow}', lambda *a, **k: pytest.fail('it began'))
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *command.format(here=tmp_path.name).split())
    assert code == 1
    assert 'would be replaced' in err or 'Two outputs are the same file' in err
    assert {p: p.read_bytes() for p in sorted(tmp_path.rglob('*')) if p.is_file()} == inputs


def test_outputs_beside_the_inputs_are_fine(toy, inputs, small_scan, tmp_path, monkeypatch, capsys):
    """A product.h5 belongs to patterns without positions, and to nothing else in its folder."""
    monkeypatch.chdir(tmp_path)
    files.save_scan(small_scan, tmp_path / 'pair' / 'own.npz')
    for command in (
        'reconstruct pair/own.npz --sweeps 1 --output pair/product.h5 --figure pair/a.png',
        'convert pair/own.npz pair',
        'convert few.h5 made',
        'convert few.h5 made',
    ):
        assert run(capsys, *command.split())[0] == 0
    assert len(load_scan(tmp_path / 'pair')) == len(small_scan)
    assert len(load_scan(tmp_path / 'made')) == 4


@pytest.mark.parametrize(
    ('command', 'config'),
    [
        ('reconstruct', ReconstructionConfig),
        ('reconstruct', RuntimeConfig),
        ('train', TrainingConfig),
        ('train', ModelConfig),
    ],
)
def test_every_declared_setting_has_a_flag(command, config):
    """One declaration feeds the flags: each can be set and reads back."""
    extra = ['--model', 'm'] if command == 'train' else []
    for field, s in declared(config):
        if field.name == 'pattern_size_px':
            continue
        flag = '--' + (s.flag or field.name).replace('_', '-')
        value = s.choices[-1] if s.choices else field.default
        argv = [flag] if isinstance(value, bool) else [flag, str(value)]
        wanted = True if isinstance(value, bool) else value
        args = build_parser().parse_args([command, 'scan.npz', *extra, *argv])
        assert getattr(settings(config, args), field.name) == wanted


def test_doctor_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr('ptychopinn_plugin.backends.registry.find_spec', lambda name: None)
    code, report, err = run(capsys, 'doctor', '--json')
    assert code == 0
    assert report['auto'] is None
    assert report['kernels'] in ('compiled', 'numpy')
    assert 'sweeps on a processor: ' in err
    assert "pip install 'ptychopinn-plugin[torch]'" in err
    assert report['backends']['torch']['reason'].startswith('missing torch')


@pytest.mark.parametrize('command', ['train', 'demo'])
def test_a_folder_that_is_a_file_is_told_first(toy, scan_file, tmp_path, capsys, command):
    file = tmp_path / 'file'
    file.write_text('mine')
    more = (scan_file, '--model', tmp_path / 'm.h5.zip') if command == 'train' else ()
    code, report, err = run(capsys, command, *more, '--folder', file, '--json')
    assert code == 1
    assert 'Cannot write' in report['error']
    assert 'Unexpected' not in err
    assert file.read_text() == 'mine'


def test_a_report_that_nobody_reads_is_one_line(tmp_path):
    """A pipe whose reader has gone, and a full disk."""
    file = tmp_path / 'arrays.npz'
    np.savez(file, a=np.ones(3))
    info = (sys.executable, '-m', 'ptychopinn_plugin', 'info', str(file), '--json')
    reader, writer = os.pipe()
    os.close(reader)
    with ExitStack() as stack:
        closed = stack.enter_context(os.fdopen(writer, 'wb'))
        full = [stack.enter_context(open('/dev/full', 'wb'))] if os.path.exists('/dev/full') else []
        for out in (closed, *full):
            done = subprocess.run(info, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
            assert done.returncode == 1
            assert 'error: The report cannot be written to standard output' in done.stderr
            assert 'Traceback' not in done.stderr
            assert 'Exception ignored' not in done.stderr


def test_what_other_packages_tell_is_not_shown(tmp_path):
    """Torch logs statistics when it is interrupted in an import."""
    code = (
        'import logging, sys\n'
        'from ptychopinn_plugin.cli import main\n'
        'main(["info", sys.argv[1]])\n'
        'logging.getLogger("torch").info("cache hits: 0")\n'
        'logging.getLogger("ptychopinn_plugin").info("ours")\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, str(tmp_path / 'none.npz')],
        stderr=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    assert 'ours' in done.stderr
    assert 'cache hits' not in done.stderr


def test_the_demo_gives_no_setting_in_vain(tmp_path, monkeypatch):
    given = {}

    def train(scan, **settings):
        given.update(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, 'train', train)
    with pytest.raises(KeyboardInterrupt):
        demo.run(tmp_path, RuntimeConfig())
    assert not without_effect(given.get('model', ModelConfig()), given['training'])


def test_import_is_quick_and_clean():
    """Under 0.5 s, measured as the best of three against the interpreter's own start."""
    heavy = {'torch', 'tensorflow', 'lightning', 'ptychodus', 'matplotlib'}
    code = f'import sys, ptychopinn_plugin; print(sorted({heavy} & set(sys.modules)))'
    times, empty = [], []
    for _ in range(3):
        t = time.perf_counter()
        done = subprocess.run(
            [sys.executable, '-c', code], capture_output=True, text=True, check=True
        )
        times.append(time.perf_counter() - t)
        t = time.perf_counter()
        subprocess.run([sys.executable, '-c', 'import numpy'], check=True)
        empty.append(time.perf_counter() - t)
        assert done.stdout.strip() == '[]'
    # Ratio to a bare import of numpy, since seconds depend on the machine.
    assert min(times) < 3 * min(empty)


def test_too_little_memory_says_what_to_lower(monkeypatch, capsys):
    def take():
        np.zeros(2**60, np.uint8)

    monkeypatch.setattr('ptychopinn_plugin.cli.doctor.examine', take)
    assert main(['doctor']) == 1
    assert 'Lower the batch size' in capsys.readouterr().err


def test_a_model_that_cannot_be_written_is_not_lost(toy, scan_file, tmp_path, monkeypatch, capsys):
    train = toy.train
    with ExitStack() as stack:

        def fill(*args, **more):
            trained = train(*args, **more)
            stack.enter_context(room(100))
            return trained

        monkeypatch.setattr(toy, 'train', fill, raising=False)
        model = tmp_path / 'm.h5.zip'
        assert main(['train', str(scan_file), '--model', str(model)]) == 1
    error = capsys.readouterr().err
    assert 'Cannot write' in error
    assert f'All epochs are in {training_folder(model)}' in error
    assert 'with --resume' in error
