"""The TensorFlow back end; mirrors `backends/torch` file by file.

TensorFlow's greeting goes to the log of the process at import; only its errors are of use to a
beamline. What the user has set is kept.
"""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
