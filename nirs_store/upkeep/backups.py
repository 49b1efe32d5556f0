"""Backups: made while others write, incremental by blob, verified; listed, pruned, restored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from nirs_store.catalog import backup_rows
from nirs_store.catalog.archive_rows import blob_files
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.layout import as_folder
from nirs_store.errors import InvalidInput, NirsStoreError
from nirs_store.ids import utcnow
from nirs_store.lazily import polars as pl
from nirs_store.registry.audit import note
from nirs_store.upkeep.archive import Progress
from nirs_store.upkeep.backup_folder import BackupFolder, Manifest
from nirs_store.upkeep.backup_making import Backup, backup_of, make_backup
from nirs_store.upkeep.backup_pruning import PrunePlan, carry_out, plan_prune
from nirs_store.upkeep.backup_restore import RestoredBackup, restore_backup, verify_backup
from nirs_store.upkeep.durations import as_duration

__all__ = ["Backup", "BackupPlan", "Backups", "PrunePlan", "restore_backup"]


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

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

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
            found = BackupFolder(as_folder(target, "target")).manifests()
            return pl.DataFrame([_line(each, str(target)) for each in found], schema=_columns())
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
        folder = BackupFolder(as_folder(target, "target"))
        folder.check()
        with folder.locked():
            plan = plan_prune(folder, keep_last, age)
            if dry_run or not plan.remove:
                return plan
            self._engine.check_writable()
            carry_out(folder, plan)
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


def _line(manifest: Manifest, path: str) -> dict[str, Any]:
    return {
        **backup_of(manifest, Path(path)).__dict__,
        "path": path,
        **{name: manifest.rows.get(name, 0) for name in ("runs", "chains", "predictions")},
    }
