"""Putting the copy that a migration kept in the place of a catalog that cannot be read.

Only ever on request: what was recorded after the copy was made, and applied since, is not in it.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import duckdb

from nirs_store.blobs.durable import fsync_dir, move_file, remove_file, write_error
from nirs_store.catalog.connection import CatalogLocked, Options, attach, schema_version
from nirs_store.catalog.layout import Layout
from nirs_store.catalog.lease import Lease
from nirs_store.catalog.migrations import migration_copies
from nirs_store.catalog.wholeread import unreadable
from nirs_store.errors import InvalidInput, NirsStoreError, StoreBusy
from nirs_store.ids import new_id
from nirs_store.upkeep.quarantine import keep

__all__ = ["newest_copy", "restore_catalog"]

_VERSION = re.compile(r"-v(\d+)\.duckdb$")


def newest_copy(layout: Layout) -> Path | None:
    """The copy of the highest schema version that can be read whole; None when there is none."""
    for path in sorted(migration_copies(layout), key=_version, reverse=True):
        if _is_readable(path):
            return path
    return None


def restore_catalog(layout: Layout, copy: Path, *, timeout: float) -> None:
    """Put a copy in the place of the catalog; the old file is kept in quarantine/.

    Raises
    ------
    InvalidInput
        The catalog can be read; nothing was changed.
    StoreBusy, WriteFailed, ReadOnlyStore
        Nothing was lost: the old file is in its place or in quarantine/.
    """
    lease = Lease(layout, writable=True)
    lease.acquire(exclusive=True, timeout=timeout)
    try:
        # Somebody may have put it right since the plan was made.
        if layout.catalog.exists() and _is_readable(layout.catalog):
            raise InvalidInput(f"{layout.catalog} can be read; it was left as it is. Check the store again.")
        _exchange(layout, copy)
    finally:
        lease.release()


def _exchange(layout: Layout, copy: Path) -> None:
    draft = layout.tmp / f"catalog-{new_id()}.duckdb"
    try:
        shutil.copyfile(copy, draft)
        fd = os.open(draft, os.O_RDWR)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        # The log belongs to the old file and would be replayed into the new one: it goes first.
        for old in (layout.wal, layout.catalog):
            if old.exists():
                keep(layout, old)
        remove_file(layout.wal, missing_ok=True)
        fsync_dir(layout.root)
        move_file(draft, layout.catalog)
    except OSError as error:
        if isinstance(error, NirsStoreError):
            raise
        raise write_error(layout.catalog, error) from error
    finally:
        remove_file(draft, missing_ok=True)


def _is_readable(path: Path) -> bool:
    try:
        con = attach(path, read_only=True, options=Options(whole_indexes=True), spill=None)
    except CatalogLocked as error:
        raise StoreBusy(
            f"{path} is open in another program: {error} Close it there and call again."
        ) from error
    except NirsStoreError:
        return False
    try:
        schema_version(con, path)
        return all(reason is None for _, _, reason in unreadable(con))
    except (NirsStoreError, duckdb.Error):
        return False
    finally:
        con.close()


def _version(path: Path) -> int:
    found = _VERSION.search(path.name)
    return int(found[1]) if found else -1
