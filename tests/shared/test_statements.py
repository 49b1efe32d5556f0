"""A session that dies, or loses its connection, at each statement that it sends to the server."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import psycopg
import pytest
from faultkit import Session, at_statement, disturbed, look, play
from storekit import Child

from nirs_store.db.table import digests
from nirs_store.errors import NirsStoreError
from nirs_store.store import WorkspaceStore

Told = dict[int, dict[str, Any]]
Points = Iterable[tuple[int, str]]


class Killed:
    """Sessions of one computer that die, and what they were told."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.told: Told = {}

    def run(self, statement: int, when: str) -> int | None:
        """Have one die; gives the number of statements when it came to its end before."""
        number = len(self.told)
        told = self.told[number] = {}
        child = Child(play, self.place, number, statement, when)
        try:
            while True:
                step, what = child.hear()
                if step == "end":
                    return int(what)
                told[step] = what
        except (EOFError, ConnectionResetError):
            return None
        finally:
            child.kill()


# A session sends about seventy; the sweep ends with the first that comes to its end.
EVERY = pytest.mark.parametrize(
    "points",
    [
        pytest.param([(54, "after")], id="some"),
        pytest.param(list(product(range(1, 1000), ["before", "after"])), id="all", marks=pytest.mark.slow),
    ],
)


@EVERY
def test_a_process_that_dies_at_any_statement_leaves_everything_or_nothing(
    machine: Any, database: str, tmp_path: Any, points: Points
) -> None:
    other = machine("other")
    # The workspace and the replica are made by the first that dies, too.
    killed = Killed(f"{database}?workspace=corn&replica={tmp_path / 'killed'}&patience=20")
    ended = None
    for statement, when in points:
        ended = killed.run(statement, when)
        look(other, killed.told)
        if ended is not None:
            break
    print(f"{len(killed.told)} sessions, {ended} statements")
    # The next session records, deletes and collects; all computers hold the same rows.
    ended = killed.run(0, "never")
    assert ended is not None
    assert set(killed.told[len(killed.told) - 1]) == set(Session.STEPS)
    look(other, killed.told)
    rows = other._engine.query(digests)
    assert machine("new")._engine.query(digests) == rows
    with WorkspaceStore(killed.place) as again:
        assert again._engine.query(digests) == rows


@EVERY
def test_a_connection_that_the_server_ends_at_any_statement_costs_a_second_attempt_at_most(
    machine: Any, database: str, points: Points
) -> None:
    other, told = machine("other"), {}
    with psycopg.connect(database, autocommit=True) as admin:

        def end(con: Any) -> None:
            admin.cursor().execute("SELECT pg_terminate_backend(%s, 5000)", [con.info.backend_pid])

        for statement, when in points:
            number = len(told)
            with at_statement(statement, when, end) as count, machine("one", retention=False) as store:
                told[number] = disturbed(store, number)
            look(other, told)
            if count() < statement:
                break
    print(f"{len(told)} sessions, {count()} statements")
    rows = other._engine.query(digests)
    assert machine("new")._engine.query(digests) == rows


@pytest.mark.parametrize("call", ["lock_claims", "condemn", "append", "end_holder"])
def test_what_a_change_loses_in_the_middle_is_said_and_nothing_of_it_is_made(
    machine: Any, database: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machine("one"), machine("other")
    dead = machine("dead")
    dead.save_artifact(["dead"], "builtins.list", "model", "joblib")
    session = Session(one, 0)
    for step in Session.RECORDING:
        session.take(step)
    dead._engine._flusher.stop()  # it does not come back
    dead._engine.journal.server.drop()  # its lock is free, and the next gc ends it
    before = other._engine.query(digests)

    def clean(store: WorkspaceStore) -> None:
        store.delete_run(session.told["old"], now=True)
        store.gc_artifacts(grace_seconds=0)

    real, hit = psycopg.Connection.execute, []

    def execute(con: Any, sql: Any, *args: Any, **named: Any) -> Any:
        if f"nirs_store.{call}(" in str(sql) and con.info.transaction_status.name == "INTRANS" and not hit:
            hit.append(sql)
            with psycopg.connect(database, autocommit=True) as admin:
                real(admin, "SELECT pg_terminate_backend(%s, 5000)", [con.info.backend_pid])
        return real(con, sql, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Connection, "execute", execute)
        with pytest.raises(NirsStoreError, match=r"127\.0\.0\.1"):
            clean(one)
    assert hit
    if call == "append":
        assert other._engine.query(digests) == before
    session.take("delete")
    session.take("gc")
    look(other, {0: session.told})
