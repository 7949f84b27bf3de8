"""What importing the TensorFlow back end brings, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, sys
import ptychopinn_plugin.backends.tensorflow.backend
assert 'tensorflow' in sys.modules
assert 'keras' not in sys.modules and 'tf_keras' not in sys.modules
assert 'TF_USE_LEGACY_KERAS' not in os.environ
import tensorflow
assert tensorflow.keras.__version__ >= '3'
print('fine')
"""


def test_it_brings_no_keras_which_still_loads_on_demand_and_no_greeting():
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, 'fine\n'), done.stderr
    assert 'oneDNN' not in done.stderr
