"""The folders of a workspace: made when they are missing, refused when they are somebody else's."""

from __future__ import annotations

import os

import duckdb

from nirs_store.blobs.durable import ensure_dir
from nirs_store.catalog.connection import CatalogLocked, Options, attach, schema_version
from nirs_store.catalog.layout import Layout
from nirs_store.errors import CatalogDamaged, ReadOnlyStore, StoreBusy

__all__ = ["make_folders", "refuse_foreign", "refuse_lost_catalog"]


def make_folders(layout: Layout, exists: bool) -> bool:
    """Make what is missing; False when an existing workspace cannot be written."""
    try:
        ensure_dir(layout.root)
        for folder in layout.folders:
            ensure_dir(folder)
    except ReadOnlyStore:
        if exists:
            return False
        raise
    if os.access(layout.root, os.W_OK) and os.access(layout.segments, os.W_OK):
        return True
    if exists:
        return False
    raise ReadOnlyStore(f"{layout.root} cannot be written by this user, so no workspace can be made there.")


def refuse_lost_catalog(layout: Layout) -> None:
    """An empty catalog beside blobs or commits would hide that the real one was lost."""
    left = any(folder.is_dir() and any(folder.iterdir()) for folder in (layout.segments, layout.artifacts))
    # Looked for last: whoever makes a workspace makes the catalog before the first blob or commit.
    if left and not layout.catalog.exists():
        raise CatalogDamaged(
            f"{layout.root} has blobs or commits but no store.duckdb: the catalog was lost or moved. Nothing was "
            "changed. Restore store.duckdb from a backup or from a copy kept in journal/, or name another folder."
        )


def refuse_foreign(layout: Layout, options: Options) -> None:
    """Refuse a store.duckdb that is not ours before anything is made beside it.

    Raises
    ------
    ForeignCatalog, SchemaTooNew, CatalogDamaged, StoreBusy
    """
    try:
        con = attach(layout.catalog, read_only=True, options=options, spill=None)
    except CatalogLocked as error:
        raise StoreBusy(
            f"{layout.catalog} is open in another program and has no journal beside it: {error} "
            "Nothing was changed. Close it there and open the workspace again."
        ) from error
    try:
        schema_version(con, layout.catalog)
    except duckdb.Error as error:
        raise CatalogDamaged(f"{layout.catalog} cannot be read: {error} It was left as it is.") from error
    finally:
        con.close()
