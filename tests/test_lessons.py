"""What broke in earlier stores of this kind, where no other file of tests is about it."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import children
import duckdb
import pytest
from storekit import Counting, begin, chain_of, let_go, predict, prediction, sql, whole_pipeline

from nirs_store.blobs import durable
from nirs_store.db import database as opened_module
from nirs_store.db.lock import CatalogLock
from nirs_store.errors import NirsStoreError
from nirs_store.records import predictions as prediction_queries
from nirs_store.records import queries
from nirs_store.store import WorkspaceStore


def test_a_store_that_a_training_run_never_closes_locks_nobody_out(
    store: WorkspaceStore, folder: Path, crew: Callable[..., Any]
) -> None:
    run_id, _ = begin(store)
    whole_pipeline(store, run_id)
    other = crew(children.ask, folder, {"lock_timeout": 20.0})
    assert other.hear() == [run_id]
    writer = crew(children.record_pipelines, folder, 1)
    writer.hear()
    writer.tell()
    assert len(writer.hear()) == 1
    assert store.list_runs().height == 2


def test_nothing_becomes_a_silent_no_op_after_the_catalog_could_not_be_had(
    store: WorkspaceStore, folder: Path, crew: Callable[..., Any]
) -> None:
    """An earlier store went on in a degraded mode that dropped every later write."""
    let_go(store)
    with WorkspaceStore(folder, lock_timeout=0.05) as writer:
        run_id = writer.begin_run("r", {}, [])
        holder = crew(children.hold_lock, folder, True)
        holder.hear()
        for _ in range(3):
            with pytest.raises(NirsStoreError):
                writer.list_runs()
            whole_pipeline(writer, run_id)
        holder.tell()
        holder.hear()
    assert store.query_predictions(run_id=run_id).height == 6


def test_every_store_that_was_ever_opened_can_be_collected(folder: Path) -> None:
    seen = []
    for number in range(4):
        store = WorkspaceStore(folder)
        store.begin_run(str(number), {}, [])
        store.list_runs()
        seen += [weakref.ref(store), weakref.ref(store._engine)]
        if number % 2:
            store.close()
        del store
    gc.collect()
    assert [ref() for ref in seen] == [None] * 8


@pytest.mark.parametrize("count", [5, 60])
def test_recording_more_predictions_needs_no_more_statements(
    store: WorkspaceStore, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row by row, 100 predictions took 300 statements."""
    _, pipeline_id = begin(store)
    store.list_runs()
    let_go(store)
    chain_id = chain_of(store, pipeline_id)
    for _ in range(count):
        predict(store, pipeline_id, chain_id)
    store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 1)
    seen: list[Counting] = []
    real = opened_module.apply_journal

    def counted(con: Any, *rest: Any, **named: Any) -> Any:
        seen.append(Counting(con))
        return real(seen[-1], *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(opened_module, "apply_journal", counted)
    assert store.query_predictions().height == count
    assert 0 < sum(len(con.asked) for con in seen) < 40


def test_a_question_that_fails_raises_and_does_not_look_like_an_empty_answer(
    store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swallowed errors made every query of an earlier store empty, and nobody noticed."""
    predict(store, begin(store)[1])
    asking: list[Callable[[], Any]] = [
        store.list_runs,
        store.list_pipelines,
        store.query_predictions,
        lambda: store.top_predictions(3),
        lambda: store.get_run_log_summary("x"),
    ]

    def broken(*_: Any, **__: Any) -> Any:
        raise AttributeError("no such method on a connection")

    monkeypatch.setattr(queries, "to_frame", broken)
    monkeypatch.setattr(prediction_queries, "few_rows", broken)
    for ask in asking:
        with pytest.raises(AttributeError, match="no such method"):
            ask()


def test_a_first_number_after_thousands_of_nothing_keeps_its_type(store: WorkspaceStore) -> None:
    """A column's type was once guessed from its first rows."""
    _, pipeline_id = begin(store)
    with store.transaction():
        for number in range(1500):
            store.save_prediction(
                pipeline_id,
                None,
                **prediction(val_score=None, branch_name=None, branch_id=None, model_name=str(number)),
            )
        last = store.save_prediction(
            pipeline_id, None, **prediction(val_score=0.25, branch_name="late", branch_id=7)
        )
    for frame in (store.query_predictions(), store.query_predictions()[::-1]):
        assert frame.filter(prediction_id=last).select("val_score", "branch_name", "branch_id").row(0) == (
            0.25,
            "late",
            7,
        )


def test_rows_go_before_the_files_that_they_name(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files first, and a crash leaves living rows whose content is gone."""
    run_id, _ = begin(store)
    whole_pipeline(store, run_id)
    seen: list[list[tuple[Any, ...]]] = []
    real = os.unlink

    def unlink(path: Any, **named: Any) -> None:
        if "aside" in str(path):
            con = store._engine.access.con
            assert con is not None
            seen.append(con.execute("SELECT artifact_id FROM blobs").fetchall())
        real(path, **named)

    monkeypatch.setattr(durable.os, "unlink", unlink)
    store.delete_run(run_id, now=True)
    assert seen == [[]]


def test_a_blob_is_durable_before_the_commit_that_names_it(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pipeline_id = begin(store)
    order: list[str] = []
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        order.append(Path(target).suffix)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    chain_of(store, pipeline_id)
    store.complete_pipeline(pipeline_id, 0.5, None, "rmse", 1)
    assert order == [".joblib", ".seg"]


def test_a_kill_in_the_very_first_session_leaves_a_workspace_that_opens(
    folder: Path, crew: Callable[..., Any]
) -> None:
    import signal

    writer = crew(children.record_for_ever, folder)
    run_id = writer.hear()
    writer.signal(signal.SIGKILL)
    writer.end()
    with WorkspaceStore(folder) as store:
        assert store.list_runs()["run_id"].to_list() == [run_id]


def test_a_catalog_of_the_generation_before_is_not_taken_for_ours_because_of_its_name(folder: Path) -> None:
    folder.mkdir()
    with duckdb.connect(str(folder / "store.duckdb")) as con:
        for table in ("runs", "pipelines", "chains", "predictions", "prediction_arrays", "artifacts", "logs"):
            con.execute(f"CREATE TABLE {table} (id VARCHAR)")
    data = (folder / "store.duckdb").read_bytes()
    with pytest.raises(NirsStoreError, match=r"nirs4all 0\.7"):
        WorkspaceStore(folder)
    assert [path.name for path in folder.iterdir()] == ["store.duckdb"]
    assert (folder / "store.duckdb").read_bytes() == data


def test_counted_references_cannot_go_below_nothing(store: WorkspaceStore, folder: Path) -> None:
    _, pipeline_id = begin(store)
    artifact_id = store.save_artifact({"a": 1}, "dict", "model")
    chain_of(store, pipeline_id, artifact_id)
    with WorkspaceStore(folder) as other:
        other.get_pipeline(pipeline_id)
        for each in (store, other, store, other):
            each.fail_pipeline(pipeline_id, "again")
    assert (store.get_artifact(artifact_id) or {})["ref_count"] == 0
    let_go(store)
    assert sql(folder, "SELECT count(*) FROM artifact_refs") == [(0,)]


def test_a_lease_is_never_decided_by_a_file_that_a_dead_process_left(folder: Path) -> None:
    """A soft lock, or a pid in a file, would wait for somebody who is dead, or overrun somebody who lives."""
    with WorkspaceStore(folder) as store:
        layout = store._engine.layout
    layout.holder.write_text('{"host": "elsewhere", "pid": 1, "since": "2020-01-01T00:00:00+00:00"}')
    layout.lock.write_text("1")
    (layout.journal / "lock.lock").write_text("")
    with WorkspaceStore(folder, lock_timeout=2) as store:
        assert store.list_runs().is_empty()
    assert layout.lock.read_text() == "1"
    catalog_lock = CatalogLock(layout, writable=True)
    assert catalog_lock.try_acquire()
    catalog_lock.release()
