"""What kind of file system a folder lies on: locks and syncs of a network share are its server's affair."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
import warnings
from pathlib import Path

from nirs_store.forks import hold_while_forking

__all__ = ["network_filesystem", "warn_of_network"]

# As Linux and macOS name them.
_NETWORK = frozenset(
    (
        *(
            "nfs",
            "nfs3",
            "nfs4",
            "cifs",
            "smb",
            "smb2",
            "smb3",
            "smbfs",
            "afs",
            "afpfs",
            "9p",
            "ncpfs",
            "webdav",
        ),
        *("davfs", "ceph", "glusterfs", "lustre", "beegfs", "gpfs", "orangefs", "pvfs2", "ocfs2", "gfs2"),
        *("virtiofs", "vboxsf"),
    )
)
_NETWORK_FUSE = re.compile(
    r"fuse\.(sshfs|rclone|s3fs|gcsfuse|goofys|blobfuse2?|davfs2?|glusterfs|ceph.*|moosefs|mfs|juicefs|smbnetfs|curlftpfs)"
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
    return name if name in _NETWORK or _NETWORK_FUSE.fullmatch(name) else None


def warn_of_network(folder: Path) -> None:
    """Say once a process and folder what cannot be promised on a network file system."""
    with _mutex:
        if folder in _told:
            return
        _told.add(folder)
    kind = network_filesystem(folder)
    if kind is not None:
        warnings.warn(
            f"{folder} lies on a network file system ({kind}). Several processes of one computer are kept apart "
            "only if its file locks work; processes of different computers only if its server passes the locks "
            "on; and a commit is as durable as the server makes a sync. Let one computer at a time write here, "
            "or keep the workspace on a local disk.",
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
    # struct statfs: f_fstypename stands at byte 72 where inodes have 64 bits.
    buffer = ctypes.create_string_buffer(4096)
    if ctypes.CDLL(None, use_errno=True).statfs(os.fsencode(folder), buffer):
        return ""
    return buffer.raw[72:88].split(b"\0")[0].decode()


def _windows(folder: Path) -> str | None:
    remote = 4
    anchor = folder.absolute().anchor
    return "a network drive" if ctypes.windll.kernel32.GetDriveTypeW(anchor) == remote else None  # type: ignore[attr-defined,unused-ignore]
