"""A folder of backups: catalogs by backup, blobs once for all of them, and a manifest that makes a backup one."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

import duckdb
import msgspec

from nirs_store.backup.archive import Progress
from nirs_store.blobs.durable import ensure_dir, remove_file, write_error, write_file
from nirs_store.blobs.plain import hash_file
from nirs_store.db.connection import CatalogLocked, Options, attach, schema_version
from nirs_store.db.database import Connection
from nirs_store.db.layout import as_folder, network_filesystem
from nirs_store.db.lock import open_lock_file, try_lock, unlock
from nirs_store.db.sql import interruptible
from nirs_store.errors import BackupInvalid, InvalidInput, NirsStoreError, StoreBusy, UnknownId
from nirs_store.maintenance.inspection import altered_arrays, unreadable

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
        """Bytes of everything that a restore brings back, the same content once."""
        return self.catalog.size + sum(file.size for file in self.contents)

    @property
    def restored_bytes(self) -> int:
        """Bytes of the files that come back; the same content under two names counts twice."""
        return self.catalog.size + sum(file.size for file in self.files)

    @property
    def files(self) -> list[File]:
        """Blobs and extras."""
        return [*self.blobs, *self.extras]

    @property
    def contents(self) -> list[File]:
        """One file for each content."""
        return list({file.sha256: file for file in self.files}.values())


FOLDERS = ("backups", "catalogs", "blobs")


def warn(text: str) -> None:
    """Warn of a backup or a mark that cannot be used."""
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
        if not self.has_backups():
            self._refuse_foreign()
            for folder in (self.root, *(self.root / name for name in FOLDERS)):
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
        """Check that this is a folder of backups; gives the workspace's id."""
        # Where the mark is lost or damaged, the backups say whose they are.
        try:
            mark = self._read_mark()
        except (OSError, msgspec.DecodeError, RecursionError) as error:
            owners = {manifest.workspace_id for manifest in self._look()[0]}
            if len(owners) == 1:
                warn(
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

    def has_backups(self) -> bool:
        """Tell whether backups were made here: there is a mark, or, where that was lost, a manifest."""
        return (self.mark.is_file() and bool(self.mark.stat().st_size)) or bool(self._manifest_paths())

    def _refuse_foreign(self) -> None:
        """Refuse a folder that holds anything but what a first `create` leaves that was killed."""
        foreign: Path | None = self.root
        if not os.path.lexists(self.root):
            return
        if self.root.is_dir():
            ours = {*FOLDERS, "lock", _MARK}
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
            warn(text)
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
        network = network_filesystem(self.root) is not None
        try:
            if not try_lock(fd, exclusive=True, network=network):
                raise StoreBusy(
                    f"Another process is making or removing backups in {self.root}. Nothing was changed; try again."
                )
            try:
                yield
            finally:
                unlock(fd, network=network)
        finally:
            os.close(fd)


# -- Verifying a backup.


def counted(files: Iterable[File], progress: Progress | None) -> Iterator[File]:
    """Yield files, and tell after each how many of their bytes are done."""
    files = list(files)
    total, done = sum(file.size for file in files), 0
    for file in files:
        yield file
        done += file.size
        if progress is not None:
            progress(done, total)


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
    check_file(folder.catalog(manifest.backup_id), manifest.catalog)
    check_catalog(folder.catalog(manifest.backup_id))
    for file in counted(manifest.contents, progress):
        check_file(folder.blob(file.sha256), file)
    return manifest


def check_file(place: Path, file: File) -> None:
    """Refuse a file that is missing or does not have the size and hash of the manifest."""
    if not place.is_file():
        raise BackupInvalid(f"{place} ({file.path}) is missing. Use another backup; nothing was changed.")
    if place.stat().st_size != file.size or hash_file(place) != file.sha256:
        raise BackupInvalid(
            f"{place} ({file.path}) was altered: it does not have the size and hash that the manifest says. Use "
            "another backup; nothing was changed."
        )
