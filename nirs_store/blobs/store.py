"""The store of blobs: immutable bytes whose name is their SHA-256, written once, verified, and healed when saved again.

It knows hashes and endings; where the bytes lie only its backend knows.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from nirs_store.blobs.backend import BLOBS, BlobBackend, hash_blob, open_blob
from nirs_store.blobs.cache import ByteLRU
from nirs_store.blobs.durable import Draft, ensure_dir
from nirs_store.errors import (
    BlobCorrupt,
    BlobMissing,
    BlobUnreadable,
    InvalidInput,
    NirsStoreError,
    SharedStoreUnreachable,
    StoreClosed,
)
from nirs_store.ids import sha256_hex

__all__ = [
    "BackgroundWriter",
    "BlobInfo",
    "BlobStore",
    "blob_key",
    "check_hash",
    "check_suffix",
    "is_blob_key",
    "token_of",
]


T = TypeVar("T")

# -- Names of blobs.

_HASH = re.compile(r"[0-9a-f]{64}")
_STEM = re.compile(r"([0-9a-f]{64})(?:~([0-9]{1,6}))?(?:\.|$)")
_SUFFIX = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


def check_hash(digest: str) -> str:
    """Return `digest` if it is a SHA-256 in lower-case hexadecimal."""
    if _HASH.fullmatch(str(digest)) is None:
        raise InvalidInput(f"{digest!r} is not a SHA-256: 64 lower-case hexadecimal digits were expected.")
    return digest


def check_suffix(suffix: str) -> str:
    """Return a file name ending without its dot."""
    bare = suffix.removeprefix(".")
    if _SUFFIX.fullmatch(bare) is None:
        raise InvalidInput(
            f"{suffix!r} is not a usable file name suffix: lower-case letters, digits, '_' or '-' were expected."
        )
    return bare


def blob_key(digest: str, suffix: str, generation: int = 0) -> str:
    """Return the key of a blob: ``artifacts/ab/<hash>.<suffix>``; of a later generation ``<hash>~1.<suffix>``."""
    check_hash(digest)
    later = f"~{generation}" if generation else ""
    return f"{BLOBS}{digest[:2]}/{digest}{later}.{check_suffix(suffix)}"


def is_blob_key(key: str) -> bool:
    """Tell whether a key is made of a hash, whatever its suffix."""
    return token_of(key)[0] != key


def token_of(key: str) -> tuple[str, int]:
    """Return what is claimed of a key, its hash, and its generation; a name of the user's own is claimed as it is."""
    name = key.rpartition("/")[2]
    found = _STEM.match(name)
    if found is None or key != f"{BLOBS}{found[1][:2]}/{name}":
        return key, 0
    return found[1], int(found[2] or 0)


# -- Writes blobs in the background, and gives account of every one of them.


THREADS = 4
MAX_PENDING_BYTES = 64 * 1024 * 1024


class _Write(msgspec.Struct, eq=False):
    key: str
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

    def is_pending(self, key: str) -> bool:
        """Tell whether a file is queued, being written, or failed and waiting for another try."""
        with self._changed:
            return key in self._pending

    def submit(self, key: str, digest: str, data: bytes) -> None:
        """Queue a file; a failed write of the same file is tried again instead."""
        with self._changed:
            self._check_open()
            if not self._retry_known(key):
                self._make_room(len(data))
                # The room was waited for without the lock: another thread may have brought the same file meanwhile.
                if not self._retry_known(key):
                    entry = _Write(key, digest, data)
                    self._pending[key] = entry
                    self._bytes += len(data)
                    self._start(entry)

    def retry_if_pending(self, key: str) -> bool:
        """Tell whether a file is pending; if its write failed, try again in the background."""
        with self._changed:
            return self._retry_known(key)

    def wait(self, digests: Iterable[str] | None = None) -> None:
        """Return when the files of these hashes (None: all files) are durable.

        What failed before is tried once more.
        """
        wanted = None if digests is None else {digests} if isinstance(digests, str) else set(digests)
        with self._changed:
            self._settle([e for e in self._pending.values() if wanted is None or e.digest in wanted])

    def wait_for_file(self, key: str) -> None:
        """Like `wait`, for one file."""
        with self._changed:
            entry = self._pending.get(key)
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

    def begin(self, call: Callable[[], T]) -> Callable[[], T]:
        """Call something in a thread of the writer."""
        with self._changed:
            self._check_open()
            try:
                return self._threads().submit(call).result
            except RuntimeError:
                return call  # the interpreter is ending and takes no new work for threads

    # The methods below are called with the lock held.

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="nirs-store-blobs")
        return self._pool

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed()

    def _retry_known(self, key: str) -> bool:
        entry = self._pending.get(key)
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
        try:
            self._threads().submit(self._run, entry)
        except RuntimeError:
            # The interpreter is ending and takes no new work for threads: do it here and now.
            self._finish(entry, self._attempt(entry))

    def _finish(self, entry: _Write, error: Exception | None) -> None:
        if error is None:
            entry.state = "done"
            if self._pending.get(entry.key) is entry:
                del self._pending[entry.key]
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
            self._write(entry.key, entry.digest, entry.data)
        except Exception as exc:  # noqa: BLE001 (raised in the call that waits for this file)
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


# -- The store itself.

# Blobs whose state is remembered once they were found to fit their hash: a training loop makes millions.
_VERIFIED = 20_000
_ASIDE_PATIENCE = 1.0
_ASIDE_POLL = 0.005


class BlobInfo(msgspec.Struct, frozen=True):
    """Where a blob is, as told by `BlobStore.put`."""

    artifact_id: str
    path: str
    size: int
    written: bool
    """False when it was there already; True also in an object store, which is asked later."""


class BlobStore:
    """Content-addressed blobs of one workspace.

    Saving is asynchronous: `put` queues the bytes, `wait` returns when they are durable. Every method that
    looks at a blob first waits for its write, if one is under way here, and raises
    `WriteFailed` if that failed.
    """

    def __init__(
        self,
        backend: BlobBackend,
        *,
        max_pending_bytes: int = MAX_PENDING_BYTES,
        generation: Callable[[str], int] = lambda digest: 0,
    ) -> None:
        self.backend = backend
        self._generation = generation
        # By hash: the states of its objects, so that each is hashed once, and again only if it is no longer the same.
        self._verified: ByteLRU[str, dict[str, Hashable]] = ByteLRU(0, _VERIFIED)
        # Keys that were asked for and not found: their first write does not ask again.
        self._absent: set[str] = set()
        self._writer = BackgroundWriter(self._write, max_pending_bytes)

    @property
    def pending_bytes(self) -> int:
        """Bytes that are not durable yet."""
        return self._writer.pending_bytes

    # -- saving ------------------------------------------------------------------------------

    def put(
        self,
        data: bytes | bytearray | memoryview,
        suffix: str,
        *,
        digest: str | None = None,
        absent: bool = False,
    ) -> BlobInfo:
        """Store bytes under their own hash, unless an intact object holds them already.

        `absent` says that the caller has just looked for them and found none.

        An existing object is checked by its size each time and by its hash once in this process; a wrong or
        vanished one is written again. Where objects are far away that is done in the background, too.
        """
        content = data if isinstance(data, bytes) else bytes(data)
        digest = digest or sha256_hex(content)
        key = self.key_of(digest, suffix)
        written = True
        if not self._writer.retry_if_pending(key):
            if not self.backend.far and self.is_intact(key, digest, len(content)):
                written = False
            else:
                if absent:
                    self._absent.add(key)
                self._writer.submit(key, digest, content)
        return BlobInfo(digest, key, len(content), written)

    def key_of(self, digest: str, suffix: str) -> str:
        """Return the key under which a blob that was claimed is to be saved."""
        return blob_key(digest, suffix, self._generation(digest))

    def asking(self, look: Callable[[], T]) -> Callable[[], T]:
        """Begin to ask the backend; the answer is waited for when the result is called."""
        # The caller has something else to wait for meanwhile.
        return self._writer.begin(look) if self.backend.far else look

    def draft(self) -> Draft:
        """Begin a blob whose bytes come in pieces and whose name is known at their end; see `adopt`."""
        ensure_dir(self.backend.scratch)
        return Draft(self.backend.scratch)

    def adopt(self, drafts: Sequence[tuple[Draft, str]]) -> list[BlobInfo]:
        """Make finished drafts the blobs of their hashes, unless intact objects hold the same bytes already.

        After a failure, drafts that were not put are still there; those that were are blobs that no row names.
        """
        found, fresh = [], {}
        for draft, suffix in drafts:
            key = self.key_of(draft.digest, suffix)
            self._writer.wait_for_file(key)
            written = not self.is_intact(key, draft.digest, draft.size)
            if written:
                fresh[key] = draft.path
            found.append(BlobInfo(draft.digest, key, draft.size, written))
        self.backend.put(fresh)
        for info, (draft, _) in zip(found, drafts, strict=True):
            if info.written:
                self._remember_put(info.path, info.artifact_id)
            draft.discard()
        return found

    def wait(self, hashes: Iterable[str] | None = None) -> None:
        """Return when the blobs of these hashes (None: all) are durable; what failed before is tried again."""
        self._writer.wait(hashes)

    def _write(self, key: str, digest: str, data: bytes) -> None:  # in a thread of the writer
        absent = key in self._absent
        self._absent.discard(key)
        if self.backend.far and not absent and self.is_intact(key, digest, len(data)):
            return
        self.backend.put({key: data})
        if not self.backend.far:
            self._remember_put(key, digest)

    def _remember_put(self, key: str, digest: str) -> None:
        # A gc may move it to the trash at this moment; being claimed, it comes back, and is then looked at again.
        found = self.backend.stat(key)
        if found is not None:
            self._remember(key, digest, found.state)

    def is_intact(self, key: str, digest: str, size: int) -> bool:
        """Tell whether a blob is there, durable, and fits its hash, which is compared once in this process."""
        try:
            found = self.backend.stat(key)
            if found is None or found.state is None or found.size != size:
                return False
            if self._knows(key, digest, found.state):
                return True
            found_hash, found = hash_blob(self.backend, key, trashed=False)
        except SharedStoreUnreachable:
            raise
        except OSError:
            # Missing or unreadable: writing it again heals it, or says why it cannot be.
            return False
        if found_hash != digest:
            return False
        # The name must not be able to vanish after this process has committed a reference to it.
        self.backend.sync(key)
        self._remember(key, digest, found.state)
        return True

    # -- looking -----------------------------------------------------------------------------

    def read(self, key: str, expected_hash: str) -> bytes:
        """Read a blob, verified against its hash once in this process for as long as it is the same object."""
        self._writer.wait_for_file(key)
        try:
            file, found = open_blob(self.backend, key)
            with file:
                data = file.read()
        except FileNotFoundError as exc:
            raise self._missing(key) from exc
        except NirsStoreError:
            raise
        except OSError as exc:
            raise BlobUnreadable(
                f"{exc.filename or self.backend.address(key)} cannot be read: {exc.strerror or exc}. Nothing was "
                "changed. Look at its permissions and at the disk, and ask again."
            ) from exc
        if not self._knows(key, expected_hash, found.state):
            self._check(key, expected_hash, sha256_hex(data), len(data))
            self._remember(key, expected_hash, found.state)
        return data

    def verify(self, key: str, expected_hash: str) -> int:
        """Read a blob in pieces and compare its hash, even if that was done before; give its size."""
        return self._verify(key, expected_hash, fresh=True)

    def _verify(self, key: str, expected_hash: str, *, fresh: bool) -> int:
        self._writer.wait_for_file(key)
        try:
            digest, found = hash_blob(self.backend, key, fresh=fresh)
        except FileNotFoundError as exc:
            raise self._missing(key) from exc
        self.forget(expected_hash)
        self._check(key, expected_hash, digest, found.size)
        self._remember(key, expected_hash, found.state)
        return found.size

    def path_of(self, key: str, verified_hash: str | None = None) -> Path:
        """Return a local file with the bytes of a blob, compared with a hash now or before in this process."""
        trashed = not self.exists(key)
        if trashed and self.backend.stat(key, trashed=True) is None:
            if self.backend.stat(key) is None:
                raise self._missing(key)
            trashed = False  # it has come back in between
        if verified_hash is not None:
            found = self.backend.stat(key, trashed=trashed)
            if found is None or not self._knows(key, verified_hash, found.state):
                # The caller may pass a local copy, and then that copy counts.
                self._verify(key, verified_hash, fresh=False)
        return self.backend.path(key, trashed=trashed)

    def exists(self, key: str) -> bool:
        """Tell whether a blob is in its own place, so that a caller who has claimed it may refer to it.

        One in the trash does not count: the gc that moved it may have read the claims before. It is
        given a second to come back.
        """
        self._writer.wait_for_file(key)
        if not self.is_current(key):
            return False
        deadline = time.monotonic() + _ASIDE_PATIENCE
        while self.backend.stat(key) is None:
            if self.backend.stat(key, trashed=True) is None:
                # It may have come back between the two looks.
                return self.backend.stat(key) is not None
            if time.monotonic() > deadline:
                return False
            time.sleep(_ASIDE_POLL)
        return True

    def is_coming_or_there(self, key: str) -> bool:
        """Like `exists`, but a blob that is being written here counts already.

        For references that are committed after a `wait` for that very blob, as the recorder does.
        """
        return (self._writer.is_pending(key) and self.is_current(key)) or self.exists(key)

    def is_current(self, key: str) -> bool:
        """Tell whether a gc has not given the key up, as the claim of its token said."""
        token, generation = token_of(key)
        return generation >= self._generation(token)

    def forget(self, digest: str) -> None:
        """Forget that blobs of this hash were verified; the next look reads them."""
        self._verified.remove(digest)

    def close(self) -> None:
        """Wait for pending writes and end the threads. A second call does nothing."""
        self._writer.close()

    def after_fork_in_child(self) -> None:
        """Start with nothing pending and new locks; what was verified before the fork stays known."""
        self._writer.after_fork_in_child()

    def _knows(self, key: str, digest: str, state: Hashable) -> bool:
        return state is not None and self._verified.get(digest, {}).get(key) == state

    def _remember(self, key: str, digest: str, state: Hashable) -> None:
        # What two threads remember at once of two keys is in part hashed again, no more.
        self._verified.put(digest, {**self._verified.get(digest, {}), key: state}, 0)

    def _check(self, key: str, expected: str, found: str, size: int) -> None:
        if found != expected:
            raise BlobCorrupt(
                f"{self.backend.address(key)} is damaged: its {size:,} bytes have the SHA-256 {found}, expected was "
                f"{expected}. It was left as it is. Save the same object again to heal it, or run `nirs-store repair`."
            )

    def _missing(self, key: str) -> BlobMissing:
        return BlobMissing(
            f"{self.backend.address(key)} is missing: neither in its place nor pending deletion. "
            "Save the same object again to restore it, or restore the file from a backup."
        )
