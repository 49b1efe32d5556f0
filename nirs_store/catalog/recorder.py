"""Recording: rows are buffered, and a commit is one journal segment.

No call here ever waits for another process. What was acknowledged by `flush` (or by a call
that commits) is durable: the blobs were synced before the segment that names them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nirs_store.blobs.store import BlobStore
from nirs_store.catalog.buffer import Buffer
from nirs_store.catalog.journal import Journal, new_txid
from nirs_store.catalog.segments import encode
from nirs_store.catalog.sessions import ClaimFile
from nirs_store.errors import InvalidInput
from nirs_store.ids import utcnow

__all__ = ["Recorder"]

FLUSH_AFTER = 1.0
_FLUSH_BYTES = 32 << 20
_APPLY_SEGMENTS = 64
_APPLY_BYTES = 16 << 20
# Far more than any process leaves behind: recording then helps to apply instead of outrunning it.
_PRESSURE_SEGMENTS = 4096


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
    ) -> None:
        self._journal = journal
        self._blobs = blobs
        self._claim = claim
        self._session_id = session_id
        self._every_call = every_call
        self._on_buffered = on_buffered
        self._on_backlog = on_backlog
        self._mutex = threading.RLock()
        self._held_for_fork = False
        self._buffer = Buffer()
        self._local = threading.local()
        self._unapplied_bytes = 0
        self.flush_due: float | None = None
        # Claims of saves whose row is not in any buffer yet.
        self._in_hand: dict[str, int] = {}
        # Claims of rows in the buffers of transactions that threads have under way.
        self._in_transactions: dict[int, Buffer] = {}

    @contextmanager
    def recording(self, *, commit: bool = False) -> Iterator[Buffer]:
        """Add rows; with `commit` they are durable when the block is left normally."""
        own: Buffer | None = getattr(self._local, "buffer", None)
        if own is not None:
            yield own
            return
        with self._mutex:
            yield self._buffer
            if commit or self._every_call or self._buffer.nbytes > _FLUSH_BYTES:
                self.flush()
            elif self.flush_due is None and self._buffer:
                self.flush_due = time.monotonic() + FLUSH_AFTER
                self._on_buffered()

    def flush(self) -> None:
        """Commit everything buffered outside transactions.

        Raises
        ------
        WriteFailed
            The rows stay in the buffer and go with the next commit.
        """
        with self._mutex:
            buffer = self._buffer
            if not buffer:
                self.flush_due = None
                return
            waiting = self._commit(buffer)
            self._buffer = Buffer()
            self.flush_due = None
            self._release_claims()
        if waiting >= _APPLY_SEGMENTS or self._unapplied_bytes >= _APPLY_BYTES:
            self._unapplied_bytes = 0
            self._on_backlog(waiting >= _PRESSURE_SEGMENTS)

    def postpone(self) -> None:
        """Try again a while after a background commit that failed."""
        with self._mutex:
            if self._buffer:
                self.flush_due = time.monotonic() + FLUSH_AFTER

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything this thread records in the block becomes one commit, or nothing."""
        if getattr(self._local, "buffer", None) is not None:
            raise InvalidInput(
                "A transaction of this thread is under way already; end it before another begins."
            )
        own = Buffer()
        self._local.buffer = own
        me = threading.get_ident()
        with self._mutex:
            self._in_transactions[me] = own
        try:
            yield
        except BaseException:
            self._local.buffer = None
            with self._mutex:
                # The blobs are written; their rows let a later gc find and remove them.
                kept = Buffer()
                kept.absorb(own, ("sessions", "blobs", "artifact_refs"))
                kept.rows["artifact_refs"] = [r for r in kept.rows["artifact_refs"] if r[2] == "session"]
                self._buffer.absorb(kept)
                self._buffer.blobs |= own.blobs
                self._in_transactions.pop(me, None)
                if self._buffer and self.flush_due is None:
                    self.flush_due = time.monotonic() + FLUSH_AFTER
                    self._on_buffered()
            raise
        self._local.buffer = None
        with self._mutex:
            self._buffer.absorb(own)
            self._in_transactions.pop(me, None)
            self.flush()

    @property
    def in_transaction(self) -> bool:
        """Whether this thread is inside `transaction`."""
        return getattr(self._local, "buffer", None) is not None

    @contextmanager
    def claiming(self, artifact_id: str) -> Iterator[None]:
        """Hold a blob against gc until a row that references it is in a buffer."""
        with self._mutex:
            self._in_hand[artifact_id] = self._in_hand.get(artifact_id, 0) + 1
        try:
            self._claim.add(artifact_id)
            yield
        finally:
            with self._mutex:
                left = self._in_hand[artifact_id] - 1
                if left:
                    self._in_hand[artifact_id] = left
                else:
                    del self._in_hand[artifact_id]

    def before_fork(self) -> None:
        """Keep the buffer still while the process forks."""
        self._held_for_fork = self._mutex.acquire(timeout=10.0)

    def after_fork_in_parent(self) -> None:
        """Go on as before."""
        if self._held_for_fork:
            self._mutex.release()

    def after_fork_in_child(self, claim: ClaimFile, on_buffered: Callable[[], None]) -> None:
        """Start with nothing: what was buffered is the parent's to commit."""
        self._on_buffered = on_buffered
        self._mutex = threading.RLock()
        self._buffer = Buffer()
        self._local = threading.local()
        self._in_hand = {}
        self._in_transactions = {}
        self.flush_due = None
        self._claim = claim

    def _commit(self, buffer: Buffer) -> int:
        self._blobs.wait(buffer.blobs)
        txid = new_txid()
        pieces = encode(
            buffer.rows,
            txid=txid,
            claim=self._claim.claim_id,
            session=self._session_id,
            created=utcnow().isoformat(),
        )
        _, waiting = self._journal.append(pieces, txid)
        self._unapplied_bytes += sum(len(piece) for piece in pieces)
        return waiting

    def _release_claims(self) -> None:
        if not self._claim.exists:
            return
        keep = set(self._in_hand)
        for buffer in self._in_transactions.values():
            keep |= buffer.blobs
        self._claim.clear(keep)
