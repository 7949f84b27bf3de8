"""Which back ends the tests must run over; one that is named and does not load fails its tests."""

import os

BACKENDS = os.environ.get('PTYCHOPINN_TEST_BACKENDS', 'torch').split(',')
