"""What each command does. Every command returns the JSON object that `--json` prints."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from .. import archive, checks, files, orientation, pipeline
from .. import metrics as scores
from ..atomic import make_folder
from ..backends.training_folder import RESUME_FILES
from ..config import ModelConfig, ReconstructionConfig, RuntimeConfig, TrainingConfig
from ..errors import OutputError
from ..result import Epoch, ObjectImage, Reconstruction, Sweep
from ..scan import Scan
from . import flags, targets
from .numbers import finite, peak_memory_bytes
from .progress import Bar, say

LIT = 0.1  # of the brightest spot: where the uncertainty is summed up

Report = dict[str, Any]


def reconstruct(args: argparse.Namespace) -> Report:
    """Reconstruct a scan, write product and figure, report quality and time."""
    begun = time.perf_counter()
    config = flags.settings(ReconstructionConfig, args)
    runtime = flags.settings(RuntimeConfig, args)
    targets.of_reconstruct(args)
    model = archive.load_model(args.model) if args.model else None
    scan = _load(args.scan, args)
    loaded = time.perf_counter() - begun
    if runtime.checks:
        checks.warn_about(scan, probe_is_guess=config.update_probe)
    checked = time.perf_counter() - begun - loaded
    with Bar('Sweeps', config.sweeps) as bar:

        def watch(sweep: Sweep) -> None:
            bar.move(
                sweep.number,
                total=sweep.total,
                note=f'{sweep.number}/{sweep.total} error {sweep.loss:.5f}',
            )

        def interrupted(last: Sweep) -> None:
            stopped.append(last)
            without = ', without uncertainty' if args.uncertainty else ''
            say(f'Interrupted: the result is that of sweep {last.number} of {last.total}{without}')

        stopped: list[Sweep] = []
        result = pipeline.reconstruct(
            scan, model, reconstruction=config, runtime=runtime, on_sweep=watch,
            on_interrupt=interrupted, uncertainty=args.uncertainty,
        )  # fmt: skip
    written = time.perf_counter()
    if args.output:
        files.save_result(args.output, scan, result)
    if args.figure:
        from ..report import save_figure

        save_figure(result, scan, args.figure)
    saved = time.perf_counter()
    report: Report = {
        'backend': result.backend,
        'patterns': len(scan),
        'start': result.start,
        'sweeps': len(result.losses) - 1,
        'interrupted': bool(stopped),
        'fourier_error': result.fourier_error,
        'start_fourier_error': result.start_fourier_error,
        'losses': list(result.losses),
    }
    if config.correct_positions:
        moved = np.hypot(*(result.positions_px - scan.positions_px).T)
        report['mean_displacement_px'] = float(moved.mean())
        report['max_displacement_px'] = float(moved.max())
    if result.background:
        report['background_counts'] = result.background
    if result.intensities is not None:
        lit = result.intensities > 0
        report['beam_fluctuation'] = float(np.log(result.intensities[lit]).std())
        report['patterns_without_beam'] = int((~lit).sum())
    if result.image.uncertainty is not None:
        lit = result.weight > LIT * result.weight.max()
        report['phase_sigma_rad'] = float(np.median(result.image.uncertainty[lit]))
        report['half_scan_frc50'] = result.half_scan_frc50
    if scan.true_object is not None:
        report['phase_ssim'] = _phase_ssim(result.image, scan)
        report['start_phase_ssim'] = _phase_ssim(result.estimate, scan)
    report.update(
        {k: str(v) for k, v in (('output', args.output), ('figure', args.figure)) if v is not None}
    )
    now = time.perf_counter()
    report['seconds'] = {
        'load': loaded, 'checks': checked, **result.seconds,
        'write': saved - written, 'total': now - begun,
    }  # fmt: skip
    report['peak_memory_bytes'] = peak_memory_bytes()
    _tell_reconstruction(report)
    _doubt(scan, result)
    return report


def _phase_ssim(image: ObjectImage, scan: Scan) -> float:
    """Return the phase SSIM against the true object over the lit part, 0 where the estimate has no
    structure.
    """
    assert scan.true_object is not None
    truth = scan.true_object
    whole = ObjectImage(truth, np.ones(truth.shape, np.float32), scan.frame.origin_px)
    score = scores.compare(*scores.overlap(image, whole))  # corrected positions take more room
    return float(score.phase_ssim)


def _tell_reconstruction(report: Report) -> None:
    ssim = f', phase SSIM {report["phase_ssim"]:.4f}' if 'phase_ssim' in report else ''
    seconds = report['seconds']
    say(
        f'{report["patterns"]} patterns, {report["backend"]}, {report["start"]} start '
        f'(error {report["start_fourier_error"]:.5f}), {report["sweeps"]} sweeps: '
        f'fourier_error {report["fourier_error"]:.5f}{ssim}; '
        f'start {seconds["start"]:.1f} s, sweeps {seconds.get("sweeps", 0):.1f} s, '
        f'total {seconds["total"]:.1f} s'
    )
    if 'mean_displacement_px' in report:
        say(
            f'positions corrected by {report["mean_displacement_px"]:.2f} px on average, at most '
            f'{report["max_displacement_px"]:.2f} px'
        )
    if 'beam_fluctuation' in report:
        say(
            f'beam fluctuates by {report["beam_fluctuation"]:.1%}, '
            f'{report["patterns_without_beam"]} patterns without it: allowed for'
        )
    if 'background_counts' in report:
        say(f'background of {report["background_counts"]:.3g} counts in every pixel: allowed for')
    if 'phase_sigma_rad' in report:
        say(
            f'phase known to {report["phase_sigma_rad"]:.3g} rad (median); half scans alike up to '
            f'{report["half_scan_frc50"]:.2f} of Nyquist (FRC 1/2)'
        )


def _doubt(scan: Scan, result: Reconstruction) -> None:
    """Warn when the result explains the patterns too badly for a matching scan."""
    floor, sweeps = orientation.noise_floor(scan), len(result.losses) - 1
    if orientation.suspicious(result.fourier_error, floor, sweeps):
        finding = checks.Finding(
            'fit', checks.WARNING,
            f'fourier_error {result.fourier_error:.4f} is high: photon noise leaves about '
            f'{floor:.4f}',
            'Flipped or swapped axes, positions that are off or in wrong units and a wrong probe '
            'do this',
            'ptychopinn-plugin orient SCAN checks the axes, --update-probe improves the probe, '
            '--correct-positions the positions',
        )  # fmt: skip
        checks.tell([finding], scan.name)


def check(args: argparse.Namespace) -> Report:
    """Say what looks wrong with a scan, the orientation by reconstruction included."""
    scan = _load(args.scan, args)
    found = list(checks.check_scan(scan, probe_is_guess=args.guess))
    if args.orientation:
        found += _orientation_findings(scan, args, {finding.check for finding in found})
    for finding in found:
        say(f'{finding.level}: {finding}')
    warnings = sum(finding.level == checks.WARNING for finding in found)
    notes = len(found) - warnings
    say(f'{scan.name}: {len(scan)} patterns, {warnings} warnings, {notes} notes')
    return {
        'findings': [finding.as_dict() for finding in found],
        'warnings': warnings,
        'notes': notes,
        'patterns': len(scan),
    }


def _orientation_findings(
    scan: Scan, args: argparse.Namespace, known: set[str]
) -> list[checks.Finding]:
    """Return what eight short reconstructions say, unless the quick check has said it."""
    if 'orientation' in known:
        return []
    found = orientation.judge(scan, runtime=flags.settings(RuntimeConfig, args))
    if not found.clear or found.best == orientation.AS_LOADED:
        return []
    return [
        checks.Finding(
            'orientation', checks.WARNING,
            f'The patterns fit the positions best after: {found.best} (fourier_error '
            f'{found.errors[found.best]:.4f} instead of {found.errors[orientation.AS_LOADED]:.4f})',
            'Wrong axes still give a picture, a wrong one at a high error',
            ' '.join(orientation.advice(found)[1:]).rstrip('.'),
        )
    ]  # fmt: skip


def orient(args: argparse.Namespace) -> Report:
    """Say which flip or swap of the patterns fits the positions."""
    scan = _load(args.scan, args)
    with Bar('Orientations', len(orientation.orientations())) as bar:
        done: list[str] = []

        def watch(name: str, error: float) -> None:
            done.append(name)
            bar.move(len(done), f'{name}: fourier_error {error:.5f}')

        found = orientation.judge(
            scan, runtime=flags.settings(RuntimeConfig, args), sweeps=args.sweeps,
            patterns=args.patterns, on_orientation=watch,
        )  # fmt: skip
    for name in found.ranking:
        mark = ('fits' if found.clear else 'may fit') if name in found.candidates else ''
        say(f'{name:>25} {found.errors[name]:.5f} {mark}'.rstrip())
    say(f'{found.patterns} patterns; photon noise alone leaves {found.floor:.5f}')
    for line in orientation.advice(found):
        say(line)
    return {
        'errors': dict(found.errors),
        'best': found.best,
        'clear': found.clear,
        'candidates': list(found.candidates),
        'patterns': found.patterns,
        'noise_floor': found.floor,
    }


def train(args: argparse.Namespace) -> Report:
    """Train a network, write the model and its loss curve."""
    begun = time.perf_counter()
    model, training = flags.settings(ModelConfig, args), flags.settings(TrainingConfig, args)
    runtime = flags.settings(RuntimeConfig, args)
    targets.of_train(args)
    initial = archive.load_model(args.initial) if args.initial else None
    scans, validation = ([_load(p, args) for p in paths] for paths in (args.scans, args.validation))
    folder = args.folder or targets.training_folder(args.model)
    if runtime.checks:
        for scan in (*scans, *validation):
            checks.warn_about(scan)
    epochs = 0
    again = f'in {folder}: run the same again with --resume'
    try:
        with Bar('Training', training.epochs) as bar:

            def watch(epoch: Epoch) -> None:
                nonlocal epochs
                epochs = epoch.number
                bar.move(
                    epoch.number,
                    f'epoch {epoch.number}/{epoch.total} loss {epoch.training_loss:.4g} '
                    f'validation {epoch.validation_loss:.4g} {epoch.seconds:.1f} s',
                )

            trained = pipeline.train(
                scans, validation=validation, model=model, training=training, runtime=runtime,
                folder=folder, on_epoch=watch, initial=initial, resume=args.resume,
                on_step=lambda share: bar.move(share * training.epochs),
            )  # fmt: skip
    except KeyboardInterrupt as error:
        # Before the first epoch a checkpoint is that of an earlier training.
        if (epochs or args.resume) and any((folder / f).is_file() for f in RESUME_FILES.values()):
            raise KeyboardInterrupt(f'Interrupted. The last checkpoint is {again}') from error
        raise
    try:
        archive.save_model(trained, args.model)
    except OutputError as error:
        raise OutputError(f'{error} All epochs are {again}') from error
    say(f'Model {args.model}; checkpoints in {folder}')
    from ..report import save_loss_curve

    make_folder(folder)
    curve = folder / targets.CURVE
    save_loss_curve(trained.history, curve)
    say(f'Loss curve {curve}')
    return {
        'backend': trained.writer,
        'model': str(args.model),
        'loss_curve': str(curve),
        'patterns': sum(len(s) for s in scans),
        'epochs': [e.number for e in trained.history],
        'training_loss': [finite(e.training_loss) for e in trained.history],
        'validation_loss': [finite(e.validation_loss) for e in trained.history],
        'best_epoch': trained.summary.get('best_epoch'),
        'ended': trained.summary.get('ended'),
        'seconds': {
            'epochs': sum(e.seconds for e in trained.history), 'total': time.perf_counter() - begun,
        },
        'peak_memory_bytes': peak_memory_bytes(),
    }  # fmt: skip


def simulate(args: argparse.Namespace) -> Report:
    """Simulate a scan and write it."""
    from ..simulate import Simulation, simulate_scan

    simulation = flags.settings(Simulation, args)
    targets.of_simulate(args, simulation)
    scan = simulate_scan(simulation)
    files.save_scan(scan, args.output)
    say(f'{len(scan)} patterns, N={scan.side_px}, object {scan.frame.shape}: {args.output}')
    return {
        'output': str(args.output),
        'patterns': len(scan),
        'pattern_size_px': scan.side_px,
        'object_shape': list(scan.frame.shape),
        'photons_per_frame': float(scan.totals.mean()),
    }


def compare(args: argparse.Namespace) -> Report:
    """Score a reconstructed object against a true or reference one."""
    result = files.load_object(args.result)
    truth = files.load_object(args.truth, key=args.truth_key)
    a, b, weight = scores.overlap(result, truth)
    score = scores.compare(a, b, weight).as_dict()
    for name, value in score.items():
        say(f'{name:>20} {value if isinstance(value, list) else format(value, ".5f")}')
    apart = scores.apart_px(a, b, weight)
    if apart is not None:
        say(
            f'The two fit much better {apart} px (y, x) from where their origins put them, and at '
            f'most {scores.LARGEST_SHIFT_PX:g} px are made good: check their origins and positions'
        )
    return {**score, 'apart_px': apart}


def info(args: argparse.Namespace) -> Report:
    """Describe a model, scan or result file."""
    facts = (
        files.describe(args.file)
        if not archive.is_model(args.file)
        else archive.describe_model(args.file)
    )
    for name, value in facts.items():
        say(f'{name}: {value}')
    return facts


def doctor(args: argparse.Namespace) -> Report:
    """Say what is installed."""
    from .doctor import examine

    return examine()


def link(args: argparse.Namespace) -> Report:
    """Write the hook beside a Ptychodus that pip did not reach."""
    from ..host import hook_file

    path = hook_file.link()
    say(f'Ptychodus will find the plug-in: {path}')
    return {'hook': str(path)}


def unlink(args: argparse.Namespace) -> Report:
    """Remove the hook."""
    from ..host import hook_file

    path = hook_file.unlink()
    say(f'Removed {path}' if path else 'There was no hook')
    return {'removed': str(path) if path else None}


def convert(args: argparse.Namespace) -> Report:
    """Write a scan in another format."""
    targets.of_convert(args)
    scan = _load(args.scan, args)
    files.save_scan(scan, args.output)
    say(f'{len(scan)} patterns, N={scan.side_px}: {args.output}')
    return {'output': str(args.output), 'patterns': len(scan), 'pattern_size_px': scan.side_px}


def demo(args: argparse.Namespace) -> Report:
    """Run the whole story on simulated scans."""
    from .demo import run

    return run(args.folder, flags.settings(RuntimeConfig, args))


def _load(path: Path, args: argparse.Namespace) -> Scan:
    return files.load_scan(
        path, diffraction=args.diffraction, probe_key=args.probe_key, product=args.product
    )
