"""The engine of one open store: folder, blobs, buffer, journal, lease and catalog together.

`WorkspaceStore` and the functions over a store work through it. It knows nothing of runs or
chains; it opens, records, asks, changes and closes.
"""

from __future__ import annotations

import json
import multiprocessing.process
import os
import socket
import sys
import threading
import time
import warnings
import weakref
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import duckdb
import msgspec

from nirs_store.blobs.durable import remove_file, write_file
from nirs_store.blobs.plain import read_plain
from nirs_store.blobs.store import BlobStore
from nirs_store.db.audit_chain import AUDIT
from nirs_store.db.claims import ClaimFile, living
from nirs_store.db.connection import Options, refuse_foreign
from nirs_store.db.database import Connection, Database
from nirs_store.db.journal import Journal, StoredArray, encode, new_txid
from nirs_store.db.layout import (
    Layout,
    make_folders,
    refuse_linked_folders,
    refuse_lost_catalog,
    warn_of_network,
)
from nirs_store.db.schema import column_names
from nirs_store.errors import (
    CatalogDamaged,
    InvalidInput,
    NotAWorkspace,
    ReadOnlyStore,
    SegmentRejected,
    StoreBusy,
    StoreClosed,
    WriteFailed,
)
from nirs_store.ids import new_id, now_naive, utcnow
from nirs_store.values import storable, to_json

__all__ = [
    "Buffer",
    "Engine",
    "Keeper",
    "Kept",
    "KnownIds",
    "Recorder",
    "Settings",
    "SettingsMirror",
    "drop_setting",
    "forget",
    "put_setting",
    "read_settings",
    "watch",
]


# -- Rows that were recorded but not committed yet.


# What a row of plain columns costs, roughly; only arrays and JSON are counted exactly.
_ROW_BYTES = 200


class Buffer:
    """Rows a table, in the order in which they were recorded."""

    def __init__(self) -> None:
        self.rows: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
        self.nbytes = 0
        self.blobs: set[str] = set()
        self._arrays: set[str] = set()

    def __bool__(self) -> bool:
        return any(self.rows.values())

    @property
    def only_notes(self) -> bool:
        """Whether there is nothing but entries for the audit trail."""
        kind = column_names("changes").index("kind")
        changes = self.rows.get("changes", [])
        return sum(map(len, self.rows.values())) == len(changes) and all(c[kind] == AUDIT for c in changes)

    def add(self, table: str, values: Mapping[str, Any]) -> None:
        """Add one row; columns that are not given are NULL."""
        names = column_names(table)
        get = values.get
        row = tuple([get(name) for name in names])
        # What was given and not taken would be lost without a word.
        if len(row) - row.count(None) < len(values) and not values.keys() <= set(names):
            raise KeyError(f"{table} has no columns {sorted(values.keys() - set(names))}")
        self.rows[table].append(row)
        self.nbytes += _ROW_BYTES

    def add_array(self, row: StoredArray) -> str:
        """Add an array once a commit. Each commit carries the bytes of what it names.

        Whether the catalog has them already cannot be known here: another process may delete
        the last prediction that uses them before this commit is applied.
        """
        if row[0] not in self._arrays:
            self._arrays.add(row[0])
            self.rows["arrays"].append(row)
            self.nbytes += len(row[3])
        return row[0]

    def change(self, kind: str, identifier: str, payload: Mapping[str, Any] | None = None) -> None:
        """Add a change of a row's state."""
        text = to_json(payload, kind)
        self.add(
            "changes",
            {"change_id": new_id(), "kind": kind, "id": identifier, "made_at": now_naive(), "payload": text},
        )

    def absorb(self, other: Buffer, tables: Iterable[str] | None = None) -> None:
        """Append another buffer's rows, of all tables or of some."""
        for name in tables if tables is not None else other.rows:
            if name == "arrays":
                for row in other.rows[name]:
                    self.add_array(row)
            elif name in other.rows:
                self.rows[name].extend(other.rows[name])
        self.nbytes += other.nbytes
        self.blobs |= other.blobs


# -- What this process knows to exist, so that recording need not ask the catalog.


class KnownIds:
    """The last ids of each kind that were made or looked up here, each with a note.

    Bounded, because a training loop makes millions; what fell out is looked up again.
    """

    def __init__(self, limit: int = 20_000) -> None:
        self._limit = limit
        self._kinds: dict[str, OrderedDict[str, Any]] = {}
        # How often everything was forgotten; who keeps more of what is known here forgets it when this has changed.
        self.clears = 0
        self._lock = threading.Lock()

    def add(self, kind: str, identifier: str, note: Any = None) -> None:
        """Remember an id."""
        with self._lock:
            known = self._kinds.setdefault(kind, OrderedDict())
            known[identifier] = note
            known.move_to_end(identifier)
            if len(known) > self._limit:
                known.popitem(last=False)

    def get(self, kind: str, identifier: str, default: Any = None) -> Any:
        """Return the note of an id, or `default` when it is not known."""
        with self._lock:
            known = self._kinds.get(kind)
            return default if known is None else known.get(identifier, default)

    def __contains__(self, key: tuple[str, str]) -> bool:
        with self._lock:
            return key[1] in self._kinds.get(key[0], {})

    def forget(self, kind: str, identifier: str) -> None:
        """Forget an id."""
        with self._lock:
            self._kinds.get(kind, OrderedDict()).pop(identifier, None)

    def forget_noted(self, kind: str, key: str, value: Any) -> None:
        """Forget the ids of a kind whose note says `value` under `key`."""
        with self._lock:
            known = self._kinds.get(kind, OrderedDict())
            for identifier in [i for i, note in known.items() if note and note.get(key) == value]:
                del known[identifier]

    def clear(self) -> None:
        """Forget everything (after a deletion, when anything may be gone)."""
        with self._lock:
            self._kinds.clear()
            self.clears += 1

    def after_fork_in_child(self) -> None:
        """Replace the lock: one held by another thread at the fork would never be freed."""
        self._lock = threading.Lock()


# -- Settings of a workspace: kept in the catalog, and mirrored in a file that recording calls can look at.


def read_settings(con: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """All settings by name."""
    rows = con.execute("SELECT key, value FROM settings ORDER BY key").fetchall()
    return {str(key): json.loads(value) for key, value in rows}


def put_setting(con: duckdb.DuckDBPyConnection, name: str, value: Any) -> None:
    """Set one setting inside the caller's transaction."""
    con.execute(
        "INSERT INTO settings VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value, "
        "changed_at = excluded.changed_at",
        [name, json.dumps(value), now_naive()],
    )


def drop_setting(con: duckdb.DuckDBPyConnection, name: str) -> None:
    """Go back to the default inside the caller's transaction."""
    con.execute("DELETE FROM settings WHERE key = ?", [name])


class SettingsMirror:
    """The file beside the catalog, read again when it has changed."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._stamp: tuple[int, int, int] | None = None
        self._values: dict[str, Any] = {}

    def current(self) -> Mapping[str, Any]:
        """Return the settings as they are now, whichever process set them."""
        try:
            found = self._layout.settings.stat()
            stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
            if stamp != self._stamp:
                self._values = self._read()
                self._stamp = stamp
        except FileNotFoundError:
            self._stamp, self._values = None, {}
        return self._values

    def _read(self) -> dict[str, Any]:
        try:
            values = json.loads(read_plain(self._layout.settings))
        except FileNotFoundError:
            raise
        except (OSError, ValueError, RecursionError) as error:
            values = error
        if not isinstance(values, dict):
            raise CatalogDamaged(
                f"{self._layout.settings} cannot be read, so the guard rules are unknown. Nothing was "
                "recorded. Remove the file and run any query: the catalog then restores it."
            )
        return values

    def reconcile(self, con: duckdb.DuckDBPyConnection) -> None:
        """Make the file say what the catalog says; the lease is held."""
        values = read_settings(con)
        try:
            same = dict(self.current()) == values
        except CatalogDamaged:
            same = False
        if same:
            return
        if values:
            write_file(self._layout.settings, json.dumps(values, indent=1).encode())
        else:
            remove_file(self._layout.settings, missing_ok=True)
        self._stamp = None


# -- The one background thread of a store object: commits in time, lets go in time, applies backlogs.


_LINGER_POLL = 0.005


class Kept(Protocol):
    """What the thread looks after."""

    @property
    def next_flush(self) -> float | None:
        """Monotonic time of the next background commit."""

    @property
    def lingering(self) -> bool:
        """Whether the catalog is held open without need."""

    @property
    def backlog(self) -> bool:
        """Whether the journal should be applied."""

    def keep(self) -> None:
        """Do what is due."""


class Keeper:
    """Starts its thread when there is first something to keep; the thread is a daemon."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._woken = False

    def wake(self) -> None:
        """Look again at what is due."""
        with self._condition:
            if self._stopped:
                return
            self._woken = True
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="nirs_store background flusher", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    # The interpreter is ending and starts no threads; closing, which comes next, does it all.
                    return
                self._thread = thread
            self._condition.notify()

    def stop(self) -> None:
        """End the thread and wait for what it is doing."""
        with self._condition:
            self._stopped = True
            self._condition.notify()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=30.0)

    @property
    def is_this_thread(self) -> bool:
        """Whether the caller is what the keeper does."""
        return self._thread is threading.current_thread()

    def _run(self) -> None:
        while True:
            with self._condition:
                if self._stopped:
                    return
                if not self._woken:
                    self._condition.wait(self._pause())
                self._woken = False
                if self._stopped:
                    return
            self._kept.keep()

    def _pause(self) -> float | None:
        if self._kept.backlog:
            return _LINGER_POLL
        if self._kept.lingering:
            return _LINGER_POLL
        due = self._kept.next_flush
        return None if due is None else max(0.0, due - time.monotonic())


# -- Recording: rows are buffered, and a commit is one journal segment.


FLUSH_AFTER = 1.0
_FLUSH_BYTES = 32 << 20
# Each application ends with a checkpoint, which rewrites the last row group of every table: half as many
# applications wrote a sixth less; twice as many segments again would hold a reader up for a quarter of a second,
# and make the second hundred pipelines of a run slower than the first.
_APPLY_SEGMENTS = 128
_APPLY_BYTES = 16 << 20
# Far more than any process leaves behind: recording then helps to apply instead of outrunning it.
_PRESSURE_SEGMENTS = 4096


class _Sealed(msgspec.Struct, frozen=True):
    """A commit under way: its rows can no longer change."""

    txid: str
    pieces: list[bytes]


class Recorder:
    """The buffer of one store object and its way into the journal."""

    def __init__(
        self,
        journal: Journal,
        blobs: BlobStore,
        claim: ClaimFile,
        session_id: str,
        *,
        every_call: bool,
        on_buffered: Callable[[], None],
        on_backlog: Callable[[bool], None],
        on_discarded: Callable[[Buffer], None],
    ) -> None:
        self._journal = journal
        self._blobs = blobs
        self._claim = claim
        self._session_id = session_id
        self._every_call = every_call
        self._on_buffered = on_buffered
        self._on_backlog = on_backlog
        self._on_discarded = on_discarded
        self._mutex = threading.RLock()
        self._held_for_fork = False
        self._closed = False
        self._units: list[Buffer] = []
        self._nbytes = 0
        self._sealed: _Sealed | None = None
        self._local = threading.local()
        self._unapplied_bytes = 0
        self.flush_due: float | None = None
        # Claims of saves whose row is not in any buffer yet.
        self._in_hand: dict[str, int] = {}
        # Units of the transactions that threads have under way; their blobs stay claimed.
        self._in_transactions: dict[int, list[Buffer]] = {}

    @contextmanager
    def recording(self, *, commit: bool = False, beside: bool = False) -> Iterator[Buffer]:
        """Add rows; with `commit` they are durable when the block is left normally.

        A block that is left by an exception has recorded nothing. With `beside`, the rows are no part of this
        thread's transaction, and stay when it is given up.
        """
        unit = Buffer()
        own: list[Buffer] | None = getattr(self._local, "units", None)
        if own is not None and not beside:
            yield unit
            own.append(unit)
            return
        with self._mutex:
            self._check_open()
            yield unit
            self._add(unit)
            if commit or self._every_call or self._nbytes > _FLUSH_BYTES:
                self.flush()
            elif self.flush_due is None and self._units:
                self._flush_later()

    def flush(self) -> None:
        """Commit everything buffered outside transactions."""
        waiting = 0
        with self._mutex:
            while self._sealed is not None or self._units:
                waiting = self._commit()
            self.flush_due = None
            if waiting:
                self._release_claims()
        if waiting >= _APPLY_SEGMENTS or self._many_bytes_wait():
            self._unapplied_bytes = 0
            self._on_backlog(waiting >= _PRESSURE_SEGMENTS)

    def _many_bytes_wait(self) -> bool:
        if self._unapplied_bytes >= _APPLY_BYTES:
            # Whoever asked meanwhile has applied most of it, maybe, and is asking again just now.
            self._unapplied_bytes = self._journal.nbytes()
        return self._unapplied_bytes >= _APPLY_BYTES

    @property
    def closed(self) -> bool:
        """Whether everything is committed and no more rows are taken."""
        return self._closed

    @property
    def only_notes_wait(self) -> bool:
        """Whether nothing but entries for the audit trail waits to be committed."""
        with self._mutex:
            return self._sealed is None and all(unit.only_notes for unit in self._units)

    def postpone(self) -> None:
        """Try again a while after a background commit that failed."""
        with self._mutex:
            if self._sealed is not None or self._units:
                self.flush_due = time.monotonic() + FLUSH_AFTER

    def close(self, last: Buffer | None = None) -> None:
        """Commit everything and take no more rows."""
        with self._mutex:
            if last is not None:
                self._add(last)
            self.flush()
            self._closed = True

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything this thread records in the block becomes one commit, or nothing."""
        if self.in_transaction:
            raise InvalidInput(
                "A transaction of this thread is under way already; end it before another begins."
            )
        own: list[Buffer] = []
        me = threading.get_ident()
        with self._mutex:
            self._check_open()
            self._in_transactions[me] = own
        self._local.units = own
        try:
            try:
                yield
            except BaseException:
                self._discard(own)
                raise
            whole = _merged(own)
            with self._mutex:
                self._check_open()
                self._add(whole)
        finally:
            # Only after its units have joined the others: their blobs must stay claimed.
            self._local.units = None
            with self._mutex:
                self._in_transactions.pop(me, None)
        self.flush()

    @property
    def in_transaction(self) -> bool:
        """Whether this thread is inside `transaction`."""
        return getattr(self._local, "units", None) is not None

    def find(self, table: str, identifier: str) -> dict[str, Any] | None:
        """Return the row of that id that this thread's transaction has recorded."""
        units: list[Buffer] = getattr(self._local, "units", None) or []
        for unit in units:
            for row in unit.rows[table]:
                if row[0] == identifier:
                    return dict(zip(column_names(table), row, strict=True))
        return None

    @contextmanager
    def claiming(self, *tokens: str) -> Iterator[None]:
        """Hold blobs (ids or paths) against gc until a row that references them is in a buffer."""
        with self._mutex:
            for token in tokens:
                self._in_hand[token] = self._in_hand.get(token, 0) + 1
        try:
            for token in tokens:
                self._claim.add(token)
            yield
        finally:
            with self._mutex:
                for token in tokens:
                    self._in_hand[token] -= 1
                    if not self._in_hand[token]:
                        del self._in_hand[token]

    def release_claims(self) -> None:
        """Give claims up whose rows went into the catalog past the buffer, unless the buffer needs others."""
        with self._mutex:
            if self._sealed is None:
                self._release_claims()

    def before_fork(self) -> bool:
        """Keep the buffer still while the process forks; False when another thread kept it busy."""
        self._held_for_fork = self._mutex.acquire(timeout=10.0)
        return self._held_for_fork

    def after_fork_in_parent(self) -> None:
        """Go on as before."""
        if self._held_for_fork:
            self._mutex.release()

    def after_fork_in_child(self, claim: ClaimFile, session_id: str, on_buffered: Callable[[], None]) -> None:
        """Start with nothing: what was buffered is the parent's to commit."""
        self._on_buffered = on_buffered
        self._mutex = threading.RLock()
        self._units = []
        self._nbytes = 0
        self._sealed = None
        self._local = threading.local()
        self._in_hand = {}
        self._in_transactions = {}
        self.flush_due = None
        self._claim = claim
        self._session_id = session_id

    def _check_open(self) -> None:
        # The store may have been closed by another thread after this call looked.
        if self._closed:
            raise StoreClosed

    def _add(self, unit: Buffer) -> None:
        if unit:
            self._nbytes += unit.nbytes
            self._units.append(unit)

    def _flush_later(self) -> None:
        self.flush_due = time.monotonic() + FLUSH_AFTER
        self._on_buffered()

    def _commit(self) -> int:
        """Commit one segment; returns how many wait in the journal."""
        if self._sealed is None:
            # A signal handler may record, and even commit, in the middle of this: the mutex lets its thread in.
            units, taken = self._units, list(self._units)
            count, whole = len(taken), _merged(taken)
            self._blobs.wait(whole.blobs)
            txid = new_txid()
            pieces = encode(
                _with_curves(whole.rows),
                txid=txid,
                claim=self._claim.claim_id,
                session=self._session_id,
                created=utcnow().isoformat(),
            )
            ready = _Sealed(txid, pieces)
            if self._units is units and self._sealed is None:
                # One statement, so that no exception finds the rows in both places or in none. Nothing is called
                # from the question to here, so that no handler comes between.
                self._sealed, self._units, self._nbytes = ready, units[count:], 0
        sealed = self._sealed
        if sealed is None:
            return 0  # they were committed meanwhile
        _, waiting = self._journal.append(sealed.pieces, sealed.txid, self._claim.is_only_one)
        self._unapplied_bytes += sum(len(piece) for piece in sealed.pieces)
        if self._sealed is sealed:
            self._sealed = None
        return waiting

    def _discard(self, own: list[Buffer]) -> None:
        """Forget a transaction's rows but for those that let a later gc find its blobs."""
        whole = _merged(own)
        kept = Buffer()
        kept.absorb(whole, ("sessions", "blobs", "artifact_refs"))
        kept.rows["artifact_refs"] = [row for row in kept.rows["artifact_refs"] if row[2] == "session"]
        with self._mutex:
            if not self._closed:
                self._add(kept)
                if self._units and self.flush_due is None:
                    self._flush_later()
        self._on_discarded(whole)

    def _release_claims(self) -> None:
        if not self._claim.exists:
            return
        keep = set(self._in_hand)
        for units in (self._units, *self._in_transactions.values()):
            for unit in units:
                keep |= unit.blobs
        self._claim.clear(keep)


def _merged(units: list[Buffer]) -> Buffer:
    """All rows of some units, in order, each array once."""
    if len(units) == 1:
        return units[0]
    whole = Buffer()
    for unit in units:
        whole.absorb(unit)
    return whole


def _with_curves(rows: Mapping[str, list[tuple[Any, ...]]]) -> Mapping[str, list[tuple[Any, ...]]]:
    """Join the points of each training curve, which a loop records one by one, into one row a commit."""
    single = rows.get("metrics", ())
    if len(single) < 2:
        return rows
    curves: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    for row in single:
        curves.setdefault((row[1], row[2]), []).append(row)
    joined = [
        (
            *parts[0][:3],
            sum(part[3] for part in parts),
            b"".join(part[4] for part in parts),
            b"".join(part[5] for part in parts),
            parts[0][6],
        )
        for parts in curves.values()
    ]
    return {**rows, "metrics": joined}


# -- What happens to open stores when the process forks.


class _Forkable(Protocol):
    def before_fork(self) -> None: ...

    def after_fork_in_parent(self) -> None: ...

    def after_fork_in_child(self) -> None: ...


_watched: weakref.WeakSet[_Forkable] = weakref.WeakSet()


def watch(engine: _Forkable) -> None:
    """Hold this one still during a fork, and detach it in the child."""
    _watched.add(engine)


def forget(engine: _Forkable) -> None:
    """Leave it alone from now on."""
    _watched.discard(engine)


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


class Engine:
    """One open store; use `Engine.open`."""

    def __init__(self, settings: Settings, layout: Layout, *, writable: bool) -> None:
        self.settings = settings
        self.layout = layout
        self.writable = writable
        self.known = KnownIds()
        self.journal = Journal(layout)
        self.workspace_settings = SettingsMirror(layout)
        self.blobs = BlobStore(layout.root, layout.artifacts, layout.aside, layout.tmp)
        self._closed = False
        self._gone = False
        self._close_lock = threading.RLock()  # a signal handler may close in the middle of closing
        self._background_error: Exception | None = None
        self.backlog = False
        self._look_again = 0.0
        self._owns_session = settings.session_id is None
        self._pid = os.getpid()
        claim_id = new_id()
        self.session_id = settings.session_id or claim_id
        self._session_recorded = not self._owns_session
        self._claim = ClaimFile(layout, claim_id)
        self._keeper = Keeper(self)
        options = Options(settings.threads, settings.memory_limit)
        self.access = Database(
            layout,
            self.journal,
            writable=writable,
            options=options,
            on_idle=self._keeper.wake,
            on_open=self.workspace_settings.reconcile if writable else None,
        )
        self.recorder = Recorder(
            self.journal,
            self.blobs,
            self._claim,
            self.session_id,
            every_call=settings.durability == "call",
            on_buffered=self._keeper.wake,
            on_backlog=self._on_backlog,
            on_discarded=self._forget_discarded,
        )
        watch(self)

    # -- opening -----------------------------------------------------------------------------

    @classmethod
    def open(cls, settings: Settings) -> Engine:
        """Open or create a workspace."""
        layout = Layout(settings.root)
        if settings.root.exists() and not settings.root.is_dir():
            raise NotAWorkspace(
                f"{settings.root} is a file; a workspace is a folder. Nothing was changed. Name a folder."
            )
        refuse_linked_folders(layout)
        exists = layout.catalog.exists()
        if not exists and (settings.read_only or not settings.create):
            raise NotAWorkspace(
                f"{settings.root} is not a workspace: it has no store.duckdb. Nothing was changed. "
                "Create one with `nirs-store init` or by opening it for writing, or name another folder."
            )
        if exists and not layout.journal.exists():
            refuse_foreign(layout, Options(settings.threads, settings.memory_limit))
        if not exists:
            # Before anything is made; and again under the lease, where nobody can come in between.
            refuse_lost_catalog(layout)
        writable = not settings.read_only and make_folders(layout, exists)
        engine = cls(settings, layout, writable=writable)
        try:
            if not exists:
                engine.access.create_if_missing(
                    timeout=settings.lock_timeout, may_create=lambda: refuse_lost_catalog(layout)
                )
            if settings.session_id is None:
                engine.access.verify(timeout=settings.lock_timeout)
                engine._name_rejections()
                if writable:
                    warn_of_network(layout.root)
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
        """Record rows beside whatever transaction is under way: they stay when it is given up.

        For what is said about a call that is about to raise, so nothing else is raised here: what cannot be
        committed waits in the buffer, and the next call is told.
        """
        try:
            self._record_session()
            with self.recorder.recording(beside=True) as buffer:
                add(buffer)
        except WriteFailed as error:
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
        return replace(self.settings, create=False, session_id=self.session_id)

    def _forget_discarded(self, rows: Buffer) -> None:
        """Forget what a transaction threw away."""
        for kind, table in (("run", "runs"), ("pipeline", "pipelines"), ("chain", "chains")):
            for row in rows.rows[table]:
                self.known.forget(kind, row[0])
        for table in ("predictions", "prediction_arrays"):
            for row in rows.rows[table]:
                self.known.forget("prediction", row[0])
        for row in rows.rows["changes"]:
            self.known.forget("pipeline", row[2])

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
        """Run several steps under one exclusive lease; see `Database.exclusive`."""
        self.check_writable()
        self.recorder.flush()
        return self.access.exclusive(work, timeout=self.settings.lock_timeout)

    def look_up(self, ask: Callable[[Connection], T]) -> tuple[bool, T | None]:
        """Ask within a second, for a recording call that meets an id it does not know.

        (False, None) means that the catalog is busy: the row is then checked when it is applied.
        """
        self.check_open()
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
        alive = living(self.layout)
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
        if error is not None:
            raise error
        moment = time.monotonic()
        if closely or moment >= self._look_again:
            self._look_again = moment + _LOOK_EVERY
            rejected = self._new_rejections()
            if rejected is not None:
                raise rejected

    def _new_rejections(self) -> SegmentRejected | None:
        rejected = self.journal.rejections_of(self._claim.claim_id) if self._claim.exists else []
        if not rejected:
            return None
        what = "; ".join(f"{r.path.name}: {r.reason}" for r in rejected)
        return SegmentRejected(
            f"{len(rejected)} commits of this store could not be applied and were moved to "
            f"{self.layout.rejected}: {what}. Their rows are not in the catalog; everything else is."
        )

    def check_writable(self, *, closely: bool = True) -> None:
        """Raise unless this store may write; see `check_open`."""
        self.check_open(closely=closely)
        if not self.writable:
            raise ReadOnlyStore(
                f"{self.layout.root} is open read-only; nothing was changed. Open it for writing, "
                "as a user who may write there (in Python without read_only=True)."
            )

    # -- what the keeper looks after -----------------------------------------------------------

    @property
    def next_flush(self) -> float | None:
        """Monotonic time at which the buffer must be committed."""
        return self.recorder.flush_due

    @property
    def lingering(self) -> bool:
        """Whether the catalog is held open without need."""
        return self.access.lingering

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
        except Exception as error:  # noqa: BLE001 - kept, and raised by the next call of this store
            self._background_error = error
            self.recorder.postpone()

    def _on_backlog(self, pressure: bool) -> None:
        if pressure:
            self.access.try_apply()
            return
        self.backlog = True
        self._keeper.wake()

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
                    # A store that is at rest should have nothing in its journal: whoever may only read cannot
                    # apply it. Not waited for; copies in workers leave it to the store they came from.
                    self._keeper.stop()
                    self.access.try_apply(at_most=None)
                rejected = self._new_rejections()
            finally:
                # Also when interrupted: everything is committed, and half closed helps nobody.
                self.abort()
        if rejected is not None:
            raise rejected

    def abort(self) -> None:
        """Let everything go without committing."""
        self._closed = True
        self._let_go()

    def _let_go(self) -> None:
        # Interrupted in here, it is finished by a second `close`, or when nobody holds the store any more.
        if self._gone:
            return
        try:
            self._keeper.stop()
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
                forget(self)
        self._gone = True

    def finish(self) -> None:
        """Close at garbage collection or interpreter exit; what cannot be saved is said aloud."""
        if self._keeper.is_this_thread:
            # The collector came upon the store in the middle of what its keeper does, a transaction maybe, and the
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
        self.known.after_fork_in_child()
        self.journal.after_fork_in_child()
        begun = self._claim.exists or not self._owns_session
        self._claim.abandon()
        self._claim = ClaimFile(self.layout, new_id())
        if begun:
            self._owns_session = False
            self._session_recorded = True
        else:  # the parent has no session yet that could be saved for
            self.session_id = self._claim.claim_id
            self._session_recorded = False
        self._pid = os.getpid()
        self._keeper = Keeper(self)
        self.access.after_fork_in_child(self._keeper.wake)
        self.recorder.after_fork_in_child(self._claim, self.session_id, self._keeper.wake)
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
                f"{self.layout.rejected}: {names}",
                stacklevel=5,
            )


def _finish(engine: weakref.ref[Engine]) -> None:
    alive = engine()
    if alive is not None:
        alive.finish()
