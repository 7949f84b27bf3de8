"""How much background a scan has, learned in a few sweeps.

`background` finds what is certain to be there, often half of it, and an even one only. Where it
finds some, sweeps over a part of the scan with that much show how many more counts than predicted
lie in the darker half of the detector; so many times more or less background is allowed for then,
as in the deconvolution of Richardson (doi:10.1364/JOSA.62.000055) and Lucy
(doi:10.1086/111605), by steps that overshoot at first and are damped at last. Letters as in `scan`.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace

import numpy as np

from .backends.base import Backend
from .background import told
from .beam_intensity import with_beam
from .config import ReconstructionConfig, RuntimeConfig
from .far_field import BATCH, Judge
from .grouping import Rows
from .result import Sweep
from .scaling import beam_counts
from .scan import Bool, Scan
from .transforms import PLAIN
from .trials import unheard

logger = logging.getLogger(__name__)

POWERS = (2.0, 1.0, 1.0, 0.5)  # of what is seen over what is predicted, step after step
SWEEPS = 2  # before each step
SEEN, FEWEST_SEEN = 2**22, 64  # pixels, and patterns at least, that the sweeps see
PREDICTED, FEWEST_PREDICTED = 2**19, 32  # of them that are predicted
DARKER = 0.5  # of the pixels
MOST = 4.0  # times more or less at once
LARGEST = 0.5  # of all counts, unless more is certain


def learned(
    scan: Scan,
    start: Sweep,
    config: ReconstructionConfig,
    runtime: RuntimeConfig,
    backend: Backend,
) -> tuple[Scan, Sweep]:
    """Return the scan with as much `background` as its patterns show, and the start with a probe as
    bright as the rest.
    """
    config = replace(
        config, sweeps=SWEEPS, network_correction=False, correct_positions=False,
        held_out_stop=False,
    )  # fmt: skip
    part = _together(with_beam(scan))
    sample = max(FEWEST_PREDICTED, PREDICTED // scan.side_px**2)
    rows = np.linspace(0, len(part) - 1, min(len(part), sample)).astype(int)
    good, mean = ~scan.bad_pixels, part.patterns(rows).mean(0, dtype=np.float64)
    darker = good & (mean <= np.quantile(mean[good], DARKER))
    found, last = scan.background, start
    all_counts = float(scan.totals.mean()) / float(good.sum())
    largest = max(found, LARGEST * all_counts)
    for power in POWERS:
        part = told(part, found)
        with unheard():
            steps = backend.refine(part, last.image, last.probe, config, runtime)
            last = deque(steps, maxlen=1)[0]
        found *= float(np.clip(_excess(part, last, rows, darker), 1 / MOST, MOST)) ** power
        found = min(found, largest)
    share = 100 * found / all_counts
    logger.info('The patterns show a background of %.3g counts, %.1f %% of all', found, share)
    known, scan = scan, told(scan, found)
    scale = np.float32(np.sqrt(beam_counts(scan.signal) / beam_counts(known.signal)))
    return scan, replace(start, probe=start.probe * scale)


def _together(scan: Scan) -> Scan:
    """Return as much of the scan, around its middle, as suffices."""
    most = max(FEWEST_SEEN, SEEN // scan.side_px**2)
    if len(scan) <= most:
        return scan
    middle = np.median(scan.positions_px, axis=0)
    distance = np.linalg.norm(scan.positions_px - middle, axis=1)
    return scan.take(np.sort(np.argpartition(distance, most - 1)[:most]))


def _excess(scan: Scan, state: Sweep, rows: Rows, where: Bool) -> float:
    """Return the mean of counts over predicted counts in some pixels of some patterns."""
    judge = Judge(PLAIN, scan, state.probe)
    ratios = [
        scan.patterns(part)[:, where] / judge.patterns(state.image, part)[:, where]
        for part in np.array_split(rows, -(-len(rows) // BATCH))
    ]
    return float(np.concatenate(ratios).mean(dtype=np.float64))
