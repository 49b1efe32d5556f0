"""Rows of processing runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nirs_store.catalog.access import Connection
from nirs_store.catalog.buffer import now_naive
from nirs_store.catalog.file_rows import insert_rows
from nirs_store.catalog.values import to_json

__all__ = ["begin_processing", "end_processing", "fail_versions"]


def begin_processing(con: Connection, values: dict[str, Any]) -> None:
    """Record the beginning of a processing run."""
    row = {
        **values,
        "status": "in_progress",
        "parameters": to_json(values.get("parameters"), "parameters"),
        "started_at": now_naive(),
    }
    insert_rows(con, "processing_runs", [row])


def end_processing(con: Connection, processing_id: str, status: str, message: str | None) -> None:
    """Record its end."""
    con.execute(
        "UPDATE processing_runs SET status = ?, message = ?, ended_at = ? WHERE processing_id = ?",
        [status, message, now_naive(), processing_id],
    )


def fail_versions(con: Connection, processing_id: str, touched: Iterable[str], message: str) -> list[str]:
    """Mark as failed what a run made or touched and that is not finished; gives the versions."""
    found = con.execute(
        "UPDATE file_versions SET status = 'failed', message = $message, updated_at = $now "
        "WHERE status IN ('pending', 'in_progress') AND (processing_id = $id OR list_contains($touched, version_id)) "
        "RETURNING version_id",
        {"message": message, "now": now_naive(), "id": processing_id, "touched": list(touched)},
    ).fetchall()
    return [str(row[0]) for row in found]
