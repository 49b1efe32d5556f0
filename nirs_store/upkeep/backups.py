"""Backups: made while others write, incremental by blob, verified; listed, pruned, restored.

The catalog is copied under the lease, with everything committed before in it; that takes what copying one file
takes, and nobody who records waits for it. The blobs that it names are claimed in the same moment and copied
afterwards: they never change. The manifest comes last, so that half a backup is none.
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
import polars as pl

from nirs_store.blobs.durable import ensure_dir, fsync_dir, move_file, remove_file, write_error, write_file
from nirs_store.catalog import backup_rows
from nirs_store.catalog.access import CatalogAccess
from nirs_store.catalog.buffer import naive
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.environment import environment
from nirs_store.catalog.schema import SCHEMA_VERSION
from nirs_store.catalog.values import to_json
from nirs_store.errors import BackupInvalid, InvalidInput, NirsStoreError
from nirs_store.ids import new_id, utcnow
from nirs_store.registry.audit import note
from nirs_store.upkeep.archive import Progress
from nirs_store.upkeep.backup_folder import FORMAT_VERSION, BackupFolder, File, Manifest, hash_of
from nirs_store.upkeep.backup_restore import RestoredBackup, restore_backup, verify_backup
from nirs_store.upkeep.durations import as_duration

__all__ = ["Backup", "BackupPlan", "Backups", "PrunePlan", "restore_backup"]

_FOLDERS = ("library",)
_COLUMNS: dict[str, Any] = {
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
        What this backup added to the folder, beside the catalog's copy.
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


@dataclass(frozen=True)
class BackupPlan:
    """What a backup would add to its folder; `due` is False where the last one is young enough."""

    due: bool
    new_blobs: int
    new_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return dict(self.__dict__)


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


class Backups:
    """Backups of one workspace. Offered as `store.backups`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self,
        target: str | Path,
        *,
        if_older_than: timedelta | float | str | None = None,
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
        StoreBusy, WriteFailed, BackupInvalid
            There is no new backup; earlier ones are untouched.
        """
        age = None if if_older_than is None else as_duration(if_older_than, "if_older_than")
        folder = BackupFolder(Path(target).expanduser().absolute())
        try:
            self._engine.check_writable()
            self._refuse_inside(folder.root)
            made = self._create(folder, age, progress)
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
        from nirs_store.catalog.archive_rows import blob_files

        age = None if if_older_than is None else as_duration(if_older_than, "if_older_than")
        folder = BackupFolder(Path(target).expanduser().absolute())
        self._refuse_inside(folder.root)
        last = folder.manifests() if folder.mark.exists() else []
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
            found = BackupFolder(Path(target).expanduser().absolute()).manifests()
            return pl.DataFrame([_line(each, str(target)) for each in found], schema=_COLUMNS)
        rows = self._engine.query(backup_rows.backup_rows)
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
        folder = BackupFolder(Path(target).expanduser().absolute())
        folder.check()
        with folder.locked():
            plan = _plan_prune(folder, keep_last, age)
            if dry_run or not plan.remove:
                return plan
            self._engine.check_writable()
            _remove(folder, plan)
        self._engine.change(lambda con: backup_rows.forget_backups(con, list(plan.remove)))
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

    def _create(
        self, folder: BackupFolder, age: timedelta | None, progress: Progress | None
    ) -> Backup | None:
        from nirs_store.catalog.archive_rows import workspace_id

        engine = self._engine
        folder.prepare(engine.query(workspace_id))
        with folder.locked():
            last = folder.manifests()
            if age is not None and last and utcnow() - last[-1].created_at < age:
                return None
            # The session's row comes before any claim of its.
            with engine.recording():
                pass
            with ExitStack() as held:
                manifest = self._write(folder, last[-1].backup_id if last else None, held, progress)
            engine.recorder.release_claims()
        made = _backup_of(manifest, folder.root)
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
        self, folder: BackupFolder, parent: str | None, held: ExitStack, progress: Progress | None
    ) -> Manifest:
        engine, backup_id = self._engine, new_id()
        catalog = folder.catalog(backup_id)
        ensure_dir(catalog.parent)
        moment: list[datetime] = []

        def copy(access: CatalogAccess) -> backup_rows.CatalogCopy:
            moment.append(utcnow())
            found = backup_rows.copy_catalog(engine, access, catalog)
            # Still under the lease: a gc that comes next sees the claims.
            held.enter_context(engine.recorder.claiming(*(blob.artifact_id for blob in found.blobs)))
            return found

        try:
            found = engine.exclusive(copy)
            fsync_dir(catalog.parent)
            os.chmod(catalog, 0o444)
            blobs = [File(blob.path, blob.content_hash, blob.size) for blob in found.blobs]
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
                new_blobs=len(fresh),
                new_bytes=sum(fresh.values()),
            )
            _verify_new(folder, manifest, set(fresh))
            write_file(
                folder.manifest(backup_id), msgspec.json.format(msgspec.json.encode(manifest), indent=1)
            )
        except BaseException as error:
            # Blobs stay: the next backup needs them, and a prune removes what none needs.
            remove_file(catalog, missing_ok=True)
            if isinstance(error, OSError) and not isinstance(error, NirsStoreError):
                raise write_error(folder.root, error) from error
            raise
        return manifest


def _backup_of(manifest: Manifest, root: Path) -> Backup:
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


def _line(manifest: Manifest, path: str) -> dict[str, Any]:
    return {
        **_backup_of(manifest, Path(path)).__dict__,
        "path": path,
        **{name: manifest.rows.get(name, 0) for name in ("runs", "chains", "predictions")},
    }


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
    from nirs_store.upkeep.backup_restore import check_catalog

    check_catalog(folder.catalog(manifest.backup_id))
    for file in {each.sha256: each for each in manifest.files}.values():
        place = folder.blob(file.sha256)
        if file.sha256 in fresh and hash_of(place) != file.sha256:
            remove_file(place, missing_ok=True)
            raise BackupInvalid(
                f"{file.path} does not have the hash that its row says, in the workspace or on its way to {place}. No "
                "backup was made; run `nirs-store check --read-data`."
            )


# -- removing ----------------------------------------------------------------------------------


def _plan_prune(folder: BackupFolder, keep_last: int | None, age: timedelta | None) -> PrunePlan:
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
    unused = sorted(blobs.keys() - needed) if remove else []
    freed = sum(blobs[name] for name in unused) + sum(each.catalog.size for each in remove)
    return PrunePlan(tuple(sorted(gone)), tuple(each.backup_id for each in keep), tuple(unused), freed)


def _remove(folder: BackupFolder, plan: PrunePlan) -> None:
    # The manifest first: what is removed by halves is no backup any more.
    for backup_id in plan.remove:
        remove_file(folder.manifest(backup_id), missing_ok=True)
    fsync_dir(folder.root / "backups")
    for backup_id in plan.remove:
        remove_file(folder.catalog(backup_id), missing_ok=True)
    for digest in plan.blobs:
        remove_file(folder.blob(digest), missing_ok=True)
