"""The blob store: immutable files whose name is the SHA-256 of their bytes.

``artifacts/ab/ab12….joblib`` is all there is to it: no header, no compression, no index. Two processes that
cannot see each other agree on the name, ``sha256sum`` checks a file, and ``joblib.load`` opens one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any, Literal, Self
from urllib.parse import quote

import msgspec

from nirs_store.blobs.durable import (
    Buffer,
    ensure_dir,
    fsync_dir,
    move_files,
    remove_file,
    write_error,
    write_file,
)
from nirs_store.blobs.plain import open_plain, share
from nirs_store.errors import (
    BlobCorrupt,
    BlobMissing,
    BlobUnreadable,
    InvalidInput,
    NirsStoreError,
    PathEscapes,
    StoreClosed,
)
from nirs_store.ids import sha256_hex

__all__ = [
    "BackgroundWriter",
    "BlobInfo",
    "BlobStore",
    "Draft",
    "Identity",
    "VerifiedFiles",
    "aside_name",
    "blob_inside",
    "check_hash",
    "check_suffix",
    "hash_file",
    "identity_of",
    "resolve_inside",
]


# -- A blob in the making: bytes come in pieces, are hashed while they are written, and get their name last.


_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_PIECE = 1 << 26
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
        """Give the bytes written."""
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


# -- Names of blobs, and the guard that keeps every stored path inside its workspace.


_HASH = re.compile(r"[0-9a-f]{64}")
_SUFFIX = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
# A user may register files anywhere else in the workspace; artifacts/ is where the store puts its own.
_MACHINERY = re.compile(r"(journal|store\.duckdb.*)$", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:")


def check_hash(digest: str) -> str:
    """Give `digest` back if it is a SHA-256 in lower-case hexadecimal."""
    if _HASH.fullmatch(str(digest)) is None:
        raise InvalidInput(f"{digest!r} is not a SHA-256: 64 lower-case hexadecimal digits were expected.")
    return digest


def check_suffix(suffix: str) -> str:
    """Give a file name ending without its dot."""
    bare = suffix.removeprefix(".")
    if _SUFFIX.fullmatch(bare) is None:
        raise InvalidInput(
            f"{suffix!r} is not a usable file name suffix: lower-case letters, digits, '_' or '-' were expected."
        )
    return bare


def aside_name(relative: str) -> str:
    """Name of a blob's file while a gc decides about it: its whole path, in one piece."""
    # By parts, because `quote` is quick with what has nothing to quote.
    return "%2F".join(quote(part, safe="") for part in relative.split("/"))


def blob_inside(root: Path, relative: str) -> Path:
    """Join the stored path of a blob to its workspace: every path that a row or a file's name gives comes by
    here.
    """
    path = resolve_inside(root, relative)
    names: Sequence[str] = relative.split("/")
    if not _is_plain(root, names):
        # A link, or a part that says nothing: what counts is where it leads.
        names = Path(os.path.realpath(path)).relative_to(os.path.realpath(root)).parts
    if _MACHINERY.match(names[0]):
        raise PathEscapes(
            f"The path {relative!r} names a part of the workspace {root} itself, where no artifact is kept. Nothing "
            "was touched."
        )
    return path


def resolve_inside(root: Path, relative: str | PurePath) -> Path:
    """Join a stored path to its workspace, or refuse."""
    text = relative.as_posix() if isinstance(relative, PurePath) else str(relative)
    reason = _objection(text)
    if reason is None:
        path = root.joinpath(*text.split("/"))
        if _is_plain(root, text.split("/")):
            return path
        inside = Path(os.path.realpath(root))
        real = Path(os.path.realpath(path))
        if real != inside and real.is_relative_to(inside):
            return path
        reason = f"it leads to {real}"
    raise PathEscapes(
        f"The path {text!r} does not stay inside the workspace {root}: {reason}. Nothing was touched."
    )


def _is_plain(root: Path, names: Sequence[str]) -> bool:
    """Tell that nothing between the workspace and the file is a link, which settles it in three looks."""
    place = os.fspath(root)
    for name in names:
        if name in ("", "."):
            return False
        place = os.path.join(place, name)
        try:
            found = os.lstat(place)
        except FileNotFoundError:
            return True  # what comes below is not there either
        except OSError:
            return False
        # On Windows junctions lead elsewhere, too; they are reparse points, like links.
        if stat.S_ISLNK(found.st_mode) or getattr(found, "st_reparse_tag", None):
            return False
    return True


def _objection(text: str) -> str | None:
    if not text:
        return "it is empty"
    if "\0" in text:
        return "it holds a NUL"
    if "\\" in text:
        # A separator on Windows and a plain character elsewhere: a stored path must mean the same everywhere.
        return "it holds a backslash; write '/'"
    if text.startswith("/"):
        return "it is absolute"
    if _DRIVE.match(text) or (os.name == "nt" and ":" in text):
        return "it names a drive or a stream"
    if ".." in text.split("/"):
        return "it climbs with '..'"
    return None


# -- Writes blobs in the background, and gives account of every one of them.


THREADS = 4
MAX_PENDING_BYTES = 64 * 1024 * 1024


class _Write(msgspec.Struct, eq=False):
    relative: str
    digest: str
    data: bytes
    state: Literal["queued", "done", "failed"] = "queued"
    error: Exception | None = None


class BackgroundWriter:
    """Queue of files that are being written."""

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
        """Queue a file; a failed write of the same file is tried again instead."""
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


# -- What this process has verified: a file is hashed once, and again only if it is no longer the same file.


# Modification time in ns, size, inode: a file for which these did not change was not written to.
Identity = tuple[int, int, int]

_PIECE_verified = 1 << 20


class VerifiedFiles:
    """Thread-safe memory of the files whose bytes were found to fit their hash.

    Bounded, because a training loop makes millions; what was not used for longest is hashed again.
    """

    def __init__(self, limit: int = 20_000) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._known: OrderedDict[str, dict[str, Identity]] = OrderedDict()

    def knows(self, relative: str, digest: str, identity: Identity) -> bool:
        """Tell whether this very file was verified against this hash."""
        with self._lock:
            files = self._known.get(digest)
            if files is None:
                return False
            self._known.move_to_end(digest)
            return files.get(relative) == identity

    def remember(self, relative: str, digest: str, identity: Identity) -> None:
        """Note that the file fits."""
        with self._lock:
            self._known.setdefault(digest, {})[relative] = identity
            self._known.move_to_end(digest)
            if len(self._known) > self._limit:
                self._known.popitem(last=False)

    def forget(self, digest: str) -> None:
        """Forget all files of a hash."""
        with self._lock:
            self._known.pop(digest, None)

    def after_fork_in_child(self) -> None:
        """Take a new lock: a thread that does not exist in this process may have held the old one."""
        self._lock = threading.Lock()


def identity_of(found: os.stat_result) -> Identity:
    """Take from a stat what tells one state of a file from another."""
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def hash_file(path: Path) -> tuple[str, Identity]:
    """Hash a file in pieces of 1 MB; give the SHA-256 and the identity it had when it was opened."""
    digest = hashlib.sha256()
    # Where links lead was settled when the path was resolved.
    with os.fdopen(open_plain(path, os.O_RDONLY, follow=True), "rb") as file:
        identity = identity_of(os.fstat(file.fileno()))
        while piece := file.read(_PIECE_verified):
            digest.update(piece)
    return digest.hexdigest(), identity


_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
_ASIDE_PATIENCE = 1.0
_ASIDE_POLL = 0.005


class BlobInfo(msgspec.Struct, frozen=True):
    """Where a blob is, as told by `BlobStore.put`."""

    artifact_id: str
    path: str
    size: int
    written: bool


class BlobStore:
    """Content-addressed files of one workspace.

    Saving is asynchronous: `put` queues the bytes, `wait` returns when they are durable. Every method that
    looks at a file first waits for its write, if one is under way here, and raises
    `WriteFailed` if that failed.
    """

    def __init__(
        self,
        root: Path,
        artifacts_dir: Path,
        aside_dir: Path,
        tmp_dir: Path,
        *,
        max_pending_bytes: int = MAX_PENDING_BYTES,
    ) -> None:
        self._root = root
        self._artifacts = artifacts_dir
        self._aside = aside_dir
        self._tmp = tmp_dir
        self._prefix = artifacts_dir.relative_to(root).as_posix()
        self._verified = VerifiedFiles()
        # Folders that are known to be there, and folders whose path was found to stay inside.
        self._shards: set[str] = set()
        self._inside: set[str] = set()
        self._writer = BackgroundWriter(self._write, max_pending_bytes)

    @property
    def pending_bytes(self) -> int:
        """Bytes that are not durable yet."""
        return self._writer.pending_bytes

    def relative_path(self, digest: str, suffix: str) -> str:
        """Give the path of a blob below the workspace: ``artifacts/ab/<hash>.<suffix>``."""
        check_hash(digest)
        return f"{self._prefix}/{digest[:2]}/{digest}.{check_suffix(suffix)}"

    def put(
        self, data: bytes | bytearray | memoryview, suffix: str, *, digest: str | None = None
    ) -> BlobInfo:
        """Store bytes under their own hash, unless an intact file holds them already.

        An existing file is checked by its size each time and by its hash once in this process; a wrong or
        vanished one is written again.
        """
        content = data if isinstance(data, bytes) else bytes(data)
        digest = digest or sha256_hex(content)
        relative = self.relative_path(digest, suffix)
        written = True
        if not self._writer.retry_if_pending(relative):
            if self._is_intact(relative, digest, len(content)):
                written = False
            else:
                self._writer.submit(relative, digest, content)
        return BlobInfo(digest, relative, len(content), written)

    def draft(self) -> Draft:
        """Begin a blob whose bytes come in pieces and whose name is known at their end; see `adopt`."""
        ensure_dir(self._tmp)
        return Draft(self._tmp)

    def adopt(self, drafts: Sequence[tuple[Draft, str]]) -> list[BlobInfo]:
        """Make finished drafts the blobs of their hashes, unless intact files hold the same bytes already.

        After a failure, drafts that were not renamed are still there; those that were are blobs that no row names.
        """
        found, moves = [], []
        for draft, suffix in drafts:
            relative = self.relative_path(draft.digest, suffix)
            self._writer.wait_for_file(relative)
            written = not self._is_intact(relative, draft.digest, draft.size)
            if written:
                path = self._own_place(relative)
                # Looked at each time: the folder may have vanished after it was made.
                self._ensure_shard(path.parent, not path.parent.is_dir())
                moves.append((draft.path, path))
            found.append(BlobInfo(draft.digest, relative, draft.size, written))
        move_files(moves)
        for info, (draft, _) in zip(found, drafts, strict=True):
            if info.written:
                with contextlib.suppress(FileNotFoundError):
                    identity = identity_of((self._root / info.path).stat())
                    self._verified.remember(info.path, info.artifact_id, identity)
            draft.discard()
        return found

    def verified_path(self, relative: str, expected_hash: str) -> Path:
        """Give the path of a file whose bytes were compared with their hash, now or before in this process."""
        path = self.path_of(relative)
        if not self._verified.knows(relative, expected_hash, identity_of(path.stat())):
            self.verify(relative, expected_hash)
        return path

    def wait(self, hashes: Iterable[str] | None = None) -> None:
        """Return when the blobs of these hashes (None: all) are durable; what failed before is tried again."""
        self._writer.wait(hashes)

    def read(self, relative: str, expected_hash: str) -> bytes:
        """Read a file, verified against its hash once in this process for as long as it is the same file."""
        path = self._settled(relative)
        # A gc may be moving it from the first place to the second, or back.
        for place in (path, self._aside_path(relative), path):
            try:
                with os.fdopen(open_plain(place, os.O_RDONLY, follow=True), "rb") as file:
                    identity = identity_of(os.fstat(file.fileno()))
                    data = file.read()
            except OSError as exc:
                if exc.errno not in _NOT_THERE:
                    raise BlobUnreadable(
                        f"{place} cannot be read: {exc.strerror or exc}. Nothing was changed. Look at its "
                        "permissions and at the disk, and ask again."
                    ) from exc
                continue
            if not self._verified.knows(relative, expected_hash, identity):
                self._check(place, expected_hash, sha256_hex(data), len(data))
                self._verified.remember(relative, expected_hash, identity)
            return data
        raise self._missing(relative)

    def path_of(self, relative: str) -> Path:
        """Give the path at which a file can be opened."""
        path = self._settled(relative)
        if self._waited_for(path, relative):
            return path
        aside = self._aside_path(relative)
        for place in (aside, path):
            if _is_file(place):
                return place
        raise self._missing(relative)

    def exists(self, relative: str) -> bool:
        """Tell whether a file is in its own place, so that a caller who has claimed it may refer to it.

        A file that was set aside does not count: the gc that moved it may have read the claims before. It is
        given a second to come back.
        """
        return self._waited_for(self._settled(relative), relative)

    def is_coming_or_there(self, relative: str) -> bool:
        """Like `exists`, but a file that is being written here counts already.

        For references that are committed after a `wait` for that very file, as the recorder does.
        """
        if self._writer.is_pending(relative):
            return True
        path = self._own_place(relative)
        try:
            # A link might lead outside, so that its whole path has to be looked at.
            if stat.S_ISREG(os.lstat(path).st_mode):
                return True
        except OSError:
            pass  # looked for at length below
        return self.exists(relative)

    def verify(self, relative: str, expected_hash: str) -> int:
        """Read a file in pieces and compare its hash, even if that was done before."""
        path = self._settled(relative)
        for place in (path, self._aside_path(relative), path):
            try:
                found, identity = hash_file(place)
            except OSError as exc:
                if exc.errno not in _NOT_THERE:
                    raise
                continue
            self.forget(expected_hash)
            self._check(place, expected_hash, found, identity[1])
            self._verified.remember(relative, expected_hash, identity)
            return identity[1]
        raise self._missing(relative)

    def resolve(self, relative: str) -> Path:
        """Join a stored path to the workspace."""
        return blob_inside(self._root, relative)

    def forget(self, digest: str) -> None:
        """Forget that files of this hash were verified; the next look reads them."""
        self._verified.forget(digest)

    def close(self) -> None:
        """Wait for pending writes and end the threads. A second call does nothing."""
        self._writer.close()

    def after_fork_in_child(self) -> None:
        """Start with nothing pending and new locks; what was verified before the fork stays known."""
        self._verified.after_fork_in_child()
        self._writer.after_fork_in_child()

    # Writing; `_write` runs in the threads of the writer.

    def _write(self, relative: str, digest: str, data: bytes) -> None:
        path = self._own_place(relative)
        for again in (False, True):
            try:
                self._ensure_shard(path.parent, again)
                write_file(path, data, tmp_dir=self._tmp, readonly=True)
                break
            except NirsStoreError as exc:
                # A folder that vanished, or was never made, is made once.
                if again or not isinstance(exc.__cause__, FileNotFoundError):
                    raise
                ensure_dir(self._tmp)
        # A gc may set it aside in this moment; being claimed, it comes back, and is then looked at again.
        with contextlib.suppress(FileNotFoundError):
            self._verified.remember(relative, digest, identity_of(path.stat()))

    def _own_place(self, relative: str) -> Path:
        # A path made of a hash, for a file that is looked at without following links: where it leads is
        # settled by its folder, which is looked at once.
        folder = relative.rpartition("/")[0]
        if folder not in self._inside:
            self.resolve(relative)
            self._inside.add(folder)
        return self._root / relative

    def _ensure_shard(self, folder: Path, again: bool) -> None:
        if not again and folder.name in self._shards:
            return
        ensure_dir(folder, shared=True)
        self._sync_existing(folder.parent)
        self._shards.add(folder.name)

    def _is_intact(self, relative: str, digest: str, size: int) -> bool:
        path = self._own_place(relative)
        try:
            found = os.lstat(path)
            if not stat.S_ISREG(found.st_mode) or found.st_size != size:
                return False
            if self._verified.knows(relative, digest, identity_of(found)):
                return True
            found_hash, identity = hash_file(path)
        except OSError:
            # Missing or unreadable: writing it again heals it, or says why it cannot be.
            return False
        if found_hash != digest:
            return False
        # Another process may have renamed it here and not yet synced the folders; the name must not be able
        # to vanish after this process has committed a reference to it.
        self._sync_existing(path.parent)
        self._sync_existing(self._artifacts)
        self._verified.remember(relative, digest, identity)
        return True

    def _sync_existing(self, folder: Path) -> None:
        try:
            fsync_dir(folder)
        except OSError as exc:
            raise write_error(folder, exc) from exc

    # Looking.

    def _settled(self, relative: str) -> Path:
        path = self.resolve(relative)
        self._writer.wait_for_file(relative)
        return path

    def _waited_for(self, path: Path, relative: str) -> bool:
        aside = self._aside_path(relative)
        deadline = time.monotonic() + _ASIDE_PATIENCE
        while not _is_file(path):
            if not _is_file(aside):
                # It may have come back between the two looks.
                return _is_file(path)
            if time.monotonic() > deadline:
                return False
            time.sleep(_ASIDE_POLL)
        return True

    def _aside_path(self, relative: str) -> Path:
        return self._aside / aside_name(relative)

    def _check(self, path: Path, expected: str, found: str, size: int) -> None:
        if found != expected:
            raise BlobCorrupt(
                f"{path} is damaged: its {size:,} bytes have the SHA-256 {found}, expected was {expected}. "
                "It was left as it is. Save the same object again to heal it, or run `nirs-store repair`."
            )

    def _missing(self, relative: str) -> BlobMissing:
        return BlobMissing(
            f"{self._root / relative} is missing: neither in its place nor pending deletion in {self._aside}. "
            "Save the same object again to restore it, or restore the file from a backup."
        )


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)
