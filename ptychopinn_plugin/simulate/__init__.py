"""Scans of known objects: specimens, probes and positions, exposed by the reference physics.

`ptychodus.api.simulate` does not serve: it needs a host geometry in metres, and 1.4 lacks it.
"""

from __future__ import annotations

from .scan import Simulation, simulate_scan

__all__ = ['Simulation', 'simulate_scan']
