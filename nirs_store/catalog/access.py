"""Working on the catalog: lease, connection, journal, then the question itself.

One operation of a store object at a time; a query that finds nothing to apply shares the
catalog with other readers. After it the connection lingers for 50 ms while nobody waits, so
that a loop of queries does not open the file each time.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import duckdb

from nirs_store.blobs.durable import fsync_dir, write_error
from nirs_store.catalog.appending import Appending
from nirs_store.catalog.apply import ApplyReport, apply_journal
from nirs_store.catalog.aside import aside_files, settle_aside
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
from nirs_store.catalog.lease import Lease
from nirs_store.catalog.removal import Removal
from nirs_store.catalog.reserve import give_back, keep_back
from nirs_store.catalog.schema import SCHEMA_VERSION
from nirs_store.catalog.sessions import read_claims
from nirs_store.errors import (
    CatalogDamaged,
    NirsStoreError,
    ReadOnlyStore,
    StoreBusy,
    StoreClosed,
)

__all__ = ["CatalogAccess", "Connection"]

Connection = duckdb.DuckDBPyConnection
T = TypeVar("T")

LINGER = 0.050
_POLL = 0.010
# Segments that a store applies in one turn when nobody asked, and how often it goes on while nobody waits.
_HELP = 128
_TURNS = 2
_FOREIGN_PID = re.compile(r"PID (\d+)")

# Connections that a forked child inherited: destroying one there would touch the parent's file.
_abandoned: list[Connection] = []


class CatalogAccess:
    """A store object's way to the catalog; safe to use from many threads."""

    def __init__(
        self,
        layout: Layout,
        journal: Journal,
        *,
        writable: bool,
        options: Options,
        on_idle: Callable[[], None],
        on_open: Callable[[Connection], None] | None = None,
    ) -> None:
        self._layout = layout
        self._journal = journal
        self._writable = writable
        self._options = options
        self._on_idle = on_idle
        # Looks at a catalog of the present version that was just opened.
        self._on_open = on_open
        self._lease = Lease(layout, writable=writable)
        self._mutex = threading.RLock()
        self._held_for_fork = False
        # Threads that have come for it.
        self._coming: set[int] = set()
        self._con: Connection | None = None
        # What that connection has learnt from applying; made anew with every connection.
        self._arriving = Incoming()
        self._appending = Appending()
        self._instance = Instance(layout.catalog, options, layout.tmp if writable else None)
        # Files that a gc of this object is still deleting; the lease is held alone meanwhile.
        self._removal: Removal | None = None
        self._closed = False
        self._depth = 0
        self._checkpoint = Checkpoint(layout)
        self._idle_since = 0.0
        self._told_pending = False
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        # Whether the open connection is one to that copy.
        self._on_copy = False
        # Set while a gc of this object has blobs aside itself.
        self.sweeping = False

    # -- operations --------------------------------------------------------------------------

    def query(self, ask: Callable[[Connection], T], *, timeout: float, committed: bool = False) -> T:
        """Ask a question that sees every commit made before.

        With `committed`, what was applied for it is committed to the catalog first: for a question that opens a
        connection or a transaction of its own.

        Raises
        ------
        StoreBusy
            The catalog could not be had within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        with self._serialised(deadline):
            con = self._ready_to_read(deadline)
            if committed:
                self._commit_waiting()
            try:
                return self._run(ask, con)
            except Exception:
                self._appending.look_after(con)
                raise

    def change(self, work: Callable[[Connection], T], *, timeout: float) -> T:
        """Change the catalog directly, in one transaction, after applying the journal."""
        self._require_writable()
        deadline = time.monotonic() + timeout
        with self._serialised(deadline):
            con = self._ready_to_write(deadline)
            return self._transact(work, con)

    def exclusive(
        self, work: Callable[[CatalogAccess], T], *, timeout: float, beside_removal: bool = False
    ) -> T:
        """Run several steps under one exclusive lease; `work` calls `transact` and friends.

        With `beside_removal` it may begin while files that a gc set aside are still being deleted.
        """
        self._require_writable()
        deadline = time.monotonic() + timeout
        with self._serialised(deadline):
            if not beside_removal:
                self.await_removal()
            self._ready_to_write(deadline)
            self._commit_waiting()
            return work(self)

    def transact(self, work: Callable[[Connection], T]) -> T:
        """One transaction inside `exclusive`, with the journal applied before it."""
        return self._transact(work, self._ready_to_write(time.monotonic()))

    def settle(self, work: Callable[[Connection], T]) -> T:
        """A last question inside `exclusive`, without applying the journal again."""
        if self._con is None:
            self._con = self._connect(read_only=False, deadline=time.monotonic())
        self._commit_waiting()
        self._appending.forget()
        return self._run(work, self._con)

    def remove_beside(self, paths: Sequence[Path]) -> None:
        """Delete files that lie aside while the store goes on; the lease is kept until they are gone."""
        self.await_removal()
        self._removal = Removal(self._layout.aside, paths)

    @property
    def removing(self) -> bool:
        """Whether what lies aside is being deleted; nothing else lies there then."""
        if self._removal is not None and not self._removal.running:
            self.await_removal()
        return self._removal is not None

    def await_removal(self) -> None:
        """Wait until what is being deleted is gone."""
        removal = self._removal
        if removal is None:
            return
        error = removal.wait()
        self._removal = None
        if error is not None:
            # What is left lies aside, and whoever applies the journal next settles it.
            warnings.warn(
                f"Files that nothing holds any more could not be deleted, which is tried again: {error}",
                stacklevel=6,
            )

    def close_connection(self) -> None:
        """Close the file inside `exclusive` while keeping the lease (for vacuum)."""
        self._disconnect()

    def rewrite(self, finish: Callable[[Connection], None]) -> None:
        """Copy the catalog, which is closed, into a new file inside `exclusive`; see `compact`."""
        compact(self._layout, self._instance, finish)

    @contextlib.contextmanager
    def inspecting(self, *, timeout: float) -> Iterator[Callable[[], Connection]]:
        """Share the lease and look at the catalog as it lies.

        Nothing is applied, settled or migrated, and no file is made or touched, not even the name of the
        lease's holder. The block gets a function that opens the catalog (`CatalogDamaged`, `ForeignCatalog`,
        `SchemaTooNew` when it cannot be); meanwhile nobody applies, deletes or collects.

        Raises
        ------
        StoreBusy
            The catalog could not be had within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        with self._serialised(deadline):
            self._give_up()
            lease = Lease(self._layout, writable=False)
            instance = Instance(self._layout.catalog, replace(self._options, whole_indexes=True), None)
            opened: list[Connection] = []

            def connect() -> Connection:
                opened.append(self._connect(read_only=True, deadline=deadline, instance=instance))
                return opened[-1]

            try:
                lease.acquire(exclusive=False, timeout=_left(deadline))
                yield connect
            finally:
                for con in opened:
                    instance.detach(con)
                instance.put_by()
                lease.release()

    def try_apply(self, at_most: int | None = _HELP) -> None:
        """Apply the journal if the catalog is free; errors of the machine are left to queries.

        Parameters
        ----------
        at_most
            Segments in one turn, after which whoever waits is let in; None for the whole journal in one.
        """
        if not self._writable or not self._mutex.acquire(blocking=False):
            return
        try:
            if self._closed or self._depth > 0 or self._nothing_new():
                return
            if self._lease.mode != "exclusive":
                self._give_up()
                if not self._lease.try_acquire():
                    return
            # Of a whole journal, at the end of a store, somebody does wait for the checkpoint.
            self._checkpoint.need(tidying=at_most is not None)
            for _ in range(_TURNS):
                self._ready_to_write(time.monotonic(), at_most=at_most)
                # No question follows.
                self._commit_waiting()
                if self._nothing_new() or self._lease.wanted():
                    break
        except (NirsStoreError, duckdb.Error, OSError):
            # Nobody asked for this; whoever asks meets the same error and is told.
            return
        finally:
            try:
                self._let_go()
            finally:
                self._mutex.release()

    def verify(self) -> None:
        """Look whose catalog this is and at its version, if nobody is in the way; changes nothing."""
        with self._serialised(time.monotonic() + 1.0):
            try:
                if self._con is None:
                    self._lease.acquire(exclusive=False, timeout=0.0)
                    self._con = self._connect(read_only=True, deadline=time.monotonic())
                    if self._is_current(self._con):
                        self._look_at(self._con)
                    else:
                        self._give_up()  # the first query migrates it
            except StoreBusy:
                # Whoever has it open now checked the same; the next query looks again.
                return

    def create_if_missing(self, *, timeout: float, may_create: Callable[[], None]) -> None:
        """Make an empty catalog under the lease unless somebody was faster."""
        with self._serialised(time.monotonic() + timeout):
            self._lease.acquire(exclusive=True, timeout=timeout)
            if not self._layout.catalog.exists():
                may_create()
                create_catalog(self._layout, self._instance)

    # -- linger, fork, close -----------------------------------------------------------------

    @property
    def lingering(self) -> bool:
        """Whether the catalog is held open without being used."""
        return self._lease.held

    def expire(self) -> None:
        """Give the catalog up when the linger is over or somebody waits."""
        if not self._lease.held or not self._mutex.acquire(blocking=False):
            return
        try:
            wanted = self._lease.wanted()
            over = time.monotonic() - self._idle_since > LINGER
            if self._depth == 0 and (wanted or (over and not self.removing)):
                if not wanted:
                    self._commit_if_possible()
                    if self._coming:
                        # A thread of this process has come to ask meanwhile: it need not wait for the checkpoint, nor
                        # open everything anew.
                        return
                self._give_up()
        finally:
            self._mutex.release()

    def close(self) -> None:
        """Give the catalog up; waits for an operation of another thread."""
        with self._mutex:
            self._closed = True
            self._give_up()
            self._instance.put_by()
            if self._copy is not None:
                self._copy.cleanup()
                self._copy = None

    def before_fork(self) -> None:
        """Leave nothing open that a child could inherit."""
        self._held_for_fork = self._mutex.acquire(timeout=10.0)
        if self._held_for_fork and self._depth == 0:
            self._give_up()
            # Its threads would not exist in the child, which would wait for them at its end.
            self._instance.discard()

    def after_fork_in_parent(self) -> None:
        """Go on as before."""
        if self._held_for_fork:
            self._mutex.release()

    def after_fork_in_child(self, on_idle: Callable[[], None]) -> None:
        """Start anew; what could not be closed before the fork is never touched."""
        self._on_idle = on_idle
        if self._con is not None:
            _abandoned.append(self._con)
        _abandoned.extend(self._instance.abandon())
        self._con = None
        self._appending = Appending()
        self._removal = None  # its thread is the parent's
        self._lease.abandon()
        self._lease = Lease(self._layout, writable=self._writable)
        self._mutex = threading.RLock()
        self._coming = set()
        self._depth = 0
        self._checkpoint = Checkpoint(self._layout)

    # -- inside ------------------------------------------------------------------------------

    def _serialised(self, deadline: float) -> _Turn:
        return _Turn(self, deadline)

    def _enter(self, deadline: float) -> None:
        me = threading.get_ident()
        self._coming.add(me)
        try:
            entered = self._mutex.acquire(timeout=max(0.0, deadline - time.monotonic()))
        finally:
            self._coming.discard(me)
        if not entered:
            raise StoreBusy(
                f"Another thread of this process was using {self._layout.root} until lock_timeout ran out. "
                "Nothing was changed; ask again."
            )
        if self._closed:
            # Another thread closed the store after this one had looked: nothing is opened again.
            self._mutex.release()
            raise StoreClosed
        self._depth += 1

    def _leave(self, *, interrupted: bool) -> None:
        self._depth -= 1
        try:
            if interrupted:
                # A transaction may be open, a lock half taken: nobody can say how far the operation had come.
                if self._con is not None:
                    self._appending.rollback(self._con)
                self._give_up()
            elif self._depth == 0:
                self._let_go()
        finally:
            self._mutex.release()

    def _let_go(self) -> None:
        """End of an operation: linger, unless somebody waits."""
        if self._depth > 0 or not self._lease.held:
            return
        if self._con is None or self._lease.wanted():
            self._give_up()
            return
        self._idle_since = time.monotonic()
        self._on_idle()

    def _require_writable(self) -> None:
        if not self._writable:
            raise ReadOnlyStore(
                f"{self._layout.root} is open read-only; nothing was changed. Open it without read_only=True, "
                "as a user who may write there."
            )

    def _ready_to_read(self, deadline: float) -> Connection:
        if not self._writable:
            return self._ready_read_only(deadline)
        if self._con is not None and self._nothing_new():
            return self._con
        if self._con is None and self._journal.is_empty():
            self._lease.acquire(exclusive=False, timeout=_left(deadline))
            if self._journal.is_empty():
                self._con = self._connect(read_only=True, deadline=deadline)
                if self._is_current(self._con):
                    self._look_at(self._con)
                    return self._con
        return self._ready_to_write(deadline)

    def _ready_read_only(self, deadline: float) -> Connection:
        if self._con is None:
            self._lease.acquire(exclusive=False, timeout=_left(deadline))
            self._con = self._connect(read_only=True, deadline=deadline)
            if not self._is_current(self._con):
                # An older schema, where nothing may be written: a migrated copy answers.
                self._disconnect()
                if self._copy is None:
                    self._copy = tempfile.TemporaryDirectory(prefix="nirs_store-")
                self._con = open_migrated_copy(self._layout, Path(self._copy.name), options=self._options)
                self._on_copy = True
        waiting = len(self._journal.pending())
        if waiting and not self._told_pending:
            self._told_pending = True
            warnings.warn(
                f"{self._layout.root} is read-only here: {waiting} commits in its journal could not be applied "
                "and are not part of the answers.",
                stacklevel=5,
            )
        return self._con

    def _ready_to_write(self, deadline: float, at_most: int | None = None) -> Connection:
        if self._lease.mode != "exclusive":
            self._give_up()
            self._lease.acquire(exclusive=True, timeout=_left(deadline))
        give_back(self._layout)
        if self._con is None:
            self._con = self._connect(read_only=False, deadline=deadline)
            self._arriving = Incoming()
            self._look_at(self._con)
        # A gc that died left blobs aside. Its claims are read before the journal is applied.
        unsettled = not self.sweeping and not self.removing and bool(aside_files(self._layout))
        claimed = read_claims(self._layout, remove_dead=True) if unsettled else set()
        everything = None if unsettled else at_most
        if not self._nothing_new():
            self._checkpoint.need(tidying=unsettled)
        arriving, appending = self._arriving, self._appending
        report = self._guard(
            lambda con: apply_journal(
                con, self._journal, at_most=everything, arriving=arriving, appending=appending
            ),
            self._con,
        )
        self._checkpoint.count(report.segments)
        if unsettled:
            self._commit_waiting()
            appending.forget()
            self._guard(lambda con: settle_aside(con, self._layout, claimed), self._con)
        self._tell(report)
        return self._con

    def _nothing_new(self) -> bool:
        """Whether every commit in the journal is applied already, and only waits to be committed."""
        return self._journal.is_empty(self._appending.waiting)

    def _commit_waiting(self) -> None:
        con = self._con
        if con is not None and self._appending.waiting:
            self._guard(lambda con: self._appending.commit(con, self._journal), con)

    def _commit_if_possible(self) -> None:
        # What cannot be committed now is in the journal all the same.
        with contextlib.suppress(duckdb.Error, OSError):
            if self._con is not None:
                self._appending.commit(self._con, self._journal)

    def _look_at(self, con: Connection) -> None:
        if self._on_open is not None:
            self._guard(self._on_open, con)

    def _is_current(self, con: Connection) -> bool:
        return schema_version(con, self._layout.catalog) == SCHEMA_VERSION

    def _connect(self, *, read_only: bool, deadline: float, instance: Instance | None = None) -> Connection:
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
                    instance=instance or self._instance,
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

    def _transact(self, work: Callable[[Connection], T], con: Connection) -> T:
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
        self._commit_waiting()
        self._appending.forget()
        return self._run(whole, con)

    def _sync_names(self) -> None:
        """Make the name of DuckDB's log durable: DuckDB syncs what it writes into it, not the folder."""
        try:
            fsync_dir(self._layout.root)
        except OSError as error:
            raise write_error(self._layout.wal, error) from error

    def _run(self, work: Callable[[Connection], T], con: Connection) -> T:
        return self._guard(work, con)

    def _guard(self, work: Callable[[Connection], T], con: Connection) -> T:
        """Run on a connection; one that an I/O error made invalid is not used again."""
        with translated(self._layout, self._disconnect):
            return work(con)

    def _tell(self, report: ApplyReport) -> None:
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

    def _give_up(self) -> None:
        try:
            self._disconnect()
        finally:
            self.await_removal()
        if self._lease.mode == "exclusive":
            keep_back(self._layout)
        self._lease.release()

    def _disconnect(self) -> None:
        con = self._con
        if con is None:
            return
        try:
            self._commit_if_possible()
            # On a full disk the log stays beside the file and holds everything.
            with contextlib.suppress(duckdb.Error):
                self._checkpoint.write(con, hurried=self._lease.wanted())
        finally:
            if self._on_copy:
                con.close()
                self._on_copy = False
            else:
                self._instance.detach(con)
            self._appending = Appending()
            # Forgotten last: interrupted before, it is closed by whoever comes next.
            self._con = None


class _Turn:
    """One thread's turn with the catalog."""

    def __init__(self, access: CatalogAccess, deadline: float) -> None:
        self._access = access
        self._deadline = deadline

    def __enter__(self) -> None:
        self._access._enter(self._deadline)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Ctrl-C, an exit, no memory left: what may be raised anywhere, also between two steps.
        interrupted = kind is not None and (not issubclass(kind, Exception) or issubclass(kind, MemoryError))
        self._access._leave(interrupted=interrupted)


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
