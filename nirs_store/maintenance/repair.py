"""Repairing a workspace: plan first, then execute what was planned.

Each step looks again whether it is still due when its turn comes, so a plan that is a minute old
does no harm.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from nirs_store.blobs.backend import BlobBackend, hash_blob
from nirs_store.blobs.durable import (
    ensure_dir,
    fsync_dir,
    move_file,
    remove_file,
    sync_file,
    write_error,
    write_file,
)
from nirs_store.blobs.plain import pieces_of, resolve_inside
from nirs_store.blobs.store import is_blob_key
from nirs_store.db.connection import CatalogLocked, Options, attach, inspect_catalog
from nirs_store.db.database import Connection, Database
from nirs_store.db.journal import Journal, SegmentDamaged, leftovers, remove_leftover
from nirs_store.db.layout import Layout, as_folder
from nirs_store.db.lock import alone, living, read_claims
from nirs_store.db.migrations import migration_copies
from nirs_store.db.session import Engine, Settings
from nirs_store.db.sql import interruptible, number
from nirs_store.db.table import Table
from nirs_store.errors import InvalidInput, NirsStoreError, SharedStoreUnreachable, StoreBusy
from nirs_store.ids import new_id, now_naive
from nirs_store.maintenance.check import Progress, check, is_old, read_segment, reader_of, stem_of
from nirs_store.maintenance.findings import CheckReport, Finding
from nirs_store.maintenance.gc import all_paths
from nirs_store.maintenance.inspection import HOLDERS, unreadable
from nirs_store.records.artifacts import on_disk
from nirs_store.records.notes import note
from nirs_store.values import as_seconds

# -- What a repair changes in the catalog; each statement looks again whether it is still due.


_IN_PIPELINES = ("chain", "record")


def remove_references(con: Connection, ref_ids: Sequence[str]) -> int:
    """Remove references of chains, records, files, evaluations and data sets that are gone; gives how many."""
    gone = " OR ".join(
        f"(owner_kind = '{kind}' AND owner_id NOT IN (SELECT {key} FROM {table}))"
        for kind, (table, key, *_) in HOLDERS.items()
    )
    sql = f"DELETE FROM artifact_refs WHERE ref_id IN (SELECT unnest(?)) AND ({gone})"
    return number(con, sql, [list(ref_ids)])


def add_references(con: Connection, pairs: Iterable[tuple[str, str]]) -> int:
    """Give owners the references that they lack to artifacts that they name; gives how many."""
    return sum(
        number(
            con,
            f"""
            INSERT INTO artifact_refs (ref_id, artifact_id, owner_kind, owner_id, pipeline_id, created_at)
            SELECT $ref, $artifact, '{kind}', c.{key}, {"c.pipeline_id" if kind in _IN_PIPELINES else "NULL"}, $now
            FROM {table} c WHERE c.{key} = $owner
              AND EXISTS (SELECT 1 FROM blobs b WHERE b.artifact_id = $artifact)
              AND NOT EXISTS (SELECT 1 FROM artifact_refs r WHERE r.owner_kind = '{kind}'
                              AND r.owner_id = $owner AND r.artifact_id = $artifact)
            """,
            {"ref": new_id(), "artifact": artifact_id, "owner": owner_id, "now": now_naive()},
        )
        for owner_id, artifact_id in pairs
        for kind, (table, key, *_) in HOLDERS.items()
    )


def add_blob_row(con: Connection, artifact_id: str, row: dict[str, Any]) -> int:
    """Give a file whose row is gone a row again; gives how many."""
    blobs = Table(con, "blobs")
    if blobs.keys(artifact_id=artifact_id):
        return 0
    blobs.insert([{"artifact_id": artifact_id, **row, "created_at": now_naive()}])
    return 1


# -- Moving files out of the way without ever deleting them.


_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def move_blobs(access: Database, layout: Layout, bad: Sequence[str], orphans: Sequence[str]) -> list[str]:
    """Move blobs to quarantine unless they are found good, named or claimed by then.

    Called inside `Database.exclusive`, with `access.sweeping` set.
    """
    blobs = layout.blobs
    there = [path for path in (*bad, *orphans) if blobs.stat(path) is not None]
    if not there:
        return []
    copies = {path: keep(layout, blobs.path(path)) for path in there}
    blobs.trash(there)
    # As in a gc: files aside, then the claims, then (in transact) the journal.
    claimed = read_claims(layout, remove_dead=True)
    wanted = access.transact(lambda con: set(all_paths(con))) | claimed
    moved = [p for p in there if (_is_bad(blobs, p) if p in bad else wanted.isdisjoint((p, stem_of(p))))]
    blobs.delete(moved)
    good = [path for path in there if path not in moved]
    blobs.restore(good)
    for path in good:
        remove_file(copies[path], missing_ok=True)
    return moved


def keep(layout: Layout, path: Path) -> Path:
    """Link a file into quarantine/, durably; if the name is in use, a number is added."""
    folder = resolve_inside(layout.root, "quarantine")
    ensure_dir(folder, shared=True)
    number = 1
    while True:
        target = folder / (path.name if number == 1 else f"{path.name}.{number}")
        try:
            _copy(layout, path, target)
            fsync_dir(folder)
            return target
        except FileExistsError:
            number += 1
        except OSError as error:
            raise write_error(target, error) from error


def _copy(layout: Layout, path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        write_file(target, pieces_of(path), tmp_dir=layout.tmp, replace=False)


def _is_bad(blobs: BlobBackend, path: str) -> bool:
    try:
        return hash_blob(blobs, path, trashed=True)[0] != stem_of(path)
    except FileNotFoundError:
        return False
    except SharedStoreUnreachable:
        raise
    except OSError:
        return True


# -- Putting the copy that a migration kept in the place of a catalog that cannot be read.


_VERSION = re.compile(r"-v(\d+)\.duckdb$")


def newest_copy(layout: Layout) -> Path | None:
    """Return the copy of the highest schema version that can be read whole; None when there is none."""
    for path in sorted(migration_copies(layout), key=_version, reverse=True):
        if _is_readable(path):
            return path
    return None


def restore_catalog(layout: Layout, copy: Path, *, timeout: float) -> None:
    """Put a copy in the place of the catalog; the old file is kept in quarantine/."""
    with alone(layout, timeout=timeout):
        # Another process may have put it right since the plan was made.
        if layout.catalog.exists() and _is_readable(layout.catalog):
            raise InvalidInput(f"{layout.catalog} can be read; it was left as it is. Check the store again.")
        _exchange(layout, copy)


def _exchange(layout: Layout, copy: Path) -> None:
    draft = layout.tmp / f"catalog-{new_id()}.duckdb"
    try:
        shutil.copyfile(copy, draft)
        sync_file(draft)
        # The log belongs to the old file and would be replayed into the new one: it goes first.
        for old in (layout.wal, layout.catalog):
            if old.exists():
                keep(layout, old)
        remove_file(layout.wal, missing_ok=True)
        fsync_dir(layout.root)
        move_file(draft, layout.catalog)
    except OSError as error:
        if isinstance(error, NirsStoreError):
            raise
        raise write_error(layout.catalog, error) from error
    finally:
        remove_file(draft, missing_ok=True)


def _is_readable(path: Path) -> bool:
    try:
        con = attach(path, read_only=True, options=Options(whole_indexes=True), spill=None)
    except CatalogLocked as error:
        raise StoreBusy(f"{path} is open {error}. Close it there and call again.", pid=error.pid) from error
    except NirsStoreError:
        return False
    try:
        inspect_catalog(con, path)
        return interruptible(con, lambda con: all(reason is None for _, _, reason in unreadable(con)))
    except (NirsStoreError, duckdb.Error):
        return False
    finally:
        con.close()


def _version(path: Path) -> int:
    found = _VERSION.search(path.name)
    return int(found[1]) if found else -1


# -- What a repair would do: a plain value, made from a check, the same in a dry run.


_CATALOG = ("catalog_missing", "catalog_damaged", "schema_too_new")
_BAD = ("blob_corrupt", "blob_size")
_HEALED = ("leftover", "dead_claim", "aside", "blob_orphan")
_SHOWN = 20


@dataclass(frozen=True)
class RepairPlan:
    """What a repair does. Nothing is deleted but leftovers of writes and claims; nothing is invented.

    Attributes
    ----------
    workspace : str
        The folder.
    restore_from : str or None
        The copy that takes the catalog's place. Nothing else is done then: repair again afterwards.
    bad_blobs : tuple of str
        Files that do not fit their hash, moved to quarantine/.
    orphans : tuple of str
        Blobs older than an hour that no row names, moved to quarantine/.
    add_rows : tuple of str
        Artifacts that chains name, whose row is gone and whose file is there and intact: they get a row.
    remove_references : tuple of str
        References of chains that are gone.
    add_references : tuple of (str, str)
        Chain and artifact: references that chains lack.
    reject_segments : tuple of str
        Commits that cannot be applied, moved to journal/rejected/.
    settle_aside : tuple of str
        Blobs that a gc had in the trash when it died: put back, or removed when nothing names them.
    leftovers, dead_claims : tuple of str
        Files removed.
    rebuild : str or None
        Why the replica of a shared workspace on this computer is built again from the log; None where it is right.
    put_back : tuple of str
        Missing or damaged blobs of a shared workspace of which this computer has a copy, which is put back.
    kept : tuple of Finding
        What no repair can heal. Rows whose data are lost stay as they are.
    """

    workspace: str
    restore_from: str | None = None
    bad_blobs: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()
    add_rows: tuple[str, ...] = ()
    remove_references: tuple[str, ...] = ()
    add_references: tuple[tuple[str, str], ...] = ()
    reject_segments: tuple[str, ...] = ()
    settle_aside: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    dead_claims: tuple[str, ...] = ()
    kept: tuple[Finding, ...] = ()
    rebuild: str | None = None
    put_back: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return (
            self.restore_from is None
            and self.rebuild is None
            and not any(items for _, items in self._actions())
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        lines = []
        if self.restore_from is not None:
            lines += [
                f"Move store.duckdb to quarantine/, put a copy of {self.restore_from} in its place, apply the journal.",
                "    What was recorded after that copy was made, and applied since, does not come back: those "
                "commits are gone from the journal.",
                "    Nothing else is done now; check and repair again afterwards.",
            ]
        if self.rebuild is not None:
            lines += [f"Build the replica {self.workspace} again from the log.", f"    {self.rebuild}"]
        for words, items in self._actions():
            lines += _listed(f"{words} ({len(items)})", items)
        lines += _listed(f"Lost or left as it is ({len(self.kept)})", self.kept)
        return "\n".join(lines) or "Nothing to repair."

    def _actions(self) -> list[tuple[str, tuple[Any, ...]]]:
        return [
            ("Put blobs back from the copies on this computer", self.put_back),
            ("Move blobs that do not fit their hash to quarantine/", self.bad_blobs),
            ("Move blobs that no row names to quarantine/", self.orphans),
            ("Give artifacts that chains name their row again", self.add_rows),
            ("Remove references of chains that are gone", self.remove_references),
            (
                "Add references that chains lack",
                tuple(f"chain {chain} to artifact {artifact}" for chain, artifact in self.add_references),
            ),
            ("Set commits that cannot be applied aside in journal/rejected/", self.reject_segments),
            ("Put back, or remove, the pending deletions of a gc that died", self.settle_aside),
            ("Remove unfinished writes", self.leftovers),
            ("Remove claims of stores that died", self.dead_claims),
        ]


def _subjects(report: CheckReport, kind: str) -> tuple[str, ...]:
    return tuple(finding.subject[0] for finding in report.of_kind(kind))


def _is_intact(blobs: BlobBackend, artifact_id: str, path: str) -> bool:
    try:
        return hash_blob(blobs, path)[0] == artifact_id
    except SharedStoreUnreachable:
        raise
    except OSError:
        return False


def _listed(words: str, items: Iterable[Any]) -> list[str]:
    shown = [f"    {item}".replace("\n", "\n    ") for item in items]
    if not shown:
        return []
    more = [f"    and {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
    return [f"{words}:", *shown[:_SHOWN], *more]


def plan_workspace_repair(
    root: str | Path,
    *,
    restore_catalog: bool = False,
    lock_timeout: float = 30.0,
    progress: Progress | None = None,
) -> RepairPlan:
    """Plan the repair of a folder without opening it as a store; changes nothing."""
    layout, timeout = Layout(as_folder(root, "root")), as_seconds(lock_timeout, "lock_timeout")
    access = reader_of(layout)
    return plan_repair(access, layout, restore_catalog=restore_catalog, timeout=timeout, progress=progress)


def repair_workspace(root: str | Path, plan: RepairPlan, *, lock_timeout: float = 30.0) -> None:
    """Execute a plan on a folder that is not open as a store, also one without a catalog."""
    if plan.empty:
        return
    layout, timeout = Layout(as_folder(root, "root")), as_seconds(lock_timeout, "lock_timeout")
    if plan.restore_from is not None:
        restore_catalog(layout, layout.root / plan.restore_from, timeout=timeout)
    engine = Engine.open(Settings(layout.root, create=False, lock_timeout=timeout))
    try:
        if plan.restore_from is None:
            execute_repair(engine, plan)
        else:
            _open_anew(engine)
    finally:
        engine.close()


def repair(engine: Engine, *, dry_run: bool, restore_catalog: bool) -> RepairPlan:
    """Repair a workspace, or plan it; see `WorkspaceStore.repair`."""
    if dry_run:
        engine.flush()
    else:
        engine.check_writable()
        engine.recorder.flush()
    timeout = engine.settings.lock_timeout
    plan = plan_repair(engine.access, engine.layout, restore_catalog=restore_catalog, timeout=timeout)
    if not dry_run:
        execute_repair(engine, plan)
    return plan


def plan_repair(
    access: Database,
    layout: Layout,
    *,
    restore_catalog: bool,
    timeout: float,
    progress: Progress | None = None,
) -> RepairPlan:
    """Check everything and plan what can be done about it; changes nothing."""
    report = check(access, layout, read_data=True, timeout=timeout, progress=progress)
    now = time.time()
    workspace = str(layout.root)
    if report.of_kind(*_CATALOG):
        # Without all rows it is unknown which blobs have no owner.
        copy = None
        if restore_catalog and not report.of_kind("schema_too_new"):
            copy = newest_copy(layout)
        kept = tuple(f for f in report.findings if f.severity != "info")
        source = None if copy is None else copy.relative_to(layout.root).as_posix()
        return RepairPlan(workspace, restore_from=source, kept=kept)
    rows, mended = rows_to_mend(report, layout.blobs)
    orphans = [path for path in _subjects(report, "blob_orphan") if is_old(layout.blobs, path, now)]
    healed = {*mended, *report.of_kind(*_HEALED)}
    kept = tuple(f for f in report.findings if f.severity != "info" and f not in healed)
    return RepairPlan(
        workspace,
        bad_blobs=tuple(dict.fromkeys(f.where for f in report.of_kind(*_BAD) if is_blob_key(f.where))),
        orphans=tuple(orphans),
        **rows,
        reject_segments=_subjects(report, "segment_damaged"),
        settle_aside=_subjects(report, "aside"),
        leftovers=_subjects(report, "leftover"),
        dead_claims=_subjects(report, "dead_claim"),
        kept=kept,
    )


def rows_to_mend(report: CheckReport, blobs: BlobBackend) -> tuple[dict[str, Any], list[Finding]]:
    """Return the parts of a plan that repair rows, and the findings that are then no more."""
    restorable = {
        f.subject[0] for f in report.of_kind("artifact_row_missing") if _is_intact(blobs, *f.subject)
    }
    rows_gone = {finding.subject[0] for finding in report.of_kind("artifact_missing")}
    lacking = [(f.subject[0], f.subject[1]) for f in report.of_kind("reference_missing")]
    rows = {
        "add_rows": tuple(sorted(restorable)),
        "remove_references": _subjects(report, "reference_dangling"),
        "add_references": tuple(pair for pair in lacking if pair[1] not in rows_gone),
    }
    healed = [f for f in report.of_kind("artifact_row_missing") if f.subject[0] in restorable]
    return rows, [*healed, *report.of_kind("reference_dangling", "reference_missing")]


def execute_repair(engine: Engine, plan: RepairPlan) -> None:
    """Do what a plan says."""
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
        restore_catalog(layout, layout.root / plan.restore_from, timeout=timeout)
        _open_anew(engine)
        return
    if plan.reject_segments or plan.leftovers or plan.dead_claims:
        _clear(engine, plan)
    rows = (plan.add_rows, plan.remove_references, plan.add_references)
    if not any((plan.bad_blobs, plan.orphans, plan.settle_aside, *rows)):
        return

    def work(access: Database) -> None:
        # The trash is settled by now; what comes there from here on is ours.
        access.sweeping = True
        try:
            access.transact(lambda con: mend_rows(con, engine, plan))
            for path in move_blobs(access, layout, plan.bad_blobs, plan.orphans):
                engine.blobs.forget(stem_of(path))
        finally:
            access.sweeping = False

    engine.exclusive(work)


def _clear(engine: Engine, plan: RepairPlan) -> None:
    """Reject damaged commits and sweep, under a lock of its own: the journal is not applied yet."""
    layout, journal = engine.layout, Journal(engine.layout)
    engine.recorder.flush()
    with alone(layout, timeout=engine.settings.lock_timeout):
        for entry in journal.pending():
            if entry.path.name in plan.reject_segments:
                try:
                    read_segment(entry)
                except SegmentDamaged as error:
                    journal.reject(entry, reason=f"damaged: {error}", claim="", at=now_naive().isoformat())
        if plan.dead_claims:
            read_claims(layout, remove_dead=True)
        # Looked for again: since the plan was made, a process may have begun to write there.
        left = set(leftovers(layout, living(layout))) if plan.leftovers else set()
        for place in plan.leftovers:
            if layout.root / place in left:
                remove_leftover(layout.root / place)


def mend_rows(con: Connection, engine: Engine, plan: RepairPlan) -> None:
    """Give rows and references back, and remove references of what is gone."""
    blobs = engine.layout.blobs
    for artifact_id in plan.add_rows:
        row = on_disk(blobs, artifact_id)
        # In a shared workspace a gc may have given the key up, and its object be deleted later.
        if row is None or not engine.blobs.is_current(row["artifact_path"]):
            continue
        if hash_blob(blobs, row["artifact_path"])[0] == artifact_id:
            add_blob_row(con, artifact_id, row)
    remove_references(con, plan.remove_references)
    add_references(con, plan.add_references)


def _open_anew(engine: Engine) -> None:
    """Query once, which brings the schema up to date and applies the journal."""
    engine.query(lambda con: None)
