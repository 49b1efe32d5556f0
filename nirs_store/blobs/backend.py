"""What the store of blobs asks of the place where the bytes lie; see docs/design/blobs.md.

A key is a path below the workspace with ``/`` between its parts, as the column ``artifact_path`` has it. Only a
backend knows where that is. An object is whole or absent, and its key names one content, so a second put
brings the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple, Protocol

from nirs_store.blobs.durable import Buffer

BLOBS = "artifacts/"
"""What the keys of the store's own blobs begin with; a user may register others."""

# A gc may be moving a blob from the first place to the second, or back.
_PLACES = (False, True, False)


class BlobStat(NamedTuple):
    """The facts about an object that need no reading."""

    size: int
    modified: float
    """Seconds since 1970."""
    state: Hashable
    """Differs from that of any other content the key ever had; None where that cannot be known, as behind a link."""


class BlobBackend(Protocol):
    """Where blobs lie: objects by key, and a trash for those that a gc is deciding about.

    Reading raises `FileNotFoundError` for what is not there and `OSError` for what cannot be read; changing raises
    `WriteFailed` or `ReadOnlyStore`. A key that leads out of the workspace raises `PathEscapes`. Safe to use from
    many threads and processes. With `trashed`, a call means the object of that key in the trash.
    """

    @property
    def scratch(self) -> Path:
        """A local folder, made if need be by the caller, for files that are to be put."""

    @property
    def far(self) -> bool:
        """Whether looking at an object takes so long that saving one must not wait for it."""

    def put(self, objects: Mapping[str, Buffer | Path], /) -> None:
        """Make objects of these bytes or finished files, which are moved, unless they are there; replace damaged ones.

        Each comes whole or not at all, and is durable on return. Putting again does no harm.
        """

    def open(
        self, key: str, /, *, trashed: bool = False, fresh: bool = False
    ) -> tuple[BufferedIOBase, BlobStat]:
        """Open an object to be read from its beginning, with its stat as of then; `fresh` not from a local copy."""

    def stat(self, key: str, /, *, trashed: bool = False) -> BlobStat | None:
        """Look at an object; None when it is not there."""

    def list(self, prefix: str, /, *, trashed: bool = False) -> Iterator[str]:
        """Return the keys that begin with a prefix, in no order; what comes or goes meanwhile may be missed.

        The prefix begins with a folder, as `BLOBS` does; in the trash it may be empty.
        """

    def scan(self, prefix: str, /) -> Iterator[tuple[str, BlobStat]]:
        """Yield the objects whose keys begin with a prefix as `list` does, each with its stat."""

    def sync(self, key: str, /) -> None:
        """Make an object durable that another process may have put a moment ago."""

    def trash(self, keys: Sequence[str], /) -> None:
        """Move objects to the trash, durably; one that is gone is passed over."""

    def restore(self, keys: Sequence[str], /) -> None:
        """Move objects out of the trash, durably; one that was put again meanwhile is dropped from it."""

    def delete(self, keys: Sequence[str], /) -> tuple[int, int]:
        """Delete objects in the trash for good; give how many were there, and their bytes."""

    def path(self, key: str, /, *, trashed: bool = False) -> Path:
        """Return a local file with the bytes of an object, to be mapped or copied: itself, or a copy of it."""

    def address(self, key: str, /) -> str:
        """Say in words of the backend where an object is, for messages."""

    def strays(self) -> Sequence[str]:
        """Name what lies among the blobs or in the trash and is not an object."""


def stat_blob(backend: BlobBackend, key: str) -> BlobStat | None:
    """Look at an object where it belongs, or in the trash."""
    found = (backend.stat(key, trashed=trashed) for trashed in _PLACES)
    return next((each for each in found if each is not None), None)


def open_blob(backend: BlobBackend, key: str, *, fresh: bool = False) -> tuple[BufferedIOBase, BlobStat]:
    """Open an object where it belongs, or in the trash."""
    for trashed in _PLACES:
        with contextlib.suppress(FileNotFoundError):
            return backend.open(key, trashed=trashed, fresh=fresh)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), backend.address(key))


def hash_blob(
    backend: BlobBackend, key: str, *, trashed: bool | None = None, fresh: bool = True
) -> tuple[str, BlobStat]:
    """Hash an object, by default wherever it is, without holding it in memory."""
    if trashed is None:
        file, found = open_blob(backend, key, fresh=fresh)
    else:
        file, found = backend.open(key, trashed=trashed, fresh=fresh)
    with file:
        return hashlib.file_digest(file, "sha256").hexdigest(), found


def sizes(backend: BlobBackend) -> list[int]:
    """Return the bytes of each of the store's own blobs."""
    return [found.size for _, found in backend.scan(BLOBS)]
