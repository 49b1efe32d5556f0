"""A transformer that was fitted before on the same samples is found, and nothing else is taken for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from storekit import lose_blob

from nirs_store import WorkspaceStore, record_cross_validation
from nirs_store.artifacts.registry import ArtifactRegistry
from nirs_store.errors import InvalidInput


@pytest.fixture
def folder(each_backend: str, tmp_path: Path) -> Path:
    return tmp_path / "workspace"


@pytest.fixture
def store(folder: Path) -> Iterator[WorkspaceStore]:
    """One for each test: they look at everything in it, or remove it."""
    with WorkspaceStore(folder) as opened:
        yield opened


def record(store: WorkspaceStore, model: Any, meat: Any, **more: Any) -> Any:
    options = {"cv": 2, "dataset_name": "meat", "reuse": True} | more
    return record_cross_validation(store, model, *meat, **options)


def taken(store: WorkspaceStore, result: Any) -> list[str]:
    log = store.get_pipeline_log(result.pipeline_id)
    return [m.partition(": ")[2] for m in log["message"].to_list() if m and "fitted" in m]


def pipeline(alpha: float, components: int = 4) -> Any:
    return make_pipeline(StandardScaler(), PCA(components, random_state=0), Ridge(alpha))


def test_a_second_run_takes_over_its_transformers_and_gives_the_same(
    store: WorkspaceStore, meat: Any
) -> None:
    first = record(store, pipeline(0.1), meat)
    again = record(store, pipeline(0.1), meat)
    other = record(store, pipeline(5.0), meat)
    assert taken(store, first) == ["fitted 3 times"] * 3
    assert taken(store, again) == ["fitted 0 times, taken over 3 times"] * 2 + ["fitted 3 times"]
    assert taken(store, other) == taken(store, again)
    assert again.value == first.value
    assert (
        store.get_chain(again.chain_id)["fold_artifacts"] == store.get_chain(first.chain_id)["fold_artifacts"]
    )
    np.testing.assert_array_equal(
        store.replay_chain(again.chain_id, meat[0]), store.replay_chain(first.chain_id, meat[0])
    )
    plain = record(store, pipeline(5.0), meat, reuse=False)
    assert plain.value == pytest.approx(other.value, rel=1e-9)
    # What a later run took over survives the deletion of the one that fitted it.
    store.delete_run(first.run_id, now=True)
    store.gc_artifacts(grace_seconds=0)
    assert store.replay_chain(again.chain_id, meat[0]).shape == (215,)
    assert store.check().findings == ()


@pytest.mark.slow
def test_workers_find_and_remember_as_well(local_blobs: None, store: WorkspaceStore, meat: Any) -> None:
    first, again = (record(store, pipeline(alpha), meat, n_jobs=2) for alpha in (0.1, 5.0))
    assert taken(store, first) == ["fitted 3 times"] * 3
    assert taken(store, again) == ["fitted 0 times, taken over 3 times"] * 2 + ["fitted 3 times"]


def test_other_parameters_samples_or_targets_are_fitted_anew(store: WorkspaceStore, meat: Any) -> None:
    X, y = meat
    record(store, pipeline(0.1), meat)
    scaler_only = ["fitted 0 times, taken over 3 times", "fitted 3 times", "fitted 3 times"]
    assert taken(store, record(store, pipeline(0.1, components=5), meat)) == scaler_only
    for changed in ((X + 1e-9, y), (X, y + 1e-9), (X[::-1].copy(), y[::-1].copy())):
        assert taken(store, record(store, pipeline(0.1), changed)) == ["fitted 3 times"] * 3


def test_invalidation_is_by_data_set(store: WorkspaceStore, meat: Any) -> None:
    record(store, pipeline(0.1), meat)
    registry = ArtifactRegistry(store, "meat")
    assert registry.invalidate_cache("other") == 0
    assert registry.invalidate_cache() == 6
    assert taken(store, record(store, pipeline(0.1), meat)) == ["fitted 3 times"] * 3
    with pytest.raises(InvalidInput, match="name of a data set"):
        store.artifacts.invalidate_cache()


def test_functions_are_never_taken_for_each_other(store: WorkspaceStore, meat: Any) -> None:
    for function in (lambda X: X, lambda X: -X):
        model = make_pipeline(
            StandardScaler(), FunctionTransformer(function), PCA(3, random_state=0), Ridge()
        )
        result = record(store, model, meat, artifact_format="cloudpickle")
    assert taken(store, result) == ["fitted 0 times, taken over 3 times"] + ["fitted 3 times"] * 3


def test_a_vanished_file_is_not_found(
    store: WorkspaceStore, registry: ArtifactRegistry, folder: Path
) -> None:
    made = registry.register_with_chain([1], "s1.A", "transformer", 1, input_data_hash="x", dataset_hash="d")
    assert registry.find_cached_artifact("s1.A", "x").artifact_id == made.artifact_id
    assert registry.find_cached_artifact("s1.A", "x", dataset_hash="d") is not None
    for place, data, dataset in (("s1.B", "x", None), ("s1.A", "y", None), ("s1.A", "x", "e")):
        assert registry.find_cached_artifact(place, data, dataset_hash=dataset) is None
    lose_blob(store, made.blob_id)
    assert registry.find_cached_artifact("s1.A", "x") is None
