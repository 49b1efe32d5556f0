"""Rows of evaluations and of the champions they made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nirs_store.db.database import Connection
from nirs_store.db.schema import column_names
from nirs_store.db.table import Row, Table, column, fetch
from nirs_store.lazy import polars as pl
from nirs_store.records.queries import frame
from nirs_store.scores import direction
from nirs_store.values import is_text, with_zone

STATUSES = ("completed", "failed", "in_progress", "pending")
BETTER = ("higher", "lower", "zero")


def suite_metric(con: Connection, suite: str) -> tuple[str, str] | None:
    """Return the metric and direction that the first evaluation of a suite was recorded with."""
    first = fetch(
        con,
        "SELECT metric, better FROM evaluations WHERE suite = ? ORDER BY created_at, evaluation_id LIMIT 1",
        [suite],
    )
    return (first[0]["metric"], first[0]["better"]) if first else None


def direction_of(con: Connection, suite: str, metric: str) -> str | None:
    """Return the direction in which a metric of a suite improves, if an evaluation states it."""
    sql = "SELECT better FROM evaluations WHERE suite = ? AND metric = ? ORDER BY created_at LIMIT 1"
    return next(iter(column(con, sql, [suite, metric])), None)


def suites(con: Connection) -> list[str]:
    """Return the names of all suites."""
    return column(con, "SELECT DISTINCT suite FROM evaluations ORDER BY 1")


def evaluation_of(con: Connection, evaluation_id: str) -> Row | None:
    """Return one evaluation."""
    for row in Table(con, "evaluations").where(evaluation_id=evaluation_id) if is_text(evaluation_id) else ():
        with_lists = {"tags": row["tags"] or [], "files": row["files"] or []}
        return {**row, **with_lists, "created_at": with_zone(row["created_at"])}
    return None


def evaluation_rows(
    con: Connection, *, tags: Sequence[str] = (), limit: int | None = None, **equal: str | None
) -> pl.DataFrame:
    """Return evaluations as a frame, oldest first; `limit` takes the newest. JSON columns are text."""
    params: dict[str, Any] = {name: value for name, value in equal.items() if value is not None}
    where = [f"{name} = ${name}" for name in params]
    for number, tag in enumerate(tags):
        where.append(f"list_contains(json_extract_string(tags, '$[*]'), $tag{number})")
        params[f"tag{number}"] = tag
    return frame(
        con,
        f"SELECT * FROM (SELECT {', '.join(column_names('evaluations'))} FROM evaluations "
        f"WHERE {' AND '.join(where) or 'TRUE'} ORDER BY created_at DESC, evaluation_id DESC LIMIT $limit) "
        "ORDER BY created_at, evaluation_id",
        {**params, "limit": limit},
    )


def champion_rows(
    con: Connection,
    *,
    current: bool = True,
    limit: int | None = None,
    without: str | None = None,
    **equal: Any,
) -> pl.DataFrame:
    """Return champions: those of now, or (with current=False) every change, oldest first."""
    # With `without` they are as if what that evaluation made champion were not there.
    # The newest change of a rank says who holds it. A rank above one that was found again with fewer models is left
    # empty by a row of its own, whose value of `chosen_by` is "vacant".
    params = {name: value for name, value in equal.items() if value is not None}
    where = " AND ".join(f"c.{name} = ${name}" for name in params) or "TRUE"
    newest = "PARTITION BY c.suite, c.metric, c.rank ORDER BY c.made_at DESC, c.champion_id DESC"
    return frame(
        con,
        f"SELECT * FROM (SELECT {', '.join(f'c.{name}' for name in column_names('champions'))}, "
        "p.model_id AS previous_model FROM champions c LEFT JOIN champions p ON p.champion_id = c.previous_id "
        f"WHERE {where} AND c.evaluation_id IS DISTINCT FROM $without "
        f"{f'QUALIFY row_number() OVER ({newest}) = 1' if current else ''} "
        "ORDER BY c.made_at DESC, c.champion_id DESC LIMIT $limit) WHERE chosen_by <> 'vacant' "
        f"ORDER BY {'suite, metric, rank' if current else 'made_at, champion_id'}",
        {**params, "without": without, "limit": limit},
    )


def value_of(evaluation: Mapping[str, Any], metric: str) -> float | None:
    """Return the recorded value of a metric."""
    if metric == "success_rate" and metric not in evaluation["scores"]:
        rate: float | None = evaluation["success_rate"]
        return rate
    value = evaluation["scores"].get(metric)
    return None if value is None else float(value)


def better_of(metric: str, stated: str | None = None) -> str:
    """Return in which direction a metric improves: "higher", "lower", or "zero" for a bias; by default "higher"."""
    return stated or direction(metric) or "higher"


def sort_value(value: float | None, better: str) -> float:
    """Return a number that is larger for a better value; what is missing or NaN comes last."""
    if value is None or math.isnan(value):
        return -math.inf
    return {"higher": value, "lower": -value, "zero": -abs(value)}[better]
