"""Checkpoints of the catalog, and which of them tidy up.

A checkpoint writes new rows as row groups of their own, and DuckDB then puts small groups together: with the last
2,048 rows, or eight thousand, of each table written and their arrays compressed anew each time, it takes up to 190 ms
where the new rows of a few pipelines alone take 25 to 50. So groups are put together when much is applied in the
background, after changes that are not mere additions, and otherwise only when there have come to be many of them.
"""

from __future__ import annotations

import contextlib

import duckdb

from nirs_store.catalog.layout import Layout
from nirs_store.catalog.schema import CATALOG_ALIAS

__all__ = ["MANY", "MOST", "Checkpoint"]

# A checkpoint makes a mark, and another one for so many commits. Until its rows are put together with others it
# costs a fifth of a megabyte; putting together those of 81 took 0.26 s.
MOST = 128
_COMMITS_A_MARK = 16
# Commits beside which putting groups together counts for little.
MANY = 64
_DUCKDB_DEFAULT = 100


class Checkpoint:
    """What a store has changed in the catalog and not yet written into its file."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._pending = False
        self._commits = 0
        self._tidying = False

    def need(self, *, tidying: bool) -> None:
        """Ask for one when the catalog is let go of, and, with `tidying`, for small row groups to be put together."""
        self._pending = True
        self._tidying = self._tidying or tidying

    def offer(self) -> None:
        """Have it put them together if it has much to write anyway: nobody of this process waits for it."""
        self._tidying = self._tidying or self._commits >= MANY

    def count(self, commits: int) -> None:
        """Note how many commits were applied."""
        self._commits += commits

    def write(self, con: duckdb.DuckDBPyConnection, *, hurried: bool) -> None:
        """Make it, if anything was changed.

        Parameters
        ----------
        con : DuckDBPyConnection
            To the catalog, which is held alone.
        hurried : bool
            Whether somebody waits for the catalog: it is tidied only when it has to be.

        Raises
        ------
        duckdb.Error
            On a full disk: the log stays beside the file and holds everything.
        """
        if not self._pending:
            return
        tidying = (self._tidying and not hurried) or self._marks() >= MOST
        commits = self._commits
        self._pending, self._commits, self._tidying = False, 0, False
        if tidying:
            con.execute(f"CHECKPOINT {CATALOG_ALIAS}")
            with contextlib.suppress(OSError):
                self._layout.untidied.unlink(missing_ok=True)
            return
        try:
            con.execute("SET GLOBAL max_vacuum_tasks = 0")
            con.execute(f"CHECKPOINT {CATALOG_ALIAS}")
        finally:
            with contextlib.suppress(duckdb.Error):  # after a fatal error the instance is not used again
                con.execute(f"SET GLOBAL max_vacuum_tasks = {_DUCKDB_DEFAULT}")
        # A hint to whoever holds the lease next, in whichever process; without it groups stay small for longer.
        with contextlib.suppress(OSError), self._layout.untidied.open("ab") as marks:
            marks.write(b"." * (1 + commits // _COMMITS_A_MARK))

    def _marks(self) -> int:
        try:
            return self._layout.untidied.stat().st_size
        except OSError:
            return 0
