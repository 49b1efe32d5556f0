"""Check and repair of a shared workspace: its log, its blobs, and the replica on this computer.

A replica is never repaired: it is a cache, so another one is built from the log and takes its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from nirs_store.blobs.durable import ensure_dir
from nirs_store.db.database import Connection
from nirs_store.db.layout import Layout, put_in_place
from nirs_store.db.lock import alone
from nirs_store.db.session import Engine, Settings
from nirs_store.db.table import digests
from nirs_store.errors import (
    CatalogDamaged,
    ForeignCatalog,
    NirsStoreError,
    ReplicaRefused,
    SharedStoreUnreachable,
)
from nirs_store.maintenance import check as checks
from nirs_store.maintenance.check import Progress, is_old
from nirs_store.maintenance.findings import CheckReport, Finding, finding
from nirs_store.maintenance.repair import RepairPlan, mend_rows, rows_to_mend
from nirs_store.records.notes import note
from nirs_store.shared import checking, opening
from nirs_store.shared.log import NO_END
from nirs_store.shared.moving import put_from
from nirs_store.shared.offline import LocalBlobs
from nirs_store.shared.replica import Position, read_mark, read_position

_GC = "`nirs-store gc` removes it."
_LOST = ("blob_missing", "blob_size", "blob_corrupt")
# The parts of a plan that are carried out here once the replica is right.
_DONE = ("put_back", "add_rows", "remove_references", "add_references")
_TRIES = 3


class State(NamedTuple):
    """What a replica holds: the last commit, and digests of the rows of each table."""

    position: Position
    tables: dict[str, str]

    @property
    def digest(self) -> str:
        """One text for all of it."""
        return hashlib.sha256(json.dumps(self.tables, sort_keys=True).encode()).hexdigest()[:32]


def check_address(settings: Settings, *, read_data: bool, progress: Progress | None = None) -> CheckReport:
    """Check a shared workspace that is not open; a replica that cannot be opened is a finding."""
    try:
        engine = opening.open_engine(settings)
    except (CatalogDamaged, ForeignCatalog) as error:
        found = [finding("replica_damaged", "store.duckdb", str(error))]
        return CheckReport.of_findings(str(settings.shared), read_data, found, {})
    try:
        return check(engine, read_data=read_data, progress=progress)
    finally:
        engine.close()


def check(engine: Engine, *, read_data: bool, progress: Progress | None = None) -> CheckReport:
    """Check log, replica and blobs, and compare the replica with those of other computers; with `read_data` whole.

    With `read_data`, the replica is also compared with one that is built from the log.
    """
    report = _look(engine, read_data=read_data, progress=progress)
    if not read_data or report.of_kind("log_damaged") or report.of_kind("replica_differs"):
        return report
    wrong = _difference(engine, engine.settings)
    if wrong is None:
        return report
    found = [*report.findings, finding("replica_differs", str(engine.layout.root), wrong)]
    return CheckReport.of_findings(engine.place, read_data, found, report.counts)


def _look(engine: Engine, *, read_data: bool, progress: Progress | None) -> CheckReport:
    """Check everything but what takes another replica, built from the log."""
    state = _state(engine)
    timeout = engine.settings.lock_timeout
    report = checks.check(
        engine.access, engine.layout, read_data=read_data, timeout=timeout, progress=progress
    )
    now = time.time()
    found = []
    for each in report.findings:
        if each.kind == "blob_orphan":
            # The rows of a young one may be on their way, and a gc asks everybody.
            if is_old(engine.layout.blobs, each.where, now):
                found.append(replace(each, remedy=_GC))
        else:
            found.append(each)
    found += [
        finding("log_damaged", "log", f"{words}.")
        for words in checking.check_log(engine, read_data=read_data)
    ]
    others = checking.who_differs(engine, state.position.number, state.digest)
    if others:
        words = f"at commit {state.position.number} its rows are not those of {', '.join(others)}."
        found.append(finding("replica_differs", str(engine.layout.root), words))
    return CheckReport.of_findings(engine.place, read_data, found, report.counts)


def _state(engine: Engine) -> State:
    log = checking.log_of(engine)
    return engine.query(lambda con: State(read_position(con, log.workspace_id, engine.layout), digests(con)))


# -- Repair.


def repair(settings: Settings, *, dry_run: bool, progress: Progress | None = None) -> RepairPlan:
    """Plan the repair of a shared workspace, and carry it out unless `dry_run`."""
    # The place of the replica is the address's or the computer's, not a path that an open store has found.
    settings = replace(settings, root=Path(), session_id=None, create=False)
    reason, keep = None, False
    try:
        engine = opening.open_engine(settings)
    except (CatalogDamaged, ForeignCatalog) as error:
        place = opening.place_of(settings)
        mark = read_mark(place)
        if mark is None or mark.workspace_id != opening.workspace_id_of(settings):
            raise
        reason, keep = f"It cannot be used: {error}", isinstance(error, ReplicaRefused)
        plan = RepairPlan(str(place.root), rebuild=reason)
    else:
        try:
            plan = _plan(engine, settings, progress)
            place = Layout(engine.layout.root)
        finally:
            engine.close()
    if dry_run:
        return plan
    if plan.rebuild is not None:
        _rebuild(settings, place, keep=keep)
        # Only now can it be known what else is wrong.
        return replace(repair(settings, dry_run=False, progress=progress), rebuild=plan.rebuild)
    if any(getattr(plan, name) for name in _DONE):
        _carry_out(settings, plan)
    return plan


def _plan(engine: Engine, settings: Settings, progress: Progress | None) -> RepairPlan:
    report = _look(engine, read_data=True, progress=progress)
    # Of a log that is damaged no replica can be built.
    difference = None if report.of_kind("log_damaged") else _difference(engine, settings)
    lost = sorted({f.where for f in report.findings if f.kind in _LOST})
    copies = LocalBlobs(Layout(engine.layout.root), "cache")
    there = tuple(key for key in lost if _has(copies, key))
    damaged = report.of_kind("catalog_damaged")
    rebuild = difference or ("DuckDB cannot read all of it." if damaged else None)
    mine = ("catalog_damaged", "replica_differs", "blob_orphan")
    kept: list[Finding] = [
        f
        for f in report.findings
        if f.severity != "info" and f.where not in there and (f.kind not in mine or rebuild is None)
    ]
    root = str(engine.layout.root)
    if rebuild is not None:
        return RepairPlan(root, rebuild=rebuild, put_back=there, kept=tuple(kept))
    # What the log itself lacks: a direct change repairs it, for all computers.
    rows, healed = rows_to_mend(report, engine.layout.blobs)
    return RepairPlan(root, put_back=there, kept=tuple(f for f in kept if f not in healed), **rows)


def _has(copies: LocalBlobs, key: str) -> bool:
    try:
        copies.stat(key)
    except SharedStoreUnreachable:
        return False
    return True


def _carry_out(settings: Settings, plan: RepairPlan) -> None:
    engine = opening.open_engine(settings)
    try:
        source = Layout(engine.layout.root, LocalBlobs(Layout(engine.layout.root), "cache"))
        for key in plan.put_back:
            put_from(source, engine.layout.blobs, key)
        facts = {name: len(getattr(plan, name)) for name in _DONE if getattr(plan, name)}

        def work(con: Connection) -> None:
            mend_rows(con, engine, plan)
            note(engine, "repair", "workspace", details=facts, con=con)

        engine.change(work)
    finally:
        engine.close()


# -- Another replica, built from the log.


def _difference(engine: Engine, settings: Settings) -> str | None:
    """Say how a replica differs from one that is built from the log up to the same commit; None where it does not."""
    for _ in range(_TRIES):
        state = _state(engine)
        with _built(settings, engine.layout.root, until=state.position.number) as (_, built):
            if built.position != state.position:
                continue  # a newer snapshot was published meanwhile
            wrong = sorted(name for name, digest in built.tables.items() if state.tables.get(name) != digest)
            if wrong:
                return f"At commit {state.position.number} its rows of {', '.join(wrong)} are not those of the log."
            return None
    return None


@contextlib.contextmanager
def _built(settings: Settings, root: Path, *, until: int) -> Iterator[tuple[Layout, State]]:
    """Build a replica next to another one, which it may replace."""
    folder = root.with_name(f"{root.name}.rebuilt")
    if folder.is_dir():
        shutil.rmtree(folder)  # left by a repair that was killed
    beside = replace(settings.shared, replica=folder)
    try:
        engine = opening.open_engine(
            replace(settings, root=Path(), shared=beside, read_only=True, create=False), until=until
        )
        try:
            state = _state(engine)
        finally:
            engine.close()
        yield Layout(folder), state
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rebuild(settings: Settings, place: Layout, *, keep: bool) -> None:
    """Put another replica in the place of one, which is kept until the new one was compared there."""
    with _built(settings, place.root, until=NO_END) as (new, state):
        aside = place.root / (f"set-aside-{time.strftime('%Y%m%d-%H%M%S')}" if keep else "set-aside")
        with alone(place, timeout=settings.lock_timeout):
            ensure_dir(aside)
            for path in (place.wal, place.catalog):
                if path.exists():
                    put_in_place(path, aside / path.name)
            put_in_place(new.catalog, place.catalog)
    there = opening.open_engine(replace(settings, read_only=True), until=state.position.number)
    try:
        found = _state(there)
    finally:
        there.close()
    if found.position == state.position and found.tables != state.tables:
        raise NirsStoreError(
            f"{place.root} was built again and does not have the rows that it had a moment ago. The replica before is "
            f"in {aside}. Look at the disk."
        )
    if not keep:
        shutil.rmtree(aside, ignore_errors=True)
