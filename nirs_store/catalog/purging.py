"""Letting go of all artifacts of some pipelines: their chains and records go, their scores and logs stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nirs_store.catalog.access import Connection
from nirs_store.catalog.artifact_records import dependents_outside
from nirs_store.catalog.buffer import now_naive
from nirs_store.catalog.scalars import number

__all__ = ["plan_purge", "purge", "running"]

# What a pipeline holds: by the column, and through its chains.
_OWN = (
    "(coalesce(list_contains($ids, r.pipeline_id), FALSE) OR (r.owner_kind = 'chain' AND r.owner_id IN "
    "(SELECT chain_id FROM chains WHERE list_contains($ids, pipeline_id))))"
)


def plan_purge(con: Connection, pipeline_ids: Sequence[str] | None, dataset: str | None) -> dict[str, Any]:
    """Count what `purge` would remove; changes nothing."""
    if pipeline_ids is None:
        rows = con.execute(
            "SELECT pipeline_id FROM pipelines WHERE dataset_name = ? ORDER BY pipeline_id", [dataset]
        ).fetchall()
        ids = [str(row[0]) for row in rows]
    else:
        ids = list(pipeline_ids)
    held = con.execute(
        f"""
        SELECT b.artifact_id, b.size_bytes,
            EXISTS (SELECT 1 FROM artifact_refs r WHERE r.artifact_id = b.artifact_id AND NOT {_OWN}) AS shared
        FROM blobs b WHERE EXISTS (SELECT 1 FROM artifact_refs r WHERE r.artifact_id = b.artifact_id AND {_OWN})
        ORDER BY b.artifact_id
        """,
        {"ids": ids},
    ).fetchall()
    return {
        "pipelines": tuple(ids),
        "chains": number(
            con, "SELECT count(*) FROM chains WHERE list_contains($ids, pipeline_id)", {"ids": ids}
        ),
        "records": number(
            con, "SELECT count(*) FROM artifact_records WHERE list_contains($ids, pipeline_id)", {"ids": ids}
        ),
        "artifacts": tuple(str(row[0]) for row in held if not row[2]),
        "bytes": sum(int(row[1]) for row in held if not row[2]),
        "shared": sum(bool(row[2]) for row in held),
        "needed_by": tuple(dependents_outside(con, ids)),
    }


def running(con: Connection, pipeline_ids: Sequence[str], alive: Sequence[str]) -> list[str]:
    """Pipelines among these that a living session is recording."""
    return [
        str(row[0])
        for row in con.execute(
            "SELECT pipeline_id FROM pipelines WHERE list_contains($ids, pipeline_id) AND status = 'running' "
            "AND list_contains($alive, session_id) ORDER BY pipeline_id",
            {"ids": list(pipeline_ids), "alive": list(alive)},
        ).fetchall()
    ]


def purge(con: Connection, pipeline_ids: Sequence[str]) -> None:
    """Remove chains, records and references of pipelines inside the caller's transaction."""
    ids = list(pipeline_ids)
    # A prediction that another process still has under way for one of these chains has nothing to belong to.
    con.execute(
        "INSERT INTO dead SELECT chain_id, 'deleted', ? FROM chains WHERE pipeline_id IN (SELECT unnest(?))",
        [now_naive(), ids],
    )
    for statement in (
        "DELETE FROM artifact_refs WHERE pipeline_id IN (SELECT unnest($ids)) OR (owner_kind = 'chain' AND "
        "owner_id IN (SELECT chain_id FROM chains WHERE pipeline_id IN (SELECT unnest($ids))))",
        "DELETE FROM artifact_links WHERE pipeline_id IN (SELECT unnest($ids))",
        "DELETE FROM artifact_records WHERE pipeline_id IN (SELECT unnest($ids))",
        "UPDATE predictions SET chain_id = NULL WHERE chain_id IN "
        "(SELECT chain_id FROM chains WHERE pipeline_id IN (SELECT unnest($ids)))",
        "DELETE FROM chains WHERE pipeline_id IN (SELECT unnest($ids))",
    ):
        con.execute(statement, {"ids": ids})
