"""Vacuum: the file really shrinks, everything is in it, and nothing is lost on the way."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import children
import duckdb
import numpy as np
import pytest
from storekit import begin, chain_of, failing, let_go, predict, prediction, sql, whole_pipeline

from nirs_store.db import migrations as compact_module
from nirs_store.db.schema import TABLES
from nirs_store.errors import CatalogDamaged, NirsStoreError, ReadOnlyStore, WriteFailed
from nirs_store.store import WorkspaceStore


def fill(store: WorkspaceStore, name: str, megabytes: int = 3) -> str:
    run_id, pipeline_id = begin(store, name)
    values = np.random.default_rng(len(name)).normal(size=(megabytes * 8, 16384))
    with store.transaction():
        for row in values:
            prediction_id = store.save_prediction(pipeline_id, None, **prediction())
            store.save_prediction_arrays(prediction_id, row, row)
    store.list_runs()
    return run_id


def contents(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    return {
        table: sorted(map(repr, sql(folder, f"SELECT * FROM {table}")))  # type: ignore[misc]
        for table in TABLES
        if table not in ("applied", "audit_entries", "nirs_store_meta")
    }


def test_the_file_shrinks_after_a_large_deletion_and_everything_else_is_there(
    store: WorkspaceStore, folder: Path
) -> None:
    kept = begin(store, "kept")[0]
    pipeline_id = whole_pipeline(store, kept)
    chain_of(store, pipeline_id, wavelengths=[1.0, 2.0])
    store.delete_run(fill(store, "large"), now=True)
    let_go(store)
    path = folder / "store.duckdb"
    before, rows = path.stat().st_size, contents(folder)
    assert store.vacuum() is None  # type: ignore[func-returns-value]
    let_go(store)
    assert before - path.stat().st_size > 2_500_000
    assert contents(folder) == rows
    assert store.query_predictions(pipeline_id=pipeline_id).height == 2
    assert list((folder / "journal" / "tmp").iterdir()) == []
    assert not (folder / "store.duckdb.wal").exists()


def test_arrays_that_came_together_stay_together(store: WorkspaceStore, folder: Path) -> None:
    """What is read to get one is decompressed with its neighbours: in the order of the hashes, these are strangers."""
    pipeline_id = begin(store)[1]
    with store.transaction():
        for number in range(30):
            values = np.full(3, float(number))
            store.save_prediction_arrays(
                store.save_prediction(pipeline_id, None, **prediction()), values, values
            )
    store.list_runs()
    let_go(store)
    before = sql(folder, "SELECT array_hash FROM arrays ORDER BY rowid")
    assert before != sorted(before)
    store.vacuum()
    let_go(store)
    assert sql(folder, "SELECT array_hash FROM arrays ORDER BY rowid") == before


def test_keys_and_views_survive(store: WorkspaceStore, folder: Path) -> None:
    begin(store)
    store.vacuum()
    let_go(store)
    views = {row[0] for row in sql(folder, "SELECT view_name FROM duckdb_views() WHERE NOT internal")}
    assert "artifacts" in views
    keys = {
        row[0]
        for row in sql(
            folder, "SELECT table_name FROM duckdb_constraints() WHERE constraint_type = 'PRIMARY KEY'"
        )
    }
    assert {"runs", "predictions", "arrays", "applied"} <= keys


def test_space_of_deleted_rows_is_used_again_without_a_vacuum(store: WorkspaceStore, folder: Path) -> None:
    path = folder / "store.duckdb"
    run_id = fill(store, "first")
    let_go(store)
    first = path.stat().st_size
    for number in range(5):
        store.delete_run(run_id, now=True)
        run_id = fill(store, f"again {number}")
        let_go(store)
    # Six times as much was stored; what was deleted is free only after the checkpoint that follows.
    assert path.stat().st_size < first * 2.5


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_old_file_in_use(
    store: WorkspaceStore, folder: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, _ = begin(store)
    store.list_runs()
    let_go(store)
    old = (folder / "store.duckdb").stat().st_ino
    with (
        failing(monkeypatch, call, below=folder / "journal" / "tmp") as refused,
        pytest.raises(NirsStoreError),
    ):
        store.vacuum()
    assert refused
    assert old == (folder / "store.duckdb").stat().st_ino
    assert list((folder / "journal" / "tmp").iterdir()) == []
    assert store.get_run(run_id) is not None
    store.vacuum()
    assert store.get_run(run_id) is not None


def test_a_copy_that_lost_a_row_is_not_put_in_place(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, _ = begin(store)
    store.list_runs()
    real = compact_module.number

    def one_less(con: Any, sql: str, params: Any = None) -> int:
        return real(con, sql, params) - sql.startswith("INSERT INTO store.runs ")

    monkeypatch.setattr(compact_module, "number", one_less)
    with pytest.raises(CatalogDamaged, match="gave 0 rows of runs for 1"):
        store.vacuum()
    assert store.get_run(run_id) is not None


def test_a_log_that_could_not_be_written_back_stops_a_vacuum(
    store: WorkspaceStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, _ = begin(store)
    monkeypatch.setattr(
        store._engine.access, "close_connection", lambda: (folder / "store.duckdb.wal").write_bytes(b"x")
    )
    with pytest.raises(WriteFailed, match="checkpointed"):
        store.vacuum()
    (folder / "store.duckdb.wal").unlink()
    monkeypatch.undo()
    let_go(store)
    assert store.get_run(run_id) is not None


def test_others_record_while_a_vacuum_runs_and_find_everything_after_it(
    store: WorkspaceStore, folder: Path, crew: Callable[..., Any]
) -> None:
    fill(store, "large", 1)
    writers = [crew(children.record_pipelines, folder, 4) for _ in range(2)]
    for child in writers:
        child.hear()
    for child in writers:
        child.tell()
    for _ in range(3):
        store.vacuum()
    done = [pipeline_id for child in writers for pipeline_id in child.hear()]
    assert set(done) <= set(store.list_pipelines()["pipeline_id"])
    assert [store.query_predictions(pipeline_id=each).height for each in done] == [2] * 8


def test_who_may_only_read_may_not_vacuum(store: WorkspaceStore, folder: Path) -> None:
    predict(store, begin(store)[1])
    store.close()
    with WorkspaceStore(folder, read_only=True) as reader, pytest.raises(ReadOnlyStore):
        reader.vacuum()
    assert os.listdir(folder / "journal" / "tmp") == []


def test_a_draft_that_a_killed_process_left_is_made_anew(store: WorkspaceStore) -> None:
    run_id, _ = begin(store)
    draft = store._engine.access.instance.draft
    assert draft is not None
    with duckdb.connect(str(draft)) as con:
        con.execute("CREATE TABLE arrays (a INTEGER)")
    store.vacuum()
    assert not draft.exists()
    assert store.get_run(run_id) is not None
