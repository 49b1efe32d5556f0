"""What a run was recorded with: Python, platform and the versions of the libraries that matter."""

from __future__ import annotations

import functools
import platform
from importlib import metadata

__all__ = ["environment"]

_PACKAGES = (
    "nirs-store",
    "numpy",
    "scipy",
    "scikit-learn",
    "joblib",
    "chemotools",
    "duckdb",
    "polars",
    "pyarrow",
)


@functools.cache
def environment() -> dict[str, str]:
    """Versions by name; what is not installed is left out. Looked up once a process."""
    found = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
