"""Pipelines that come in one chunk with the change that completes them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa

from nirs_store.db.changes import complete_arrivals
from nirs_store.db.schema import arrow_schema

AT = datetime(2026, 1, 2, 3, 4, 5, 6)
LATER = datetime(2026, 1, 2, 3, 4, 6)


def rows(**statuses: str) -> pa.Table:
    found = [{"pipeline_id": key, "run_id": "r", "status": status} for key, status in statuses.items()]
    return pa.Table.from_pylist(found, schema=arrow_schema("pipelines"))


def change(kind: str, identifier: str, at: datetime = AT, **payload: Any) -> tuple[int, int, dict[str, Any]]:
    return 1, 0, {"change_id": "c", "kind": kind, "id": identifier, "made_at": at, "payload": payload}


def test_they_are_written_in_their_final_state_and_the_change_is_spent() -> None:
    ending = {"best_val": 0.5, "best_test": None, "metric": "rmse", "duration_ms": 7}
    found, left = complete_arrivals(
        rows(a="running", b="running"), [change("complete_pipeline", "a", **ending)]
    )
    first, second = found.to_pylist()
    assert {name: first[name] for name in (*ending, "status", "completed_at", "error")} == {
        **ending, "status": "completed", "completed_at": AT, "error": None,
    }  # fmt: skip
    assert second["status"] == "running"
    assert second["completed_at"] is None
    assert left == []
    assert found.schema == arrow_schema("pipelines")


def test_the_first_final_state_wins() -> None:
    twice = [change("complete_pipeline", "a", best_val=0.5), change("complete_pipeline", "a", LATER)]
    found, left = complete_arrivals(rows(a="running"), twice)
    assert found.column("best_val").to_pylist() == [0.5]
    assert found.column("completed_at").to_pylist() == [AT]
    assert left == []


def test_what_does_not_come_with_it_is_left_to_be_looked_up() -> None:
    elsewhere = [change("complete_pipeline", "x"), change("complete_run", "r"), change("end_session", "s")]
    table = rows(a="running")
    found, left = complete_arrivals(table, elsewhere)
    assert found is table
    assert left == elsewhere


def test_one_that_came_finished_is_not_finished_again() -> None:
    late = [change("complete_pipeline", "a", best_val=0.5)]
    found, left = complete_arrivals(rows(a="failed"), late)
    assert found.column("best_val").to_pylist() == [None]
    assert left == late


def test_where_anything_fails_the_order_is_left_to_the_catalog() -> None:
    for kind, identifier in (("fail_run", "r"), ("fail_pipeline", "b")):
        changes = [change("complete_pipeline", "a"), change(kind, identifier)]
        table = rows(a="running", b="running")
        found, left = complete_arrivals(table, changes)
        assert found is table
        assert left == changes
