"""What the registry registers, the store holds, checks and deletes; what a chain names, the registry finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sklearn.preprocessing import StandardScaler

from nirs_store import WorkspaceStore
from nirs_store.artifacts.registry import ArtifactRegistry
from nirs_store.artifacts.types import ArtifactRecord, ArtifactType
from nirs_store.errors import InvalidInput


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


@pytest.fixture
def store(folder: Path) -> Iterator[WorkspaceStore]:
    """One for each test: they look at everything in it, or remove it."""
    with WorkspaceStore(folder) as opened:
        yield opened


def steps_of(registry: ArtifactRegistry, fitted: dict[str, Any]) -> list[ArtifactRecord]:
    scaler = registry.register_with_chain(fitted["scaler"], "s1.StandardScaler", "transformer", 1)
    return [scaler] + [
        registry.register_with_chain(
            model, "s1.StandardScaler>s2.PLSRegression", ArtifactType.MODEL, 2, fold_id=fold,
            depends_on=[scaler.artifact_id], params={"n_components": 3}, custom_name=f"pls{fold}",
        )
        for fold, model in enumerate(fitted["folds"])
    ]  # fmt: skip


def test_what_is_registered_is_held_checked_and_loadable_as_any_artifact(
    store: WorkspaceStore, registry: ArtifactRegistry, fitted: dict[str, Any]
) -> None:
    records = steps_of(registry, fitted)
    scaler = records[0]
    # The scaler is held by its own record and by those of both models that need it.
    assert store.get_artifact(scaler.blob_id)["ref_count"] == 3
    assert store.get_artifact(records[1].blob_id)["ref_count"] == 1
    assert store.gc_artifacts(dry_run=True, grace_seconds=0).artifacts == ()
    assert store.check(read_data=True).findings == ()
    assert isinstance(store.load_artifact(scaler.blob_id), StandardScaler)
    assert isinstance(registry.load_artifact(scaler), StandardScaler)


def test_check_and_repair_know_the_references_of_records(
    store: WorkspaceStore, registry: ArtifactRegistry, fitted: dict[str, Any]
) -> None:
    records = steps_of(registry, fitted)
    store._engine.change(
        lambda con: con.execute("DELETE FROM artifact_refs WHERE owner_id = ?", [records[1].artifact_id])
    )
    store._engine.change(
        lambda con: con.execute("DELETE FROM artifact_links WHERE record_id = ?", [records[2].artifact_id])
    )
    store._engine.change(
        lambda con: con.execute("DELETE FROM artifact_records WHERE record_id = ?", [records[2].artifact_id])
    )
    kinds = [finding.kind for finding in store.check().findings]
    assert kinds.count("reference_missing") == 2
    assert kinds.count("reference_dangling") == 2
    store.repair()
    assert store.check().findings == ()


def test_what_a_chain_names_is_found_without_having_been_registered(
    store: WorkspaceStore, pipeline_id: str, fitted: dict[str, Any]
) -> None:
    scaler = store.save_artifact(fitted["scaler"], "sklearn.preprocessing.StandardScaler", "transformer")
    models = [
        store.save_artifact(m, "sklearn.cross_decomposition.PLSRegression", "model") for m in fitted["folds"]
    ]
    store.save_chain(
        pipeline_id,
        [{"step_idx": 1, "operator_class": "sklearn.preprocessing.StandardScaler", "artifact_id": scaler},
         {"step_idx": 2, "operator_class": "PLSRegression", "operator_type": "model"}],
        2, "PLSRegression", "", "per_fold", {"fold_0": models[0], "fold_1": models[1]}, {},
    )  # fmt: skip
    registry = ArtifactRegistry(store, "meat")
    records = registry.records()
    assert [(r.blob_id, r.chain_path, r.fold_id) for r in records] == [
        (scaler, "s1.StandardScaler", None),
        (models[0], "s1.StandardScaler>s2.PLSRegression", "0"),
        (models[1], "s1.StandardScaler>s2.PLSRegression", "1"),
    ]
    assert registry.resolve(records[2].artifact_id) == records[2]
    assert registry.resolve_dependencies(records[2].artifact_id) == [records[0]]
    assert ArtifactRegistry(store, "other").records() == []


@pytest.mark.not_on(
    "objects", "replicas", why="what is recorded for a pipeline that another store failed is dropped later"
)
def test_records_go_with_their_pipeline(
    store: WorkspaceStore, registry: ArtifactRegistry, pipeline_id: str
) -> None:
    record = registry.register_with_chain([1], "s1.A", "model", 1)
    store.fail_pipeline(pipeline_id, "broken")
    assert registry.resolve(record.artifact_id) is None
    assert store.get_artifact(record.blob_id)["ref_count"] == 0
    with pytest.raises(InvalidInput, match="has failed"):
        registry.register_with_chain([2], "s2.A", "model", 2)
    assert store.check().findings == ()


def test_deleting_a_run_counts_and_removes_its_records(
    store: WorkspaceStore, registry: ArtifactRegistry
) -> None:
    registry.register_with_chain([1], "s1.A", "model", 1)
    run_id = store.list_runs()["run_id"][0]
    plan = store.delete_run(run_id, dry_run=True)
    assert plan.rows["artifact_records"] == 1
    assert store.delete_run(run_id, now=True) == plan.total_rows
    assert registry.records() == []


@pytest.mark.not_on("replicas", why="each computer warns of the rows that it drops")
def test_a_second_process_giving_the_same_id_to_another_object_is_counted_not_lost_silently(
    store: WorkspaceStore, registry: ArtifactRegistry, folder: Any
) -> None:
    with WorkspaceStore(folder) as other:
        theirs = ArtifactRegistry(other, "meat", registry.pipeline_id)
        first = registry.register_with_chain([1], "s1.A", "model", 1)
        store.flush()
        theirs.register_with_chain([2], "s1.A", "model", 1)
        other.flush()
        with pytest.warns(UserWarning, match="1 of artifact_records"):
            assert registry.resolve(first.artifact_id).blob_id == first.blob_id
        assert [f.kind for f in store.check().findings if f.kind == "rows_dropped"] == ["rows_dropped"]


@pytest.mark.everywhere
def test_the_registry_opens_a_workspace_by_its_path_or_address(
    store: WorkspaceStore, registry: ArtifactRegistry
) -> None:
    record = registry.register_with_chain([1], "s1.A", "model", 1)
    store.flush()
    with ArtifactRegistry(store._engine.settings.shared or store.workspace_path, "meat") as again:
        assert again.load_artifact(again.resolve(record.artifact_id)) == [1]
    with pytest.raises(InvalidInput, match="expected an open store"):
        ArtifactRegistry(3)
