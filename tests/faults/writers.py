"""Everything that writes a file of ours, by the name of the file."""

from __future__ import annotations

import numpy as np

from ptychopinn_plugin import archive, files
from ptychopinn_plugin.backends.base import Model
from ptychopinn_plugin.config import UNROLLED, ModelConfig
from ptychopinn_plugin.network_weights import weight_shapes
from ptychopinn_plugin.report import save_loss_curve
from ptychopinn_plugin.result import Epoch

EPOCHS = [Epoch(n, 5, 1 / n, 1 / n, 0.1, 1.0) for n in range(1, 6)]
CONFIG = ModelConfig(architecture=UNROLLED)
RNG = np.random.default_rng(0)
WEIGHTS = {k: RNG.normal(size=s).astype(np.float32) for k, s in weight_shapes(CONFIG).items()}

SCANS = ('scan.npz', 'scan.h5', 'scan.cxi', 'pair')


def _save_model(scan, path):
    turned = {name: w * np.float32(np.sign(scan.scan_index[0] - 1)) for name, w in WEIGHTS.items()}
    archive.save_model(Model(CONFIG, turned), path)


WRITERS = {
    **dict.fromkeys(SCANS, files.save_scan),
    'model.h5.zip': _save_model,
    'loss.png': lambda _, path: save_loss_curve(EPOCHS, path),
}


def write(name, scan, folder):
    """Write the file of a name into a folder."""
    target = folder / name
    if name == 'pair' and folder.is_dir():
        target.mkdir(exist_ok=True)
    WRITERS[name](scan, target)
