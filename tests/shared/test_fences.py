"""Calls that wait for another session to come to its end, and then see what it did."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from storekit import begin, until

from nirs_store.db.schema import SCHEMA_VERSION
from nirs_store.db.table import digests
from nirs_store.errors import NirsStoreError
from nirs_store.ids import new_id
from nirs_store.shared import pgschema, sessions
from nirs_store.shared.address import parse
from nirs_store.shared.pg import Server

TOKEN = "a" * 64


@pytest.fixture(params=["read committed", "repeatable read", "serializable"])
def isolation(request: Any, database: str) -> str:
    """Set what the server gives to those who ask for nothing."""
    name = database.rpartition("/")[2]
    with psycopg.connect(database, autocommit=True) as con:
        con.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{request.param}'")
    return str(request.param)


@pytest.fixture
def workspace(database: str) -> str:
    """Make a workspace in which the session `saver` records."""
    ws = new_id()
    with psycopg.connect(database, autocommit=True) as con:
        pgschema.ensure(con)
        con.execute(
            "INSERT INTO nirs_store.workspaces (ws, name, schema_version, blobs_url) VALUES (%s, 'corn', %s, '')",
            [ws, SCHEMA_VERSION],
        )
        con.execute("SELECT nirs_store.begin_holder(%s, 'saver', 1, 'host', 1)", [ws])
    return ws


@contextmanager
def connected(database: str) -> Iterator[psycopg.Connection[Any]]:
    """Give a connection as a store has it."""
    server = Server(parse(f"{database}?workspace=corn", blobs="file:///none"))
    try:
        yield server.run(lambda con: con)
    finally:
        server.close()


def while_it_waits(database: str, work: Callable[[], Any], then: Callable[[], Any]) -> Any:
    """Do something in a thread, and something else as soon as the server makes it wait for a lock."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except (psycopg.Error, NirsStoreError) as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(database, autocommit=True) as admin:
        thread.start()
        until(lambda: found or admin.execute(waiting).fetchone() == (1,), 20)
        assert not found, "it did not wait"
        then()
        thread.join(20)
    return found[0]


BODY = b"a commit of some bytes, and more"
CLAIM = "SELECT nirs_store.claim(%s, 'saver', %s)", [TOKEN]
APPEND = (
    "SELECT n FROM nirs_store.append(%s, %s, 'rows', '', 'saver', %s, '', %s, %s, NULL, %s, false)",
    [new_id(), SCHEMA_VERSION, len(BODY), BODY, hashlib.sha256(BODY).hexdigest()],
)
CHANGE = "SELECT head FROM nirs_store.lock_head(%s, '{saver}')", []


@pytest.mark.usefixtures("isolation")
@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize(
    ("call", "answer"), [(CLAIM, 1), (APPEND, 2), (CHANGE, 1)], ids=["claim", "commit", "change"]
)
def test_a_session_waits_for_a_gc_and_sees_what_it_decided(
    database: str, workspace: str, call: tuple[str, list[Any]], answer: int, ended: bool
) -> None:
    sql, params = call
    with connected(database) as gc, connected(database) as saver:
        gc.execute("BEGIN")
        gc.execute("SELECT nirs_store.lock_head(%s, '{}')", [workspace])
        gc.execute("SELECT nirs_store.lock_claims()")

        def decide() -> None:
            if ended:
                gc.execute("SELECT nirs_store.end_holder(%s, 'saver')", [workspace])
            gc.execute("SELECT nirs_store.condemn(%s, %s, 'artifacts/key')", [workspace, TOKEN])
            gc.execute(APPEND[0].replace("'saver'", "''"), [workspace, new_id(), *APPEND[1][1:]])
            gc.execute("COMMIT")

        found = while_it_waits(database, lambda: saver.execute(sql, [workspace, *params]).fetchone(), decide)
        claims = gc.execute("SELECT holder, token FROM nirs_store.claims").fetchall()
    if ended:
        assert found.sqlstate == pgschema.SESSION_ENDED
        # It would be held for ever: no session is ended twice.
        assert claims == []
    else:
        assert found == (answer,)
        assert claims == ([("saver", TOKEN)] if call is CLAIM else [])


@pytest.mark.parametrize(
    ("given", "used"), [("off", "on"), ("local", "on"), ("remote_apply", "remote_apply")]
)
def test_a_commit_waits_for_the_servers_disk_whatever_its_default(
    database: str, given: str, used: str
) -> None:
    name = database.rpartition("/")[2]
    with psycopg.connect(database, autocommit=True) as con:
        con.execute(f"ALTER DATABASE {name} SET synchronous_commit = '{given}'")
    with connected(database) as session:
        assert session.execute("SHOW synchronous_commit").fetchone() == (used,)


def test_a_workspace_is_migrated_only_from_the_version_that_it_has(database: str, workspace: str) -> None:
    sql = "SELECT n FROM nirs_store.migrate(%s, %s, %s, %s, '', 'body')"
    with psycopg.connect(database, autocommit=True) as con:
        assert con.execute(sql, [workspace, SCHEMA_VERSION, SCHEMA_VERSION + 1, new_id()]).fetchone() == (1,)
        # A second one, which looked before the first one was made.
        with pytest.raises(psycopg.Error) as caught:
            con.execute(sql, [workspace, SCHEMA_VERSION, SCHEMA_VERSION + 1, new_id()])
        assert caught.value.sqlstate == pgschema.SCHEMA_DIFFERS
        assert con.execute("SELECT count(*) FROM nirs_store.log").fetchone() == (1,)


def test_a_session_that_can_be_seen_has_its_lock(
    machine: Any, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, dead = psycopg.Connection.execute, []

    def execute(con: Any, sql: Any, params: Any = None, **named: Any) -> Any:
        done = real(con, sql, params, **named)
        if str(sql).startswith("SELECT nirs_store.begin_holder("):
            with psycopg.connect(database, autocommit=True) as gc:
                dead.append(real(gc, sessions._DEAD, params[:1]).fetchall())
        return done

    monkeypatch.setattr(psycopg.Connection, "execute", execute)
    machine("one").begin_run("run", {}, [])
    assert dead == [[]]


def test_the_look_for_a_change_whose_answer_was_lost_waits_for_its_end(
    machine: Any, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machine("one"), machine("other")
    run_id, _ = begin(one)
    one.flush()
    changer = one._engine.journal.changer
    real, lost = psycopg.Connection.execute, []

    def execute(con: Any, sql: Any, *args: Any, **named: Any) -> Any:
        if sql == "COMMIT" and not lost:
            # On its way: the server has not begun it, and the client has lost the connection.
            lost.append(con)
            raise psycopg.OperationalError("the answer was lost")
        return real(con, sql, *args, **named)

    monkeypatch.setattr(psycopg.Connection, "execute", execute)
    monkeypatch.setattr(changer, "drop", lambda: setattr(changer, "_con", None))
    found = while_it_waits(
        database, lambda: one.retention.pin(run_id, "the paper"), lambda: real(lost[0], "COMMIT")
    )
    lost[0].close()
    monkeypatch.undo()
    assert not isinstance(found, Exception)
    assert other.retention.pins()["reason"].to_list() == ["the paper"]
    assert one._engine.query(digests) == other._engine.query(digests)
