"""Statistics: counts, bytes, errors and growth that agree with what was recorded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from historykit import put_row
from storekit import begin, whole_pipeline

from nirs_store import WorkspaceStore
from nirs_store.errors import InvalidInput, UnknownId


def test_an_empty_store_has_statistics(store: WorkspaceStore) -> None:
    found = store.statistics()
    assert found.counts["runs"] == 0
    assert (found.total_bytes, found.deduplication, found.compression) == (0, 0.0, 0.0)
    assert found.growth.height == 0
    assert "errors" in str(found)


@pytest.mark.takes_over
def test_counts_bytes_status_and_errors(store: WorkspaceStore) -> None:
    run_id = store.begin_run("one", {}, [])
    whole_pipeline(store, run_id, n=3)
    store.complete_run(run_id, {})
    failed, pipeline_id = begin(store, "two")
    store.fail_pipeline(pipeline_id, "no")
    store.fail_run(failed, "no")
    for _ in range(2):
        with pytest.raises(UnknownId):
            store.tag_run("nothing", "x")
    for _ in range(3):
        store.save_artifact("x" * 1000, "str", "model", "bytes")
    found = store.statistics()
    assert {
        name: found.counts[name] for name in ("runs", "pipelines", "chains", "predictions", "artifacts")
    } == {
        "runs": 2,
        "pipelines": 2,
        "chains": 1,
        "predictions": 3,
        "artifacts": 2,
    }
    assert found.by_status["runs"] == {"completed": 1, "failed": 1}
    assert found.errors_by_operation == {"edit_run": 2, "fail_pipeline": 1, "fail_run": 1}
    assert found.total_errors == 4
    models = found.artifacts[0]
    assert (models.kind, models.stored, models.saved_bytes) == ("model", 2, 2000)
    assert 0 < found.deduplication < 1
    largest = found.runs.row(0, named=True)
    assert (largest["name"], largest["chains"], largest["predictions"], largest["artifacts"]) == (
        "one",
        1,
        3,
        1,
    )
    json.dumps(found.to_dict(), default=str)
    assert "2 edit_run" in str(found)
    assert "growth" in found._repr_html_()


def test_compression_counts_the_bytes_of_files(store: WorkspaceStore) -> None:
    def put(con: Any) -> None:
        table = {"type": "table", "status": "completed", "size_bytes": 100, "stored_bytes": 25}
        put_row(con, "file_versions", version_id="a", name="a", compression="zstd", **table)
        log = {"type": "log", "status": "failed", "size_bytes": 100, "stored_bytes": 100}
        put_row(con, "file_versions", version_id="b", name="b", compression="none", **log)

    store._engine.change(put)
    found = store.statistics()
    assert found.files["type"]["table"] == {"count": 1, "bytes": 100, "stored_bytes": 25}
    assert found.files["compression"]["zstd"]["stored_bytes"] == 25
    assert found.compression == 0.375
    assert found.by_status["files"] == {"completed": 1, "failed": 1}


def test_growth_is_by_period_with_a_running_total(store: WorkspaceStore) -> None:
    run_id, _ = begin(store)
    store.save_artifact("x" * 100, "str", "model", "bytes")
    store._engine.change(
        lambda con: con.execute("UPDATE runs SET created_at = '2026-01-15' WHERE run_id = ?", [run_id])
    )
    grown = store.statistics(step="month").growth
    assert grown["runs"].to_list() == [1, 0]
    assert grown["artifacts"].to_list() == [0, 1]
    assert grown["total_bytes"].to_list() == [0, 100]
    assert str(grown["since"][0]) == "2026-01-01"
    with pytest.raises(InvalidInput, match="'month'"):
        store.statistics(step="mnth")
