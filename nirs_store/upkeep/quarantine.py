"""Moving files out of the way without ever deleting them.

A blob goes through ``journal/aside/`` as in a gc, so that a saver of the same content either is
seen or writes its own file; but first it gets a second name in ``quarantine/``. Whatever moment
this dies at, the next holder of the lease settles what is aside, and the content is still there.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from nirs_store.blobs.durable import ensure_dir, fsync_dir, move_file, remove_file, write_error, write_file
from nirs_store.blobs.paths import aside_name
from nirs_store.blobs.verified import hash_file
from nirs_store.catalog.access import CatalogAccess, Connection
from nirs_store.catalog.aside import move_aside
from nirs_store.catalog.garbage import all_paths
from nirs_store.catalog.layout import Layout
from nirs_store.catalog.sessions import read_claims
from nirs_store.upkeep.structure import stem_of

__all__ = ["keep", "move_blobs", "quarantine_folder"]

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
_PIECE = 1 << 20


def quarantine_folder(layout: Layout) -> Path:
    """Where a repair puts what it takes away."""
    return layout.root / "quarantine"


def move_blobs(
    access: CatalogAccess, layout: Layout, bad: Sequence[str], orphans: Sequence[str]
) -> list[str]:
    """Move blobs to quarantine unless they are found good, named or claimed by then.

    Called inside `CatalogAccess.exclusive`, with `access.sweeping` set.

    Parameters
    ----------
    bad : sequence of str
        Blobs whose bytes do not fit their name; each is hashed again once nobody can write it.
    orphans : sequence of str
        Blobs that no row names; looked for again after the last claim was read.

    Returns
    -------
    list of str
        Those that were moved.
    """
    there = [path for path in (*bad, *orphans) if (layout.root / path).is_file()]
    copies = {path: keep(layout, layout.root / path) for path in there}
    move_aside(layout, there)
    # As in a gc: files aside, then the claims, then (in transact) the journal.
    claimed = read_claims(layout, remove_dead=True)
    named = access.transact(_named)
    moved = []
    for path in there:
        if _is_bad(layout, path) if path in bad else _is_orphan(path, named, claimed):
            remove_file(layout.aside / aside_name(path), missing_ok=True)
            moved.append(path)
        else:
            _put_back(layout, path)
            remove_file(copies[path], missing_ok=True)
    if there:
        fsync_dir(layout.aside)
    return moved


def keep(layout: Layout, path: Path) -> Path:
    """Give a file a second name in quarantine/, durably; one that is taken gets a number.

    Raises
    ------
    WriteFailed, ReadOnlyStore
    """
    folder = quarantine_folder(layout)
    ensure_dir(folder)
    number = 1
    while True:
        target = folder / (path.name if number == 1 else f"{path.name}.{number}")
        try:
            _copy(layout, path, target)
            fsync_dir(folder)
            return target
        except FileExistsError:
            number += 1
        except OSError as error:
            raise write_error(target, error) from error


def _copy(layout: Layout, path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        write_file(target, _pieces(path), tmp_dir=layout.tmp, replace=False)


def _pieces(path: Path) -> Iterable[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _named(con: Connection) -> set[str]:
    return set(all_paths(con))


def _is_orphan(path: str, named: set[str], claimed: set[str]) -> bool:
    return not (path in named or path in claimed or stem_of(path) in claimed)


def _is_bad(layout: Layout, path: str) -> bool:
    try:
        return hash_file(layout.aside / aside_name(path))[0] != stem_of(path)
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _put_back(layout: Layout, path: str) -> None:
    waiting, target = layout.aside / aside_name(path), layout.root / path
    if target.exists():
        # Written anew by a save that came after the rename.
        remove_file(waiting, missing_ok=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            move_file(waiting, target)
