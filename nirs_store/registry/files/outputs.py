"""Bringing a group out as a folder: all of its members, or none."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nirs_store.blobs.durable import ensure_dir, fsync_dir, move_file, remove_file, write_error
from nirs_store.catalog.engine import Engine
from nirs_store.errors import InvalidInput, NirsStoreError
from nirs_store.registry.files.places import placed
from nirs_store.registry.files.reading import write_output

__all__ = ["write_group"]

Row = Mapping[str, Any]


def write_group(engine: Engine, members: Mapping[str, Row], output: Path) -> Path:
    """Write the members of a group below a folder, once all of them were checked.

    Parameters
    ----------
    members : mapping
        The row of each, by its name in the group.
    output : Path
        A new folder; or one that is there, whose files of the same names are replaced and whose others stay.

    Raises
    ------
    BlobMissing, BlobCorrupt, InvalidInput, WriteFailed, ReadOnlyStore
        Nothing was left at the path.
    """
    there = output.is_dir()
    for name, row in members.items():
        _refuse_occupied(placed(output, name), row)
    ensure_dir(output.parent)
    # Renaming is what makes it all or nothing, so the draft lies on the file system of its target: beside a folder
    # to be made; inside one that is there, which may be a mount of its own.
    draft = (output if there else output.parent) / f".{output.name[:80]}.{secrets.token_hex(8)}.part"
    try:
        draft.mkdir()
        for name, row in members.items():
            write_output(engine, row, placed(draft, name), inside=False)
        if there:
            _move_in(draft, output, members)
        else:
            draft.rename(output)
            fsync_dir(output.parent)
    except OSError as error:
        raise (error if isinstance(error, NirsStoreError) else write_error(output, error)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return output


def _refuse_occupied(target: Path, row: Row) -> None:
    """Look for what a member cannot replace, before anything is written."""
    if row["kind"] == "folder":
        occupied = os.path.lexists(target) and (not target.is_dir() or any(target.iterdir()))
    else:
        occupied = target.is_dir()
    if occupied:
        raise InvalidInput(
            f"output: {target} exists already, where {row['name']!r} would be. Nothing was written. Name another "
            "folder, or move it away."
        )


def _move_in(draft: Path, output: Path, members: Mapping[str, Row]) -> None:
    """Move checked members into a folder that is there; take new ones out again if the system stops it."""
    new: list[Path] = []
    try:
        for name, row in members.items():
            target = placed(output, name)
            ensure_dir(target.parent)
            if row["kind"] == "folder" and target.is_dir():
                target.rmdir()
            if not os.path.lexists(target):
                new.append(target)
            move_file(placed(draft, name), target)
    except BaseException:
        for target in new:
            # The first error is what the caller must hear.
            with contextlib.suppress(OSError):
                if target.is_dir():
                    shutil.rmtree(target)
                else:
                    remove_file(target, missing_ok=True)
        raise
