"""What a run was recorded with: Python, platform and the versions of the libraries that matter."""

from __future__ import annotations

import functools
import platform
import subprocess
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
    """Versions by name, and the git commit of the working folder; what is not there is left out.

    Looked up once a process.
    """
    found = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    commit = _git_commit()
    return found if commit is None else found | {"git-commit": commit}


def _git_commit() -> str | None:
    """Commit of the repository that the program was started in; None where there is none, or no git."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "--verify", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    text = answer.stdout.strip()
    return text if len(text) in (40, 64) and set(text) <= set("0123456789abcdef") else None
