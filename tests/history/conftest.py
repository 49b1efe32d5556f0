"""Workspaces in memory: these tests are about what is written, not about a disk.

Each is a copy of one empty workspace: making a catalog costs more than most of these tests.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nirs_store import WorkspaceStore


@pytest.fixture(scope="session")
def empty() -> Iterator[Path]:
    """A workspace that nothing was recorded in."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="nirs-store-", dir=place) as made:
        WorkspaceStore(Path(made) / "workspace").close()
        yield Path(made) / "workspace"


@pytest.fixture
def folder(empty: Path, memory: Path) -> Path:
    return Path(shutil.copytree(empty, memory / "workspace"))
