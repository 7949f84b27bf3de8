"""The autoencoder against the same network in the plain layers of a framework, in one run on one
machine.

    python benchmarks/autoencoder.py [--side 64] [--seconds 15] [--keras-python PYTHON]

Each contender is a process of its own: start-up (imports until a network is built), training
patterns/s (network, physics, Adam), inference patterns/s with stitching, peak memory of the whole
process. The plain contenders use the same convolutions in the framework's default layout, predict a
patch per pattern, light it, propagate it and train on the Poisson likelihood, one step after
another; they stand for adapters that do no more than that. `--keras-python` names an interpreter
with TensorFlow, where the Keras contender runs; without it that row is left out and said so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PATTERNS = 400
BATCH = 16


def contend(python: str, name: str, side: int, seconds: float) -> dict[str, float]:
    """Run one contender in a process of its own."""
    script = HERE / 'contenders' / f'{name}.py'
    begun = time.perf_counter()
    done = subprocess.run(
        [python, str(script), str(side), str(seconds), str(PATTERNS), str(BATCH)],
        stdout=subprocess.PIPE, text=True, check=True, timeout=600,
    )  # fmt: skip
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    result['process_s'] = time.perf_counter() - begun
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--side', type=int, default=64)
    parser.add_argument('--seconds', type=float, default=15)
    parser.add_argument('--keras-python')
    args = parser.parse_args()
    contenders = {'ours': sys.executable, 'plain_torch': sys.executable}
    if args.keras_python:
        contenders['plain_keras'] = args.keras_python
    else:
        print('plain_keras left out: give --keras-python')
    results = {}
    for name, python in contenders.items():
        r = results[name] = contend(python, name, args.side, args.seconds)
        print(
            f'{name:>12}: training {r["training_patterns_per_s"]:6.1f} patterns/s, inference with '
            f'stitching {r["inference_patterns_per_s"]:6.1f} patterns/s; start-up inference '
            f'{r["inference_start_s"]:.1f} s, training {r["training_start_s"]:.1f} s; '
            f'peak memory {r["peak_memory_bytes"] / 1e9:.2f} GB'
        )
    print(json.dumps(results))


if __name__ == '__main__':
    main()
