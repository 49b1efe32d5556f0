"""Who may have store.duckdb open right now, which sessions live, and which blobs they claim.

The lock is an OS lock on ``journal/lock``. Readers that find the journal empty share it, all others
takes it alone. A waiter polls and touches ``journal/wait`` at each poll; a process that could linger,
or take the lock without needing it now, does not while that touch is fresh. A touch expires
by itself, where a lock used as an announcement would be pinned by a stopped waiter.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote

import duckdb

from nirs_store.blobs.backend import BlobBackend
from nirs_store.blobs.durable import write_error
from nirs_store.blobs.plain import open_plain, read_plain, replace_plain, touch_plain
from nirs_store.db.journal import inbox_sessions, is_idle
from nirs_store.db.layout import Layout
from nirs_store.errors import ReadOnlyStore, StoreBusy, StoreClosed

# -- Advisory locks on an open file, shared or exclusive, that the operating system frees.


def open_lock_file(path: Path, *, create: bool = True, writable: bool = True) -> int:
    """Open (and create) a file to be locked; it is never truncated, replaced or unlinked."""
    flags = os.O_RDWR if writable else os.O_RDONLY
    if create and writable:
        flags |= os.O_CREAT
    return open_plain(path, flags)


if sys.platform == "win32":
    # LockFileEx on one byte far behind the end: a region lock on Windows is mandatory, and a
    # lock on the text itself would keep others from reading it.
    import ctypes
    import msvcrt
    from ctypes import wintypes

    _EXCLUSIVE, _NOW = 0x2, 0x1
    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)

    class _Overlapped(ctypes.Structure):
        _fields_ = (
            ("Internal", ctypes.c_void_p),
            ("InternalHigh", ctypes.c_void_p),
            ("Offset", wintypes.DWORD),
            ("OffsetHigh", wintypes.DWORD),
            ("hEvent", wintypes.HANDLE),
        )

    def _region() -> _Overlapped:
        return _Overlapped(None, None, 0, 0x40000000, None)

    def try_lock(fd: int, *, exclusive: bool, network: bool = False) -> bool:
        """Take the lock if it is free; never waits."""
        handle = wintypes.HANDLE(msvcrt.get_osfhandle(fd))
        flags = _NOW | (_EXCLUSIVE if exclusive else 0)
        region = _region()
        return bool(_kernel32.LockFileEx(handle, flags, 0, 1, 0, ctypes.byref(region)))

    def unlock(fd: int, *, network: bool = False) -> None:
        """Give the lock up."""
        handle = wintypes.HANDLE(msvcrt.get_osfhandle(fd))
        region = _region()
        _kernel32.UnlockFileEx(handle, 0, 1, 0, ctypes.byref(region))

else:
    import fcntl

    # A local file system keeps flock apart from locks of byte ranges, so there everybody uses flock, as older versions
    # do. A network file system makes flock a lock of all bytes, some of them one of the process, which is lost when
    # another descriptor of the file is closed. There the lock belongs to the open file. Its byte is the one used on
    # Windows: it excludes both, and the text of the file stays readable where locks are mandatory (SMB).
    _BYTE = 0x40000000
    _OPEN_FILE = getattr(fcntl, "F_OFD_SETLK", None) if sys.platform == "linux" else None

    def _lock_open_file(fd: int, kind: int) -> bool:
        """Lock or unlock through the open file; False where the system or the file system has no such locks."""
        if _OPEN_FILE is None:
            return False
        # struct flock: l_type, l_whence, l_start, l_len, and l_pid, which must be 0.
        try:
            fcntl.fcntl(fd, _OPEN_FILE, struct.pack("hhqqi4x", kind, os.SEEK_SET, _BYTE, 1, 0))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        return True

    def try_lock(fd: int, *, exclusive: bool, network: bool = False) -> bool:
        """Take the lock if it is free; never waits. All who lock a file must agree on `network`."""
        try:
            if network and _lock_open_file(fd, fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK):
                return True
            fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def unlock(fd: int, *, network: bool = False) -> None:
        """Give the lock up."""
        if not (network and _lock_open_file(fd, fcntl.F_UNLCK)):
            fcntl.flock(fd, fcntl.LOCK_UN)


_POLL = 0.002
_FRESH = 0.020
# A reader lets a waiter go first, but not for ever: waiters that died a moment ago and readers
# that queue for each other must not add up.
_COURTESY = 0.040


class CatalogLock:
    """One process's hold on a workspace's catalog; not thread-safe (the engine's mutex is)."""

    def __init__(self, layout: Layout, *, writable: bool, look: Callable[[], None] = lambda: None) -> None:
        self._layout = layout
        # Raises where another computer has taken the workspace over.
        self._look = look
        self._writable = writable
        self._fd: int | None = None
        self.mode: str | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock, shared or alone."""
        return self.mode is not None

    def acquire(self, *, exclusive: bool, timeout: float) -> None:
        """Wait for the lock."""
        start = time.monotonic()
        if not exclusive:
            while self.wanted() and time.monotonic() - start < _COURTESY:
                time.sleep(_POLL)
        while not self._try(exclusive=exclusive):
            self._announce()
            if time.monotonic() - start >= timeout:
                raise self._busy(timeout)
            time.sleep(_POLL + random.random() * _POLL)

    def try_acquire(self) -> bool:
        """Take the lock alone if no process has it or waits for it."""
        return not self.wanted() and self._try(exclusive=True)

    def release(self) -> None:
        """Give the lock up."""
        if self._fd is None:
            self.mode = None
            return
        if self.mode == "exclusive" and self._writable:
            with contextlib.suppress(OSError):  # only a hint for other processes' messages
                self._layout.holder.unlink()
        if self.mode is not None:
            unlock(self._fd, network=self._layout.on_network)
        self.mode = None
        os.close(self._fd)
        self._fd = None

    def abandon(self) -> None:
        """Forget the lock in a forked child: closing is enough, unlocking would free the parent's."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None
        self.mode = None

    def wanted(self) -> bool:
        """Whether a process was waiting for the lock within the last 20 ms."""
        try:
            age = time.time() - os.lstat(self._layout.wait).st_mtime
        except OSError:
            return False
        return -_FRESH < age < _FRESH

    def _try(self, *, exclusive: bool) -> bool:
        if self._fd is None:
            try:
                self._fd = open_lock_file(self._layout.lock, writable=self._writable)
            except FileNotFoundError as error:
                if self._writable:
                    raise write_error(self._layout.lock, error) from error
                # A copy of a workspace without its machinery, read-only: no process writes there.
                self.mode = "none"
                return True
            except OSError as error:
                raise write_error(self._layout.lock, error) from error
        try:
            if not try_lock(self._fd, exclusive=exclusive, network=self._layout.on_network):
                return False
        except OSError as error:
            raise write_error(self._layout.lock, error) from error
        self.mode = "exclusive" if exclusive else "shared"
        try:
            self._look()
        except BaseException:
            self.release()
            raise
        self._say_who()
        return True

    def _announce(self) -> None:
        if not self._writable:
            return
        with contextlib.suppress(OSError):  # an announcement is a courtesy; waiting goes on without it
            touch_plain(self._layout.wait)

    def _say_who(self) -> None:
        if not self._writable:
            return
        who = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(),
            "mode": self.mode,
        }
        with contextlib.suppress(OSError):  # a full disk must not keep anybody out
            replace_plain(self._layout.holder, json.dumps(who).encode())

    def _busy(self, timeout: float) -> StoreBusy:
        who = _read_holder(self._layout.holder)
        host, pid, since = who.get("host"), who.get("pid"), _parse_time(who.get("since"))
        if isinstance(pid, int) and isinstance(host, str):
            name = f"process {pid} on {host} has held it since {since or 'an unknown time'}"
        else:
            host, pid = None, None
            name = "its holder left no name"
        return StoreBusy(
            f"The catalog of {self._layout.root} was busy for {timeout:g} s: {name}. "
            "Nothing was changed. Wait for that process or stop it, or raise lock_timeout; "
            "recording is not affected.",
            host=host,
            pid=pid,
            since=since,
        )


@contextlib.contextmanager
def alone(layout: Layout, *, timeout: float) -> Iterator[None]:
    """Hold the lock of a workspace alone, without opening its catalog."""
    catalog_lock = CatalogLock(layout, writable=True)
    catalog_lock.acquire(exclusive=True, timeout=timeout)
    try:
        yield
    finally:
        catalog_lock.release()


def _read_holder(path: Path) -> dict[str, object]:
    try:
        data = json.loads(read_plain(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _parse_time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


# -- Who lives, what they claim, and the blobs that a gc has moved to the trash until it has read both.


# How the system, and `open_plain`, say that something else is in the place of a file.
_NO_FILE = (errno.ELOOP, errno.EISDIR, errno.EEXIST, errno.ENXIO)


class Claim(Protocol):
    """The claims of one store object, and its sign of life."""

    claim_id: str

    @property
    def exists(self) -> bool:
        """Whether it was made."""

    def is_only_one(self) -> bool:
        """Tell whether no other store object lives that has recorded anything."""

    def ensure(self) -> None:
        """Make it; from here on its owner is known to live."""

    def add(self, token: str, /) -> None:
        """Claim a blob, by its id or by its path: from here on no gc removes it."""

    def clear(self, keep: set[str], /) -> None:
        """Give up every claim but those of rows still in the buffer."""

    def close(self) -> None:
        """End the session."""

    def abandon(self) -> None:
        """Forget it in a forked child: it belongs to the parent."""


class Collector(Protocol):
    """A gc whose decision is one direct change, for keys that are never used again."""

    def claimed(self) -> set[str]:
        """List what living store objects claim; no claim is added until the change under way ends."""

    def condemn(self, tokens: Mapping[str, str], /) -> None:
        """Give up keys, each with its token, in the change under way."""

    def remove(self) -> int:
        """Delete the objects of all keys that were given up, also by a gc that died; returns how many."""


class Claims(Protocol):
    """Who lives in a workspace, and which blobs they claim."""

    def own(self, claim_id: str, /) -> Claim:
        """Return the claims of one store object, not made yet."""

    def living(self) -> list[str]:
        """List the claim ids of all store objects that live now."""

    def read(self, *, remove_dead: bool) -> set[str]:
        """List ids and paths of blobs that living store objects claim; those of dead ones are removed on request."""

    def generation(self, digest: str, /) -> int:
        """Return the generation of the key of a blob, as its claim said; 0 where keys are used again."""

    @property
    def collector(self) -> Collector | None:
        """What a gc does without a trash; None where it moves blobs to the trash."""


class ClaimFolder:
    """The claims of a workspace folder; a `Claims`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def own(self, claim_id: str, /) -> ClaimFile:
        """Return the claim file of one store object."""
        return ClaimFile(self._layout, claim_id)

    collector = None

    def generation(self, digest: str, /) -> int:
        """Use each key again: one lock holder at a time deletes files."""
        return 0

    def living(self) -> list[str]:
        """List the files that are locked, and sessions that only record, which have no lock, until they are idle."""
        recording = [each.root.name for each in inbox_sessions(self._layout) if not is_idle(each)]
        return living(self._layout) + recording

    def read(self, *, remove_dead: bool) -> set[str]:
        """Read the files that are locked."""
        return read_claims(self._layout, remove_dead=remove_dead)


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
        """Make the file. It is locked before it gets its name, so no process ever sees it unlocked."""
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
            if not try_lock(fd, exclusive=True, network=self._layout.on_network):
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
            # Unlinked while locked: no process may see it unlocked and take its owner for dead.
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
        """Close the file in a forked child: it belongs to the parent."""
        self._lock = threading.Lock()
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None


def _is_alive(path: Path, *, network: bool) -> bool:
    """Whether the owner of a claim file lives: its lock cannot be taken. Anything but a file was never locked."""
    try:
        fd = open_lock_file(path, create=False, writable=os.access(path, os.W_OK))
    except FileNotFoundError:
        return False
    except OSError as error:
        # Another user may have shut the others out, or the disk fails: then nothing proves that it is gone.
        return error.errno not in _NO_FILE
    try:
        if try_lock(fd, exclusive=False, network=network):
            unlock(fd, network=network)
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
    return [name for name in names if _is_alive(layout.claims / name, network=layout.on_network)]


def read_claims(layout: Layout, *, remove_dead: bool) -> set[str]:
    """Ids and paths of blobs that living store objects claim; files of dead ones are removed on request."""
    claimed: set[str] = set()
    try:
        names = sorted(os.listdir(layout.claims))
    except FileNotFoundError:
        return claimed
    for name in names:
        path = layout.claims / name
        if _is_alive(path, network=layout.on_network):
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


# -- Blobs that a gc has put into the trash: put back, or removed, by what the catalog says.


def settle_trash(con: duckdb.DuckDBPyConnection, blobs: BlobBackend, claimed: set[str]) -> tuple[int, int]:
    """Put back what a row names or a session claims, and delete the rest; returns its objects and bytes.

    The claims were read before the journal was last applied, the lock is held alone.
    """
    keys = set(blobs.list("", trashed=True))
    if not keys:
        return 0, 0
    kept = {
        str(row[0])
        for row in con.execute(
            "SELECT artifact_path FROM blobs WHERE artifact_path IN (SELECT unnest(?))", [sorted(keys)]
        ).fetchall()
    }
    kept |= {key for key in keys if key in claimed or key.rsplit("/", 1)[-1].split(".", 1)[0] in claimed}
    if kept:
        blobs.restore(sorted(kept))
    return blobs.delete(sorted(keys - kept))
