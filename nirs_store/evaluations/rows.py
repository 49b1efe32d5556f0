"""Rows of evaluations and of the champions they made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nirs_store.db.changes import Delete
from nirs_store.db.database import Connection
from nirs_store.db.schema import column_names
from nirs_store.db.table import Table
from nirs_store.ids import new_id, now_naive
from nirs_store.lazy import polars as pl
from nirs_store.records.artifacts import hold
from nirs_store.records.queries import frame
from nirs_store.values import is_text, with_zone

__all__ = [
    "BETTER",
    "STATUSES",
    "champion_rows",
    "delete_evaluation",
    "evaluation_of",
    "evaluation_rows",
    "exists",
    "hold_blob",
    "link_files",
    "suite_metric",
    "suites",
    "value_of",
]

_FILTERS = ("model_id", "suite", "chain_id", "run_id", "status", "metric")


def exists(con: Connection, kind: str, identifier: str) -> bool:
    """Tell whether a run, chain or evaluation has that id."""
    return bool(Table(con, f"{kind}s").keys(**{f"{kind}_id": identifier}))


def hold_blob(con: Connection, evaluation_id: str, artifact_id: str, known: Mapping[str, Any]) -> None:
    """Let an evaluation hold a blob: its row, unless it is there, and a reference."""
    Table(con, "blobs").insert(
        [{**known, "artifact_id": artifact_id, "created_at": now_naive()}], "OR IGNORE"
    )
    held = [(evaluation_id, artifact_id, str(known["artifact_type"]))]
    hold(con, "evaluation", held, known["operator_class"])


def link_files(con: Connection, evaluation_id: str, version_ids: Sequence[str]) -> None:
    """Say in the lineage which files an evaluation was made from."""
    Table(con, "lineage_links").insert(
        [
            {
                "link_id": new_id(),
                "source_kind": "file",
                "source_id": version_id,
                "target_kind": "evaluation",
                "target_id": evaluation_id,
                "link_type": "derived_from",
                "created_at": now_naive(),
            }
            for version_id in version_ids
        ],
    )


def suite_metric(con: Connection, suite: str) -> tuple[str, str] | None:
    """Metric and direction that the first evaluation of a suite was recorded with."""
    rows = con.execute(
        "SELECT metric, better FROM evaluations WHERE suite = ? ORDER BY created_at, evaluation_id LIMIT 1",
        [suite],
    ).fetchall()
    return (str(rows[0][0]), str(rows[0][1])) if rows else None


def directions(con: Connection, suite: str, metric: str) -> str | None:
    """Return the direction in which a metric of a suite improves, if an evaluation states it."""
    rows = con.execute(
        "SELECT better FROM evaluations WHERE suite = ? AND metric = ? ORDER BY created_at LIMIT 1",
        [suite, metric],
    ).fetchall()
    return str(rows[0][0]) if rows else None


def suites(con: Connection) -> list[str]:
    """Names of all suites."""
    return [
        str(row[0]) for row in con.execute("SELECT DISTINCT suite FROM evaluations ORDER BY 1").fetchall()
    ]


def evaluation_of(con: Connection, evaluation_id: str) -> dict[str, Any] | None:
    """Return one evaluation."""
    found = Table(con, "evaluations").where(evaluation_id=evaluation_id) if is_text(evaluation_id) else []
    for row in found:
        row["created_at"] = with_zone(row["created_at"])
        row |= {"tags": row["tags"] or [], "files": row["files"] or []}
    return found[0] if found else None


def evaluation_rows(
    con: Connection, filters: Mapping[str, Any], *, tags: Sequence[str] = (), limit: int | None = None
) -> pl.DataFrame:
    """Return evaluations as a frame, oldest first; `limit` takes the newest. JSON columns are text."""
    wanted = {name: value for name, value in filters.items() if value is not None}
    unknown = wanted.keys() - set(_FILTERS)
    if unknown:
        raise KeyError(f"no filter {sorted(unknown)}")
    where = [f"{name} = ${name}" for name in wanted]
    params: dict[str, Any] = dict(wanted)
    for number, tag in enumerate(tags):
        where.append(f"list_contains(json_extract_string(tags, '$[*]'), $tag{number})")
        params[f"tag{number}"] = tag
    names = ", ".join(column_names("evaluations"))
    page = "" if limit is None else "LIMIT $limit"
    if limit is not None:
        params["limit"] = limit
    return frame(
        con,
        f"SELECT * FROM (SELECT {names} FROM evaluations WHERE {' AND '.join(where) or 'TRUE'} "
        f"ORDER BY created_at DESC, evaluation_id DESC {page}) ORDER BY created_at, evaluation_id",
        params,
    )


def delete_evaluation(con: Connection, evaluation_id: str, delete: Delete) -> None:
    """Delete an evaluation, what it made champion and what it holds, inside the caller's transaction."""
    delete(con, "artifact_refs", "owner_kind = 'evaluation' AND owner_id = ?", [evaluation_id])
    delete(con, "champions", "evaluation_id = ?", [evaluation_id])
    delete(con, "evaluations", "evaluation_id = ?", [evaluation_id])


def champion_rows(
    con: Connection,
    *,
    suite: str | None = None,
    metric: str | None = None,
    rank: int | None = None,
    current: bool = True,
    limit: int | None = None,
    without: str | None = None,
) -> pl.DataFrame:
    """Champions: those of now, or (with current=False) every change, oldest first.

    With `without` they are as if what that evaluation made champion were not there.

    The newest change of a rank says who holds it. A rank above one that was found again with fewer models is
    left empty by a row of its own, whose value of `chosen_by` is "vacant".
    """
    filters = {"suite": suite, "metric": metric, "rank": rank}
    params: dict[str, Any] = {name: value for name, value in filters.items() if value is not None}
    where = " AND ".join(f"c.{name} = ${name}" for name in params) or "TRUE"
    if without is not None:
        where += " AND c.evaluation_id <> $without"
        params["without"] = without
    newest = (
        "QUALIFY row_number() OVER (PARTITION BY c.suite, c.metric, c.rank "
        "ORDER BY c.made_at DESC, c.champion_id DESC) = 1"
        if current
        else ""
    )
    page = "" if limit is None else "LIMIT $limit"
    if limit is not None:
        params["limit"] = limit
    columns = ", ".join(f"c.{name}" for name in column_names("champions"))
    order = "suite, metric, rank" if current else "made_at, champion_id"
    return frame(
        con,
        f"SELECT * FROM (SELECT {columns}, p.model_id AS previous_model FROM champions c "
        f"LEFT JOIN champions p ON p.champion_id = c.previous_id WHERE {where} {newest} "
        f"ORDER BY c.made_at DESC, c.champion_id DESC {page}) WHERE chosen_by <> 'vacant' ORDER BY {order}",
        params,
    )


# -- Champions: who holds a rank of a suite, since when, whom they followed and by how much they are better.


def value_of(evaluation: Mapping[str, Any], metric: str) -> float | None:
    """Return the recorded value of a metric."""
    if metric == "success_rate" and metric not in evaluation["scores"]:
        rate: float | None = evaluation["success_rate"]
        return rate
    value = evaluation["scores"].get(metric)
    return None if value is None else float(value)


# -- Recording an evaluation: everything is checked, blobs are durable, then rows and champion in one transaction.


STATUSES = ("completed", "failed", "in_progress", "pending")
BETTER = ("higher", "lower", "zero")
