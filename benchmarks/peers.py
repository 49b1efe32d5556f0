"""The peers' environments: ``python -m benchmarks peers`` makes them, about 2 GB below ``benchmarks/.venvs``.

nirs_store, the floor and the plain script run in the environment that runs the benchmarks. Each peer gets the
same versions of numpy, scikit-learn and joblib as that one, so that all of them dump and load the same objects.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

from benchmarks.paths import VENVS

PINNED = {"mlflow": "mlflow==3.17.2", "nirs4all": "nirs4all==1.4.10"}
_SAME = ("numpy", "scikit-learn", "joblib", "psutil")
_ALSO = ("polars", "pyarrow")
# For the comparison of MLflow on PostgreSQL and S3 with a shared workspace.
_SERVERS = ("psycopg2-binary", "boto3")


def python_of(peer: str) -> Path | None:
    """The Python that runs a peer; None when its environment was not made."""
    if peer not in PINNED:
        return Path(sys.executable)
    path = _python(VENVS / peer)
    return path if path.exists() else None


def _python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make_environments(peers: list[str]) -> None:
    """Make the environments that are not there yet."""
    for peer in peers:
        folder = VENVS / peer
        if _ready(folder, peer):
            print(f"{peer}: there already, in {folder}")
            continue
        print(f"{peer}: installing {PINNED[peer]} into {folder}")
        venv.create(folder, with_pip=True)
        same = [f"{name}=={version(name)}" for name in _SAME]
        subprocess.run(
            [_python(folder), "-m", "pip", "install", "--quiet", PINNED[peer], *same, *_ALSO, *_SERVERS],
            check=True,
        )


def _ready(folder: Path, peer: str) -> bool:
    if not _python(folder).exists():
        return False
    name, _, wanted = PINNED[peer].partition("==")
    code = f"from importlib.metadata import version; raise SystemExit(version({name!r}) != {wanted!r})"
    return subprocess.run([_python(folder), "-c", code], stderr=subprocess.DEVNULL).returncode == 0
