"""Blobs that a gc has set aside: putting them back, or removing them, by what the catalog says.

A gc renames its candidates to ``journal/aside/`` before it reads the claims, and reads the
claims before it applies the journal a last time. Whoever saves the same content either claimed
it before (the gc sees the claim and puts the file back) or looks after the rename (and writes
the file anew). A gc that died in between is finished by the next holder of the lease.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

import duckdb

from nirs_store.blobs.durable import ensure_dir, fsync_dir, move_file, remove_file, remove_files, write_error
from nirs_store.blobs.paths import aside_name
from nirs_store.catalog.layout import Layout

__all__ = ["aside_files", "decide_aside", "move_aside", "settle_aside"]


def aside_files(layout: Layout) -> list[str]:
    """Relative paths of the blobs that are set aside."""
    try:
        return sorted(unquote(name) for name in os.listdir(layout.aside))
    except FileNotFoundError:
        return []


def move_aside(layout: Layout, relative_paths: Iterable[str]) -> None:
    """Set blobs aside; one that is gone already is passed over.

    Raises
    ------
    WriteFailed, ReadOnlyStore
        What was set aside until then is settled by the next holder of the lease.
    """
    root, aside = str(layout.root), str(layout.aside)
    try:
        for relative in relative_paths:
            with contextlib.suppress(FileNotFoundError):
                os.replace(os.path.join(root, relative), os.path.join(aside, aside_name(relative)))
        fsync_dir(layout.aside)
    except OSError as error:
        raise write_error(layout.aside, error) from error


def settle_aside(con: duckdb.DuckDBPyConnection, layout: Layout, claimed: set[str]) -> tuple[int, int]:
    """Remove what no row names and nobody claims, put everything else back; see `decide_aside`.

    Returns
    -------
    files, size
        Files removed and their bytes.
    """
    doomed = decide_aside(con, layout, claimed)
    if not doomed:
        return 0, 0
    files, size = remove_files(doomed)
    fsync_dir(layout.aside)
    return files, size


def decide_aside(con: duckdb.DuckDBPyConnection, layout: Layout, claimed: set[str]) -> list[Path]:
    """Put back what a row names or somebody claims; gives the files that are left and must be deleted.

    The claims were read before the journal was last applied, the lease is held alone until they are deleted.
    """
    paths = aside_files(layout)
    if not paths:
        return []
    named = {
        str(row[0])
        for row in con.execute(
            "SELECT artifact_path FROM blobs WHERE artifact_path IN (SELECT unnest(?))", [paths]
        ).fetchall()
    }
    aside, doomed = layout.aside, []
    for relative in paths:
        waiting = aside / aside_name(relative)
        digest = relative.rsplit("/", 1)[-1].split(".", 1)[0]
        if relative not in named and digest not in claimed and relative not in claimed:
            doomed.append(waiting)
            continue
        target = layout.root / relative
        ensure_dir(target.parent)
        if target.exists():
            # Written anew by a save that came after the rename.
            remove_file(waiting, missing_ok=True)
        else:
            move_file(waiting, target)
    fsync_dir(aside)
    return doomed
