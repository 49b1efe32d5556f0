"""The engine of one open store: folder, blobs, buffer, journal, lock and catalog together.

`WorkspaceStore` and the functions over a store work through it. It knows nothing of runs or
chains; it opens, records, asks, changes and closes.
"""

from __future__ import annotations

import multiprocessing.process
import os
import socket
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from nirs_store.blobs.durable import ensure_dir
from nirs_store.blobs.store import BlobStore
from nirs_store.db.connection import Options, refuse_foreign
from nirs_store.db.database import Connection, Database
from nirs_store.db.journal import Journal
from nirs_store.db.layout import (
    Layout,
    make_folders,
    refuse_linked_folders,
    refuse_lost_catalog,
    refuse_lost_catalog_of_place,
    refuse_replica,
    replica_as_of,
    warn_of_network,
)
from nirs_store.db.lock import ClaimFolder, Claims
from nirs_store.db.log import CommitLog, InboxClaims, InboxLog
from nirs_store.db.marks import Presence, SettingsMirror
from nirs_store.db.recorder import LOOK_FOR_SETTINGS, BackgroundFlusher, Buffer, IdCache, Recorder
from nirs_store.db.sql import execute
from nirs_store.errors import (
    NirsStoreError,
    NotAWorkspace,
    ReadOnlyStore,
    SegmentRejected,
    SharedStoreUnreachable,
    StoreBusy,
    StoreClosed,
    WriteFailed,
)
from nirs_store.ids import new_id, now_naive
from nirs_store.values import storable

T = TypeVar("T")

_LOOK_UP = 1.0
_LOOK_EVERY = 0.005


# A pickled store is made of it: as another kind of class it could not be loaded.
@dataclass(frozen=True)
class Settings:
    """How a store object was opened; everything a copy in another process needs."""

    root: Path
    read_only: bool = False
    create: bool = True
    lock_timeout: float = 30.0
    durability: str = "pipeline"
    threads: int | None = None
    memory_limit: str | None = None
    # The session whose references this object's saves belong to: a copy handed to a worker
    # saves on behalf of the store it was copied from.
    session_id: str | None = None
    # Whether what this object does is noted in the audit trail.
    audit: bool = True
    # Where a shared workspace is: an address of `nirs_store.shared`; `root` is then this computer's replica.
    shared: Any = None
    # Where the blobs are to be if not in the folder.
    blobs: str | Path | None = None
    # False: the replica of a shared workspace answers as it is; its server is not asked.
    fresh: bool = True
    # Whether this object only records, into the inbox of the workspace.
    inbox: bool = False
    # Whether a workspace on a network file system is taken over from the computer that left its name.
    take_over: bool = False


class Parts(NamedTuple):
    """What an engine is made of that a shared workspace has differently."""

    layout: Layout
    log: CommitLog
    claims: Claims
    meta: Mapping[str, str] = MappingProxyType({})
    """What an empty catalog says of itself."""
    session_id: str | None = None
    """The session that the folder belongs to, in an inbox."""


@dataclass(frozen=True)
class Location:
    """Where a workspace lives.

    Attributes
    ----------
    address : str or None
        The address of a shared workspace, without its password; None for a folder.
    folder : Path
        The folder; of a shared workspace the replica on this computer.
    blobs : str
        Where models and files are.
    commit : int or None
        The last commit of a shared workspace that the replica has.
    as_of : datetime or None
        When the replica was last known to have every commit, if it is open without its server; else None.
    """

    address: str | None
    folder: Path
    blobs: str
    commit: int | None = None
    as_of: datetime | None = None


class Engine:
    """One open store; use `Engine.open`."""

    def __init__(self, settings: Settings, parts: Parts, *, writable: bool) -> None:
        layout = parts.layout
        self.settings = settings
        self.claims = parts.claims
        self.layout = layout
        # The replica is also written in a read-only store, which applies commits to it.
        self.writable = writable and not settings.read_only
        self.id_cache = IdCache()
        self.journal = parts.log
        self.workspace_settings = SettingsMirror(Layout(settings.root) if settings.inbox else layout)
        self._presence = Presence(layout, writable=writable, network=not settings.inbox and layout.on_network)
        self.blobs = BlobStore(layout.blobs, generation=self.claims.generation)
        self._closed = False
        self._gone = False
        self._close_lock = threading.RLock()  # a signal handler may close in the middle of closing
        self._background_error: Exception | None = None
        self.backlog = False
        self._look_again = self._next_look = 0.0
        self._owns_session = settings.session_id is None
        self._pid = os.getpid()
        claim_id = new_id()
        self.session_id = settings.session_id or parts.session_id or claim_id
        self._session_recorded = not self._owns_session
        self._claim = self.claims.own(claim_id)
        self._flusher = BackgroundFlusher(self)
        options = Options(settings.threads, settings.memory_limit)
        self.access = Database(
            layout,
            self.journal,
            self.claims,
            writable=writable,
            options=options,
            on_idle=self._flusher.wake,
            on_open=self.workspace_settings.reconcile if writable else None,
            closed=_only_records(settings.root) if settings.inbox else None,
            look=self._presence.check,
        )
        self.recorder = Recorder(
            self.journal,
            self.blobs,
            self._claim,
            self.session_id,
            every_call=settings.durability == "call",
            on_buffered=self._flusher.wake,
            on_backlog=self._on_backlog,
            on_discarded=self._forget_discarded,
        )
        _watched.add(self)

    @property
    def place(self) -> str:
        """Where the workspace is, for people: its folder, or the address of a shared one."""
        return str(self.settings.shared or (self.settings.root if self.settings.inbox else self.layout.root))

    def location(self) -> Location:
        """Say where the workspace is, and how far a replica of it has come."""
        blobs = self.layout.blobs.address("artifacts")
        if self.settings.shared is None:
            return Location(None, self.settings.root, blobs)
        sql = "SELECT value FROM nirs_store_meta WHERE key = 'position'"
        ((position,),) = self.query(lambda con: execute(con, sql).fetchall())
        when = None if self.settings.fresh else replica_as_of(self.layout)
        return Location(self.place, self.layout.root, blobs, int(position.partition(" ")[0]), when)

    # -- opening -----------------------------------------------------------------------------

    @classmethod
    def open(cls, settings: Settings, parts: Parts | None = None) -> Engine:
        """Open or create a workspace."""
        if settings.inbox:
            return cls(settings, _inbox_parts(settings), writable=True)
        if parts is None:
            layout = Layout(settings.root)
            refuse_replica(layout)
            parts = Parts(layout, Journal(layout), ClaimFolder(layout))
        layout = parts.layout
        if settings.root.exists() and not settings.root.is_dir():
            raise NotAWorkspace(
                f"{settings.root} is a file; a workspace is a folder. Nothing was changed. Name a folder."
            )
        refuse_linked_folders(layout)
        exists = layout.catalog.exists()
        if not exists and not parts.log.whole and (settings.read_only or not settings.create):
            raise NotAWorkspace(
                f"{settings.root} is not a workspace: it has no store.duckdb. Nothing was changed. "
                "Create one with `nirs-store init` or by opening it for writing, or name another folder."
            )
        if exists and not layout.journal.exists():
            refuse_foreign(layout, Options(settings.threads, settings.memory_limit))
        if not exists:
            # Before anything is made; and again under the lock, where no process can come in between.
            refuse_lost_catalog(layout)
            refuse_lost_catalog_of_place(layout, named=settings.blobs is not None)
        if settings.shared is None and settings.blobs is not None and settings.session_id is None:
            from nirs_store.blobs.places import settle_place

            settle_place(
                settings.blobs, layout.blob_places, writable=not settings.read_only, fresh=not exists
            )
        follows = parts.log.whole and settings.fresh
        writable = (follows or not settings.read_only) and make_folders(layout, exists)
        engine = cls(settings, parts, writable=writable)
        try:
            engine._presence.enter(take_over=settings.take_over)
            if not exists:
                engine.access.create_if_missing(
                    timeout=settings.lock_timeout,
                    may_create=lambda: refuse_lost_catalog(layout),
                    meta=parts.meta,
                )
            if settings.session_id is None:
                engine.access.verify(timeout=settings.lock_timeout)
                engine._name_rejections()
                if writable:
                    warn_of_network(layout)
        except BaseException:
            engine.abort()
            raise
        return engine

    # -- recording ---------------------------------------------------------------------------

    @contextmanager
    def recording(self, *, commit: bool = False) -> Iterator[Buffer]:
        """Add rows to the buffer; see `Recorder.recording`."""
        self.check_writable(closely=commit)
        self._record_session()
        with self.recorder.recording(commit=commit) as buffer:
            yield buffer

    def record_beside(self, add: Callable[[Buffer], None]) -> None:
        """Record rows outside the transaction under way: they stay when it is given up.

        For what is said about a call that is about to raise, so nothing else is raised here: what cannot be
        committed waits in the buffer, and the next call is told.
        """
        try:
            self._record_session()
            with self.recorder.recording(beside=True) as buffer:
                add(buffer)
        except (WriteFailed, StoreBusy) as error:
            self._background_error = error
            self.recorder.postpone()

    def _record_session(self) -> None:
        if not self._claim.exists:
            self._begin_session()
        if not self._session_recorded:
            # A unit of its own: the session stays recorded when the caller's block fails.
            with self.recorder.recording() as first:
                first.add(
                    "sessions",
                    {
                        "session_id": self.session_id,
                        "host": storable(socket.gethostname()),
                        "pid": os.getpid(),
                        "started_at": now_naive(),
                    },
                )
            self._session_recorded = True

    def hand_over(self) -> Settings:
        """Return settings of a copy in another process, which saves on behalf of this store's session.

        The session begins here if it has not: were its claim not there, others would take for dead what
        the copy records.
        """
        self.check_open()
        if self.writable:
            with self.recording():
                pass
            self.recorder.flush()
        return replace(self.settings, create=False, take_over=False, session_id=self.session_id)

    def _forget_discarded(self, rows: Buffer) -> None:
        """Forget what a transaction threw away."""
        for kind, table in (("run", "runs"), ("pipeline", "pipelines"), ("chain", "chains")):
            for row in rows.rows[table]:
                self.id_cache.forget(kind, row[0])
        for table in ("predictions", "prediction_arrays"):
            for row in rows.rows[table]:
                self.id_cache.forget("prediction", row[0])
        for row in rows.rows["changes"]:
            self.id_cache.forget("pipeline", row[2])

    def flush(self) -> None:
        """Commit what is buffered."""
        self.check_open()
        if self.writable:
            self.recorder.flush()

    # -- asking and changing -------------------------------------------------------------------

    def query(
        self,
        ask: Callable[[Connection], T],
        *,
        notes: bool = True,
    ) -> T:
        """Ask the catalog; sees everything committed, by this store and by others.

        Without `notes`, entries for the audit trail that wait alone go on waiting: the question is not about them.
        """
        self.check_open()
        if self.writable and (notes or not self.recorder.only_notes_wait):
            self.recorder.flush()
        return self.access.query(ask, timeout=self.settings.lock_timeout)

    def change(self, work: Callable[[Connection], T]) -> T:
        """Change the catalog directly in one transaction."""
        self.check_writable()
        self.recorder.flush()
        return self.access.change(work, timeout=self.settings.lock_timeout)

    def exclusive(self, work: Callable[[Database], T]) -> T:
        """Run several steps under one exclusive lock; see `Database.exclusive`."""
        self.check_writable()
        self.recorder.flush()
        return self.access.exclusive(work, timeout=self.settings.lock_timeout)

    def look_up(self, ask: Callable[[Connection], T]) -> tuple[bool, T | None]:
        """Ask within a second, for a recording call that meets an id it does not know.

        (False, None) means that the catalog is busy: the row is then checked when it is applied.
        """
        self.check_open()
        if self.settings.inbox:
            return False, None
        if not self.recorder.in_transaction:
            self.recorder.flush()
        try:
            return True, self.access.query(ask, timeout=min(_LOOK_UP, self.settings.lock_timeout))
        except StoreBusy:
            return False, None

    def living_sessions(self) -> list[str]:
        """Ids of all sessions that live now, as their locks say.

        To be asked after the rows in question were read or applied: a session is locked before its first
        row is committed, so one that is missing here has ended, and was not merely young.
        """
        alive = self.claims.living()
        return alive if self._claim.exists else [*alive, self.session_id]

    # -- state -------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether `close` was called, also when it was interrupted once everything was committed."""
        return self._closed or self.recorder.closed

    def check_open(self, *, closely: bool = True) -> None:
        """Raise what a call must raise before it does anything.

        `closely=False` is for calls that only buffer rows or read a file: they come by the thousand, so they look for
        rejected commits every few milliseconds only. That is safe: the commit or query that follows looks closely.
        """
        if self.closed:
            raise StoreClosed
        error, self._background_error = self._background_error, None
        if isinstance(error, (SharedStoreUnreachable, StoreBusy)):
            # The server may be back: what was kept is committed now, or it is said what is so now.
            self.recorder.flush()
        elif error is not None:
            raise error
        moment = time.monotonic()
        if closely or moment >= self._look_again:
            self._look_again = moment + _LOOK_EVERY
            self._presence.check()
            rejected = self._new_rejections()
            if rejected is not None:
                raise rejected

    def _new_rejections(self) -> SegmentRejected | None:
        rejected = self.journal.rejections_of(self._claim.claim_id) if self._claim.exists else []
        if not rejected:
            return None
        what = "; ".join(f"{r.path.name}: {r.reason}" for r in rejected)
        return SegmentRejected(
            f"{len(rejected)} commits of this store could not be applied. They are kept in "
            f"{self._rejected}: {what}. Their rows are not in the catalog; everything else is."
        )

    @property
    def _rejected(self) -> str:
        return "the log" if self.settings.shared else str(self.layout.rejected)

    def check_writable(self, *, closely: bool = True) -> None:
        """Raise unless this store may write; see `check_open`."""
        self.check_open(closely=closely)
        if not self.writable:
            if self.settings.shared is not None and not self.settings.fresh:
                raise ReadOnlyStore(
                    f"{self.place} is open without its server (fresh=False, --offline), and can only be queried. "
                    "Nothing was changed. Open it without that when the server answers."
                )
            raise ReadOnlyStore(
                f"{self.layout.root} is open read-only; nothing was changed. Open it for writing, "
                "as a user who may write there (in Python without read_only=True)."
            )

    # -- what the background flusher does -----------------------------------------------------------

    @property
    def next_flush(self) -> float | None:
        """Monotonic time at which the buffer must be committed."""
        return self.recorder.flush_due

    @property
    def lingering(self) -> bool:
        """Whether the catalog is held open without need."""
        return self.access.lingering

    def rules(self, *, ask: bool = False) -> Mapping[str, Any]:
        """Return the settings of the workspace; those of another computer bind here a second later at most.

        With `ask` they are those of now.
        """
        # The background flusher looks each second, but only for a store that has recorded something.
        due = not self._claim.exists and time.monotonic() >= self._next_look
        if self.journal.whole and (ask or due) and not self.closed:
            # Recorded rows wait for a server that does not answer; queries say so.
            with nullcontext() if ask else suppress(SharedStoreUnreachable):
                self._look_for_settings()
        return self.workspace_settings.current()

    def _look_for_settings(self) -> None:
        self._next_look = time.monotonic() + LOOK_FOR_SETTINGS
        if self.journal.settings_wait():
            self.access.query(lambda con: None, timeout=self.settings.lock_timeout)

    @property
    def next_look(self) -> float | None:
        """Monotonic time at which to look for settings that other computers made; None where none can."""
        return self._next_look if self.journal.whole and self._claim.exists else None

    def keep(self) -> None:
        """Do what is due: release the catalog, commit the buffer, apply a backlog."""
        try:
            self.access.expire()
            due = self.recorder.flush_due
            if due is not None and time.monotonic() >= due:
                self.recorder.flush()
            if self.backlog:
                self.backlog = False
                self.access.try_apply()
            look = self.next_look
            if look is not None and time.monotonic() >= look:
                # No call waits for this, and one that needs the server reports the error itself.
                with suppress(NirsStoreError):
                    self._look_for_settings()
        except Exception as error:  # noqa: BLE001 - kept, and raised by the next call of this store
            self._background_error = error
            self.recorder.postpone()

    def _on_backlog(self, pressure: bool) -> None:
        if pressure:
            self.access.try_apply()
            return
        self.backlog = True
        self._flusher.wake()

    # -- closing and forking -------------------------------------------------------------------

    def close(self) -> None:
        """Commit, end the session, let everything go; a second call does nothing."""
        with self._close_lock:
            if self.closed:
                self._let_go()
                return
            last = Buffer()
            if self._claim.exists and self._owns_session and self._session_recorded:
                last.change("end_session", self.session_id)
            self.recorder.close(last)
            try:
                if last:
                    # A store that is at rest should have nothing in its journal: a reader without
                    # write access cannot apply it. Not waited for; copies in workers leave it to their store.
                    self._flusher.stop()
                    self.access.try_apply(at_most=None)
                rejected = self._new_rejections()
            finally:
                # Also when interrupted: everything is committed, and half closed helps no one.
                self.abort()
        if rejected is not None:
            raise rejected

    def abort(self) -> None:
        """Release everything without committing."""
        self._closed = True
        self._let_go()

    def _let_go(self) -> None:
        # Interrupted in here, it is finished by a second `close`, or when nothing holds the store any more.
        if self._gone:
            return
        try:
            self._flusher.stop()
            self.access.close()
            self.blobs.close()
        except OSError:
            self._gone = True  # a second time it would fail again, and this error says why
            raise
        finally:
            try:
                # There is something left to do only if the first time was interrupted.
                self.access.close()
            finally:
                self._claim.close()
                self.journal.close()
                self._presence.leave()
                _watched.discard(self)
        self._gone = True

    def finish(self) -> None:
        """Close at garbage collection or interpreter exit; what cannot be saved is said aloud."""
        if self._flusher.is_this_thread:
            # The collector came upon the store in the middle of what its flusher does, a transaction maybe, and the
            # locks let their own thread in. Not a daemon: the interpreter waits for what it commits.
            with suppress(RuntimeError):  # the interpreter is ending and starts no threads
                threading.Thread(target=self._finish, name="nirs_store end").start()
                return
        self._finish()

    def _finish(self) -> None:
        if self.closed:
            self._let_go()
            return
        try:
            self.close()
        except Exception as error:  # noqa: BLE001 - there is no caller left to raise to
            self.abort()
            print(f"nirs_store: closing {self.layout.root} failed: {error}", file=sys.stderr)

    def before_fork(self) -> None:
        """Hold everything still, with the catalog closed and everything committed.

        The child may be handed ids whose rows, and artifacts whose files, would otherwise be under way.
        """
        self.access.before_fork()
        if self.recorder.before_fork() and not self.closed:
            try:
                self.recorder.flush()
            except Exception as error:  # noqa: BLE001 - kept, and raised by the next call of this store
                self._background_error = error

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self.recorder.after_fork_in_parent()
        self.access.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Detach: own claims, nothing buffered, no thread; saves belong to the parent's session."""
        self._close_lock = threading.RLock()  # a signal handler may close in the middle of closing
        self.blobs.after_fork_in_child()
        self.id_cache.after_fork_in_child()
        self.journal.after_fork_in_child()
        self._presence.abandon()
        # The folder in an inbox belongs to one session.
        begun = self._claim.exists or not self._owns_session or self.settings.inbox
        self._claim.abandon()
        self._claim = self.claims.own(new_id())
        if begun:
            self._owns_session = False
            self._session_recorded = True
        else:  # the parent has no session yet that could be saved for
            self.session_id = self._claim.claim_id
            self._session_recorded = False
        self._pid = os.getpid()
        self._flusher = BackgroundFlusher(self)
        self.access.after_fork_in_child(self._flusher.wake)
        self.recorder.after_fork_in_child(self._claim, self.session_id, self._flusher.wake)
        self._background_error = None
        self.backlog = False

    def _begin_session(self) -> None:
        self._claim.ensure()
        if multiprocessing.process.parent_process() is not None:
            # A multiprocessing child ends with os._exit: no atexit, only multiprocessing's own.
            from multiprocessing import util

            util.Finalize(self, _finish, args=(weakref.ref(self),), exitpriority=100)

    def _name_rejections(self) -> None:
        rejected = self.journal.rejections()
        if rejected:
            names = "; ".join(f"{r.path.name} ({r.reason})" for r in rejected[:5])
            warnings.warn(
                f"{self.layout.root} has {len(rejected)} commits that could not be applied, kept in "
                f"{self._rejected}: {names}",
                stacklevel=5,
            )


def _only_records(root: Path) -> str:
    return (
        f"{root} was opened with inbox=True, which only records: runs, pipelines, chains, predictions, logs, training "
        "curves and artifacts. Nothing was changed. Queries, predictions, deletions, files, data sets, calibrations "
        "and evaluations need a store on the computer that owns the workspace; it also applies what is recorded here."
    )


def _inbox_parts(settings: Settings) -> Parts:
    """Return the parts of a store that only records: the folder of its session in the inbox, no catalog, no lock."""
    home = Layout(settings.root)
    refuse_replica(home)
    refuse_linked_folders(home)
    if not home.catalog.exists():
        raise NotAWorkspace(
            f"{settings.root} is not a workspace: it has no store.duckdb. Nothing was changed. Make the workspace "
            "first, on the computer that is to own it; a store with inbox=True only records into one."
        )
    ensure_dir(home.inbox, shared=True, certain=True)
    session_id = settings.session_id or new_id()
    layout = Layout(home.inbox / session_id)
    return Parts(layout, InboxLog(layout), InboxClaims(layout), session_id=session_id)


def _finish(engine: weakref.ref[Engine]) -> None:
    alive = engine()
    if alive is not None:
        alive.finish()


# -- What happens to open stores when the process forks.


_watched: weakref.WeakSet[Engine] = weakref.WeakSet()
# The engines held still by the fork under way in this thread; another thread may open one, or fork too.
_forking = threading.local()


def _before_fork() -> None:
    _forking.engines = list(_watched)
    for engine in _forking.engines:
        engine.before_fork()


def _after_in_parent() -> None:
    engines, _forking.engines = _forking.engines, []
    for engine in engines:
        engine.after_fork_in_parent()


def _after_in_child() -> None:
    _forking.engines = []
    for engine in list(_watched):
        engine.after_fork_in_child()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
