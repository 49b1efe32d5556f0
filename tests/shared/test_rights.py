"""Roles with the least rights."""

from __future__ import annotations

import sys
import uuid
from typing import Any

import psycopg
import pytest
from storekit import begin, whole_pipeline

from nirs_store.errors import InvalidInput, NotAWorkspace, ReadOnlyStore
from nirs_store.shared import pgschema
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
    assert one.list_runs().height == 1
    for statement in (
        "DELETE FROM nirs_store.log",
        "UPDATE nirs_store.log SET body = NULL",
        "SELECT nirs_store.lock_claims()",
    ):
        with psycopg.connect(place) as con, pytest.raises(psycopg.errors.InsufficientPrivilege):
            con.execute(statement)


def test_an_unknown_workspace_is_named_with_those_that_are_there(machine: Any, database: str) -> None:
    machine("one")
    with pytest.raises(NotAWorkspace, match="There are: corn"):
        WorkspaceStore(f"{database}?workspace=wheat", create=False)
    with pytest.raises(InvalidInput, match="say where its blobs are to be"):
        WorkspaceStore(f"{database}?workspace=wheat")


def test_packages_that_are_missing_are_named_with_how_to_install_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InvalidInput, match=r"pip install .nirs-store\[shared\]"):
        WorkspaceStore("postgresql://h/d?workspace=corn")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(InvalidInput, match=r"pip install .nirs-store\[shared\]"):
        WorkspaceStore(tmp_path / "ws", blobs="s3://bucket/x")
    assert not (tmp_path / "ws").exists()
