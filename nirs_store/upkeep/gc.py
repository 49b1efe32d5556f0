"""Garbage collection of artifacts: plan, then execute what was planned.

The plan is a pure value that can be printed; a dry run returns it. Files that no row names are
reported and never deleted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nirs_store.catalog import garbage
from nirs_store.catalog.access import CatalogAccess, Connection
from nirs_store.catalog.aside import aside_files, decide_aside, move_aside, settle_aside
from nirs_store.catalog.audit_notes import note
from nirs_store.catalog.deletion import prune_arrays
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.sessions import read_claims
from nirs_store.catalog.values import as_seconds
from nirs_store.upkeep.durations import GRACE_SECONDS

__all__ = ["GcPlan", "GcResult", "collect", "plan_gc"]

# Ids that the audit trail names.
_LISTED = 100
# From so many files on it is worth it not to wait for their deletion.
_MANY = 32


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
    """

    artifacts: tuple[garbage.Unreferenced, ...]
    files: tuple[str, ...]
    bytes: int
    expired_references: tuple[str, ...]
    unused_arrays: int
    unused_array_bytes: int
    unknown_files: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        plan = asdict(self)
        plan["artifacts"] = [a._asdict() for a in self.artifacts]
        return plan

    def __str__(self) -> str:
        text = (
            f"{len(self.files)} files of {len(self.artifacts)} unreferenced artifacts, {self.bytes:,} bytes; "
            f"{self.unused_arrays} unused arrays, {self.unused_array_bytes:,} bytes"
        )
        if self.unknown_files:
            text += f"; {len(self.unknown_files)} unknown files, left alone"
        return text


@dataclass(frozen=True)
class GcResult:
    """What a gc did."""

    files: int
    bytes: int
    plan: GcPlan


def plan_gc(engine: Engine, *, grace_seconds: float = GRACE_SECONDS) -> GcPlan:
    """Look what a gc would do; changes nothing."""
    grace = as_seconds(grace_seconds, "grace_seconds")
    return engine.query(lambda con: _plan(con, engine, engine.living_sessions(), grace, None))


def collect(
    engine: Engine,
    *,
    grace_seconds: float = GRACE_SECONDS,
    only: Sequence[str] | None = None,
    wait: bool = True,
) -> GcResult:
    """Remove artifacts that nothing holds, and unused arrays.

    Parameters
    ----------
    grace_seconds
        How long what a session saved is kept after its end.
    only
        Look at these artifacts only, and expire no references.
    wait
        Until all files are deleted. Otherwise many of them are out of reach when this returns and go while the
        store goes on: nobody else gets the catalog, and neither `close` nor a vacuum returns, before they have
        gone. The result says then what was planned.
    """
    grace = as_seconds(grace_seconds, "grace_seconds")

    def work(access: CatalogAccess) -> GcResult:
        access.sweeping = True
        try:
            return _collect(engine, access, grace, None if only is None else list(only), wait)
        finally:
            access.sweeping = False

    result = engine.exclusive(work, beside_removal=True)
    engine.journal.sweep_tmp()
    return result


def _collect(
    engine: Engine, access: CatalogAccess, grace_seconds: float, only: list[str] | None, wait: bool
) -> GcResult:
    def first(con: Connection) -> GcPlan:
        # Asked here, after the journal was applied: every session that has rows now and is not in the
        # list has ended.
        alive = engine.living_sessions()
        garbage.end_dead_sessions(con, alive)
        return _plan(con, engine, alive, grace_seconds, only)

    plan = access.transact(first)
    if plan.files:
        # What is set aside now may have the name of what an earlier gc is still deleting there.
        access.await_removal()
        move_aside(engine.layout, plan.files)
    # The order matters: files aside, then the claims, then (in transact) the journal.
    claimed = read_claims(engine.layout, remove_dead=True)

    def second(con: Connection) -> list[str]:
        if plan.unused_arrays:
            prune_arrays(con)
        gone = garbage.delete_unreferenced(
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
        engine.known.forget("artifact", artifact_id)
        engine.blobs.forget(artifact_id)
    if not plan.files:
        return GcResult(0, 0, plan)
    if not wait and len(plan.files) >= _MANY:
        access.remove_beside(access.settle(lambda con: decide_aside(con, engine.layout, claimed)))
        return GcResult(len(plan.files), plan.bytes, plan)
    files, size = access.settle(lambda con: settle_aside(con, engine.layout, claimed))
    return GcResult(files, size, plan)


def _plan(
    con: Connection, engine: Engine, alive: list[str], grace_seconds: float, only: list[str] | None
) -> GcPlan:
    expired = [] if only is not None else garbage.expired_references(con, alive, grace_seconds)
    candidates = garbage.unreferenced(con, expired, only)
    gone = {candidate.artifact_id for candidate in candidates}
    by_path = garbage.all_paths(con)
    files = sorted({c.artifact_path for c in candidates if gone.issuperset(by_path[c.artifact_path])})
    size = sum(_size(engine.layout.root, path) for path in files)
    count, array_bytes = (0, 0) if only is not None else garbage.unused_arrays(con)
    unknown = () if only is not None else tuple(sorted(_blob_files(engine) - by_path.keys()))
    return GcPlan(tuple(candidates), tuple(files), size, tuple(expired), count, array_bytes, unknown)


def _size(root: Path, relative: str) -> int:
    try:
        return os.stat(os.path.join(root, relative)).st_size
    except FileNotFoundError:
        return 0


def _blob_files(engine: Engine) -> set[str]:
    artifacts = engine.layout.artifacts
    found = set() if engine.access.removing else set(aside_files(engine.layout))
    folders = [(str(artifacts), artifacts.relative_to(engine.layout.root).as_posix())]
    # A path object a file, or a question to the system, takes several times as long as listing the folders does.
    while folders:
        folder, inside = folders.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue  # it is gone, or nobody's to read
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append((entry.path, f"{inside}/{entry.name}"))
            elif entry.is_file():
                found.add(f"{inside}/{entry.name}")
    return found
