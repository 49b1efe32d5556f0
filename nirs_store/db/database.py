"""The catalog as one store object has it: its file, its one connection, its lock, and the journal applied to it.

One operation of a store object at a time; a query that finds nothing to apply shares the catalog with other readers.
After it the connection lingers for 50 ms while no process waits, so that a loop of queries does not open the file each
time.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import duckdb
import msgspec

from nirs_store.blobs.durable import write_error
from nirs_store.db.apply import CHUNK_BYTES, ApplyReport, applied_ids, apply_journal
from nirs_store.db.connection import Instance, Options, create_catalog, schema_version
from nirs_store.db.journal import Entry
from nirs_store.db.layout import (
    Layout,
    hold_reserve,
    little_is_left,
    release_reserve,
    share_log,
    size_of,
    sync_log,
)
from nirs_store.db.lock import CatalogLock, Claims, settle_trash
from nirs_store.db.log import CommitLog, Inbox
from nirs_store.db.marks import ChangeCount, warn_of_missing
from nirs_store.db.migrations import Checkpoint, compact, open_migrated_copy, open_when_free, run_step
from nirs_store.db.schema import SCHEMA_VERSION
from nirs_store.db.sql import StagedRows, interruptible, is_interrupt, translated
from nirs_store.errors import (
    InboxOnly,
    NirsStoreError,
    ReadOnlyStore,
    SharedStoreUnreachable,
    StoreBusy,
    StoreClosed,
    WriteFailed,
)

Connection = duckdb.DuckDBPyConnection
T = TypeVar("T")

LINGER = 0.050
# Segments that a store applies at a time without a query, and how often it goes on while no process waits.
_HELP = 128
_TURNS = 2
_PAUSE = 2.0
# Applied commits stay in the journal until a checkpoint, which is made as soon as there are so many of them.
_KEPT_SEGMENTS = 64
_KEPT_BYTES = 8 << 20
# Direct changes are in DuckDB's log until then.
_LOG_BYTES = 16 << 20
# What one transaction adds on a full disk must fit into the space that is reserved for it.
_SMALL_BYTES = 1 << 17

# Connections that a forked child inherited: destroying one there would touch the parent's file.
_abandoned: list[Connection] = []


class Database:
    """One store object's way to the catalog; safe to use from many threads."""

    def __init__(
        self,
        layout: Layout,
        journal: CommitLog,
        claims: Claims,
        *,
        writable: bool,
        options: Options,
        on_idle: Callable[[], None],
        on_open: Callable[[Connection], None] | None = None,
        closed: str | None = None,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self._layout = layout
        self._journal = journal
        self.claims = claims
        self._writable = writable
        self._options = options
        self._on_idle = on_idle
        self._on_open = on_open
        # One connection at a time, or none.
        self.con: Connection | None = None
        self.instance = Instance(layout.catalog, options, layout.tmp if writable else None)
        # A migrated copy of an older catalog, where nothing may be written, and whether it is what is open.
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self.reads_copy = False
        # What the connection has learnt from applying; made again with every connection. Ids of the commits that it
        # has found in the catalog or applied are None until it has looked.
        self._arriving = StagedRows()
        self._applied: set[str] | None = None
        self._kept, self._kept_bytes = 0, 0
        self._changes = ChangeCount(layout)
        self._checkpoint = Checkpoint(layout)
        self._look = look
        self._catalog_lock = CatalogLock(layout, writable=writable, look=look)
        self._inbox = Inbox(layout)
        # Why the catalog is closed to a store that only records.
        self._refusal = closed
        self._mutex = threading.RLock()
        self._held_for_fork = False
        # Threads that have come for it.
        self._coming: set[int] = set()
        self._closed = False
        self._depth = 0
        # Set while the thread that has the mutex must not be let in once more: see `_enter`.
        self._busy = False
        self._idle_since = 0.0
        # When the journal may be applied unasked again.
        self._not_before = 0.0
        self._told_pending = False
        self._told_missing = False
        # Set while a gc of this object has blobs aside itself.
        self.sweeping = False

    def opens_copy(self, *, timeout: float) -> bool:
        """Open the catalog and tell whether a copy answers; no word of waiting commits, as nothing is answered."""
        told, self._told_pending = self._told_pending, True
        try:
            return self.query(lambda _: self.reads_copy, timeout=timeout)
        finally:
            self._told_pending = told

    # -- operations --------------------------------------------------------------------------

    def query(self, ask: Callable[[Connection], T], *, timeout: float) -> T:
        """Ask a question that sees every commit made before."""
        deadline = time.monotonic() + timeout
        with _Guard(self, deadline):
            con = self._ready_to_read(deadline)
            with self._allow_reentry(True):
                return self._run(ask, con)

    def change(self, work: Callable[[Connection], T], *, timeout: float) -> T:
        """Change the catalog directly, in one transaction, after applying the journal."""
        self._require_writable()
        deadline = time.monotonic() + timeout
        with _Guard(self, deadline):
            con = self._ready_to_write(deadline)
            return self._in_transaction(work, con)

    def exclusive(self, work: Callable[[Database], T], *, timeout: float) -> T:
        """Run several steps under one exclusive lock; `work` calls `transact` and friends."""
        self._require_writable()
        deadline = time.monotonic() + timeout
        with _Guard(self, deadline):
            self._ready_to_write(deadline)
            with self._allow_reentry(True):
                return work(self)

    def transact(self, work: Callable[[Connection], T]) -> T:
        """One transaction inside `exclusive`, with the journal applied before it."""
        with self._allow_reentry(False):
            return self._in_transaction(work, self._ready_to_write(time.monotonic()))

    def settle(self, work: Callable[[Connection], T]) -> T:
        """Run a last query inside `exclusive`, without applying the journal again."""
        with self._allow_reentry(False):
            return self._run(work, self.con or self._open(time.monotonic(), look=False))

    def close_connection(self) -> None:
        """Close the file inside `exclusive` while keeping the lock (for vacuum)."""
        with self._allow_reentry(False):
            self.disconnect(hurried=self._catalog_lock.wanted())

    def rewrite(self, finish: Callable[[Connection], None]) -> None:
        """Copy the catalog, which is closed, into a new file inside `exclusive`; see `compact`."""
        with self._allow_reentry(False):
            compact(self._layout, self.instance, finish)

    @contextlib.contextmanager
    def inspecting(self, *, timeout: float) -> Iterator[Callable[[], Connection]]:
        """Share the lock and look at the catalog as it lies.

        Nothing is applied, settled or migrated, and no file is made or touched, not even the name of the
        lock's holder. The block gets a function that opens the catalog (`CatalogDamaged`, `ForeignCatalog`,
        `SchemaTooNew` when it cannot be); meanwhile no process applies, deletes or collects.
        """
        deadline = time.monotonic() + timeout
        with _Guard(self, deadline):
            self._give_up()
            catalog_lock = CatalogLock(self._layout, writable=False, look=self._look)
            instance = Instance(
                self._layout.catalog, msgspec.structs.replace(self._options, whole_indexes=True), None
            )
            made: list[Connection] = []

            def connect() -> Connection:
                made.append(self.connect(read_only=True, deadline=deadline, instance=instance))
                return made[-1]

            try:
                catalog_lock.acquire(exclusive=False, timeout=_left(deadline))
                with self._allow_reentry(True):
                    yield connect
            finally:
                for con in made:
                    instance.detach(con)
                instance.release()
                catalog_lock.release()

    def try_apply(self, at_most: int | None = _HELP) -> None:
        """Apply the journal if the catalog is free; errors of the machine are left to queries."""
        too_early = at_most is not None and time.monotonic() < self._not_before
        if not self._writable or too_early or not self._try_enter():
            return
        try:
            if self._nothing_new():
                return
            if self._catalog_lock.mode != "exclusive":
                self._give_up()
                if not self._catalog_lock.try_acquire():
                    return
            for _ in range(_TURNS):
                self._ready_to_write(time.monotonic(), at_most=at_most)
                if self._nothing_new() or self._catalog_lock.wanted():
                    break
            if at_most is not None:  # at the end of a store the caller does wait for the checkpoint
                self._checkpoint.offer()
        except (NirsStoreError, duckdb.Error, OSError):
            # No query asked for this; the next one meets the same error and reports it. Trying after every commit
            # would slow recording down while another program has the catalog open for an afternoon.
            self._not_before = time.monotonic() + _PAUSE
            return
        finally:
            try:
                self._let_go()
            finally:
                self._busy = False
                self._mutex.release()

    def verify(self, *, timeout: float) -> None:
        """Look whose catalog this is, if no process is in the way, and migrate an older one that may be written."""
        with _Guard(self, time.monotonic() + 1.0):
            try:
                if self.con is None:
                    self._catalog_lock.acquire(exclusive=False, timeout=0.0)
                    if not self._open_to_read(time.monotonic()):
                        self._give_up()
                        if self._writable:
                            # Now, and before anything is recorded that an older process cannot read.
                            self._catalog_lock.acquire(exclusive=True, timeout=timeout)
                            self._open(time.monotonic() + timeout)
            except StoreBusy:
                # The process that has it open now checked the same; the next query looks again.
                return

    def create_if_missing(
        self, *, timeout: float, may_create: Callable[[], None], meta: Mapping[str, str]
    ) -> None:
        """Make an empty catalog under the lock unless another process was faster."""
        with _Guard(self, time.monotonic() + timeout):
            self._catalog_lock.acquire(exclusive=True, timeout=timeout)
            if not self._layout.catalog.exists():
                may_create()
                create_catalog(self._layout, self.instance, meta)

    # -- linger, fork, close -----------------------------------------------------------------

    @property
    def lingering(self) -> bool:
        """Whether the catalog is held open without being used."""
        return self._catalog_lock.held

    def expire(self) -> None:
        """Give the catalog up when the linger is over or a process waits."""
        if not self._catalog_lock.held or not self._try_enter():
            return
        try:
            over = time.monotonic() - self._idle_since > LINGER
            # A thread of this process that has come to ask meanwhile need not wait for the checkpoint, nor open
            # everything again.
            if self._catalog_lock.wanted() or (over and not self._coming):
                self._give_up()
        finally:
            self._busy = False
            self._mutex.release()

    def close(self) -> None:
        """Give the catalog up; waits for an operation of another thread.

        Called in the middle of one of this thread, by a signal handler, it is done when that one leaves.
        """
        with self._mutex:
            self._closed = True
            if self._depth == 0 and not self._busy:
                self._end()

    def _end(self) -> None:
        self._give_up()
        self._release_instance()

    def _release_instance(self) -> None:
        self.instance.release()
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None

    def before_fork(self) -> None:
        """Leave nothing open that a child could inherit."""
        self._held_for_fork = self._mutex.acquire(timeout=10.0)
        if self._held_for_fork and self._depth == 0 and not self._busy:
            self._give_up()
            # Its threads would not exist in the child, which would wait for them at its end.
            self.instance.discard()

    def after_fork_in_parent(self) -> None:
        """Go on as before."""
        if self._held_for_fork:
            self._mutex.release()

    def after_fork_in_child(self, on_idle: Callable[[], None]) -> None:
        """Start again; what could not be closed before the fork is never touched."""
        self._on_idle = on_idle
        if self.con is not None:
            _abandoned.append(self.con)
        _abandoned.extend(self.instance.abandon())
        self.con = self._applied = None
        self._checkpoint = Checkpoint(self._layout)
        self._catalog_lock.abandon()
        self._catalog_lock = CatalogLock(self._layout, writable=self._writable, look=self._look)
        self._mutex = threading.RLock()
        self._coming = set()
        self._depth = 0
        self._busy = False

    # -- inside ------------------------------------------------------------------------------

    def _enter(self, deadline: float) -> None:
        if self._refusal is not None:
            raise InboxOnly(self._refusal)
        me = threading.get_ident()
        self._coming.add(me)
        try:
            entered = self._mutex.acquire(
                timeout=min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
            )
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
        if self._busy:
            # The mutex lets its own thread in again. In the middle of a transaction that would commit half of it.
            self._mutex.release()
            raise StoreBusy(
                f"This thread is in the middle of a change of {self._layout.root}, and was interrupted by a signal "
                "handler or a destructor that asks the same store. Nothing was changed; set a flag there, and ask "
                "when the interrupted call has returned. Recording and closing work there too."
            )
        self._depth += 1
        self._busy = True

    def _try_enter(self) -> bool:
        """Enter for work that no caller asked for, unless something is under way."""
        if self._refusal is not None or not self._mutex.acquire(blocking=False):
            return False
        if self._closed or self._depth > 0 or self._busy:
            self._mutex.release()
            return False
        self._busy = True
        return True

    def _leave(self, *, interrupted: bool) -> None:
        self._depth -= 1
        try:
            if interrupted:
                # A transaction may be open, a lock half taken: how far the operation had come is unknown.
                if self.con is not None:
                    with contextlib.suppress(duckdb.Error):  # there is none, most of the time
                        self.con.execute("ROLLBACK")
                self._give_up()
                if self._closed and self._depth == 0:
                    self._release_instance()
            elif self._depth == 0:
                self._let_go()
        finally:
            self._busy = False
            self._mutex.release()

    @contextlib.contextmanager
    def _allow_reentry(self, again: bool) -> Iterator[None]:
        """Allow this thread to re-enter while the block runs, or not.

        While a question is answered, and between the steps of `exclusive`, it may; during one of these it may not.
        """
        before, self._busy = self._busy, not again
        try:
            yield
        finally:
            self._busy = before

    def _let_go(self) -> None:
        """End of an operation: linger, unless a process waits."""
        if self._depth > 0:
            return
        if self._closed:
            self._end()
            return
        if not self._catalog_lock.held:
            return
        if self.con is None or self._catalog_lock.wanted():
            self._give_up()
            return
        self._idle_since = time.monotonic()
        self._on_idle()

    def _require_writable(self) -> None:
        if not self._writable:
            raise ReadOnlyStore(
                f"{self._layout.root} is open read-only; nothing was changed. Open it for writing, "
                "as a user who may write there (in Python without read_only=True)."
            )

    # -- getting ready -------------------------------------------------------------------------

    def _ready_to_read(self, deadline: float) -> Connection:
        if not self._writable:
            return self._ready_read_only(deadline)
        if self.con is not None and self._nothing_new():
            return self.con
        if self.con is None and self._nothing_new():
            self._catalog_lock.acquire(exclusive=False, timeout=_left(deadline))
            # A shared log knows only now what this catalog has.
            if self._open_to_read(deadline) and self.con is not None and self._nothing_new():
                return self.con
        return self._ready_to_write(deadline)

    def _ready_read_only(self, deadline: float) -> Connection:
        con = self.con
        if con is None:
            self._catalog_lock.acquire(exclusive=False, timeout=_left(deadline))
            con = self._open_read_only(deadline)
        entries = [] if self._told_pending else self._journal.pending()
        applied = self._run(applied_ids, con) if entries else set()
        waiting = sum(entry.txid not in applied for entry in entries)
        waiting += 0 if self._told_pending else self._inbox.waiting()
        if waiting:
            self._told_pending = True
            warnings.warn(
                f"{self._layout.root} is read-only here: {waiting} commits in its journal or inbox could not be "
                "applied and are not part of the answers.",
                stacklevel=5,
            )
        return con

    def _ready_to_write(self, deadline: float, at_most: int | None = None) -> Connection:
        if self._catalog_lock.mode != "exclusive":
            self._give_up()
            self._catalog_lock.acquire(exclusive=True, timeout=_left(deadline))
        release_reserve(self._layout)
        # A gc that died left blobs in the trash. Its claims are read before the journal is applied.
        unsettled = not self.sweeping and any(True for _ in self._layout.blobs.list("", trashed=True))
        claimed = self.claims.read(remove_dead=True) if unsettled else set()
        self._inbox.take(self._journal)
        con = self._apply(deadline, at_most=None if unsettled else at_most, tidying=unsettled)
        if unsettled:
            self._run(lambda con: settle_trash(con, self._layout.blobs, claimed), con)
        return con

    def _give_up(self) -> None:
        self.disconnect(hurried=self._catalog_lock.wanted())
        if self._catalog_lock.mode == "exclusive":
            hold_reserve(self._layout)
        self._catalog_lock.release()

    # -- opening -----------------------------------------------------------------------------

    def _open(self, deadline: float, *, look: bool = True) -> Connection:
        """Open it to be changed; errors of all three as for `connect`."""
        self.con = self.connect(read_only=False, deadline=deadline)
        self._arriving = StagedRows()
        self._applied, self._kept, self._kept_bytes = None, 0, 0
        if self._layout.wal.exists():  # left by a process that was killed, or by a full disk
            self._checkpoint.need(tidying=False)
        self._run(self._journal.opened, self.con)
        missing = self._told_of_missing(self.con)
        if missing:
            self._checkpoint.need(tidying=False)
            self._run(lambda con: self._changes.accept(con, missing), self.con)
        if look:
            self._look_at(self.con)
        return self.con

    def _open_to_read(self, deadline: float) -> bool:
        """Open it to be read; tells whether it is of the present version, and was looked at."""
        self.con = self.connect(read_only=True, deadline=deadline)
        if schema_version(self.con, self._layout.catalog) != SCHEMA_VERSION:
            return False
        self._run(self._journal.opened, self.con)
        self._told_of_missing(self.con)
        self._look_at(self.con)
        return True

    def _open_read_only(self, deadline: float) -> Connection:
        """Open it where nothing may be written: of an older schema a migrated copy answers."""
        self.con = self.connect(read_only=True, deadline=deadline)
        if schema_version(self.con, self._layout.catalog) != SCHEMA_VERSION:
            self.disconnect(hurried=False)
            if self._copy is None:
                self._copy = tempfile.TemporaryDirectory(prefix="nirs_store-")
            self.con = open_migrated_copy(self._layout, Path(self._copy.name), options=self._options)
            self.reads_copy = True
        self._run(self._journal.opened, self.con)
        self._told_of_missing(self.con)
        return self.con

    def connect(self, *, read_only: bool, deadline: float, instance: Instance | None = None) -> Connection:
        """Make a connection, of this store's DuckDB or of another one."""
        # A replica is brought up to date by the commit that says so.
        migrate, own = not self._journal.whole, instance or self.instance
        return open_when_free(self._layout, own, read_only=read_only, migrate=migrate, deadline=deadline)

    def _told_of_missing(self, con: Connection) -> int:
        """Warn when the catalog lacks changes; returns how many."""
        if self._journal.whole:
            return 0  # it gets them again
        missing = self._run(self._changes.missing, con)
        if missing and not self._told_missing:
            self._told_missing = True
            warn_of_missing(self._layout, missing)
        return missing

    def _look_at(self, con: Connection) -> None:
        if self._on_open is not None:
            self._run(self._on_open, con)

    # -- the journal -------------------------------------------------------------------------

    def _nothing_new(self) -> bool:
        """Whether the catalog holds every commit in the journal, as far as this connection knows."""
        return self._journal.is_empty(self._applied or ()) and not self._inbox.waiting()

    def _apply(self, deadline: float, *, at_most: int | None, tidying: bool) -> Connection:
        """Apply the journal, or its first segments; opens the catalog if need be. Errors as for `apply_journal`.

        On a full disk a transaction of a few commits finds room where one of many does not, and once they are in
        the catalog their files make room for the next.
        """
        con, report = self.con or self._open(deadline), ApplyReport()
        if self._nothing_new():
            return con
        small = little_is_left(self._layout)
        while True:
            done = report.segments
            try:
                self._apply_some(con, report, at_most, tidying=tidying, small=small)
                if at_most is not None or not self._journal.behind:
                    break
            except SharedStoreUnreachable:
                raise
            except WriteFailed:
                if small and report.segments == done:
                    report.warn()
                    raise
                small = True
                # Whether the connection still works is unknown.
                self.disconnect(hurried=True)
                con = self._open(deadline)
            finally:
                self._checkpoint.count(report.segments - done)
        if self._journal.whole:
            self._look_at(con)  # settings may have come with a change of another computer
        report.warn()
        return con

    def _catch_up(self, con: Connection) -> None:
        """Apply what waits in the middle of a turn, on the connection that is open."""
        report = ApplyReport()
        self._apply_some(con, report, None, tidying=False, small=False)
        report.warn()

    def _apply_some(
        self, con: Connection, report: ApplyReport, at_most: int | None, *, tidying: bool, small: bool
    ) -> None:
        # Also where all of them are applied: they wait for the checkpoint that a process before this one did not make.
        self._checkpoint.need(tidying=tidying)
        if self._applied is None:
            self._applied = self._run(applied_ids, con)
        applied = self._applied

        def on_commit(entries: Sequence[Entry]) -> None:
            share_log(self._layout)
            self._checkpoint.need(tidying=tidying)
            self._kept += len(entries)
            self._kept_bytes += sum(entry.nbytes for entry in entries)
            if small:
                # Their rows are in DuckDB's log, which is synced: here room counts for more than a second copy.
                self._release(con, applied)
                return
            many = self._kept >= _KEPT_SEGMENTS or self._kept_bytes >= _KEPT_BYTES
            if many and self._checkpoint.write(con, hurried=True):
                self._release(con, applied)

        self._run(
            lambda con: apply_journal(
                con,
                self._journal,
                applied,
                report,
                arriving=self._arriving,
                count_change=self._changes.advance,
                on_commit=on_commit,
                at_most=at_most,
                chunk_bytes=_SMALL_BYTES if small else CHUNK_BYTES,
                migrate=run_step,
            ),
            con,
        )

    def _release(self, con: Connection, applied: set[str]) -> None:
        """Take the applied commits out of the journal: the file of the catalog holds them by itself."""
        entries = [] if self._journal.whole else [e for e in self._journal.pending() if e.txid in applied]
        if entries:
            self._changes.publish(con)
            self._journal.remove(entries)
        self._kept, self._kept_bytes = 0, 0

    # -- working on it -----------------------------------------------------------------------

    def _run(self, work: Callable[[Connection], T], con: Connection) -> T:
        """Run on the connection, until Ctrl-C; one that an I/O error made invalid is not used again."""
        with translated(self._layout, lambda: self.disconnect(hurried=True)):
            return interruptible(con, work)

    def _in_transaction(self, work: Callable[[Connection], T], con: Connection) -> T:
        """Change the catalog in a transaction of its own."""

        def whole(con: Connection) -> T:
            with self._journal.changing(lambda: self._catch_up(con)) as change:
                con.execute("BEGIN")
                try:
                    result = work(change.through(con))
                    self._changes.advance(con)
                    change.commit(con)
                    con.execute("COMMIT")
                except BaseException as error:
                    with contextlib.suppress(duckdb.Error):  # the failing statement may have ended it itself
                        con.execute("ROLLBACK")
                    if not (change.committed and isinstance(error, duckdb.Error)):
                        raise
                    # Everybody else has it. This catalog gets it from the log, as they do.
                    self.disconnect(hurried=True)
                    return result
            try:
                sync_log(self._layout)
            except OSError as error:
                raise write_error(self._layout.wal, error) from error
            self._changes.publish(con)
            if size_of(self._layout.wal) > _LOG_BYTES:
                self._checkpoint.write(con, hurried=True)
            return result

        self._checkpoint.need(tidying=True)
        return self._run(whole, con)

    def disconnect(self, *, hurried: bool) -> None:
        """Make a checkpoint and close the file; `hurried` as for `Checkpoint.write`."""
        con = self.con
        if con is None:
            return
        try:
            # On a full disk the log stays next to the file, and the commits in the journal; nothing is missing.
            with contextlib.suppress(duckdb.Error, OSError):
                if self._checkpoint.write(con, hurried=hurried) and self._applied:
                    self._release(con, self._applied)
        finally:
            if self.reads_copy:
                con.close()
                self.reads_copy = False
            else:
                self.instance.detach(con)
            self._applied = None
            self._journal.closed()
            # Forgotten last: if this is interrupted before, the next call closes it.
            self.con = None


class _Guard:
    """Hold the catalog for one thread during a block."""

    def __init__(self, access: Database, deadline: float) -> None:
        self._access = access
        self._deadline = deadline

    def __enter__(self) -> None:
        self._access._enter(self._deadline)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if is_interrupt(error):
            self._access._leave(interrupted=True)
            raise KeyboardInterrupt from None
        # Ctrl-C, an exit, no memory left: what may be raised anywhere, also between two steps.
        interrupted = kind is not None and (not issubclass(kind, Exception) or issubclass(kind, MemoryError))
        self._access._leave(interrupted=interrupted)


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
