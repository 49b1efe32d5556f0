"""Recording: rows are buffered, and a commit is one journal segment."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import msgspec

from nirs_store.blobs.store import BlobStore
from nirs_store.db.changes import AUDIT
from nirs_store.db.journal import StoredArray, encode, new_txid
from nirs_store.db.lock import Claim
from nirs_store.db.log import CommitLog
from nirs_store.db.schema import column_names
from nirs_store.errors import InvalidInput, StoreClosed
from nirs_store.ids import new_id, now_naive, utcnow
from nirs_store.values import to_json

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
        # Values given and not taken would be lost without a word.
        if len(row) - row.count(None) < len(values) and not values.keys() <= set(names):
            raise KeyError(f"{table} has no columns {sorted(values.keys() - set(names))}")
        self.rows[table].append(row)
        self.nbytes += _ROW_BYTES

    def add_array(self, row: StoredArray) -> str:
        """Add an array once per commit. Each commit carries the bytes of what it names.

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


class IdCache:
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


# -- The buffer of a store object and its way into the journal.


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
        journal: CommitLog,
        blobs: BlobStore,
        claim: Claim,
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

        A block that is left by an exception has recorded nothing. With `beside`, the rows are not part of this
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
            # A query meanwhile may have applied most of it, and be asking again just now.
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

    def holds(self, token: str) -> bool:
        """Tell whether a row that waits for its commit holds a blob, which is then not deleted."""
        with self._mutex:
            return token in self._held()

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

    def after_fork_in_child(self, claim: Claim, session_id: str, on_buffered: Callable[[], None]) -> None:
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
        self._claim.clear(self._in_hand.keys() | self._held())

    def _held(self) -> set[str]:
        units = [unit for each in (self._units, *self._in_transactions.values()) for unit in each]
        return set().union(*(unit.blobs for unit in units))


def _merged(units: list[Buffer]) -> Buffer:
    """All rows of some units, in order, each array once."""
    if len(units) == 1:
        return units[0]
    whole = Buffer()
    for unit in units:
        whole.absorb(unit)
    return whole


def _with_curves(rows: Mapping[str, list[tuple[Any, ...]]]) -> Mapping[str, list[tuple[Any, ...]]]:
    """Join the points of each training curve, which a loop records one by one, into one row per commit."""
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


# -- The one background thread of a store object: commits in time, closes the catalog in time, applies backlogs.


_LINGER_POLL = 0.005
# A guard that was set on another computer binds here after this time.
LOOK_FOR_SETTINGS = 1.0


class Kept(Protocol):
    """What the background thread looks after."""

    backlog: bool

    @property
    def lingering(self) -> bool:
        """Whether the catalog is held open without need."""

    @property
    def next_flush(self) -> float | None:
        """Monotonic time at which the buffer must be committed."""

    @property
    def next_look(self) -> float | None:
        """Monotonic time at which to look for settings of other computers."""

    def keep(self) -> None:
        """Do what is due."""


class BackgroundFlusher:
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
        """Whether the caller is the background flusher."""
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
        if self._kept.backlog or self._kept.lingering:
            return _LINGER_POLL
        due = self._kept.next_flush
        pause = None if due is None else max(0.0, due - time.monotonic())
        look = self._kept.next_look
        return (
            pause if look is None else min(LOOK_FOR_SETTINGS if pause is None else pause, LOOK_FOR_SETTINGS)
        )
