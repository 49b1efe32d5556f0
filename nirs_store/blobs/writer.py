"""Writes blobs in the background, and gives account of every one of them.

A durable write waits mostly for the disk. So a few threads write while the caller goes on, up to a
bound of bytes; `wait` is the moment of truth. Bytes that could not be written stay here until they can.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import msgspec

from nirs_store.errors import NirsStoreError, StoreClosed

__all__ = ["BackgroundWriter"]

THREADS = 4
MAX_PENDING_BYTES = 64 * 1024 * 1024


class _Write(msgspec.Struct, eq=False):
    relative: str
    digest: str
    data: bytes
    state: Literal["queued", "done", "failed"] = "queued"
    error: Exception | None = None


class BackgroundWriter:
    """Queue of files that are being written.

    Parameters
    ----------
    write : callable
        Called in a thread as ``write(relative, digest, data)``; returns when the file is durable, or raises.
    max_pending_bytes : int
        Beyond it `submit` waits. One larger file is let in when nothing else is under way.
    """

    def __init__(
        self,
        write: Callable[[str, str, bytes], None],
        max_pending_bytes: int = MAX_PENDING_BYTES,
    ) -> None:
        self._write = write
        self._max_bytes = max_pending_bytes
        self._closed = False
        self._start_empty()

    def _start_empty(self) -> None:
        self._changed = threading.Condition()
        self._pending: dict[str, _Write] = {}
        self._bytes = 0
        self._pool: ThreadPoolExecutor | None = None

    def after_fork_in_child(self) -> None:
        """Forget what the parent is writing: its threads are not here, and it does the work itself."""
        self._start_empty()

    @property
    def pending_bytes(self) -> int:
        """Bytes that are not yet durable, those of failed writes included."""
        return self._bytes

    def is_pending(self, relative: str) -> bool:
        """Tell whether a file is queued, being written, or failed and waiting for another try."""
        with self._changed:
            return relative in self._pending

    def submit(self, relative: str, digest: str, data: bytes) -> None:
        """Queue a file; a failed write of the same file is tried again instead.

        Raises
        ------
        WriteFailed, ReadOnlyStore
            There is no room, because earlier writes failed and fail again. This file was not queued.
        StoreClosed
            After `close`.
        """
        with self._changed:
            self._check_open()
            if not self._retry_known(relative):
                self._make_room(len(data))
                # The room was waited for without the lock: somebody may have brought the same file meanwhile.
                if not self._retry_known(relative):
                    entry = _Write(relative, digest, data)
                    self._pending[relative] = entry
                    self._bytes += len(data)
                    self._start(entry)

    def retry_if_pending(self, relative: str) -> bool:
        """Tell whether a file is pending; if its write failed, try again in the background."""
        with self._changed:
            return self._retry_known(relative)

    def wait(self, digests: Iterable[str] | None = None) -> None:
        """Return when the files of these hashes (None: all files) are durable.

        What failed before is tried once more.

        Raises
        ------
        WriteFailed, ReadOnlyStore
            At least one could not be written. Its bytes are kept for the next call.
        """
        wanted = None if digests is None else {digests} if isinstance(digests, str) else set(digests)
        with self._changed:
            self._settle([e for e in self._pending.values() if wanted is None or e.digest in wanted])

    def wait_for_file(self, relative: str) -> None:
        """Like `wait`, for one file."""
        with self._changed:
            entry = self._pending.get(relative)
            if entry is not None:
                self._settle([entry])

    def close(self) -> None:
        """Wait for everything and end the threads; if something cannot be written, stay open and raise."""
        with self._changed:
            while self._pending:
                self._settle(list(self._pending.values()))
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)

    # The methods below are called with the lock held.

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed()

    def _retry_known(self, relative: str) -> bool:
        entry = self._pending.get(relative)
        if entry is None:
            return False
        if entry.state == "failed":
            self._start(entry)
        return True

    def _make_room(self, size: int) -> None:
        tried = False
        while self._pending and self._bytes + size > self._max_bytes:
            entries = list(self._pending.values())
            if any(entry.state == "queued" for entry in entries):
                self._changed.wait()
            elif tried:
                _raise_first(entries)
            else:
                tried = True
                for entry in entries:
                    self._start(entry)
            self._check_open()

    def _settle(self, entries: list[_Write]) -> None:
        for entry in entries:
            if entry.state == "failed":
                self._start(entry)
        while any(entry.state == "queued" for entry in entries):
            self._changed.wait()
        _raise_first([entry for entry in entries if entry.state == "failed"])

    def _start(self, entry: _Write) -> None:
        entry.state, entry.error = "queued", None
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="nirs-store-blobs")
        try:
            self._pool.submit(self._run, entry)
        except RuntimeError:
            # The interpreter is ending and takes no new work for threads: do it here and now.
            self._finish(entry, self._attempt(entry))

    def _finish(self, entry: _Write, error: Exception | None) -> None:
        if error is None:
            entry.state = "done"
            if self._pending.get(entry.relative) is entry:
                del self._pending[entry.relative]
                self._bytes -= len(entry.data)
        else:
            entry.state, entry.error = "failed", error
        self._changed.notify_all()

    # These two run in a thread of the pool.

    def _run(self, entry: _Write) -> None:
        changed = self._changed
        error = self._attempt(entry)
        with changed:
            self._finish(entry, error)

    def _attempt(self, entry: _Write) -> Exception | None:
        try:
            self._write(entry.relative, entry.digest, entry.data)
        except Exception as exc:  # noqa: BLE001 (raised in whoever waits for this file)
            return exc
        return None


def _raise_first(failed: list[_Write]) -> None:
    if not failed:
        return
    first = failed[0].error
    assert first is not None
    if not isinstance(first, NirsStoreError):
        raise first
    more = f" ({len(failed) - 1} more files wait likewise.)" if len(failed) > 1 else ""
    # A new exception for each caller: several threads may be told of the same failure.
    fresh = type(first)(first.message + more)
    if isinstance(first, OSError) and isinstance(fresh, OSError):
        fresh.errno = first.errno
    raise fresh from first
