"""Where everything of a workspace lies."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import stat
import sys
import threading
import warnings
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from nirs_store.addresses import refuse_address, without_secrets
from nirs_store.blobs.backend import BlobBackend
from nirs_store.blobs.durable import ensure_dir, fsync_dir, move_file
from nirs_store.blobs.local import LocalFolder
from nirs_store.blobs.plain import replace_plain, share
from nirs_store.errors import CatalogDamaged, InvalidInput, NotAWorkspace, PathEscapes, ReadOnlyStore
from nirs_store.lazy import hold_while_forking

if TYPE_CHECKING:
    from nirs_store.blobs.places import WorkspacePlaces

# -- What kind of file system a folder lies on: locks and syncs of a network share are its server's affair.


# As Linux and macOS name them.
_NETWORK = re.compile(
    r"nfs[34]?|cifs|smb[23]?|smbfs|afs|afpfs|9p|ncpfs|webdav|davfs|ceph|glusterfs|lustre|beegfs|gpfs|orangefs|pvfs2"
    r"|ocfs2|gfs2|virtiofs|vboxsf|fuse\.(sshfs|rclone|s3fs|gcsfuse|goofys|blobfuse2?|davfs2?|glusterfs|ceph.*|moosefs|mfs"
    r"|juicefs|smbnetfs|curlftpfs)"
)
_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-7]{3})")
_told: set[Path] = set()
_mutex = threading.Lock()
hold_while_forking(_mutex)


def network_filesystem(folder: Path) -> str | None:
    """Name of the network file system that a folder lies on; None on a local one, or when it cannot be known."""
    try:
        if sys.platform == "win32":
            return _windows(folder)
        name = (
            _macos(folder) if sys.platform == "darwin" else _mounted(_MOUNTS.read_bytes(), folder.resolve())
        )
    except (OSError, AttributeError, ValueError):
        return None
    return name if _NETWORK.fullmatch(name) else None


def warn_of_network(layout: Layout) -> None:
    """Say once a process and folder what cannot be promised on a network file system."""
    with _mutex:
        if layout.root in _told:
            return
        _told.add(layout.root)
    if layout.network is not None:
        warnings.warn(
            f"{layout.root} is on a network file system ({layout.network}). One computer at a time can use it; "
            "others are refused until the last store here is closed. Processes of this computer are kept apart "
            "only if its file locks work, and a commit is as durable as the server makes a sync. Other computers "
            "can record with inbox=True; or keep the workspace on a local disk.",
            stacklevel=6,
        )


def _mounted(table: bytes, folder: Path) -> str:
    """Type of the mount that a path lies on, from the text of a mountinfo file."""
    best, found = -1, ""
    path = os.fsencode(folder)
    for line in table.splitlines():
        before, _, after = line.partition(b" - ")
        place = _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), before.split(b" ")[4])
        inside = path == place or path.startswith(place.rstrip(b"/") + b"/")
        # Of two mounts on one place the later one is seen.
        if inside and len(place) >= best:
            best, found = len(place), after.split(b" ")[0].decode()
    return found


def _macos(folder: Path) -> str:
    # struct statfs: f_fstypename is at byte 72 where inodes have 64 bits.
    buffer = ctypes.create_string_buffer(4096)
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(folder), buffer):
        return ""
    return buffer.raw[72:88].split(b"\0")[0].decode()


def _windows(folder: Path) -> str | None:
    remote = 4
    anchor = folder.absolute().anchor
    return "a network drive" if ctypes.windll.kernel32.GetDriveTypeW(anchor) == remote else None  # type: ignore[attr-defined,unused-ignore]


# Most file systems take names of so many bytes (those of Windows: characters).
_LONGEST_NAME = 255
# Nothing in a workspace lies deeper below it.
_DEEPEST = "/".join(["x" * 64] * 3)


def as_folder(value: Any, name: str) -> Path:
    """Return the absolute path of a folder that a caller names."""
    try:
        text = os.fspath(value)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise InvalidInput(
            f"{name}: expected the path of a folder (str or Path), found {type(value).__name__} "
            f"{without_secrets(repr(value))[:200]}. Nothing was changed."
        )
    refuse_address(text, name)
    if not text or "\0" in text:
        raise InvalidInput(f"{name}: {text!r} cannot be the name of a folder. Nothing was changed.")
    try:
        folder = Path(text).expanduser().absolute()
        str(folder).encode()
    except RuntimeError as error:  # of a user without a home
        raise InvalidInput(
            f"{name}: {text!r} cannot be the name of a folder: {error} Nothing was changed."
        ) from error
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{name}: {text!r} is not UTF-8, which the catalog needs for every folder above it. Nothing was changed. "
            "Rename the folder."
        ) from error
    # DuckDB takes both for something else than a part of a name.
    strange = next((sign for sign in "?\\" if sign in str(folder) and sign != os.sep), None)
    if strange is not None:
        raise InvalidInput(
            f"{name}: {text!r} holds {strange!r}, which no folder above the catalog may have. Nothing was "
            "changed. Choose another name."
        )
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


def _place(path: str) -> cached_property[Path]:
    return cached_property(lambda layout: layout.root / path)


class Layout(msgspec.Struct, frozen=True, dict=True):
    """The paths of one workspace folder, each made once: recording asks for some at every call."""

    root: Path
    # Where the blobs are if not in the folder.
    remote: BlobBackend | None = None

    # The DuckDB file.
    catalog = _place("store.duckdb")
    # DuckDB's write-ahead log; present only while the catalog is open or after a crash.
    wal = _place("store.duckdb.wal")
    # The folder of blobs, which only `blobs` looks into.
    artifacts = _place("artifacts")
    # All machinery, in one visible folder.
    journal = _place("journal")
    # Commits not yet applied.
    segments = _place("journal/segments")
    # Commits that could not be applied, each with its reason.
    rejected = _place("journal/rejected")
    # One locked file a live session.
    claims = _place("journal/claims")
    # The folder of blobs that a gc is deciding about, which only `blobs` looks into.
    aside = _place("journal/aside")
    # Unfinished writes.
    tmp = _place("journal/tmp")
    # The lock of the catalog.
    lock = _place("journal/lock")
    # Touched by each process that waits for the lock.
    wait = _place("journal/wait")
    # Who holds the lock, for error messages only.
    holder = _place("journal/holder")
    # Space reserved for cleaning up on a full disk.
    reserve = _place("journal/reserve")
    # A byte for each checkpoint that left small row groups in the catalog; only its size counts.
    uncompacted = _place("journal/untidied")
    # How many changes the catalog must hold at least; a smaller count in it means that some were lost.
    change_count = _place("journal/change-count")
    # The workspace's settings as recording calls read them: a copy of the catalog's.
    settings = _place("journal/settings.json")
    # The last entry of the audit trail that was handed out; a check expects it in the catalog.
    audit_head = _place("journal/audit-head.json")

    # On a network file system: which computer works here.
    machine = _place("journal/machine")
    # What nodes that only record have put there, a folder for each of their sessions.
    inbox = _place("inbox")

    # In a replica of a shared workspace: of which one.
    replica = _place("replica.json")
    # Where the blobs are if not in the folder; and names in an object store that are never used again.
    blobs_place = _place("blobs.json")
    condemned = _place("journal/condemned")

    @cached_property
    def blobs(self) -> BlobBackend:
        """Where the blobs lie: here a backend is chosen, and nowhere else."""
        if self.remote is not None:
            return self.remote
        if os.path.lexists(self.blobs_place):
            from nirs_store.blobs.places import remembered_backend

            return remembered_backend(self.blob_places)
        return self.own_blobs

    @cached_property
    def own_blobs(self) -> LocalFolder:
        """The blobs in the folder itself, whatever it says of others."""
        return LocalFolder(self.root, trash=self.aside, scratch=self.tmp)

    @cached_property
    def blob_places(self) -> WorkspacePlaces:
        """What a place for blobs elsewhere needs of the folder."""
        from nirs_store.blobs.places import WorkspacePlaces

        return WorkspacePlaces(
            self.root, self.blobs_place, self.artifacts, self.aside, self.condemned, self.tmp
        )

    @cached_property
    def network(self) -> str | None:
        """Name of the network file system that the workspace is on, None on a local disk."""
        return network_filesystem(self.root)

    @property
    def on_network(self) -> bool:
        """Whether locks are those of a network file system."""
        return self.network is not None

    def holds(self, path: Path) -> bool:
        """Tell whether a path without links lies among the store's own files."""
        root = self.root.resolve()
        return any(path.is_relative_to(root / own.name) for own in (self.artifacts, self.journal))

    @cached_property
    def folders(self) -> tuple[Path, ...]:
        """Folders a workspace is made of, parents first."""
        journal = (self.journal, self.segments, self.rejected, self.claims, self.aside, self.tmp)
        return self.artifacts, *journal


def size_of(path: Path) -> int:
    """Return the size of a file, 0 where it is gone or cannot be looked at."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def share_log(layout: Layout) -> None:
    """Let the group open DuckDB's log, which is made with the rights of one user: after a crash others read it."""
    with contextlib.suppress(FileNotFoundError):
        share(layout.wal, layout.root)


def sync_log(layout: Layout) -> None:
    """Make the name of DuckDB's log durable: DuckDB syncs what it writes into it, not the folder."""
    share_log(layout)
    fsync_dir(layout.root)


def put_in_place(draft: Path, target: Path) -> None:
    """Sync a file that another library has written, and give it its name durably."""
    fd = os.open(draft, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    move_file(draft, target)
    fsync_dir(target.parent)


# -- Space reserved for cleaning up: a file that is given up when the disk is full.


RESERVE_BYTES = 1 << 19
_PLENTY = 16 << 20
_LITTLE = 2 << 20


def hold_reserve(layout: Layout) -> None:
    """Make the file when it is not there and there is plenty of space; a part of one does no harm."""
    with contextlib.suppress(OSError):  # it is a convenience: without room or right nothing is reserved
        if os.path.lexists(layout.reserve) or shutil.disk_usage(layout.root).free < _PLENTY:
            return
        # Random bytes: a file system that compresses would keep nothing for zeros.
        replace_plain(layout.reserve, os.urandom(RESERVE_BYTES))


def release_reserve(layout: Layout) -> None:
    """Free the space when next to nothing else is left; to be called with the lock held alone."""
    with contextlib.suppress(OSError):  # what cannot be freed is missed by the operation, which says so
        if little_is_left(layout):
            layout.reserve.unlink(missing_ok=True)


def little_is_left(layout: Layout) -> bool:
    """Whether the disk is full, or next to it."""
    try:
        return shutil.disk_usage(layout.root).free < _LITTLE
    except OSError:
        return False


# -- The folders of a workspace: made when they are missing, refused when they are not ours.


def make_session(layout: Layout) -> None:
    """Make the folders of a session that only records."""
    for folder in (layout.root, layout.artifacts, layout.journal, layout.segments, layout.tmp):
        ensure_dir(folder, shared=True)


def make_folders(layout: Layout, exists: bool) -> bool:
    """Make what is missing; False when an existing workspace cannot be written."""
    try:
        ensure_dir(layout.root, certain=not exists)
        for folder in layout.folders:
            ensure_dir(folder, shared=True)
    except ReadOnlyStore:
        if exists:
            return False
        raise
    if os.access(layout.root, os.W_OK) and os.access(layout.segments, os.W_OK):
        return True
    if exists:
        return False
    raise ReadOnlyStore(f"{layout.root} cannot be written by this user, so no workspace can be made there.")


def refuse_linked_folders(layout: Layout) -> None:
    """Refuse a workspace whose own folders are links: what is swept and deleted there would not be ours."""
    for folder in (*layout.folders, layout.inbox):
        try:
            found = os.lstat(folder)
        except OSError:
            continue  # made later, or reported when it is needed
        linked = stat.S_ISLNK(found.st_mode) or getattr(found, "st_reparse_tag", None)
        if not linked or (folder == layout.artifacts and _leads_inside(layout.root, folder)):
            continue
        raise PathEscapes(
            f"{folder} is a link to {os.path.realpath(folder)}; a workspace has its folders itself. Nothing was "
            "changed. Put the folder in the place of the link; the workspace as a whole may be a link."
        )


def _leads_inside(root: Path, folder: Path) -> bool:
    inside, real = Path(os.path.realpath(root)), Path(os.path.realpath(folder))
    return real != inside and real.is_relative_to(inside)


def refuse_replica(layout: Layout) -> None:
    """Refuse a folder that is a shared workspace's replica: rows recorded there would never reach other computers."""
    if layout.replica.exists():
        raise NotAWorkspace(
            f"{layout.root} is a replica of a shared workspace, or was shared itself. Nothing was changed. Open the "
            f"address of the workspace, which {layout.replica.name} there names."
        )


def replica_as_of(layout: Layout) -> datetime | None:
    """Return when a replica last had every commit, by this computer's clock: the time of its file says so."""
    try:
        moment = layout.replica.stat().st_mtime
    except OSError:
        return None
    return datetime.fromtimestamp(moment).astimezone() if moment > 0 else None


def refuse_lost_catalog(layout: Layout) -> None:
    """Refuse an empty catalog next to blobs or commits, which would hide that the real one was lost."""
    left = any(folder.is_dir() and any(folder.iterdir()) for folder in (layout.segments, layout.artifacts))
    # Looked for last: a new workspace gets its catalog before its first blob or commit.
    if left and not layout.catalog.exists():
        raise CatalogDamaged(
            f"{layout.root} has blobs or commits but no store.duckdb: the catalog was lost or moved. Nothing was "
            "changed. Restore store.duckdb from a backup or from a copy kept in journal/, or name another folder."
        )


def refuse_lost_catalog_of_place(layout: Layout, *, named: bool) -> None:
    """Refuse the same where the blobs are elsewhere, unless the caller names the place, which is then looked at."""
    if not named and os.path.lexists(layout.blobs_place):
        raise CatalogDamaged(
            f"{layout.root} says in {layout.blobs_place.name} where its blobs are, but has no store.duckdb: the "
            "catalog was lost or moved, or making the workspace was broken off. Nothing was changed. Restore "
            "store.duckdb from a backup or from a copy kept in journal/; or name the place again with blobs=."
        )
