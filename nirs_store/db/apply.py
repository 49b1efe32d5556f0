"""Applying the journal: committed segments become catalog rows, exactly once.

Called with the lock held alone. Nothing here can fail for a missing parent, and nothing that
is wrong with one segment can stop the others.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import duckdb
import msgspec
import pyarrow as pa

from nirs_store.db.changes import AUDIT, FAILURES, Change, append_notes, apply_changes, waiting_changes
from nirs_store.db.journal import Entry, Rejection, Segment, SegmentDamaged, SegmentNewer, decode, read_entry
from nirs_store.db.log import CommitLog
from nirs_store.db.schema import SCHEMA_VERSION, SEGMENT_TABLES
from nirs_store.db.sql import StagedRows, execute, number
from nirs_store.db.table import apply_images
from nirs_store.errors import NirsStoreError, ReplicaRefused, SchemaTooNew, WriteFailed
from nirs_store.ids import naive, now_naive

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
        """Warn of rows that were dropped and commits that were rejected."""
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
    journal: CommitLog
    arriving: StagedRows
    applied: set[str]
    report: ApplyReport
    chunk_bytes: int
    count_change: Callable[[duckdb.DuckDBPyConnection], None]
    on_commit: Callable[[Sequence[Entry]], None]
    migrate: Callable[[duckdb.DuckDBPyConnection, int], None] | None


def applied_ids(con: duckdb.DuckDBPyConnection) -> set[str]:
    """Ids of the commits that the catalog holds and that may still lie in the journal."""
    return {str(row[0]) for row in execute(con, "SELECT txid FROM applied").fetchall()}


def apply_journal(
    con: duckdb.DuckDBPyConnection,
    journal: CommitLog,
    applied: set[str],
    report: ApplyReport,
    *,
    arriving: StagedRows,
    count_change: Callable[[duckdb.DuckDBPyConnection], None],
    on_commit: Callable[[Sequence[Entry]], None],
    at_most: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    migrate: Callable[[duckdb.DuckDBPyConnection, int], None] | None = None,
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
        work = _Work(con, journal, arriving, applied, report, chunk_bytes, count_change, on_commit, migrate)
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
        commits = []
        for entry in chunk:
            try:
                commits.append(_Commit(entry, _read(entry)))
            except _GUILTY as error:
                _reject(work, entry, error)
        while commits:
            count = _together(work.con, work.arriving, [each.segment for each in commits])
            _apply_group(work, commits[:count])
            commits = commits[count:]


class _Commit(NamedTuple):
    entry: Entry
    segment: Segment


def _apply_group(work: _Work, group: Sequence[_Commit]) -> None:
    try:
        done = _transact(work, group)
    except _GUILTY as error:
        _rollback(work.con)
        if group[0].segment.delta is not None:
            raise ReplicaRefused(
                f"Commit {group[0].entry.number}, a change that another computer made, does not fit this replica: "
                f"{error} Nothing was applied, and the workspace is not affected. Delete the folder of this "
                "replica, which is then made again."
            ) from error
        if len(group) == 1:
            _reject(work, group[0].entry, error)
            return
        done = False
    if not done:
        for commit in group:
            _apply_group(work, [commit])
        return
    entries = [commit.entry for commit in group]
    work.applied.update(entry.txid for entry in entries)
    work.on_commit(entries)


def _read(entry: Entry) -> Segment:
    try:
        return read_entry(entry)
    except SegmentNewer as error:
        raise SchemaTooNew(
            f"{entry.path} was committed by a newer version of nirs_store: {error}. It stays there, and nothing "
            "was changed. Upgrade nirs_store here, or ask with the newer version, which applies it; recording "
            "goes on."
        ) from error


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
        size += entry.nbytes
        if count and (size > most_bytes or count >= _CHUNK_SEGMENTS):
            return entries[:count], entries[count:]
    return entries, []


def _together(con: duckdb.DuckDBPyConnection, arriving: StagedRows, segments: Sequence[Segment]) -> int:
    """Count the first segments that one transaction may apply with the same outcome as one transaction each.

    In a transaction all rows come before all changes. So what follows a failure waits for the next one, which
    sees its tombstones; and a segment with rows of dead owners is alone, because it may make others dead.
    """
    if len(segments) < 2:
        return len(segments)
    n_tombstones, n_deferred = _waiting(con)
    late: set[str] = set()
    if n_deferred:
        late = {change["id"] for _, _, change in waiting_changes(con) if change["kind"] in FAILURES}
    for place, segment in enumerate(segments, 1):
        if segment.delta is not None:
            # A direct change was made when all before it was applied, and nothing after it.
            segments = segments[: max(place - 1, 1)]
            break
        if _fails(segment) or (late and not late.isdisjoint(_begun(segment))):
            segments = segments[:place]
            break
    if n_tombstones and len(segments) > 1:
        dead = _tombstones_among(con, arriving, segments)
        if dead:
            first = next(
                i for i, each in enumerate(segments) if _tombstones_among(con, arriving, [each], dead)
            )
            return max(first, 1)
    return len(segments)


def _fails(segment: Segment) -> bool:
    changes = segment.tables.get("changes")
    return changes is not None and not FAILURES.isdisjoint(changes.column("kind").to_pylist())


def _begun(segment: Segment) -> set[str]:
    """Return the ids of the runs and pipelines whose rows a segment brings."""
    return {
        ident
        for name, key in (("runs", "run_id"), ("pipelines", "pipeline_id"))
        if name in segment.tables
        for ident in segment.tables[name].column(key).to_pylist()
    }


def _tombstones_among(
    con: duckdb.DuckDBPyConnection,
    arriving: StagedRows,
    segments: Sequence[Segment],
    known: pa.Array | None = None,
) -> pa.Array | None:
    """Return the owners of some segments' rows that have a tombstone, or None; `known` names all of them."""
    import pyarrow.compute as pc

    columns = [
        segment.tables[name].column(column)
        for segment in segments
        for name, owners in OWNERS.items()
        if name in segment.tables
        # A deleted prediction's own id may come back, and its tombstone then goes.
        for column in {
            *(column for column, _ in owners),
            *(("prediction_id",) if name == "predictions" else ()),
        }
    ]
    if not columns:
        return None
    ids = pc.unique(pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string()))
    if known is None:
        arriving.rows = pa.table({"id": ids})
        found = execute(con, "SELECT DISTINCT id FROM dead WHERE id IN (SELECT id FROM arriving)").fetchall()
        dead = pa.array([str(row[0]) for row in found], pa.string())
    else:
        dead = ids.filter(pc.is_in(ids, known))
    return dead if len(dead) else None


def _transact(work: _Work, group: Sequence[_Commit]) -> bool:
    """Apply some commits in one transaction; False, and nothing done, where each must be applied alone."""
    con, arriving, report = work.con, work.arriving, work.report
    last = group[-1]
    tables = _concatenated(commit.segment for commit in group)
    transfers = tables.pop("takeovers", None)
    changes, notes = _changes_of(group)
    con.execute("BEGIN")
    if last.segment.delta is not None:
        apply_images(con, arriving, last.segment.delta)
    if last.segment.migrate is not None and work.migrate is not None:
        work.migrate(con, last.segment.migrate.version)
        notes = [(_moment(last.segment), None, last.segment.migrate.note)]
    dropped: dict[str, int] = {}
    n_tombstones, n_deferred = _waiting(con)
    # Nothing in a commit can make an owner dead before its changes come; a group has no rows of dead ones.
    tombstones = n_tombstones > 0 and len(group) == 1
    waiting = waiting_changes(con) if n_deferred else []
    for name, rows in tables.items():
        if any(commit.segment.schema < SCHEMA_VERSION for commit in group):
            # The catalog may be as old as they are: the commit that brings it up to date comes after them.
            rows = rows.select(_columns_there(con, name, rows.column_names))
        lost = _insert(con, arriving, name, rows, tombstones=tombstones, moment=_moment(last.segment))
        if lost:
            dropped[name] = lost
    if dropped and len(group) > 1:
        # Which commit brought them is noted, and must not depend on the group.
        _rollback(con)
        return False
    if transfers is not None:
        _take_over(con, arriving, [commit.segment for commit in group])
    apply_changes(con, arriving, waiting, changes, fresh=_begun(last.segment))
    append_notes(con, arriving, notes)
    entries = [commit.entry for commit in group]
    _note_applied(con, entries)
    work.journal.mark(con, entries)
    for name, count in dropped.items():
        values = [last.entry.txid, name, count, _moment(last.segment)]
        execute(con, "INSERT INTO dropped VALUES (?, ?, ?, ?)", values)
    work.count_change(con)
    con.execute("COMMIT")
    work.journal.applied(entries)
    report.segments += len(group)
    for name, count in dropped.items():
        report.dropped[name] = report.dropped.get(name, 0) + count
    return True


def _columns_there(con: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str]) -> list[str]:
    found = execute(con, f"SELECT * FROM {table} LIMIT 0").description or []
    there = {str(column[0]) for column in found}
    return [column for column in columns if column in there]


def _moment(segment: Segment) -> datetime:
    """Return when a commit was made, as it says: no two machines that apply it have the same clock."""
    try:
        return naive(datetime.fromisoformat(segment.created))
    except (ValueError, OverflowError):
        return datetime(1970, 1, 1)


def _waiting(con: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """How many tombstones there are, and how many changes whose row has not come."""
    counts = dict(
        execute(
            con, "SELECT 'dead', count(*) FROM dead UNION ALL SELECT 'deferred', count(*) FROM deferred"
        ).fetchall()
    )
    return int(counts["dead"]), int(counts["deferred"])


def _changes_of(
    group: Sequence[_Commit],
) -> tuple[list[Change], list[tuple[datetime, str | None, dict[str, Any]]]]:
    """Return changes of state, with their number and place in the segment, and notes for the audit trail."""
    changes: list[Change] = []
    notes: list[tuple[datetime, str | None, dict[str, Any]]] = []
    for entry, segment in group:
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
    con: duckdb.DuckDBPyConnection,
    arriving: StagedRows,
    name: str,
    rows: pa.Table,
    *,
    tombstones: bool,
    moment: datetime,
) -> int:
    """Insert a table's rows, without those whose owner is dead; returns how many were dropped."""
    repeated = _REPEATED.get(name)
    clashes = 0
    if repeated is not None:
        clashes, rows = _new_only(con, arriving, name, repeated, rows)
    if not rows.num_rows:
        return clashes
    arriving.rows = rows
    columns = ", ".join(rows.column_names)
    owners = OWNERS.get(name)
    if owners is None or not tombstones:
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
            [moment],
        )
    execute(con, f"INSERT INTO {name} ({columns}) SELECT {columns} FROM arriving i WHERE NOT ({dead})")
    return lost + clashes


def _new_only(
    con: duckdb.DuckDBPyConnection, arriving: StagedRows, name: str, key: str, rows: pa.Table
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


def _take_over(con: duckdb.DuckDBPyConnection, arriving: StagedRows, segments: Sequence[Segment]) -> None:
    """Remove one reference of a session for each artifact that one of its chains took over.

    Each transfer ends the oldest reference that was there when it was made, by its own commit or an earlier one,
    and that no earlier transfer ended. It has to be looked at one by one: a reference younger than the transfer
    belongs to a later save and stays, however many transfers found nothing to take.
    """
    wanted = [
        (place, row["takeover_id"], row["session_id"], row["artifact_id"])
        for place, segment in enumerate(segments)
        if "takeovers" in segment.tables
        for row in segment.tables["takeovers"].to_pylist()
    ]
    came = {
        ref_id: place
        for place, segment in enumerate(segments)
        if "artifact_refs" in segment.tables
        for ref_id in segment.tables["artifact_refs"].column("ref_id").to_pylist()
    }
    arriving.rows = pa.table({"artifact_id": pa.array([row[3] for row in wanted], pa.string())})
    there = execute(
        con,
        "SELECT owner_id, artifact_id, ref_id FROM artifact_refs WHERE owner_kind = 'session' "
        "AND artifact_id IN (SELECT artifact_id FROM arriving) ORDER BY ref_id",
    ).fetchall()
    held: dict[tuple[str, str], deque[str]] = {}
    for session_id, artifact_id, ref_id in there:
        held.setdefault((session_id, artifact_id), deque()).append(ref_id)
    taken = []
    for place, transfer_id, session_id, artifact_id in sorted(wanted):
        refs = held.get((session_id, artifact_id), deque())
        for ref_id in refs:
            if ref_id >= transfer_id:
                break
            if came.get(ref_id, -1) <= place:
                refs.remove(ref_id)
                taken.append(ref_id)
                break
    if taken:
        execute(con, "DELETE FROM artifact_refs WHERE ref_id IN (SELECT unnest(?))", [taken])


def _reject(work: _Work, entry: Entry, error: BaseException) -> None:
    claim = ""
    # A damaged segment cannot say who wrote it; its writer knows the transaction by its name.
    with contextlib.suppress(SegmentDamaged, OSError):
        claim = decode(entry.read()).claim
    reason = f"{type(error).__name__}: {error}"
    rejection = work.journal.reject(entry, reason=reason, claim=claim, at=now_naive().isoformat())
    work.report.rejected.append(rejection)
    work.con.execute("BEGIN")
    work.journal.mark(work.con, [entry])
    work.con.execute("COMMIT")
    work.journal.applied([entry])


def _prune(
    con: duckdb.DuckDBPyConnection, journal: CommitLog, applied: set[str], entries: Sequence[Entry]
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
