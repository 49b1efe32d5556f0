"""Migration: named steps in order, each whole, after a copy; nothing is written before it is needed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest
from storekit import begin, let_go, snapshot, sql, whole_pipeline

from nirs_store.db import connection as connection_module
from nirs_store.db import database as opened_module
from nirs_store.db import migrations
from nirs_store.db.layout import Layout
from nirs_store.db.migrations import Migration, migration_copies, pending_migrations
from nirs_store.db.schema import SCHEMA_VERSION
from nirs_store.errors import WriteFailed
from nirs_store.store import WorkspaceStore

NEXT, AFTER = SCHEMA_VERSION + 1, SCHEMA_VERSION + 2


def add_moods(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("CREATE TABLE moods (run_id VARCHAR, mood VARCHAR)")
    con.execute("INSERT INTO moods SELECT run_id, 'good' FROM runs")


def rename_moods(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("ALTER TABLE moods RENAME COLUMN mood TO humour")


@pytest.fixture
def filled(folder: Path) -> Path:
    with WorkspaceStore(folder) as store:
        run_id, _ = begin(store)
        whole_pipeline(store, run_id)
        store.list_runs()
    return folder


@pytest.fixture
def library_of_tomorrow(monkeypatch: pytest.MonkeyPatch) -> list[Migration]:
    steps = [Migration(NEXT, "moods", add_moods), Migration(AFTER, "humours", rename_moods)]
    for module in (opened_module, connection_module):
        monkeypatch.setattr(module, "SCHEMA_VERSION", AFTER)
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    return steps


def version(folder: Path) -> int:
    return int(sql(folder, "SELECT value FROM nirs_store_meta WHERE key = 'schema_version'")[0][0])


def test_what_is_pending_is_told_without_doing_it() -> None:
    steps = [Migration(number, str(number), add_moods) for number in (2, 3, 4)]
    assert [step.to_version for step in pending_migrations(2, steps)] == [3, 4]
    assert pending_migrations(SCHEMA_VERSION) == []
    assert [step.to_version for step in migrations.MIGRATIONS] == list(range(2, SCHEMA_VERSION + 1))


def test_an_older_catalog_is_brought_up_to_date_step_by_step_after_a_copy(
    filled: Path, library_of_tomorrow: list[Migration]
) -> None:
    old = (filled / "store.duckdb").read_bytes()
    with WorkspaceStore(filled) as store:
        assert store.list_runs().height == 1
        let_go(store)
        assert sql(filled, "SELECT humour FROM moods") == [("good",)]
    assert version(filled) == AFTER
    (kept,) = migration_copies(Layout(filled))
    assert kept.name == f"before-migration-v{SCHEMA_VERSION}.duckdb"
    assert kept.read_bytes() == old


def test_opening_to_write_migrates_before_anything_is_recorded_and_opening_to_read_changes_nothing(
    filled: Path, library_of_tomorrow: list[Migration]
) -> None:
    old = (filled / "store.duckdb").read_bytes()
    WorkspaceStore(filled, read_only=True).close()
    assert (filled / "store.duckdb").read_bytes() == old
    WorkspaceStore(filled).close()
    assert version(filled) == AFTER


def test_commits_that_wait_are_applied_to_the_new_schema(
    filled: Path, library_of_tomorrow: list[Migration]
) -> None:
    with WorkspaceStore(filled) as store:
        run_id = store.begin_run("waits", {}, [])
        assert store.get_run(run_id) is not None


def test_a_step_that_fails_is_rolled_back_and_tried_again_at_the_next_opening(
    filled: Path, library_of_tomorrow: list[Migration]
) -> None:
    def broken(con: duckdb.DuckDBPyConnection) -> None:
        con.execute("DROP TABLE moods")
        con.execute("SELECT no_such_column FROM runs")

    library_of_tomorrow[1] = Migration(AFTER, "broken", broken)
    with pytest.raises(WriteFailed, match="'broken'"):
        WorkspaceStore(filled)
    assert version(filled) == NEXT
    assert sql(filled, "SELECT mood FROM moods") == [("good",)]
    library_of_tomorrow[1] = Migration(AFTER, "mended", rename_moods)
    WorkspaceStore(filled).close()
    assert version(filled) == AFTER


def test_a_copy_that_an_earlier_attempt_left_is_replaced_by_one_of_today(
    filled: Path, library_of_tomorrow: list[Migration]
) -> None:
    target = filled / "journal" / f"before-migration-v{SCHEMA_VERSION}.duckdb"
    target.write_bytes(b"stale")
    old = (filled / "store.duckdb").read_bytes()
    with WorkspaceStore(filled) as store:
        store.list_runs()
    assert target.read_bytes() == old


def test_no_room_for_the_copy_means_no_migration(
    filled: Path, library_of_tomorrow: list[Migration], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    old = (filled / "store.duckdb").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(WriteFailed, match="before its migration"):
            WorkspaceStore(filled)
    assert (filled / "store.duckdb").read_bytes() == old
    with WorkspaceStore(filled) as store:
        assert store.list_runs().height == 1


def test_who_may_only_read_is_answered_from_a_migrated_copy_and_changes_nothing(
    filled: Path, library_of_tomorrow: list[Migration]
) -> None:
    before = snapshot(filled)
    with WorkspaceStore(filled, read_only=True) as reader:
        assert reader.list_runs().height == 1
        assert reader._engine.query(lambda con: con.execute("SELECT humour FROM moods").fetchall()) == [
            ("good",)
        ]
    assert snapshot(filled) == before
