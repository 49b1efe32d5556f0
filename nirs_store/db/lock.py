"""The lease: who may have store.duckdb open right now.

An OS lock on ``journal/lock``. Readers that find the journal empty share it, everybody else
takes it alone. A waiter polls and touches ``journal/wait`` at each poll; whoever could linger,
or take the lease without needing it now, does not while that touch is fresh. A touch expires
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
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from nirs_store.blobs.durable import write_error
from nirs_store.blobs.plain import open_plain, read_plain, replace_plain, touch_plain
from nirs_store.db.layout import Layout
from nirs_store.errors import StoreBusy

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


class Lease:
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
        """Whether this object holds the lease, shared or alone."""
        return self.mode is not None

    def acquire(self, *, exclusive: bool, timeout: float) -> None:
        """Wait for the lease."""
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
        """Take the lease alone if nobody has it and nobody waits for it."""
        return not self.wanted() and self._try(exclusive=True)

    def release(self) -> None:
        """Give the lease up."""
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
        """Forget the lease in a forked child: closing is enough, unlocking would free the parent's."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None
        self.mode = None

    def wanted(self) -> bool:
        """Whether somebody was waiting for the lease within the last 20 ms."""
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
                # A copy of a workspace without its machinery, read-only: nobody writes there.
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
