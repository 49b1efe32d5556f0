"""How many changes the catalog should hold: a number in it, and the same number in a file beside it.

DuckDB cannot tell a log that was cut short, or an older copy of its file, from one that is whole. Commits come back
from the journal, which keeps them until a checkpoint; what was changed directly does not, and nobody would notice.
"""

from __future__ import annotations

import contextlib
import warnings

import duckdb

from nirs_store.blobs.plain import read_plain, replace_plain
from nirs_store.db.layout import Layout
from nirs_store.db.sql import execute
from nirs_store.ids import now_naive

LOST = "store.duckdb"
"""What the table `dropped` names where changes of the catalog were lost."""
_MOST = 10**17


class ChangeCount:
    """The count of one workspace; every transaction that writes the catalog is one change."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.change_count

    def advance(self, con: duckdb.DuckDBPyConnection) -> None:
        """Count one more, inside the caller's transaction."""
        execute(
            con,
            "INSERT INTO nirs_store_meta VALUES ('change_count', '1') "
            # Whatever stands there: an error would be taken for one of the commit that is being applied.
            "ON CONFLICT DO UPDATE SET value = "
            f"(least(coalesce(TRY_CAST(value AS BIGINT), 0), {_MOST}) + 1)::VARCHAR",
        )

    def publish(self, con: duckdb.DuckDBPyConnection) -> None:
        """Note that all changes until now must be found from now on: the journal does not hold them."""
        # A kill in the middle leaves a number that is too small, or none: then less is noticed, and nothing wrong said.
        with contextlib.suppress(OSError):
            replace_plain(self._path, str(self._counted(con)).encode())

    def missing(self, con: duckdb.DuckDBPyConnection) -> int:
        """How many changes the catalog lacks."""
        return max(0, self._published() - self._counted(con))

    def accept(self, con: duckdb.DuckDBPyConnection, missing: int) -> None:
        """Note in the catalog, in a transaction of its own, that it lacks some, so that they are noticed once."""
        con.execute("BEGIN")
        try:
            con.execute("INSERT INTO dropped VALUES ('', ?, ?, ?)", [LOST, missing, now_naive()])
            con.execute(
                "INSERT INTO nirs_store_meta VALUES ('change_count', ?) "
                "ON CONFLICT DO UPDATE SET value = excluded.value",
                [str(self._published())],
            )
            con.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(duckdb.Error):  # the failing statement may have ended it itself
                con.execute("ROLLBACK")
            raise

    def _counted(self, con: duckdb.DuckDBPyConnection) -> int:
        rows = execute(con, "SELECT value FROM nirs_store_meta WHERE key = 'change_count'").fetchall()
        return _number(str(rows[0][0])) if rows else 0

    def _published(self) -> int:
        try:
            return _number(read_plain(self._path).decode())
        except (OSError, ValueError):
            return 0


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < len(str(_MOST)) else 0


def warn_of_missing(layout: Layout, missing: int) -> None:
    """Warn that a catalog lacks so many changes."""
    warnings.warn(
        f"{layout.catalog} lacks at least {missing} changes that were made in it: its log ({layout.wal.name}) was cut "
        "or removed, or the file was replaced by an older one. Commits that are still in the journal are applied "
        "again; deletions, files, evaluations and settings since then are lost. Compare with a backup; `nirs-store "
        "check` says what no longer fits.",
        stacklevel=7,
    )
