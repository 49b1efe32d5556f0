"""Backups: made while others write, incremental by blob, verified; listed, pruned, restored."""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from nirs_store.addresses import user_path
from nirs_store.audit.trail import note
from nirs_store.backup.archive import BlobFile, Progress, blob_files, workspace_id
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
from nirs_store.db.connection import CatalogLocked, Options, attach, schema_version
from nirs_store.db.database import Connection, Database
from nirs_store.db.interrupts import interruptible
from nirs_store.db.journal import sweep_drafts
from nirs_store.db.layout import Layout, as_folder
from nirs_store.db.lock import open_lock_file, try_lock, unlock
from nirs_store.db.schema import SCHEMA_VERSION, column_names
from nirs_store.db.session import Engine
from nirs_store.db.sql import number
from nirs_store.db.table import Table
from nirs_store.errors import (
    BackupInvalid,
    BlobMissing,
    InvalidInput,
    NirsStoreError,
    PathEscapes,
    StoreBusy,
    UnknownId,
    WriteFailed,
)
from nirs_store.ids import naive, new_id, utcnow
from nirs_store.lazy import polars as pl
from nirs_store.maintenance.inspection import altered_arrays, unreadable
from nirs_store.records.queries import frame
from nirs_store.records.runs import environment
from nirs_store.values import as_duration

__all__ = [
    "Backup",
    "BackupFolder",
    "BackupPlan",
    "Backups",
    "CatalogCopy",
    "File",
    "Manifest",
    "PrunePlan",
    "RestoredBackup",
    "backup_of",
    "backup_rows",
    "carry_out",
    "check_catalog",
    "copy_catalog",
    "forget_backups",
    "make_backup",
    "plan_prune",
    "restore_backup",
    "verify_backup",
]


# -- What a backup takes of the catalog, and the row that remembers it.


class CatalogCopy:
    """A copy of the catalog as of one moment, and the blobs that it names."""

    def __init__(self, blobs: list[BlobFile], workspace_id: str, rows: dict[str, int]) -> None:
        self.blobs = blobs
        self.workspace_id = workspace_id
        self.rows = rows


def copy_catalog(engine: Engine, access: Database, draft: Path) -> CatalogCopy:
    """Copy the catalog under the exclusive lease, with every commit made before applied.

    The blobs that it names are claimed by the caller before the lease ends: nothing removes them while they are
    copied. The connection is closed first, so that opening the file drops no lock of this process.
    """

    def look(con: Connection) -> CatalogCopy:
        counted = {
            table: number(con, f"SELECT count(*) FROM {table}") for table in ("runs", "chains", "predictions")
        }
        return CatalogCopy(blob_files(con, None), workspace_id(con), counted)

    found = access.transact(look)
    access.close_connection()
    if engine.layout.wal.exists():
        raise WriteFailed(
            f"{engine.layout.wal} could not be checkpointed, so the catalog cannot be copied. Nothing was lost; free "
            "space and call again."
        )
    shutil.copyfile(engine.layout.catalog, draft)
    sync_file(draft)
    return found


def forget_backups(con: Connection, ids: list[str]) -> int:
    """Forget backups that are gone, inside the caller's transaction."""
    return len(Table(con, "backups").delete(backup_id=ids))


def backup_rows(con: Connection) -> pl.DataFrame:
    """Backups that this workspace remembers, oldest first."""
    names = ", ".join(column_names("backups"))
    return frame(con, f"SELECT {names} FROM backups ORDER BY created_at, backup_id")


# -- A folder of backups: catalogs by backup, blobs once for all of them, and a manifest that makes a backup one.


_MARK = "nirs_store-backups.json"
_FORMAT = "nirs_store-backups"
FORMAT_VERSION = 1


class File(msgspec.Struct, frozen=True):
    """A file of the workspace: its path there, hash and size."""

    path: str
    sha256: str
    size: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One backup."""

    backup_id: str
    format_version: int
    workspace_id: str
    workspace: str
    created_at: datetime
    schema_version: int
    nirs_store: str
    parent_id: str | None
    catalog: File
    blobs: list[File]
    extras: list[File]
    rows: dict[str, int]
    new_blobs: int
    new_bytes: int

    @property
    def size_bytes(self) -> int:
        """Bytes of everything that a restore brings back."""
        return self.catalog.size + sum(
            file.size for file in {f.sha256: f for f in (*self.blobs, *self.extras)}.values()
        )

    @property
    def files(self) -> list[File]:
        """Blobs and extras."""
        return [*self.blobs, *self.extras]


_FOLDERS_OF_BACKUPS = ("backups", "catalogs", "blobs")


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=2)


class _Mark(msgspec.Struct):
    format: str
    format_version: int
    workspace_id: str


class BackupFolder:
    """The places in a folder of backups."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def mark(self) -> Path:
        """Says that this is a folder of backups, and whose."""
        return self.root / _MARK

    def manifest(self, backup_id: str) -> Path:
        """Where a backup's manifest is."""
        return self.root / "backups" / f"{backup_id}.json"

    def unfinished(self, backup_id: str) -> Path:
        """Say that a backup is half made, or half removed: only with a manifest is it one."""
        return self.root / "backups" / f"{backup_id}.unfinished"

    def catalog(self, backup_id: str) -> Path:
        """Where a backup's catalog is."""
        return self.root / "catalogs" / f"{backup_id}.duckdb"

    def blob(self, digest: str) -> Path:
        """Where a file's content is."""
        return self.root / "blobs" / digest[:2] / digest

    def prepare(self, workspace_id: str) -> None:
        """Make the folder, or check that it holds backups of this workspace."""
        if not self._has_backups():
            self._refuse_foreign()
            for folder in (self.root, *(self.root / name for name in _FOLDERS_OF_BACKUPS)):
                ensure_dir(folder)
            self._write_mark(workspace_id)
        found = self.check()
        if found != workspace_id:
            raise InvalidInput(
                f"target: {self.root} holds the backups of another workspace ({found}). Nothing was written; name "
                "another folder."
            )
        try:
            self._read_mark()
        except (OSError, msgspec.DecodeError, RecursionError):
            self._write_mark(workspace_id)

    def check(self) -> str:
        """Check that this is a folder of backups; gives the workspace's id.

        Where the mark is lost or damaged, the backups say whose they are.
        """
        try:
            mark = self._read_mark()
        except (OSError, msgspec.DecodeError, RecursionError) as error:
            owners = {manifest.workspace_id for manifest in self._look()[0]}
            if len(owners) == 1:
                _warn(
                    f"{self.mark} cannot be read ({error}). The backups say whose they are; they can be used."
                )
                return owners.pop()
            raise BackupInvalid(
                f"{self.root} is not a folder of backups: {_MARK} cannot be read ({error}). Nothing was changed; "
                "name the folder that was given to `nirs-store backup create`."
            ) from error
        if mark.format != _FORMAT or mark.format_version > FORMAT_VERSION:
            raise BackupInvalid(
                f"{self.root} holds backups of the format {mark.format} {mark.format_version}; this nirs_store reads "
                f"up to {FORMAT_VERSION}. Nothing was changed."
            )
        return mark.workspace_id

    def _has_backups(self) -> bool:
        """Tell whether backups were made here: there is a mark, or, where that was lost, a manifest."""
        return (self.mark.is_file() and bool(self.mark.stat().st_size)) or bool(self._manifest_paths())

    def _refuse_foreign(self) -> None:
        """Refuse a folder that holds anything but what a first `create` leaves that was killed."""
        foreign: Path | None = self.root
        if not os.path.lexists(self.root):
            return
        if self.root.is_dir():
            ours = {*_FOLDERS_OF_BACKUPS, "lock", _MARK}
            foreign = next(
                (
                    path
                    for path in sorted(self.root.iterdir())
                    if not (path.name in ours or (path.name.startswith(_MARK) and path.name.endswith(".tmp")))
                    # Before the mark is written, nothing goes into the folders.
                    or (path.is_dir() and any(path.iterdir()))
                ),
                None,
            )
        if foreign is not None:
            raise InvalidInput(
                f"target: {self.root} is not empty and holds no backups (found {foreign.name!r}). Nothing was written; "
                "name an empty or new folder."
            )

    def _read_mark(self) -> _Mark:
        return msgspec.json.decode(self.mark.read_bytes(), type=_Mark)

    def _write_mark(self, workspace_id: str) -> None:
        mark = _Mark(_FORMAT, FORMAT_VERSION, workspace_id)
        write_file(self.mark, msgspec.json.format(msgspec.json.encode(mark)))

    def sweep(self) -> None:
        """Remove what a `create` or `prune` left that was killed; the folder is locked."""
        for name in (
            "backups/*.unfinished",
            "catalogs/*.tmp",
            "blobs/*/*.tmp",
            "backups/*.tmp",
            f"{_MARK}.*.tmp",
        ):
            for path in self.root.glob(name):
                if path.suffix == ".unfinished" and not os.path.lexists(self.manifest(path.stem)):
                    # Half made or half removed: its catalog goes first, then the note of it.
                    remove_file(self.catalog(path.stem), missing_ok=True)
                remove_file(path, missing_ok=True)

    def _manifest_paths(self) -> list[Path]:
        return sorted((self.root / "backups").glob("*.json"))

    def manifests(self) -> list[Manifest]:
        """All backups that can be used, oldest first; warns of those that are damaged."""
        self.check()
        found, damaged = self._look()
        for text in damaged:
            _warn(text)
        if damaged and not found:
            raise BackupInvalid(f"No backup in {self.root} can be used. {damaged[0]} Nothing was changed.")
        return found

    def _look(self) -> tuple[list[Manifest], list[str]]:
        """Read all manifests; those that can be used, oldest first, and what is wrong with the others."""
        found, damaged = [], []
        for path in self._manifest_paths():
            try:
                found.append(self._read(path))
            except BackupInvalid as error:
                damaged.append(str(error))
        known = {path.stem for path in self._manifest_paths()}
        gone = {path.stem for path in (self.root / "backups").glob("*.unfinished")}
        damaged += [
            f"{path} belongs to a backup whose manifest is missing. The others can be used; remove that file if you do "
            "not miss a backup."
            for path in sorted((self.root / "catalogs").glob("*.duckdb"))
            if path.stem not in known | gone
        ]
        return sorted(found, key=lambda each: (each.created_at, each.backup_id)), damaged

    @property
    def is_whole(self) -> bool:
        """Whether every backup here can be read, so that it is known which blobs are needed."""
        return not self._look()[1]

    def get(self, backup_id: str | None) -> Manifest:
        """One backup, or the newest."""
        found = self.manifests()
        if backup_id is None:
            if not found:
                raise BackupInvalid(f"{self.root} holds no backup yet. Nothing was changed.")
            return found[-1]
        for each in found:
            if each.backup_id == backup_id:
                return each
        if os.path.lexists(self.manifest(backup_id)):
            self._read(self.manifest(backup_id))
        raise UnknownId("backup", backup_id, f"{self.root} has {len(found)} backups.")

    def _read(self, path: Path) -> Manifest:
        rest = "This backup cannot be used; the others in its folder can."
        try:
            found = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except (OSError, msgspec.DecodeError, RecursionError) as error:
            raise BackupInvalid(f"{path} cannot be read: {error}. {rest}") from error
        if found.backup_id != path.stem:
            raise BackupInvalid(f"{path} is the manifest of another backup. {rest}")
        if found.format_version > FORMAT_VERSION:
            raise BackupInvalid(
                f"{path} was made by a newer nirs_store (format {found.format_version}). {rest}"
            )
        if found.created_at.tzinfo is None:
            raise BackupInvalid(f"{path}: created_at has no time zone. {rest}")
        return found

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: one at a time makes or removes backups."""
        try:
            fd = open_lock_file(self.root / "lock")
        except OSError as error:
            raise write_error(self.root / "lock", error) from error
        try:
            if not try_lock(fd, exclusive=True):
                raise StoreBusy(
                    f"Another process is making or removing backups in {self.root}. Nothing was changed; try again."
                )
            try:
                yield
            finally:
                unlock(fd)
        finally:
            os.close(fd)


# -- Verifying a backup, and bringing one back into an empty folder.


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


def check_catalog(path: Path) -> None:
    """Read a copy of a catalog whole."""
    try:
        con = attach(path, read_only=True, options=Options(whole_indexes=True), spill=None)
    except (NirsStoreError, CatalogLocked) as error:
        raise _damaged(path, str(error)) from error
    try:
        schema_version(con, path)
        wrong = interruptible(con, _wrong_in)
    except (NirsStoreError, duckdb.Error) as error:
        raise _damaged(path, str(error)) from error
    finally:
        con.close()
    if wrong:
        raise _damaged(path, "; ".join(wrong[:3]))


def _wrong_in(con: Connection) -> list[str]:
    wrong = [f"{table}: {what}: {reason}" for table, what, reason in unreadable(con) if reason is not None]
    return wrong + [f"array {each}" for each in altered_arrays(con, [])]


def _damaged(path: Path, reason: str) -> BackupInvalid:
    return BackupInvalid(f"{path} cannot be read whole: {reason}. Use another backup; nothing was changed.")


def verify_backup(
    target: str | Path, backup_id: str | None = None, *, progress: Progress | None = None
) -> Manifest:
    """Read a backup whole and compare every hash; see `Backups.verify`."""
    folder = BackupFolder(as_folder(target, "target"))
    manifest = folder.get(backup_id)
    _check_file(folder.catalog(manifest.backup_id), manifest.catalog)
    check_catalog(folder.catalog(manifest.backup_id))
    files = {file.sha256: file for file in manifest.files}
    total, done = sum(file.size for file in files.values()), 0
    for digest, file in files.items():
        _check_file(folder.blob(digest), file)
        done += file.size
        if progress is not None:
            progress(done, total)
    return manifest


def _check_file(place: Path, file: File) -> None:
    if not place.is_file():
        raise BackupInvalid(f"{place} ({file.path}) is missing. Use another backup; nothing was changed.")
    if place.stat().st_size != file.size or hash_file(place) != file.sha256:
        raise BackupInvalid(
            f"{place} ({file.path}) was altered: it does not have the size and hash that the manifest says. Use "
            "another backup; nothing was changed."
        )


def restore_backup(
    target: str | Path,
    folder: str | Path,
    backup_id: str | None = None,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> RestoredBackup:
    """Bring a backup back into an empty or new folder.

    Everything is verified while it is copied into a folder beside, which takes its name when it is whole.

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
        return RestoredBackup(place, manifest.backup_id, len(manifest.files), _bytes_of(manifest))
    draft = place.with_name(f".{place.name[:80]}.{new_id()}.tmp")
    try:
        ensure_dir(place.parent)
        sweep_drafts(place)
        ensure_dir(draft)
        size = _fill(source, manifest, draft, progress)
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
    return RestoredBackup(place, manifest.backup_id, len(manifest.files), size)


def _bytes_of(manifest: Manifest) -> int:
    """Bytes of the files that come back; the same content under two names counts twice."""
    return manifest.catalog.size + sum(file.size for file in (*manifest.blobs, *manifest.extras))


def _fill(source: BackupFolder, manifest: Manifest, draft: Path, progress: Progress | None) -> int:
    layout = Layout(draft)
    for made in layout.folders:
        ensure_dir(made)
    files = [(source.blob(file.sha256), file, True) for file in manifest.blobs]
    files += [(source.blob(file.sha256), file, False) for file in manifest.extras]
    files += [(source.catalog(manifest.backup_id), manifest.catalog, False)]
    total, done = _bytes_of(manifest), 0
    seen: set[str] = set()
    folders = {draft}
    blobs: dict[str, Path] = {}
    try:
        for origin, file, is_blob in files:
            target = resolve_inside(draft, file.path)
            if file.path in seen:
                continue
            seen.add(file.path)
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
            _check_file(target, file)
            if is_blob:
                make_read_only(target)
            done += file.size
            if progress is not None:
                progress(done, total)
        layout.blobs.put(blobs)
    except PathEscapes as error:
        raise BackupInvalid(f"{source.root}: {error} Nothing was restored.") from error
    for each in folders:
        fsync_dir(each)
    return total


# -- Making a backup: the catalog under the lease, then the blobs, then the manifest that makes it one.


# Files of people that no row names.
_FOLDERS = ("library",)


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
        What this backup added to the folder, beside the catalog's copy. The bytes are also those of templates.
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
        _warn(str(error))
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
    for name in _FOLDERS_OF_BACKUPS:
        ensure_dir(folder.root / name)
    # The next backup sweeps a draft that was left by one that was killed.
    catalog = folder.catalog(backup_id).with_suffix(".tmp")
    moment: list[datetime] = []

    def copy(access: Database) -> CatalogCopy:
        moment.append(utcnow())
        found = copy_catalog(engine, access, catalog)
        # Still under the lease: a gc that comes next sees the claims.
        tokens = {token for blob in found.blobs for token in (blob.artifact_id, blob.path)}
        held.enter_context(engine.recorder.claiming(*tokens))
        return found

    try:
        found = engine.exclusive(copy)
        fsync_dir(catalog.parent)
        make_read_only(catalog)
        blobs = _present(engine, found.blobs, allow_missing)
        extras = list(_extras(engine.layout.root))
        fresh = _copy_files(engine, folder, blobs, extras, progress)
        manifest = Manifest(
            backup_id=backup_id,
            format_version=FORMAT_VERSION,
            workspace_id=found.workspace_id,
            workspace=str(engine.layout.root),
            created_at=moment[-1],
            schema_version=SCHEMA_VERSION,
            nirs_store=environment().get("nirs-store", ""),
            parent_id=parent,
            catalog=File("store.duckdb", hash_file(catalog), catalog.stat().st_size),
            blobs=blobs,
            extras=extras,
            rows=found.rows,
            # Templates of the library are copied as well, and are no blobs.
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
    for name in _FOLDERS:
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
    wanted = {file.sha256: (file, True) for file in blobs}
    wanted |= {file.sha256: (file, False) for file in extras if file.sha256 not in wanted}
    total, done = sum(file.size for file, _ in wanted.values()), 0
    fresh: dict[str, int] = {}
    for digest, (file, is_blob) in wanted.items():
        target = folder.blob(digest)
        if not (target.is_file() and target.stat().st_size == file.size):
            source = engine.blobs.path_of(file.path) if is_blob else engine.layout.root / file.path
            ensure_dir(target.parent)
            write_file(target, pieces_of(source), readonly=True)
            fresh[digest] = file.size
        done += file.size
        if progress is not None:
            progress(done, total)
    return fresh


def _verify_new(folder: BackupFolder, manifest: Manifest, fresh: set[str], catalog: Path) -> None:
    """Read back what was written, and look that the rest is there whole."""
    check_catalog(catalog)
    for file in {each.sha256: each for each in manifest.files}.values():
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
    # A backup whose manifest cannot be read may need any of them, and its manifest may be mended yet.
    unused = sorted(blobs.keys() - needed) if remove and folder.is_whole else []
    freed = sum(blobs[name] for name in unused) + sum(each.catalog.size for each in remove)
    return PrunePlan(tuple(sorted(gone)), tuple(each.backup_id for each in keep), tuple(unused), freed)


def carry_out(folder: BackupFolder, plan: PrunePlan) -> None:
    """Remove what a plan says."""
    # The manifest first: what is removed by halves is no backup any more, and the next call knows to finish it.
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

        Others record and ask meanwhile; only the copy of the catalog takes the lease.

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
        """Look what `create` would copy beside the catalog; writes nothing.

        Raises
        ------
        InvalidInput
            The target lies inside the workspace.
        BackupInvalid
        """
        age = None if if_older_than is None else as_duration(if_older_than, "if_older_than")
        folder = BackupFolder(as_folder(target, "target"))
        self._refuse_inside(folder.root)
        last = _usable(folder) if folder.root.is_dir() and folder._has_backups() else []
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
        rows = self._engine.query(backup_rows)
        return rows.select("backup_id", "created_at", "size_bytes", "n_blobs", "status", "parent_id", "path")

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
        self._engine.change(lambda con: forget_backups(con, list(plan.remove)))
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

    # -- making one ----------------------------------------------------------------------------

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
