"""Removing backups beyond a number or an age: plan, then remove."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from nirs_store.blobs.durable import fsync_dir, remove_file
from nirs_store.ids import utcnow
from nirs_store.upkeep.backup_folder import BackupFolder

__all__ = ["PrunePlan", "carry_out", "plan_prune"]


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
    unused = sorted(blobs.keys() - needed) if remove else []
    freed = sum(blobs[name] for name in unused) + sum(each.catalog.size for each in remove)
    return PrunePlan(tuple(sorted(gone)), tuple(each.backup_id for each in keep), tuple(unused), freed)


def carry_out(folder: BackupFolder, plan: PrunePlan) -> None:
    """Remove what a plan says."""
    # The manifest first: what is removed by halves is no backup any more.
    for backup_id in plan.remove:
        remove_file(folder.manifest(backup_id), missing_ok=True)
    fsync_dir(folder.root / "backups")
    for backup_id in plan.remove:
        remove_file(folder.catalog(backup_id), missing_ok=True)
    for digest in plan.blobs:
        remove_file(folder.blob(digest), missing_ok=True)
