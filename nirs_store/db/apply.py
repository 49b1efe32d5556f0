"""Applying the journal: committed segments become catalog rows, exactly once.

Called with the lease held alone. Nothing here can fail for a missing parent, and nothing that
is wrong with one segment can stop the others.
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple

import duckdb
import msgspec
import pyarrow as pa

from nirs_store.db.audit_chain import AUDIT, TRAIL_COLUMNS, Trail, append_notes, entries_of, trail_from
from nirs_store.db.journal import Entry, Journal, Rejection, Segment, SegmentDamaged, decode
from nirs_store.db.schema import SEGMENT_TABLES, arrow_schema, column_names
from nirs_store.db.sql import Incoming, execute, number
from nirs_store.errors import StoreBusy, WriteFailed
from nirs_store.ids import new_id, now_naive

__all__ = [
    "DRAGS",
    "FAILURES",
    "OWNERS",
    "Appending",
    "ApplyReport",
    "Deleted",
    "References",
    "RowRefused",
    "apply_changes",
    "apply_journal",
    "complete_arrivals",
    "delete_pipelines",
    "ends_of_stored",
    "finish_pipelines",
    "note_applied",
    "released_words",
    "roll_back",
    "waiting_changes",
]


# -- Changes of state that travel in segments: completing, failing, rolling back.


_Change = tuple[int, int, dict[str, Any]]

FAILURES = frozenset({"fail_pipeline", "fail_run"})
_PIPELINE_KINDS = ("complete_pipeline", "fail_pipeline")
# Ids that the log of a failed pipeline lists.
_LISTED = 100
_RUN_KINDS = ("complete_run", "fail_run")


def complete_arrivals(pipelines: pa.Table, changes: Sequence[_Change]) -> tuple[pa.Table, list[_Change]]:
    """Complete pipelines before they are inserted; returns their rows, and the changes that are left.

    Most pipelines come in one chunk with the change that completes them. Written in their final state they are
    neither looked up nor updated. Only for a chunk in which nothing fails, and before which no change waited:
    who ends a pipeline first is then plain.
    """
    if any(change["kind"] in FAILURES for _, _, change in changes):
        return pipelines, list(changes)
    status = pipelines.column("status").to_pylist()
    place = {
        ident: index
        for index, ident in enumerate(pipelines.column("pipeline_id").to_pylist())
        if status[index] == "running"
    }
    first: dict[int, _Final] = {}
    left: list[_Change] = []
    for change in changes:
        index = place.get(change[2]["id"]) if change[2]["kind"] == "complete_pipeline" else None
        if index is None:
            left.append(change)
        else:
            first.setdefault(index, _final(change[2]))
    if not first:
        return pipelines, left
    for position, name in enumerate(_Final._fields):
        column = pipelines.column(name).to_pylist()
        for index, final in first.items():
            column[index] = final[position]
        at = pipelines.schema.get_field_index(name)
        kind = pipelines.schema.field(at)
        pipelines = pipelines.set_column(at, kind, pa.array(column, kind.type))
    return pipelines, left


def ends_of_stored(con: duckdb.DuckDBPyConnection, changes: Sequence[_Change]) -> pa.Table | None:
    """Completions of pipelines that came in an earlier chunk, as rows for `finish_pipelines`.

    None where a change is another, or its row has not come: then `apply_changes` has to see to them, in their order.
    """
    if any(change["kind"] != "complete_pipeline" for _, _, change in changes):
        return None
    first: dict[str, dict[str, Any]] = {}
    for _, _, change in changes:
        first.setdefault(change["id"], change)
    status = _status_of(con, "pipelines", "pipeline_id", list(first)) if first else {}
    if first.keys() - status.keys():
        return None
    return _final_rows(change for ident, change in first.items() if status[ident] == "running")


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


def waiting_changes(con: duckdb.DuckDBPyConnection) -> list[_Change]:
    """Changes of earlier chunks whose row had not come."""
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
    con: duckdb.DuckDBPyConnection, arriving: Incoming, waiting: Sequence[_Change], new: Sequence[_Change]
) -> None:
    """Apply changes that waited, and those of one chunk, inside the caller's transaction."""
    if not waiting and not new:
        return
    changes = [*waiting, *new]
    _end_sessions(con, [c for _, _, c in changes if c["kind"] == "end_session"])
    late: list[_Change] = []
    for part in _in_order(changes):
        late += _finish(con, arriving, "pipelines", "pipeline_id", _of(part, _PIPELINE_KINDS))
        late += _finish(con, arriving, "runs", "run_id", _of(part, _RUN_KINDS))
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
        execute(
            con,
            "UPDATE sessions SET ended_at = ? WHERE session_id = ? AND ended_at IS NULL",
            [change["made_at"], change["id"]],
        )


def _finish(
    con: duckdb.DuckDBPyConnection, arriving: Incoming, table: str, key: str, changes: list[_Change]
) -> list[_Change]:
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
    due = [change for ident, change in first.items() if status.get(ident) == "running"]
    if table == "pipelines":
        failed = [change["id"] for change in due if change["kind"] == "fail_pipeline"]
        if failed:
            roll_back(con, failed, {change["id"]: change["made_at"] for change in due})
        finish_pipelines(con, arriving, _final_rows(due))
    else:
        _finish_runs(con, due)
    return [change for change in changes if change[2]["id"] not in status and change[2]["id"] not in dead]


def _status_of(con: duckdb.DuckDBPyConnection, table: str, key: str, ids: Sequence[str]) -> dict[str, str]:
    sql = f"SELECT {key}, status FROM {table} WHERE {key} IN (SELECT unnest(?))"
    return {str(ident): str(status) for ident, status in execute(con, sql, [ids]).fetchall()}


def _final_rows(changes: Iterable[dict[str, Any]]) -> pa.Table:
    schema = arrow_schema("pipelines")
    named = [schema.field(name) for name in ("pipeline_id", *_Final._fields)]
    rows = [{"pipeline_id": change["id"], **_final(change)._asdict()} for change in changes]
    return pa.Table.from_pylist(rows, schema=pa.schema(named))


def finish_pipelines(con: duckdb.DuckDBPyConnection, arriving: Incoming, rows: pa.Table) -> None:
    """Give pipelines their final state, a row each."""
    if not rows.num_rows:
        return
    arriving.rows = rows
    settings = ", ".join(f"{name} = f.{name}" for name in _Final._fields)
    execute(
        con,
        f"UPDATE pipelines SET {settings} FROM {arriving.name} f WHERE pipelines.pipeline_id = f.pipeline_id",
    )


def _edit_runs(con: duckdb.DuckDBPyConnection, changes: list[_Change]) -> list[_Change]:
    """Names, notes and tags, in order; returns the changes whose run is not there yet."""
    late = []
    for change in changes:
        ident, payload = change[2]["id"], change[2]["payload"]
        rows = execute(con, "SELECT name, note, tags FROM runs WHERE run_id = ?", [ident]).fetchall()
        if not rows:
            gone = execute(con, "SELECT 1 FROM dead WHERE id = ? AND kind = 'deleted'", [ident]).fetchall()
            if not gone:
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


def _finish_runs(con: duckdb.DuckDBPyConnection, changes: list[dict[str, Any]]) -> None:
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
            # Rows of a chunk are inserted before its changes: what was begun after the failure is there already.
            open_ones = execute(
                con,
                "SELECT pipeline_id FROM pipelines WHERE run_id = ? AND status = 'running' AND created_at <= ?",
                [change["id"], change["made_at"]],
            ).fetchall()
            ids = [str(row[0]) for row in open_ones]
            if ids:
                roll_back(con, ids, dict.fromkeys(ids, change["made_at"]))
                execute(
                    con,
                    "UPDATE pipelines SET status = 'failed', completed_at = ?, error = ? "
                    "WHERE pipeline_id IN (SELECT unnest(?))",
                    [change["made_at"], f"run failed: {payload.get('error')}", ids],
                )


def roll_back(con: duckdb.DuckDBPyConnection, pipeline_ids: list[str], made_at: Mapping[str, Any]) -> None:
    """Remove what failed pipelines recorded; their rows and logs stay, and say how many artifacts were let go.

    A tombstone drops what other processes still have under way for them.
    """
    released = execute(
        con,
        "SELECT pipeline_id, list_sort(list(DISTINCT artifact_id)) FROM artifact_refs "
        "WHERE pipeline_id IN (SELECT unnest(?)) GROUP BY pipeline_id ORDER BY pipeline_id",
        [pipeline_ids],
    ).fetchall()
    for pipeline_id, artifact_ids in released:
        execute(
            con,
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
    execute(con, "INSERT INTO dead SELECT unnest(?), 'rolled_back', ?", [pipeline_ids, now_naive()])


def released_words(count: int) -> str:
    """What the log of a failed pipeline says of its artifacts."""
    return (
        f"let go of {count} artifact{'' if count == 1 else 's'}; the next gc removes what nothing else holds"
    )


_OWNED = {
    "artifact_links": "pipeline_id IN (SELECT unnest($ids))",
    "artifact_records": "pipeline_id IN (SELECT unnest($ids))",
    "prediction_arrays": "pipeline_id IN (SELECT unnest($ids)) OR prediction_id IN "
    "(SELECT prediction_id FROM predictions WHERE pipeline_id IN (SELECT unnest($ids)))",
    "predictions": "pipeline_id IN (SELECT unnest($ids))",
    "chains": "pipeline_id IN (SELECT unnest($ids))",
}


class Deleted(NamedTuple):
    """What was deleted: rows by table, without references, and the artifacts that those named."""

    rows: dict[str, int]
    released: list[str]


def delete_children(con: duckdb.DuckDBPyConnection, pipeline_ids: list[str]) -> Deleted:
    """Delete chains, predictions, arrays and references of pipelines."""
    # References first: they are found through the chains.
    released = execute(
        con,
        "DELETE FROM artifact_refs WHERE pipeline_id IN (SELECT unnest($ids)) OR (owner_kind = 'chain' AND "
        "owner_id IN (SELECT chain_id FROM chains WHERE pipeline_id IN (SELECT unnest($ids)))) "
        "RETURNING artifact_id",
        {"ids": pipeline_ids},
    ).fetchall()
    rows = {
        table: number(con, f"DELETE FROM {table} WHERE {where}", {"ids": pipeline_ids})
        for table, where in _OWNED.items()
    }
    return Deleted(rows, sorted({str(row[0]) for row in released}))


def delete_pipelines(con: duckdb.DuckDBPyConnection, pipeline_ids: list[str]) -> Deleted:
    """Delete pipelines with all they own, leaving tombstones."""
    if not pipeline_ids:
        return Deleted({}, [])
    execute(
        con,
        "INSERT INTO dead SELECT unnest($ids), 'deleted', $now UNION ALL "
        "SELECT chain_id, 'deleted', $now FROM chains WHERE pipeline_id IN (SELECT unnest($ids))",
        {"ids": pipeline_ids, "now": now_naive()},
    )
    rows, released = delete_children(con, pipeline_ids)
    for table in ("logs", "pipelines"):
        statement = f"DELETE FROM {table} WHERE pipeline_id IN (SELECT unnest(?))"
        rows[table] = number(con, statement, [pipeline_ids])
    return Deleted(rows, released)


# -- Commits that only add rows and complete pipelines, applied with hardly a question or a plan made anew.


# Commits that wait for the end of the transaction: their rows are in memory, their files in the journal.
_MOST_COMMITS = 64
_MOST_BYTES = 8 << 20
# More keys than that are forgotten: each takes about 150 bytes.
_MOST_KEYS = 100_000

# What is wrong with a row, not with the machine.
_REFUSED = (duckdb.IntegrityError, duckdb.DataError, duckdb.InvalidInputException)

References = dict[str, list[str]]
"""The ids of the references that a session holds, by artifact."""


class RowRefused(Exception):
    """A row would not go in, most likely because its key is there; nothing that waited was committed."""


class _Facts(msgspec.Struct):
    """What a catalog holds, as far as appending has to know."""

    # Ids of the commits that were applied and not forgotten since.
    applied: set[str]
    trail: Trail
    # Whether a row may have lost its owner, or a change waits for its row.
    unsettled: bool
    # The references of the sessions that were asked for.
    references: dict[str, References] = msgspec.field(default_factory=dict)


class Appending:
    """What one opening of the catalog knows of it, and what it has applied and not committed."""

    def __init__(self) -> None:
        self._rows: Incoming | None = None
        self._facts: _Facts | None = None
        # Keys of rows that are there, by table.
        self._keys: dict[str, set[str]] = {}
        self._waiting: dict[str, Entry] = {}
        self._waiting_bytes = 0
        # Rows of these that are not in the transaction yet, by table; what is known counts them in.
        self._held: dict[str, list[pa.Table]] = {}
        self._begun = False

    # -- the transaction ---------------------------------------------------------------------

    @property
    def waiting(self) -> Mapping[str, Entry]:
        """Commits that were applied, each whole, and wait for the end of the transaction, by their ids."""
        return self._waiting

    def write(self, con: duckdb.DuckDBPyConnection, tables: Collection[str] | None = None) -> None:
        """Write the rows that are held of some tables, or of all, so that what is asked next sees them.

        Raises
        ------
        RowRefused
        """
        names = [name for name in self._held if tables is None or name in tables]
        if not names:
            return
        with self._writing(con) as incoming:
            for name in names:
                incoming.rows = pa.concat_tables(self._held[name])
                incoming.run(con, _insert_appending(name))
                del self._held[name]

    @contextlib.contextmanager
    def _writing(self, con: duckdb.DuckDBPyConnection) -> Iterator[Incoming]:
        if self._rows is None:
            self._rows = Incoming("appended")
        incoming = self._rows
        incoming.register(con)
        incoming.know_plans(con)
        try:
            self._begin(con)
            yield incoming
        except BaseException as error:
            self.rollback(con)
            if isinstance(error, _REFUSED):
                raise RowRefused(str(error)) from error
            raise
        incoming.clear()

    def commit(self, con: duckdb.DuckDBPyConnection, journal: Journal) -> None:
        """Commit what waits, and take it out of the journal.

        Raises
        ------
        RowRefused
        """
        if not self._waiting:
            return
        self.write(con)
        try:
            self._begin(con)
            note_applied(con, list(self._waiting.values()))
            con.execute("COMMIT")
        except BaseException:
            self.rollback(con)
            raise
        entries = list(self._waiting.values())
        self._waiting, self._waiting_bytes, self._begun = {}, 0, False
        journal.remove(entries)

    def rollback(self, con: duckdb.DuckDBPyConnection) -> None:
        """Give up what waits: it is in the journal, and is applied again."""
        self.forget()
        self._held = {}
        self._waiting, self._waiting_bytes = {}, 0
        if self._begun:
            with contextlib.suppress(duckdb.Error):  # a statement that failed may have ended it itself
                con.execute("ROLLBACK")
            self._begun = False

    def _begin(self, con: duckdb.DuckDBPyConnection) -> None:
        if not self._begun:
            self._begun = True
            con.execute("BEGIN")

    def look_after(self, con: duckdb.DuckDBPyConnection) -> None:
        """After a question that failed: what waits is given up if the transaction failed with it."""
        if self._waiting:
            try:
                con.execute("SELECT 1").fetchall()
            except duckdb.Error:
                self.rollback(con)

    # -- what is known -----------------------------------------------------------------------

    def forget(self) -> None:
        """The catalog was or will be changed in another way: nothing is known of it any more."""
        self._facts = None
        self._keys.clear()
        # Its name may be gone, and plans that were made with it are made anew each time.
        self._rows = None

    def unsettle(self) -> None:
        """A chunk is applied in the usual way: what that may change is asked for again."""
        self._facts = None

    def applied(self, con: duckdb.DuckDBPyConnection) -> set[str]:
        """Ids of the commits that were applied and not forgotten since; the set itself, to be kept up."""
        return self._ask(con).applied

    def ready(self, con: duckdb.DuckDBPyConnection) -> bool:
        """Whether rows can be appended now: nothing waits in the catalog that new rows could set going."""
        return not self._ask(con).unsettled

    def _ask(self, con: duckdb.DuckDBPyConnection) -> _Facts:
        if self._facts is None:
            ((applied, dead, deferred, *trail),) = execute(
                con,
                "SELECT (SELECT list(txid) FROM applied), (SELECT count(*) FROM dead), "
                f"(SELECT count(*) FROM deferred), {TRAIL_COLUMNS}",
            ).fetchall()
            self._facts = _Facts(
                {*(applied or ()), *self._waiting}, trail_from(*trail), bool(dead or deferred)
            )
        return self._facts

    def references(self, con: duckdb.DuckDBPyConnection, session_id: str) -> References:
        """The references that a session holds."""
        facts = self._ask(con)
        found = facts.references.get(session_id)
        if found is None:
            found = {}
            rows = execute(
                con,
                "SELECT artifact_id, ref_id FROM artifact_refs WHERE owner_kind = 'session' AND owner_id = ?",
                [session_id],
            ).fetchall()
            for artifact_id, ref_id in rows:
                found.setdefault(str(artifact_id), []).append(str(ref_id))
            facts.references[session_id] = found
        return found

    def only_new(self, con: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> pa.Table:
        """Leave out rows whose key, the first column, is there already or came before among them.

        The catalog is asked the first time; from then on, what this opening has not written is taken to be new.
        """
        keys = rows.column(0).to_pylist()
        known = self._keys.get(table)
        if known is None:
            key = column_names(table)[0]
            sql = f"SELECT {key} FROM {table} WHERE {key} IN (SELECT unnest(?))"
            known = self._keys[table] = {str(row[0]) for row in execute(con, sql, [keys]).fetchall()}
        keep, fresh = [], set[str]()
        for place, ident in enumerate(keys):
            if ident not in known and ident not in fresh:
                fresh.add(ident)
                keep.append(place)
        return rows if len(keep) == len(keys) else rows.take(pa.array(keep, pa.int64()))

    # -- appending ---------------------------------------------------------------------------

    def append(
        self,
        con: duckdb.DuckDBPyConnection,
        journal: Journal,
        tables: Mapping[str, pa.Table],
        entries: Sequence[Entry],
        notes: Sequence[tuple[Any, str | None, Mapping[str, Any]]],
        ends: pa.Table,
    ) -> None:
        """Take the rows of some commits, entries of the audit trail, and the ends of pipelines that were written.

        Raises
        ------
        RowRefused
        """
        facts = self._ask(con)
        said, trail = entries_of(notes, facts.trail)
        if ends.num_rows:
            with self._writing(con) as incoming:
                finish_pipelines(con, incoming, ends)
        try:
            for name, rows in (*tables.items(), ("audit_entries", said)):
                if rows.num_rows:
                    self._held.setdefault(name, []).append(rows)
            facts.trail = trail
            facts.applied.update(entry.txid for entry in entries)
            self._remember(tables, facts.references)
            self._waiting_bytes += sum(table.nbytes for table in tables.values())
            self._waiting |= {entry.txid: entry for entry in entries}
        except BaseException:
            # Interrupted: nobody can say which of them are held.
            self.rollback(con)
            raise
        if len(self._waiting) >= _MOST_COMMITS or self._waiting_bytes >= _MOST_BYTES:
            self.commit(con, journal)

    def _remember(self, tables: Mapping[str, pa.Table], references: Mapping[str, References]) -> None:
        for name, known in self._keys.items():
            if name in tables:
                if len(known) > _MOST_KEYS:
                    known.clear()
                known.update(tables[name].column(0).to_pylist())
        if "artifact_refs" in tables:
            rows = tables["artifact_refs"].select(["owner_kind", "owner_id", "artifact_id", "ref_id"])
            for kind, owner_id, artifact_id, ref_id in zip(*rows.to_pydict().values(), strict=True):
                held = references.get(owner_id)
                if kind == "session" and held is not None:
                    held.setdefault(artifact_id, []).append(ref_id)


def note_applied(con: duckdb.DuckDBPyConnection, entries: Sequence[Entry]) -> None:
    """Note, in the transaction that writes their rows, that some commits were applied."""
    ids, numbers = [entry.txid for entry in entries], [entry.number for entry in entries]
    execute(con, "INSERT INTO applied SELECT unnest(?), unnest(?), ?", [ids, numbers, now_naive()])


@cache
def _insert_appending(table: str) -> str:
    columns = ", ".join(column_names(table))
    return f"INSERT INTO {table} ({columns}) SELECT {columns} FROM appended"


_CHUNK_SEGMENTS = 256
_CHUNK_BYTES = 64 << 20
_PRUNE_ABOVE = 512

# What a segment itself can be guilty of. Everything else (full disk, no memory, a database that
# is invalid after an I/O error) is the machine's fault, and the segment stays where it is.
_GUILTY = (
    SegmentDamaged,
    duckdb.IntegrityError,
    duckdb.DataError,
    duckdb.InvalidInputException,
    # A payload of another shape than the code that reads it expects.
    pa.ArrowException,
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
)

# Which column of a row names an owner, and which tombstones of that owner drop the row.
OWNERS: dict[str, tuple[tuple[str, str], ...]] = {
    "pipelines": (("run_id", "deleted"),),
    "chains": (("pipeline_id", "deleted"), ("pipeline_id", "rolled_back")),
    "predictions": (("pipeline_id", "deleted"), ("pipeline_id", "rolled_back"), ("chain_id", "deleted")),
    "prediction_arrays": (
        ("pipeline_id", "deleted"),
        ("pipeline_id", "rolled_back"),
        ("prediction_id", "deleted"),
    ),
    "artifact_refs": (
        ("pipeline_id", "deleted"),
        ("pipeline_id", "rolled_back"),
        ("owner_id", "deleted"),
    ),
    "artifact_records": (("pipeline_id", "deleted"), ("pipeline_id", "rolled_back")),
    "artifact_links": (("pipeline_id", "deleted"), ("pipeline_id", "rolled_back")),
    "logs": (("pipeline_id", "deleted"),),
}
# Rows that travel with everything that names them, by their key: the first one to come stays.
_REPEATED = {
    "arrays": "array_hash",
    "blobs": "artifact_id",
    "sessions": "session_id",
    # Their ids say what they are, so two processes can make the same one.
    "artifact_records": "record_id",
    "artifact_links": "link_id",
}
# Of these an opening of the catalog remembers which are there. The others come once a session, or once an artifact.
_REMEMBERED = frozenset({"arrays", "blobs"})
# Rows that a dropped parent drags along, also when they come in a later segment.
DRAGS = {"pipelines": "pipeline_id", "chains": "chain_id", "predictions": "prediction_id"}


class ApplyReport(msgspec.Struct):
    """What one application did."""

    segments: int = 0
    dropped: dict[str, int] = msgspec.field(default_factory=dict)
    rejected: list[Rejection] = msgspec.field(default_factory=list)


class _Work(msgspec.Struct):
    """One application under way."""

    con: duckdb.DuckDBPyConnection
    journal: Journal
    arriving: Incoming
    # None where everything has to be applied in the usual way.
    appending: Appending | None
    # Ids of all commits that are in the catalog.
    applied: set[str]
    report: ApplyReport


def apply_journal(
    con: duckdb.DuckDBPyConnection,
    journal: Journal,
    *,
    at_most: int | None = None,
    arriving: Incoming | None = None,
    appending: Appending | None = None,
) -> ApplyReport:
    """Apply pending segments (all, or the first few), in chunks of one transaction each.

    `arriving` and `appending` are what is known from applying earlier ones; with them, the next few take less time.

    Raises
    ------
    WriteFailed
        The machine refused (full disk, I/O error); nothing is lost, the journal stays.
    """
    entries = journal.pending()
    if not entries:
        return ApplyReport()
    arriving, report = arriving or Incoming(), ApplyReport()
    try:
        arriving.register(con)
        if appending is None:
            applied = {str(row[0]) for row in arriving.run(con, "SELECT txid FROM applied").fetchall()}
        else:
            applied = appending.applied(con)
        _prune(con, journal, applied, entries)
        # A crash came between an earlier commit and its unlink; or a commit whose sync failed was
        # tried again and is here twice.
        seen: set[str] = set(applied)
        done: list[Entry] = []
        todo: list[Entry] = []
        for entry in entries:
            (done if entry.txid in seen else todo).append(entry)
            seen.add(entry.txid)
        _apply(_Work(con, journal, arriving, appending, applied, report), todo[:at_most])
        waiting = appending.waiting if appending is not None else {}
        journal.remove([entry for entry in done if entry.txid in applied and entry.txid not in waiting])
    except RowRefused:
        # Among what was given up with it may be earlier commits.
        again = apply_journal(con, journal, at_most=at_most, arriving=arriving)
        again.rejected[:0] = report.rejected
        for name, count in report.dropped.items():
            again.dropped[name] = again.dropped.get(name, 0) + count
        return again
    except (duckdb.Error, OSError) as error:
        if appending is not None:
            appending.rollback(con)
        _rollback(con)
        if isinstance(error, WriteFailed | StoreBusy):
            raise
        raise WriteFailed(
            f"The journal could not be applied: {error} Nothing is lost: the commits wait in "
            f"{entries[0].path.parent}. Remove the cause and ask again."
        ) from error
    finally:
        arriving.clear()
    return report


def _apply(work: _Work, todo: list[Entry]) -> None:
    while todo:
        chunk, todo = _take_chunk(todo)
        if work.appending is not None:
            if _append_chunk(work, work.appending, chunk):
                work.report.segments += len(chunk)
                continue
            work.appending.commit(work.con, work.journal)
            work.appending.unsettle()
        try:
            count = _apply_chunk(work.con, work.arriving, chunk, work.report)
        except _GUILTY as error:
            _rollback(work.con)
            if len(chunk) == 1:
                _reject(work.journal, chunk[0], error, work.report)
            else:
                for entry in chunk:
                    _apply(work, [entry])
            continue
        work.applied.update(entry.txid for entry in chunk[:count])
        work.journal.remove(chunk[:count])
        todo = [*chunk[count:], *todo]


def _append_chunk(work: _Work, appending: Appending, chunk: Sequence[Entry]) -> bool:
    """Apply segments that only add rows and complete pipelines; False for others, with nothing changed.

    Recording comes to little else. A pipeline whose beginning was applied for an earlier question is completed here as
    well: one that is being recorded while others ask is cut in two more often than not.

    Raises
    ------
    RowRefused
    """
    con = work.con
    if not appending.ready(con):
        return False
    try:
        segments = [(entry, decode(entry.path.read_bytes())) for entry in chunk]
        if any(segment.txid != entry.txid for entry, segment in segments):
            return False
        tables = _concatenated(segment for _, segment in segments)
        changes, notes = _changes_of(segments)
        if "pipelines" in tables:
            tables["pipelines"], changes = complete_arrivals(tables["pipelines"], changes)
        if changes:
            # Whether their pipelines run still is asked of the catalog.
            appending.write(con, ("pipelines",))
        ends = ends_of_stored(con, changes)
    except _GUILTY:
        # Which of them it was, and what becomes of it, is said where each is applied by itself.
        return False
    takeovers = tables.pop("takeovers", None)
    if ends is None or tables.keys() & (_REPEATED.keys() - _REMEMBERED):
        return False
    if takeovers is not None:
        wanted = takeovers.to_pylist()
        stored = [
            (session_id, artifact_id, ref_id)
            for session_id in {row["session_id"] for row in wanted}
            for artifact_id, ref_ids in appending.references(con, session_id).items()
            for ref_id in ref_ids
        ]
        fresh = tables.get("artifact_refs", arrow_schema("artifact_refs").empty_table())
        taken, tables["artifact_refs"] = _taken_over(wanted, stored, fresh)
        if taken:
            return False
    for name in _REMEMBERED & tables.keys():
        tables[name] = appending.only_new(con, name, tables[name])
    appending.append(con, work.journal, tables, chunk, notes, ends)
    return True


def _concatenated(segments: Iterable[Segment]) -> dict[str, pa.Table]:
    """The rows of some segments by table, without the changes; parents first."""
    found = list(segments)
    return {
        name: pa.concat_tables(parts)
        for name in SEGMENT_TABLES
        if name != "changes" and (parts := [s.tables[name] for s in found if name in s.tables])
    }


def _take_chunk(entries: list[Entry]) -> tuple[list[Entry], list[Entry]]:
    size = 0
    for count, entry in enumerate(entries):
        try:
            size += entry.path.stat().st_size
        except OSError:
            size += 0  # it is read, and found unreadable, in its turn
        if count and (size > _CHUNK_BYTES or count >= _CHUNK_SEGMENTS):
            return entries[:count], entries[count:]
    return entries, []


def _apply_chunk(
    con: duckdb.DuckDBPyConnection, arriving: Incoming, chunk: Sequence[Entry], report: ApplyReport
) -> int:
    """Apply some segments in one transaction; returns how many, which is all of them nearly always."""
    segments: list[tuple[Entry, Segment]] = []
    for entry in chunk:
        segment = decode(entry.path.read_bytes())
        if segment.txid != entry.txid:
            raise SegmentDamaged(f"its name says {entry.txid}, its header {segment.txid}")
        segments.append((entry, segment))
    segments = segments[: _before_takeovers(con, arriving, [segment for _, segment in segments])]
    tables = _concatenated(segment for _, segment in segments)
    takeovers = tables.pop("takeovers", None)
    changes, notes = _changes_of(segments)
    con.execute("BEGIN")
    dropped: dict[str, int] = {}
    # Whether a row may have lost its owner; nothing in a segment can change that before the changes come.
    n_dead, n_deferred = _waiting(con, arriving)
    buried = n_dead > 0 and bool(OWNERS.keys() & tables.keys())
    waiting = waiting_changes(con) if n_deferred else []
    if "pipelines" in tables and not buried and not waiting:
        tables["pipelines"], changes = complete_arrivals(tables["pipelines"], changes)
    if takeovers is not None and not buried:
        # Most of what is taken over came in the same chunk: it need not go into the catalog first.
        tables["artifact_refs"] = _take_over(con, arriving, takeovers, tables.get("artifact_refs"))
    for name, rows in tables.items():
        lost = _insert(con, arriving, name, rows, buried=buried)
        if lost:
            dropped[name] = lost
    if takeovers is not None and buried:
        # Only now it is known which references were dropped.
        _take_over(con, arriving, takeovers, None)
    apply_changes(con, arriving, waiting, changes)
    append_notes(con, arriving, notes)
    note_applied(con, [entry for entry, _ in segments])
    for name, count in dropped.items():
        last = segments[-1][0].txid
        execute(con, "INSERT INTO dropped VALUES (?, ?, ?, ?)", [last, name, count, now_naive()])
    con.execute("COMMIT")
    report.segments += len(segments)
    for name, count in dropped.items():
        report.dropped[name] = report.dropped.get(name, 0) + count
    return len(segments)


def _before_takeovers(con: duckdb.DuckDBPyConnection, arriving: Incoming, segments: Sequence[Segment]) -> int:
    """How many segments can be applied at once.

    Within a chunk, takeovers come before changes. A failed pipeline lets go of the references that were saved within
    it, so a takeover that was made after the failure must not find one of these and take it in place of its own.
    """
    kinds = [
        set(s.tables["changes"].column("kind").to_pylist()) if "changes" in s.tables else set()
        for s in segments
    ]
    failed = next((place for place, found in enumerate(kinds, 1) if found & FAILURES), len(segments))
    takeovers = [
        segment.tables["takeovers"] for segment in segments[failed:] if "takeovers" in segment.tables
    ]
    if not takeovers:
        return len(segments)
    arriving.rows = pa.concat_tables(takeovers)
    wanted = set(arriving.rows.column("artifact_id").to_pylist())
    refs = [segment.tables["artifact_refs"] for segment in segments if "artifact_refs" in segment.tables]
    within = any(
        row["pipeline_id"] is not None and row["owner_kind"] == "session" and row["artifact_id"] in wanted
        for table in refs
        for row in table.select(["pipeline_id", "owner_kind", "artifact_id"]).to_pylist()
    )
    within = within or bool(
        arriving.run(
            con,
            "SELECT ref_id FROM artifact_refs WHERE owner_kind = 'session' AND pipeline_id IS NOT NULL "
            "AND artifact_id IN (SELECT artifact_id FROM arriving) LIMIT 1",
        ).fetchall()
    )
    return failed if within else len(segments)


def _waiting(con: duckdb.DuckDBPyConnection, arriving: Incoming) -> tuple[int, int]:
    """How many tombstones there are, and how many changes whose row has not come."""
    counts = dict(
        arriving.run(
            con, "SELECT 'dead', count(*) FROM dead UNION ALL SELECT 'deferred', count(*) FROM deferred"
        ).fetchall()
    )
    return int(counts["dead"]), int(counts["deferred"])


def _changes_of(
    segments: Sequence[tuple[Entry, Segment]],
) -> tuple[list[tuple[int, int, dict[str, Any]]], list[tuple[datetime, str | None, dict[str, Any]]]]:
    """Changes of state, with their number and place in the segment, and notes for the audit trail."""
    changes: list[tuple[int, int, dict[str, Any]]] = []
    notes: list[tuple[datetime, str | None, dict[str, Any]]] = []
    for entry, segment in segments:
        if "changes" in segment.tables:
            for position, row in enumerate(segment.tables["changes"].to_pylist()):
                row["payload"] = json.loads(row["payload"]) if row["payload"] else {}
                if not isinstance(row["payload"], dict):
                    raise SegmentDamaged(f"the payload of {row['kind']} is not an object")
                if row["kind"] == AUDIT:
                    notes.append((row["made_at"], row["id"], row["payload"]))
                else:
                    changes.append((entry.number, position, row))
    return changes, notes


def _insert(
    con: duckdb.DuckDBPyConnection, arriving: Incoming, name: str, rows: pa.Table, *, buried: bool
) -> int:
    """Insert a table's rows, without those whose owner is dead; returns how many were dropped."""
    repeated = _REPEATED.get(name)
    clashes = 0
    if repeated is not None:
        clashes, rows = _new_only(con, arriving, name, repeated, rows)
    if not rows.num_rows:
        return clashes
    arriving.rows = rows
    columns = ", ".join(field.name for field in arrow_schema(name))
    owners = OWNERS.get(name)
    if owners is None or not buried:
        arriving.run(con, f"INSERT INTO {name} ({columns}) SELECT {columns} FROM arriving")
        return clashes
    if name == "predictions":
        # A caller may give the id of a deleted prediction to a new one.
        execute(con, "DELETE FROM dead WHERE kind = 'deleted' AND id IN (SELECT prediction_id FROM arriving)")
    dead = " OR ".join(
        f"EXISTS (SELECT 1 FROM dead d WHERE d.id = i.{column} AND d.kind = '{kind}')"
        for column, kind in owners
    )
    lost = number(con, f"SELECT count(*) FROM arriving i WHERE {dead}")
    drag = DRAGS.get(name)
    if drag is not None and lost:
        execute(
            con,
            f"INSERT INTO dead SELECT i.{drag}, 'deleted', ? FROM arriving i WHERE {dead}",
            [now_naive()],
        )
    execute(con, f"INSERT INTO {name} ({columns}) SELECT {columns} FROM arriving i WHERE NOT ({dead})")
    return lost + clashes


def _new_only(
    con: duckdb.DuckDBPyConnection, arriving: Incoming, name: str, key: str, rows: pa.Table
) -> tuple[int, pa.Table]:
    """Leave out rows whose key is there already, or came before in the batch; counts records that then differ.

    Asked for, because ``ON CONFLICT`` takes three times as long as an insert, and leaves open which of two rows of
    one statement it keeps.
    """
    keys = rows.column(key).to_pylist()
    # What a record says does not fit another artifact under the same id; the other tables have nothing to compare.
    value = "artifact_id" if name == "artifact_records" else key
    values = rows.column(value).to_pylist()
    arriving.rows = rows.select([key])
    there = arriving.run(
        con, f"SELECT {key}, {value} FROM {name} WHERE {key} IN (SELECT {key} FROM arriving)"
    ).fetchall()
    first: dict[str, str] = {str(row[0]): str(row[1]) for row in there}
    keep, clashes = [], 0
    for index, (ident, said) in enumerate(zip(keys, values, strict=True)):
        if ident not in first:
            keep.append(index)
            first[ident] = said
        else:
            clashes += first[ident] != said
    return clashes, rows if len(keep) == rows.num_rows else rows.take(pa.array(keep, type=pa.int64()))


def _take_over(
    con: duckdb.DuckDBPyConnection, arriving: Incoming, takeovers: pa.Table, fresh: pa.Table | None
) -> pa.Table:
    """Remove one reference of a session for each artifact that one of its chains took over.

    Returns the references that are left of `fresh`, which are not in the catalog yet.
    """
    arriving.rows = takeovers
    there = arriving.run(
        con,
        "SELECT owner_id, artifact_id, ref_id FROM artifact_refs WHERE owner_kind = 'session' "
        "AND artifact_id IN (SELECT artifact_id FROM arriving)",
    ).fetchall()
    fresh = arrow_schema("artifact_refs").empty_table() if fresh is None else fresh
    taken, left = _taken_over(takeovers.to_pylist(), there, fresh)
    if taken:
        execute(con, "DELETE FROM artifact_refs WHERE ref_id IN (SELECT unnest(?))", [taken])
    return left


def _taken_over(
    wanted: Sequence[Mapping[str, str]], there: Sequence[tuple[str, str, str]], fresh: pa.Table
) -> tuple[list[str], pa.Table]:
    """Which references of sessions (session, artifact, id) end, and which rows are left of those that come now.

    Each takeover ends the oldest reference that was there when it was made and that no earlier one took. It
    has to be looked at one by one: a reference younger than the takeover belongs to a later save and stays,
    however many takeovers of one chunk found nothing to take.
    """
    coming = fresh.select(["owner_id", "artifact_id", "ref_id", "owner_kind"]).to_pylist()
    found = [*there, *(tuple(row.values())[:3] for row in coming if row["owner_kind"] == "session")]
    held: dict[tuple[str, str], deque[str]] = {}
    for session_id, artifact_id, ref_id in sorted(found, key=itemgetter(2)):
        held.setdefault((session_id, artifact_id), deque()).append(ref_id)
    taken = set()
    for row in sorted(wanted, key=itemgetter("takeover_id")):
        refs = held.get((row["session_id"], row["artifact_id"]))
        if refs and refs[0] < row["takeover_id"]:
            taken.add(refs.popleft())
    left = fresh.filter(pa.array([row["ref_id"] not in taken for row in coming], pa.bool_()))
    return [ref_id for _, _, ref_id in there if ref_id in taken], left


def _reject(journal: Journal, entry: Entry, error: BaseException, report: ApplyReport) -> None:
    claim = ""
    # A damaged segment cannot say who wrote it; its writer knows the transaction by its name.
    with contextlib.suppress(SegmentDamaged, OSError):
        claim = decode(entry.path.read_bytes()).claim
    reason = f"{type(error).__name__}: {error}"
    report.rejected.append(journal.reject(entry, reason=reason, claim=claim, at=now_naive().isoformat()))


def _prune(
    con: duckdb.DuckDBPyConnection, journal: Journal, applied: set[str], entries: Sequence[Entry]
) -> None:
    """Forget applied ids whose file is gone for good."""
    gone = applied - {entry.txid for entry in entries}
    if len(gone) > _PRUNE_ABOVE:
        # Only after a sync of the folder: a power loss must not bring an unlinked file back.
        journal.sync()
        execute(con, "DELETE FROM applied WHERE txid IN (SELECT unnest(?))", [sorted(gone)])
        applied -= gone


def _rollback(con: duckdb.DuckDBPyConnection) -> None:
    with contextlib.suppress(duckdb.Error):  # the failing statement may have ended it itself
        con.execute("ROLLBACK")
