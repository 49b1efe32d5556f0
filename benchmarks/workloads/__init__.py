"""The workloads: each takes a peer and a size, and gives its figures as a flat dictionary."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from benchmarks.sizes import Size

Workload = Callable[[str, Size, Path], dict[str, float]]

# Where each lives, and the peers that can do it. The floor is what nobody can do without.
PEERS: dict[str, tuple[str, ...]] = {
    "W1": ("floor", "nirs_store", "plain", "mlflow", "nirs4all"),
    "W2": ("floor", "nirs_store", "plain", "mlflow", "nirs4all"),
    "W3": ("nirs_store", "plain", "mlflow", "nirs4all"),
    "W4": ("nirs_store", "plain", "mlflow", "nirs4all"),
    "W5": ("nirs_store", "plain", "mlflow", "nirs4all"),
    "W6": ("nirs_store", "plain", "mlflow", "nirs4all"),
    "W7": ("nirs_store",),
    "W8": ("nirs_store", "plain", "mlflow", "nirs4all"),
    "W9": ("nirs_store",),
    "W10": ("nirs_store",),
    "W11": ("nirs_store",),
    "W12": ("nirs_store",),
    "W13": ("nirs_store",),
    "W14": ("nirs_store",),
    "W15": ("nirs_store",),
    "W16": ("nirs_store",),
    "anatomy": ("nirs_store",),
    "parts": ("floor",),
}
_MODULES = {
    "W1": "ingest.ingest",
    "W2": "dedup.dedup",
    "W3": "leaderboard.leaderboard",
    "W4": "replay.replay",
    "W5": "bundle.bundle",
    "W6": "clean.clean",
    "W7": "sharing.sharing",
    "W8": "start.start",
    "W9": "ingest.growth",
    "W10": "asking.asking",
    "W11": "calibrating.screening",
    "W12": "calibrating.diagnosing",
    "W13": "calibrating.curves",
    "W14": "keeping.datasets",
    "W15": "monitoring.monitoring",
    "W16": "looking.looking",
    "anatomy": "anatomy.anatomy",
    "parts": "parts.parts",
}


def find(name: str) -> Workload:
    """Import one workload, and nothing of the others."""
    module, _, function = _MODULES[name].partition(".")
    found: Workload = getattr(importlib.import_module(f"benchmarks.workloads.{module}"), function)
    return found
