"""What the examples in docstrings find: a workspace with one chain, its spectra, and a bundle of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.doctest import DoctestItem

# Modules whose examples speak of `store`, `chain_id`, `X` and wheat.n4a.
_WITH_WORKSPACE = (
    "nirs_store.bundle.reader",
    "nirs_store.bundle.script",
    "nirs_store.bundle.writer",
    "nirs_store.files.api",
    "nirs_store.store",
    "nirs_store.artifacts.loader",
    "nirs_store.artifacts.registry",
)


@pytest.fixture(scope="session")
def example_workspace(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Any]:
    """Record one small cross-validation of real spectra and export its chain."""
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from nirs_store import WorkspaceStore, load_tecator, record_cross_validation

    folder = tmp_path_factory.mktemp("examples")
    meat = load_tecator()
    X = meat.X[::4, ::10]
    with WorkspaceStore(folder / "workspace") as store:
        estimator = make_pipeline(StandardScaler(), PLSRegression(3))
        result = record_cross_validation(store, estimator, X, meat.fat[::4], cv=3, dataset_name="tecator")
        store.export_chain(result.chain_id, folder / "wheat.n4a", safe=True)
    return folder, result.chain_id, X


@pytest.fixture(autouse=True)
def _names_of_examples(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    if not isinstance(request.node, DoctestItem) or not request.node.name.startswith(_WITH_WORKSPACE):
        yield
        return
    from nirs_store import WorkspaceStore

    made, chain_id, X = request.getfixturevalue("example_workspace")
    folder = tmp_path_factory.mktemp("example") / "folder"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    with WorkspaceStore(folder / "workspace") as store:
        request.getfixturevalue("doctest_namespace").update(store=store, chain_id=chain_id, X=X)
        yield
