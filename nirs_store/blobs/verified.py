"""What this process has verified: a file is hashed once, and again only if it is no longer the same file."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

__all__ = ["Identity", "VerifiedFiles", "hash_file", "identity_of"]

# Modification time in ns, size, inode: a file for which these did not change was not written to.
Identity = tuple[int, int, int]

_PIECE = 1 << 20


class VerifiedFiles:
    """Thread-safe memory of the files whose bytes were found to fit their hash."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, dict[str, Identity]] = {}

    def knows(self, relative: str, digest: str, identity: Identity) -> bool:
        """Tell whether this very file was verified against this hash."""
        with self._lock:
            return self._known.get(digest, {}).get(relative) == identity

    def remember(self, relative: str, digest: str, identity: Identity) -> None:
        """Note that the file fits."""
        with self._lock:
            self._known.setdefault(digest, {})[relative] = identity

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
