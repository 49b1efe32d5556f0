"""The catalog as one store object has it open: its connection, and what that connection has learnt and done.

Whoever calls holds the lease, alone for everything that changes the file; `access` sees to that.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

import duckdb

from nirs_store.blobs.durable import fsync_dir, write_error
from nirs_store.catalog.appending import Appending, RowRefused
from nirs_store.catalog.apply import ApplyReport, apply_journal
from nirs_store.catalog.checkpoint import Checkpoint
from nirs_store.catalog.compact import compact
from nirs_store.catalog.connection import (
    CatalogLocked,
    Instance,
    Options,
    create_catalog,
    open_catalog,
    open_migrated_copy,
    schema_version,
)
from nirs_store.catalog.failures import translated
from nirs_store.catalog.incoming import Incoming
from nirs_store.catalog.journal import Journal
from nirs_store.catalog.layout import Layout
from nirs_store.catalog.schema import SCHEMA_VERSION
from nirs_store.errors import CatalogDamaged, StoreBusy

__all__ = ["Connection", "OpenCatalog", "tell"]

Connection = duckdb.DuckDBPyConnection
T = TypeVar("T")

_POLL = 0.010
_FOREIGN_PID = re.compile(r"PID (\d+)")

# Connections that a forked child inherited: destroying one there would touch the parent's file.
_abandoned: list[Connection] = []


class OpenCatalog:
    """One connection at a time to the catalog of a workspace, or none.

    Parameters
    ----------
    layout : Layout
    journal : Journal
    writable : bool
    options : Options
    on_open : callable, optional
        Looks at a catalog of the present version that was just opened.
    """

    def __init__(
        self,
        layout: Layout,
        journal: Journal,
        *,
        writable: bool,
        options: Options,
        on_open: Callable[[Connection], None] | None,
    ) -> None:
        self._layout = layout
        self._journal = journal
        self._options = options
        self._on_open = on_open
        self.con: Connection | None = None
        # What that connection has learnt from applying; made anew with every connection.
        self._arriving = Incoming()
        self._appending = Appending()
        self._checkpoint = Checkpoint(layout)
        self.instance = Instance(layout.catalog, options, layout.tmp if writable else None)
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        # Whether the open connection is one to that copy.
        self._on_copy = False

    # -- opening -----------------------------------------------------------------------------

    def create(self) -> None:
        """Make an empty catalog."""
        create_catalog(self._layout, self.instance)

    def open(self, deadline: float, *, look: bool = True) -> Connection:
        """Open it to be changed; errors of all three as for `connect`."""
        self.con = self.connect(read_only=False, deadline=deadline)
        self._arriving = Incoming()
        if look:
            self._look_at(self.con)
        return self.con

    def open_to_read(self, deadline: float) -> bool:
        """Open it to be read; tells whether it is of the present version, and was looked at."""
        self.con = self.connect(read_only=True, deadline=deadline)
        if not self._is_current(self.con):
            return False
        self._look_at(self.con)
        return True

    def open_read_only(self, deadline: float) -> Connection:
        """Open it where nothing may be written: of an older schema a migrated copy answers."""
        self.con = self.connect(read_only=True, deadline=deadline)
        if not self._is_current(self.con):
            self.disconnect(hurried=False)
            if self._copy is None:
                self._copy = tempfile.TemporaryDirectory(prefix="nirs_store-")
            self.con = open_migrated_copy(self._layout, Path(self._copy.name), options=self._options)
            self._on_copy = True
        return self.con

    def connect(self, *, read_only: bool, deadline: float, instance: Instance | None = None) -> Connection:
        """Make a connection, of this store's DuckDB or of another one.

        Raises
        ------
        CatalogDamaged, ForeignCatalog, SchemaTooNew, WriteFailed
            It cannot be opened.
        StoreBusy
            Another program, which knows nothing of the lease, has it open until the deadline.
        """
        while True:
            try:
                if not self._layout.catalog.exists():
                    raise CatalogDamaged(
                        f"{self._layout.catalog} is missing. Restore it from a backup, or from a copy that a "
                        "migration kept; the blobs and the journal are untouched."
                    )
                return open_catalog(
                    self._layout,
                    read_only=read_only,
                    options=self._options,
                    instance=instance or self.instance,
                )
            except CatalogLocked as error:
                if time.monotonic() >= deadline:
                    pid = _FOREIGN_PID.search(str(error))
                    raise StoreBusy(
                        f"{self._layout.catalog} is open in another program: {error} Close it there and ask "
                        "again; recording is not affected.",
                        pid=int(pid[1]) if pid else None,
                    ) from error
                time.sleep(_POLL)

    def _look_at(self, con: Connection) -> None:
        if self._on_open is not None:
            self.run(self._on_open, con)

    def _is_current(self, con: Connection) -> bool:
        return schema_version(con, self._layout.catalog) == SCHEMA_VERSION

    # -- the journal -------------------------------------------------------------------------

    def nothing_new(self) -> bool:
        """Whether every commit in the journal is applied already, and only waits to be committed."""
        return self._journal.is_empty(self._appending.waiting)

    def apply(self, con: Connection, *, at_most: int | None, tidying: bool) -> ApplyReport:
        """Apply the journal, or its first segments; errors as for `apply_journal`."""
        if not self.nothing_new():
            self._checkpoint.need(tidying=tidying)
        arriving, appending = self._arriving, self._appending
        report = self.run(
            lambda con: apply_journal(
                con, self._journal, at_most=at_most, arriving=arriving, appending=appending
            ),
            con,
        )
        self._checkpoint.count(report.segments)
        return report

    def write_for(self, tables: Collection[str] | None, con: Connection) -> None:
        """Let a question that reads some tables, or any, see all that was applied; errors as for `apply_journal`."""
        self.run(lambda con: self._or_anew(lambda: self._appending.write(con, tables), con), con)

    def _or_anew(self, step: Callable[[], None], con: Connection) -> None:
        """Write rows that are held; where one will not go in, all that waits is applied in the usual way."""
        try:
            step()
        except RowRefused:
            tell(apply_journal(con, self._journal, arriving=self._arriving))

    def may_tidy(self) -> None:
        """Let the next checkpoint put small row groups together if it is a large one and nobody waits."""
        self._checkpoint.offer()

    def commit_waiting(self) -> None:
        """Commit what was applied and not committed; errors as for `apply_journal`."""
        if self.con is not None and self._appending.waiting:
            self.run(self._commit, self.con)

    def commit_if_possible(self) -> None:
        """Commit it unless the disk refuses: it is in the journal all the same."""
        with contextlib.suppress(duckdb.Error, OSError):
            if self.con is not None:
                self._commit(self.con)

    def _commit(self, con: Connection) -> None:
        self._or_anew(lambda: self._appending.commit(con, self._journal), con)

    def forget(self) -> None:
        """Trust nothing that was learnt from applying: something else is going to change the catalog."""
        self._appending.forget()

    def roll_back(self) -> None:
        """Give up a transaction that may be open."""
        if self.con is not None:
            self._appending.rollback(self.con)

    # -- working on it -----------------------------------------------------------------------

    def run(self, work: Callable[[Connection], T], con: Connection) -> T:
        """Run on the connection; one that an I/O error made invalid is not used again."""
        with translated(self._layout, self._disconnect_at_once):
            return work(con)

    def ask(self, question: Callable[[Connection], T], con: Connection) -> T:
        """Run a question, after which what waits is given up if its transaction failed with it."""
        try:
            return self.run(question, con)
        except Exception:
            self._appending.look_after(con)
            raise

    def transact(self, work: Callable[[Connection], T], con: Connection) -> T:
        """Change the catalog in a transaction of its own."""

        def whole(con: Connection) -> T:
            con.execute("BEGIN")
            try:
                result = work(con)
                con.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(duckdb.Error):  # the failing statement may have ended it itself
                    con.execute("ROLLBACK")
                raise
            self._sync_names()
            return result

        self._checkpoint.need(tidying=True)
        self.commit_waiting()
        self.forget()
        return self.run(whole, con)

    def rewrite(self, finish: Callable[[Connection], None]) -> None:
        """Copy the catalog, which is closed, into a new file; see `compact`."""
        compact(self._layout, self.instance, finish)

    def _sync_names(self) -> None:
        """Make the name of DuckDB's log durable: DuckDB syncs what it writes into it, not the folder."""
        try:
            fsync_dir(self._layout.root)
        except OSError as error:
            raise write_error(self._layout.wal, error) from error

    # -- closing -----------------------------------------------------------------------------

    def disconnect(self, *, hurried: bool) -> None:
        """Commit what waits, make a checkpoint and close the file; `hurried` as for `Checkpoint.write`."""
        con = self.con
        if con is None:
            return
        try:
            self.commit_if_possible()
            # On a full disk the log stays beside the file and holds everything.
            with contextlib.suppress(duckdb.Error):
                self._checkpoint.write(con, hurried=hurried)
        finally:
            if self._on_copy:
                con.close()
                self._on_copy = False
            else:
                self.instance.detach(con)
            self._appending = Appending()
            # Forgotten last: interrupted before, it is closed by whoever comes next.
            self.con = None

    def _disconnect_at_once(self) -> None:
        self.disconnect(hurried=True)

    def end(self) -> None:
        """Let go of DuckDB, and of the copy of an older catalog; nothing is open any more."""
        self.instance.put_by()
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None

    def abandon(self) -> None:
        """Forget, in a forked child, what could not be closed before the fork; it is never touched."""
        if self.con is not None:
            _abandoned.append(self.con)
        _abandoned.extend(self.instance.abandon())
        self.con = None
        self._appending = Appending()
        self._checkpoint = Checkpoint(self._layout)


def tell(report: ApplyReport) -> None:
    """Warn of rows that were dropped and commits that were set aside."""
    if report.dropped:
        rows = ", ".join(f"{count} of {name}" for name, count in sorted(report.dropped.items()))
        warnings.warn(
            "Committed rows were dropped because what they belong to was deleted or rolled back, or their id "
            f"is taken: {rows}.",
            stacklevel=6,
        )
    for rejection in report.rejected:
        warnings.warn(
            f"A commit could not be applied and was set aside in {rejection.path}: {rejection.reason}",
            stacklevel=6,
        )
