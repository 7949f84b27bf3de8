"""When a network looks at the object between sweeps. Letters as in `scan`."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .canvas import Canvas
from .light import Light
from .scaling import mean_counts, photons_per_count
from .scan import Complex, Double, Float, Scan
from .sweep_plan import SweepPlan

logger = logging.getLogger(__name__)

Run = Callable[[Float], Float]  # a network, see `Canvas.corrected`


class Looks:
    """When a network looks at the object; it is made for the first of its looks."""

    def __init__(self, make_run: Callable[[], Run] | None, scan: Scan, light: Light) -> None:
        self.make_run = make_run
        self.run: Run | None = None
        self.mean: Double | None = None
        self.photons = 1.0  # per count
        self.move(scan, light)

    def move(self, scan: Scan, light: Light) -> None:
        """Take other positions."""
        self.scan, self.light = scan, light
        self.canvas: Canvas | None = None

    def due(self, plan: SweepPlan) -> bool:
        """Return whether there is a network that looks after this sweep."""
        return self.make_run is not None and plan.network > 0

    def corrected(
        self, object_: Complex, last: Complex, plan: SweepPlan, *, loss: float, number: int
    ) -> Complex:
        """Return the object (H, W) as the network has it; see `Canvas.corrected`."""
        assert self.make_run is not None
        self.run = self.run or self.make_run()
        self._count(loss)
        self.canvas = self.canvas or Canvas(self.scan, self.light, self.photons)
        return self.canvas.corrected(
            self.run, object_, last, loss=loss, pace=plan.pace, number=number, share=plan.network
        )

    def _count(self, loss: float) -> None:
        """Find out for how many photons a count stands: the network judges noise by them."""
        self.mean = mean_counts(self.scan) if self.mean is None else self.mean
        photons = photons_per_count(self.mean, loss)
        if photons <= self.photons:
            return
        if self.photons == 1:
            logger.info('The noise is far below that of photons: the counts seem to be scaled')
        self.photons, self.canvas = photons, None
