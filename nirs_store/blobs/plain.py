"""Opening files in a folder that others may write to: regular files only, and never out of the folder.

A workspace may come from a stranger, or lie where a whole group may write. A link in the place of a file would send
what is written there to a file of the user's; a pipe would make the reader wait for ever.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from nirs_store.errors import PathEscapes

_WINDOWS = os.name == "nt"
_FLAGS = (
    getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0)
    # Opening a pipe to read it waits for a writer otherwise.
    | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
)  # fmt: skip
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def stat_plain(path: Path, *, follow: bool = False) -> os.stat_result:
    """Return the stat of a regular file."""
    found = os.stat(path) if follow else os.lstat(path)
    _require_regular(found, path)
    return found


def _require_regular(found: os.stat_result, path: Path) -> None:
    # On Windows junctions lead elsewhere, too; they are reparse points, like links.
    if stat.S_ISLNK(found.st_mode) or getattr(found, "st_reparse_tag", None):
        raise OSError(errno.ELOOP, "it is a symbolic link, which is not followed", str(path))
    if not stat.S_ISREG(found.st_mode):
        kind = next((words for test, words in _KINDS if test(found.st_mode)), "not a regular file")
        raise OSError(errno.EISDIR if kind == "a folder" else errno.EEXIST, f"it is {kind}", str(path))


def open_plain(path: Path, flags: int, mode: int = 0o666, *, follow: bool = False) -> int:
    """Open a regular file as `os.open` does; errors as for `stat_plain`.

    A file that is made gets the rights of its folder's group, see `share`. With `follow`, the caller has settled
    where links lead.
    """
    # Looked at before: opening a device may set it going.
    with contextlib.suppress(FileNotFoundError):
        stat_plain(path, follow=follow)
    descriptor = os.open(path, flags | _FLAGS | (0 if follow else _NO_LINK), mode)
    try:
        _require_regular(os.fstat(descriptor), path)
        if flags & os.O_CREAT:
            share(descriptor, path.parent)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_plain(path: Path, *, follow: bool = False) -> bytes:
    """Read a regular file whole; errors as for `stat_plain`."""
    with os.fdopen(open_plain(path, os.O_RDONLY, follow=follow), "rb") as file:
        return file.read()


def pieces_of(path: Path) -> Iterator[bytes]:
    """Read a file in pieces of 1 MB."""
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece


def replace_plain(path: Path, data: bytes) -> None:
    """Write a small file again, without a sync; a link or another name of the old file is left as it is."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    descriptor = open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def touch_plain(path: Path) -> None:
    """Set the time of a file, and make it if it is missing; errors as for `stat_plain`."""
    descriptor = open_plain(path, os.O_WRONLY | os.O_CREAT)
    try:
        os.utime(path if _WINDOWS else descriptor)
    finally:
        os.close(descriptor)


def share(place: int | Path, folder: Path) -> None:
    """Give a new file or folder the rights that its folder gives to the group and to others.

    Only where the folder says that it is shared: the group may write there, or hands itself on (setgid). One
    user's umask would keep the others out of what he makes.
    """
    if _WINDOWS:
        return
    above = os.stat(folder)
    if not above.st_mode & (stat.S_IWGRP | stat.S_ISGID) or above.st_mode & stat.S_ISVTX:
        return
    found = os.stat(place)
    # With the group's rights go those of others, if they may write there as well.
    others = stat.S_IRWXO if above.st_mode & stat.S_IWOTH else 0
    wanted = above.st_mode & (stat.S_IRWXG | others)
    if stat.S_ISDIR(found.st_mode):
        wanted |= above.st_mode & stat.S_ISGID
    else:
        wanted &= ~(stat.S_IXGRP | stat.S_IXOTH)
        if not found.st_mode & stat.S_IWUSR:
            wanted &= ~(stat.S_IWGRP | stat.S_IWOTH)
    # The file is of use without: its owner has it, and the others are told that they may not.
    if found.st_gid != above.st_gid:
        with contextlib.suppress(OSError):
            os.chown(place, -1, above.st_gid)
            found = os.stat(place)
    if found.st_gid != above.st_gid:
        wanted &= stat.S_IRWXO
    if wanted & ~found.st_mode:
        with contextlib.suppress(OSError):
            os.chmod(place, stat.S_IMODE(found.st_mode) | wanted)


# -- What tells one state of a file from another.

# Modification time in ns, size, inode: a file for which these did not change was not written to.
Identity = tuple[int, int, int]


def identity_of(found: os.stat_result) -> Identity:
    """Take from a stat what tells one state of a file from another."""
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def hash_file(path: Path) -> str:
    """Hash a regular file; where links lead was settled when the path was resolved."""
    with os.fdopen(open_plain(path, os.O_RDONLY, follow=True), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- The guard that keeps every stored path inside its workspace.

# A user may register files anywhere else in the workspace; artifacts/ is where the store puts its own.
_MACHINERY = re.compile(r"(journal|store\.duckdb.*)$", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:")


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
