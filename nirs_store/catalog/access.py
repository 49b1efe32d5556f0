"""Working on the catalog: lease, connection, journal, then the question itself.

One operation of a store object at a time; a query that finds nothing to apply shares the
catalog with other readers. After it the connection lingers for 50 ms while nobody waits, so
that a loop of queries does not open the file each time.
"""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import duckdb
import msgspec

from nirs_store.catalog.aside import aside_files, settle_aside
from nirs_store.catalog.connection import Instance, Options
from nirs_store.catalog.journal import Journal
from nirs_store.catalog.layout import Layout
from nirs_store.catalog.lease import Lease
from nirs_store.catalog.opened import Connection, OpenCatalog, tell
from nirs_store.catalog.removal import Removal
from nirs_store.catalog.reserve import give_back, keep_back
from nirs_store.catalog.sessions import read_claims
from nirs_store.errors import NirsStoreError, ReadOnlyStore, StoreBusy, StoreClosed

__all__ = ["CatalogAccess", "Connection"]

T = TypeVar("T")

LINGER = 0.050
# Segments that a store applies in one turn when nobody asked, and how often it goes on while nobody waits.
_HELP = 128
_TURNS = 2


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
        self._opened = OpenCatalog(layout, journal, writable=writable, options=options, on_open=on_open)
        self._lease = Lease(layout, writable=writable)
        self._mutex = threading.RLock()
        self._held_for_fork = False
        # Threads that have come for it.
        self._coming: set[int] = set()
        # Files that a gc of this object is still deleting; the lease is held alone meanwhile.
        self._removal: Removal | None = None
        self._closed = False
        self._depth = 0
        # Set while the thread that has the mutex must not be let in once more: see `_enter`.
        self._at_work = False
        self._idle_since = 0.0
        self._told_pending = False
        # Set while a gc of this object has blobs aside itself.
        self.sweeping = False

    # -- operations --------------------------------------------------------------------------

    def query(
        self,
        ask: Callable[[Connection], T],
        *,
        timeout: float,
        committed: bool = False,
        reads: Collection[str] | None = None,
    ) -> T:
        """Ask a question that sees every commit made before.

        With `committed`, what was applied for it is committed to the catalog first: for a question that opens a
        connection or a transaction of its own. With `reads`, it sees of these tables alone what was applied and not
        committed, which takes a loop that asks after every commit less time.

        Raises
        ------
        StoreBusy
            The catalog could not be had within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        with self._serialised(deadline):
            con = self._ready_to_read(deadline)
            if committed:
                self._opened.commit_waiting()
            self._opened.write_for(reads, con)
            with self._let_in(True):
                return self._opened.ask(ask, con)

    def change(self, work: Callable[[Connection], T], *, timeout: float) -> T:
        """Change the catalog directly, in one transaction, after applying the journal."""
        self._require_writable()
        deadline = time.monotonic() + timeout
        with self._serialised(deadline):
            con = self._ready_to_write(deadline)
            return self._opened.transact(work, con)

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
            self._opened.commit_waiting()
            with self._let_in(True):
                return work(self)

    def transact(self, work: Callable[[Connection], T]) -> T:
        """One transaction inside `exclusive`, with the journal applied before it."""
        with self._let_in(False):
            return self._opened.transact(work, self._ready_to_write(time.monotonic()))

    def settle(self, work: Callable[[Connection], T]) -> T:
        """A last question inside `exclusive`, without applying the journal again."""
        opened = self._opened
        with self._let_in(False):
            con = opened.con or opened.open(time.monotonic(), look=False)
            opened.commit_waiting()
            opened.forget()
            return opened.run(work, con)

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
        with self._let_in(False):
            self._opened.disconnect(hurried=self._lease.wanted())

    def rewrite(self, finish: Callable[[Connection], None]) -> None:
        """Copy the catalog, which is closed, into a new file inside `exclusive`; see `compact`."""
        with self._let_in(False):
            self._opened.rewrite(finish)

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
            instance = Instance(
                self._layout.catalog, msgspec.structs.replace(self._options, whole_indexes=True), None
            )
            made: list[Connection] = []

            def connect() -> Connection:
                made.append(self._opened.connect(read_only=True, deadline=deadline, instance=instance))
                return made[-1]

            try:
                lease.acquire(exclusive=False, timeout=_left(deadline))
                with self._let_in(True):
                    yield connect
            finally:
                for con in made:
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
        if self._closed or self._depth > 0 or self._at_work:
            self._mutex.release()
            return
        self._at_work = True
        try:
            if self._opened.nothing_new():
                return
            if self._lease.mode != "exclusive":
                self._give_up()
                if not self._lease.try_acquire():
                    return
            for _ in range(_TURNS):
                self._ready_to_write(time.monotonic(), at_most=at_most)
                # No question follows.
                self._opened.commit_waiting()
                if self._opened.nothing_new() or self._lease.wanted():
                    break
            if at_most is not None:  # at the end of a store somebody does wait for the checkpoint
                self._opened.may_tidy()
        except (NirsStoreError, duckdb.Error, OSError):
            # Nobody asked for this; whoever asks meets the same error and is told.
            return
        finally:
            try:
                self._let_go()
            finally:
                self._at_work = False
                self._mutex.release()

    def verify(self) -> None:
        """Look whose catalog this is and at its version, if nobody is in the way; changes nothing."""
        with self._serialised(time.monotonic() + 1.0):
            try:
                if self._opened.con is None:
                    self._lease.acquire(exclusive=False, timeout=0.0)
                    if not self._opened.open_to_read(time.monotonic()):
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
                self._opened.create()

    # -- linger, fork, close -----------------------------------------------------------------

    @property
    def lingering(self) -> bool:
        """Whether the catalog is held open without being used."""
        return self._lease.held

    def expire(self) -> None:
        """Give the catalog up when the linger is over or somebody waits."""
        if not self._lease.held or not self._mutex.acquire(blocking=False):
            return
        if self._depth > 0 or self._at_work:
            self._mutex.release()
            return
        self._at_work = True
        try:
            wanted = self._lease.wanted()
            over = time.monotonic() - self._idle_since > LINGER
            if wanted or (over and not self.removing):
                if not wanted:
                    self._opened.commit_if_possible()
                    if self._coming:
                        # A thread of this process has come to ask meanwhile: it need not wait for the checkpoint, nor
                        # open everything anew.
                        return
                self._give_up()
        finally:
            self._at_work = False
            self._mutex.release()

    def close(self) -> None:
        """Give the catalog up; waits for an operation of another thread.

        Called in the middle of one of this thread, by a signal handler, it is done when that one leaves.
        """
        with self._mutex:
            self._closed = True
            if self._depth == 0 and not self._at_work:
                self._end()

    def _end(self) -> None:
        self._give_up()
        self._opened.end()

    def before_fork(self) -> None:
        """Leave nothing open that a child could inherit."""
        self._held_for_fork = self._mutex.acquire(timeout=10.0)
        if self._held_for_fork and self._depth == 0 and not self._at_work:
            self._give_up()
            # Its threads would not exist in the child, which would wait for them at its end.
            self._opened.instance.discard()

    def after_fork_in_parent(self) -> None:
        """Go on as before."""
        if self._held_for_fork:
            self._mutex.release()

    def after_fork_in_child(self, on_idle: Callable[[], None]) -> None:
        """Start anew; what could not be closed before the fork is never touched."""
        self._on_idle = on_idle
        self._opened.abandon()
        self._removal = None  # its thread is the parent's
        self._lease.abandon()
        self._lease = Lease(self._layout, writable=self._writable)
        self._mutex = threading.RLock()
        self._coming = set()
        self._depth = 0
        self._at_work = False

    # -- inside ------------------------------------------------------------------------------

    def _serialised(self, deadline: float) -> _Turn:
        return _Turn(self, deadline)

    def _enter(self, deadline: float) -> None:
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
        if self._at_work:
            # The mutex lets its own thread in again. In the middle of a transaction that would commit half of it.
            self._mutex.release()
            raise StoreBusy(
                f"This thread is in the middle of a change of {self._layout.root}, and was interrupted by a signal "
                "handler or a destructor that asks the same store. Nothing was changed; set a flag there, and ask "
                "when the interrupted call has returned. Recording and closing work there too."
            )
        self._depth += 1
        self._at_work = True

    def _leave(self, *, interrupted: bool) -> None:
        self._depth -= 1
        try:
            if interrupted:
                # A transaction may be open, a lock half taken: nobody can say how far the operation had come.
                self._opened.roll_back()
                self._give_up()
                if self._closed and self._depth == 0:
                    self._opened.end()
            elif self._depth == 0:
                self._let_go()
        finally:
            self._at_work = False
            self._mutex.release()

    @contextlib.contextmanager
    def _let_in(self, again: bool) -> Iterator[None]:
        """Whether this thread may come in once more meanwhile.

        While a question is answered, and between the steps of `exclusive`, it may; during one of these it may not.
        """
        before, self._at_work = self._at_work, not again
        try:
            yield
        finally:
            self._at_work = before

    def _let_go(self) -> None:
        """End of an operation: linger, unless somebody waits."""
        if self._depth > 0:
            return
        if self._closed:
            self._end()
            return
        if not self._lease.held:
            return
        if self._opened.con is None or self._lease.wanted():
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

    def _ready_to_read(self, deadline: float) -> Connection:
        if not self._writable:
            return self._ready_read_only(deadline)
        opened = self._opened
        if opened.con is not None and opened.nothing_new():
            return opened.con
        if opened.con is None and self._journal.is_empty():
            self._lease.acquire(exclusive=False, timeout=_left(deadline))
            if self._journal.is_empty() and opened.open_to_read(deadline) and opened.con is not None:
                return opened.con
        return self._ready_to_write(deadline)

    def _ready_read_only(self, deadline: float) -> Connection:
        con = self._opened.con
        if con is None:
            self._lease.acquire(exclusive=False, timeout=_left(deadline))
            con = self._opened.open_read_only(deadline)
        waiting = len(self._journal.pending())
        if waiting and not self._told_pending:
            self._told_pending = True
            warnings.warn(
                f"{self._layout.root} is read-only here: {waiting} commits in its journal could not be applied "
                "and are not part of the answers.",
                stacklevel=5,
            )
        return con

    def _ready_to_write(self, deadline: float, at_most: int | None = None) -> Connection:
        if self._lease.mode != "exclusive":
            self._give_up()
            self._lease.acquire(exclusive=True, timeout=_left(deadline))
        give_back(self._layout)
        opened = self._opened
        con = opened.con or opened.open(deadline)
        # A gc that died left blobs aside. Its claims are read before the journal is applied.
        unsettled = not self.sweeping and not self.removing and bool(aside_files(self._layout))
        claimed = read_claims(self._layout, remove_dead=True) if unsettled else set()
        report = opened.apply(con, at_most=None if unsettled else at_most, tidying=unsettled)
        if unsettled:
            opened.commit_waiting()
            opened.forget()
            opened.run(lambda con: settle_aside(con, self._layout, claimed), con)
        tell(report)
        return con

    def _give_up(self) -> None:
        try:
            self._opened.disconnect(hurried=self._lease.wanted())
        finally:
            self.await_removal()
        if self._lease.mode == "exclusive":
            keep_back(self._layout)
        self._lease.release()


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
