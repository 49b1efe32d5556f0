"""What tests of the artifact layer share: a pipeline under way, and real spectra."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.preprocessing import StandardScaler

from nirs_store import WorkspaceStore, load_tecator
from nirs_store.artifacts.registry import ArtifactRegistry


@pytest.fixture(scope="session")
def meat() -> tuple[np.ndarray, np.ndarray]:
    """Spectra of every fifth channel, and fat."""
    tecator = load_tecator()
    return np.ascontiguousarray(tecator.X[:, ::5]), tecator.fat


@pytest.fixture(scope="module")
def folder(each_backend: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the workspace of a module is; most tests look at a pipeline of their own in it."""
    return tmp_path_factory.mktemp("registry") / "workspace"


@pytest.fixture(scope="module")
def store(folder: Path) -> Iterator[WorkspaceStore]:
    with WorkspaceStore(folder) as opened:
        yield opened


@pytest.fixture
def pipeline_id(store: WorkspaceStore) -> str:
    run_id = store.begin_run("run", {}, [{"name": "meat"}])
    return store.begin_pipeline(run_id, "pls", {}, [], "meat", "hash")


@pytest.fixture
def registry(store: WorkspaceStore, pipeline_id: str) -> ArtifactRegistry:
    return ArtifactRegistry(store, "meat", pipeline_id)


@pytest.fixture(scope="session")
def fitted(meat: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """A scaler and two folds of a PLS model behind it."""
    X, y = meat
    scaler = StandardScaler().fit(X)
    Z = scaler.transform(X)
    return {
        "scaler": scaler,
        "folds": [PLSRegression(3, scale=False).fit(Z[k::2], y[k::2]) for k in range(2)],
    }
