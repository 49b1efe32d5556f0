"""A store of its own for each test: what is recorded elsewhere would be ranked too."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nirs_store import WorkspaceStore


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty workspace to be copied: making one takes longer."""
    folder = tmp_path_factory.mktemp("empty") / "workspace"
    WorkspaceStore(folder).close()
    return folder


@pytest.fixture
def folder(empty: Path, memory: Path) -> Path:
    return Path(shutil.copytree(empty, memory / "workspace"))


@pytest.fixture
def store(folder: Path) -> Iterator[WorkspaceStore]:
    with WorkspaceStore(folder) as opened:
        yield opened
