"""Repairing a workspace: plan first, then execute what was planned.

Each step looks again whether it is still due when its turn comes, so a plan that is a minute old
does no harm.
"""

from __future__ import annotations

import time
from pathlib import Path

from nirs_store.blobs.durable import remove_file
from nirs_store.blobs.verified import hash_file
from nirs_store.catalog.access import CatalogAccess, Connection
from nirs_store.catalog.artifacts import on_disk
from nirs_store.catalog.audit_notes import note
from nirs_store.catalog.buffer import now_naive
from nirs_store.catalog.engine import Engine, Settings
from nirs_store.catalog.journal import Journal
from nirs_store.catalog.layout import Layout, as_folder
from nirs_store.catalog.lease import Lease
from nirs_store.catalog.mending import add_blob_row, add_references, remove_references
from nirs_store.catalog.segments import SegmentDamaged
from nirs_store.catalog.sessions import read_claims
from nirs_store.catalog.values import as_seconds
from nirs_store.upkeep.blobfiles import Progress
from nirs_store.upkeep.check import check, reader_of
from nirs_store.upkeep.quarantine import move_blobs
from nirs_store.upkeep.repairplan import RepairPlan, make_plan
from nirs_store.upkeep.restore import restore_catalog as put_copy_in_place
from nirs_store.upkeep.structure import stem_of
from nirs_store.upkeep.surroundings import is_old, read_segment

__all__ = ["execute_repair", "plan_repair", "plan_workspace_repair", "repair_workspace"]


def plan_workspace_repair(
    root: str | Path,
    *,
    restore_catalog: bool = False,
    lock_timeout: float = 30.0,
    progress: Progress | None = None,
) -> RepairPlan:
    """Plan the repair of a folder without opening it as a store; changes nothing.

    Raises
    ------
    NotAWorkspace, StoreBusy
    """
    layout, timeout = Layout(as_folder(root, "root")), as_seconds(lock_timeout, "lock_timeout")
    access = reader_of(layout)
    return plan_repair(access, layout, restore_catalog=restore_catalog, timeout=timeout, progress=progress)


def repair_workspace(root: str | Path, plan: RepairPlan, *, lock_timeout: float = 30.0) -> None:
    """Execute a plan on a folder that nobody opened as a store, also one without a catalog.

    Raises
    ------
    ReadOnlyStore, StoreBusy, WriteFailed
    """
    if plan.empty:
        return
    layout, timeout = Layout(as_folder(root, "root")), as_seconds(lock_timeout, "lock_timeout")
    if plan.restore_from is not None:
        put_copy_in_place(layout, layout.root / plan.restore_from, timeout=timeout)
    engine = Engine.open(Settings(layout.root, create=False, lock_timeout=timeout))
    try:
        if plan.restore_from is None:
            execute_repair(engine, plan)
        else:
            _open_anew(engine)
    finally:
        engine.close()


def plan_repair(
    access: CatalogAccess,
    layout: Layout,
    *,
    restore_catalog: bool,
    timeout: float,
    progress: Progress | None = None,
) -> RepairPlan:
    """Check everything and plan what can be done about it."""
    report = check(access, layout, read_data=True, timeout=timeout, progress=progress)
    return make_plan(layout, report, restore_catalog=restore_catalog)


def execute_repair(engine: Engine, plan: RepairPlan) -> None:
    """Do what a plan says.

    Raises
    ------
    ReadOnlyStore, StoreBusy, WriteFailed
        What was done until then stays done; call again for the rest.
    """
    engine.check_writable()
    if plan.empty:
        return
    _execute(engine, plan)
    facts = {
        name: len(value) if isinstance(value, (list, tuple)) else value for name, value in vars(plan).items()
    }
    done = {name: value for name, value in facts.items() if value}
    engine.change(lambda con: note(engine, "repair", "workspace", details=done, con=con))


def _execute(engine: Engine, plan: RepairPlan) -> None:
    layout, timeout = engine.layout, engine.settings.lock_timeout
    if plan.restore_from is not None:
        engine.recorder.flush()
        put_copy_in_place(layout, layout.root / plan.restore_from, timeout=timeout)
        _open_anew(engine)
        return
    if plan.reject_segments or plan.leftovers or plan.dead_claims:
        _clear(engine, plan)
    if not (plan.bad_blobs or plan.orphans or plan.settle_aside or plan.add_rows or _references(plan)):
        return

    def work(access: CatalogAccess) -> None:
        # What was aside is settled by now; what comes there from here on is ours.
        access.sweeping = True
        try:
            access.transact(lambda con: _mend(con, layout, plan))
            for path in move_blobs(access, layout, plan.bad_blobs, plan.orphans):
                engine.blobs.forget(stem_of(path))
        finally:
            access.sweeping = False

    engine.exclusive(work)


def _clear(engine: Engine, plan: RepairPlan) -> None:
    """Set damaged commits aside and sweep, under a lease of its own: the journal is not applied yet."""
    layout, journal = engine.layout, Journal(engine.layout)
    engine.recorder.flush()
    lease = Lease(layout, writable=True)
    lease.acquire(exclusive=True, timeout=engine.settings.lock_timeout)
    try:
        for entry in journal.pending():
            if entry.path.name in plan.reject_segments:
                try:
                    read_segment(entry)
                except SegmentDamaged as error:
                    journal.reject(entry, reason=f"damaged: {error}", claim="", at=now_naive().isoformat())
        if plan.dead_claims:
            read_claims(layout, remove_dead=True)
        for path in plan.leftovers:
            if is_old(layout.root / path, time.time()):
                remove_file(layout.root / path, missing_ok=True)
    finally:
        lease.release()


def _mend(con: Connection, layout: Layout, plan: RepairPlan) -> None:
    for artifact_id in plan.add_rows:
        row = on_disk(layout, artifact_id)
        if row is not None and hash_file(layout.root / row["artifact_path"])[0] == artifact_id:
            add_blob_row(con, artifact_id, row)
    remove_references(con, plan.remove_references)
    add_references(con, plan.add_references)


def _references(plan: RepairPlan) -> bool:
    return bool(plan.remove_references or plan.add_references)


def _open_anew(engine: Engine) -> None:
    """The first query brings the schema up to date and applies the journal."""
    engine.query(lambda con: None)
