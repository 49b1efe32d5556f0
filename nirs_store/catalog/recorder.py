"""Recording: rows are buffered, and a commit is one journal segment.

No call here ever waits for another process. What was acknowledged by `flush` (or by a call
that commits) is durable: the blobs were synced before the segment that names them.

Each call's rows are a unit of their own that joins the others with one step, so a call that was
interrupted anywhere has recorded all of its rows or none. A commit that failed may have come
through all the same (the error can come after the rename); it is tried again under the same
transaction id, and applying the same id twice is harmless.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from nirs_store.blobs.store import BlobStore
from nirs_store.catalog.buffer import Buffer
from nirs_store.catalog.journal import Journal, new_txid
from nirs_store.catalog.schema import column_names
from nirs_store.catalog.segments import encode
from nirs_store.catalog.sessions import ClaimFile
from nirs_store.errors import InvalidInput, StoreClosed
from nirs_store.ids import utcnow

__all__ = ["Recorder"]

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
        """Commit everything buffered outside transactions.

        Raises
        ------
        WriteFailed
            The rows stay in the buffer and go with the next commit.
        """
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
        """Commit everything and take no more rows.

        Raises
        ------
        WriteFailed
            Something could not be committed; the recorder stays open.
        """
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
        """The row of that id that this thread's transaction has recorded."""
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
                whole.rows,
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
        _, waiting = self._journal.append(sealed.pieces, sealed.txid)
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
