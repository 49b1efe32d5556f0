"""What this process has verified: a file is hashed once, and again only if it is no longer the same file."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from pathlib import Path

__all__ = ["Identity", "VerifiedFiles", "hash_file", "identity_of"]

# Modification time in ns, size, inode: a file for which these did not change was not written to.
Identity = tuple[int, int, int]

_PIECE = 1 << 20


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
    with path.open("rb") as file:
        identity = identity_of(os.fstat(file.fileno()))
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest(), identity
