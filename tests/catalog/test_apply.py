"""Applying the journal: exactly once, in order, and nothing that is wrong with one commit stops another."""

from __future__ import annotations

import shutil
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from storekit import (
    Y_TRUE,
    begin,
    chain_of,
    commit_rows,
    let_go,
    predict,
    prediction,
    segments,
    sql,
    whole_pipeline,
)

from nirs_store.db import apply as apply_module
from nirs_store.db import database
from nirs_store.db.schema import column_names
from nirs_store.errors import InvalidInput, SegmentRejected, UnknownId, WriteFailed
from nirs_store.ids import new_id
from nirs_store.store import WorkspaceStore

NOW = datetime(2026, 1, 1)


def row(table: str, **values: Any) -> tuple[Any, ...]:
    """A row for `commit_rows`; what is not given is filled in so that it is valid."""
    filled = {
        "name": "n", "status": "running", "created_at": NOW, "dataset_name": "d", "model_name": "m",
        "model_class": "c", "fold_id": "f", "partition": "val", "metric": "rmse", "task_type": "regression",
        "preprocessings": "", "steps": "[]", "model_step_idx": 0, "fold_strategy": "", "step_idx": 0,
        "event": "start", "level": "info", "made_at": NOW,
    }  # fmt: skip
    return tuple({**filled, **values}.get(name) for name in column_names(table))


def pipeline_row(pipeline_id: str, run_id: str) -> tuple[Any, ...]:
    return row("pipelines", pipeline_id=pipeline_id, run_id=run_id)


# -- exactly once --------------------------------------------------------------------------------


def test_a_commit_whose_file_survived_its_application_is_not_applied_again(
    store: WorkspaceStore, folder: Path, tmp_path: Path
) -> None:
    run_id, _ = begin(store)
    whole_pipeline(store, run_id)
    kept = tmp_path / "kept"
    shutil.copytree(folder / "journal" / "segments", kept)
    before = [store.query_predictions().height, store.list_pipelines().height]
    for path in kept.iterdir():
        # As after a crash between the transaction and the unlink.
        shutil.copy(path, folder / "journal" / "segments" / path.name)
    assert [store.query_predictions().height, store.list_pipelines().height] == before
    let_go(store)
    assert segments(folder) == []
    assert list((folder / "journal" / "rejected").iterdir()) == []


def test_ids_of_applied_commits_are_forgotten_only_when_their_files_are_gone(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply_module, "_PRUNE_ABOVE", 5)
    for number in range(12):
        store.begin_run(str(number), {}, [])
        store.list_runs(limit=1)
        let_go(store)
    assert len(sql(folder, "SELECT txid FROM applied")) <= 7
    assert len(sql(folder, "SELECT run_id FROM runs")) == 12


@pytest.mark.parametrize("at_once", [1, 2, 256])
def test_the_outcome_does_not_depend_on_how_many_commits_are_applied_at_once(
    folder: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply_module, "_CHUNK_SEGMENTS", at_once)
    with WorkspaceStore(folder) as store:
        run_id, first = begin(store)
        second = store.begin_pipeline(run_id, "second", {}, [], "corn", "h")
        third = store.begin_pipeline(run_id, "third", {}, [], "corn", "h")
        for pipeline_id in (first, second, third):
            predict(store, pipeline_id)
        store.complete_pipeline(first, 1.0, None, "rmse", 1)
        store.fail_run(run_id, "stopped")
        store.complete_pipeline(second, 1.0, None, "rmse", 1)
        store.complete_run(run_id, {"too": "late"})
        store.fail_pipeline(third, "again")
        rows = {r["pipeline_id"]: r for r in store.list_pipelines().to_dicts()}
        assert [rows[p]["status"] for p in (first, second, third)] == ["completed", "failed", "failed"]
        assert rows[third]["error"] == "run failed: stopped"
        assert store.query_predictions()["pipeline_id"].to_list() == [first]
        run = store.get_run(run_id)
        assert run is not None
        assert (run["status"], run["error"], run["summary"]) == ("failed", "stopped", None)


def test_a_large_journal_is_applied_in_parts(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "CHUNK_BYTES", 4000)
    applied: list[int] = []
    real = apply_module._take_chunk

    def counted(entries: list[Any], most_bytes: int) -> tuple[list[Any], list[Any]]:
        chunk, rest = real(entries, most_bytes)
        applied.append(len(chunk))
        return chunk, rest

    monkeypatch.setattr(apply_module, "_take_chunk", counted)
    for number in range(9):
        store.begin_run(str(number), {}, [])
    assert store.list_runs().height == 9
    assert sum(applied) == 9
    assert len(applied) > 1


@pytest.mark.parametrize("whole_run", [False, True])
@pytest.mark.parametrize("asked_before", [0, 1, 2])
def test_a_chain_takes_over_what_was_saved_for_it_and_not_what_a_pipeline_let_go_of_when_it_failed(
    store: WorkspaceStore, folder: Path, whole_run: bool, asked_before: int
) -> None:
    run_id, failing = begin(store)
    artifact_id = store.save_artifact([1.0], "builtins.list", "model", "joblib", pipeline_id=failing)
    store.flush()
    if asked_before == 1:
        store.list_runs()
    if whole_run:
        store.fail_run(run_id, "stopped")
    else:
        store.fail_pipeline(failing, "stopped")
    if asked_before == 2:
        store.list_runs()
    _, pipeline_id = begin(store, "next")
    assert store.save_artifact([1.0], "builtins.list", "model", "joblib") == artifact_id
    chain_of(store, pipeline_id, artifact_id)
    store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 1)
    held = "SELECT owner_kind FROM artifact_refs"
    assert store._engine.query(lambda con: con.execute(held).fetchall()) == [("chain",)]
    # Everything is applied once.
    assert store.list_pipelines().height == 2
    let_go(store)
    assert segments(folder) == []


# -- owners --------------------------------------------------------------------------------------


def test_a_child_that_comes_before_its_parent_is_accepted(store: WorkspaceStore, folder: Path) -> None:
    run_id, pipeline_id, prediction_id = new_id(), new_id(), new_id()
    commit_rows(
        folder, {"predictions": [row("predictions", prediction_id=prediction_id, pipeline_id=pipeline_id)]}
    )
    commit_rows(folder, {"changes": [("c1", "complete_pipeline", pipeline_id, NOW, '{"best_val": 0.5}')]})
    commit_rows(folder, {"changes": [("c2", "complete_run", run_id, NOW, '{"summary": {"n": 1}}')]})
    assert store.get_prediction(prediction_id) is not None
    commit_rows(folder, {"pipelines": [pipeline_row(pipeline_id, run_id)]})
    # The change of state waited for its row.
    found = store.get_pipeline(pipeline_id)
    assert found is not None
    assert (found["status"], found["best_val"]) == ("completed", 0.5)
    commit_rows(folder, {"runs": [row("runs", run_id=run_id)]})
    run = store.get_run(run_id)
    assert run is not None
    assert (run["status"], run["summary"]) == ("completed", {"n": 1})
    let_go(store)
    assert sql(folder, "SELECT count(*) FROM deferred") == [(0,)]


def test_rows_of_a_deleted_run_are_dropped_counted_and_said(store: WorkspaceStore, folder: Path) -> None:
    with WorkspaceStore(folder) as other:
        run_id, pipeline_id = begin(other)
        chain_id = chain_of(other, pipeline_id)
        other.flush()
        assert store.delete_run(run_id, now=True) == 3
        # The other one does not know; it goes on recording, and nothing it does fails.
        late = whole_pipeline(other, run_id)
        predict(other, pipeline_id, chain_id)
        other.log_step(pipeline_id, 0, "x", "end")
        other.complete_pipeline(pipeline_id, 1.0, None, "rmse", 1)
        other.complete_run(run_id, {})
        with pytest.warns(UserWarning, match="1 of pipelines"):
            assert store.list_runs().is_empty()
    assert store.get_pipeline(late) is None
    assert store.query_predictions().is_empty()
    let_go(store)
    for table in (
        "pipelines",
        "chains",
        "predictions",
        "prediction_arrays",
        "artifact_refs",
        "logs",
        "deferred",
    ):
        left = sql(folder, f"SELECT count(*) FROM {table} WHERE true")
        expected = [(0,)] if table != "artifact_refs" else left
        assert left == expected, table
    counted = dict(sql(folder, "SELECT table_name, sum(rows) FROM dropped GROUP BY ALL"))
    assert counted["predictions"] == 3
    assert counted["prediction_arrays"] == 3
    assert counted["logs"] == 2


def test_a_prediction_that_names_a_chain_of_a_deleted_run_is_dropped_with_its_arrays(
    store: WorkspaceStore, folder: Path
) -> None:
    run_id, pipeline_id = begin(store, "base")
    chain_id = chain_of(store, pipeline_id)
    store.flush()
    with WorkspaceStore(folder) as other:
        _, elsewhere = begin(other, "builds on it")
        other.save_prediction(elsewhere, chain_id, **prediction())
        late = predict(other, elsewhere, chain_id)
        store.delete_run(run_id, now=True)
        other.flush()
        with pytest.warns(UserWarning, match="dropped"):
            assert store.get_prediction(late) is None
    let_go(store)
    assert sql(folder, "SELECT count(*) FROM prediction_arrays") == [(0,)]


def test_rows_that_come_after_a_rollback_are_dropped_but_logs_stay(
    store: WorkspaceStore, folder: Path
) -> None:
    with WorkspaceStore(folder) as other:
        _, pipeline_id = begin(store)
        other.log_step(pipeline_id, 0, "x", "start")
        store.fail_pipeline(pipeline_id, "no convergence")
        store.list_runs()
        predict(other, pipeline_id, chain_of(other, pipeline_id))
        other.log_step(pipeline_id, 1, "x", "end")
        other.flush()
        with pytest.warns(UserWarning, match="rolled back"):
            assert store.query_predictions().is_empty()
    assert store.get_pipeline_log(pipeline_id)["event"].to_list() == ["start", "end"]
    assert store.get_chains_for_pipeline(pipeline_id).is_empty()


def test_the_id_of_a_deleted_prediction_can_be_given_to_a_new_one(store: WorkspaceStore) -> None:
    _, pipeline_id = begin(store)
    store.save_prediction(pipeline_id, None, **prediction(), prediction_id="mine")
    store.save_prediction_arrays("mine", Y_TRUE, Y_TRUE)
    assert store.delete_prediction("mine", now=True)
    store.save_prediction(pipeline_id, None, **prediction(val_score=0.1), prediction_id="mine")
    store.save_prediction_arrays("mine", Y_TRUE, Y_TRUE + 1)
    found = store.get_prediction("mine", load_arrays=True)
    assert found is not None
    assert found["val_score"] == 0.1
    np.testing.assert_array_equal(found["y_pred"], Y_TRUE + 1)


# -- commits that cannot be applied ----------------------------------------------------------------


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_commit_is_set_aside_named_told_to_its_writer_and_stops_nobody(
    store: WorkspaceStore, folder: Path
) -> None:
    good = store.begin_run("good", {}, [])
    store.list_runs()
    bad = store.begin_run("bad", {}, [])
    damage(segments(folder)[-1])
    after = store.begin_run("after", {}, [])
    with pytest.warns(UserWarning, match="could not be applied"):
        assert set(store.list_runs()["run_id"]) == {good, after}
    # What is damaged cannot say who wrote it; its writer knows.
    with pytest.raises(SegmentRejected, match="checksum"):
        store.get_run(bad)
    assert store.get_run(bad) is None
    report = store.check()
    assert [(f.severity, f.where) for f in report.errors if "reject" in f.kind] != []
    kept = list((folder / "journal" / "rejected").glob("*.seg"))
    assert len(kept) == 1
    with pytest.warns(UserWarning, match=kept[0].name), WorkspaceStore(folder) as other:
        assert other.list_runs().height == 2


def test_the_writer_of_a_commit_that_was_set_aside_hears_of_it_at_its_next_call_and_once(
    store: WorkspaceStore, folder: Path
) -> None:
    _, pipeline_id = begin(store)
    with WorkspaceStore(folder) as writer:
        writer.save_prediction(pipeline_id, None, **prediction(), prediction_id="taken")
        writer.flush()
        lost = commit_rows(
            folder,
            {"predictions": [row("predictions", prediction_id="taken", pipeline_id=pipeline_id)]},
            claim=writer._engine._claim.claim_id,
        )
        with pytest.warns(UserWarning, match="could not be applied"):
            store.list_runs()
        with pytest.raises(SegmentRejected, match=lost.name):
            writer.log_step(pipeline_id, 0, "x", "start")
        writer.log_step(pipeline_id, 0, "x", "start")
        commit_rows(folder, {"logs": [row("logs", log_id=None, pipeline_id=pipeline_id)]})
        with pytest.warns(UserWarning, match="could not be applied"):
            store.list_runs()
        # Somebody else's is not ours, and ours was told.
        writer.flush()
    assert store.query_predictions().height == 1


def test_a_writer_that_only_closes_hears_of_it_too(store: WorkspaceStore, folder: Path) -> None:
    writer = WorkspaceStore(folder)
    writer.begin_run("r", {}, [])
    commit_rows(folder, {"runs": [row("runs", run_id=None)]}, claim=writer._engine._claim.claim_id)
    with pytest.warns(UserWarning, match="could not be applied"):
        store.list_runs()
    with pytest.raises(SegmentRejected):
        writer.close()
    with pytest.raises(RuntimeError, match="WorkspaceStore is closed"):
        writer.list_runs()
    writer.close()


@pytest.mark.parametrize(
    "rows",
    [
        {"predictions": [row("predictions", prediction_id="dup", pipeline_id="p")] * 2},
        {"runs": [row("runs", run_id="r", config="{not json")]},
        {"changes": [("c", "complete_pipeline", "PIPELINE", NOW, '{"duration_ms": 1e300}')]},
        {"changes": [("c", "complete_pipeline", "PIPELINE", NOW, '{"best_val": "high"}')]},
        {"changes": [("c", "complete_pipeline", "PIPELINE", NOW, "[1]")]},
        {"changes": [("c", "complete_run", "RUN", NOW, "{")]},
    ],
    ids=["duplicate id", "no json", "no integer", "no number", "no object", "torn payload"],
)
def test_rows_that_no_table_takes_are_set_aside_alone(
    store: WorkspaceStore, folder: Path, rows: dict[str, list[tuple[Any, ...]]]
) -> None:
    run_id, pipeline_id = begin(store)
    store.log_step(pipeline_id, 0, "x", "before")
    store.flush()
    real = {"PIPELINE": pipeline_id, "RUN": run_id}
    commit_rows(
        folder,
        {
            t: [tuple(real.get(v, v) if isinstance(v, str) else v for v in r) for r in rs]
            for t, rs in rows.items()
        },
    )
    store.log_step(pipeline_id, 0, "x", "after")
    with pytest.warns(UserWarning, match="could not be applied"):
        assert store.get_pipeline_log(pipeline_id)["event"].to_list() == ["before", "after"]
    run = store.get_run(run_id)
    assert run is not None
    assert run["status"] == "running"
    store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 1)
    found = store.get_pipeline(pipeline_id)
    assert found is not None
    assert found["status"] == "completed"


def test_what_is_the_machines_fault_sets_nothing_aside(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = store.begin_run("r", {}, [])
    waiting = segments(folder)

    def full(*_: Any) -> None:
        raise duckdb.IOException("Could not write: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(apply_module, "_transact", full)
        with pytest.raises(WriteFailed, match="No space"):
            store.list_runs()
    assert segments(folder) == waiting
    assert store.list_runs()["run_id"].to_list() == [run_id]


def test_the_machines_fault_while_commits_are_tried_one_by_one_is_typed_and_leaves_no_transaction_open(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.begin_run("a", {}, [])
    commit_rows(folder, {"runs": [row("runs", run_id=None)]})
    store.begin_run("b", {}, [])
    real = apply_module._transact

    def fails_alone(work: Any, chunk: Any) -> bool:
        if len(chunk) == 1:
            work.con.execute("BEGIN")
            raise duckdb.IOException("I/O error")
        return real(work, chunk)

    with monkeypatch.context() as patch:
        patch.setattr(apply_module, "_transact", fails_alone)
        with pytest.raises(WriteFailed):
            store.list_runs()
    with pytest.warns(UserWarning, match="could not be applied"):
        assert store.list_runs()["name"].sort().to_list() == ["a", "b"]


def test_a_commit_under_another_name_than_its_own_is_set_aside(store: WorkspaceStore, folder: Path) -> None:
    store.begin_run("r", {}, [])
    (path,) = segments(folder)
    path.rename(path.with_name(f"{1:012d}-{new_id()}.seg"))
    with pytest.warns(UserWarning, match="its name says"):
        assert store.list_runs().is_empty()
    with pytest.raises(SegmentRejected):
        store.flush()


# -- references ----------------------------------------------------------------------------------


def test_a_chain_takes_over_one_reference_of_its_session_or_adds_one(store: WorkspaceStore) -> None:
    def count() -> int:
        found = store.get_artifact(artifact_id)
        assert found is not None
        return int(found["ref_count"])

    _, pipeline_id = begin(store)
    artifact_id = store.save_artifact({"a": 1}, "dict", "model")
    assert count() == 1
    assert store.save_artifact({"a": 1}, "dict", "model") == artifact_id
    assert count() == 2
    for expected in (2, 2, 3):
        chain_of(store, pipeline_id, artifact_id)
        assert count() == expected
    # One that comes after the chains belongs to a later chain.
    store.save_artifact({"a": 1}, "dict", "model")
    assert count() == 4
    chain_of(store, pipeline_id, artifact_id)
    assert count() == 4


def test_another_sessions_reference_is_not_taken_over(store: WorkspaceStore, folder: Path) -> None:
    artifact_id = store.save_artifact({"a": 1}, "dict", "model")
    store.flush()
    with WorkspaceStore(folder) as other:
        _, pipeline_id = begin(other)
        chain_of(other, pipeline_id, artifact_id)
    found = store.get_artifact(artifact_id)
    assert found is not None
    assert found["ref_count"] == 2


def test_a_reference_brings_its_artifacts_row_along(store: WorkspaceStore, folder: Path) -> None:
    """A writer that named a blob by its file alone, while the catalog was busy, leaves no dangling chain."""
    _, pipeline_id = begin(store)
    with WorkspaceStore(folder) as dying:
        info = dying._engine.blobs.put(b"payload", "bin")
        dying._engine.blobs.wait()
    engine = store._engine
    engine.look_up = lambda ask: (False, None)  # type: ignore[method-assign]
    chain_id = chain_of(store, pipeline_id, info.artifact_id)
    del engine.look_up
    assert store.load_artifact(info.artifact_id) == b"payload"
    store._engine.id_cache.clear()
    assert store.load_artifact(info.artifact_id) == b"payload"
    found = store.get_artifact(info.artifact_id)
    assert found is not None
    assert (found["ref_count"], found["size_bytes"]) == (1, 7)
    assert store.get_chain(chain_id) is not None


# -- while the catalog is busy -------------------------------------------------------------------


def test_an_unknown_id_is_accepted_while_the_catalog_is_busy_and_checked_when_applied(
    store: WorkspaceStore, folder: Path
) -> None:
    run_id, pipeline_id = begin(store)
    store.flush()
    with WorkspaceStore(folder, lock_timeout=0.05) as other:
        store._engine.exclusive(lambda access: (
            other.log_step(pipeline_id, 0, "x", "unseen"),
            other.complete_pipeline(pipeline_id, 0.25, None, "rmse", 1),
            other.complete_run(run_id, {}),
        ))  # fmt: skip
    with pytest.raises(UnknownId):
        store.log_step("nobody", 0, "x", "start")
    run = store.get_run(run_id)
    assert run is not None
    assert run["status"] == "completed"
    assert store.get_pipeline_log(pipeline_id)["event"].to_list() == ["unseen"]


def test_an_id_given_twice_is_refused_by_whoever_can_know(store: WorkspaceStore, folder: Path) -> None:
    _, pipeline_id = begin(store)
    store.save_prediction(pipeline_id, None, **prediction(), prediction_id="mine")
    with pytest.raises(InvalidInput, match="'mine' already"):
        store.save_prediction(pipeline_id, None, **prediction(), prediction_id="mine")
    store.flush()
    with WorkspaceStore(folder) as other, pytest.raises(InvalidInput, match="'mine' already"):
        other.save_prediction(pipeline_id, None, **prediction(), prediction_id="mine")
    with pytest.raises(InvalidInput, match="empty"):
        store.save_prediction(pipeline_id, None, **prediction(), prediction_id="")
    assert store.query_predictions().height == 1


def test_nothing_is_said_when_nothing_was_dropped(store: WorkspaceStore) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_id, _ = begin(store)
        whole_pipeline(store, run_id)
        store.delete_run(run_id, now=True)
        assert store.list_runs().is_empty()
