"""Sweeps, whole reconstructions and trainings on a GPU, beside what the device can do at most.

    python benchmarks/gpu.py [--backend torch] [--only limits sweeps batches whole training]
        [--json FILE]

limits    bytes per second of a copy within the GPU's memory; fft2 + ifft2 of many patterns, and of
          a batch at a time
sweeps    patterns per second of the median sweep, its share of those limits, the time until the
          first sweep is done, and quality beside that of the same sweeps on the CPU
batches   larger batches: faster sweeps, of which more are needed
whole     seconds of a whole reconstruction, step by step, GPU and CPU
training  seconds per epoch and losses, with convolutions in TF32 (the default) and in float32

Every time is a wall clock's, with the GPU idle before and after. Quality is the phase SSIM against
the true object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ptychopinn_plugin import pipeline, starts
from ptychopinn_plugin.backends import registry
from ptychopinn_plugin.config import (
    ModelConfig,
    ReconstructionConfig,
    RuntimeConfig,
    TrainingConfig,
)
from ptychopinn_plugin.light import light_of
from ptychopinn_plugin.metrics import compare
from ptychopinn_plugin.probe_modes import adjusted
from ptychopinn_plugin.scaling import normalised_probe
from ptychopinn_plugin.scan import Scan
from ptychopinn_plugin.simulate import Simulation, simulate_scan
from ptychopinn_plugin.sweep_plan import LARGEST_BATCH, batch_size

SWEEPS = 10
COPIED_BYTES = 2**30
Row = dict[str, Any]


class Torch:
    """What is asked of a GPU through PyTorch."""

    name = 'torch'

    def __init__(self) -> None:
        import torch

        self.torch = torch

    def wait(self) -> None:
        """Return when the GPU is idle."""
        self.torch.cuda.synchronize()

    def copy(self, bytes_: int) -> Callable[[], object]:
        """Return what copies so many bytes within the GPU's memory."""
        a = self.torch.randn(bytes_ // 4, device='cuda')
        b = self.torch.empty_like(a)
        return lambda: b.copy_(a)

    def pairs(self, side: int, together: int, repeats: int) -> Callable[[], object]:
        """Return what transforms so many patterns there and back, again and again."""
        fft = self.torch.fft
        stack = self.torch.randn(together, side, side, dtype=self.torch.complex64, device='cuda')

        def work() -> None:
            for _ in range(repeats):
                fft.ifft2(fft.fft2(stack))

        return work

    def allow_tf32(self, allowed: bool) -> None:
        """Let convolutions take factors of ten bits, as they do unless told, or of 23."""
        self.torch.backends.cudnn.allow_tf32 = allowed


class TensorFlow:
    """The same through TensorFlow."""

    name = 'tensorflow'

    def __init__(self) -> None:
        import tensorflow

        self.tf = tensorflow

    def wait(self) -> None:
        """Return when the GPU is idle."""
        self.tf.test.experimental.sync_devices()

    def copy(self, bytes_: int) -> Callable[[], object]:
        """Return what reads and writes so many bytes of the GPU's memory."""
        with self.tf.device('/GPU:0'):
            a = self.tf.random.normal([bytes_ // 4])
        return lambda: self.tf.negative(a)

    def pairs(self, side: int, together: int, repeats: int) -> Callable[[], object]:
        """Return what transforms so many patterns there and back, again and again."""
        with self.tf.device('/GPU:0'):
            real, imaginary = (self.tf.random.normal([together, side, side]) for _ in range(2))
            stack = self.tf.complex(real, imaginary)
        signal = self.tf.signal

        def work() -> None:
            for _ in range(repeats):
                signal.ifft2d(signal.fft2d(stack))

        return work

    def allow_tf32(self, allowed: bool) -> None:
        """Let convolutions take factors of ten bits, as they do unless told, or of 23."""
        self.tf.config.experimental.enable_tensor_float_32_execution(allowed)


FRAMEWORKS = {f.name: f for f in (Torch, TensorFlow)}


def _scan(side: int, patterns: int, object_px: int, seed: int, **more: Any) -> Simulation:
    return Simulation(
        pattern_size_px=side, patterns=patterns, object_size_px=object_px, seed=seed, **more
    )


# What is simulated, and how many modes of the probe are updated (none: the probe is known).
CASES: dict[str, tuple[Simulation, int]] = {
    '64 px, 1 000': (_scan(64, 1000, 256, 21, specimen='leaves'), 0),
    '64 px, 1 000, probe updated': (_scan(64, 1000, 256, 21, specimen='leaves'), 1),
    '64 px, 1 000, 3 modes updated': (_scan(64, 1000, 256, 22, specimen='field'), 3),
    '64 px, 20 000': (_scan(64, 20_000, 1100, 23, specimen='leaves'), 0),
    '128 px, 1 000': (_scan(128, 1000, 512, 24, specimen='photographs'), 0),
    '128 px, 1 000, probe updated': (_scan(128, 1000, 512, 24, specimen='photographs'), 1),
    '256 px, 400': (_scan(256, 400, 700, 25, specimen='lines'), 0),
}


@cache
def scan_of(case: str) -> Scan:
    """Return the scan of a case."""
    return simulate_scan(CASES[case][0])


class Bench:
    """The parts of the benchmark, with one back end on a GPU."""

    def __init__(self, name: str) -> None:
        self.backend = registry.load(name)
        self.device: Torch | TensorFlow = FRAMEWORKS[name]()
        self.cpu, self.gpu = (RuntimeConfig(backend=name, device=d) for d in ('cpu', 'cuda'))

    def seconds(self, work: Callable[[], object], times: int) -> float:
        """Return the least time of `work` on the GPU, after two runs that do not count."""
        taken = []
        for number in range(times + 2):
            self.device.wait()
            begun = time.perf_counter()
            work()
            self.device.wait()
            if number > 1:
                taken.append(time.perf_counter() - begun)
        return min(taken)

    def transformed_per_s(self, side: int, together: int) -> float:
        """Return pairs of complex64 fft2 and ifft2 per second, of so many patterns at a time."""
        repeats = max(1, 2**20 // (together * side))
        taken = self.seconds(self.device.pairs(side, together, repeats), 5)
        return together * repeats / taken

    def limits(self) -> Iterator[Row]:
        """Measure what the device can do at most."""
        copied = 2 * COPIED_BYTES / self.seconds(self.device.copy(COPIED_BYTES), 10)
        yield {'copy within memory, bytes/s': copied}
        for side in (64, 128, 256):
            many = 2**26 // side**2
            yield {
                'side_px': side,
                'fft2 + ifft2, many at a time, patterns/s': self.transformed_per_s(side, many),
                f'{LARGEST_BATCH} at a time': self.transformed_per_s(side, LARGEST_BATCH),
            }

    def swept(self, scan: Scan, modes: int, where: RuntimeConfig, **more: Any) -> Row:
        """Return speed and quality of sweeps from a flat start."""
        probe = adjusted(normalised_probe(scan), modes) if modes else normalised_probe(scan)
        config = ReconstructionConfig(
            **{'start': 'flat', 'sweeps': SWEEPS, 'update_probe': modes > 0, **more}
        )
        self.device.wait()
        times = [time.perf_counter()]
        image = starts.flat_start(scan)
        for sweep in self.backend.refine(scan, image, probe, config, where):
            times.append(time.perf_counter())
            image = sweep.image
        assert scan.true_object is not None
        score = compare(image.object, scan.true_object, image.weight)
        return {
            'patterns/s': len(scan) / statistics.median(np.diff(times[1:])),
            'first sweep, s': times[1] - times[0],
            'all sweeps, s': times[-1] - times[0],
            'phase SSIM': score.phase_ssim,
        }

    def sweeps(self) -> Iterator[Row]:
        """Measure sweeps beside the limits."""
        self.swept(simulate_scan(_scan(64, 100, 150, 1)), 0, self.gpu)  # the device wakes up
        for name, (_, modes) in CASES.items():
            scan = scan_of(name)
            row = self.swept(scan, modes, self.gpu)
            beside = self.swept(scan, modes, self.cpu)
            light, fields = light_of(scan, normalised_probe(scan)), max(1, modes)
            size = batch_size(scan, SWEEPS, light, on_gpu=True)
            limit, batch = (
                self.transformed_per_s(scan.side_px, n * fields) / fields for n in (len(scan), size)
            )
            yield {
                'case': name,
                **row,
                'of fft2 + ifft2': row['patterns/s'] / limit,
                'of those of a batch': row['patterns/s'] / batch,
                'CPU, patterns/s': beside['patterns/s'],
                'times the CPU': row['patterns/s'] / beside['patterns/s'],
                'CPU, phase SSIM': beside['phase SSIM'],
            }

    def batches(self) -> Iterator[Row]:
        """Measure larger batches."""
        for name in ('64 px, 1 000', '64 px, 20 000', '128 px, 1 000'):
            scan = scan_of(name)
            for size in (32, 64, 128, 256):
                row = self.swept(scan, 0, self.gpu, sweep_batch_size=size)
                yield {'case': name, 'batch': size, **row}

    def whole(self) -> Iterator[Row]:
        """Measure what a user waits for."""
        for name in ('64 px, 1 000', '64 px, 20 000', '128 px, 1 000'):
            scan = scan_of(name)
            for label, where in (('GPU', self.gpu), ('CPU', self.cpu)):
                self.device.wait()
                found = pipeline.reconstruct(scan, runtime=where)
                assert scan.true_object is not None
                score = compare(found.image.object, scan.true_object, found.image.weight)
                yield {
                    'case': name,
                    'on': label,
                    **{f'{k}, s': v for k, v in found.seconds.items()},
                    'phase SSIM': score.phase_ssim,
                }

    def trained(self, scan: Scan, architecture: str, where: RuntimeConfig, epochs: int) -> Row:
        """Return the time and the loss of a training."""
        model = ModelConfig(architecture=architecture, pattern_size_px=scan.side_px)
        training = TrainingConfig(epochs=epochs)
        begun = time.perf_counter()
        made = pipeline.train(scan, model=model, training=training, runtime=where)
        epochs_s = [e.seconds for e in made.history[1:]]
        return {
            'whole, s': time.perf_counter() - begun,
            'epoch, s': statistics.median(epochs_s),
            'last validation loss': made.history[-1].validation_loss,
        }

    def training(self) -> Iterator[Row]:
        """Measure trainings of both networks."""
        scan = scan_of('64 px, 1 000')
        for architecture, epochs in (('autoencoder', 6), ('unrolled', 4)):
            for tf32 in (True, False):
                self.device.allow_tf32(tf32)
                on = f'GPU, {"TF32" if tf32 else "float32"}'
                row = self.trained(scan, architecture, self.gpu, epochs)
                yield {'network': architecture, 'on': on, **row}
            self.device.allow_tf32(True)
            if architecture == 'unrolled':  # of the other see autoencoder.py: it takes minutes
                row = self.trained(scan, architecture, self.cpu, 3)
                yield {'network': architecture, 'on': 'CPU', **row}


def shown(value: Any) -> str:
    """Return a number as it is read easily."""
    if not isinstance(value, float):
        return str(value)
    return f'{value:,.0f}' if abs(value) >= 100 else f'{value:.4g}'


PARTS = ('limits', 'sweeps', 'batches', 'whole', 'training')


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--backend', choices=FRAMEWORKS, default='torch')
    parser.add_argument('--only', nargs='+', choices=PARTS, default=list(PARTS))
    parser.add_argument('--json', type=Path)
    args = parser.parse_args()
    bench = Bench(args.backend)
    versions = bench.backend.versions()
    results: dict[str, Any] = {'device': bench.backend.device(bench.gpu), **versions}
    print(results['device'], versions)
    for name in args.only:
        results[name] = []
        for row in getattr(bench, name)():
            results[name].append(row)
            text = ', '.join(f'{key}: {shown(value)}' for key, value in row.items())
            print(f'{name}: {text}', flush=True)
            if args.json:
                args.json.write_text(json.dumps(results, indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
