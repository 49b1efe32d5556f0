"""Objects are loaded when asked for, in the right order and context, once, within bounds."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from storekit import lose_blob

from nirs_store import WorkspaceStore
from nirs_store.artifacts.loader import ArtifactLoader, LRUCache
from nirs_store.artifacts.registry import ArtifactRegistry
from nirs_store.blobs.serializers import Format
from nirs_store.errors import BlobMissing, InvalidInput, UnknownId


@pytest.fixture(scope="module")
def ids(store: WorkspaceStore, fitted: dict[str, Any]) -> dict[str, str]:
    """A shared scaler; on each of two branches, for two sources, a list; two folds of a model on branch 0."""
    run_id = store.begin_run("loader", {}, [{"name": "steps"}])
    registry = ArtifactRegistry(store, "steps", store.begin_pipeline(run_id, "p", {}, [], "steps", ""))
    found = {
        "scaler": registry.register_with_chain(
            fitted["scaler"], "s1.StandardScaler", "transformer", 1
        ).artifact_id
    }
    for branch in (0, 1):
        for source in (0, 1):
            found[f"b{branch}s{source}"] = registry.register_with_chain(
                [branch, source], "s1.StandardScaler>s2.PCA", "transformer", 2, branch_path=[branch],
                source_index=source, depends_on=[found["scaler"]], custom_name=f"pca{branch}{source}",
            ).artifact_id  # fmt: skip
    for fold, model in enumerate(fitted["folds"]):
        found[f"fold{fold}"] = registry.register_with_chain(
            model, "s1.StandardScaler>s2.PCA[br=0]>s3.PLSRegression", "model", 3, branch_path=[0], fold_id=fold,
            depends_on=[found["b0s0"], found["b0s1"]],
        ).artifact_id  # fmt: skip
    return found


@pytest.fixture
def loader(store: WorkspaceStore, ids: dict[str, str]) -> ArtifactLoader:
    return ArtifactLoader(store, "steps", cache_size=100)


def test_nothing_is_loaded_before_it_is_asked_for(
    loader: ArtifactLoader, ids: dict[str, str], monkeypatch: Any
) -> None:
    loaded = []
    real = Format.loads
    monkeypatch.setattr(Format, "loads", lambda *a: loaded.append(1) or real(*a))
    assert loader.get_cache_info()["total_artifacts"] == len(ids)
    assert loaded == []
    assert loader.load_by_id(ids["b1s0"]) == [1, 0]
    assert len(loaded) == 1


def test_an_object_is_loaded_once_and_then_shared(loader: ArtifactLoader, ids: dict[str, str]) -> None:
    assert loader.load_by_id(ids["fold0"]) is loader.load_by_id(ids["fold0"])
    info = loader.get_cache_info()
    assert (info["cached_count"], info["hits"], info["misses"], info["hit_rate"]) == (1, 1, 1, 0.5)
    assert info["artifacts_by_type"] == {"model": 2, "transformer": 5}
    loader.clear_cache()
    assert loader.get_cache_info()["cached_count"] == 0


def test_a_step_gives_what_takes_part_in_its_context(loader: ArtifactLoader, ids: dict[str, str]) -> None:
    def at(step: int, **context: Any) -> list[str]:
        return [identifier for identifier, _ in loader.load_for_step(step, **context)]

    assert at(2, branch_path=[1]) == [ids["b1s0"], ids["b1s1"]]
    assert at(2, branch_path=[1], source_index=1) == [ids["b1s1"]]
    assert at(1, branch_path=[1], source_index=0, fold_id=0) == [ids["scaler"]]
    assert at(3, fold_id=1) == [ids["fold1"]]
    assert at(3, branch_path=[1]) == []
    assert at(2, pipeline_id="unknown") == []


def test_dependencies_come_first(loader: ArtifactLoader, ids: dict[str, str]) -> None:
    loaded = loader.load_with_dependencies(ids["fold1"])
    assert list(loaded) == [ids["scaler"], ids["b0s0"], ids["b0s1"], ids["fold1"]]
    assert loaded[ids["b0s1"]] == [0, 1]


def test_fold_models_come_by_number_and_predict_as_they_did(
    loader: ArtifactLoader, fitted: dict[str, Any], meat: tuple[np.ndarray, np.ndarray]
) -> None:
    models = loader.load_fold_models(3, branch_path=[0])
    assert [fold for fold, _ in models] == [0, 1]
    Z = fitted["scaler"].transform(meat[0])
    for (_, model), original in zip(models, fitted["folds"], strict=True):
        np.testing.assert_array_equal(model.predict(Z), original.predict(Z))


def test_objects_are_found_by_place_and_by_name(loader: ArtifactLoader, ids: dict[str, str]) -> None:
    assert loader.load_by_chain("s1.StandardScaler>s2.PCA[br=1,src=0]") == [1, 0]
    assert [i for i, _ in loader.load_by_chain_prefix("s1.StandardScaler>s2.PCA[br=0,src=1]")] == [
        ids["b0s1"]
    ]
    assert loader.find_artifact_by_custom_name("pca11").artifact_id == ids["b1s1"]
    assert loader.find_artifact_by_custom_name("nothing") is None
    with pytest.raises(UnknownId):
        loader.load_by_chain("s9.PCA")


def test_the_cache_is_bounded_in_entries_and_bytes(loader: ArtifactLoader, ids: dict[str, str]) -> None:
    assert loader.preload_artifacts(artifact_types=["transformer"]) == 5
    assert loader.get_cache_info()["cached_count"] == 5
    loader.set_cache_size(2)
    info = loader.get_cache_info()
    assert (info["cached_count"], info["max_size"]) == (2, 2)
    assert loader.preload_artifacts([ids["fold0"]]) == 1
    assert loader.get_cache_info()["cached_count"] == 2
    size = loader.registry.resolve(ids["fold0"]).size_bytes
    loader.set_cache_size(None, max_bytes=size)
    info = loader.get_cache_info()
    assert info["cached_count"] == 1
    assert info["bytes"] <= size


def test_the_least_recently_used_goes_first() -> None:
    cache = LRUCache(max_size=2)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.get("a")
    cache.put("c", 3)
    assert [key for key in "abc" if cache.contains(key)] == ["a", "c"]
    cache.put("n", None)
    assert cache.get("n") is None
    assert cache.remove("a")
    assert cache.size() == 1
    assert cache.stats()["hit_rate"] == 0.5


def test_what_the_loader_of_a_store_preloads_a_replay_uses(
    store: WorkspaceStore,
    pipeline_id: str,
    fitted: dict[str, Any],
    meat: tuple[np.ndarray, np.ndarray],
    monkeypatch: Any,
) -> None:
    model = store.save_artifact(fitted["folds"][0], "PLSRegression", "model")
    chain = store.save_chain(pipeline_id, [{"step_idx": 1, "operator_class": "PLSRegression"}], 1, "PLSRegression",
                             "", "single", {"final": model}, {})  # fmt: skip
    name = next(r.artifact_id for r in store.artifacts.records(pipeline_id))
    assert store.loader.preload_artifacts([name]) == 1
    monkeypatch.setattr(store, "load_artifact", None)
    assert store.replay_chain(chain, meat[0][:2]).shape == (2,)


def test_a_workspace_is_opened_by_its_path_or_address(store: WorkspaceStore, ids: dict[str, str]) -> None:
    store.flush()
    with ArtifactLoader(store._engine.settings.shared or store.workspace_path, "steps") as loader:
        assert loader.load_by_id(ids["b1s1"]) == [1, 1]
    with pytest.raises(InvalidInput):
        ArtifactLoader(None)


@pytest.mark.not_on("objects", "replicas", why="it listens to one store object")
def test_loading_what_is_known_reads_the_blob_once_and_asks_nobody(
    store: WorkspaceStore, ids: dict[str, str], monkeypatch: Any
) -> None:
    loader = ArtifactLoader(store, cache_size=0)
    loader.load_by_id(ids["fold0"])
    read: list[str] = []
    real = store._engine.blobs.read
    monkeypatch.setattr(
        store._engine.blobs, "read", lambda path, digest: read.append(path) or real(path, digest)
    )
    monkeypatch.setattr(store._engine.access, "query", None)
    loader.load_by_id(ids["fold1"])
    assert len(read) == 1


def test_unknown_and_missing_objects_are_told_apart(
    store: WorkspaceStore, loader: ArtifactLoader, ids: dict[str, str], caplog: Any
) -> None:
    with pytest.raises(KeyError):
        loader.load_by_id("p$0123456789ab:all")
    lose_blob(store, loader.registry.resolve(ids["b0s0"]).blob_id)
    with pytest.raises(FileNotFoundError):
        loader.load_by_id(ids["b0s0"])
    with pytest.raises(BlobMissing):
        loader.load_for_step(2, branch_path=[0])
    with caplog.at_level(logging.WARNING, "nirs_store.artifacts"):
        assert [i for i, _ in loader.load_for_step(2, [0], skip_missing=True)] == [ids["b0s1"]]
    assert "is gone" in caplog.text


def test_after_a_deletion_nothing_comes_out_of_the_cache(store: WorkspaceStore, ids: dict[str, str]) -> None:
    store.loader.load_by_id(ids["fold0"])
    [run_id] = store.list_runs(dataset="steps")["run_id"]
    store.delete_run(run_id, now=True)
    with pytest.raises(UnknownId):
        store.loader.load_by_id(ids["fold0"])
