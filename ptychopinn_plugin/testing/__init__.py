"""Contract tests for whoever writes a Ptychodus reconstructor, with NumPy and pytest alone.

Derive a class, say how yours is made, and pytest runs every clause over it on a small simulated
scan:

    from ptychopinn_plugin.testing import TrainableReconstructorContract
    from my_package import MyReconstructor

    class TestMyReconstructor(TrainableReconstructorContract):
        logger_name = 'my_package'  # errors must reach the host's status pane
        needs_model = True

        def make_reconstructor(self):
            return MyReconstructor(epochs=2)

`ReconstructorContract` is for those that are not trained, `ReconstructorLibraryContract` for the
library, `HostContract` for the algorithm inside a running Ptychodus. What else can be chosen are
the attributes at the top of each class. A clause is a method; its docstring says why it is asked.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    *(
        f'{__name__}.{module}'
        for module in ('exported', 'frame', 'host', 'library', 'reconstructor', 'trainable')
    )
)

from .host import HostContract  # noqa: E402
from .inputs import EXAMPLES, Example, simulate_input  # noqa: E402
from .library import ReconstructorLibraryContract  # noqa: E402
from .reconstructor import ReconstructorContract  # noqa: E402
from .trainable import TrainableReconstructorContract  # noqa: E402

__all__ = [
    'EXAMPLES',
    'Example',
    'HostContract',
    'ReconstructorContract',
    'ReconstructorLibraryContract',
    'TrainableReconstructorContract',
    'simulate_input',
]
