"""The machine in general words, and the versions that took part."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path


def describe(folder: Path) -> dict[str, str | int]:
    """Cores, memory, file system, Python and libraries."""
    import psutil

    return {
        "cores": os.cpu_count() or 0,
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "file_system": _file_system(folder),
        "system": platform.system(),
        "python": ".".join(map(str, sys.version_info[:3])),
        **{
            name: version(name) for name in ("duckdb", "polars", "pyarrow", "numpy", "scikit-learn", "joblib")
        },
    }


def _file_system(folder: Path) -> str:
    import psutil

    place = folder.resolve()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    for parent in (place, *place.parents):
        if parent in mounts:
            return mounts[parent]
    return "unknown"
