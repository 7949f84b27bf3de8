"""PyTorch and TensorFlow on the same scans, in one run on one machine.

    python benchmarks/parity.py [--epochs 8] [--patterns 600] [--output build/parity]

For each of three scans that differ in object, probe and seed, each back end trains a network, makes
its estimate on another scan of the same kind, and refines it; then a Ptychodus without a window
does the same through its scripting API (load, train, reconstruct). The back ends take turns, each
in a process of its own. Writes a table (JSON and text) and a figure. Times are those of a shared
machine: look at the ratios.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BEGUN = time.perf_counter()
BACKENDS = ('torch', 'tensorflow')
SWEEPS = 20
CASES = {
    'leaves': {'specimen': 'leaves', 'probe': 'zone-plate', 'seed': 11},
    'lines': {'specimen': 'lines', 'probe': 'gaussian', 'seed': 22},
    'field': {'specimen': 'field', 'probe': 'airy', 'seed': 33, 'photons_per_frame': 1e5},
}


def child(backend: str, train_file: str, test_file: str, epochs: int) -> dict[str, float]:
    """Train, estimate, refine with one back end and time each part."""
    import ptychopinn_plugin as pp
    from ptychopinn_plugin import metrics, pipeline
    from ptychopinn_plugin.backends import registry
    from ptychopinn_plugin.config import (
        ModelConfig,
        ReconstructionConfig,
        RuntimeConfig,
        TrainingConfig,
    )

    runtime = RuntimeConfig(backend=backend, device='cpu')
    loaded = registry.load(backend)
    out = {'import_s': time.perf_counter() - BEGUN}
    train, test = pp.load_scan(train_file), pp.load_scan(test_file)
    begun = time.perf_counter()
    first: list[float] = []

    def step(share: float) -> None:
        if not first:
            first.append(time.perf_counter() - begun)

    model = pipeline.train(
        train, model=ModelConfig(architecture='autoencoder', n_filters_scale=1),
        training=TrainingConfig(epochs=epochs),
        runtime=runtime, on_step=step,
    )  # fmt: skip
    out['first_step_s'] = first[0]
    seconds = min(e.seconds for e in model.history)
    out['epoch_s'] = seconds
    out['training_patterns_per_s'] = len(train) / seconds
    out['validation_loss'] = min(e.validation_loss for e in model.history)
    settings = ReconstructionConfig(sweeps=SWEEPS)
    loaded.estimate(test, model, settings, runtime)  # the first call traces
    begun = time.perf_counter()
    estimate = loaded.estimate(test, model, settings, runtime)
    out['estimate_patterns_per_s'] = len(test) / (time.perf_counter() - begun)
    result = pipeline.reconstruct(test, model, reconstruction=settings, runtime=runtime)
    out['sweep_patterns_per_s'] = SWEEPS * len(test) / result.seconds['sweeps']
    out['fourier_error'] = result.fourier_error
    assert test.true_object is not None
    for name, image in (('estimate', estimate), ('result', result.image)):
        score = metrics.compare(image.object, test.true_object, image.weight)
        out[f'{name}_phase_ssim'] = score.phase_ssim
        out[f'{name}_phase_mae_rad'] = score.phase_mae_rad
        out[f'{name}_frc50'] = score.frc50
    out['peak_memory_gb'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return out


def host(backend: str, folder: str, epochs: int) -> dict[str, float]:
    """Train and reconstruct through Ptychodus' scripting API; `folder` holds its pair of files."""
    import logging

    from ptychodus.model import ModelCore

    inner, outer = Path(folder), Path(folder) / backend
    outer.mkdir()
    with ModelCore(log_level=logging.WARNING) as core:
        for group, key, value in (
            ('Runtime', 'Backend', backend),
            ('Training', 'Epochs', epochs),
            ('Model', 'NFiltersScale', 1),
        ):
            setting = core.settings_registry[f'PtychoPINNPlugin{group}'].parameters()[key]
            setting.set_value(value)
        flow = core.workflow_api
        data = flow.load_assembled_diffraction_data(inner / 'diffraction.h5')
        product = flow.load_product(inner / 'product.h5', diffraction=data)
        algorithm = 'ptychopinn-plugin_pinn'
        begun = time.perf_counter()
        product.train_reconstructor_local(inner, outer, algorithm=algorithm, block=True)
        trained = time.perf_counter()
        product.reconstruct_local(block=True)
        return {'host_train_s': trained - begun, 'host_infer_s': time.perf_counter() - trained}


def run(what: str, backend: str, *arguments: object) -> dict[str, float]:
    """Run one back end in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, what, backend, *map(str, arguments)],
        stdout=subprocess.PIPE, text=True, check=True, timeout=1800,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure(folder: Path, epochs: int, patterns: int) -> dict[str, dict[str, dict[str, float]]]:
    """Return {case: {back end: numbers}}."""
    import ptychopinn_plugin as pp
    from ptychopinn_plugin.simulate import Simulation

    results: dict[str, dict[str, dict[str, float]]] = {}
    for number, (case, settings) in enumerate(CASES.items()):
        files = []
        for what, more in (('train', 0), ('test', 1000)):
            made = dict(settings, seed=int(str(settings['seed'])) + more)
            scan = pp.simulate_scan(
                Simulation(patterns=patterns, object_size_px=220, **made)  # type: ignore[arg-type]
            )
            files.append(folder / f'{case}-{what}.npz')
            pp.save_scan(scan, files[-1])
        order = BACKENDS if number % 2 == 0 else BACKENDS[::-1]
        results[case] = {b: run('--child', b, *files, epochs) for b in order}
        pair = folder / case
        pair.mkdir()
        pp.save_scan(pp.load_scan(files[0]), pair)
        for b in order:
            results[case][b] |= run('--host', b, pair, max(1, epochs // 4))
        print(table({case: results[case]}), flush=True)
    return results


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return the numbers of both back ends and their ratio, as text."""
    lines = []
    for case, by_backend in results.items():
        lines.append(f'{case:<26}{"torch":>12}{"tensorflow":>12}{"tf / torch":>12}')
        for name in by_backend['torch']:
            a, b = (by_backend[k][name] for k in BACKENDS)
            lines.append(f'  {name:<24}{a:>12.5g}{b:>12.5g}{b / a if a else 0:>12.3f}')
    return '\n'.join(lines)


def draw(results: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Draw the ratios of all cases, on a logarithmic axis about 1."""
    from matplotlib.figure import Figure

    names = list(next(iter(results.values()))['torch'])
    figure = Figure((8, 0.32 * len(names) + 1.2), layout='constrained')
    axes = figure.add_subplot()
    for marker, (case, by_backend) in zip('osd', results.items(), strict=False):
        ratios = [by_backend['tensorflow'][n] / (by_backend['torch'][n] or 1) for n in names]
        axes.plot(ratios, range(len(names)), marker, label=case, alpha=0.8)
    axes.axvspan(1 / 1.5, 1.5, alpha=0.08)
    axes.axvline(1, linewidth=0.8)
    axes.set_xscale('log')
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel('TensorFlow / PyTorch')
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--epochs', type=int, default=8)
    parser.add_argument('--patterns', type=int, default=600)
    parser.add_argument('--output', type=Path, default=Path('build/parity'))
    parser.add_argument('--child', nargs=4, help=argparse.SUPPRESS)
    parser.add_argument('--host', nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        backend, train, test, epochs = args.child
        print(json.dumps(child(backend, train, test, int(epochs))))
        return
    if args.host:
        backend, folder, epochs = args.host
        print(json.dumps(host(backend, folder, int(epochs))))
        return
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), args.epochs, args.patterns)
    (args.output / 'parity.json').write_text(json.dumps(results, indent=1))
    (args.output / 'parity.txt').write_text(table(results) + '\n')
    draw(results, args.output / 'parity.png')
    print(f'Written to {args.output}')


if __name__ == '__main__':
    main()
