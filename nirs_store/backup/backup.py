"""Backups: made while others write, incremental by blob, verified; listed, pruned, restored."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from nirs_store.addresses import user_path
from nirs_store.backup.archive import BlobFile, Progress, blob_files, workspace_id
from nirs_store.backup.folder import (
    FOLDERS,
    FORMAT_VERSION,
    BackupFolder,
    File,
    Manifest,
    check_catalog,
    check_file,
    counted,
    verify_backup,
    warn,
)
from nirs_store.blobs.backend import stat_blob
from nirs_store.blobs.durable import (
    ensure_dir,
    fsync_dir,
    make_read_only,
    move_file,
    remove_file,
    sync_file,
    write_error,
    write_file,
)
from nirs_store.blobs.plain import hash_file, pieces_of, resolve_inside
from nirs_store.db.database import Connection, Database
from nirs_store.db.journal import sweep_drafts
from nirs_store.db.layout import Layout, as_folder
from nirs_store.db.schema import SCHEMA_VERSION
from nirs_store.db.session import Engine
from nirs_store.db.sql import number
from nirs_store.db.table import Table
from nirs_store.errors import (
    BackupInvalid,
    BlobMissing,
    InvalidInput,
    NirsStoreError,
    PathEscapes,
    WriteFailed,
)
from nirs_store.ids import naive, new_id, utcnow
from nirs_store.lazy import polars as pl
from nirs_store.records.notes import note
from nirs_store.records.queries import frame
from nirs_store.records.runs import environment
from nirs_store.values import as_duration

# -- Bringing a backup back into an empty folder.


@dataclass(frozen=True)
class RestoredBackup:
    """A workspace that was brought back: its folder, the backup, files and bytes."""

    folder: Path
    backup_id: str
    files: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**self.__dict__, "folder": str(self.folder)}


def restore_backup(
    target: str | Path,
    folder: str | Path,
    backup_id: str | None = None,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> RestoredBackup:
    """Bring a backup back into an empty or new folder.

    Everything is verified while it is copied into a folder next to it, which takes its name when it is whole.

    Parameters
    ----------
    target : str or Path
        The folder of backups.
    folder : str or Path
        Where the workspace is to be.
    backup_id : str, optional
        The newest by default.
    dry_run : bool
        Verify the backup and look at the folder; bring nothing back.
    progress : callable, optional
        Called with the bytes done and those to do.

    Raises
    ------
    InvalidInput
        The folder is not empty.
    BackupInvalid, UnknownId
        Something is missing or altered.
    WriteFailed
        Nothing was left behind.
    """
    source, place = BackupFolder(as_folder(target, "target")), as_folder(folder, "folder")
    manifest = source.get(backup_id)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise InvalidInput(
            f"folder: {place} is not empty. Nothing was restored; name an empty or new folder, and move it when you "
            "have looked at it."
        )
    if place.resolve().is_relative_to(source.root.resolve()):
        raise InvalidInput(f"folder: {place} lies inside the folder of backups. Nothing was restored.")
    if dry_run:
        verify_backup(target, manifest.backup_id, progress=progress)
        return RestoredBackup(place, manifest.backup_id, len(manifest.files), manifest.restored_bytes)
    draft = place.with_name(f".{place.name[:80]}.{new_id()}.tmp")
    try:
        ensure_dir(place.parent)
        sweep_drafts(place)
        ensure_dir(draft)
        _fill(source, manifest, draft, progress)
        check_catalog(draft / "store.duckdb")
        if place.exists():
            os.rmdir(place)
        os.rename(draft, place)
        fsync_dir(place.parent)
    except OSError as error:
        if isinstance(error, NirsStoreError):
            raise
        raise write_error(place, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return RestoredBackup(place, manifest.backup_id, len(manifest.files), manifest.restored_bytes)


def _fill(source: BackupFolder, manifest: Manifest, draft: Path, progress: Progress | None) -> None:
    layout = Layout(draft)
    for made in layout.folders:
        ensure_dir(made)
    named = {file.path for file in manifest.blobs}
    # The first of a name counts.
    files = {file.path: file for file in (manifest.catalog, *reversed(manifest.files))}
    folders = {draft}
    blobs: dict[str, Path] = {}
    try:
        for file in counted(files.values(), progress):
            target, is_blob = resolve_inside(draft, file.path), file.path in named
            is_catalog = file is manifest.catalog
            origin = source.catalog(manifest.backup_id) if is_catalog else source.blob(file.sha256)
            if not origin.is_file():
                raise BackupInvalid(
                    f"{origin} ({file.path}) is missing. Nothing was restored; use another backup."
                )
            if is_blob:
                target = blobs[file.path] = layout.blobs.scratch / str(len(blobs))
            ensure_dir(target.parent)
            folders.add(target.parent)
            shutil.copyfile(origin, target)
            sync_file(target)
            check_file(target, file)
            if is_blob:
                make_read_only(target)
        layout.blobs.put(blobs)
    except PathEscapes as error:
        raise BackupInvalid(f"{source.root}: {error} Nothing was restored.") from error
    for each in folders:
        fsync_dir(each)


# -- Making a backup: the catalog under the lock, then the blobs, then the manifest that makes it one.


# Files of people that no row names.
_EXTRAS = ("library",)


@dataclass(frozen=True)
class Backup:
    """A backup that was made and verified.

    Attributes
    ----------
    backup_id : str
    path : Path
        The folder of backups.
    created_at : datetime
        Everything committed before is in it.
    size_bytes, n_blobs : int
        What a restore brings back.
    new_bytes, new_blobs : int
        Files this backup added to the folder, apart from the catalog's copy. The bytes are also those of templates.
    parent_id : str or None
        The backup before.
    """

    backup_id: str
    path: Path
    created_at: datetime
    size_bytes: int
    n_blobs: int
    new_bytes: int
    new_blobs: int
    parent_id: str | None

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**self.__dict__, "path": str(self.path), "created_at": self.created_at.isoformat()}


def make_backup(
    engine: Engine,
    folder: BackupFolder,
    age: timedelta | None,
    *,
    allow_missing: bool,
    progress: Progress | None,
) -> Backup | None:
    """Make and verify a backup; None where the last one is younger than `age`."""
    folder.prepare(engine.query(workspace_id))
    with folder.locked():
        folder.sweep()
        last = _usable(folder)
        if age is not None and last and utcnow() - last[-1].created_at < age:
            return None
        # The session's row comes before any claim of its.
        with engine.recording():
            pass
        with ExitStack() as held:
            parent = last[-1].backup_id if last else None
            manifest = _write(engine, folder, parent, held, allow_missing, progress)
        engine.recorder.release_claims()
    made = backup_of(manifest, folder.root)
    row = {
        "backup_id": made.backup_id,
        "path": str(folder.root),
        "parent_id": made.parent_id,
        "size_bytes": made.size_bytes,
        "n_blobs": made.n_blobs,
        "catalog_hash": manifest.catalog.sha256,
        "status": "completed",
        "details": {"new_bytes": made.new_bytes, "new_blobs": made.new_blobs},
        "created_at": naive(made.created_at),
    }
    engine.change(lambda con: Table(con, "backups").insert([row]))
    return made


def _usable(folder: BackupFolder) -> list[Manifest]:
    """Backups that can be used; none, with a warning, where all are damaged: a new one is needed then most."""
    try:
        return folder.manifests()
    except BackupInvalid as error:
        folder.check()
        warn(str(error))
        return []


def _write(
    engine: Engine,
    folder: BackupFolder,
    parent: str | None,
    held: ExitStack,
    allow_missing: bool,
    progress: Progress | None,
) -> Manifest:
    backup_id = new_id()
    for name in FOLDERS:
        ensure_dir(folder.root / name)
    # The next backup sweeps a draft that was left by one that was killed.
    catalog = folder.catalog(backup_id).with_suffix(".tmp")
    moment: list[datetime] = []

    def copy(access: Database) -> tuple[list[BlobFile], str, dict[str, int]]:
        moment.append(utcnow())
        found = access.transact(_look)
        # The connection is closed first, so that opening the file drops no lock of this process.
        access.close_connection()
        if engine.layout.wal.exists():
            raise WriteFailed(
                f"{engine.layout.wal} could not be checkpointed, so the catalog cannot be copied. Nothing was lost; "
                "free space and call again."
            )
        shutil.copyfile(engine.layout.catalog, catalog)
        sync_file(catalog)
        # Still under the lock: a gc that comes next sees the claims, and removes nothing while blobs are copied.
        tokens = {token for blob in found[0] for token in (blob.artifact_id, blob.path)}
        held.enter_context(engine.recorder.claiming(*tokens))
        return found

    try:
        named, workspace, rows = engine.exclusive(copy)
        fsync_dir(catalog.parent)
        make_read_only(catalog)
        blobs = _present(engine, named, allow_missing)
        extras = list(_extras(engine.layout.root))
        fresh = _copy_files(engine, folder, blobs, extras, progress)
        manifest = Manifest(
            backup_id=backup_id,
            format_version=FORMAT_VERSION,
            workspace_id=workspace,
            workspace=str(engine.layout.root),
            created_at=moment[-1],
            schema_version=SCHEMA_VERSION,
            nirs_store=environment().get("nirs-store", ""),
            parent_id=parent,
            catalog=File("store.duckdb", hash_file(catalog), catalog.stat().st_size),
            blobs=blobs,
            extras=extras,
            rows=rows,
            # Templates of the library are copied as well, and are not blobs.
            new_blobs=len(fresh.keys() & {blob.sha256 for blob in blobs}),
            new_bytes=sum(fresh.values()),
        )
        _verify_new(folder, manifest, set(fresh), catalog)
        # The catalog is in its place before the manifest makes it a backup; killed in between, it is swept.
        write_file(folder.unfinished(backup_id), b"")
        move_file(catalog, folder.catalog(backup_id))
        write_file(folder.manifest(backup_id), msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    except BaseException as error:
        # Blobs stay: the next backup needs them, and a prune removes what none needs.
        paths = (folder.manifest, folder.catalog, folder.unfinished)
        for left in (catalog, *(path(backup_id) for path in paths)):
            remove_file(left, missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, NirsStoreError):
            raise write_error(folder.root, error) from error
        raise
    remove_file(folder.unfinished(backup_id), missing_ok=True)
    return manifest


def _look(con: Connection) -> tuple[list[BlobFile], str, dict[str, int]]:
    """Return what the catalog names at this moment: its blobs, itself, and how much it holds."""
    rows = {
        table: number(con, f"SELECT count(*) FROM {table}") for table in ("runs", "chains", "predictions")
    }
    return blob_files(con, None), workspace_id(con), rows


def backup_of(manifest: Manifest, root: Path) -> Backup:
    """Return what a manifest says."""
    return Backup(
        manifest.backup_id,
        root,
        manifest.created_at,
        manifest.size_bytes,
        len({blob.sha256 for blob in manifest.blobs}),
        manifest.new_bytes,
        manifest.new_blobs,
        manifest.parent_id,
    )


def _present(engine: Engine, blobs: Sequence[BlobFile], allow_missing: bool) -> list[File]:
    """Return the blobs whose files are there; the error of one that is not says what to do."""
    found = []
    for blob in blobs:
        try:
            # Asking for the path of one that is far away would fetch it.
            if stat_blob(engine.layout.blobs, blob.path) is None:
                engine.blobs.path_of(blob.path)
        except BlobMissing as error:
            if allow_missing:
                continue
            raise BlobMissing(
                f"{error} No backup was made; see `nirs-store check`, or make one without lost files with "
                "allow_missing=True (on the command line: --allow-missing)."
            ) from error
        found.append(File(blob.path, blob.content_hash, blob.size))
    return found


def _extras(root: Path) -> Sequence[File]:
    """Files of people that no row names: the templates of the library."""
    found = []
    for name in _EXTRAS:
        for path in sorted((root / name).rglob("*")):
            if path.is_file() and not path.is_symlink():
                found.append(File(path.relative_to(root).as_posix(), hash_file(path), path.stat().st_size))
    return found


def _copy_files(
    engine: Engine,
    folder: BackupFolder,
    blobs: Sequence[File],
    extras: Sequence[File],
    progress: Progress | None,
) -> dict[str, int]:
    """Copy what the folder does not have; gives the sizes by hash."""
    own = {file.sha256 for file in blobs}
    wanted = {file.sha256: file for file in (*extras, *blobs)}
    fresh: dict[str, int] = {}
    for file in counted(wanted.values(), progress):
        target = folder.blob(file.sha256)
        if not (target.is_file() and target.stat().st_size == file.size):
            is_blob = file.sha256 in own
            source = engine.blobs.path_of(file.path) if is_blob else engine.layout.root / file.path
            ensure_dir(target.parent)
            write_file(target, pieces_of(source), readonly=True)
            fresh[file.sha256] = file.size
    return fresh


def _verify_new(folder: BackupFolder, manifest: Manifest, fresh: set[str], catalog: Path) -> None:
    """Read back what was written, and look that the rest is there whole."""
    check_catalog(catalog)
    for file in manifest.contents:
        place = folder.blob(file.sha256)
        if file.sha256 in fresh and hash_file(place) != file.sha256:
            remove_file(place, missing_ok=True)
            raise BackupInvalid(
                f"{file.path} does not have the hash that its row says, in the workspace or on its way to {place}. No "
                "backup was made; run `nirs-store check --read-data`."
            )


# -- Removing backups beyond a number or an age: plan, then remove.


@dataclass(frozen=True)
class PrunePlan:
    """Backups to remove and to keep, and what removing frees."""

    remove: tuple[str, ...]
    keep: tuple[str, ...]
    blobs: tuple[str, ...]
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "remove": list(self.remove),
            "keep": list(self.keep),
            "blobs": len(self.blobs),
            "bytes": self.bytes,
        }


def plan_prune(folder: BackupFolder, keep_last: int | None, age: timedelta | None) -> PrunePlan:
    """Say which backups go and which blobs no other needs; the newest always stays."""
    found = folder.manifests()
    newest_first = found[::-1]
    now = utcnow()
    remove = [
        each
        for position, each in enumerate(newest_first)
        if position
        and (
            (keep_last is not None and position >= keep_last)
            or (age is not None and now - each.created_at > age)
        )
    ]
    gone = {each.backup_id for each in remove}
    keep = [each for each in found if each.backup_id not in gone]
    needed = {file.sha256 for each in keep for file in each.files}
    blobs = {path.name: path.stat().st_size for path in (folder.root / "blobs").glob("*/*") if path.is_file()}
    # A backup whose manifest cannot be read may need any of them, and its manifest may be repaired yet.
    unused = sorted(blobs.keys() - needed) if remove and folder.is_whole else []
    freed = sum(blobs[name] for name in unused) + sum(each.catalog.size for each in remove)
    return PrunePlan(tuple(sorted(gone)), tuple(each.backup_id for each in keep), tuple(unused), freed)


def carry_out(folder: BackupFolder, plan: PrunePlan) -> None:
    """Remove what a plan says."""
    # The manifest first: a half-removed folder is not a backup any more, and the next call knows to finish it.
    for backup_id in plan.remove:
        with contextlib.suppress(FileNotFoundError):
            move_file(folder.manifest(backup_id), folder.unfinished(backup_id))
    fsync_dir(folder.root / "backups")
    folder.sweep()
    for digest in plan.blobs:
        remove_file(folder.blob(digest), missing_ok=True)


@cache
def _columns() -> dict[str, Any]:
    return {
        "backup_id": pl.String,
        "created_at": pl.Datetime("us", "UTC"),
        "size_bytes": pl.Int64,
        "new_bytes": pl.Int64,
        "n_blobs": pl.Int64,
        "new_blobs": pl.Int64,
        "runs": pl.Int64,
        "chains": pl.Int64,
        "predictions": pl.Int64,
        "parent_id": pl.String,
        "path": pl.String,
    }


@dataclass(frozen=True)
class BackupPlan:
    """What a backup would add to its folder; `due` is False where the last one is young enough."""

    due: bool
    new_blobs: int
    new_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return dict(self.__dict__)


class Backups:
    """Backups of one workspace. Offered as `store.backups`."""

    def __init__(self, engine: Engine, *, store: object = None) -> None:
        self._engine = engine
        # Held, so that a store which nothing else holds is not closed under its view.
        self._store = store

    def create(
        self,
        target: str | Path,
        *,
        if_older_than: timedelta | float | str | None = None,
        allow_missing: bool = False,
        progress: Progress | None = None,
    ) -> Backup | None:
        """Make a backup, and verify it.

        Other processes keep recording and querying; only the copy of the catalog takes the lock.

        Parameters
        ----------
        target : str or Path
            A folder of backups outside the workspace; made when missing. Blobs that an earlier backup there has
            are not written again.
        if_older_than : timedelta, seconds, or text such as ``"24h"`` or ``"7d"``, optional
            Make one only when the last one there is older.
        allow_missing : bool
            Go on where the file of a blob is lost, as after a repair that could not bring it back.
        progress : callable, optional
            Called with the bytes done and those to do.

        Returns
        -------
        Backup or None
            None where the last one is young enough.

        Raises
        ------
        InvalidInput
            The target lies inside the workspace, or holds other things.
        BlobMissing, StoreBusy, WriteFailed, BackupInvalid
            There is no new backup; earlier ones are untouched.
        """
        age = None if if_older_than is None else as_duration(if_older_than, "if_older_than")
        folder = BackupFolder(as_folder(target, "target"))
        try:
            self._engine.check_writable()
            self._refuse_inside(folder.root)
            made = make_backup(self._engine, folder, age, allow_missing=allow_missing, progress=progress)
        except NirsStoreError as error:
            note(self._engine, "backup", "backup", success=False, message=str(error))
            raise
        if made is not None:
            note(self._engine, "backup", "backup", made.backup_id, details={"path": str(made.path)})
        return made

    def plan(self, target: str | Path, *, if_older_than: timedelta | float | str | None = None) -> BackupPlan:
        """List what `create` would copy besides the catalog; write nothing.

        Raises
        ------
        InvalidInput
            The target lies inside the workspace.
        BackupInvalid
        """
        age = None if if_older_than is None else as_duration(if_older_than, "if_older_than")
        folder = BackupFolder(as_folder(target, "target"))
        self._refuse_inside(folder.root)
        last = _usable(folder) if folder.root.is_dir() and folder.has_backups() else []
        due = age is None or not last or utcnow() - last[-1].created_at >= age
        blobs = {b.content_hash: b.size for b in self._engine.query(lambda con: blob_files(con, None))}
        fresh = [size for digest, size in blobs.items() if not folder.blob(digest).is_file()]
        return BackupPlan(due, len(fresh), sum(fresh))

    def list(self, target: str | Path | None = None) -> pl.DataFrame:
        """Backups in a folder, or, without one, those that this workspace remembers making; oldest first.

        Raises
        ------
        BackupInvalid
            The folder holds no backups.
        """
        if target is not None:
            found = BackupFolder(as_folder(target, "target")).manifests()
            return pl.DataFrame([_line(each, str(target)) for each in found], schema=_columns())
        sql = (
            "SELECT backup_id, created_at, size_bytes, n_blobs, status, parent_id, path FROM backups "
            "ORDER BY created_at, backup_id"
        )
        return self._engine.query(lambda con: frame(con, sql))

    def verify(
        self, target: str | Path, backup_id: str | None = None, *, progress: Progress | None = None
    ) -> None:
        """Read a backup whole and compare every hash.

        Raises
        ------
        BackupInvalid
            Something is missing or altered.
        UnknownId
        """
        verify_backup(target, backup_id, progress=progress)

    def prune(
        self,
        target: str | Path,
        *,
        keep_last: int | None = None,
        max_age: timedelta | float | str | None = None,
        dry_run: bool = False,
    ) -> PrunePlan:
        """Remove backups beyond a number or an age; the newest always stays.

        Parameters
        ----------
        keep_last : int, optional
            Keep so many of the newest.
        max_age : timedelta, seconds, or text such as ``"30d"``, optional
            Remove those that are older.
        dry_run : bool
            Return the plan and change nothing.

        Raises
        ------
        InvalidInput, BackupInvalid, StoreBusy
        """
        if keep_last is None and max_age is None:
            raise InvalidInput("keep_last, max_age: say at least one of them. Nothing was removed.")
        if keep_last is not None and (not isinstance(keep_last, int) or keep_last < 1):
            raise InvalidInput(f"keep_last: expected at least 1, found {keep_last!r}. Nothing was removed.")
        age = None if max_age is None else as_duration(max_age, "max_age")
        folder = BackupFolder(as_folder(target, "target"))
        folder.check()
        with folder.locked():
            if not dry_run:
                self._engine.check_writable()
                folder.sweep()
            plan = plan_prune(folder, keep_last, age)
            if dry_run or not plan.remove:
                return plan
            carry_out(folder, plan)
        self._engine.change(lambda con: Table(con, "backups").delete(backup_id=plan.remove))
        for backup_id in plan.remove:
            note(self._engine, "remove_backup", "backup", backup_id)
        return plan

    def restore(
        self,
        target: str | Path,
        folder: str | Path,
        backup_id: str | None = None,
        *,
        progress: Progress | None = None,
    ) -> RestoredBackup:
        """Bring a backup back into an empty folder; see `nirs_store.restore_backup`, which needs no store."""
        restored = restore_backup(target, folder, backup_id, progress=progress)
        note(self._engine, "restore_backup", "backup", restored.backup_id, details={"folder": str(folder)})
        return restored

    def _refuse_inside(self, target: Path) -> None:
        root, place = self._engine.layout.root.resolve(), target.resolve()
        if place == root or place.is_relative_to(root):
            raise InvalidInput(
                f"target: {target} lies inside the workspace {self._engine.layout.root}, and would be lost with it. "
                "Nothing was written; name a folder elsewhere, best on another disk."
            )


def _line(manifest: Manifest, path: str) -> dict[str, Any]:
    return {
        **backup_of(manifest, user_path(path)).__dict__,
        "path": path,
        **{name: manifest.rows.get(name, 0) for name in ("runs", "chains", "predictions")},
    }
