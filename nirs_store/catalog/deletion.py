"""Deleting rows: one transaction, tombstones for what other processes still have under way."""

from __future__ import annotations

from dataclasses import dataclass

from nirs_store.catalog.access import Connection
from nirs_store.catalog.artifact_records import dependents_outside
from nirs_store.catalog.buffer import now_naive
from nirs_store.catalog.scalars import number
from nirs_store.catalog.transitions import delete_pipelines
from nirs_store.catalog.values import askable

__all__ = [
    "RunDeletion",
    "delete_prediction",
    "delete_run",
    "needed_elsewhere",
    "plan_run_deletion",
    "prune_arrays",
]

_USED_ARRAYS = """
    SELECT unnest([y_true, y_pred, y_proba, sample_indices, weights]) AS array_hash FROM prediction_arrays
    UNION SELECT wavelengths FROM chains
"""


@dataclass(frozen=True)
class RunDeletion:
    """What deleting a run removes, or has removed: rows a table, and the artifacts that only it references.

    `needed_by` names meta-models of other runs with the source of theirs that would go.
    """

    run_id: str
    name: str | None
    rows: dict[str, int]
    artifacts: tuple[str, ...]
    artifact_bytes: int
    needed_by: tuple[tuple[str, str], ...] = ()

    @property
    def total_rows(self) -> int:
        """Rows of all tables."""
        return sum(self.rows.values())


def plan_run_deletion(con: Connection, run_id: str) -> RunDeletion:
    """Count what `delete_run` would remove; changes nothing."""
    run_id = askable(run_id)
    row = con.execute("SELECT name FROM runs WHERE run_id = ?", [run_id]).fetchall()
    rows = {"runs": len(row)}
    pipelines = "(SELECT pipeline_id FROM pipelines WHERE run_id = $id)"
    predictions = f"(SELECT prediction_id FROM predictions WHERE pipeline_id IN {pipelines})"
    for table, where in (
        ("pipelines", "run_id = $id"),
        ("chains", f"pipeline_id IN {pipelines}"),
        ("predictions", f"pipeline_id IN {pipelines}"),
        ("prediction_arrays", f"pipeline_id IN {pipelines} OR prediction_id IN {predictions}"),
        ("artifact_records", f"pipeline_id IN {pipelines}"),
        ("artifact_links", f"pipeline_id IN {pipelines}"),
        ("logs", f"pipeline_id IN {pipelines}"),
    ):
        rows[table] = number(con, f"SELECT count(*) FROM {table} WHERE {where}", {"id": run_id})
    own = f"(pipeline_id IN {pipelines})"
    only_here = con.execute(
        f"""
        SELECT b.artifact_id, b.size_bytes FROM blobs b
        WHERE EXISTS (SELECT 1 FROM artifact_refs r WHERE r.artifact_id = b.artifact_id AND {own})
          AND NOT EXISTS (SELECT 1 FROM artifact_refs r WHERE r.artifact_id = b.artifact_id
                          AND NOT coalesce({own}, FALSE))
        ORDER BY b.artifact_id
        """,
        {"id": run_id},
    ).fetchall()
    return RunDeletion(
        run_id,
        str(row[0][0]) if row else None,
        {table: count for table, count in rows.items() if count},
        tuple(str(r[0]) for r in only_here),
        sum(int(r[1]) for r in only_here),
        tuple(needed_elsewhere(con, run_id)),
    )


def needed_elsewhere(con: Connection, run_id: str) -> list[tuple[str, str]]:
    """Meta-models of other runs whose sources are in this one: (meta-model, source)."""
    return dependents_outside(con, _pipelines(con, askable(run_id)))


def delete_run(con: Connection, run_id: str) -> RunDeletion:
    """Delete a run and everything it owns inside the caller's transaction; gives what was deleted.

    Its artifacts are those that nothing references any more.
    """
    run_id = askable(run_id)
    named = con.execute("SELECT name FROM runs WHERE run_id = ?", [run_id]).fetchall()
    if not named:
        return RunDeletion(run_id, None, {}, (), 0)
    pipelines = _pipelines(con, run_id)
    con.execute("INSERT INTO dead VALUES (?, 'deleted', ?)", [run_id, now_naive()])
    deleted = delete_pipelines(con, pipelines)
    con.execute("DELETE FROM runs WHERE run_id = ?", [run_id])
    prune_arrays(con)
    orphans = con.execute(
        "SELECT artifact_id, size_bytes FROM blobs WHERE artifact_id IN (SELECT unnest(?::VARCHAR[])) "
        "AND artifact_id NOT IN (SELECT artifact_id FROM artifact_refs) ORDER BY artifact_id",
        [deleted.released],
    ).fetchall()
    return RunDeletion(
        run_id,
        str(named[0][0]),
        {"runs": 1} | {table: count for table, count in deleted.rows.items() if count},
        tuple(str(row[0]) for row in orphans),
        sum(int(row[1]) for row in orphans),
    )


def _pipelines(con: Connection, run_id: str) -> list[str]:
    found = con.execute("SELECT pipeline_id FROM pipelines WHERE run_id = ?", [run_id]).fetchall()
    return [str(row[0]) for row in found]


def delete_prediction(con: Connection, prediction_id: str) -> bool:
    """Delete one prediction with its arrays inside the caller's transaction."""
    prediction_id = askable(prediction_id)
    found = con.execute("SELECT 1 FROM predictions WHERE prediction_id = ?", [prediction_id]).fetchall()
    if not found:
        return False
    con.execute("INSERT INTO dead VALUES (?, 'deleted', ?)", [prediction_id, now_naive()])
    con.execute("DELETE FROM prediction_arrays WHERE prediction_id = ?", [prediction_id])
    con.execute("DELETE FROM predictions WHERE prediction_id = ?", [prediction_id])
    prune_arrays(con)
    return True


def prune_arrays(con: Connection) -> int:
    """Delete arrays that nothing names. Safe at any time: a commit carries every array it names."""
    return number(
        con,
        f"DELETE FROM arrays WHERE array_hash NOT IN (SELECT array_hash FROM ({_USED_ARRAYS}) "
        "WHERE array_hash IS NOT NULL)",
    )
