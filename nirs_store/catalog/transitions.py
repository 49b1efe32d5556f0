"""Changes of state that travel in segments: completing, failing, rolling back.

In order of commit, set-wise; the first final state wins. A change whose row has not come yet
waits in the table `deferred`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from nirs_store.catalog.buffer import now_naive
from nirs_store.catalog.incoming import Incoming
from nirs_store.catalog.scalars import number
from nirs_store.ids import new_id

__all__ = ["apply_changes", "delete_pipelines", "released_words", "roll_back"]

_Change = tuple[int, int, dict[str, Any]]

_PIPELINE_KINDS = ("complete_pipeline", "fail_pipeline")
# Ids that the log of a failed pipeline lists.
_LISTED = 100
_RUN_KINDS = ("complete_run", "fail_run")


def apply_changes(con: duckdb.DuckDBPyConnection, incoming: Incoming, new: Sequence[_Change]) -> None:
    """Apply changes of one chunk, and those that waited, inside the caller's transaction."""
    waiting = [
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
        for cid, number, position, kind, ident, at, payload in con.execute(
            "SELECT change_id, number, position, kind, id, made_at, payload FROM deferred ORDER BY number, position"
        ).fetchall()
    ]
    if not waiting and not new:
        return
    changes = [*waiting, *new]
    _end_sessions(con, [c for _, _, c in changes if c["kind"] == "end_session"])
    late: list[_Change] = []
    for part in _in_order(changes):
        late += _finish(con, incoming, "pipelines", "pipeline_id", _of(part, _PIPELINE_KINDS))
        late += _finish(con, incoming, "runs", "run_id", _of(part, _RUN_KINDS))
        late += _edit_runs(con, _of(part, ("edit_run",)))
    if waiting:
        con.execute("DELETE FROM deferred")
    for order, position, change in late:
        con.execute(
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


def _in_order(changes: Sequence[_Change]) -> Iterator[list[_Change]]:
    """Parts within which the order does not matter: a failed run ends its pipelines, so it ends a part.

    What a pipeline becomes must not depend on how many segments are applied at once.
    """
    part: list[_Change] = []
    for change in changes:
        part.append(change)
        if change[2]["kind"] == "fail_run":
            yield part
            part = []
    yield part


def _of(changes: Iterable[_Change], kinds: tuple[str, ...]) -> list[_Change]:
    return [change for change in changes if change[2]["kind"] in kinds]


def _end_sessions(con: duckdb.DuckDBPyConnection, changes: list[dict[str, Any]]) -> None:
    for change in changes:
        con.execute(
            "UPDATE sessions SET ended_at = ? WHERE session_id = ? AND ended_at IS NULL",
            [change["made_at"], change["id"]],
        )


def _finish(
    con: duckdb.DuckDBPyConnection, incoming: Incoming, table: str, key: str, changes: list[_Change]
) -> list[_Change]:
    """Give rows their final state; returns the changes whose row is not there yet."""
    if not changes:
        return []
    first: dict[str, dict[str, Any]] = {}
    for _, _, change in changes:
        first.setdefault(change["id"], change)
    ids = list(first)
    status = {
        str(row[0]): str(row[1])
        for row in con.execute(
            f"SELECT {key}, status FROM {table} WHERE {key} IN (SELECT unnest(?))",
            [ids],
        ).fetchall()
    }
    dead = {
        str(row[0])
        for row in con.execute(
            "SELECT id FROM dead WHERE kind = 'deleted' AND id IN (SELECT unnest(?))", [ids]
        ).fetchall()
    }
    due = [change for ident, change in first.items() if status.get(ident) == "running"]
    if table == "pipelines":
        _finish_pipelines(con, incoming, due)
    else:
        _finish_runs(con, due)
    return [change for change in changes if change[2]["id"] not in status and change[2]["id"] not in dead]


def _finish_pipelines(
    con: duckdb.DuckDBPyConnection, incoming: Incoming, changes: list[dict[str, Any]]
) -> None:
    if not changes:
        return
    failed = [change["id"] for change in changes if change["kind"] == "fail_pipeline"]
    if failed:
        roll_back(con, failed, {change["id"]: change["made_at"] for change in changes})
    rows = [
        {
            "id": change["id"],
            "status": "failed" if change["kind"] == "fail_pipeline" else "completed",
            "at": change["made_at"],
            "best_val": change["payload"].get("best_val"),
            "best_test": change["payload"].get("best_test"),
            "metric": change["payload"].get("metric"),
            "duration_ms": change["payload"].get("duration_ms"),
            "error": change["payload"].get("error"),
        }
        for change in changes
    ]
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("status", pa.string()),
            ("at", pa.timestamp("us")),
            ("best_val", pa.float64()),
            ("best_test", pa.float64()),
            ("metric", pa.string()),
            ("duration_ms", pa.int64()),
            ("error", pa.string()),
        ]
    )
    incoming.rows = pa.Table.from_pylist(rows, schema=schema)
    con.execute(
        """
        UPDATE pipelines SET status = f.status, completed_at = f.at, best_val = f.best_val,
            best_test = f.best_test, metric = f.metric, duration_ms = f.duration_ms, error = f.error
        FROM incoming f WHERE pipelines.pipeline_id = f.id
        """
    )


def _edit_runs(con: duckdb.DuckDBPyConnection, changes: list[_Change]) -> list[_Change]:
    """Names, notes and tags, in order; returns the changes whose run is not there yet."""
    late = []
    for change in changes:
        ident, payload = change[2]["id"], change[2]["payload"]
        rows = con.execute("SELECT name, note, tags FROM runs WHERE run_id = ?", [ident]).fetchall()
        if not rows:
            gone = con.execute("SELECT 1 FROM dead WHERE id = ? AND kind = 'deleted'", [ident]).fetchall()
            if not gone:
                late.append(change)
            continue
        name, note, tags = rows[0]
        kept = set(json.loads(tags or "[]")) | set(payload.get("add_tags", ()))
        kept -= set(payload.get("remove_tags", ()))
        con.execute(
            "UPDATE runs SET name = ?, note = ?, tags = ? WHERE run_id = ?",
            [payload.get("name", name), payload.get("note", note), json.dumps(sorted(kept)), ident],
        )
    return late


def _finish_runs(con: duckdb.DuckDBPyConnection, changes: list[dict[str, Any]]) -> None:
    for change in changes:
        payload = change["payload"]
        summary = payload.get("summary")
        failed = change["kind"] == "fail_run"
        con.execute(
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
            # Rows of a chunk are inserted before its changes: what was begun after the failure is there already.
            open_ones = con.execute(
                "SELECT pipeline_id FROM pipelines WHERE run_id = ? AND status = 'running' AND created_at <= ?",
                [change["id"], change["made_at"]],
            ).fetchall()
            ids = [str(row[0]) for row in open_ones]
            if ids:
                roll_back(con, ids, dict.fromkeys(ids, change["made_at"]))
                con.execute(
                    "UPDATE pipelines SET status = 'failed', completed_at = ?, error = ? "
                    "WHERE pipeline_id IN (SELECT unnest(?))",
                    [change["made_at"], f"run failed: {payload.get('error')}", ids],
                )


def roll_back(con: duckdb.DuckDBPyConnection, pipeline_ids: list[str], made_at: Mapping[str, Any]) -> None:
    """Remove what failed pipelines recorded; their rows and logs stay, and say how many artifacts were let go.

    A tombstone drops what other processes still have under way for them.
    """
    released = con.execute(
        "SELECT pipeline_id, list_sort(list(DISTINCT artifact_id)) FROM artifact_refs "
        "WHERE pipeline_id IN (SELECT unnest(?)) GROUP BY pipeline_id ORDER BY pipeline_id",
        [pipeline_ids],
    ).fetchall()
    for pipeline_id, artifact_ids in released:
        con.execute(
            "INSERT INTO logs (log_id, pipeline_id, step_idx, event, message, details, level, created_at) "
            "VALUES (?, ?, 0, 'cleanup', ?, ?, 'info', ?)",
            [
                new_id(),
                pipeline_id,
                released_words(len(artifact_ids)),
                json.dumps({"artifact_ids": artifact_ids[:_LISTED]}),
                made_at[pipeline_id],
            ],
        )
    delete_children(con, pipeline_ids)
    con.execute("INSERT INTO dead SELECT unnest(?), 'rolled_back', ?", [pipeline_ids, now_naive()])


def released_words(count: int) -> str:
    """What the log of a failed pipeline says of its artifacts."""
    return (
        f"let go of {count} artifact{'' if count == 1 else 's'}; the next gc removes what nothing else holds"
    )


def delete_children(con: duckdb.DuckDBPyConnection, pipeline_ids: list[str]) -> int:
    """Delete chains, predictions, arrays and references of pipelines; returns the rows deleted."""
    deleted = 0
    for statement in (
        # References first: they are found through the chains.
        "DELETE FROM artifact_refs WHERE pipeline_id IN (SELECT unnest($ids)) OR (owner_kind = 'chain' AND "
        "owner_id IN (SELECT chain_id FROM chains WHERE pipeline_id IN (SELECT unnest($ids))))",
        "DELETE FROM artifact_links WHERE pipeline_id IN (SELECT unnest($ids))",
        "DELETE FROM artifact_records WHERE pipeline_id IN (SELECT unnest($ids))",
        "DELETE FROM prediction_arrays WHERE pipeline_id IN (SELECT unnest($ids)) OR prediction_id IN "
        "(SELECT prediction_id FROM predictions WHERE pipeline_id IN (SELECT unnest($ids)))",
        "DELETE FROM predictions WHERE pipeline_id IN (SELECT unnest($ids))",
        "DELETE FROM chains WHERE pipeline_id IN (SELECT unnest($ids))",
    ):
        count = number(con, statement, {"ids": pipeline_ids})
        if "artifact_refs" not in statement:
            deleted += count
    return deleted


def delete_pipelines(con: duckdb.DuckDBPyConnection, pipeline_ids: list[str]) -> int:
    """Delete pipelines with all they own, leaving tombstones; returns the rows deleted."""
    if not pipeline_ids:
        return 0
    now = now_naive()
    con.execute(
        "INSERT INTO dead SELECT chain_id, 'deleted', ? FROM chains WHERE pipeline_id IN (SELECT unnest(?))",
        [now, pipeline_ids],
    )
    con.execute("INSERT INTO dead SELECT unnest(?), 'deleted', ?", [pipeline_ids, now])
    deleted = delete_children(con, pipeline_ids)
    for table in ("logs", "pipelines"):
        deleted += number(con, f"DELETE FROM {table} WHERE pipeline_id IN (SELECT unnest(?))", [pipeline_ids])
    return deleted
