"""Only what nothing holds is removed, only when it was asked for, and it is said what was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clikit import invoke
from storekit import blob_keys

from nirs_store import WorkspaceStore
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


def two_pipelines(store: WorkspaceStore) -> tuple[ArtifactRegistry, ArtifactRegistry]:
    """Of the data sets corn and oats; they share an object and have one each. Both are completed."""
    made = []
    for dataset in ("corn", "oats"):
        run_id = store.begin_run(dataset, {}, [{"name": dataset}])
        pipeline_id = store.begin_pipeline(run_id, "p", {}, [], dataset, "")
        registry = ArtifactRegistry(store, dataset, pipeline_id)
        scaler = registry.register_with_chain(["shared"], "s1.MSC", "transformer", 1)
        model = registry.register_with_chain(
            [dataset], "s1.MSC>s2.PLS", "model", 2, depends_on=[scaler.artifact_id]
        )
        chain = store.save_chain(
            pipeline_id,
            [{"step_idx": 1, "operator_class": "MSC", "artifact_id": scaler.blob_id}, {"step_idx": 2, "operator_class": "PLS"}],
            2, "PLS", "MSC", "single", {"final": model.blob_id}, {},
        )  # fmt: skip
        store.save_prediction(pipeline_id, chain, dataset, "m", "PLS", "final", "val", 1.0, None, None, "rmse",
                              "regression", 3, 2, {}, {}, None, None, 0, 0.0)  # fmt: skip
        store.complete_pipeline(pipeline_id, 1.0, None, "rmse", 1)
        made.append(registry)
    return made[0], made[1]


def test_orphans_are_found_and_a_dry_run_removes_nothing(store: WorkspaceStore, folder: Path) -> None:
    corn, _ = two_pipelines(store)
    kept = {record.path for record in store.artifacts.records()}
    assert store.artifacts.find_orphaned_artifacts(grace_seconds=0) == []
    corn.delete_pipeline_artifacts(corn.pipeline_id)
    [orphan] = store.artifacts.find_orphaned_artifacts()
    files, size = store.artifacts.delete_orphaned_artifacts()
    assert files == [orphan]
    assert size == store._engine.layout.blobs.stat(orphan).size
    assert store.artifacts.delete_orphaned_artifacts(dry_run=False) == ([orphan], size)
    assert {key.removeprefix("artifacts/") for key in blob_keys(store)} == kept - {
        orphan.removeprefix("artifacts/")
    }
    assert store.check(read_data=True).findings == ()


def test_purging_a_data_set_leaves_what_others_hold_and_the_scores(store: WorkspaceStore) -> None:
    corn, oats = two_pipelines(store)
    for confirm in (False, 1, "yes"):
        with pytest.raises(ValueError, match="confirm=True"):
            corn.purge_dataset_artifacts(confirm=confirm)
    assert len(corn.records()) == 2
    own = corn.records()[1].blob_id
    removed, size = corn.purge_dataset_artifacts(confirm=True)
    assert removed == [own]
    assert size > 0
    assert corn.records() == []
    assert store.get_artifact(own) is None
    assert [corn.load_artifact(record) for record in oats.records()] == [["shared"], ["oats"]]
    assert store.query_predictions("corn")["chain_id"].to_list() == [None]
    assert store.check(read_data=True).findings == ()
    with pytest.raises(InvalidInput, match="without a data set"):
        store.artifacts.purge_dataset_artifacts(confirm=True)


def test_deleting_a_pipelines_artifacts_can_leave_the_files_to_a_gc(
    store: WorkspaceStore, folder: Path
) -> None:
    corn, oats = two_pipelines(store)
    own = corn.records()[1]
    assert corn.delete_pipeline_artifacts(corn.pipeline_id) == 2
    assert f"artifacts/{own.path}" in blob_keys(store)
    assert oats.delete_pipeline_artifacts(oats.pipeline_id, delete_files=True) == 2
    assert store.artifacts.find_orphaned_artifacts() == [f"artifacts/{own.path}"]
    assert corn.delete_pipeline_artifacts(corn.pipeline_id) == 0


def test_a_pipeline_that_is_being_recorded_is_not_purged(
    store: WorkspaceStore, registry: ArtifactRegistry
) -> None:
    registry.register_with_chain([1], "s1.A", "model", 1)
    with pytest.raises(InvalidInput, match="being recorded"):
        registry.delete_pipeline_artifacts(registry.pipeline_id)
    assert len(registry.records()) == 1


def test_what_a_failed_run_left_is_released_and_its_log_says_so(store: WorkspaceStore, folder: Path) -> None:
    corn, _ = two_pipelines(store)
    registry = ArtifactRegistry(store, "corn")
    run_id = store.begin_run("broken", {}, [{"name": "corn"}])
    registry.start_run(run_id)
    registry.pipeline_id = store.begin_pipeline(run_id, "p", {}, [], "corn", "")
    registry.register_with_chain(["shared"], "s1.MSC", "transformer", 1)
    lost = registry.register_with_chain(["lost"], "s2.PLS", "model", 2)
    store.fail_run(run_id, "it broke")
    [line] = store.get_pipeline_log(registry.pipeline_id).iter_rows(named=True)
    assert line["event"] == "cleanup"
    assert line["message"].startswith("released 2 artifacts")
    assert lost.blob_id in json.loads(line["details"])["artifact_ids"]
    assert store.artifacts.find_orphaned_artifacts() == [f"artifacts/{lost.path}"]
    assert registry.cleanup_failed_run() == 1
    assert f"artifacts/{lost.path}" not in blob_keys(store)
    assert registry.cleanup_failed_run() == 0
    assert corn.load_artifact(corn.records()[0]) == ["shared"]
    assert store.check().findings == ()


def test_the_figures_are_those_of_the_scope(store: WorkspaceStore) -> None:
    corn, _ = two_pipelines(store)
    whole, part = store.artifacts.get_stats(), corn.get_stats()
    assert (whole["total_artifacts"], whole["unique_files"], whole["deduplication_ratio"]) == (4, 3, 0.25)
    assert (part["total_artifacts"], part["unique_files"], part["by_type"]) == (
        2,
        2,
        {"model": 1, "transformer": 1},
    )
    assert whole["disk_file_count"] == 3
    assert whole["disk_usage_bytes"] == whole["total_size_bytes"]
    assert whole["orphaned_count"] == 0


def run(folder: Path, *words: str) -> Any:
    return invoke("artifacts", *words, "-w", folder)


def test_the_command_line_lists_counts_and_cleans(store: WorkspaceStore, folder: Path) -> None:
    corn, oats = two_pipelines(store)
    ids = [record.artifact_id for record in corn.records()]
    listed = run(folder, "list", "--dataset", "corn", "--json")
    assert [each["artifact_id"] for each in json.loads(listed.output)] == ids
    assert "s1.MSC>s2.PLS" in run(folder, "list", "--verbose").output
    assert json.loads(run(folder, "stats", "--json").output)["unique_files"] == 3
    assert "25% of the artifacts" in run(folder, "stats", "-v").output
    refused = run(folder, "purge", "--dataset", "corn")
    assert refused.exit_code == 2
    assert "No terminal for a question" in refused.output
    assert run(folder, "purge", "--yes").exit_code == 2
    dry = run(folder, "purge", "--dataset", "corn", "--dry-run")
    assert "1 files that only they hold" in dry.output
    assert "Nothing was removed" in dry.output
    assert len(corn.records()) == 2
    assert "Removed 1 files" in run(folder, "purge", "--dataset", "corn", "--yes").output
    oats.delete_pipeline_artifacts(oats.pipeline_id)
    orphans = json.loads(run(folder, "list-orphaned", "--json").output)["files"]
    assert len(orphans) == 2
    assert "2 files" in run(folder, "cleanup", "--dry-run").output
    assert set(orphans) <= set(blob_keys(store))
    assert "Removed 2 files" in run(folder, "cleanup", "--yes", "--force").output
    assert set(orphans).isdisjoint(blob_keys(store))
    assert run(folder, "list").output == "No artifacts.\n"
