"""The replica of a shared workspace on this computer: whether it belongs to the log, and how far it has come."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

import duckdb
import msgspec

from nirs_store.blobs.durable import ensure_dir, write_file
from nirs_store.blobs.plain import read_plain
from nirs_store.db.layout import Layout
from nirs_store.db.sql import execute
from nirs_store.errors import NotAWorkspace, ReplicaRefused
from nirs_store.shared.pg import Connection

POSITION = "position"
"""The key in `nirs_store_meta` under which a replica says how far it has come."""


class ReplicaTooOld(ReplicaRefused):
    """The log does not reach back to where a replica is."""


class Position(NamedTuple):
    """The last commit that a replica holds: number, and txid, because a restored log uses numbers again."""

    number: int
    txid: str

    def __str__(self) -> str:
        return f"{self.number} {self.txid}"

    def compare(self, server: Connection, workspace_id: str, layout: Layout, *, held: bool = True) -> None:
        """Refuse a replica above the head of the log, or on another commit of that number.

        Without `held` it is a commit that this process was told of, wherever its replica is.
        """
        sql = (
            "SELECT w.head, w.floor, l.txid FROM nirs_store.workspaces w "
            "LEFT JOIN nirs_store.log l ON l.ws = w.ws AND l.n = %s WHERE w.ws = %s"
        )
        row = server.execute(sql, [self.number, workspace_id]).fetchone()
        if row is None:
            raise NotAWorkspace(f"The shared workspace of {layout.root} is not there any more.")
        head, floor, txid = row
        if self.number > head or (self.number and txid != self.txid):
            raise ReplicaRefused(
                f"{layout.root} {'holds' if held else 'was told of'} commit {self.number} ({self.txid}), and the log "
                "of the workspace has "
                f"{f'another there, {txid}' if self.number <= head else f'{head} commits'}. The server was restored "
                "from an older state, or the replica is of another log. Nothing was changed, and nothing is merged. If "
                "the server is right, run `nirs-store repair`: it keeps the old replica in a folder and builds a new "
                "one. Look at what the old one has beyond the log before you delete it."
            )
        if held and self.number < floor:
            raise ReplicaTooOld(
                f"{layout.root} holds {self.number} commits, and the log begins after {floor}. Nothing was changed. "
                "Open the workspace again: the replica is then made from the newest snapshot."
            )


def read_position(con: duckdb.DuckDBPyConnection, workspace_id: str, layout: Layout) -> Position:
    """Read how far a replica has come; raises where it is one of another workspace."""
    rows = execute(
        con, "SELECT key, value FROM nirs_store_meta WHERE key IN ('workspace_id', 'position')"
    ).fetchall()
    meta = {str(key): str(value) for key, value in rows}
    if meta.get("workspace_id") != workspace_id:
        raise ReplicaRefused(
            f"{layout.root} is a replica of another workspace ({meta.get('workspace_id')}, not {workspace_id}). "
            "Nothing was changed. Name another folder for this replica, or move that one away."
        )
    number, _, txid = meta.get(POSITION, "").partition(" ")
    if not number.isdigit():
        raise ReplicaRefused(
            f"{layout.root} does not say which commits it holds. Nothing was changed. `nirs-store repair` builds it "
            "again."
        )
    return Position(int(number), txid)


def write_position(con: duckdb.DuckDBPyConnection, position: Position) -> None:
    """Write how far a replica has come, inside the caller's transaction."""
    execute(
        con,
        "INSERT INTO nirs_store_meta VALUES ('position', ?) ON CONFLICT DO UPDATE SET value = excluded.value",
        [str(position)],
    )


def new_meta(workspace_id: str) -> dict[str, str]:
    """Return what an empty replica says of itself."""
    return {"workspace_id": workspace_id, POSITION: str(Position(0, ""))}


def prepare(layout: Layout, workspace_id: str, address: str, blobs: str) -> None:
    """Make or accept the folder of a replica; one with anything else in it is left as it is."""
    folder = layout.root
    if folder.is_dir():
        _refuse_of_others(folder)
    mark = read_mark(layout)
    if mark is None and is_filled(layout) and (mark := read_mark(layout)) is None:
        raise ReplicaRefused(
            f"{folder} is not empty and is not a replica. Nothing was changed. Name another folder for the replica."
        )
    if mark is None:
        ensure_dir(folder.parent)
        ensure_dir(folder)
        _refuse_of_others(folder)
    elif mark.workspace_id != workspace_id:
        raise ReplicaRefused(
            f"{folder} is a replica of another workspace. Nothing was changed. Name another folder for this one."
        )
    # Only now: the rights of a folder that is not a replica are not this library's to change.
    _shut(folder)
    wanted = Mark(workspace_id, address, blobs)
    if mark != wanted:
        # The time of the file says when the replica was compared with the server; a new one was not yet.
        moment = 0.0 if mark is None else layout.replica.stat().st_mtime
        write_mark(layout, wanted)
        os.utime(layout.replica, (moment, moment))


def is_filled(layout: Layout) -> bool:
    """Tell whether a folder without the mark of a replica holds anything."""
    # A process that was killed, or is about to make the mark, may have left a draft of it.
    draft = f"{layout.replica.name}.*.tmp"
    return layout.root.is_dir() and any(not path.match(draft) for path in layout.root.iterdir())


class Mark(msgspec.Struct, frozen=True):
    """What the file in a folder says that makes it a replica."""

    workspace_id: str
    address: str = ""
    blobs: str = ""


def read_mark(layout: Layout) -> Mark | None:
    """Read of which workspace a folder is a replica; None where it is not one."""
    try:
        return msgspec.json.decode(read_plain(layout.replica), type=Mark)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ReplicaRefused(f"{layout.replica} cannot be read: {error}. Nothing was changed.") from error


def write_mark(layout: Layout, mark: Mark) -> None:
    """Say in a folder that it is not a workspace of its own, and what it is a replica of."""
    write_file(layout.replica, msgspec.json.encode(mark))


def note_as_of(layout: Layout, moment: float) -> None:
    """Note that a replica had every commit at a moment of this computer's clock: the time of its file says so."""
    with contextlib.suppress(OSError):
        if layout.replica.stat().st_mtime < moment:
            os.utime(layout.replica, (moment, moment))


def _refuse_of_others(folder: Path) -> None:
    """Refuse a folder of another user, who could put another catalog there."""
    if os.name == "nt":
        return
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise ReplicaRefused(
            f"{folder} belongs to another user (number {found.st_uid}), who could change what it holds. Nothing was "
            "changed. Name another folder for the replica: replica=... in the address, or NIRS_STORE_REPLICAS."
        )


def _shut(folder: Path) -> None:
    """Keep other users out of a replica."""
    if os.name != "nt" and folder.stat().st_mode & 0o077:
        with contextlib.suppress(OSError):  # some file systems know no rights
            folder.chmod(0o700)
