"""Applying the journal: committed segments become catalog rows, exactly once.

Called with the lease held alone. Nothing here can fail for a missing parent, and nothing that
is wrong with one segment can stop the others.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

from nirs_store.blobs.plain import read_plain
from nirs_store.db.audit_chain import AUDIT, append_notes
from nirs_store.db.changes import FAILURES, Change, apply_changes, waiting_changes
from nirs_store.db.journal import (
    Entry,
    Journal,
    Rejection,
    Segment,
    SegmentDamaged,
    SegmentNewer,
    decode,
    read_entry,
)
from nirs_store.db.schema import SEGMENT_TABLES, arrow_schema
from nirs_store.db.sql import Incoming, execute, number
from nirs_store.errors import NirsStoreError, SchemaTooNew, WriteFailed
from nirs_store.ids import now_naive

_CHUNK_SEGMENTS = 256
CHUNK_BYTES = 64 << 20
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
    AttributeError,
    RecursionError,
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
    "metrics": (("pipeline_id", "deleted"),),
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
# Rows that a dropped parent drags along, also when they come in a later segment.
DRAGS = {"pipelines": "pipeline_id", "chains": "chain_id", "predictions": "prediction_id"}


class ApplyReport(msgspec.Struct):
    """What one application did."""

    segments: int = 0
    dropped: dict[str, int] = msgspec.field(default_factory=dict)
    rejected: list[Rejection] = msgspec.field(default_factory=list)

    def warn(self) -> None:
        """Warn of rows that were dropped and commits that were set aside."""
        if self.dropped:
            rows = ", ".join(f"{count} of {name}" for name, count in sorted(self.dropped.items()))
            warnings.warn(
                "Committed rows were dropped because what they belong to was deleted or rolled back, or their id "
                f"is taken: {rows}.",
                stacklevel=6,
            )
        for rejection in self.rejected:
            warnings.warn(
                f"A commit could not be applied and was moved to {rejection.path}: {rejection.reason}",
                stacklevel=6,
            )


class _Work(msgspec.Struct):
    """One application under way."""

    con: duckdb.DuckDBPyConnection
    journal: Journal
    arriving: Incoming
    applied: set[str]
    report: ApplyReport
    chunk_bytes: int
    count_change: Callable[[duckdb.DuckDBPyConnection], None]
    on_commit: Callable[[Sequence[Entry]], None]


def applied_ids(con: duckdb.DuckDBPyConnection) -> set[str]:
    """Ids of the commits that the catalog holds and that may still lie in the journal."""
    return {str(row[0]) for row in execute(con, "SELECT txid FROM applied").fetchall()}


def apply_journal(
    con: duckdb.DuckDBPyConnection,
    journal: Journal,
    applied: set[str],
    report: ApplyReport,
    *,
    arriving: Incoming,
    count_change: Callable[[duckdb.DuckDBPyConnection], None],
    on_commit: Callable[[Sequence[Entry]], None],
    at_most: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> None:
    """Apply pending segments (all, or the first few), in chunks of one transaction each; none is removed."""
    entries = journal.pending()
    if not entries:
        return
    try:
        arriving.register(con)
        _prune(con, journal, applied, entries)
        # A commit whose sync failed was tried again, and is here twice.
        todo = {entry.txid: entry for entry in reversed(entries) if entry.txid not in applied}
        work = _Work(con, journal, arriving, applied, report, chunk_bytes, count_change, on_commit)
        _apply(work, sorted(todo.values())[:at_most])
    except (duckdb.Error, OSError) as error:
        _rollback(con)
        if isinstance(error, NirsStoreError):
            raise
        raise WriteFailed(
            f"The journal could not be applied: {error} Nothing is lost: the commits wait in "
            f"{entries[0].path.parent}. Remove the cause and ask again."
        ) from error
    finally:
        arriving.clear()


def _apply(work: _Work, todo: list[Entry]) -> None:
    while todo:
        chunk, todo = _take_chunk(todo, work.chunk_bytes)
        try:
            count = _apply_chunk(work, chunk)
        except _GUILTY as error:
            _rollback(work.con)
            if len(chunk) == 1:
                _reject(work.journal, chunk[0], error, work.report)
            else:
                for entry in chunk:
                    _apply(work, [entry])
            continue
        work.applied.update(entry.txid for entry in chunk[:count])
        work.on_commit(chunk[:count])
        todo = [*chunk[count:], *todo]


def _concatenated(segments: Iterable[Segment]) -> dict[str, pa.Table]:
    """Return the rows of some segments by table, without the changes; parents first."""
    found = list(segments)
    return {
        name: pa.concat_tables(parts)
        for name in SEGMENT_TABLES
        if name != "changes" and (parts := [s.tables[name] for s in found if name in s.tables])
    }


def _take_chunk(entries: list[Entry], most_bytes: int) -> tuple[list[Entry], list[Entry]]:
    size = 0
    for count, entry in enumerate(entries):
        try:
            size += entry.path.stat().st_size
        except OSError:
            size += 0  # it is read, and found unreadable, in its turn
        if count and (size > most_bytes or count >= _CHUNK_SEGMENTS):
            return entries[:count], entries[count:]
    return entries, []


def _apply_chunk(work: _Work, chunk: Sequence[Entry]) -> int:
    """Apply some segments in one transaction; returns how many, which is all of them nearly always."""
    con, arriving, report = work.con, work.arriving, work.report
    segments: list[tuple[Entry, Segment]] = []
    for entry in chunk:
        try:
            segment = read_entry(entry)
        except SegmentNewer as error:
            raise SchemaTooNew(
                f"{entry.path} was committed by a newer version of nirs_store: {error}. It stays there, and nothing "
                "was changed. Upgrade nirs_store here, or ask with the newer version, which applies it; recording "
                "goes on."
            ) from error
        segments.append((entry, segment))
    segments = segments[: _before_takeovers(con, arriving, [segment for _, segment in segments])]
    tables = _concatenated(segment for _, segment in segments)
    takeovers = tables.pop("takeovers", None)
    changes, notes = _changes_of(segments)
    con.execute("BEGIN")
    dropped: dict[str, int] = {}
    # Whether a row may have lost its owner; nothing in a segment can change that before the changes come.
    n_dead, n_deferred = _waiting(con)
    buried = n_dead > 0 and bool(OWNERS.keys() & tables.keys())
    waiting = waiting_changes(con) if n_deferred else []
    for name, rows in tables.items():
        lost = _insert(con, arriving, name, rows, buried=buried)
        if lost:
            dropped[name] = lost
    if takeovers is not None:
        _take_over(con, arriving, takeovers)
    apply_changes(con, arriving, waiting, changes)
    append_notes(con, arriving, notes)
    _note_applied(con, [entry for entry, _ in segments])
    for name, count in dropped.items():
        last = segments[-1][0].txid
        execute(con, "INSERT INTO dropped VALUES (?, ?, ?, ?)", [last, name, count, now_naive()])
    work.count_change(con)
    con.execute("COMMIT")
    report.segments += len(segments)
    for name, count in dropped.items():
        report.dropped[name] = report.dropped.get(name, 0) + count
    return len(segments)


def _before_takeovers(con: duckdb.DuckDBPyConnection, arriving: Incoming, segments: Sequence[Segment]) -> int:
    """How many segments can be applied at once.

    Within a chunk, takeovers come before changes. A failed pipeline drops the references that were saved within
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
        execute(
            con,
            "SELECT ref_id FROM artifact_refs WHERE owner_kind = 'session' AND pipeline_id IS NOT NULL "
            "AND artifact_id IN (SELECT artifact_id FROM arriving) LIMIT 1",
        ).fetchall()
    )
    return failed if within else len(segments)


def _waiting(con: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """How many tombstones there are, and how many changes whose row has not come."""
    counts = dict(
        execute(
            con, "SELECT 'dead', count(*) FROM dead UNION ALL SELECT 'deferred', count(*) FROM deferred"
        ).fetchall()
    )
    return int(counts["dead"]), int(counts["deferred"])


def _changes_of(
    segments: Sequence[tuple[Entry, Segment]],
) -> tuple[list[Change], list[tuple[datetime, str | None, dict[str, Any]]]]:
    """Return changes of state, with their number and place in the segment, and notes for the audit trail."""
    changes: list[Change] = []
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
        execute(con, f"INSERT INTO {name} ({columns}) SELECT {columns} FROM arriving")
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
    there = execute(
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


def _take_over(con: duckdb.DuckDBPyConnection, arriving: Incoming, takeovers: pa.Table) -> None:
    """Remove one reference of a session for each artifact that one of its chains took over.

    Each takeover ends the oldest reference that was there when it was made and that no earlier one took. It
    has to be looked at one by one: a reference younger than the takeover belongs to a later save and stays,
    however many takeovers of one chunk found nothing to take.
    """
    arriving.rows = takeovers
    there = execute(
        con,
        "SELECT owner_id, artifact_id, ref_id FROM artifact_refs WHERE owner_kind = 'session' "
        "AND artifact_id IN (SELECT artifact_id FROM arriving) ORDER BY ref_id",
    ).fetchall()
    held: dict[tuple[str, str], deque[str]] = {}
    for session_id, artifact_id, ref_id in there:
        held.setdefault((session_id, artifact_id), deque()).append(ref_id)
    taken = []
    for row in sorted(takeovers.to_pylist(), key=itemgetter("takeover_id")):
        refs = held.get((row["session_id"], row["artifact_id"]))
        if refs and refs[0] < row["takeover_id"]:
            taken.append(refs.popleft())
    if taken:
        execute(con, "DELETE FROM artifact_refs WHERE ref_id IN (SELECT unnest(?))", [taken])


def _reject(journal: Journal, entry: Entry, error: BaseException, report: ApplyReport) -> None:
    claim = ""
    # A damaged segment cannot say who wrote it; its writer knows the transaction by its name.
    with contextlib.suppress(SegmentDamaged, OSError):
        claim = decode(read_plain(entry.path)).claim
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


def _note_applied(con: duckdb.DuckDBPyConnection, entries: Sequence[Entry]) -> None:
    """Note, in the transaction that writes their rows, that some commits were applied."""
    ids, numbers = [entry.txid for entry in entries], [entry.number for entry in entries]
    execute(con, "INSERT INTO applied SELECT unnest(?), unnest(?), ?", [ids, numbers, now_naive()])


def _rollback(con: duckdb.DuckDBPyConnection) -> None:
    with contextlib.suppress(duckdb.Error):  # the failing statement may have ended it itself
        con.execute("ROLLBACK")
