"""Verifying a backup, and bringing one back into an empty folder."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from nirs_store.blobs.durable import ensure_dir, fsync_dir, write_error
from nirs_store.blobs.paths import resolve_inside
from nirs_store.catalog.connection import CatalogLocked, Options, attach, schema_version
from nirs_store.catalog.layout import Layout, as_folder
from nirs_store.catalog.wholeread import altered_arrays, unreadable
from nirs_store.errors import BackupInvalid, InvalidInput, NirsStoreError, PathEscapes
from nirs_store.ids import new_id
from nirs_store.upkeep.archive import Progress
from nirs_store.upkeep.backup_folder import BackupFolder, File, Manifest, hash_of

__all__ = ["RestoredBackup", "check_catalog", "restore_backup", "verify_backup"]


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
    """Read a copy of a catalog whole.

    Raises
    ------
    BackupInvalid
    """
    try:
        con = attach(path, read_only=True, options=Options(whole_indexes=True), spill=None)
    except (NirsStoreError, CatalogLocked) as error:
        raise _damaged(path, str(error)) from error
    try:
        schema_version(con, path)
        wrong = [
            f"{table}: {what}: {reason}" for table, what, reason in unreadable(con) if reason is not None
        ]
        wrong += [f"array {each}" for each in altered_arrays(con, [])]
    except (NirsStoreError, duckdb.Error) as error:
        raise _damaged(path, str(error)) from error
    finally:
        con.close()
    if wrong:
        raise _damaged(path, "; ".join(wrong[:3]))


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
    if place.stat().st_size != file.size or hash_of(place) != file.sha256:
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
    for made in Layout(draft).folders:
        ensure_dir(made)
    files = [(source.blob(file.sha256), file, 0o444) for file in manifest.blobs]
    files += [(source.blob(file.sha256), file, 0o644) for file in manifest.extras]
    files += [(source.catalog(manifest.backup_id), manifest.catalog, 0o644)]
    total, done = _bytes_of(manifest), 0
    seen: set[str] = set()
    folders = {draft}
    for origin, file, mode in files:
        try:
            target = resolve_inside(draft, file.path)
        except PathEscapes as error:
            raise BackupInvalid(f"{source.root}: {error} Nothing was restored.") from error
        if file.path in seen:
            continue
        seen.add(file.path)
        if not origin.is_file():
            raise BackupInvalid(
                f"{origin} ({file.path}) is missing. Nothing was restored; use another backup."
            )
        ensure_dir(target.parent)
        folders.add(target.parent)
        shutil.copyfile(origin, target)
        fd = os.open(target, os.O_RDWR)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        _check_file(target, file)
        os.chmod(target, mode)
        done += file.size
        if progress is not None:
            progress(done, total)
    for each in folders:
        fsync_dir(each)
    return total
