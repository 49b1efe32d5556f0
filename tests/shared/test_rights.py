"""Roles with the least rights."""

from __future__ import annotations

import sys
import uuid
from typing import Any

import psycopg
import pytest
from storekit import begin, whole_pipeline

from nirs_store.errors import InvalidInput, NotAWorkspace, ReadOnlyStore
from nirs_store.shared import moving, pgschema
from nirs_store.shared.address import parse
from nirs_store.store import WorkspaceStore


@pytest.fixture
def role(database: str) -> str:
    name = f"lab_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(database, autocommit=True) as con:
        con.execute(f"CREATE ROLE {name} LOGIN")
    return name


def grant(database: str, role: str, right: str) -> str:
    with psycopg.connect(database, autocommit=True) as con:
        pgschema.grant(con, role, right)
    return database.replace("lab@", f"{role}@")


def test_a_reader_asks_and_changes_nothing(machine: Any, database: str, role: str, tmp_path: Any) -> None:
    one = machine("one")
    run_id, _ = begin(one)
    whole_pipeline(one, run_id)
    one.flush()
    place = grant(database, role, "reader")
    address = f"{place}?workspace=corn&replica={tmp_path / 'reader'}"
    with WorkspaceStore(address, read_only=True, create=False) as reader:
        assert reader.list_runs()["run_id"].to_list() == [run_id]
        one.begin_run("later", {}, [])
        assert reader.list_runs().height == 2
        with pytest.raises(ReadOnlyStore):
            reader.begin_run("no", {}, [])
    reader = WorkspaceStore(address, create=False, retention=False)
    with pytest.raises(ReadOnlyStore, match="role may not"):
        reader.begin_run("no", {}, [])
    reader._engine.abort()
    with psycopg.connect(place) as con, pytest.raises(psycopg.errors.InsufficientPrivilege):
        con.execute("UPDATE nirs_store.workspaces SET head = 0")


def test_a_writer_records_and_touches_no_row_by_itself(
    machine: Any, database: str, role: str, tmp_path: Any
) -> None:
    one = machine("one")
    begin(one)
    one.flush()
    place = grant(database, role, "writer")
    with WorkspaceStore(f"{place}?workspace=corn&replica={tmp_path / 'writer'}") as writer:
        run_id, _ = begin(writer, "mine")
        writer.retention.pin(run_id, "the paper")
        writer.delete_run(run_id)
        # Nothing goes for good, rows before their objects neither.
        with pytest.raises(ReadOnlyStore, match="shared grant"):
            writer.trash.empty()
        assert writer.trash.list().height == 1
    assert one.list_runs().height == 1
    for statement in (
        "DELETE FROM nirs_store.log",
        "UPDATE nirs_store.log SET body = NULL",
        "SELECT nirs_store.lock_claims()",
    ):
        with psycopg.connect(place) as con, pytest.raises(psycopg.errors.InsufficientPrivilege):
            con.execute(statement)


def test_a_writer_ends_no_other_session_and_publishes_no_snapshot(
    machine: Any, database: str, role: str, tmp_path: Any
) -> None:
    one = machine("one")
    begin(one)
    one.flush()
    place = grant(database, role, "writer")
    with psycopg.connect(database, autocommit=True) as con:
        con.execute("INSERT INTO nirs_store.claims SELECT ws, holder, 'blob' FROM nirs_store.holders")
    with psycopg.connect(place, autocommit=True) as con:
        con.execute("SELECT nirs_store.end_holder(ws, holder) FROM nirs_store.holders")
        con.execute("SELECT nirs_store.unclaim(ws, holder, '{}') FROM nirs_store.holders")
        assert con.execute("SELECT count(*) FROM nirs_store.claims").fetchone() == (1,)
        ended = con.execute("SELECT count(*) FROM nirs_store.holders WHERE ended IS NOT NULL").fetchone()
        assert ended == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            con.execute("SELECT nirs_store.publish(ws, 0, '', 'x', 'x') FROM nirs_store.workspaces")
        with pytest.raises(psycopg.Error, match="not a commit"):
            con.execute(
                "SELECT nirs_store.append(ws, gen_random_uuid()::text, 'migrate', '', '', schema_version, '', 28, "
                "repeat('x', 28)::bytea, NULL, encode(sha256(repeat('x', 28)::bytea), 'hex'), false) "
                "FROM nirs_store.workspaces"
            )
        with WorkspaceStore(f"{place}?workspace=corn&replica={tmp_path / 'w'}") as writer:
            begin(writer, "mine")
        # Who made a commit is not what its writer says.
        users = con.execute("SELECT DISTINCT db_user FROM nirs_store.log ORDER BY 1").fetchall()
    assert sorted(users) == sorted([("lab",), (role,)])


def test_a_snapshot_that_is_due_keeps_no_writer_out(
    machine: Any, database: str, role: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = machine("one")
    begin(one)
    one.flush()
    monkeypatch.setattr("nirs_store.shared.snapshots.EVERY_COMMITS", 1)
    for right, published in (("writer", False), ("admin", True)):
        place = grant(database, role, right)
        WorkspaceStore(f"{place}?workspace=corn&replica={tmp_path / right}", retention=False).close()
        with psycopg.connect(database) as con:
            row = con.execute("SELECT snapshot_n FROM nirs_store.workspaces").fetchone()
        assert (row != (None,)) is published


def test_an_administrator_shares_a_folder(machine: Any, database: str, role: str, tmp_path: Any) -> None:
    machine("one")
    with WorkspaceStore(tmp_path / "folder") as store:
        begin(store)
    place = grant(database, role, "admin")
    address = parse(f"{place}?workspace=wheat&replica={tmp_path / 'replica'}", blobs=tmp_path / "blobs")
    assert moving.share(tmp_path / "folder", address).rows
    with pytest.raises(InvalidInput, match="has no role 'nobody_here'"):
        grant(database, "nobody_here", "reader")


def test_a_schema_that_another_role_owns_is_not_used(database: str, role: str) -> None:
    with psycopg.connect(database, autocommit=True) as con:
        con.execute(f"CREATE SCHEMA nirs_store AUTHORIZATION {role}")
    with pytest.raises(InvalidInput, match="belongs to"):
        WorkspaceStore(f"{database}?workspace=corn", blobs="/nowhere/blobs")


def test_an_unknown_workspace_is_named_with_those_that_are_there(machine: Any, database: str) -> None:
    machine("one")
    with pytest.raises(NotAWorkspace, match="There are: corn"):
        WorkspaceStore(f"{database}?workspace=wheat", create=False)
    with pytest.raises(InvalidInput, match="name a place for its blobs"):
        WorkspaceStore(f"{database}?workspace=wheat")


def test_a_missing_package_for_object_stores_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(InvalidInput, match=r"pip install .nirs-store\[shared\]"):
        WorkspaceStore(tmp_path / "ws", blobs="s3://bucket/x")
    assert not (tmp_path / "ws").exists()
