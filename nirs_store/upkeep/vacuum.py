"""Giving the space of deleted rows back to the file system."""

from __future__ import annotations

from nirs_store.catalog.access import CatalogAccess, Connection
from nirs_store.catalog.audit_notes import note
from nirs_store.catalog.deletion import prune_arrays
from nirs_store.catalog.engine import Engine

__all__ = ["vacuum"]


def vacuum(engine: Engine) -> tuple[int, int]:
    """Rewrite the catalog without the space of deleted rows.

    Returns
    -------
    before, after
        Bytes of store.duckdb.
    """

    def finish(con: Connection) -> None:
        # Into the new file: a later entry would have to be applied to it, and the old one stays as it was.
        note(engine, "vacuum", "workspace", details={"bytes": engine.layout.catalog.stat().st_size}, con=con)

    def work(access: CatalogAccess) -> tuple[int, int]:
        access.transact(prune_arrays)
        access.close_connection()
        before = engine.layout.catalog.stat().st_size
        access.rewrite(finish)
        return before, engine.layout.catalog.stat().st_size

    # With the catalog closed, the lease is given up at the end, which waits for files that are being deleted: whoever
    # asks for space has it all.
    sizes = engine.exclusive(work, beside_removal=True)
    engine.journal.sweep_tmp()
    return sizes
