"""Sessions and claims: one locked file a live store object.

The file's lock says that its owner lives; its lines name the blobs that the owner is about to
reference. A gc that finds a file whose lock can be taken knows that the owner is dead.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from pathlib import Path
from urllib.parse import quote, unquote

from nirs_store.blobs.durable import write_error
from nirs_store.catalog.layout import Layout
from nirs_store.catalog.oslock import open_lock_file, try_lock, unlock
from nirs_store.errors import StoreClosed

__all__ = ["ClaimFile", "living", "read_claims"]


class ClaimFile:
    """The claim file of one store object; made at its first write."""

    def __init__(self, layout: Layout, claim_id: str) -> None:
        self.claim_id = claim_id
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

    def ensure(self) -> None:
        """Make the file. It is locked before it gets its name, so nobody ever sees it unlocked.

        Raises
        ------
        StoreClosed
            After `close`; the session must not come to life again.
        WriteFailed, ReadOnlyStore
        """
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
                raise OSError(f"a new claim file is locked by somebody else: {path}")
            if path is not self._path:
                os.rename(path, self._path)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def add(self, token: str) -> None:
        """Claim a blob, by its id or by its path: from here on no gc removes it.

        Raises
        ------
        WriteFailed
            The claim could not be written; the blob is not claimed.
        """
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
    """Whether the owner of a claim file lives: its lock cannot be taken."""
    try:
        fd = open_lock_file(path, create=False, writable=os.access(path, os.W_OK))
    except FileNotFoundError:
        return False
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
            with contextlib.suppress(FileNotFoundError):
                claimed.update(unquote(line) for line in path.read_text().split())
        elif remove_dead:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                path.unlink()
    return claimed
