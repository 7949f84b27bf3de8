"""The PyTorch back end; mirrors `backends/tensorflow`.

OpenMP reads its settings when torch is first imported, so they stand here. Its threads spin at the
end of every small operation by default; when another program wants a core, sweeps then take 30 to
50 times as long (1000 patterns of 64x64: 3 s instead of 0.06 s). Sleeping instead costs nothing
measurable on a quiet machine, and a factor of 3 on a busy one. What the user has set is kept.
"""

import os

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
os.environ.setdefault('KMP_BLOCKTIME', '0')
