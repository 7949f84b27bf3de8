"""Training and reconstructing in a child process: frameworks never load in the caller's.

The child survives nothing of its parent and the parent survives everything of its child: a crash,
a kill, a hang and a flood of output each become an error or a stop. Clauses: WK- in
specs/ptychodus_api_spec.md.
"""

from __future__ import annotations

from .client import Run
from .protocol import Event, ReconstructJob, Saved, Started, Step, StopRun, TrainJob

__all__ = ['Event', 'ReconstructJob', 'Run', 'Saved', 'Started', 'Step', 'StopRun', 'TrainJob']
