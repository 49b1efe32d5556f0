"""Which checkpoints leave small row groups in the catalog, and which put them together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
from storekit import begin, let_go, predict, sql, whole_pipeline

from nirs_store.db import database as access_module
from nirs_store.db import migrations as checkpoint_module
from nirs_store.db.layout import Layout
from nirs_store.db.migrations import Checkpoint
from nirs_store.store import WorkspaceStore


def groups(folder: Path, table: str = "predictions") -> int:
    """Row groups of a table in a catalog that nobody has open."""
    query = f"SELECT count(DISTINCT row_group_id) FROM pragma_storage_info('{table}')"
    return int(sql(folder, query)[0][0])


def marks(folder: Path) -> int:
    path = Layout(folder).uncompacted
    return path.stat().st_size if path.exists() else 0


def ask_after_each(store: WorkspaceStore, pipeline_id: str, times: int) -> None:
    for _ in range(times):
        predict(store, pipeline_id)
        store.query_predictions()
        let_go(store)


@pytest.fixture
def pipeline_id(store: WorkspaceStore, folder: Path) -> str:
    """A pipeline in a catalog that has just been tidied."""
    _, pipeline_id = begin(store)
    store.query_predictions()
    let_go(store)
    Layout(folder).uncompacted.unlink(missing_ok=True)
    return pipeline_id


def test_a_question_leaves_the_rows_that_were_there_alone(
    store: WorkspaceStore, folder: Path, pipeline_id: str
) -> None:
    ask_after_each(store, pipeline_id, 4)
    assert groups(folder) == 4
    assert marks(folder) == 4
    assert store.query_predictions().height == 4


def test_many_small_groups_are_put_together(
    store: WorkspaceStore, folder: Path, pipeline_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "MOST", 3)
    ask_after_each(store, pipeline_id, 3)
    assert (groups(folder), marks(folder)) == (3, 3)
    ask_after_each(store, pipeline_id, 1)
    assert (groups(folder), marks(folder)) == (1, 0)
    ask_after_each(store, pipeline_id, 2)
    assert (groups(folder), marks(folder)) == (3, 2)
    assert store.query_predictions().height == 6


def test_they_are_counted_over_all_processes(
    store: WorkspaceStore, folder: Path, pipeline_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "MOST", 3)
    for _ in range(4):
        predict(store, pipeline_id)
        store.flush()
        with WorkspaceStore(folder) as other:
            other.query_predictions()
    assert (groups(folder), marks(folder)) == (1, 0)


def test_a_store_that_is_closed_leaves_them(folder: Path) -> None:
    for name in "ab":
        with WorkspaceStore(folder) as store:
            whole_pipeline(store, store.begin_run(name, {}, []))
    assert groups(folder) == 2


def test_a_deletion_puts_them_together(store: WorkspaceStore, folder: Path, pipeline_id: str) -> None:
    gone = store.begin_run("gone", {}, [])
    whole_pipeline(store, gone)
    ask_after_each(store, pipeline_id, 3)
    assert groups(folder) > 2
    store.delete_run(gone, now=True)
    let_go(store)
    assert (groups(folder), marks(folder)) == (1, 0)


def test_nobody_who_waits_waits_for_that(
    store: WorkspaceStore, folder: Path, pipeline_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = store.begin_run("gone", {}, [])
    whole_pipeline(store, gone)
    ask_after_each(store, pipeline_id, 3)
    monkeypatch.setattr(
        access_module.CatalogLock, "wanted", lambda catalog_lock: catalog_lock.mode == "exclusive"
    )
    store.delete_run(gone, now=True)
    let_go(store)
    assert groups(folder) > 1
    assert marks(folder) > 3


@pytest.mark.parametrize(("commits", "expected"), [(4, (1, 0)), (3, (4, 4))])
def test_much_that_is_applied_in_the_background_is_put_together(
    store: WorkspaceStore,
    folder: Path,
    pipeline_id: str,
    monkeypatch: pytest.MonkeyPatch,
    commits: int,
    expected: tuple[int, int],
) -> None:
    monkeypatch.setattr(checkpoint_module, "MANY", 4)
    ask_after_each(store, pipeline_id, 3)
    for _ in range(commits):
        predict(store, pipeline_id)
        store.flush()
    store._engine.access.try_apply()
    let_go(store)
    assert (groups(folder), marks(folder)) == expected


def test_a_vacuum_starts_counting_anew(store: WorkspaceStore, folder: Path, pipeline_id: str) -> None:
    ask_after_each(store, pipeline_id, 3)
    store.vacuum()
    let_go(store)
    assert (groups(folder), marks(folder)) == (1, 0)


def test_many_commits_count_for_more(store: WorkspaceStore, folder: Path, pipeline_id: str) -> None:
    for _ in range(32):
        predict(store, pipeline_id)
        store.flush()
    store.query_predictions()
    let_go(store)
    assert marks(folder) == 3


def test_the_next_checkpoint_of_the_instance_is_one_as_duckdb_makes_them(
    store: WorkspaceStore, folder: Path, pipeline_id: str
) -> None:
    ask_after_each(store, pipeline_id, 2)
    setting = "SELECT current_setting('max_vacuum_tasks')"
    assert store._engine.query(lambda con: con.execute(setting).fetchall()) == [(100,)]
    with duckdb.connect() as con:
        assert con.execute(setting).fetchall() == [(100,)]


def test_without_a_place_for_the_marks_everything_else_goes_on(
    store: WorkspaceStore, folder: Path, pipeline_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint_module.open_plain

    def refuse(path: Path, *rest: Any, **named: Any) -> Any:
        if path == Layout(folder).uncompacted:
            raise PermissionError(path)
        return real(path, *rest, **named)

    monkeypatch.setattr(checkpoint_module, "open_plain", refuse)
    ask_after_each(store, pipeline_id, 2)
    assert store.query_predictions().height == 2
    assert marks(folder) == 0
    assert groups(folder) == 2


def test_nothing_is_written_when_nothing_was_changed(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.journal.mkdir()
    with duckdb.connect() as con:
        # There is no catalog attached: a checkpoint would fail.
        Checkpoint(layout).write(con, hurried=False)
        changed = Checkpoint(layout)
        changed.need(tidying=False)
        with pytest.raises(duckdb.Error):
            changed.write(con, hurried=False)
        assert con.execute("SELECT current_setting('max_vacuum_tasks')").fetchall() == [(100,)]
    assert not layout.uncompacted.exists()
