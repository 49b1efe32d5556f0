"""Space kept back for cleaning up: a file that is given up when the disk is full.

Deleting rows writes: DuckDB logs a deletion before it makes it, and a query applies the journal first. On a
disk without a free byte nobody could delete anything, so a workspace holds half a megabyte that whoever has
the catalog alone gives back to the file system when there is next to nothing left. Recording never touches it.
"""

from __future__ import annotations

import contextlib
import os
import shutil

from nirs_store.catalog.layout import Layout

__all__ = ["RESERVE_BYTES", "give_back", "keep_back"]

RESERVE_BYTES = 1 << 19
_PLENTY = 16 << 20
_LITTLE = 2 << 20


def keep_back(layout: Layout) -> None:
    """Make the file when it is not there and there is plenty of space; a part of one does no harm."""
    with contextlib.suppress(OSError):  # it is a convenience: without room or right nothing is kept back
        if layout.reserve.exists() or shutil.disk_usage(layout.root).free < _PLENTY:
            return
        # Random bytes: a file system that compresses would keep nothing for zeros.
        layout.reserve.write_bytes(os.urandom(RESERVE_BYTES))


def give_back(layout: Layout) -> None:
    """Free the space when next to nothing else is left; to be called with the lease held alone."""
    with contextlib.suppress(OSError):  # what cannot be freed is missed by the operation, which says so
        if shutil.disk_usage(layout.root).free < _LITTLE:
            layout.reserve.unlink(missing_ok=True)
