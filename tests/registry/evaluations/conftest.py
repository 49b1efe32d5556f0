"""A store of its own for each test: what is recorded elsewhere would be ranked too."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nirs_store import WorkspaceStore


@pytest.fixture
def folder(workspace_kind: str, empty: Path, memory: Path) -> Path:
    path = memory / "workspace"
    return path if workspace_kind in ("shared", "replicas") else Path(shutil.copytree(empty, path))


@pytest.fixture
def store(folder: Path) -> Iterator[WorkspaceStore]:
    with WorkspaceStore(folder) as opened:
        yield opened
