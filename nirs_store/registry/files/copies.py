"""Copies below ``exports/files/`` for programs that read a path: checked each time, made anew where they differ."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from nirs_store.blobs.durable import ensure_dir, move_file, write_error
from nirs_store.blobs.verified import Identity, hash_file, identity_of
from nirs_store.catalog.engine import Engine
from nirs_store.errors import InvalidInput, NirsStoreError
from nirs_store.registry.files.content import FileContent, FolderContent, content_of
from nirs_store.registry.files.intake import listing_hash
from nirs_store.registry.files.places import placed
from nirs_store.registry.files.reading import Row, verified_blob, write_output

__all__ = ["materialised", "remove_copies"]

_WINDOWS = os.name == "nt"
# Of each file, and the empty folders.
State = tuple[tuple[tuple[str, Identity], ...], tuple[str, ...]]
# What each copy was like when its bytes were found to fit, so that a large one is hashed once a process.
_fitting: dict[Path, State] = {}


def materialised(engine: Engine, row: Row) -> Path:
    """Give a path at which the content can be opened by any program.

    That of the blob where it is stored as it is; else that of a copy below ``exports/files/``, which is made anew
    where somebody has altered it.

    Raises
    ------
    BlobMissing, BlobCorrupt, WriteFailed, ReadOnlyStore
    PathEscapes
        The name cannot be made on this system.
    """
    if row["kind"] == "metadata":
        raise InvalidInput(f"{row['name']!r} has metadata only; there is no file of it.")
    if row["kind"] != "folder" and row["compression"] == "none":
        return verified_blob(engine, row)
    target = placed(_folder_of(engine, str(row["content_hash"])), PurePosixPath(row["name"]).name)
    if not _fits(target, row):
        _make(engine, row, target)
    return target


def remove_copies(engine: Engine, hashes: Iterable[str]) -> None:
    """Remove the copies of contents that are gone.

    Raises
    ------
    WriteFailed, ReadOnlyStore
    """
    for digest in hashes:
        place = _folder_of(engine, digest)
        if place.is_dir():
            try:
                _remove(place)
            except OSError as error:
                raise write_error(place, error) from error


def _folder_of(engine: Engine, digest: str) -> Path:
    return engine.layout.root / "exports" / "files" / digest


def _fits(target: Path, row: Row) -> bool:
    """Tell whether a copy holds what was stored: by its hash, once for each state that its files are in."""
    if target.is_symlink():
        return False
    try:
        content = content_of(target, target.name)
        assert isinstance(content, (FileContent, FolderContent))
        files, empty = (
            (content.files, content.empty) if isinstance(content, FolderContent) else ((("", content),), ())
        )
        # Taken before the bytes are read: what changes in between is another state the next time.
        state = tuple((name, identity_of(file.path.stat())) for name, file in files), empty
        if _fitting.get(target) == state:
            return True
        hashes = [(name, hash_file(file.path)[0]) for name, file in files]
    except (InvalidInput, OSError):
        # Not there, something that is never stored, or not to be read.
        return False
    found = listing_hash(hashes, empty) if isinstance(content, FolderContent) else hashes[0][1]
    if found != row["content_hash"]:
        return False
    _fitting[target] = state
    return True


def _make(engine: Engine, row: Row, target: Path) -> None:
    """Write a copy, whole and read-only, in the place of whatever is there."""
    token = secrets.token_hex(8)
    draft, old = (target.parent / f".{target.name[:80]}.{token}.{end}" for end in ("part", "old"))
    ensure_dir(target.parent)
    try:
        write_output(engine, row, draft, inside=False)
        _forbid_writing(draft)
        if draft.is_dir() or target.is_dir() or target.is_symlink():
            # A rename replaces no folder, so it steps aside. It does replace a file: others always see one.
            if _fits(target, row):  # somebody else was faster, and may have handed it out
                return
            with contextlib.suppress(FileNotFoundError):
                target.rename(old)
        move_file(draft, target)
    except OSError as error:
        # Somebody else may have made the same copy in the meantime.
        if not _fits(target, row):
            raise (error if isinstance(error, NirsStoreError) else write_error(target, error)) from error
    finally:
        for left in (draft, old):
            _remove(left, ignore_errors=True)


def _forbid_writing(path: Path) -> None:
    """Take the permission to write from files; folders keep it, or nobody could remove the copy."""
    for each in path.rglob("*") if path.is_dir() else (path,):
        if each.is_file():
            each.chmod(stat.S_IMODE(each.stat().st_mode) & ~0o222)


def _allow_writing(path: Path) -> None:
    for each in path.rglob("*") if path.is_dir() else (path,):
        if each.is_file() and not each.is_symlink():
            each.chmod(stat.S_IREAD | stat.S_IWRITE)


def _remove(path: Path, *, ignore_errors: bool = False) -> None:
    try:
        if not os.path.lexists(path):
            return
        if _WINDOWS:
            # Windows deletes no read-only file.
            _allow_writing(path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:
        if not ignore_errors:
            raise
