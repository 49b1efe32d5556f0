"""What a run was recorded with: Python, platform and the versions of the libraries that matter.

`environment` is what every run remembers; `capture_environment` adds what it takes to do the same again.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from nirs_store.errors import InvalidInput

__all__ = ["CONTAINER_VARIABLE", "capture_environment", "environment", "versions_only"]

CONTAINER_VARIABLE = "NIRS_STORE_CONTAINER"
_CONTAINER_ID = re.compile(r"(?:docker|containers|libpod|kubepods|crio|cri-containerd)[^\n]*?([0-9a-f]{64})")

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


def capture_environment(
    *,
    seeds: int | Sequence[int] | Mapping[str, int] | None = None,
    container: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Capture in one call what it takes to do the same again.

    Give it to `WorkspaceStore.run` or `begin_run` as `environment`, where `compare` shows it.

    Parameters
    ----------
    seeds : int, sequence of int, or mapping of str to int, optional
        The seeds that the program was given.
    container : str, optional
        Digest of the container's image. By default what the variable ``NIRS_STORE_CONTAINER`` says, else the id
        of the container that the process runs in, as far as Linux tells.
    parameters : mapping, optional
        Plain data: what the program was told to do.
    command : sequence of str, optional
        The command line; by default that of this process. It is kept as it is: leave secrets out.

    Returns
    -------
    dict
        ``python``, ``platform`` and versions as every run has them; ``git-commit`` and ``git-dirty`` (whether
        tracked files differ from the commit) of the folder the program was started in; ``packages``, the
        version of everything installed; ``command``; ``seeds``, ``container``, ``parameters`` where known.

    Raises
    ------
    InvalidInput
        Seeds that are not whole numbers, or parameters that are no mapping.

    Examples
    --------
    >>> found = capture_environment(seeds=[1, 2], parameters={"folds": 5})
    >>> found["seeds"], found["parameters"], found["packages"]["numpy"] == found["numpy"]
    ([1, 2], {'folds': 5}, True)
    """
    found: dict[str, Any] = {**environment()}
    dirty = _git_dirty() if "git-commit" in found else None
    if dirty is not None:
        found["git-dirty"] = dirty
    found["command"] = _words(sys.orig_argv if command is None else command)
    if seeds is not None:
        found["seeds"] = _seeds(seeds)
    image = container or os.environ.get(CONTAINER_VARIABLE) or _container_id()
    if image:
        found["container"] = str(image)
    if parameters is not None:
        if not isinstance(parameters, Mapping):
            raise InvalidInput(f"parameters: expected a mapping, found {type(parameters).__name__}.")
        found["parameters"] = dict(parameters)
    found["packages"] = dict(_packages())
    return found


def versions_only(captured: Mapping[str, Any] | None) -> dict[str, str]:
    """The part of an environment that may leave the house with a model: no command line, no parameters."""
    return {
        str(name): value
        for name, value in (captured or {}).items()
        if isinstance(value, str) and name not in ("container", "command", "seeds", "parameters")
    }


def _words(command: Sequence[str]) -> list[str]:
    # Names of files need not be valid Unicode.
    return [str(word).encode("utf-8", "backslashreplace").decode() for word in command]


def _seeds(seeds: int | Sequence[int] | Mapping[str, int]) -> list[int] | dict[str, int]:
    if isinstance(seeds, Mapping):
        return {str(name): _seed(seed) for name, seed in seeds.items()}
    listed: Any = seeds
    many = hasattr(listed, "__iter__") and not isinstance(listed, str)
    return [_seed(seed) for seed in (listed if many else [listed])]


def _seed(seed: Any) -> int:
    try:
        whole = int(seed)
        if isinstance(seed, str | bool) or whole != seed:
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"seeds: expected whole numbers, found {seed!r}. Nothing was captured.") from error
    return whole


@functools.cache
def _packages() -> tuple[tuple[str, str], ...]:
    """Name and version of everything installed; looked up once a process."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # a broken installation has none
            found.setdefault(str(name).lower().replace("_", "-"), distribution.version)
    return tuple(sorted(found.items()))


def _container_id() -> str | None:
    """Id of the container that this process runs in, where the kernel's tables say it."""
    for table in ("/proc/self/cgroup", "/proc/self/mountinfo"):
        try:
            match = _CONTAINER_ID.search(Path(table).read_text("utf-8", "replace"))
        except OSError:
            continue
        if match is not None:
            return match[1]
    return None


@functools.cache
def _git_dirty() -> bool | None:
    """Whether tracked files differ from the commit; like the commit, as it was when first looked up."""
    answer = _git("status", "--porcelain", "--untracked-files=no")
    return None if answer is None else bool(answer.strip())


def _git(*arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return answer.stdout


def _git_commit() -> str | None:
    """Commit of the repository that the program was started in; None where there is none, or no git."""
    text = (_git("rev-parse", "--verify", "HEAD") or "").strip()
    return text if len(text) in (40, 64) and set(text) <= set("0123456789abcdef") else None
