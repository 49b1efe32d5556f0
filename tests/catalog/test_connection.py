"""Opening store.duckdb: whose it is, which version it has, and what a connection may not do."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from storekit import let_go, snapshot

from nirs_store.db.schema import BLOCK_SIZE, SCHEMA_VERSION
from nirs_store.errors import CatalogDamaged, ForeignCatalog, NirsStoreError, SchemaTooNew, StoreBusy
from nirs_store.store import WorkspaceStore

NIRS4ALL = """
CREATE TABLE runs (run_id VARCHAR PRIMARY KEY, name VARCHAR NOT NULL, config JSON, datasets JSON, status VARCHAR);
CREATE TABLE pipelines (pipeline_id VARCHAR PRIMARY KEY, run_id VARCHAR NOT NULL REFERENCES runs(run_id));
CREATE TABLE chains (chain_id VARCHAR PRIMARY KEY, pipeline_id VARCHAR NOT NULL);
CREATE TABLE predictions (prediction_id VARCHAR PRIMARY KEY, pipeline_id VARCHAR NOT NULL);
CREATE TABLE prediction_arrays (prediction_id VARCHAR PRIMARY KEY, y_true DOUBLE[]);
CREATE TABLE artifacts (artifact_id VARCHAR PRIMARY KEY, ref_count INTEGER);
CREATE TABLE logs (log_id VARCHAR PRIMARY KEY);
INSERT INTO runs VALUES ('r', 'wheat', '{}', '[]', 'completed');
"""


def foreign(folder: Path, statements: str) -> None:
    folder.mkdir()
    with duckdb.connect(str(folder / "store.duckdb")) as con:
        con.execute(statements)


@pytest.mark.parametrize(
    ("statements", "word"),
    [(NIRS4ALL, "nirs4all"), ("CREATE TABLE cats (name TEXT)", "cats"), ("SELECT 1", "unknown origin")],
)
@pytest.mark.parametrize("options", [{}, {"read_only": True}, {"create": False}])
def test_a_catalog_of_another_program_is_refused_and_the_folder_is_as_before(
    folder: Path, statements: str, word: str, options: dict[str, Any]
) -> None:
    foreign(folder, statements)
    before = snapshot(folder)
    with pytest.raises(ForeignCatalog, match=word) as caught:
        WorkspaceStore(folder, **options)
    assert "untouched" in str(caught.value)
    assert snapshot(folder) == before


@pytest.mark.parametrize("kind", ["text", "empty", "sqlite", "half"])
def test_a_file_that_is_no_duckdb_database_is_refused_and_the_folder_is_as_before(
    folder: Path, kind: str
) -> None:
    folder.mkdir()
    path = folder / "store.duckdb"
    if kind == "text":
        path.write_text("not a database, " * 500)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "sqlite":
        with sqlite3.connect(path) as con:
            con.execute("CREATE TABLE t (a)")
        con.close()
    else:
        with duckdb.connect(str(path)) as con:
            con.execute("CREATE TABLE t AS SELECT * FROM range(100000)")
        path.write_bytes(path.read_bytes()[: 12288 + 100])
    before = snapshot(folder)
    with pytest.raises(NirsStoreError):
        WorkspaceStore(folder)
    assert snapshot(folder) == before


def make_newer(folder: Path) -> None:
    WorkspaceStore(folder).close()
    with duckdb.connect(str(folder / "store.duckdb")) as con:
        con.execute(
            "UPDATE nirs_store_meta SET value = ? WHERE key = 'schema_version'", [str(SCHEMA_VERSION + 1)]
        )
        con.execute("ALTER TABLE runs ADD COLUMN mood VARCHAR")


@pytest.mark.parametrize("options", [{}, {"read_only": True}])
def test_a_newer_schema_is_refused_and_no_byte_changes(folder: Path, options: dict[str, Any]) -> None:
    make_newer(folder)
    before = snapshot(folder)
    with pytest.raises(SchemaTooNew, match=f"version {SCHEMA_VERSION + 1}"):
        WorkspaceStore(folder, **options)
    after = snapshot(folder)
    assert after["store.duckdb"] == before["store.duckdb"]
    assert set(after) - set(before) <= {"journal/lock", "journal/holder", "journal/wait"}
    if options:
        assert after == before


def test_a_schema_that_becomes_newer_while_a_store_is_open_stops_its_queries_and_keeps_its_commits(
    store: WorkspaceStore, folder: Path
) -> None:
    store.list_runs()
    let_go(store)
    with duckdb.connect(str(folder / "store.duckdb")) as con:
        con.execute("UPDATE nirs_store_meta SET value = '99' WHERE key = 'schema_version'")
    data = (folder / "store.duckdb").read_bytes()
    run_id = store.begin_run("kept for the newer library", {}, [])
    with pytest.raises(SchemaTooNew):
        store.list_runs()
    assert (folder / "store.duckdb").read_bytes() == data
    with duckdb.connect(str(folder / "store.duckdb")) as con:
        con.execute(
            "UPDATE nirs_store_meta SET value = ? WHERE key = 'schema_version'", [str(SCHEMA_VERSION)]
        )
    assert store.get_run(run_id) is not None


@pytest.mark.parametrize("value", ["two", ""])
def test_a_catalog_that_does_not_know_its_version_is_not_guessed_at(folder: Path, value: str) -> None:
    WorkspaceStore(folder).close()
    with duckdb.connect(str(folder / "store.duckdb")) as con:
        con.execute("UPDATE nirs_store_meta SET value = ? WHERE key = 'schema_version'", [value])
    with pytest.raises(CatalogDamaged, match="schema version"):
        WorkspaceStore(folder)


def test_a_first_session_that_is_killed_leaves_no_log_that_cannot_be_replayed(folder: Path) -> None:
    """The schema is made in a file of its own and renamed into place whole."""
    WorkspaceStore(folder).close()
    assert not (folder / "store.duckdb.wal").exists()
    assert list((folder / "journal" / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    "statement",
    [
        "COPY runs TO '/tmp/nirs_store_leak.csv'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "ATTACH '/tmp/nirs_store_other.duckdb' AS other",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
    ],
)
def test_a_connection_reaches_nothing_outside_its_file(store: WorkspaceStore, statement: str) -> None:
    def ask(con: Any) -> None:
        with pytest.raises(duckdb.Error):
            con.execute(statement).fetchall()

    store.begin_run("so that the catalog is open to be written", {}, [])
    store._engine.query(ask)


def test_a_folder_with_a_quote_in_its_name_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "it's; DROP TABLE runs; --"
    with WorkspaceStore(folder) as store:
        store.begin_run("r", {}, [])
        assert store.list_runs().height == 1
        store.vacuum()
    with WorkspaceStore(folder, read_only=True) as store:
        assert store.list_runs().height == 1


def test_a_foreign_catalog_that_is_open_elsewhere_is_busy_and_nothing_is_made(
    folder: Path, crew: Callable[..., Any]
) -> None:
    foreign(folder, NIRS4ALL)
    before = snapshot(folder)
    child = crew(_hold, folder)
    child.hear()
    with pytest.raises(StoreBusy, match="another program"):
        WorkspaceStore(folder)
    child.tell()
    child.hear()
    child.end()
    assert snapshot(folder) == before


def _hold(talk: Any, folder: Path) -> None:
    with duckdb.connect(str(folder / "store.duckdb")):
        talk.say("open")
        talk.wait()


def test_a_store_makes_one_instance_and_opens_its_file_in_it_again_and_again(
    store: WorkspaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    real = duckdb.connect
    monkeypatch.setattr(duckdb, "connect", lambda *a, **k: (made.append(a), real(*a, **k))[1])
    for number in range(4):
        store.begin_run(str(number), {}, [])
        assert store.list_runs().height == number + 1
        let_go(store)
    assert len(made) <= 1


def test_an_instance_opens_its_own_file_and_nothing_else(store: WorkspaceStore, tmp_path: Path) -> None:
    other, listed = tmp_path / "other.duckdb", tmp_path / "list.csv"
    listed.write_text("a\n1\n")
    duckdb.connect(str(other)).close()
    for _ in range(2):
        for statement in (
            f"ATTACH '{other}' AS other",
            f"SELECT * FROM read_csv('{listed}')",
            f"COPY (SELECT 1) TO '{tmp_path / 'out.csv'}'",
            "SET enable_external_access = true",
        ):
            with pytest.raises(duckdb.Error):
                store._engine.query(lambda con, s=statement: con.execute(s).fetchall())
        assert store.list_runs().is_empty()
        let_go(store)
    assert not (tmp_path / "out.csv").exists()


def test_a_statement_left_open_does_not_keep_the_file_open(store: WorkspaceStore, folder: Path) -> None:
    def begin(con: Any) -> None:
        con.execute("BEGIN")
        con.execute("SELECT * FROM range(10000000)")

    store._engine.query(begin)
    let_go(store)
    with duckdb.connect(str(folder / "store.duckdb")) as con:
        assert con.execute("SELECT count(*) FROM runs").fetchone() == (0,)
    assert store.list_runs().is_empty()


def block_size(store: WorkspaceStore) -> int:
    sql = "SELECT block_size FROM pragma_database_size() WHERE database_name = 'store'"
    return int(store._engine.query(lambda con: con.execute(sql).fetchall())[0][0])


def test_a_new_catalog_has_small_blocks_and_one_with_large_ones_gets_them_from_a_vacuum(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WorkspaceStore(folder) as store:
        assert block_size(store) == BLOCK_SIZE
    with monkeypatch.context() as patch:
        patch.setattr("nirs_store.db.connection.BLOCK_SIZE", 262_144)
        with WorkspaceStore(tmp_path / "old") as old:
            assert block_size(old) == 262_144
    with WorkspaceStore(tmp_path / "old") as old:
        run_id = old.begin_run("r", {}, [])
        old.vacuum()
        assert block_size(old) == BLOCK_SIZE
        assert old.get_run(run_id) is not None
