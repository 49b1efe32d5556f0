"""Counting: by type, status and run, by day and month, and what compression and deduplication saved."""

from __future__ import annotations

from typing import Any

from nirs_store.catalog.access import Connection
from nirs_store.catalog.queries import frame
from nirs_store.lazily import polars as pl

__all__ = ["STEPS", "by_run", "counts", "files", "growth", "statuses"]

_COUNTED = (
    "runs", "pipelines", "chains", "predictions", "blobs", "file_versions", "evaluations", "champions",
    "lineage_links", "audit_entries", "pins", "logs",
)  # fmt: skip
_GROWING = {
    "runs": ("runs", "created_at", "0"),
    "pipelines": ("pipelines", "created_at", "0"),
    "chains": ("chains", "created_at", "0"),
    "predictions": ("predictions", "created_at", "0"),
    "artifacts": ("blobs", "created_at", "size_bytes"),
    "files": ("file_versions", "created_at", "stored_bytes"),
    "evaluations": ("evaluations", "created_at", "0"),
}
STEPS = ("day", "week", "month", "year")


def counts(con: Connection) -> dict[str, int]:
    """Rows of each table that people know of."""
    each = ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in _COUNTED)
    row = frame(con, f"SELECT {each}").row(0, named=True)
    names = {"blobs": "artifacts", "file_versions": "files"}
    return {names.get(name, name): int(value) for name, value in row.items()}


def statuses(con: Connection, alive: list[str]) -> dict[str, dict[str, int]]:
    """Runs, pipelines and files by status; what a dead session left running shows as interrupted."""
    status = "CASE WHEN status = 'running' AND NOT list_contains($alive, session_id) THEN 'interrupted' ELSE status END"
    found: dict[str, dict[str, int]] = {}
    for name, column in (("runs", status), ("pipelines", status), ("file_versions", "status")):
        rows = con.execute(
            f"SELECT {column} AS s, count(*) FROM {name} GROUP BY s ORDER BY s",
            {"alive": alive} if "$alive" in column else None,
        ).fetchall()
        found["files" if name == "file_versions" else name] = {str(row[0]): int(row[1]) for row in rows}
    return found


def files(con: Connection) -> dict[str, Any]:
    """Files by type and compression: versions, bytes as given and as stored."""
    found: dict[str, Any] = {}
    for column in ("type", "compression"):
        rows = con.execute(
            f"SELECT {column}, count(*), coalesce(sum(size_bytes), 0)::BIGINT, "
            f"coalesce(sum(stored_bytes), 0)::BIGINT FROM file_versions GROUP BY {column} ORDER BY 4 DESC, 1"
        ).fetchall()
        found[column] = {
            str(row[0]): {"count": int(row[1]), "bytes": int(row[2]), "stored_bytes": int(row[3])}
            for row in rows
        }
    return found


def by_run(con: Connection, limit: int) -> pl.DataFrame:
    """The runs with most bytes: pipelines, chains, predictions, artifacts, files, bytes."""
    return frame(
        con,
        """
        WITH held AS (
            SELECT run_id, count(*) AS artifacts, sum(size_bytes) AS bytes FROM (
                SELECT DISTINCT l.run_id, b.artifact_id, b.size_bytes FROM artifact_refs r
                    JOIN pipelines l USING (pipeline_id) JOIN blobs b ON b.artifact_id = r.artifact_id)
            GROUP BY run_id
        ), put AS (
            SELECT run_id, count(*) AS files, sum(stored_bytes) AS bytes FROM file_versions
            WHERE run_id IS NOT NULL GROUP BY run_id
        ), lines AS (SELECT run_id, count(*) AS n FROM pipelines GROUP BY run_id),
        linked AS (SELECT run_id, count(*) AS n FROM chains JOIN pipelines USING (pipeline_id) GROUP BY run_id),
        said AS (SELECT run_id, count(*) AS n FROM predictions JOIN pipelines USING (pipeline_id) GROUP BY run_id)
        SELECT r.run_id, r.name, r.status, coalesce(lines.n, 0) AS pipelines, coalesce(linked.n, 0) AS chains,
            coalesce(said.n, 0) AS predictions, coalesce(held.artifacts, 0) AS artifacts,
            coalesce(put.files, 0) AS files,
            (coalesce(held.bytes, 0) + coalesce(put.bytes, 0))::BIGINT AS bytes
        FROM runs r LEFT JOIN held USING (run_id) LEFT JOIN put USING (run_id) LEFT JOIN lines USING (run_id)
            LEFT JOIN linked USING (run_id) LEFT JOIN said USING (run_id)
        ORDER BY bytes DESC, r.run_id LIMIT ?
        """,
        [limit],
    )


def growth(con: Connection, step: str) -> pl.DataFrame:
    """What came in each day, week, month or year: rows a kind and bytes, with running totals."""
    parts = " UNION ALL ".join(
        f"SELECT date_trunc('{step}', {moment})::DATE AS since, '{name}' AS kind, {size}::BIGINT AS bytes FROM {table}"
        for name, (table, moment, size) in _GROWING.items()
    )
    each = ", ".join(f"count(*) FILTER (kind = '{name}') AS {name}" for name in _GROWING)
    return frame(
        con,
        f"SELECT *, sum(bytes) OVER (ORDER BY since)::BIGINT AS total_bytes FROM (SELECT since, {each}, "
        f"sum(bytes)::BIGINT AS bytes FROM ({parts}) GROUP BY since) ORDER BY since",
    )
