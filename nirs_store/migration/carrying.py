"""Carrying a nirs4all workspace into one of this library's.

Rows keep their ids, artifacts get the SHA-256 of their bytes as id. So every row has one place to go to however
often it comes: what was brought before is found there and passed over, and a migration that was killed is
finished by running it again. Parents come first and each batch is one transaction, so that nothing in the target
ever names what is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nirs_store.addresses import user_path
from nirs_store.db.database import Connection
from nirs_store.db.layout import Layout, as_folder
from nirs_store.db.session import Engine, Settings
from nirs_store.errors import BlobCorrupt, BlobMissing, InvalidInput
from nirs_store.migration.batches import Batch, Import, existing, insert_missing, stored_rows
from nirs_store.migration.reading import OTHER_TABLES, Nirs4allSource, open_source
from nirs_store.migration.report import Counts, MigrationReport, Notes
from nirs_store.migration.rows import CARRIED

Progress = Callable[[str, int, int], None]

_FOLDERS = ("native_results", "outputs", "exports", "library", "logs")
# Columns that are derived from others, or about nirs4all's own bookkeeping.
_OWN = frozenset({"original_template"})
# Columns that belong to the migration and not to the source, or that people may change here.
_NOT_COMPARED = frozenset({"session_id", "name", "note", "tags", "environment"})
_EXAMPLES = 5


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
        A process is writing to the source; run it again later.
    InvalidInput
        One of the folders lies in the other.
    CatalogDamaged
        A file of the source cannot be read.

    Notes
    -----
    Ids stay as they are, so a second migration of the same workspace adds only what is new. Objects deleted
    in the target since do not come back.
    """
    as_folder(source, "source"), as_folder(target, "target")
    there, here = user_path(source), user_path(target)
    _check_apart(there, here)
    show = on_progress or (lambda what, done, total: None)
    with open_source(there) as opened:
        report = MigrationReport(str(there), str(here), opened.generation, dry_run)
        if dry_run and not Layout(here.absolute()).catalog.exists():
            _carry(opened, None, report, show, unpickle)
        else:
            engine = Engine.open(Settings(here.absolute(), read_only=dry_run))
            try:
                _carry(opened, engine, report, show, unpickle)
                if not dry_run:
                    _verify(opened, engine, report, show, unpickle)
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
    source: Nirs4allSource, engine: Engine | None, report: MigrationReport, show: Progress, unpickle: bool
) -> None:
    """Bring over batch after batch; in a dry run, count what would come. A dry run may have no target yet."""
    writing = None if report.dry_run else engine
    if writing is not None:
        # The session's row comes before any claim of its: see Engine.recording.
        with writing.recording(commit=True):
            pass
    notes = Notes()
    imported = Import(source, notes, writing.session_id if writing else "", unpickle=unpickle)
    coming: dict[str, set[str]] = {}
    seen: set[str] = set()

    def stored(table: str, ids: Sequence[str]) -> set[str]:
        return engine.query(lambda con: existing(con, table, ids)) if engine is not None else set()

    def present(table: str, ids: Sequence[str]) -> set[str]:
        return stored(table, ids) | (coming.get(table, set()) & set(ids))

    for batch in imported.batches(present):
        counts = report.counts.setdefault(batch.kind, Counts())
        there = stored(batch.table, batch.keys)
        counts.found += batch.found
        counts.present += len(there)
        counts.left_out += batch.found - len(batch.rows)
        files = report.counts.setdefault("artifacts", Counts())
        new = [sha for sha in batch.artifacts if sha not in seen]
        known = stored("blobs", new)
        files.present += len(known)
        files.added += len(new) - len(known)
        seen.update(new)
        if writing is None:
            counts.added += len(batch.rows) - len(there)
            coming.setdefault(batch.table, set()).update(batch.keys)
        else:
            with imported.artifacts.storing(writing, batch.artifacts) as blobs:
                counts.added += writing.change(lambda con, b=batch, rows=blobs: _insert(con, b, rows))  # type: ignore[misc]
        show(batch.kind, counts.found, imported.totals[batch.kind])
    _finish(source, imported, report, notes)


def _insert(con: Connection, batch: Batch, blobs: list[dict[str, Any]]) -> int:
    insert_missing(con, "blobs", blobs)
    insert_missing(con, "arrays", batch.arrays)
    added = insert_missing(con, batch.table, batch.rows)
    # Only for rows that are there: one that was deleted since does not hold its artifacts again.
    held = existing(con, batch.table, batch.keys)
    insert_missing(con, "artifact_refs", [ref for ref in batch.references if ref["owner_id"] in held])
    return added


def _finish(source: Nirs4allSource, imported: Import, report: MigrationReport, notes: Notes) -> None:
    """Count the artifacts, and note what has no place here."""
    for kind in imported.totals:
        report.counts.setdefault(kind, Counts())
    files = report.counts.setdefault("artifacts", Counts())
    files.found = imported.artifacts.files
    files.left_out = max(files.found - files.added - files.present, 0)
    if unused := imported.artifacts.unused:
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


# -- Reading back what was brought over, and comparing it with the source value by value.


def _verify(
    source: Nirs4allSource, engine: Engine, report: MigrationReport, show: Progress, unpickle: bool
) -> None:
    """Compare everything that is in the target with the source, and every file with its SHA-256."""
    # The source is read again: this does not trust what the carrying remembers.
    imported = Import(source, Notes(), "", unpickle=unpickle)
    differing: dict[str, list[str]] = {}

    def present(table: str, ids: Sequence[str]) -> set[str]:
        return engine.query(lambda con: existing(con, table, ids))

    wanted: dict[str, str] = {}
    done = 0
    files = report.counts["artifacts"]
    total = sum(imported.totals.values()) + files.added + files.present
    for batch in imported.batches(present):
        for key, problem in _compare(engine, batch):
            if problem is None:
                report.counts[batch.kind].verified += 1
            else:
                differing.setdefault(f"{batch.kind}: {problem}", []).append(key)
        wanted |= batch.artifacts
        done += batch.found
        show("verifying", done, total)
    for sha, name in wanted.items():
        record = engine.query(lambda con, sha=sha: stored_rows(con, "blobs", [sha]).get(sha))  # type: ignore[misc]
        try:
            if record is None:
                raise BlobMissing("no row")
            engine.blobs.verify(str(record["artifact_path"]), sha)
            report.counts["artifacts"].verified += 1
        except (BlobMissing, BlobCorrupt):
            differing.setdefault("artifacts: no intact file", []).append(name)
        done += 1
        show("verifying", done, total)
    report.differences = [
        f"{what}: {len(keys)} ({', '.join(keys[:_EXAMPLES])}{', ...' if len(keys) > _EXAMPLES else ''})"
        for what, keys in differing.items()
    ]


def _compare(engine: Engine, batch: Batch) -> list[tuple[str, str | None]]:
    stored = engine.query(lambda con: stored_rows(con, batch.table, batch.keys))
    arrays = [array["array_hash"] for array in batch.arrays]
    bytes_there = engine.query(lambda con: stored_rows(con, "arrays", arrays)) if arrays else {}
    data = {array["array_hash"]: array["data"] for array in batch.arrays}
    found: list[tuple[str, str | None]] = []
    for key, row in zip(batch.keys, batch.rows, strict=True):
        there = stored.get(key)
        if there is None:
            continue  # deleted here since an earlier migration
        wrong = _difference(row, there)
        if wrong is None and batch.kind == "arrays":
            hashes = [value for name, value in row.items() if name != "prediction_id"]
            if any(bytes_there.get(h, {}).get("data") != data[h] for h in hashes):
                wrong = "bytes differ"
        found.append((key, wrong))
    return found


def _difference(row: Mapping[str, Any], there: Mapping[str, Any]) -> str | None:
    for name, value in row.items():
        other = there.get(name)
        same = value == other or (value != value and other != other)
        if not same and name not in _NOT_COMPARED:
            return f"{name} differs"
    return None
