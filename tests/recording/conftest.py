"""Spectra and stores for the tests of recording."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nirs_store.datasets import Tecator, load_tecator
from nirs_store.store import WorkspaceStore
from tests.model import ModelStore


@pytest.fixture(scope="session")
def tecator() -> Tecator:
    return load_tecator()


@pytest.fixture(scope="session")
def meat(tecator: Tecator) -> NDArray[Any]:
    """A label a sample, made of the fat content."""
    return np.array(["lean", "medium", "fatty"])[np.digitize(tecator.fat, [10.0, 25.0])]


@pytest.fixture
def model_store() -> ModelStore:
    return ModelStore()


@pytest.fixture
def workspace(workspace_kind: str, folder: Path, empty: Path) -> Iterator[WorkspaceStore]:
    if workspace_kind in ("folder", "objects"):
        shutil.copytree(empty, folder)
    with WorkspaceStore(folder) as store:
        yield store


@pytest.fixture(params=["model_store", "workspace"])
def store(request: pytest.FixtureRequest) -> Any:
    """Both the model and the real store: what is recorded must mean the same in both."""
    return request.getfixturevalue(request.param)
