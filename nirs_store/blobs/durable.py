"""The one durable write, used for everything that this library puts on a disk.

The order is what makes it safe: a temporary file on the same file system is made (read-only if asked), written
and synced; only then is it renamed over the target, and the folder that now lists it is synced. A process that looks
sees the old content or the new one, never a part, and after the return a power loss takes nothing back.
"""

# Plain system calls on purpose: the calls that safety rests on are here in order, and tests inject faults there.

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from nirs_store.addresses import refuse_address
from nirs_store.blobs.plain import share
from nirs_store.errors import InvalidInput, NirsStoreError, ReadOnlyStore, WriteFailed

_BYTES_LIKE = (bytes, bytearray, memoryview)
Buffer = bytes | bytearray | memoryview
S = TypeVar("S")
T = TypeVar("T")

_WINDOWS = os.name == "nt"
# Windows translates line ends unless told that the file is binary.
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_PIECE = 1 << 26  # Windows counts the bytes of one write in 31 bits
# From so many files on, and with so many threads, deleting together is worth it: 500 blobs in 105 instead of 170 ms.
_MANY, _REMOVERS = 32, 4
_SHARING_VIOLATIONS = (32, 33)
_FOLDER_SYNC_UNKNOWN = (errno.EINVAL, errno.ENOTSUP)

_IN_USE = "Close the program that has it open"
_REMEDIES = {
    errno.EEXIST: "Move the object in its place",
    errno.ENOTDIR: "Move the object in the place of a folder",
    errno.EISDIR: "Move the folder in its place",
    errno.ELOOP: "Remove the link",
    errno.ENOENT: "Make the folder",
    errno.EIO: "Check the disk",
}


def write_file(
    path: Path,
    data: Buffer | Iterable[Buffer],
    *,
    tmp_dir: Path | None = None,
    readonly: bool = False,
    replace: bool = True,
) -> None:
    """Write a file so that it is there in full, or not at all, whatever happens.

    `tmp_dir` must lie on the file system of `path`: from another one the rename would not be atomic.
    """
    temporary = (tmp_dir or path.parent) / f"{path.name[:80]}.{secrets.token_hex(8)}.tmp"
    try:
        _write_all(temporary, data, 0o444 if readonly else 0o666, path.parent)
        if replace:
            _rename(temporary, path)
        else:
            rename_if_absent(temporary, path)
        fsync_dir(path.parent)
    except NirsStoreError:
        # The caller found something wrong with the pieces, and has raised it.
        _discard(temporary)
        raise
    except OSError as exc:
        _discard(temporary)
        if isinstance(exc, FileExistsError) and not replace:
            raise InvalidInput(
                f"{path} exists already and was left as it is. Give another name, or allow it to be replaced."
            ) from exc
        raise write_error(path, exc) from exc
    except BaseException:
        _discard(temporary)
        raise


def write_error(path: Path, exc: OSError) -> WriteFailed | ReadOnlyStore:
    """Make the typed error for an operating-system error met while writing `path`."""
    reason = f"{exc.strerror or exc} (errno {errno.errorcode.get(exc.errno or 0, exc.errno)})"
    in_use = getattr(exc, "winerror", None) in _SHARING_VIOLATIONS
    error: WriteFailed | ReadOnlyStore
    if exc.errno == errno.EROFS or (isinstance(exc, PermissionError) and not in_use):
        error = ReadOnlyStore(
            f"{path} could not be written: {reason}. Nothing was changed. Give this user the right to write "
            "there; in Python a workspace can be opened with read_only=True, too."
        )
    else:
        remedy = _IN_USE if in_use else _REMEDIES.get(exc.errno or 0, "Free space")
        error = WriteFailed(
            f"{path} could not be written: {reason}. {remedy} and call again; nothing was lost."
        )
    error.errno = exc.errno
    return error


def sync_file(path: Path) -> None:
    """Sync a file that was written by other means."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_dir(path: Path) -> None:
    """Sync a folder, so that the names in it survive a power loss.

    Does nothing on Windows: a folder cannot be opened there for syncing, and NTFS journals its names.
    """
    if _WINDOWS:
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        # Some network file systems know no sync of a folder; they offer nothing more.
        if exc.errno not in _FOLDER_SYNC_UNKNOWN:
            raise
    finally:
        os.close(descriptor)


def ensure_dir(path: Path, *, shared: bool = False, certain: bool = False) -> None:
    """Make a folder and its missing parents durably; an existing one is left alone.

    With `shared`, what is made gets the rights of the folder above; see `share`. With `certain`, the name of an
    existing folder is synced, too: a process that died may have made it and not come to that.
    """
    missing: list[Path] = []
    folder = path
    while not os.path.isdir(folder):
        missing.append(folder)
        if folder.parent == folder:
            break
        folder = folder.parent
    for folder in reversed(missing):
        # Whatever the path was made of: a folder called "s3:" would look like a place in a cloud.
        refuse_address(f"{folder.name}/" if folder.name.endswith(":") else "", "path")
        try:
            made = False
            try:
                os.mkdir(folder)
                made = True
                if shared:
                    share(folder, folder.parent)
            except FileExistsError:
                if not os.path.isdir(folder):
                    raise
            try:
                # Also when another process made it in this moment: it may not have come to its own sync yet.
                fsync_dir(folder.parent)
            except OSError:
                # The next call would find it, and not sync it.
                if made:
                    with contextlib.suppress(OSError):
                        os.rmdir(folder)
                raise
        except OSError as exc:
            raise write_error(folder, exc) from exc
    if certain and not missing:
        try:
            fsync_dir(path.parent)
        except PermissionError:
            return  # no process with these rights has made it
        except OSError as exc:
            raise write_error(path, exc) from exc


def make_read_only(path: Path) -> None:
    """Take the right to write away; who may read is what the process's umask said when the file was made."""
    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) & ~0o222)


def move_file(source: Path, target: Path) -> None:
    """Rename a file durably, replacing the target; source and target lie on one file system."""
    move_files([(source, target)])


def move_files(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Rename many files durably, as `move_file` does one; each folder is synced once."""
    target = None
    try:
        for source, target in pairs:
            _rename(source, target)
        # The new names first: after a power loss a file may have two names, but never none.
        for target in dict.fromkeys([to.parent for _, to in pairs] + [of.parent for of, _ in pairs]):
            fsync_dir(target)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise write_error(target or Path(), exc) from exc


def remove_file(path: Path, missing_ok: bool = False) -> None:
    """Delete a file, also a read-only one."""
    try:
        _unlink(path)
    except FileNotFoundError:
        if not missing_ok:
            raise
    except OSError as exc:
        raise write_error(path, exc) from exc


def remove_files(paths: Sequence[Path]) -> tuple[int, int]:
    """Delete files, many of them several at a time; one that is gone already does not count."""
    if len(paths) < _MANY:
        sizes = _remove_counted(paths)
    else:
        # Freeing a file's blocks is the system's work, and it does that for several files at once. In as many parts,
        # because handing files over one by one takes as long as asking for their removal.
        parts = [paths[start::_REMOVERS] for start in range(_REMOVERS)]
        sizes = [size for part in at_once(_remove_counted, parts, _REMOVERS) for size in part]
    return len(sizes), sum(sizes)


def at_once(call: Callable[[S], T], items: Sequence[S], threads: int) -> list[T]:
    """Call for each item in several threads; a call may come twice where a thread cannot be started."""
    if len(items) > 1:
        with ThreadPoolExecutor(min(threads, len(items)), thread_name_prefix="nirs-store") as pool:
            try:
                found = pool.map(call, items)
            except RuntimeError:
                pass  # the interpreter is ending and starts no threads
            else:
                return list(found)
    return [call(item) for item in items]


def _remove_counted(paths: Sequence[Path]) -> list[int]:
    """Delete files; gives the bytes of each that was there."""
    sizes = []
    for path in paths:
        try:
            size = os.stat(path).st_size
            remove_file(path)
        except FileNotFoundError:
            continue
        except OSError as exc:
            raise exc if isinstance(exc, NirsStoreError) else write_error(path, exc) from exc
        sizes.append(size)
    return sizes


def _write_all(temporary: Path, data: Buffer | Iterable[Buffer], mode: int, folder: Path) -> None:
    # The mode holds for processes that open the file later, not for this descriptor.
    descriptor = os.open(temporary, _CREATE, mode)
    try:
        share(descriptor, folder)
        pieces = (data,) if isinstance(data, _BYTES_LIKE) else data
        for piece in pieces:
            whole = memoryview(piece)
            view = whole.cast("B") if whole.nbytes else whole[:0]
            while view.nbytes:
                view = view[os.write(descriptor, view[:_PIECE]) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(source: Path, target: Path) -> None:
    if not _WINDOWS:
        os.replace(source, target)
        return
    # Windows refuses to replace a read-only file, and any file that a reader (or a virus scanner) has open.
    for attempt in range(40):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if attempt == 39:
                raise
            if target.exists():
                os.chmod(target, stat.S_IREAD | stat.S_IWRITE)
            time.sleep(0.025)


def rename_if_absent(source: Path, target: Path) -> None:
    """Rename a file, or raise `FileExistsError`; other errors are those of the system."""
    if _WINDOWS:
        os.rename(source, target)  # raises FileExistsError there
        return
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError as exc:
        if exc.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        # A file system without hard links (exFAT): look, then rename. Two writers of the same new name within
        # microseconds would both succeed, and the later one stays, complete.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from exc
        os.rename(source, target)
        return
    _unlink(source)


def _unlink(path: Path) -> None:
    if not _WINDOWS:
        os.unlink(path)
        return
    for attempt in range(40):
        try:
            os.unlink(path)
            return
        except PermissionError:
            if attempt == 39 or path.is_dir():
                raise
            os.chmod(path, stat.S_IREAD | stat.S_IWRITE)
            time.sleep(0.0 if attempt == 0 else 0.025)


def _discard(temporary: Path) -> None:
    # The first error is what the caller must hear; a leftover in the folder of temporaries is swept later.
    with contextlib.suppress(OSError):
        _unlink(temporary)


# -- A file in the making: bytes come in pieces, are hashed while they are written, and get their name last.

_SYNC_EARLY = 1 << 26


class Draft:
    """An unfinished blob; has what writers of compressed streams ask of a file: `write`, `flush`, `tell`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"draft-{secrets.token_hex(12)}.tmp"
        self.size = 0
        self._hash = hashlib.sha256()
        self._unsynced = 0
        self._syncing: Future[None] | None = None
        try:
            self._descriptor: int | None = os.open(self.path, _CREATE, 0o444)
            share(self._descriptor, folder)
        except OSError as error:
            raise write_error(self.path, error) from error

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes written so far."""
        return self._hash.hexdigest()

    # What file-like writers look for.
    closed = False

    def writable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return False."""
        return False

    def seekable(self) -> bool:
        """Return False: the bytes are hashed in the order in which they come."""
        return False

    def flush(self) -> None:
        """Do nothing: every piece is written at once."""

    def tell(self) -> int:
        """Return the bytes written."""
        return self.size

    def write(self, piece: Buffer) -> int:
        """Append a piece."""
        view = memoryview(piece).cast("B") if len(piece) else memoryview(b"")
        self._hash.update(view)
        return self._write(view)

    def write_beside(self, piece: memoryview, pool: Executor) -> list[Future[Any]]:
        """Append a piece in the background, hashed while it is written.

        All of what is returned must have ended before the next piece, and its errors be raised.
        """
        pending: list[Future[Any]] = [pool.submit(self._hash.update, piece), pool.submit(self._write, piece)]
        self._unsynced += piece.nbytes
        if self._unsynced >= _SYNC_EARLY and hasattr(os, "fdatasync"):
            # The disk works while the next pieces come; `finish` then has little left to wait for.
            self._unsynced = 0
            if self._syncing is not None:
                pending.append(self._syncing)
            self._syncing = pool.submit(os.fdatasync, self._open)
        return pending

    @property
    def _open(self) -> int:
        assert self._descriptor is not None
        return self._descriptor

    def _write(self, view: memoryview) -> int:
        count = view.nbytes
        try:
            while view.nbytes:
                view = view[os.write(self._open, view[:_PIECE]) :]
        except OSError as error:
            raise write_error(self.path, error) from error
        self.size += count
        return count

    def finish(self) -> Self:
        """Sync and close the file; nothing can be written any more."""
        syncing, self._syncing = self._syncing, None
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            try:
                try:
                    if syncing is not None:  # its error is the system's only word about these pieces
                        syncing.result()
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as error:
                raise write_error(self.path, error) from error
        return self

    def discard(self) -> None:
        """Remove the file, if it is still there."""
        if self._syncing is not None:
            # It must not meet another file under its number.
            self._syncing.exception()
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        # A leftover is swept later; what led here is what the caller must hear.
        with contextlib.suppress(NirsStoreError):
            remove_file(self.path, missing_ok=True)
