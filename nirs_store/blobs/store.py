"""The blob store: immutable files whose name is the SHA-256 of their bytes.

``artifacts/ab/ab12….joblib`` is all there is to it: no header, no compression, no index. Two processes that
cannot see each other agree on the name, ``sha256sum`` checks a file, and ``joblib.load`` opens one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from nirs_store.blobs.draft import Draft
from nirs_store.blobs.durable import ensure_dir, fsync_dir, move_files, write_error, write_file
from nirs_store.blobs.paths import aside_name, check_hash, check_suffix, resolve_inside
from nirs_store.blobs.verified import VerifiedFiles, hash_file, identity_of
from nirs_store.blobs.writer import MAX_PENDING_BYTES, BackgroundWriter
from nirs_store.errors import BlobCorrupt, BlobMissing, BlobUnreadable, NirsStoreError
from nirs_store.ids import sha256_hex

__all__ = ["BlobInfo", "BlobStore"]

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
_ASIDE_PATIENCE = 1.0
_ASIDE_POLL = 0.005


class BlobInfo(msgspec.Struct, frozen=True):
    """Where a blob is, as told by `BlobStore.put`.

    Attributes
    ----------
    artifact_id : str
        SHA-256 of the bytes.
    path : str
        File below the workspace, with forward slashes.
    size : int
        Bytes.
    written : bool
        False if an intact file was there already.
    """

    artifact_id: str
    path: str
    size: int
    written: bool


class BlobStore:
    """Content-addressed files of one workspace.

    Saving is asynchronous: `put` queues the bytes, `wait` returns when they are durable. Every method that
    looks at a file first waits for its write, if one is under way here, and raises
    `WriteFailed` if that failed.

    Parameters
    ----------
    root : Path
        The workspace.
    artifacts_dir : Path
        Folder of the blobs, below `root`.
    aside_dir : Path
        Folder where a gc puts blobs while it decides about them.
    tmp_dir : Path
        Folder of unfinished files, on the same file system.
    max_pending_bytes : int
        Bytes that may wait to be written before `put` blocks.
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

        Parameters
        ----------
        data : bytes-like
            The content.
        suffix : str
            File name ending, with or without a dot.
        digest : str, optional
            SHA-256 of `data`, from a caller that had to claim it before anybody looks for the file.

        Returns
        -------
        BlobInfo
            The file is durable only after `wait`.

        Raises
        ------
        WriteFailed, ReadOnlyStore
            Too many earlier writes failed, and fail again; this blob was not taken.
        StoreClosed
            After `close`.
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
        """Begin a blob whose bytes come in pieces and whose name is known at their end; see `adopt`.

        Raises
        ------
        WriteFailed, ReadOnlyStore
        """
        ensure_dir(self._tmp)
        return Draft(self._tmp)

    def adopt(self, drafts: Sequence[tuple[Draft, str]]) -> list[BlobInfo]:
        """Make finished drafts the blobs of their hashes, unless intact files hold the same bytes already.

        Parameters
        ----------
        drafts : sequence of (Draft, str)
            Each with its file name ending.

        Returns
        -------
        list of BlobInfo
            The files are durable, and the drafts are gone.

        Raises
        ------
        WriteFailed, ReadOnlyStore
            Drafts that had not got their name are still there; those that had are blobs that no row names.
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
        """Give the path of a file whose bytes were compared with their hash, now or before in this process.

        Raises
        ------
        BlobMissing, BlobCorrupt
            As for `read`.
        """
        path = self.path_of(relative)
        if not self._verified.knows(relative, expected_hash, identity_of(path.stat())):
            self.verify(relative, expected_hash)
        return path

    def wait(self, hashes: Iterable[str] | None = None) -> None:
        """Return when the blobs of these hashes (None: all) are durable; what failed before is tried again.

        Raises
        ------
        WriteFailed, ReadOnlyStore
            At least one is not on disk. Its bytes are kept, and the next `wait` or `put` tries again.
        """
        self._writer.wait(hashes)

    def read(self, relative: str, expected_hash: str) -> bytes:
        """Read a file, verified against its hash once in this process for as long as it is the same file.

        Raises
        ------
        BlobMissing
            It is neither in its place nor set aside.
        BlobCorrupt
            Its bytes are others than the hash says.
        BlobUnreadable
            The system refuses.
        """
        path = self._settled(relative)
        # A gc may be moving it from the first place to the second, or back.
        for place in (path, self._aside_path(relative), path):
            try:
                with place.open("rb") as file:
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
        """Give the path at which a file can be opened.

        Raises
        ------
        BlobMissing
            There is no such file.
        """
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
        """Read a file in pieces and compare its hash, even if that was done before.

        Returns
        -------
        int
            Its size in bytes.

        Raises
        ------
        BlobMissing, BlobCorrupt
            As for `read`.
        """
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
        """Join a stored path to the workspace.

        Raises
        ------
        PathEscapes
            It leads out of the workspace.
        """
        return resolve_inside(self._root, relative)

    def forget(self, digest: str) -> None:
        """Forget that files of this hash were verified; the next look reads them."""
        self._verified.forget(digest)

    def close(self) -> None:
        """Wait for pending writes and end the threads. A second call does nothing.

        Raises
        ------
        WriteFailed, ReadOnlyStore
            Something could not be written; the store stays open and keeps the bytes.
        """
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
        # A gc may set it aside in this moment; being claimed, it comes back, and is then looked at anew.
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
        ensure_dir(folder)
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
            # Missing or unreadable: writing it anew heals it, or says why it cannot be.
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
            f"{self._root / relative} is missing: neither there nor set aside in {self._aside}. "
            "Save the same object again to heal it, or bring the file back from a backup."
        )


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)
