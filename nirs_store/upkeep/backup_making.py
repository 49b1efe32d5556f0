"""Making a backup: the catalog under the lease, then the blobs, then the manifest that makes it one.

Copying the catalog takes what copying one file takes, and nobody who records waits for it. The blobs that it
names are claimed in the same moment and copied afterwards: they never change. The manifest comes last, so that
half a backup is none.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from nirs_store.blobs.durable import ensure_dir, fsync_dir, move_file, remove_file, write_error, write_file
from nirs_store.catalog import backup_rows
from nirs_store.catalog.access import CatalogAccess
from nirs_store.catalog.archive_rows import BlobFile, workspace_id
from nirs_store.catalog.buffer import naive
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.environment import environment
from nirs_store.catalog.schema import SCHEMA_VERSION
from nirs_store.catalog.values import to_json
from nirs_store.errors import BackupInvalid, BlobMissing, NirsStoreError
from nirs_store.ids import new_id, utcnow
from nirs_store.upkeep.archive import Progress
from nirs_store.upkeep.backup_folder import FORMAT_VERSION, BackupFolder, File, Manifest, hash_of
from nirs_store.upkeep.backup_restore import check_catalog

__all__ = ["Backup", "backup_of", "make_backup"]

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
        last = folder.manifests()
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
        "details": to_json({"new_bytes": made.new_bytes, "new_blobs": made.new_blobs}, "details"),
        "created_at": naive(made.created_at),
    }
    engine.change(lambda con: backup_rows.add_backup(con, row))
    return made


def _write(
    engine: Engine,
    folder: BackupFolder,
    parent: str | None,
    held: ExitStack,
    allow_missing: bool,
    progress: Progress | None,
) -> Manifest:
    backup_id = new_id()
    catalog = folder.catalog(backup_id)
    ensure_dir(catalog.parent)
    moment: list[datetime] = []

    def copy(access: CatalogAccess) -> backup_rows.CatalogCopy:
        moment.append(utcnow())
        found = backup_rows.copy_catalog(engine, access, catalog)
        # Still under the lease: a gc that comes next sees the claims.
        tokens = {token for blob in found.blobs for token in (blob.artifact_id, blob.path)}
        held.enter_context(engine.recorder.claiming(*tokens))
        return found

    try:
        found = engine.exclusive(copy)
        fsync_dir(catalog.parent)
        os.chmod(catalog, 0o444)
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
            catalog=File("store.duckdb", hash_of(catalog), catalog.stat().st_size),
            blobs=blobs,
            extras=extras,
            rows=found.rows,
            # Templates of the library are copied as well, and are no blobs.
            new_blobs=len(fresh.keys() & {blob.sha256 for blob in blobs}),
            new_bytes=sum(fresh.values()),
        )
        _verify_new(folder, manifest, set(fresh))
        write_file(folder.manifest(backup_id), msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    except BaseException as error:
        # Blobs stay: the next backup needs them, and a prune removes what none needs.
        remove_file(catalog, missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, NirsStoreError):
            raise write_error(folder.root, error) from error
        raise
    return manifest


def backup_of(manifest: Manifest, root: Path) -> Backup:
    """What a manifest says."""
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
    """The blobs whose files are there; the error of one that is not says what to do."""
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
                found.append(File(path.relative_to(root).as_posix(), hash_of(path), path.stat().st_size))
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
            draft = target.with_name(f"{digest}.{new_id()}.tmp")
            try:
                shutil.copyfile(source, draft)
                fd = os.open(draft, os.O_RDWR)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
                os.chmod(draft, 0o444)
                move_file(draft, target)
            finally:
                remove_file(draft, missing_ok=True)
            fresh[digest] = file.size
        done += file.size
        if progress is not None:
            progress(done, total)
    return fresh


def _verify_new(folder: BackupFolder, manifest: Manifest, fresh: set[str]) -> None:
    """Read back what was written, and look that the rest is there whole."""
    check_catalog(folder.catalog(manifest.backup_id))
    for file in {each.sha256: each for each in manifest.files}.values():
        place = folder.blob(file.sha256)
        if file.sha256 in fresh and hash_of(place) != file.sha256:
            remove_file(place, missing_ok=True)
            raise BackupInvalid(
                f"{file.path} does not have the hash that its row says, in the workspace or on its way to {place}. No "
                "backup was made; run `nirs-store check --read-data`."
            )
