"""Working on the catalog: lease, connection, journal, then the question itself.

One operation of a store object at a time; a query that finds nothing to apply shares the
catalog with other readers. After it the connection lingers for 50 ms while nobody waits, so
that a loop of queries does not open the file each time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote

import duckdb
import msgspec

from nirs_store.blobs.durable import ensure_dir, fsync_dir, move_file, remove_file, remove_files, write_error
from nirs_store.blobs.plain import read_plain, stat_plain
from nirs_store.blobs.store import aside_name, blob_inside
from nirs_store.db.apply import CHUNK_BYTES, ApplyReport, applied_ids, apply_journal
from nirs_store.db.change_count import ChangeCount
from nirs_store.db.compact import Checkpoint, compact
from nirs_store.db.connection import CatalogLocked, Instance, Options, create_catalog, schema_version
from nirs_store.db.interrupts import interruptible, is_interrupt
from nirs_store.db.journal import Entry, Journal
from nirs_store.db.layout import Layout, give_back, keep_back, little_is_left, share_log, sync_log
from nirs_store.db.lock import Lease, open_lock_file, try_lock, unlock
from nirs_store.db.migrations import open_catalog, open_migrated_copy
from nirs_store.db.schema import SCHEMA_VERSION
from nirs_store.db.sql import Incoming, translated
from nirs_store.errors import (
    CatalogDamaged,
    NirsStoreError,
    PathEscapes,
    ReadOnlyStore,
    StoreBusy,
    StoreClosed,
    WriteFailed,
)

__all__ = [
    "CatalogAccess",
    "ClaimFile",
    "Connection",
    "OpenCatalog",
    "Removal",
    "aside_files",
    "decide_aside",
    "living",
    "move_aside",
    "read_claims",
    "settle_aside",
    "strays_aside",
    "tell",
]


# -- The catalog as one store object has it open: its connection, and what that connection has learnt and done.


Connection = duckdb.DuckDBPyConnection
T = TypeVar("T")

# Applied commits stay in the journal until a checkpoint, which is made as soon as there are so many of them.
_KEPT_SEGMENTS = 64
_KEPT_BYTES = 8 << 20
# Direct changes are in DuckDB's log until then.
_LOG_BYTES = 16 << 20
# What one transaction adds on a full disk must fit into the space that is kept back for it.
_SMALL_BYTES = 1 << 17
_POLL = 0.010
_OWN_PATIENCE = 1.0
# How the system, and `open_plain`, say that something else is in the place of a file.
_NO_FILE = (errno.ELOOP, errno.EISDIR, errno.EEXIST, errno.ENXIO)

# Connections that a forked child inherited: destroying one there would touch the parent's file.
_abandoned: list[Connection] = []


class OpenCatalog:
    """One connection at a time to the catalog of a workspace, or none."""

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
        # What that connection has learnt from applying; made again with every connection.
        self._arriving = Incoming()
        # Ids of the commits that it has found in the catalog or applied; None until it has looked.
        self._applied: set[str] | None = None
        self._kept, self._kept_bytes = 0, 0
        self._changes = ChangeCount(layout)
        self._told_missing = False
        self._checkpoint = Checkpoint(layout)
        self.instance = Instance(layout.catalog, options, layout.tmp if writable else None)
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        # Whether the open connection is one to that copy.
        self.on_copy = False

    # -- opening -----------------------------------------------------------------------------

    def create(self) -> None:
        """Make an empty catalog."""
        create_catalog(self._layout, self.instance)

    def open(self, deadline: float, *, look: bool = True) -> Connection:
        """Open it to be changed; errors of all three as for `connect`."""
        self.con = self.connect(read_only=False, deadline=deadline)
        self._arriving = Incoming()
        self._applied, self._kept, self._kept_bytes = None, 0, 0
        if self._layout.wal.exists():  # left by a process that was killed, or by a full disk
            self._checkpoint.need(tidying=False)
        missing = self._told_of_missing(self.con)
        if missing:
            self._checkpoint.need(tidying=False)
            self.run(lambda con: self._changes.accept(con, missing), self.con)
        if look:
            self._look_at(self.con)
        return self.con

    def open_to_read(self, deadline: float) -> bool:
        """Open it to be read; tells whether it is of the present version, and was looked at."""
        self.con = self.connect(read_only=True, deadline=deadline)
        if not self._is_current(self.con):
            return False
        self._told_of_missing(self.con)
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
            self.on_copy = True
        self._told_of_missing(self.con)
        return self.con

    def connect(self, *, read_only: bool, deadline: float, instance: Instance | None = None) -> Connection:
        """Make a connection, of this store's DuckDB or of another one."""
        began = time.monotonic()
        while True:
            try:
                if not self._layout.catalog.exists():
                    raise CatalogDamaged(
                        f"{self._layout.catalog} is missing. Restore it from a backup, or from a copy that a "
                        "migration kept; the blobs and the journal are untouched."
                    )
                return open_catalog(self._layout, instance or self.instance, read_only=read_only)
            except CatalogLocked as error:
                # Waiting does not make this process close its own connection, unless another thread does.
                if error.own:
                    deadline = min(deadline, began + _OWN_PATIENCE)
                if time.monotonic() >= deadline:
                    raise StoreBusy(
                        f"{self._layout.catalog} is open {error}. Close it there and ask again; nothing is damaged, "
                        "and recording is not affected.",
                        pid=error.pid,
                    ) from error
                time.sleep(_POLL)

    def _told_of_missing(self, con: Connection) -> int:
        """Warn when the catalog lacks changes; returns how many."""
        missing = self.run(self._changes.missing, con)
        if missing and not self._told_missing:
            self._told_missing = True
            warnings.warn(
                f"{self._layout.catalog} lacks at least {missing} changes that were made in it: its log "
                f"({self._layout.wal.name}) was cut or removed, or the file was replaced by an older one. Commits that "
                "are still in the journal are applied again; deletions, files, evaluations and settings since then are "
                "lost. Compare with a backup; `nirs-store check` says what no longer fits.",
                stacklevel=6,
            )
        return missing

    def _look_at(self, con: Connection) -> None:
        if self._on_open is not None:
            self.run(self._on_open, con)

    def _is_current(self, con: Connection) -> bool:
        return schema_version(con, self._layout.catalog) == SCHEMA_VERSION

    # -- the journal -------------------------------------------------------------------------

    def nothing_new(self) -> bool:
        """Whether the catalog holds every commit in the journal, as far as this connection knows."""
        return self._journal.is_empty(self._applied or ())

    def unapplied(self, con: Connection) -> int:
        """How many commits in the journal the catalog does not hold."""
        entries = self._journal.pending()
        applied = self.run(applied_ids, con) if entries else set()
        return sum(entry.txid not in applied for entry in entries)

    def apply(self, deadline: float, *, at_most: int | None, tidying: bool) -> Connection:
        """Apply the journal, or its first segments; opens the catalog if need be. Errors as for `apply_journal`.

        On a full disk a transaction of a few commits finds room where one of many does not, and once they are in
        the catalog their files make room for the next.
        """
        con, report = self.con or self.open(deadline), ApplyReport()
        if self.nothing_new():
            return con
        small = little_is_left(self._layout)
        while True:
            done = report.segments
            try:
                self._apply(con, report, at_most, tidying=tidying, small=small)
                break
            except WriteFailed:
                if small and report.segments == done:
                    tell(report)
                    raise
                small = True
                # Nobody can say what the connection is still good for.
                self._disconnect_at_once()
                con = self.open(deadline)
            finally:
                self._checkpoint.count(report.segments - done)
        tell(report)
        return con

    def _apply(
        self, con: Connection, report: ApplyReport, at_most: int | None, *, tidying: bool, small: bool
    ) -> None:
        # Also where all of them are applied: they wait for the checkpoint that a process before this one did not make.
        self._checkpoint.need(tidying=tidying)
        if self._applied is None:
            self._applied = self.run(applied_ids, con)
        applied = self._applied

        def on_commit(entries: Sequence[Entry]) -> None:
            share_log(self._layout)
            self._checkpoint.need(tidying=tidying)
            self._kept += len(entries)
            self._kept_bytes += sum(_size(entry.path) for entry in entries)
            if small:
                # Their rows are in DuckDB's log, which is synced: here room counts for more than a second copy.
                self._release(con, applied)
                return
            many = self._kept >= _KEPT_SEGMENTS or self._kept_bytes >= _KEPT_BYTES
            if many and self._checkpoint.write(con, hurried=True):
                self._release(con, applied)

        self.run(
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
            ),
            con,
        )

    def _release(self, con: Connection, applied: set[str]) -> None:
        """Take the applied commits out of the journal: the file of the catalog holds them by itself."""
        entries = [entry for entry in self._journal.pending() if entry.txid in applied]
        if entries:
            self._changes.publish(con)
            self._journal.remove(entries)
        self._kept, self._kept_bytes = 0, 0

    def may_tidy(self) -> None:
        """Let the next checkpoint put small row groups together if it is a large one and nobody waits."""
        self._checkpoint.offer()

    def roll_back(self) -> None:
        """Give up a transaction that may be open."""
        if self.con is not None:
            with contextlib.suppress(duckdb.Error):  # there is none, most of the time
                self.con.execute("ROLLBACK")

    # -- working on it -----------------------------------------------------------------------

    def run(self, work: Callable[[Connection], T], con: Connection) -> T:
        """Run on the connection, until Ctrl-C; one that an I/O error made invalid is not used again."""
        with translated(self._layout, self._disconnect_at_once):
            return interruptible(con, work)

    def transact(self, work: Callable[[Connection], T], con: Connection) -> T:
        """Change the catalog in a transaction of its own."""

        def whole(con: Connection) -> T:
            con.execute("BEGIN")
            try:
                result = work(con)
                self._changes.advance(con)
                con.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(duckdb.Error):  # the failing statement may have ended it itself
                    con.execute("ROLLBACK")
                raise
            self._sync_names()
            self._changes.publish(con)
            if _size(self._layout.wal) > _LOG_BYTES:
                self._checkpoint.write(con, hurried=True)
            return result

        self._checkpoint.need(tidying=True)
        return self.run(whole, con)

    def rewrite(self, finish: Callable[[Connection], None]) -> None:
        """Copy the catalog, which is closed, into a new file; see `compact`."""
        compact(self._layout, self.instance, finish)

    def _sync_names(self) -> None:
        try:
            sync_log(self._layout)
        except OSError as error:
            raise write_error(self._layout.wal, error) from error

    # -- closing -----------------------------------------------------------------------------

    def disconnect(self, *, hurried: bool) -> None:
        """Make a checkpoint and close the file; `hurried` as for `Checkpoint.write`."""
        con = self.con
        if con is None:
            return
        try:
            # On a full disk the log stays beside the file, and the commits in the journal; nothing is missing.
            with contextlib.suppress(duckdb.Error, OSError):
                if self._checkpoint.write(con, hurried=hurried) and self._applied:
                    self._release(con, self._applied)
        finally:
            if self.on_copy:
                con.close()
                self.on_copy = False
            else:
                self.instance.detach(con)
            self._applied = None
            # Forgotten last: interrupted before, it is closed by whoever comes next.
            self.con = None

    def _disconnect_at_once(self) -> None:
        self.disconnect(hurried=True)

    def end(self) -> None:
        """Release DuckDB, and of the copy of an older catalog; nothing is open any more."""
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
        self._applied = None
        self._checkpoint = Checkpoint(self._layout)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


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
            f"A commit could not be applied and was moved to {rejection.path}: {rejection.reason}",
            stacklevel=6,
        )


# -- Deleting many files while the store goes on.


class Removal:
    """Files of one folder that are being deleted, from now on."""

    def __init__(self, folder: Path, paths: Sequence[Path]) -> None:
        self._folder = folder
        self._paths = paths
        self._error: Exception | None = None
        # Not a daemon: an interpreter that ends lets it come to its end.
        self._thread = threading.Thread(target=self._run, name="nirs_store removal")
        try:
            self._thread.start()
        except RuntimeError:
            # The interpreter is ending and starts no threads.
            self._run()

    @property
    def running(self) -> bool:
        """Whether it has not come to its end."""
        return self._thread.is_alive()

    def wait(self) -> Exception | None:
        """Wait until the files are gone; gives the error that left some of them there."""
        if self._thread.ident is not None:
            self._thread.join()
        return self._error

    def _run(self) -> None:
        try:
            remove_files(self._paths)
            fsync_dir(self._folder)
        except NirsStoreError as error:
            self._error = error
        except OSError as error:
            self._error = write_error(self._folder, error)


# -- Blobs that a gc has set aside: putting them back, or removing them, by what the catalog says.


def aside_files(layout: Layout) -> list[str]:
    """Relative paths of the blobs that are set aside; what else lies there is left alone."""
    try:
        names = os.listdir(layout.aside)
    except FileNotFoundError:
        return []
    return sorted(unquote(name) for name in names if _is_aside(layout, name))


def strays_aside(layout: Layout) -> list[str]:
    """Names of what lies among the blobs that are set aside and is none: no gc has put it there."""
    try:
        return sorted(name for name in os.listdir(layout.aside) if not _is_aside(layout, name))
    except FileNotFoundError:
        return []


def _is_aside(layout: Layout, name: str) -> bool:
    relative = unquote(name)
    try:
        blob_inside(layout.root, relative)
        stat_plain(layout.aside / name)
    except (PathEscapes, OSError):
        return False
    return aside_name(relative) == name


def move_aside(layout: Layout, relative_paths: Iterable[str]) -> None:
    """Set blobs aside; one that is gone already is passed over."""
    root, aside = str(layout.root), str(layout.aside)
    try:
        for relative in relative_paths:
            blob_inside(layout.root, relative)
            with contextlib.suppress(FileNotFoundError):
                os.replace(os.path.join(root, relative), os.path.join(aside, aside_name(relative)))
        fsync_dir(layout.aside)
    except OSError as error:
        raise write_error(layout.aside, error) from error


def settle_aside(con: duckdb.DuckDBPyConnection, layout: Layout, claimed: set[str]) -> tuple[int, int]:
    """Remove what no row names and nobody claims, put everything else back; see `decide_aside`."""
    doomed = decide_aside(con, layout, claimed)
    if not doomed:
        return 0, 0
    files, size = remove_files(doomed)
    fsync_dir(layout.aside)
    return files, size


def decide_aside(con: duckdb.DuckDBPyConnection, layout: Layout, claimed: set[str]) -> list[Path]:
    """Put back what a row names or somebody claims; gives the files that are left and must be deleted.

    The claims were read before the journal was last applied, the lease is held alone until they are deleted.
    """
    paths = aside_files(layout)
    if not paths:
        return []
    named = {
        str(row[0])
        for row in con.execute(
            "SELECT artifact_path FROM blobs WHERE artifact_path IN (SELECT unnest(?))", [paths]
        ).fetchall()
    }
    aside, doomed = layout.aside, []
    for relative in paths:
        waiting = aside / aside_name(relative)
        digest = relative.rsplit("/", 1)[-1].split(".", 1)[0]
        if relative not in named and digest not in claimed and relative not in claimed:
            doomed.append(waiting)
            continue
        target = blob_inside(layout.root, relative)
        ensure_dir(target.parent, shared=True)
        if target.exists():
            # Written again by a save that came after the rename.
            remove_file(waiting, missing_ok=True)
        else:
            move_file(waiting, target)
    fsync_dir(aside)
    return doomed


# -- Sessions and claims: one locked file a live store object.


class ClaimFile:
    """The claim file of one store object; made at its first write."""

    def __init__(self, layout: Layout, claim_id: str) -> None:
        self.claim_id = claim_id
        self._layout = layout
        self._path = layout.claims / claim_id
        self._fd: int | None = None
        self._ended = False
        self._lock = threading.Lock()
        # What the file says now, so that nothing is claimed twice.
        self._tokens: set[str] = set()
        self._draft = layout.tmp / f"claim-{claim_id}"

    @property
    def exists(self) -> bool:
        """Whether the file was made."""
        return self._fd is not None

    def is_only_one(self) -> bool:
        """Tell whether no other store object lives that has recorded anything."""
        return self.exists and living(self._layout) == [self.claim_id]

    def ensure(self) -> None:
        """Make the file. It is locked before it gets its name, so nobody ever sees it unlocked."""
        with self._lock:
            if self._fd is not None:
                return
            if self._ended:
                raise StoreClosed
            try:
                self._make()
            except OSError as error:
                raise write_error(self._path, error) from error

    def _make(self) -> None:
        # Windows cannot rename an open file; there a file that is open cannot be removed
        # either, so the moment between its creation and its lock does no harm.
        path = self._path if sys.platform == "win32" else self._draft
        fd = open_lock_file(path)
        try:
            if not try_lock(fd, exclusive=True):
                raise OSError(f"a new claim file is locked by another process: {path}")
            if path is not self._path:
                os.rename(path, self._path)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def add(self, token: str) -> None:
        """Claim a blob, by its id or by its path: from here on no gc removes it."""
        self.ensure()
        line = quote(token, safe="/").encode() + b"\n"
        with self._lock:
            if self._fd is None:
                raise StoreClosed
            if token in self._tokens:
                return
            try:
                end = os.lseek(self._fd, 0, os.SEEK_END)
                if os.write(self._fd, line) != len(line):
                    # A part of a line would spoil the next one.
                    os.ftruncate(self._fd, end)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._tokens.add(token)
            except OSError as error:
                raise write_error(self._path, error) from error

    def clear(self, keep: set[str]) -> None:
        """Give up every claim but those of rows still in the buffer."""
        with self._lock:
            if self._fd is None:
                return
            if not keep:
                # The rows are committed. A claim that stays keeps a blob until the session's end, no more.
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, 0)
                    self._tokens.clear()

    def close(self) -> None:
        """End the session."""
        with self._lock:
            self._ended = True
            if self._fd is None:
                return
            # Unlinked while locked: nobody may see it unlocked and take its owner for dead.
            # Windows refuses to unlink an open file; there it goes right after.
            with contextlib.suppress(OSError):
                self._path.unlink()
            # Forgotten first: interrupted in between, it is not closed a second time under another file's number.
            fd, self._fd = self._fd, None
            os.close(fd)
            if sys.platform == "win32":
                with contextlib.suppress(OSError):
                    self._path.unlink()

    def abandon(self) -> None:
        """Let go in a forked child: the file belongs to the parent."""
        self._lock = threading.Lock()
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None


def _is_alive(path: Path) -> bool:
    """Whether the owner of a claim file lives: its lock cannot be taken. What is not a file was never locked."""
    try:
        fd = open_lock_file(path, create=False, writable=os.access(path, os.W_OK))
    except FileNotFoundError:
        return False
    except OSError as error:
        # Another user may have shut the others out, or the disk fails: then nobody can say that he is gone.
        return error.errno not in _NO_FILE
    try:
        if try_lock(fd, exclusive=False):
            unlock(fd)
            return False
        return True
    finally:
        os.close(fd)


def living(layout: Layout) -> list[str]:
    """Claim ids of all store objects that live now."""
    try:
        names = sorted(os.listdir(layout.claims))
    except FileNotFoundError:
        return []
    return [name for name in names if _is_alive(layout.claims / name)]


def read_claims(layout: Layout, *, remove_dead: bool) -> set[str]:
    """Ids and paths of blobs that living store objects claim; files of dead ones are removed on request."""
    claimed: set[str] = set()
    try:
        names = sorted(os.listdir(layout.claims))
    except FileNotFoundError:
        return claimed
    for name in names:
        path = layout.claims / name
        if _is_alive(path):
            try:
                text = read_plain(path).decode(errors="replace")
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ReadOnlyStore(
                    f"{path} cannot be read: {error.strerror or error}. It says which blobs another user's store is "
                    "saving, so nothing was deleted. Let its owner give the right to read it (chmod g+r)."
                ) from error
            claimed.update(unquote(line) for line in text.split())
        elif remove_dead:
            with contextlib.suppress(OSError):
                path.unlink()
    return claimed


LINGER = 0.050
# Segments that a store applies in one turn when nobody asked, and how often it goes on while nobody waits.
_HELP = 128
_TURNS = 2
_PAUSE = 2.0


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
        # When the journal may be applied unasked again.
        self._not_before = 0.0
        self._told_pending = False
        # Set while a gc of this object has blobs aside itself.
        self.sweeping = False

    @property
    def reads_copy(self) -> bool:
        """Whether a migrated copy of an older catalog answers."""
        return self._opened.on_copy

    # -- operations --------------------------------------------------------------------------

    def query(
        self,
        ask: Callable[[Connection], T],
        *,
        timeout: float,
    ) -> T:
        """Ask a question that sees every commit made before."""
        deadline = time.monotonic() + timeout
        with self._serialised(deadline):
            con = self._ready_to_read(deadline)
            with self._let_in(True):
                return self._opened.run(ask, con)

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
            with self._let_in(True):
                return work(self)

    def transact(self, work: Callable[[Connection], T]) -> T:
        """One transaction inside `exclusive`, with the journal applied before it."""
        with self._let_in(False):
            return self._opened.transact(work, self._ready_to_write(time.monotonic()))

    def settle(self, work: Callable[[Connection], T]) -> T:
        """Run a last query inside `exclusive`, without applying the journal again."""
        opened = self._opened
        with self._let_in(False):
            con = opened.con or opened.open(time.monotonic(), look=False)
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
        """Apply the journal if the catalog is free; errors of the machine are left to queries."""
        if (
            not self._writable
            or (at_most is not None and time.monotonic() < self._not_before)
            or not self._mutex.acquire(blocking=False)
        ):
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
                if self._opened.nothing_new() or self._lease.wanted():
                    break
            if at_most is not None:  # at the end of a store somebody does wait for the checkpoint
                self._opened.may_tidy()
        except (NirsStoreError, duckdb.Error, OSError):
            # Nobody asked for this; whoever asks meets the same error and is told. Tried after each commit while
            # another program has the catalog open for an afternoon, it would slow recording down.
            self._not_before = time.monotonic() + _PAUSE
            return
        finally:
            try:
                self._let_go()
            finally:
                self._at_work = False
                self._mutex.release()

    def verify(self, *, timeout: float) -> None:
        """Look whose catalog this is, if nobody is in the way, and migrate an older one that may be written."""
        with self._serialised(time.monotonic() + 1.0):
            try:
                if self._opened.con is None:
                    self._lease.acquire(exclusive=False, timeout=0.0)
                    if not self._opened.open_to_read(time.monotonic()):
                        self._give_up()
                        if (
                            self._writable
                        ):  # now, and before anything is recorded that an older process cannot read
                            self._lease.acquire(exclusive=True, timeout=timeout)
                            self._opened.open(time.monotonic() + timeout)
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
                if self._coming and not wanted:
                    # A thread of this process has come to ask meanwhile: it need not wait for the checkpoint, nor
                    # open everything again.
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
        """Start again; what could not be closed before the fork is never touched."""
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
        waiting = 0 if self._told_pending else self._opened.unapplied(con)
        if waiting:
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
        # A gc that died left blobs aside. Its claims are read before the journal is applied.
        unsettled = not self.sweeping and not self.removing and bool(aside_files(self._layout))
        claimed = read_claims(self._layout, remove_dead=True) if unsettled else set()
        con = opened.apply(deadline, at_most=None if unsettled else at_most, tidying=unsettled)
        if unsettled:
            opened.run(lambda con: settle_aside(con, self._layout, claimed), con)
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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if is_interrupt(error):
            self._access._leave(interrupted=True)
            raise KeyboardInterrupt from None
        # Ctrl-C, an exit, no memory left: what may be raised anywhere, also between two steps.
        interrupted = kind is not None and (not issubclass(kind, Exception) or issubclass(kind, MemoryError))
        self._access._leave(interrupted=interrupted)


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
