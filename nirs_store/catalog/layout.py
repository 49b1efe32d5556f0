"""Where everything of a workspace lies."""

from __future__ import annotations

import errno
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from nirs_store.errors import InvalidInput

__all__ = ["Layout", "as_folder"]

# Most file systems take names of so many bytes (those of Windows: characters).
_LONGEST_NAME = 255
# Nothing in a workspace lies deeper below it.
_DEEPEST = "/".join(["x" * 64] * 3)


def as_folder(value: Any, name: str) -> Path:
    """The absolute path of a folder that a caller names.

    Raises
    ------
    InvalidInput
        It is no path, or one that no workspace can have: empty, too long, or no UTF-8, which DuckDB wants.
    """
    try:
        text = os.fspath(value)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise InvalidInput(
            f"{name}: expected the path of a folder (str or Path), found {type(value).__name__} {value!r}. Nothing was "
            "changed."
        )
    if not text or "\0" in text:
        raise InvalidInput(f"{name}: {text!r} cannot be the name of a folder. Nothing was changed.")
    try:
        folder = Path(text).expanduser().absolute()
        str(folder).encode()
    except RuntimeError as error:  # the home of nobody
        raise InvalidInput(
            f"{name}: {text!r} cannot be the name of a folder: {error} Nothing was changed."
        ) from error
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{name}: {text!r} is no UTF-8, as the catalog needs it of every folder above it. Nothing was changed. "
            "Rename the folder."
        ) from error
    if _is_too_long(folder):
        raise InvalidInput(f"{name}: {text!r} is too long for a folder of this system. Nothing was changed.")
    return folder


def _is_too_long(folder: Path) -> bool:
    if any(len(part if os.name == "nt" else part.encode()) > _LONGEST_NAME for part in folder.parts):
        return True
    try:
        os.lstat(folder / _DEEPEST)
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False


class Layout(msgspec.Struct, frozen=True, dict=True):
    """The paths of one workspace folder, each made once: recording asks for some at every call."""

    root: Path

    @cached_property
    def catalog(self) -> Path:
        """The DuckDB file."""
        return self.root / "store.duckdb"

    @cached_property
    def wal(self) -> Path:
        """DuckDB's write-ahead log; present only while the catalog is open or after a crash."""
        return self.root / "store.duckdb.wal"

    @cached_property
    def artifacts(self) -> Path:
        """Blobs, sharded by the first two characters of their hash."""
        return self.root / "artifacts"

    @cached_property
    def journal(self) -> Path:
        """All machinery, in one visible folder."""
        return self.root / "journal"

    @cached_property
    def segments(self) -> Path:
        """Commits not yet applied."""
        return self.journal / "segments"

    @cached_property
    def rejected(self) -> Path:
        """Commits that could not be applied, each with its reason."""
        return self.journal / "rejected"

    @cached_property
    def claims(self) -> Path:
        """One locked file a live session."""
        return self.journal / "claims"

    @cached_property
    def aside(self) -> Path:
        """Blobs that a gc is deciding about."""
        return self.journal / "aside"

    @cached_property
    def tmp(self) -> Path:
        """Unfinished writes."""
        return self.journal / "tmp"

    @cached_property
    def lock(self) -> Path:
        """The lease."""
        return self.journal / "lock"

    @cached_property
    def wait(self) -> Path:
        """Touched by whoever waits for the lease."""
        return self.journal / "wait"

    @cached_property
    def holder(self) -> Path:
        """Who holds the lease, for error messages only."""
        return self.journal / "holder"

    @cached_property
    def reserve(self) -> Path:
        """Space kept back for cleaning up on a full disk."""
        return self.journal / "reserve"

    @cached_property
    def untidied(self) -> Path:
        """A byte for each checkpoint that left small row groups in the catalog; only its size counts."""
        return self.journal / "untidied"

    @cached_property
    def settings(self) -> Path:
        """The workspace's settings as recording calls read them: a copy of the catalog's."""
        return self.journal / "settings.json"

    @cached_property
    def audit_head(self) -> Path:
        """The last entry of the audit trail that was handed out; a check expects it in the catalog."""
        return self.journal / "audit-head.json"

    @cached_property
    def folders(self) -> tuple[Path, ...]:
        """Folders a workspace is made of, parents first."""
        return (
            self.artifacts,
            self.journal,
            self.segments,
            self.rejected,
            self.claims,
            self.aside,
            self.tmp,
        )
