"""Carrying a nirs4all workspace into one of this library's.

Rows keep their ids, artifacts get the SHA-256 of their bytes as id. So every row has one place to go to however
often it comes: what was brought before is found there and passed over, and a migration that was killed is
finished by running it again. Parents come first and each batch is one transaction, so that nothing in the target
ever names what is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nirs_store.addresses import user_path
from nirs_store.db.database import Connection
from nirs_store.db.layout import Layout, as_folder
from nirs_store.db.session import Engine, Settings
from nirs_store.errors import InvalidInput
from nirs_store.migration.arriving import Arrivals, Batch, Present, existing, insert_missing
from nirs_store.migration.reading import OTHER_TABLES, ForeignSource, open_source
from nirs_store.migration.report import Counts, MigrationReport, Notes
from nirs_store.migration.rows import CARRIED
from nirs_store.migration.verifying import verify

__all__ = ["migrate_nirs4all"]

Progress = Callable[[str, int, int], None]

_FOLDERS = ("native_results", "outputs", "exports", "library", "logs")
# Columns that are derived from others, or about nirs4all's own bookkeeping.
_OWN = frozenset({"original_template"})


def migrate_nirs4all(
    source: str | Path,
    target: str | Path,
    *,
    dry_run: bool = False,
    unpickle: bool = False,
    on_progress: Progress | None = None,
) -> MigrationReport:
    """Bring the runs, pipelines, chains, models, predictions and logs of a nirs4all workspace into one of ours.

    The source is only read, without making any file in it.

    Parameters
    ----------
    source : path
        A workspace of nirs4all 0.7 to 1.4: a folder with ``store.sqlite`` or ``store.duckdb``.
    target : path
        A nirs_store workspace, made when missing; it may hold other work already.
    dry_run : bool
        Read and count everything, write nothing.
    unpickle : bool
        Whether models that nirs4all's default engine keeps inside a dict may be loaded and taken out of it, so
        that their chains replay. That runs the code in those files; without it nothing is unpickled.
    on_progress : callable, optional
        Called with what is being done, how many of it are done, and of how many.

    Returns
    -------
    MigrationReport
        Counts, what was left behind and why, and whether everything was found in the target as in the source.

    Raises
    ------
    NotAWorkspace, ForeignCatalog
        The source is not a nirs4all workspace, or the target is something else than a workspace.
    StoreBusy
        Somebody is writing to the source; run it again later.
    InvalidInput
        One of the folders lies in the other.
    CatalogDamaged
        A file of the source cannot be read.

    Notes
    -----
    Ids stay as they are, so a second migration of the same workspace adds only what is new. What was deleted
    in the target since does not come back.
    """
    as_folder(source, "source"), as_folder(target, "target")
    there, here = user_path(source), user_path(target)
    _check_apart(there, here)
    show = on_progress or (lambda what, done, total: None)
    with open_source(there) as opened:
        report = MigrationReport(str(there), str(here), opened.generation, dry_run)
        exists = Layout(here.absolute()).catalog.exists()
        if dry_run and not exists:
            _count_only(opened, None, report, show, unpickle)
        else:
            engine = Engine.open(Settings(here.absolute(), read_only=dry_run))
            try:
                if dry_run:
                    _count_only(opened, engine, report, show, unpickle)
                else:
                    _carry(opened, engine, report, show, unpickle)
            finally:
                engine.close()
        opened.check_unchanged()
    return report


def _check_apart(source: Path, target: Path) -> None:
    one, other = source.resolve(), target.resolve()
    if one == other or one.is_relative_to(other) or other.is_relative_to(one):
        raise InvalidInput(
            f"source and target: expected two folders apart, found {source} and {target}. Nothing was read. The "
            "source stays as it is, so name another folder for the new workspace."
        )


def _carry(
    source: ForeignSource, engine: Engine, report: MigrationReport, show: Progress, unpickle: bool
) -> None:
    # The session's row comes before any claim of its: see Engine.recording.
    with engine.recording(commit=True):
        pass
    notes = Notes()
    arrivals = Arrivals(source, notes, engine.session_id, unpickle=unpickle)
    seen: set[str] = set()

    def present(table: str, ids: Sequence[str]) -> set[str]:
        return engine.query(lambda con: existing(con, table, ids))

    for batch in arrivals.batches(present):
        counts = report.counts.setdefault(batch.kind, Counts())
        _count(counts, batch, present(batch.table, batch.keys))
        _count_files(report, batch, seen, present)
        with arrivals.artifacts.storing(engine, batch.artifacts) as blobs:
            added = engine.change(lambda con, b=batch, rows=blobs: _insert(con, b, rows))  # type: ignore[misc]
        counts.added += added
        show(batch.kind, counts.found, arrivals.totals[batch.kind])
    _finish(source, arrivals, report, notes)
    verify(source, engine, report, show, unpickle=unpickle)


def _insert(con: Connection, batch: Batch, blobs: list[dict[str, Any]]) -> int:
    insert_missing(con, "blobs", blobs)
    insert_missing(con, "arrays", batch.arrays)
    added = insert_missing(con, batch.table, batch.rows)
    # Only for rows that are there: one that was deleted since does not hold its artifacts again.
    held = existing(con, batch.table, batch.keys)
    insert_missing(con, "artifact_refs", [ref for ref in batch.references if ref["owner_id"] in held])
    return added


def _count(counts: Counts, batch: Batch, there: set[str]) -> None:
    counts.found += batch.found
    counts.present += len(there)
    counts.left_out += batch.found - len(batch.rows)


def _count_files(report: MigrationReport, batch: Batch, seen: set[str], present: Present) -> None:
    files = report.counts.setdefault("artifacts", Counts())
    new = [sha for sha in batch.artifacts if sha not in seen]
    known = present("blobs", new)
    files.present += len(known)
    files.added += len(new) - len(known)
    seen.update(new)


def _count_only(
    source: ForeignSource, engine: Engine | None, report: MigrationReport, show: Progress, unpickle: bool
) -> None:
    notes = Notes()
    arrivals = Arrivals(source, notes, "", unpickle=unpickle)
    coming: dict[str, set[str]] = {}

    def present(table: str, ids: Sequence[str]) -> set[str]:
        return engine.query(lambda con: existing(con, table, ids)) if engine is not None else set()

    def present_or_coming(table: str, ids: Sequence[str]) -> set[str]:
        return present(table, ids) | (coming.get(table, set()) & set(ids))

    for batch in arrivals.batches(present_or_coming):
        counts = report.counts.setdefault(batch.kind, Counts())
        there = present(batch.table, batch.keys)
        _count(counts, batch, there)
        counts.added += len(batch.rows) - len(there)
        coming.setdefault(batch.table, set()).update(batch.keys)
        _count_files(report, batch, coming.setdefault("blobs", set()), present)
        show(batch.kind, counts.found, arrivals.totals[batch.kind])
    _finish(source, arrivals, report, notes)


def _finish(source: ForeignSource, arrivals: Arrivals, report: MigrationReport, notes: Notes) -> None:
    """Count the artifacts, and note what has no place here."""
    for kind in arrivals.totals:
        report.counts.setdefault(kind, Counts())
    files = report.counts.setdefault("artifacts", Counts())
    files.found = arrivals.artifacts.files
    files.left_out = max(files.found - files.added - files.present, 0)
    if unused := arrivals.artifacts.unused:
        notes.add("artifacts", "no chain uses it", unused[0], len(unused))
    for kind, counts in report.counts.items():
        # Found and written rows that were deleted in the target since.
        gone = counts.found - counts.left_out - counts.added - counts.present
        if kind != "artifacts" and not report.dry_run and gone > 0:
            notes.add(kind, "it was deleted in the target since an earlier migration", count=gone)
            counts.left_out += gone
    for table, carried in CARRIED.items():
        rest = [name for name in source.columns(table) if name not in carried and name not in _OWN]
        for column, count in source.filled(table, rest).items():
            notes.add(table, f"the column {column} has no counterpart", count=count)
    for table in OTHER_TABLES:
        if count := source.count(table):
            notes.add(table, "such results have no counterpart", count=count)
    for name in _FOLDERS:
        inside = sorted(path for path in (source.root / name).rglob("*") if path.is_file())
        if inside:
            notes.add("files", f"the folder {name} is not part of the store", inside[0].name, len(inside))
    report.left_out = notes.all()
