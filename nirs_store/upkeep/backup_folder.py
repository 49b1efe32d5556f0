"""A folder of backups: catalogs by backup, blobs once for all of them, and a manifest that makes a backup one.

::

    target/
      nirs_store-backups.json         whose backups these are
      backups/<backup_id>.json        written last: without it there is no backup
      catalogs/<backup_id>.duckdb
      blobs/ab/<sha256>               shared by all backups
      lock                            held while backups are made or removed
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from nirs_store.blobs.durable import ensure_dir, write_error, write_file
from nirs_store.catalog.oslock import open_lock_file, try_lock, unlock
from nirs_store.errors import BackupInvalid, InvalidInput, StoreBusy, UnknownId

__all__ = ["BackupFolder", "File", "Manifest", "hash_of"]

_MARK = "nirs_store-backups.json"
_FORMAT = "nirs_store-backups"
FORMAT_VERSION = 1


class File(msgspec.Struct, frozen=True):
    """A file of the workspace: its path there, hash and size."""

    path: str
    sha256: str
    size: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One backup.

    Attributes
    ----------
    created_at : datetime
        Everything committed before is in it.
    catalog : File
    blobs, extras : list of File
        Model files and other blobs; templates of the library.
    new_blobs, new_bytes : int
        What this backup added to the folder.
    """

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


class _Mark(msgspec.Struct):
    format: str
    format_version: int
    workspace_id: str


def hash_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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

    def catalog(self, backup_id: str) -> Path:
        """Where a backup's catalog is."""
        return self.root / "catalogs" / f"{backup_id}.duckdb"

    def blob(self, digest: str) -> Path:
        """Where a file's content is."""
        return self.root / "blobs" / digest[:2] / digest

    def prepare(self, workspace_id: str) -> None:
        """Make the folder, or check that it holds backups of this workspace.

        Raises
        ------
        InvalidInput
            It holds other things, or the backups of another workspace.
        """
        if not self.mark.exists():
            if self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
                raise InvalidInput(
                    f"target: {self.root} is not empty and holds no backups. Nothing was written; name an empty or new "
                    "folder."
                )
            for folder in (self.root, *(self.root / name for name in ("backups", "catalogs", "blobs"))):
                ensure_dir(folder)
            mark = _Mark(_FORMAT, FORMAT_VERSION, workspace_id)
            write_file(self.mark, msgspec.json.format(msgspec.json.encode(mark)))
        found = self.check()
        if found != workspace_id:
            raise InvalidInput(
                f"target: {self.root} holds the backups of another workspace ({found}). Nothing was written; name "
                "another folder."
            )

    def check(self) -> str:
        """Check that this is a folder of backups; gives the workspace's id.

        Raises
        ------
        BackupInvalid
        """
        try:
            mark = msgspec.json.decode(self.mark.read_bytes(), type=_Mark)
        except (OSError, msgspec.DecodeError) as error:
            raise BackupInvalid(
                f"{self.root} is no folder of backups: {_MARK} cannot be read ({error}). Nothing was changed; name the "
                "folder that was given to `nirs-store backup create`."
            ) from error
        if mark.format != _FORMAT or mark.format_version > FORMAT_VERSION:
            raise BackupInvalid(
                f"{self.root} holds backups of the format {mark.format} {mark.format_version}; this nirs_store reads "
                f"up to {FORMAT_VERSION}. Nothing was changed."
            )
        return mark.workspace_id

    def manifests(self) -> list[Manifest]:
        """All backups, oldest first.

        Raises
        ------
        BackupInvalid
        """
        self.check()
        found = [self._read(path) for path in (self.root / "backups").glob("*.json")]
        return sorted(found, key=lambda each: (each.created_at, each.backup_id))

    def get(self, backup_id: str | None) -> Manifest:
        """One backup, or the newest.

        Raises
        ------
        BackupInvalid, UnknownId
        """
        found = self.manifests()
        if backup_id is None:
            if not found:
                raise BackupInvalid(f"{self.root} holds no backup yet. Nothing was changed.")
            return found[-1]
        for each in found:
            if each.backup_id == backup_id:
                return each
        raise UnknownId("backup", backup_id, f"{self.root} has {len(found)} backups.")

    def _read(self, path: Path) -> Manifest:
        try:
            found = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except (OSError, msgspec.DecodeError) as error:
            raise BackupInvalid(f"{path} cannot be read: {error}. Nothing was changed.") from error
        if found.backup_id != path.stem:
            raise BackupInvalid(f"{path} is the manifest of another backup. Nothing was changed.")
        return found

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: one at a time makes or removes backups.

        Raises
        ------
        StoreBusy
        """
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
