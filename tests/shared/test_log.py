"""The log itself: one order, commits that cannot be applied, and statements that cannot travel."""

from __future__ import annotations

import threading
from datetime import datetime
from typing import Any

import psycopg
import pytest
from storekit import begin

from nirs_store.db.journal import encode, new_txid
from nirs_store.db.schema import column_names
from nirs_store.db.table import NotCaptured, digests
from nirs_store.errors import InvalidInput, SegmentRejected
from nirs_store.store import WorkspaceStore


def run_row(run_id: str, name: str) -> tuple[Any, ...]:
    filled = {"run_id": run_id, "name": name, "status": "running", "created_at": datetime(2026, 1, 1)}
    return tuple(filled.get(column) for column in column_names("runs"))


def commit(store: WorkspaceStore, rows: dict[str, Any]) -> None:
    """Commit rows past all checks."""
    txid = new_txid()
    body = encode(rows, txid=txid, claim="", session="", created="2026-01-01T00:00:00+00:00")
    store._engine.journal.append([b"".join(body)], txid)


def test_numbers_have_no_gaps_and_follow_the_order_of_the_commits(machine: Any, database: str) -> None:
    stores = [machine(f"m{number}") for number in range(3)]

    def record(store: WorkspaceStore) -> None:
        for number in range(8):
            store.begin_run(str(number), {}, [])

    threads = [threading.Thread(target=record, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with psycopg.connect(database) as con:
        numbers = [n for (n,) in con.execute("SELECT n FROM nirs_store.log ORDER BY n").fetchall()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert stores[0].list_runs().height == 24


def test_a_commit_that_cannot_be_applied_is_rejected_for_all_and_told_to_its_writer(machine: Any) -> None:
    one, other = machine("one"), machine("other")
    commit(one, {"runs": [run_row("r", "first")]})
    with one._engine.recording(commit=True) as buffer:
        buffer.add("runs", dict(zip(column_names("runs"), run_row("r", "again"), strict=True)))
    commit(one, {"runs": [run_row("s", "after")]})
    with pytest.warns(UserWarning, match="could not be applied"):
        assert other.list_runs()["name"].sort().to_list() == ["after", "first"]
    # The other computer has only to look.
    with pytest.warns(UserWarning, match="another computer rejected it"):
        assert one._engine.access.query(
            lambda con: con.execute("SELECT count(*) FROM runs").fetchall(), timeout=9
        ) == [(2,)]
    with pytest.raises(SegmentRejected, match="Duplicate key"):
        one.list_runs()
    rows = one._engine.query(digests)
    assert other._engine.query(digests) == rows
    with pytest.warns(UserWarning, match="could not be applied"):
        assert machine("new")._engine.query(digests) == rows


def test_replicas_that_stop_in_between_come_to_the_same_rows(machine: Any) -> None:
    one, slow = machine("one"), machine("slow")
    run_id, _ = begin(one)
    for number in range(7):
        pipeline_id = one.begin_pipeline(run_id, str(number), {}, [], "corn", "hash")
        one.save_artifact([number], "builtins.list", "model", "joblib", pipeline_id=pipeline_id)
        one.flush()
        if number % 3 == 1:
            one.fail_pipeline(pipeline_id, "no")
        if number == 4:
            one.retention.pin(run_id, "x")
        slow._engine.access.try_apply(at_most=1)
    rows = one._engine.query(digests)
    assert slow._engine.query(digests) == rows
    assert machine("new")._engine.query(digests) == rows


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE runs ADD COLUMN x INTEGER",
        "DROP TABLE logs",
        "CREATE TABLE mine (x INTEGER)",
        "COPY runs TO 'x.csv'",
        "DELETE FROM logs; DELETE FROM runs",
        "ATTACH ':memory:' AS other",
        "EXPLAIN ANALYZE DELETE FROM runs",
        "PREPARE gone AS DELETE FROM runs",
        "TRUNCATE runs",
        "INSERT INTO mine VALUES (1)",
        "MERGE INTO runs USING logs ON false WHEN NOT MATCHED THEN DO NOTHING",
    ],
)
def test_a_statement_that_cannot_travel_is_never_part_of_a_change(machine: Any, statement: str) -> None:
    one = machine("one")
    before = one._engine.query(digests)
    for way in (lambda con: con.execute(statement), lambda con: con.sql(statement), lambda con: con.cursor()):
        with pytest.raises(NotCaptured):
            one._engine.change(way)
    assert one._engine.query(digests) == before


@pytest.mark.parametrize(
    ("statement", "touched"),
    [
        ("INSERT INTO settings VALUES ('a', '1', now()::TIMESTAMP)", {"settings": {"a"}}),
        ("INSERT OR REPLACE INTO store.settings VALUES ('s', '2', now()::TIMESTAMP)", {"settings": {"s"}}),
        (
            "WITH x AS (SELECT 's' AS key) DELETE FROM settings USING x WHERE settings.key = x.key",
            {"settings": {"s"}},
        ),
        ("UPDATE settings SET value = '3' RETURNING value", {"settings": {"s"}}),
        ("DELETE FROM settings WHERE key = 'none'", {"settings": set()}),
        ("INSERT INTO dead SELECT 'd', 'deleted', now()::TIMESTAMP", {"dead": {"d"}}),
        ("SELECT 1", {}),
    ],
)
def test_what_a_statement_touches_is_noted(machine: Any, statement: str, touched: dict[str, Any]) -> None:
    one = machine("one")
    one._engine.change(lambda con: con.execute("INSERT INTO settings VALUES ('s', '1', now()::TIMESTAMP)"))
    seen: list[Any] = []

    def work(con: Any) -> None:
        con.execute(statement).fetchall()
        seen.append(dict(con._capture._touched))
        raise InvalidInput("rolled back")

    with pytest.raises(InvalidInput):
        one._engine.change(work)
    assert seen == [touched]
