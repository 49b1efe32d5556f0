"""A blob in the making: bytes come in pieces, are hashed while they are written, and get their name last.

What `write_file` does for content that fits in memory is done here in steps: make, write, sync, and then
`BlobStore.adopt` renames. Memory stays that of one piece, however large the file.
"""

# Plain system calls on purpose, as in `durable`.

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path
from typing import Self

from nirs_store.blobs.durable import Buffer, remove_file, write_error
from nirs_store.errors import NirsStoreError

__all__ = ["Draft"]

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_PIECE = 1 << 26


class Draft:
    """An unfinished blob; has what writers of compressed streams ask of a file: `write`, `flush`, `tell`.

    Parameters
    ----------
    folder : Path
        Folder of unfinished files, on the file system of the blobs.

    Attributes
    ----------
    path : Path
        The file.
    size : int
        Bytes written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"draft-{secrets.token_hex(12)}.tmp"
        self.size = 0
        self._hash = hashlib.sha256()
        try:
            self._descriptor: int | None = os.open(self.path, _CREATE, 0o444)
        except OSError as error:
            raise write_error(self.path, error) from error

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes written so far."""
        return self._hash.hexdigest()

    # What file-like writers look for.
    closed = False

    def writable(self) -> bool:
        """It is."""
        return True

    def readable(self) -> bool:
        """It is not."""
        return False

    def seekable(self) -> bool:
        """It is not: the hash goes on as the bytes come."""
        return False

    def flush(self) -> None:
        """Do nothing: every piece is written at once."""

    def tell(self) -> int:
        """Give the bytes written."""
        return self.size

    def write(self, piece: Buffer) -> int:
        """Append a piece.

        Raises
        ------
        WriteFailed, ReadOnlyStore
        """
        view = memoryview(piece).cast("B") if len(piece) else memoryview(b"")
        count = view.nbytes
        self._hash.update(view)
        assert self._descriptor is not None
        try:
            while view.nbytes:
                view = view[os.write(self._descriptor, view[:_PIECE]) :]
        except OSError as error:
            raise write_error(self.path, error) from error
        self.size += count
        return count

    def finish(self) -> Self:
        """Sync and close the file; nothing can be written any more.

        Raises
        ------
        WriteFailed
        """
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            try:
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as error:
                raise write_error(self.path, error) from error
        return self

    def discard(self) -> None:
        """Remove the file, if it is still there."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        # A leftover is swept later; what led here is what the caller must hear.
        with contextlib.suppress(NirsStoreError):
            remove_file(self.path, missing_ok=True)
