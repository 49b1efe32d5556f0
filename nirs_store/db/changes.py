"""Changes of state that travel in commits, and what they delete; and the audit trail in the catalog.

Called with the lock held alone, inside the caller's transaction.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import socket
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from nirs_store.blobs.plain import read_plain
from nirs_store.db.layout import Layout
from nirs_store.db.schema import arrow_schema, column_names
from nirs_store.db.sql import StagedRows, execute, number
from nirs_store.errors import CatalogDamaged
from nirs_store.ids import derived_id, now_naive
from nirs_store.values import from_json, storable

# -- The audit trail in the catalog: appending entries to the chain of hashes, and verifying it.


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
    incoming: StagedRows,
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
    import getpass  # with termios, which queries do not need

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


Change = tuple[int, int, dict[str, Any]]

FAILURES = frozenset({"fail_pipeline", "fail_run"})
_PIPELINE_KINDS = ("complete_pipeline", "fail_pipeline")
# Ids that the log of a failed pipeline lists.
_LISTED = 100
_RUN_KINDS = ("complete_run", "fail_run")


class _Final(NamedTuple):
    """What the end of a pipeline writes into its row."""

    status: str
    completed_at: datetime
    best_val: float | None
    best_test: float | None
    metric: str | None
    duration_ms: int | None
    error: str | None


def _final(change: Mapping[str, Any]) -> _Final:
    payload = change["payload"]
    status = "failed" if change["kind"] == "fail_pipeline" else "completed"
    named = (payload.get(name) for name in _Final._fields[2:])
    return _Final(status, change["made_at"], *named)


def waiting_changes(con: duckdb.DuckDBPyConnection) -> list[Change]:
    """Return changes of earlier chunks whose row had not come."""
    return [
        (
            int(number),
            int(position),
            {
                "change_id": cid,
                "kind": kind,
                "id": ident,
                "made_at": at,
                "payload": json.loads(payload or "{}"),
            },
        )
        for cid, number, position, kind, ident, at, payload in execute(
            con,
            "SELECT change_id, number, position, kind, id, made_at, payload FROM deferred ORDER BY number, position",
        ).fetchall()
    ]


def apply_changes(
    con: duckdb.DuckDBPyConnection,
    arriving: StagedRows,
    waiting: Sequence[Change],
    new: Sequence[Change],
    *,
    fresh: Container[str],
) -> None:
    """Apply changes that waited, and those of some commits, inside the caller's transaction.

    `fresh` holds the pipelines that came with the last commit, the only one in which something may fail.
    """
    if not waiting and not new:
        return
    changes = [*waiting, *new]
    late = _end_sessions(con, _of(changes, ("end_session",)))
    for part in _in_order(changes):
        late += _finish(con, arriving, "pipelines", "pipeline_id", _of(part, _PIPELINE_KINDS), fresh)
        late += _finish(con, arriving, "runs", "run_id", _of(part, _RUN_KINDS), fresh)
        late += _edit_runs(con, _of(part, ("edit_run",)))
    if waiting:
        execute(con, "DELETE FROM deferred")
    for order, position, change in late:
        execute(
            con,
            "INSERT INTO deferred VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                change["change_id"],
                order,
                position,
                change["kind"],
                change["id"],
                change["made_at"],
                json.dumps(change["payload"]),
            ],
        )


def _in_order(changes: Sequence[Change]) -> Iterator[list[Change]]:
    """Parts within which the order does not matter: a failed run ends its pipelines, so it ends a part.

    What a pipeline becomes must not depend on how many segments are applied at once.
    """
    part: list[Change] = []
    for change in changes:
        part.append(change)
        if change[2]["kind"] == "fail_run":
            yield part
            part = []
    yield part


def _of(changes: Iterable[Change], kinds: tuple[str, ...]) -> list[Change]:
    return [change for change in changes if change[2]["kind"] in kinds]


def _end_sessions(con: duckdb.DuckDBPyConnection, changes: list[Change]) -> list[Change]:
    """End sessions; returns the changes whose session is not there yet."""
    late = []
    for change in changes:
        # A shared workspace may have ended it before, when it was taken for dead: its grace period begins now.
        found = execute(
            con,
            "UPDATE sessions SET ended_at = greatest(ended_at, ?) WHERE session_id = ? RETURNING session_id",
            [change[2]["made_at"], change[2]["id"]],
        ).fetchall()
        if not found:
            late.append(change)
    return late


def _finish(
    con: duckdb.DuckDBPyConnection,
    arriving: StagedRows,
    table: str,
    key: str,
    changes: list[Change],
    fresh: Container[str],
) -> list[Change]:
    """Give rows their final state; returns the changes whose row is not there yet."""
    if not changes:
        return []
    first: dict[str, dict[str, Any]] = {}
    for _, _, change in changes:
        first.setdefault(change["id"], change)
    ids = list(first)
    status = _status_of(con, table, key, ids)
    dead = {
        str(row[0])
        for row in execute(
            con, "SELECT id FROM dead WHERE kind = 'deleted' AND id IN (SELECT unnest(?))", [ids]
        ).fetchall()
    }
    # A deleted object stays as it is, also where its row comes after all: another machine may not have it yet.
    due = [change for ident, change in first.items() if status.get(ident) == "running" and ident not in dead]
    if table == "pipelines":
        failed = {change["id"]: change for change in due if change["kind"] == "fail_pipeline"}
        if failed:
            roll_back(con, failed)
        _finish_pipelines(con, arriving, _final_rows(due))
    else:
        _finish_runs(con, due, fresh)
    return [change for change in changes if change[2]["id"] not in status and change[2]["id"] not in dead]


def _status_of(con: duckdb.DuckDBPyConnection, table: str, key: str, ids: Sequence[str]) -> dict[str, str]:
    sql = f"SELECT {key}, status FROM {table} WHERE {key} IN (SELECT unnest(?))"
    return {str(ident): str(status) for ident, status in execute(con, sql, [ids]).fetchall()}


def _final_rows(changes: Iterable[dict[str, Any]]) -> pa.Table:
    schema = arrow_schema("pipelines")
    named = [schema.field(name) for name in ("pipeline_id", *_Final._fields)]
    rows = [{"pipeline_id": change["id"], **_final(change)._asdict()} for change in changes]
    return pa.Table.from_pylist(rows, schema=pa.schema(named))


def _finish_pipelines(con: duckdb.DuckDBPyConnection, arriving: StagedRows, rows: pa.Table) -> None:
    """Give pipelines their final state, one row each."""
    if not rows.num_rows:
        return
    arriving.rows = rows
    settings = ", ".join(f"{name} = f.{name}" for name in _Final._fields)
    execute(
        con,
        f"UPDATE pipelines SET {settings} FROM {arriving.name} f WHERE pipelines.pipeline_id = f.pipeline_id",
    )


def _edit_runs(con: duckdb.DuckDBPyConnection, changes: list[Change]) -> list[Change]:
    """Names, notes and tags, in order; returns the changes whose run is not there yet."""
    late = []
    for change in changes:
        ident, payload = change[2]["id"], change[2]["payload"]
        if execute(con, "SELECT 1 FROM dead WHERE id = ? AND kind = 'deleted'", [ident]).fetchall():
            continue
        rows = execute(con, "SELECT name, note, tags FROM runs WHERE run_id = ?", [ident]).fetchall()
        if not rows:
            late.append(change)
            continue
        name, note, tags = rows[0]
        kept = set(json.loads(tags or "[]")) | set(payload.get("add_tags", ()))
        kept -= set(payload.get("remove_tags", ()))
        execute(
            con,
            "UPDATE runs SET name = ?, note = ?, tags = ? WHERE run_id = ?",
            [payload.get("name", name), payload.get("note", note), json.dumps(sorted(kept)), ident],
        )
    return late


def _finish_runs(
    con: duckdb.DuckDBPyConnection, changes: list[dict[str, Any]], fresh: Container[str]
) -> None:
    for change in changes:
        payload = change["payload"]
        summary = payload.get("summary")
        failed = change["kind"] == "fail_run"
        execute(
            con,
            "UPDATE runs SET status = ?, completed_at = ?, summary = ?, error = ? WHERE run_id = ?",
            [
                "failed" if failed else "completed",
                change["made_at"],
                json.dumps(summary) if summary is not None else None,
                payload.get("error"),
                change["id"],
            ],
        )
        if failed:
            open_ones = execute(
                con,
                "SELECT pipeline_id, created_at FROM pipelines WHERE run_id = ? AND status = 'running'",
                [change["id"]],
            ).fetchall()
            # Of one commit all rows are inserted before its changes, so what was begun after the failure is there
            # already. What an earlier commit brought was begun before it, whatever the clock of its machine said.
            ids = [ident for ident, at in open_ones if ident not in fresh or at <= change["made_at"]]
            if ids:
                roll_back(con, dict.fromkeys(ids, change))
                execute(
                    con,
                    "UPDATE pipelines SET status = 'failed', completed_at = ?, error = ? "
                    "WHERE pipeline_id IN (SELECT unnest(?))",
                    [change["made_at"], f"run failed: {payload.get('error')}", ids],
                )


def roll_back(con: duckdb.DuckDBPyConnection, failed: Mapping[str, Mapping[str, Any]]) -> None:
    """Remove what failed pipelines recorded, each by the change that failed it.

    Their rows and logs stay, and say how many artifacts were deleted. A tombstone drops what other processes
    still have under way for them.
    """
    pipeline_ids = list(failed)
    released = execute(
        con,
        "SELECT pipeline_id, list_sort(list(DISTINCT artifact_id)) FROM artifact_refs "
        "WHERE pipeline_id IN (SELECT unnest(?)) GROUP BY pipeline_id ORDER BY pipeline_id",
        [pipeline_ids],
    ).fetchall()
    for pipeline_id, artifact_ids in released:
        change = failed[pipeline_id]
        execute(
            con,
            "INSERT INTO logs (log_id, pipeline_id, step_idx, event, message, details, level, created_at) "
            "VALUES (?, ?, 0, 'cleanup', ?, ?, 'info', ?)",
            [
                derived_id(change["change_id"], pipeline_id),
                pipeline_id,
                released_words(len(artifact_ids)),
                json.dumps({"artifact_ids": artifact_ids[:_LISTED]}),
                change["made_at"],
            ],
        )
    delete_children(con, pipeline_ids)
    moments = [change["made_at"] for change in failed.values()]
    execute(con, "INSERT INTO dead SELECT unnest(?), 'rolled_back', unnest(?)", [pipeline_ids, moments])


def released_words(count: int) -> str:
    """Return what the log of a failed pipeline says of its artifacts."""
    return (
        f"released {count} artifact{'' if count == 1 else 's'}; the next gc removes what nothing else holds"
    )


UNLINKED = "predictions.chain_id"
"""Stands for a table: of predictions that stay only the chain that they name is deleted."""

PROMOTED = "champions.champion_id"
"""Stands for a table: of champions that a deletion itself made, which go when it is undone."""

Delete = Callable[[duckdb.DuckDBPyConnection, str, str, Any], int]
"""Deletes the rows of a table that a condition with parameters names, and counts them."""


def plain_delete(con: duckdb.DuckDBPyConnection, table: str, where: str, params: Any) -> int:
    """Delete rows for good."""
    if table == UNLINKED:
        return number(con, f"UPDATE predictions SET chain_id = NULL WHERE {where}", params)
    if table == PROMOTED:
        return 0
    return number(con, f"DELETE FROM {table} WHERE {where}", params)


_OWNED = {
    "artifact_links": "pipeline_id IN (SELECT unnest($ids))",
    "artifact_records": "pipeline_id IN (SELECT unnest($ids))",
    "prediction_arrays": "pipeline_id IN (SELECT unnest($ids)) OR prediction_id IN "
    "(SELECT prediction_id FROM predictions WHERE pipeline_id IN (SELECT unnest($ids)))",
    "predictions": "pipeline_id IN (SELECT unnest($ids))",
    "chains": "pipeline_id IN (SELECT unnest($ids))",
}


class Deleted(NamedTuple):
    """The result of a deletion: rows by table, without references, and the artifacts that those named."""

    rows: dict[str, int]
    released: list[str]


_HELD = (
    "pipeline_id IN (SELECT unnest($ids)) OR (owner_kind = 'chain' AND "
    "owner_id IN (SELECT chain_id FROM chains WHERE pipeline_id IN (SELECT unnest($ids))))"
)


def delete_children(
    con: duckdb.DuckDBPyConnection, pipeline_ids: list[str], delete: Delete = plain_delete
) -> Deleted:
    """Delete chains, predictions, arrays and references of pipelines."""
    params = {"ids": pipeline_ids}
    # References first: they are found through the chains.
    released = execute(con, f"SELECT artifact_id FROM artifact_refs WHERE {_HELD}", params).fetchall()
    delete(con, "artifact_refs", _HELD, params)
    rows = {table: delete(con, table, where, params) for table, where in _OWNED.items()}
    return Deleted(rows, sorted({str(row[0]) for row in released}))


def delete_pipelines(
    con: duckdb.DuckDBPyConnection, pipeline_ids: list[str], delete: Delete = plain_delete
) -> Deleted:
    """Delete pipelines with all they own, leaving tombstones."""
    if not pipeline_ids:
        return Deleted({}, [])
    execute(
        con,
        "INSERT INTO dead SELECT unnest($ids), 'deleted', $now UNION ALL "
        "SELECT chain_id, 'deleted', $now FROM chains WHERE pipeline_id IN (SELECT unnest($ids))",
        {"ids": pipeline_ids, "now": now_naive()},
    )
    rows, released = delete_children(con, pipeline_ids, delete)
    for table in ("logs", "metrics", "pipelines"):
        rows[table] = delete(con, table, "pipeline_id IN (SELECT unnest($ids))", {"ids": pipeline_ids})
    return Deleted(rows, released)
