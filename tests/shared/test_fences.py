"""What a session may still do while a gc decides: each call waits for the gc, and then sees what it decided."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from storekit import until

from nirs_store.db.schema import SCHEMA_VERSION
from nirs_store.ids import new_id
from nirs_store.shared import pgschema
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
        except psycopg.Error as error:
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


@pytest.mark.usefixtures("isolation")
@pytest.mark.parametrize("ended", [False, True])
def test_a_claim_waits_for_a_gc_and_sees_what_it_gave_up(database: str, workspace: str, ended: bool) -> None:
    with connected(database) as gc, connected(database) as saver:
        gc.execute("BEGIN; SELECT nirs_store.lock_claims()")

        def decide() -> None:
            if ended:
                gc.execute("SELECT nirs_store.end_holder(%s, 'saver')", [workspace])
            gc.execute("SELECT nirs_store.condemn(%s, %s, 'artifacts/key')", [workspace, TOKEN])
            gc.execute("COMMIT")

        def claim() -> Any:
            return saver.execute("SELECT nirs_store.claim(%s, 'saver', %s)", [workspace, TOKEN]).fetchone()

        found = while_it_waits(database, claim, decide)
        claims = gc.execute("SELECT holder, token FROM nirs_store.claims").fetchall()
    if ended:
        assert found.sqlstate == pgschema.SESSION_ENDED
        # It would be held for ever: no session is ended twice.
        assert claims == []
    else:
        assert (found, claims) == ((1,), [("saver", TOKEN)])
