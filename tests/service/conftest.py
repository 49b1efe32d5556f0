"""A workspace with two chains of one small data set; each test gets a copy of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from servicekit import TESTED, Recorded, record

from nirs_store import WorkspaceStore


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    folder = tmp_path_factory.mktemp("calibrations") / "workspace"
    with WorkspaceStore(folder) as store:
        return Recorded(folder, record(store, 2, **TESTED), record(store, 4, **TESTED))


@pytest.fixture
def recorded(made: Recorded, tmp_path: Path) -> Recorded:
    shutil.copytree(made.folder, tmp_path / "workspace")
    return made._replace(folder=tmp_path / "workspace")


@pytest.fixture
def store(recorded: Recorded) -> Iterator[WorkspaceStore]:
    with WorkspaceStore(recorded.folder) as opened:
        yield opened
