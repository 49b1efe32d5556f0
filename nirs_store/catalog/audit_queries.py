"""Asking the audit trail."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any

from nirs_store.catalog.access import Connection
from nirs_store.catalog.buffer import naive
from nirs_store.catalog.queries import frame, page_of
from nirs_store.errors import InvalidInput
from nirs_store.lazily import polars as pl

__all__ = [
    "EXPORTED",
    "OBJECT_KINDS",
    "audit_frame",
    "audit_rows",
    "check_kind",
    "errors_by_operation",
    "history",
    "moment",
]

OBJECT_KINDS = (
    "run", "pipeline", "chain", "prediction", "artifact", "file", "bundle", "evaluation", "processing",
    "backup", "archive", "file_type", "workspace",
)  # fmt: skip
"""What entries, links and pins can be about."""

_COLUMNS = (
    "number, made_at, user_name AS user, host, pid, operation, object_kind, object_id, success, message, "
    "details, previous_hash, entry_hash"
)
EXPORTED = (
    "number", "made_at", "user", "host", "pid", "operation", "object_kind", "object_id", "success", "message",
    "details", "previous_hash", "entry_hash",
)  # fmt: skip
_BATCH = 4096


def check_kind(kind: Any) -> str:
    """A kind of object, or an error that names the nearest.

    Raises
    ------
    InvalidInput
    """
    if kind not in OBJECT_KINDS:
        near = difflib.get_close_matches(str(kind), OBJECT_KINDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InvalidInput(f"Unknown kind {kind!r}: expected one of {', '.join(OBJECT_KINDS)}.{hint}")
    return str(kind)


def moment(value: Any, name: str) -> datetime | None:
    """A moment (datetime, date, or ISO 8601 text; without a zone it is UTC) for comparison.

    Raises
    ------
    InvalidInput
    """
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise InvalidInput(
                f"{name}: expected a moment such as 2026-03-01T12:00, found {value!r}."
            ) from error
    if isinstance(value, datetime):
        return naive(value)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    raise InvalidInput(f"{name}: expected a datetime, date or ISO 8601 text, found {type(value).__name__}.")


def _where(
    operation: str | Sequence[str] | None,
    success: bool | None,
    since: Any,
    until: Any,
    object_kind: str | None,
    object_id: str | None,
    user: str | None,
) -> tuple[str, dict[str, Any]]:
    where: list[str] = ["TRUE"]
    params: dict[str, Any] = {}
    if operation is not None:
        where.append("list_contains($operations, operation)")
        params["operations"] = [operation] if isinstance(operation, str) else list(operation)
    if object_kind is not None:
        check_kind(object_kind)
    for column, value in (
        ("success", success),
        ("object_kind", object_kind),
        ("object_id", object_id),
        ("user_name", user),
    ):
        if value is not None:
            where.append(f"{column} = ${column}")
            params[column] = value
    for name, sign, value in (("since", ">=", since), ("until", "<", until)):
        if value is not None:
            where.append(f"made_at {sign} ${name}")
            params[name] = moment(value, name)
    return " AND ".join(where), params


def audit_frame(
    con: Connection, *, limit: int | None, offset: int = 0, newest_first: bool = False, **filters: Any
) -> pl.DataFrame:
    """Entries that fit, in order of their number."""
    where, params = _where(**filters)
    order = "DESC" if newest_first else "ASC"
    return frame(
        con,
        f"SELECT {_COLUMNS} FROM audit_entries WHERE {where} ORDER BY number {order} LIMIT $limit OFFSET $offset",
        params | page_of(limit, offset),
    )


def audit_rows(con: Connection, *, by_month: bool, **filters: Any) -> Iterator[dict[str, Any]]:
    """Entries that fit, one after the other, however many; months first where that is asked.

    Entries are numbered as they reach the catalog: around the end of a month that need not be their time.
    """
    where, params = _where(**filters)
    cursor = con.cursor()
    try:
        cursor.execute(
            f"SELECT {_COLUMNS} FROM store.audit_entries WHERE {where} ORDER BY "
            f"{'date_trunc($month, made_at), ' if by_month else ''}number",
            params | ({"month": "month"} if by_month else {}),
        )
        names = [str(column[0]) for column in cursor.description or ()]
        while rows := cursor.fetchmany(_BATCH):
            for row in rows:
                yield dict(zip(names, row, strict=True))
    finally:
        cursor.close()


_CONTAINERS = {
    "chain": (
        ("pipeline", "SELECT pipeline_id FROM chains WHERE chain_id = $id"),
        ("run", "SELECT p.run_id FROM chains c JOIN pipelines p USING (pipeline_id) WHERE c.chain_id = $id"),
    ),
    "prediction": (
        ("chain", "SELECT chain_id FROM predictions WHERE prediction_id = $id"),
        ("pipeline", "SELECT pipeline_id FROM predictions WHERE prediction_id = $id"),
        (
            "run",
            "SELECT p.run_id FROM predictions d JOIN pipelines p USING (pipeline_id) WHERE d.prediction_id = $id",
        ),
    ),
    "pipeline": (("run", "SELECT run_id FROM pipelines WHERE pipeline_id = $id"),),
}


def history(con: Connection, kind: str, identifier: str, *, related: bool) -> pl.DataFrame:
    """Entries about an object, and about the pipeline and run that it belongs to."""
    check_kind(kind)
    parts = [f"object_kind = '{kind}' AND object_id = $id"]
    for container, sql in _CONTAINERS.get(kind, ()) if related else ():
        parts.append(f"object_kind = '{container}' AND object_id IN ({sql})")
    where = " OR ".join(f"({part})" for part in parts)
    return frame(
        con, f"SELECT {_COLUMNS} FROM audit_entries WHERE {where} ORDER BY number", {"id": identifier}
    )


def errors_by_operation(con: Connection) -> dict[str, tuple[int, int]]:
    """Entries and failed ones among them, by operation, most failures first."""
    rows = con.execute(
        "SELECT operation, count(*), count(*) FILTER (NOT success) AS failed FROM audit_entries "
        "GROUP BY operation ORDER BY failed DESC, operation"
    ).fetchall()
    return {str(row[0]): (int(row[1]), int(row[2])) for row in rows}
