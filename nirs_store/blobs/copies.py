"""Local copies of objects, under the hash of their bytes: bounded, for this user only, and checked at each use."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
import weakref
from io import BufferedIOBase
from pathlib import Path

LIMIT = 4 << 30
# A copy whose path a caller has is not evicted for so long: the caller does not say when it is done.
_LENT = 3600.0
# What a killed program left half-written.
_LEFT = 86400.0


def cache_folder(place_id: str) -> Path:
    """Say where this user keeps copies of the objects of one place."""
    named = os.environ.get("NIRS_STORE_CACHE")
    base = Path(named).expanduser().absolute() if named else user_cache()
    return base / "blobs" / place_id


def user_cache() -> Path:
    """Return this library's part of the folder in which a user's programs keep what can be fetched again."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "nirs_store"


class Copies:
    """A folder of copies; several processes may use one. Where it cannot be made, a temporary one serves."""

    def __init__(self, folder: Path, *, limit: int = LIMIT) -> None:
        self._wanted = folder
        self._limit = limit
        self._folder: Path | None = None
        self._added = limit  # the first addition looks what others left

    @property
    def folder(self) -> Path:
        """The folder, made if need be."""
        if self._folder is None or not self._folder.is_dir():
            try:
                self._folder = _private(self._wanted)
            except OSError:
                # A home folder that is full, read-only or another user's must not prevent reading.
                self._folder = Path(tempfile.mkdtemp(prefix="nirs-store-blobs-"))
                weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def find(self, digest: str, size: int) -> BufferedIOBase | None:
        """Open a copy of these bytes, which are read and compared with their hash first."""
        path = self.folder / digest
        try:
            file = open(path, "rb")  # noqa: SIM115
        except OSError:
            return None
        if (
            os.fstat(file.fileno()).st_size == size
            and hashlib.file_digest(file, "sha256").hexdigest() == digest
        ):
            file.seek(0)
            self._touch(path, 0.0)
            return file
        file.close()
        _remove(path)
        return None

    def draft(self) -> Path:
        """Name a file for bytes that are still coming."""
        return self.folder / f"{secrets.token_hex(12)}.part"

    def add(self, draft: Path, digest: str) -> BufferedIOBase:
        """Make a finished draft the copy of its bytes, and open it."""
        path = self.folder / digest
        with contextlib.suppress(OSError):
            draft.chmod(0o400)
        try:
            os.replace(draft, path)
        except PermissionError:
            # Windows: another process reads a copy of the same bytes.
            _remove(draft)
        file = open(path, "rb")  # noqa: SIM115
        self._added += os.fstat(file.fileno()).st_size
        if self._added > self._limit // 16:
            self._added = 0
            self._evict()
        return file

    def lend(self, digest: str) -> Path:
        """Return the path of a copy for a caller that reads it later."""
        path = self.folder / digest
        self._touch(path, _LENT)
        return path

    def _touch(self, path: Path, ahead: float) -> None:
        # A later time that another process has set stays.
        with contextlib.suppress(OSError):
            now = time.time() + ahead
            if path.stat().st_mtime < now:
                os.utime(path, (now, now))

    def _evict(self) -> None:
        """Remove what was used longest ago, until the rest fits; what is lent out stays."""
        now, there = time.time(), []
        for entry in os.scandir(self.folder):
            with contextlib.suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                if entry.name.endswith(".part"):
                    if found.st_mtime < now - _LEFT:
                        _remove(Path(entry.path))
                else:
                    there.append((found.st_mtime, found.st_size, entry.path))
        total = sum(size for _, size, _ in there)
        for used, size, path in sorted(there):
            if total <= self._limit or used > now:
                break
            _remove(Path(path))
            total -= size


def _private(folder: Path) -> Path:
    """Make a folder that only this user can look into, and refuse one that is a link or another's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or not os.access(folder, os.W_OK):
        raise NotADirectoryError(str(folder))
    if sys.platform != "win32":
        if found.st_uid != os.getuid():
            raise PermissionError(str(folder))
        folder.chmod(0o700)
    return folder


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
