"""What holds for every test."""

from __future__ import annotations

import os

# Set before numpy is loaded, and inherited by child processes. Two workers with a pool of linear-algebra
# threads each would fight for the cores; and a sum's last bit may depend on how many threads share it.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(_name, "1")
# Figures are drawn without a screen.
os.environ.setdefault("MPLBACKEND", "Agg")
