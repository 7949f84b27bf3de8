"""The pictures of the panel in the documentation, taken of Ptychodus's real window.

    python docs/make_screenshots.py [FOLDER]

Trains on one simulated scan and infers another by the buttons of the window, with PyTorch and
without a display: a few minutes. Writes gui_panel.png and gui_infer.png to FOLDER (docs).
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EPOCHS, SWEEPS = 16, 20
SIZE = (1500, 1470)  # so high that the whole panel is seen
PICTURE_SIZE = (1500, 960)
LIMIT_S = 900.0


def main() -> int:
    """Take the pictures; return the exit status."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / 'docs'
    os.environ.setdefault('QT_QPA_PLATFORM', 'offscreen')
    sys.path.insert(0, str(ROOT / 'tests'))  # the tests drive the same window
    from host.window import PINN, Window
    from ptychodus.model import ModelCore

    from ptychopinn_plugin.host import attach

    if not attach():
        return 1
    with tempfile.TemporaryDirectory() as folder:
        training, held_out = scans(Path(folder))
        with ModelCore(log_level=logging.INFO) as model:
            window = Window(model, SIZE)
            window.open_scan(held_out)
            window.choose(PINN)
            window.train(training, epochs=EPOCHS, filters=1, seconds=LIMIT_S)
            window.infer(sweeps=SWEEPS, seconds=LIMIT_S)
            window.picture(target / 'gui_panel.png')
            window.resize(PICTURE_SIZE)
            window.show_object('Amplitude')
            window.picture(target / 'gui_infer.png')
            window.close()
    return 0


def scans(folder: Path) -> tuple[Path, Path]:
    """Simulate a scan to train on and one to infer, each as a folder of Ptychodus's files."""
    from ptychopinn_plugin.files import save_scan
    from ptychopinn_plugin.simulate import Simulation, simulate_scan

    wanted = {
        'training': Simulation(specimen='leaves', patterns=400, seed=1),
        'held_out': Simulation(specimen='leaves', patterns=600, seed=5),
    }
    for name, simulation in wanted.items():
        (folder / name).mkdir()
        save_scan(simulate_scan(simulation), folder / name)
    return folder / 'training', folder / 'held_out'


if __name__ == '__main__':
    sys.exit(main())
