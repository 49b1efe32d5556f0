"""A store.duckdb that others have put things into: what would act is refused, what only lies there is named and kept."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from storekit import begin, predict

from nirs_store.db import schema as objects
from nirs_store.db.schema import TABLES, VIEWS, create_statement
from nirs_store.errors import ForeignCatalog, NirsStoreError, ReadOnlyStore
from nirs_store.maintenance.check import check_workspace
from nirs_store.store import WorkspaceStore


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "ws"
    with WorkspaceStore(folder) as store:
        _, pipeline_id = begin(store)
        predict(store, pipeline_id)
        store.list_runs()
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "ws"))


def execute(folder: Path, *statements: str) -> None:
    with duckdb.connect(str(folder / "store.duckdb")) as con:
        for statement in statements:
            con.execute(statement)


def anew(table: str, change: Callable[[str], str]) -> list[str]:
    """Statements that put a changed table in a table's place."""
    return [f"DROP TABLE {table} CASCADE", change(create_statement(TABLES[table])), *VIEWS_ANEW]


VIEWS_ANEW = [statement.replace("CREATE VIEW", "CREATE OR REPLACE VIEW") for statement in VIEWS.values()]

ACTING = {
    "trigger on update": [
        "CREATE TRIGGER t AFTER UPDATE ON pipelines FOR EACH STATEMENT DELETE FROM predictions"
    ],
    "trigger on a table of others": [
        "CREATE TABLE mine (a INTEGER)",
        "CREATE TRIGGER t AFTER INSERT ON mine FOR EACH STATEMENT DELETE FROM runs",
    ],
    "macro called as a function": ["CREATE MACRO count_star() AS 0"],
    "macro in other letters": ["CREATE MACRO LOWER(x) AS 'x'"],
    "table macro called as a function": ["CREATE MACRO duckdb_tables() AS TABLE SELECT 1 AS a"],
    "macro called as an operator": ['CREATE MACRO "+"(a, b) AS 0'],
    "type called as DuckDB's": ["CREATE TYPE json AS ENUM ('a')"],
    "view in place of a table": ["DROP TABLE logs CASCADE", "CREATE VIEW logs AS SELECT 1 AS log_id"],
    "endless view that says whose it is": [
        "DROP TABLE nirs_store_meta",
        "CREATE VIEW nirs_store_meta AS WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n FROM r) "
        "SELECT 'schema_version' AS key, n::VARCHAR AS value FROM r",
    ],
    "table in place of a view": ["DROP VIEW scores", "CREATE TABLE scores (a INTEGER)"],
    "default that is a call": ["ALTER TABLE runs ALTER note SET DEFAULT error('no')"],
    "default from a sequence": ["CREATE SEQUENCE s", "ALTER TABLE logs ALTER message SET DEFAULT nextval('s')"],
    "column that is worked out": anew("dead", lambda sql: sql.replace("id VARCHAR NOT NULL", "id VARCHAR AS ('x')")),
    "rule": anew("sessions", lambda sql: f"{sql[: sql.rindex(')')]}, CHECK (pid > 5))"),
    "key more": anew("runs", lambda sql: f"{sql[: sql.rindex(')')]}, UNIQUE (name))"),
    "enum in place of text": [
        "CREATE TYPE level AS ENUM ('info')",
        *anew("logs", lambda sql: sql.replace("level VARCHAR", "level level")),
    ],
    "other number": anew("applied", lambda sql: sql.replace("BIGINT", "TINYINT")),
    "index with a call": ["CREATE INDEX i ON runs ((lower(name)))"],
    "unique index": ["CREATE UNIQUE INDEX i ON predictions (dataset_name)"],
    "schema called as the catalog": ["CREATE SCHEMA store"],
}  # fmt: skip


@pytest.mark.parametrize("statements", ACTING.values(), ids=ACTING)
def test_what_would_act_is_refused_by_every_way_in_and_named_by_check(
    folder: Path, statements: list[str]
) -> None:
    execute(folder, *statements)
    before = (folder / "store.duckdb").read_bytes()
    for read_only in (False, True):
        with (
            pytest.raises(ForeignCatalog, match="has not put there"),
            WorkspaceStore(folder, read_only=read_only),
        ):
            pass
    assert [finding.severity for finding in check_workspace(folder).of_kind("catalog_damaged")] == ["error"]
    assert (folder / "store.duckdb").read_bytes() == before


def test_a_catalog_without_a_journal_beside_it_is_refused_before_anything_is_made(folder: Path) -> None:
    execute(folder, *ACTING["endless view that says whose it is"])
    shutil.rmtree(folder / "journal")
    with pytest.raises(ForeignCatalog, match="nirs_store_meta"), WorkspaceStore(folder):
        pass
    assert not (folder / "journal").exists()


LYING = {
    "table": ["CREATE TABLE lab AS SELECT range AS n FROM range(1000)"],
    "view over ours": ["CREATE VIEW mine AS SELECT name, count(*) AS n FROM runs GROUP BY name"],
    "schema with a table that has a key and an index": [
        "CREATE SCHEMA lab",
        "CREATE TABLE lab.runs (id INTEGER PRIMARY KEY, name VARCHAR DEFAULT 'x')",
        "INSERT INTO lab.runs (id) VALUES (1), (2)",
        "CREATE INDEX i ON lab.runs (name)",
    ],
    "names that need quotes": ['CREATE TABLE "a "" b; DROP" ("c d" INTEGER)', 'INSERT INTO "a "" b; DROP" VALUES (1)'],
    "macro, type and sequence": [
        "CREATE MACRO twice(x) AS 2 * x",
        "CREATE TYPE mood AS ENUM ('good', 'bad')",
        "CREATE SEQUENCE counter START 7",
        "CREATE TABLE moods (m mood, n INTEGER DEFAULT nextval('counter'))",
        "INSERT INTO moods (m) VALUES ('bad')",
    ],
    "column more": ["ALTER TABLE runs ADD COLUMN room VARCHAR", "UPDATE runs SET room = 'B12'"],
}  # fmt: skip


@pytest.mark.parametrize("statements", LYING.values(), ids=LYING)
def test_what_lies_there_is_let_be_named_by_check_and_kept_by_vacuum(
    folder: Path, statements: list[str]
) -> None:
    execute(folder, *statements)
    with duckdb.connect(str(folder / "store.duckdb")) as con:
        before, tables = set(objects.objects_of(con)), contents(con)
    with WorkspaceStore(folder) as store:
        named = [finding.where for finding in store.check().of_kind("foreign_object")]
        store.vacuum()
        assert store.check(read_data=True).ok
    with duckdb.connect(str(folder / "store.duckdb")) as con:
        after, kept = set(objects.objects_of(con)), contents(con)
    with WorkspaceStore(folder) as store:
        begin(store, "later")
        assert store.list_runs().height == 2
    assert after == before
    # A vacuum is written into the audit trail, and counts as a change.
    for name in ("main.audit_entries", "main.nirs_store_meta"):
        del tables[name], kept[name]
    assert kept == tables
    assert named == [f"store.duckdb/{each}" for each in objects.foreign_objects(sorted(before))]
    assert named


def contents(con: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[object, ...]]]:
    names = con.execute("SELECT schema_name, table_name FROM duckdb_tables() WHERE NOT internal").fetchall()
    return {
        f"{schema}.{name}": con.execute(
            f"FROM {objects.quoted(schema)}.{objects.quoted(name)} ORDER BY ALL"
        ).fetchall()
        for schema, name in names
    }


def test_a_view_of_ours_that_selects_something_else_is_named(folder: Path) -> None:
    execute(folder, "CREATE OR REPLACE VIEW models AS SELECT 0.01 AS best_val")
    with WorkspaceStore(folder) as store:
        (finding,) = store.check().of_kind("view_altered")
    assert "models" in finding.where
    assert finding.severity == "warning"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
@pytest.mark.parametrize("mode", [0o664, 0o640, 0o600, 0o666])
def test_a_vacuum_keeps_mode_and_group(folder: Path, mode: int) -> None:
    catalog = folder / "store.duckdb"
    catalog.chmod(mode)
    if os.getuid() == 0:
        os.chown(catalog, 1234, 4321)
    before = catalog.stat()
    with WorkspaceStore(folder) as store:
        store.vacuum()
    after = catalog.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino


@pytest.mark.parametrize("kind", ["link", "dangling log", "pipe"])
@pytest.mark.skipif(os.name == "nt", reason="links and pipes of Unix")
def test_a_catalog_that_is_no_file_of_the_workspace_is_not_opened(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    catalog, other = folder / "store.duckdb", tmp_path / "other.duckdb"
    if kind == "dangling log":
        (folder / "store.duckdb.wal").symlink_to(other)
    else:
        catalog.rename(other)
        if kind == "pipe":
            os.mkfifo(catalog)
        else:
            catalog.symlink_to(other)
    before = other.read_bytes() if other.exists() else None
    with pytest.raises(ForeignCatalog, match=r"link|pipe"):
        WorkspaceStore(folder).list_runs()
    assert (other.read_bytes() if other.exists() else None) == before


def test_what_the_user_may_not_read_is_not_called_damaged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nirs_store.db import connection

    denied = duckdb.IOException(f'IO Error: Cannot open file "{folder}/store.duckdb": Permission denied')
    monkeypatch.setattr(connection, "_attach", lambda *_: (_ for _ in ()).throw(denied))
    with pytest.raises(ReadOnlyStore, match="may not") as caught, WorkspaceStore(folder):
        pass
    assert isinstance(caught.value, NirsStoreError)
    assert "backup" not in str(caught.value)


def test_the_group_has_the_rights_that_the_folder_gives_it(tmp_path: Path) -> None:
    if os.name == "nt":
        pytest.skip("Windows has no modes")
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o2770)
    before = os.umask(0o077)
    try:
        with WorkspaceStore(folder) as store:
            _, pipeline_id = begin(store)
            store.save_artifact([pipeline_id], "builtins.list", "model", "joblib")
            store.list_runs()
            store.flush()
            files = {path: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    finally:
        os.umask(before)
    wrong = {
        str(path.relative_to(folder)): oct(mode)
        for path, mode in files.items()
        if mode & 0o070 != (0o070 if path.is_dir() else 0o040 if "artifacts" in path.parts else 0o060)
    }
    assert not wrong
    assert all(path.stat().st_mode & stat.S_ISGID for path in files if path.is_dir())
    assert not any(mode & 0o007 for mode in files.values())
