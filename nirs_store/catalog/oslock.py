"""Advisory locks on an open file, shared or exclusive, that the operating system frees.

A lock lives as long as the open file: when the process dies, however it dies, the lock is
gone. Nothing here looks at a pid, a clock or the existence of a file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["open_lock_file", "try_lock", "unlock"]


def open_lock_file(path: Path, *, create: bool = True, writable: bool = True) -> int:
    """Open (and create) a file to be locked; it is never truncated, replaced or unlinked."""
    flags = os.O_RDWR if writable else os.O_RDONLY
    if create and writable:
        flags |= os.O_CREAT
    return os.open(path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0), 0o666)


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

    def try_lock(fd: int, *, exclusive: bool) -> bool:
        """Take the lock if it is free; never waits."""
        handle = wintypes.HANDLE(msvcrt.get_osfhandle(fd))
        flags = _NOW | (_EXCLUSIVE if exclusive else 0)
        region = _region()
        return bool(_kernel32.LockFileEx(handle, flags, 0, 1, 0, ctypes.byref(region)))

    def unlock(fd: int) -> None:
        """Give the lock up."""
        handle = wintypes.HANDLE(msvcrt.get_osfhandle(fd))
        region = _region()
        _kernel32.UnlockFileEx(handle, 0, 1, 0, ctypes.byref(region))

else:
    import fcntl

    def try_lock(fd: int, *, exclusive: bool) -> bool:
        """Take the lock if it is free; never waits."""
        mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(fd, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(fd: int) -> None:
        """Give the lock up."""
        fcntl.flock(fd, fcntl.LOCK_UN)
