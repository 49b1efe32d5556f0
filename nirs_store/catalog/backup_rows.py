"""What a backup takes of the catalog, and the row that remembers it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nirs_store.catalog.access import CatalogAccess, Connection
from nirs_store.catalog.archive_rows import BlobFile, blob_files, workspace_id
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.queries import frame
from nirs_store.catalog.scalars import number
from nirs_store.catalog.schema import column_names
from nirs_store.errors import WriteFailed
from nirs_store.lazily import polars as pl

__all__ = ["CatalogCopy", "add_backup", "backup_rows", "copy_catalog", "forget_backups"]


class CatalogCopy:
    """A copy of the catalog as of one moment, and the blobs that it names."""

    def __init__(self, blobs: list[BlobFile], workspace_id: str, rows: dict[str, int]) -> None:
        self.blobs = blobs
        self.workspace_id = workspace_id
        self.rows = rows


def copy_catalog(engine: Engine, access: CatalogAccess, draft: Path) -> CatalogCopy:
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
    fd = os.open(draft, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return found


def add_backup(con: Connection, row: Mapping[str, Any]) -> None:
    """Remember a backup, inside the caller's transaction."""
    names = column_names("backups")
    marks = ", ".join("?" for _ in names)
    con.execute(
        f"INSERT INTO backups ({', '.join(names)}) VALUES ({marks})", [row.get(name) for name in names]
    )


def forget_backups(con: Connection, ids: list[str]) -> int:
    """Forget backups that are gone, inside the caller's transaction."""
    return number(con, "DELETE FROM backups WHERE backup_id IN (SELECT unnest(?))", [ids])


def backup_rows(con: Connection) -> pl.DataFrame:
    """Backups that this workspace remembers, oldest first."""
    names = ", ".join(column_names("backups"))
    return frame(con, f"SELECT {names} FROM backups ORDER BY created_at, backup_id")
