"""What a repair changes in the catalog; each statement looks again whether it is still due."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nirs_store.catalog.access import Connection
from nirs_store.catalog.buffer import now_naive
from nirs_store.catalog.scalars import number
from nirs_store.ids import new_id

__all__ = ["add_blob_row", "add_references", "remove_references"]


_OWNERS = (
    ("chain", "chains", "chain_id", "c.pipeline_id"),
    ("record", "artifact_records", "record_id", "c.pipeline_id"),
    ("file", "file_versions", "version_id", "NULL"),
    ("evaluation", "evaluations", "evaluation_id", "NULL"),
)


def remove_references(con: Connection, ref_ids: Sequence[str]) -> int:
    """Remove references of chains, records, files and evaluations that are gone; gives how many."""
    return number(
        con,
        "DELETE FROM artifact_refs WHERE ref_id IN (SELECT unnest(?)) AND ((owner_kind = 'chain' "
        "AND owner_id NOT IN (SELECT chain_id FROM chains)) OR (owner_kind = 'record' "
        "AND owner_id NOT IN (SELECT record_id FROM artifact_records)) OR (owner_kind = 'file' "
        "AND owner_id NOT IN (SELECT version_id FROM file_versions)) OR (owner_kind = 'evaluation' "
        "AND owner_id NOT IN (SELECT evaluation_id FROM evaluations)))",
        [list(ref_ids)],
    )


def add_references(con: Connection, pairs: Iterable[tuple[str, str]]) -> int:
    """Give owners the references that they lack to artifacts that they name; gives how many."""
    return sum(
        number(
            con,
            f"""
            INSERT INTO artifact_refs (ref_id, artifact_id, owner_kind, owner_id, pipeline_id, created_at)
            SELECT $ref, $artifact, '{kind}', c.{key}, {pipeline}, $now FROM {table} c
            WHERE c.{key} = $owner
              AND EXISTS (SELECT 1 FROM blobs b WHERE b.artifact_id = $artifact)
              AND NOT EXISTS (SELECT 1 FROM artifact_refs r WHERE r.owner_kind = '{kind}'
                              AND r.owner_id = $owner AND r.artifact_id = $artifact)
            """,
            {"ref": new_id(), "artifact": artifact_id, "owner": owner_id, "now": now_naive()},
        )
        for owner_id, artifact_id in pairs
        for kind, table, key, pipeline in _OWNERS
    )


def add_blob_row(con: Connection, artifact_id: str, row: dict[str, Any]) -> int:
    """Give a file whose row is gone a row again; gives how many."""
    values = {"artifact_id": artifact_id, **row, "created_at": now_naive()}
    columns = ", ".join(values)
    places = ", ".join("?" for _ in values)
    return number(
        con,
        f"INSERT INTO blobs ({columns}) VALUES ({places}) ON CONFLICT DO NOTHING",
        list(values.values()),
    )
