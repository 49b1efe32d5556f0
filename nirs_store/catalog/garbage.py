"""What a gc asks of the catalog: references that ended, artifacts that nothing holds."""

from __future__ import annotations

from typing import NamedTuple

from nirs_store.catalog.access import Connection
from nirs_store.catalog.arrays import ARRAY_BYTES
from nirs_store.catalog.buffer import now_naive
from nirs_store.ids import earlier

__all__ = [
    "Unreferenced",
    "all_paths",
    "delete_unreferenced",
    "end_dead_sessions",
    "expired_references",
    "unreferenced",
    "unused_arrays",
]


class Unreferenced(NamedTuple):
    """An artifact that nothing holds."""

    artifact_id: str
    artifact_path: str
    artifact_type: str
    size_bytes: int


def end_dead_sessions(con: Connection, alive: list[str]) -> None:
    """Give sessions that died an end: now, when it is first seen. The grace period runs from here."""
    # One whose own row was in a commit that had to be set aside would never end.
    con.execute(
        "INSERT INTO sessions (session_id, host, pid, started_at) SELECT DISTINCT owner_id, '', 0, ? "
        "FROM artifact_refs WHERE owner_kind = 'session' AND owner_id NOT IN (SELECT session_id FROM sessions)",
        [now_naive()],
    )
    con.execute(
        "UPDATE sessions SET ended_at = ? WHERE ended_at IS NULL AND NOT list_contains(?, session_id)",
        [now_naive(), alive],
    )


def expired_references(con: Connection, alive: list[str], grace_seconds: float) -> list[str]:
    """References of sessions that ended longer than the grace period ago."""
    now = now_naive()
    return [
        str(row[0])
        for row in con.execute(
            """
            SELECT r.ref_id FROM artifact_refs r LEFT JOIN sessions s ON r.owner_id = s.session_id
            WHERE r.owner_kind = 'session' AND NOT list_contains(?, r.owner_id)
              AND coalesce(s.ended_at, ?) <= ?
            ORDER BY r.ref_id
            """,
            [alive, now, earlier(now, seconds=grace_seconds)],
        ).fetchall()
    ]


def unreferenced(con: Connection, expired: list[str], only: list[str] | None) -> list[Unreferenced]:
    """Artifacts that only expired references, or none, hold."""
    rows = con.execute(
        """
        SELECT artifact_id, artifact_path, artifact_type, size_bytes FROM blobs
        WHERE artifact_id NOT IN (SELECT artifact_id FROM artifact_refs
                                  WHERE ref_id NOT IN (SELECT unnest($expired::VARCHAR[])))
          AND ($only IS NULL OR artifact_id IN (SELECT unnest($only::VARCHAR[])))
        ORDER BY artifact_id
        """,
        {"expired": expired, "only": only},
    ).fetchall()
    return [Unreferenced(str(r[0]), str(r[1]), str(r[2]), int(r[3])) for r in rows]


def delete_unreferenced(
    con: Connection, candidates: list[str], expired: list[str], claimed: list[str]
) -> list[str]:
    """Delete rows of candidates that still have no reference and no claim; returns their ids."""
    if expired:
        con.execute("DELETE FROM artifact_refs WHERE ref_id IN (SELECT unnest(?))", [expired])
    if not candidates:
        return []
    rows = con.execute(
        """
        DELETE FROM blobs WHERE artifact_id IN (SELECT unnest($candidates))
          AND artifact_id NOT IN (SELECT unnest($claimed))
          AND artifact_id NOT IN (SELECT artifact_id FROM artifact_refs)
        RETURNING artifact_id
        """,
        {"candidates": candidates, "claimed": claimed},
    ).fetchall()
    return [str(row[0]) for row in rows]


def all_paths(con: Connection) -> dict[str, list[str]]:
    """Artifact ids by the file they name."""
    paths: dict[str, list[str]] = {}
    for artifact_id, path in con.execute("SELECT artifact_id, artifact_path FROM blobs").fetchall():
        paths.setdefault(str(path), []).append(str(artifact_id))
    return paths


def unused_arrays(con: Connection) -> tuple[int, int]:
    """Count and bytes of arrays that nothing names."""
    row = con.execute(
        f"""
        SELECT count(*), coalesce(sum({ARRAY_BYTES}), 0) FROM arrays WHERE array_hash NOT IN (
            SELECT h FROM (
                SELECT unnest([y_true, y_pred, y_proba, sample_indices, weights]) AS h FROM prediction_arrays
                UNION SELECT wavelengths FROM chains) WHERE h IS NOT NULL)
        """
    ).fetchall()[0]
    return int(row[0]), int(row[1])
