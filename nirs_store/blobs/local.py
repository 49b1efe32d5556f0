"""Blobs as plain files of a workspace folder: ``artifacts/ab/ab12….joblib``, no header, no compression, no index.

Two processes that cannot see each other agree on the name, ``sha256sum`` checks a file, and ``joblib.load`` opens
one. What a gc decides about lies in a folder of its own under its whole key.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedIOBase
from pathlib import Path
from urllib.parse import quote, unquote

from nirs_store.blobs.backend import BLOBS, BlobStat
from nirs_store.blobs.durable import (
    Buffer,
    ensure_dir,
    fsync_dir,
    move_file,
    move_files,
    remove_file,
    remove_files,
    write_error,
    write_file,
)
from nirs_store.blobs.plain import blob_inside, identity_of, open_plain, stat_plain
from nirs_store.errors import NirsStoreError, PathEscapes

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
# A key that is made of a hash: where it leads is settled by its folder.
_OWN = re.compile(r"artifacts/[0-9a-f]{2}/[0-9a-f]{64}\.[a-z0-9_-]+")


def aside_name(key: str) -> str:
    """Name of a blob's file in the trash: its whole key, in one piece."""
    # By parts, because `quote` is quick with what has nothing to quote.
    return "%2F".join(quote(part, safe="") for part in key.split("/"))


class LocalFolder:
    """The blobs of one workspace folder; a `BlobBackend`."""

    far = False

    def __init__(self, root: Path, *, trash: Path, scratch: Path) -> None:
        self._root = root
        self._trash = trash
        self.scratch = scratch
        # Folders that are known to be there, and folders whose path was found to stay inside.
        self._made: set[Path] = set()
        self._inside: set[str] = set()

    # -- putting -----------------------------------------------------------------------------

    def put(self, objects: Mapping[str, Buffer | Path], /) -> None:
        """Write or move files into their places."""
        moves = []
        for key, source in objects.items():
            path = self._place(key)
            if isinstance(source, Path):
                # Looked at each time: the folder may have vanished after it was made.
                self._make_folder(path.parent, again=not path.parent.is_dir())
                moves.append((source, path))
            else:
                self._write(path, source)
        move_files(moves)

    def _write(self, path: Path, data: Buffer) -> None:
        for again in (False, True):
            try:
                self._make_folder(path.parent, again=again)
                write_file(path, data, tmp_dir=self.scratch, readonly=True)
                return
            except NirsStoreError as exc:
                # A folder that vanished, or was never made, is made once.
                if again or not isinstance(exc.__cause__, FileNotFoundError):
                    raise
                ensure_dir(self.scratch)

    def _make_folder(self, folder: Path, *, again: bool) -> None:
        if not again and folder in self._made:
            return
        ensure_dir(folder, shared=True, certain=True)
        self._made.add(folder)

    def sync(self, key: str, /) -> None:
        """Sync the folders: another process may have renamed the file into them and not come to that yet."""
        folder = self._place(key).parent
        _sync(folder)
        _sync(folder.parent)

    # -- looking -----------------------------------------------------------------------------

    def open(
        self, key: str, /, *, trashed: bool = False, fresh: bool = False
    ) -> tuple[BufferedIOBase, BlobStat]:
        """Open a regular file."""
        path = self.path(key, trashed=trashed)
        try:
            descriptor = open_plain(path, os.O_RDONLY, follow=True)
        except OSError as exc:
            if exc.errno in _NOT_THERE:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from exc
            raise
        file = os.fdopen(descriptor, "rb")
        return file, _stat_of(os.fstat(descriptor))

    def stat(self, key: str, /, *, trashed: bool = False) -> BlobStat | None:
        """Look at a file; one behind a link that stays inside has no state of its own."""
        path = self._place(key, trashed=trashed)
        try:
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode) and not trashed:
                found = os.stat(blob_inside(self._root, key))
                return _stat_of(found)._replace(state=None) if stat.S_ISREG(found.st_mode) else None
        except OSError:
            return None
        return _stat_of(found) if stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str, /, *, trashed: bool = False) -> Iterator[str]:
        """List regular files; what else lies there is left alone."""
        found = ((unquote(name), ours) for name, ours in self._trashed()) if trashed else self._walk(prefix)
        return (key for key, ours in found if ours and key.startswith(prefix))

    def scan(self, prefix: str, /) -> Iterator[tuple[str, BlobStat]]:
        """Look at each file."""
        return ((key, found) for key in self.list(prefix) if (found := self.stat(key)) is not None)

    def strays(self) -> Sequence[str]:
        """Name links and pipes among the files, and what no gc has put into the trash."""
        trash = self._trash.relative_to(self._root).as_posix()
        there = sorted(key for key, ours in self._walk(BLOBS) if not ours)
        return there + sorted(f"{trash}/{name}" for name, ours in self._trashed() if not ours)

    def path(self, key: str, /, *, trashed: bool = False) -> Path:
        """Return the path of a file, there or not."""
        return self._trash / aside_name(key) if trashed else blob_inside(self._root, key)

    def address(self, key: str, /) -> str:
        """Return the path of a file as text."""
        return str(self._root / key)

    def _place(self, key: str, *, trashed: bool = False) -> Path:
        """Return the path of a file that is not followed if it is a link: its folder is looked at once."""
        if trashed or _OWN.fullmatch(key) is None:
            return self.path(key, trashed=trashed)
        folder = key.rpartition("/")[0]
        if folder not in self._inside:
            blob_inside(self._root, key)
            self._inside.add(folder)
        return self._root / key

    def _walk(self, prefix: str) -> Iterator[tuple[str, bool]]:
        # A path object a file, or a question to the system, takes several times as long as listing the folders does.
        inside = prefix.rpartition("/")[0]
        folders = [(os.path.join(self._root, inside), inside)]
        while folders:
            folder, inside = folders.pop()
            try:
                entries = list(os.scandir(folder))
            except OSError:
                continue  # it is gone, or may not be read
            for entry in entries:
                key = f"{inside}/{entry.name}" if inside else entry.name
                if entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, key))
                else:
                    yield key, entry.is_file(follow_symlinks=False)

    def _trashed(self) -> Iterator[tuple[str, bool]]:
        try:
            names = os.listdir(self._trash)
        except FileNotFoundError:
            return
        for name in names:
            try:
                blob_inside(self._root, unquote(name))
                stat_plain(self._trash / name)
            except (PathEscapes, OSError):
                yield name, False
            else:
                yield name, aside_name(unquote(name)) == name

    # -- the trash ---------------------------------------------------------------------------

    def trash(self, keys: Sequence[str], /) -> None:
        """Rename files into the trash."""
        trash = str(self._trash)
        try:
            for key in keys:
                path = blob_inside(self._root, key)
                with contextlib.suppress(FileNotFoundError):
                    os.replace(path, os.path.join(trash, aside_name(key)))
            fsync_dir(self._trash)
        except OSError as error:
            raise write_error(self._trash, error) from error

    def restore(self, keys: Sequence[str], /) -> None:
        """Rename files back, unless a save that came after the first rename has written them again."""
        for key in keys:
            waiting, target = self.path(key, trashed=True), blob_inside(self._root, key)
            ensure_dir(target.parent, shared=True)
            if target.exists():
                remove_file(waiting, missing_ok=True)
            else:
                with contextlib.suppress(FileNotFoundError):
                    move_file(waiting, target)
        _sync(self._trash)

    def delete(self, keys: Sequence[str], /) -> tuple[int, int]:
        """Delete files in the trash, many of them several at a time."""
        freed = remove_files([self.path(key, trashed=True) for key in keys])
        _sync(self._trash)
        return freed


def _stat_of(found: os.stat_result) -> BlobStat:
    return BlobStat(found.st_size, found.st_mtime, identity_of(found))


def _sync(folder: Path) -> None:
    try:
        fsync_dir(folder)
    except OSError as exc:
        raise write_error(folder, exc) from exc
