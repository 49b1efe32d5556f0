"""Where the bytes are: what the catalog knows of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from nirs_store.catalog.access import Connection
from nirs_store.catalog.arrays import ARRAY_BYTES

__all__ = ["RunBytes", "Shared", "array_bytes", "artifact_bytes", "largest_runs"]


@dataclass(frozen=True)
class Shared:
    """Things that are stored once however often they are named."""

    kind: str
    stored: int
    bytes: int
    saved_bytes: int


class RunBytes(NamedTuple):
    """What one run names: all of it, and the part that no other run names."""

    run_id: str
    name: str
    bytes: int
    own_bytes: int


def artifact_bytes(con: Connection) -> list[Shared]:
    """Artifacts by type. Saved is what a file for each further reference would take."""
    rows = con.execute(
        """
        SELECT artifact_type, count(*), sum(size_bytes)::BIGINT,
            sum(size_bytes * greatest(ref_count - 1, 0))::BIGINT
        FROM artifacts GROUP BY artifact_type ORDER BY 3 DESC, 1
        """
    ).fetchall()
    return [Shared(str(row[0]), int(row[1]), int(row[2]), int(row[3])) for row in rows]


def array_bytes(con: Connection) -> Shared:
    """Arrays of predictions and wavelengths; saved is what a copy for each further use would take."""
    rows = con.execute(
        f"""
        WITH uses AS (
            SELECT h, count(*) AS n FROM (
                SELECT unnest([y_true, y_pred, y_proba, sample_indices, weights]) AS h FROM prediction_arrays
                UNION ALL SELECT wavelengths FROM chains)
            WHERE h IS NOT NULL GROUP BY h
        )
        SELECT count(*), coalesce(sum({ARRAY_BYTES}), 0)::BIGINT,
            coalesce(sum({ARRAY_BYTES} * greatest(coalesce(u.n, 0) - 1, 0)), 0)::BIGINT
        FROM arrays a LEFT JOIN uses u ON u.h = a.array_hash
        """
    ).fetchall()
    return Shared("arrays", *(int(value) for value in rows[0]))


def largest_runs(con: Connection, limit: int) -> list[RunBytes]:
    """The runs that name most bytes of artifacts and arrays, largest first."""
    rows = con.execute(
        f"""
        WITH named AS (
            SELECT DISTINCT l.run_id, r.artifact_id AS thing FROM artifact_refs r
                JOIN chains c ON r.owner_kind = 'chain' AND r.owner_id = c.chain_id
                JOIN pipelines l ON l.pipeline_id = c.pipeline_id
            UNION
            SELECT l.run_id, unnest([y_true, y_pred, y_proba, sample_indices, weights]) AS thing
                FROM prediction_arrays a JOIN predictions p USING (prediction_id)
                JOIN pipelines l ON l.pipeline_id = p.pipeline_id
        ), sizes AS (
            SELECT artifact_id AS thing, size_bytes AS bytes FROM blobs
            UNION ALL SELECT array_hash, {ARRAY_BYTES} FROM arrays
        ), shared AS (
            SELECT thing, count(*) AS runs FROM named GROUP BY thing
        )
        SELECT n.run_id, any_value(r.name), sum(s.bytes)::BIGINT AS bytes,
            coalesce(sum(s.bytes) FILTER (h.runs = 1), 0)::BIGINT
        FROM named n JOIN sizes s USING (thing) JOIN shared h USING (thing) JOIN runs r USING (run_id)
        GROUP BY n.run_id ORDER BY bytes DESC, n.run_id LIMIT ?
        """,
        [limit],
    ).fetchall()
    return [RunBytes(str(row[0]), str(row[1]), int(row[2]), int(row[3])) for row in rows]
