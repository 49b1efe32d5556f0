"""The audit trail in the catalog: appending entries to the chain of hashes, and verifying it.

Each entry's hash covers its fields and the hash of the entry before it, so an edit anywhere changes every hash
after it. Entries are numbered when they reach the catalog, under the lease, so the chain has one order.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from nirs_store.blobs.plain import read_plain
from nirs_store.db.layout import Layout
from nirs_store.db.schema import arrow_schema, column_names
from nirs_store.db.sql import Incoming, execute
from nirs_store.errors import CatalogDamaged
from nirs_store.values import from_json, storable

AUDIT = "audit"
"""The kind under which notes travel among the changes of a commit."""
GENESIS = "0" * 64
"""What the first entry names as the hash before it."""
_BATCH = 4096
# The schema version that brought the trail.
_SINCE = 4


class Head(NamedTuple):
    """The last entry of a trail."""

    number: int
    entry_hash: str


class Break(NamedTuple):
    """A place where the chain does not hold."""

    number: int
    reason: str


def entry_hash(row: Mapping[str, Any]) -> str:
    """SHA-256 over an entry's fields, in their order, and the hash before it, as one JSON list."""
    fields = [
        row["number"],
        row["made_at"].isoformat(timespec="microseconds"),
        *(row[name] for name in ("user_name", "host", "pid", "operation", "object_kind", "object_id")),
        bool(row["success"]),
        row["message"],
        row["details"],
        row["previous_hash"],
    ]
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def head_of(con: duckdb.DuckDBPyConnection) -> Head:
    """Return the last entry; number 0 and `GENESIS` where there is none."""
    # An aggregate takes half as long as the first row of a sorted table.
    ((number, found),) = execute(
        con, "SELECT max(number), arg_max(entry_hash, number) FROM audit_entries"
    ).fetchall()
    return _head(number, found)


def _head(number: Any, found: Any) -> Head:
    return Head(0, GENESIS) if number is None else Head(int(number), str(found))


def append_notes(
    con: duckdb.DuckDBPyConnection,
    incoming: Incoming,
    notes: Sequence[tuple[datetime, str | None, Mapping[str, Any]]],
) -> int:
    """Append notes (moment, object's id, payload) inside the caller's transaction; returns how many.

    A trail that was switched off takes only those that are always made.
    """
    if not notes:
        return 0
    ((setting, last, found),) = execute(
        con,
        "SELECT (SELECT value FROM settings WHERE key = 'audit'), (SELECT max(number) FROM audit_entries), "
        "(SELECT arg_max(entry_hash, number) FROM audit_entries)",
    ).fetchall()
    enabled = (from_json(setting) or {}).get("enabled") is not False
    number, previous = _head(last, found)
    rows = []
    for moment, identifier, payload in notes:
        if not enabled and not payload.get("always"):
            continue
        number += 1
        details = payload.get("details")
        row = {
            "number": number,
            "made_at": moment,
            "user_name": str(payload.get("user") or ""),
            "host": str(payload.get("host") or ""),
            "pid": int(payload.get("pid") or 0),
            "operation": str(payload.get("operation") or ""),
            "object_kind": payload.get("kind"),
            "object_id": identifier or None,
            "success": bool(payload.get("success", True)),
            "message": payload.get("message"),
            "details": None if details is None else json.dumps(details, ensure_ascii=False),
            "previous_hash": previous,
        }
        previous = row["entry_hash"] = entry_hash(row)
        rows.append(row)
    if rows:
        incoming.rows = pa.Table.from_pylist(rows, schema=arrow_schema("audit_entries"))
        execute(con, f"INSERT INTO audit_entries SELECT * FROM {incoming.name}")
    return len(rows)


def payload_of(
    operation: str,
    object_kind: str | None = None,
    success: bool = True,
    message: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a note as it travels: what was done, to which kind of object, by whom."""
    user, host = _who(os.getpid())
    payload: dict[str, Any] = {"operation": operation, "kind": object_kind, "user": user, "host": host}
    payload["pid"] = os.getpid()
    if not success:
        payload["success"] = False
    if message is not None:
        payload["message"] = message
    if details is not None:
        payload["details"] = dict(details)
    return payload


@functools.lru_cache(maxsize=1)
def _who(pid: int) -> tuple[str, str]:
    import getpass  # with termios, which nobody needs who only asks

    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):
        # A container's user need have no name.
        user = f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"
    # The system's names are bytes, and Python gives what is not UTF-8 in them as characters that cannot be stored.
    return storable(user), storable(socket.gethostname())


def _entries(con: duckdb.DuckDBPyConnection) -> Iterator[dict[str, Any]]:
    names = column_names("audit_entries")
    cursor = con.cursor()
    try:
        cursor.execute(f"SELECT {', '.join(names)} FROM store.audit_entries ORDER BY number, made_at")
        while rows := cursor.fetchmany(_BATCH):
            for row in rows:
                yield dict(zip(names, row, strict=True))
    finally:
        cursor.close()


def has_trail(con: duckdb.DuckDBPyConnection) -> bool:
    """Whether a catalog has an audit trail; those of before schema version 4 have none."""
    found = execute(con, "SELECT value FROM nirs_store_meta WHERE key = 'schema_version'").fetchall()
    return bool(found) and int(found[0][0]) >= _SINCE


def verify_chain(
    con: duckdb.DuckDBPyConnection, heads: Sequence[Head] = (), *, at_most: int = 20
) -> tuple[int, list[Break]]:
    """Recompute the whole chain; and look whether it still holds the entries that were handed out as its head."""
    wanted: dict[int, str] = {head.number: head.entry_hash for head in heads if head.number}
    expected, previous, count = 1, GENESIS, 0
    breaks: list[Break] = []
    last = 0
    for row in _entries(con):
        count += 1
        number = last = int(row["number"])
        if number > expected:
            gap = f"{expected}" if number == expected + 1 else f"{expected} to {number - 1}"
            breaks.append(Break(expected, f"entries are missing: number {gap}"))
        elif number < expected:
            breaks.append(Break(number, "its number is there twice"))
        if entry_hash(row) != row["entry_hash"]:
            breaks.append(Break(number, "it was altered: its content does not give its hash"))
        elif row["previous_hash"] != previous and number == expected:
            breaks.append(Break(number, "it does not follow the entry before it, which was replaced"))
        if number in wanted and wanted.pop(number) != row["entry_hash"]:
            breaks.append(Break(number, "it is another entry than the one that was exported"))
        expected, previous = number + 1, row["entry_hash"]
    for number in sorted(wanted):
        if number > last:
            words = f"the trail ends at {last}, and an entry with the number {number} was exported"
            breaks.append(Break(last + 1, f"entries at its end are missing: {words}"))
    return count, breaks[:at_most]


# -- What a check says of the audit trail: entries that were altered, replaced or removed.


def read_head(layout: Layout) -> Head | None:
    """Return the head that was handed out last; None where none was, or the file is not one."""
    try:
        found = json.loads(read_plain(layout.audit_head))
        return Head(int(found["number"]), str(found["entry_hash"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None
    except OSError as error:
        raise CatalogDamaged(f"{layout.audit_head} cannot be read: {error.strerror or error}.") from error
