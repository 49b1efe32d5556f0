"""Garbage collection of artifacts: plan, then execute what was planned.

The plan is a pure value that can be printed; a dry run returns it. Files that no row names are
reported and never deleted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nirs_store.blobs.backend import BLOBS, sizes
from nirs_store.blobs.plain import blob_inside
from nirs_store.blobs.store import token_of
from nirs_store.db.database import Connection, Database
from nirs_store.db.journal import ARRAY_BYTES
from nirs_store.db.lock import Collector, settle_trash
from nirs_store.db.session import Engine
from nirs_store.db.sql import number
from nirs_store.db.table import column
from nirs_store.errors import PathEscapes
from nirs_store.ids import earlier, now_naive
from nirs_store.lazy import imported_from
from nirs_store.maintenance import trash
from nirs_store.records.notes import note
from nirs_store.values import GRACE_SECONDS, as_seconds

_USED_ARRAYS = """
    SELECT unnest([y_true, y_pred, y_proba, sample_indices, weights]) AS array_hash FROM prediction_arrays
    UNION SELECT wavelengths FROM chains
    UNION SELECT unnest(json_extract_string(holds, '$.arrays[*]')) FROM trash
"""


def prune_arrays(con: Connection) -> int:
    """Delete arrays that nothing names. Safe at any time: a commit carries every array it names."""
    return number(
        con,
        f"DELETE FROM arrays WHERE array_hash NOT IN (SELECT array_hash FROM ({_USED_ARRAYS}) "
        "WHERE array_hash IS NOT NULL)",
    )


# -- What a gc asks of the catalog: references that ended, artifacts that nothing holds.


class Unreferenced(NamedTuple):
    """An artifact that nothing holds."""

    artifact_id: str
    artifact_path: str
    artifact_type: str
    size_bytes: int


def end_dead_sessions(con: Connection, alive: list[str]) -> None:
    """Give sessions that died an end: now, when it is first seen. The grace period runs from here."""
    # One whose own row was in a commit that had to be rejected would never end.
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
    """Return references of sessions that ended longer than the grace period ago."""
    now = now_naive()
    return column(
        con,
        """
        SELECT r.ref_id FROM artifact_refs r LEFT JOIN sessions s ON r.owner_id = s.session_id
        WHERE r.owner_kind = 'session' AND NOT list_contains(?, r.owner_id)
          AND coalesce(s.ended_at, ?) <= ?
        ORDER BY r.ref_id
        """,
        [alive, now, earlier(now, seconds=grace_seconds)],
    )


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
    return column(
        con,
        """
        DELETE FROM blobs WHERE artifact_id IN (SELECT unnest($candidates))
          AND artifact_id NOT IN (SELECT unnest($claimed))
          AND artifact_id NOT IN (SELECT artifact_id FROM artifact_refs)
        RETURNING artifact_id
        """,
        {"candidates": candidates, "claimed": claimed},
    )


def all_paths(con: Connection) -> dict[str, list[str]]:
    """Artifact ids by the file they name."""
    paths: dict[str, list[str]] = {}
    for artifact_id, path in con.execute("SELECT artifact_id, artifact_path FROM blobs").fetchall():
        paths.setdefault(str(path), []).append(str(artifact_id))
    return paths


def unused_arrays(con: Connection, due: Sequence[str] = ()) -> tuple[int, int]:
    """Count and bytes of arrays that nothing names but some entries of the trash."""
    row = con.execute(
        f"""
        SELECT count(*), coalesce(sum({ARRAY_BYTES}), 0) FROM arrays WHERE array_hash NOT IN (
            SELECT array_hash FROM ({_USED_ARRAYS} WHERE NOT list_contains(?, trash_id))
            WHERE array_hash IS NOT NULL)
        """,
        [list(due)],
    ).fetchall()[0]
    return int(row[0]), int(row[1])


# -- Where the bytes are: what the catalog knows of it.


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
    """Return the runs that name most bytes of artifacts and arrays, largest first."""
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


# Ids that the audit trail names.
_LISTED = 100


@dataclass(frozen=True)
class GcPlan:
    """What a gc would do now.

    Attributes
    ----------
    artifacts
        Artifacts that nothing holds.
    files
        Their files below the workspace; a file that another artifact also names stays.
    bytes
        Size of those files on disk.
    expired_references
        References of sessions that ended longer than the grace period ago.
    unused_arrays, unused_array_bytes
        Arrays in the catalog that no prediction or chain names.
    unknown_files
        Files among the blobs that no row names. They are reported, never deleted.
    trash
        Deletions whose time is over: they can no longer be undone after the gc.
    """

    artifacts: tuple[Unreferenced, ...]
    files: tuple[str, ...]
    bytes: int
    expired_references: tuple[str, ...]
    unused_arrays: int
    unused_array_bytes: int
    unknown_files: tuple[str, ...]
    trash: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        plan = asdict(self)
        plan["artifacts"] = [a._asdict() for a in self.artifacts]
        return plan

    def __str__(self) -> str:
        text = (
            f"{len(self.files)} files of {len(self.artifacts)} unreferenced artifacts, {self.bytes:,} bytes; "
            f"{self.unused_arrays} unused arrays, {self.unused_array_bytes:,} bytes"
        )
        if self.trash:
            text += f"; {len(self.trash)} deletions leave the trash"
        if self.unknown_files:
            text += f"; {len(self.unknown_files)} unknown files, left alone"
        return text


@dataclass(frozen=True)
class GcResult:
    """What a gc did."""

    files: int
    bytes: int
    plan: GcPlan


def plan_gc(engine: Engine, *, grace_seconds: float = GRACE_SECONDS, now: bool = False) -> GcPlan:
    """List what a gc would do; change nothing."""
    grace = as_seconds(grace_seconds, "grace_seconds")
    # A replica that is open without its server knows the rows, and not what else is in the object store.
    there: set[str] | None = None if engine.settings.fresh else set()
    return engine.query(
        lambda con: _plan(con, engine, engine.living_sessions(), grace, None, now=now, there=there)
    )


def collect(
    engine: Engine,
    *,
    grace_seconds: float = GRACE_SECONDS,
    only: Sequence[str] | None = None,
    now: bool = False,
) -> GcResult:
    """Remove artifacts that nothing holds, and unused arrays; with `only`, look at these and expire no references."""
    grace = as_seconds(grace_seconds, "grace_seconds")

    def work(access: Database) -> GcResult:
        access.sweeping = True
        try:
            return _collect(engine, access, grace, None if only is None else list(only), now)
        finally:
            access.sweeping = False

    result = engine.exclusive(work)
    engine.journal.sweep_tmp(engine.living_sessions())
    return result


def _collect(
    engine: Engine,
    access: Database,
    grace_seconds: float,
    only: list[str] | None,
    now: bool,
) -> GcResult:
    def first(con: Connection) -> GcPlan:
        # Asked here, after the journal was applied: every session that has rows now and is not in the
        # list has ended.
        alive = engine.living_sessions()
        end_dead_sessions(con, alive)
        return _plan(con, engine, alive, grace_seconds, only, now=now)

    if engine.claims.collector is not None:
        return _collect_in_one_change(engine, access, engine.claims.collector, grace_seconds, only, now)
    plan = access.transact(first)
    if plan.files:
        engine.layout.blobs.trash(plan.files)
    # The order matters: files aside, then the claims, then (in transact) the journal.
    claimed = engine.claims.read(remove_dead=True)

    def second(con: Connection) -> list[str]:
        trash.empty(con, plan.trash)
        if plan.unused_arrays:
            prune_arrays(con)
        gone = delete_unreferenced(
            con,
            [artifact.artifact_id for artifact in plan.artifacts],
            list(plan.expired_references),
            sorted(claimed),
        )
        if only is None or gone:
            facts = {"artifacts": gone[:_LISTED], "count": len(gone), "bytes": plan.bytes}
            note(engine, "gc", "workspace", details=facts, con=con)
        return gone

    for artifact_id in access.transact(second):
        engine.id_cache.forget("artifact", artifact_id)
        engine.blobs.forget(artifact_id)
    if not plan.files:
        return GcResult(0, 0, plan)
    files, size = access.settle(lambda con: settle_trash(con, engine.layout.blobs, claimed))
    return GcResult(files, size, plan)


def _collect_in_one_change(
    engine: Engine,
    access: Database,
    collector: Collector,
    grace_seconds: float,
    only: list[str] | None,
    now: bool,
) -> GcResult:
    # Listed before the change, which makes others wait; blobs without a row are only reported.
    there = _stored(engine) if only is None else set()

    def work(con: Connection) -> tuple[GcPlan, list[str], int]:
        # No process commits or claims from here to the end of the change.
        claimed = collector.claimed()
        alive = engine.living_sessions()
        end_dead_sessions(con, alive)
        plan = _plan(con, engine, alive, grace_seconds, only, now=now, there=there)
        trash.empty(con, plan.trash)
        if plan.unused_arrays:
            prune_arrays(con)
        wanted = [artifact.artifact_id for artifact in plan.artifacts]
        gone = delete_unreferenced(con, wanted, list(plan.expired_references), sorted(claimed))
        left = all_paths(con)
        paths = {each.artifact_id: each.artifact_path for each in plan.artifacts if each.artifact_id in gone}
        condemned = {
            path: token_of(path)[0] for path in paths.values() if path in plan.files and path not in left
        }
        condemned = {path: token for path, token in condemned.items() if token not in claimed}
        collector.condemn(condemned)
        if only is None or gone:
            facts = {"artifacts": gone[:_LISTED], "count": len(gone), "bytes": plan.bytes}
            note(engine, "gc", "workspace", details=facts, con=con)
        freed = {
            each.artifact_path: each.size_bytes for each in plan.artifacts if each.artifact_path in condemned
        }
        return plan, gone, sum(freed.values())

    plan, gone, freed = access.transact(work)
    for artifact_id in gone:
        engine.id_cache.forget("artifact", artifact_id)
        engine.blobs.forget(artifact_id)
    return GcResult(collector.remove(), freed, plan)


def _plan(
    con: Connection,
    engine: Engine,
    alive: list[str],
    grace_seconds: float,
    only: list[str] | None,
    *,
    now: bool = False,
    there: set[str] | None = None,
) -> GcPlan:
    """Plan a gc; with `there`, what is stored is known, and sizes are those of the rows."""
    due = [] if only is not None else trash.due(con, now=now)
    expired = [] if only is not None else expired_references(con, alive, grace_seconds)
    expired += trash.references(con, due)
    candidates = unreferenced(con, expired, only)
    gone = {candidate.artifact_id: candidate.size_bytes for candidate in candidates}
    by_path = all_paths(con)
    blobs = engine.layout.blobs
    files: dict[str, int] = {}
    for path in sorted({c.artifact_path for c in candidates if gone.keys() >= set(by_path[c.artifact_path])}):
        # A row that names something else than a blob of this workspace goes; what it names is not touched.
        with contextlib.suppress(PathEscapes):
            if there is not None:
                blob_inside(engine.layout.root, path)
                files[path] = gone[by_path[path][0]]
                continue
            found = blobs.stat(path)
            files[path] = 0 if found is None else found.size
    count, array_bytes = (0, 0) if only is not None else unused_arrays(con, due)
    if there is None:
        there = set() if only is not None else _stored(engine)
    unknown = tuple(sorted(there - by_path.keys()))
    freed = sum(files.values())
    return GcPlan(
        tuple(candidates), tuple(files), freed, tuple(expired), count, array_bytes, unknown, tuple(due)
    )


def _stored(engine: Engine) -> set[str]:
    blobs = engine.layout.blobs
    return {*blobs.list(BLOBS), *blobs.list("", trashed=True)}


# -- The storage report: where a workspace's bytes are, and what keeps them.


# What lies in a workspace besides the catalog's file and the blobs; anything else is the user's own.
_FOLDERS = ("journal", "inbox", "quarantine", "exports", "library")


@dataclass(frozen=True)
class StorageReport:
    """Bytes of a workspace."""

    files: dict[str, int]
    kinds: tuple[Shared, ...]
    largest_runs: tuple[RunBytes, ...]
    unreferenced_bytes: int
    unknown_files: int
    trash: int = 0
    trash_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Bytes of all files of the workspace."""
        return sum(self.files.values())

    @property
    def saved_bytes(self) -> int:
        """Bytes that deduplication saved."""
        return sum(kind.saved_bytes for kind in self.kinds)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        report = asdict(self)
        report["largest_runs"] = [run._asdict() for run in self.largest_runs]
        return {**report, "total_bytes": self.total_bytes, "saved_bytes": self.saved_bytes}


def storage_report(engine: Engine, *, runs: int = 10, grace_seconds: float = GRACE_SECONDS) -> StorageReport:
    """Measure a workspace; changes nothing."""

    def ask(con: Connection) -> tuple[tuple[Shared, ...], tuple[RunBytes, ...], tuple[int, int]]:
        kinds = (*artifact_bytes(con), array_bytes(con))
        return kinds, tuple(largest_runs(con, runs)), _in_trash(con)

    kinds, largest, (entries, kept) = engine.query(ask)
    plan = plan_gc(engine, grace_seconds=grace_seconds)
    root = engine.layout.root
    files = {"catalog": sum(_size_storage(path) for path in (engine.layout.catalog, engine.layout.wal))}
    files["artifacts"] = sum(blob_sizes(engine))
    files |= {name: sum(map(_size_storage, (root / name).rglob("*"))) for name in _FOLDERS}
    free = plan.bytes + plan.unused_array_bytes
    return StorageReport(files, kinds, largest, free, len(plan.unknown_files), entries, kept)


def blob_sizes(engine: Engine) -> list[int]:
    """Return the size of each stored blob; of those that rows name where a replica is open without its server."""
    if engine.settings.fresh:
        return sizes(engine.layout.blobs)
    sql = "SELECT any_value(size_bytes) FROM blobs GROUP BY artifact_path"
    return [int(size) for (size,) in engine.query(lambda con: con.execute(sql).fetchall())]


def _in_trash(con: Connection) -> tuple[int, int]:
    """Count the deletions in the trash, and the bytes that nothing but the trash keeps."""
    count, rows = con.execute("SELECT count(*), coalesce(sum(size_bytes), 0) FROM trash").fetchall()[0]
    artifacts = number(
        con,
        "SELECT coalesce(sum(size_bytes), 0)::BIGINT FROM blobs b WHERE EXISTS (SELECT 1 FROM artifact_refs r "
        "WHERE r.artifact_id = b.artifact_id) AND NOT EXISTS (SELECT 1 FROM artifact_refs r "
        "WHERE r.artifact_id = b.artifact_id AND r.owner_kind <> 'trash')",
    )
    arrays = unused_arrays(con, column(con, "SELECT trash_id FROM trash"))[1] - unused_arrays(con)[1]
    return int(count), int(rows) + artifacts + arrays


def _size_storage(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        # Another process applied a segment, or finished a file, between the listing and the look.
        return 0


# -- Giving the space of deleted rows back to the file system.


def vacuum(engine: Engine) -> tuple[int, int]:
    """Rewrite the catalog without the space of deleted rows."""

    def prune(con: Connection) -> None:
        trash.empty(con, trash.due(con))
        prune_arrays(con)

    def finish(con: Connection) -> None:
        # Into the new file: a later entry would have to be applied to it, and the old one stays as it was.
        note(engine, "vacuum", "workspace", details={"bytes": engine.layout.catalog.stat().st_size}, con=con)

    def work(access: Database) -> tuple[int, int]:
        access.transact(prune)
        if engine.journal.whole:
            # The file is this computer's alone, and the entry in the trail is everybody's.
            access.transact(finish)
        access.close_connection()
        before = engine.layout.catalog.stat().st_size
        access.rewrite((lambda con: None) if engine.journal.whole else finish)
        return before, engine.layout.catalog.stat().st_size

    sizes = engine.exclusive(work)
    engine.journal.sweep_tmp(engine.living_sessions())
    return sizes


# Its old home: pickles name it.
__getattr__ = imported_from(__name__, {"nirs_store.maintenance.deletion": ("RunDeletion",)})
