"""Copies of the catalog in the object store: a new computer starts from the newest, and the log before it may go."""

from __future__ import annotations

import hashlib
import shutil
from typing import IO, NamedTuple, cast

import zstandard

from nirs_store.blobs.durable import Draft
from nirs_store.db.database import Database
from nirs_store.db.layout import Layout, make_folders, put_in_place
from nirs_store.db.lock import alone
from nirs_store.db.schema import SCHEMA_VERSION, forget
from nirs_store.db.session import Engine
from nirs_store.errors import ReplicaRefused
from nirs_store.ids import new_id
from nirs_store.shared.log import SharedLog
from nirs_store.shared.objects import ObjectBlobs, SharedFolder
from nirs_store.shared.pg import Connection, Server, one
from nirs_store.shared.replica import Position

# After so many commits, or bytes of them, the next one who opens the workspace makes a snapshot.
EVERY_COMMITS, EVERY_BYTES = 20_000, 256 << 20
_LEVEL = 3
# What one snapshot may unfold to, and how many times its own size: no catalog of this library comes near.
_MOST_BYTES, _MOST_TIMES = 1 << 28, 100
_PIECE = 1 << 20


class Snapshot(NamedTuple):
    """The newest snapshot of a workspace, as its server says."""

    number: int
    key: str
    sha256: str


def newest(con: Connection, workspace_id: str) -> Snapshot | None:
    """Return the newest snapshot that this version of the library reads."""
    row = con.execute(
        "SELECT snapshot_n, snapshot_key, snapshot_sha256 FROM nirs_store.workspaces "
        "WHERE ws = %s AND snapshot_n IS NOT NULL AND schema_version <= %s",
        [workspace_id, SCHEMA_VERSION],
    ).fetchone()
    return None if row is None else Snapshot(int(row[0]), str(row[1]), str(row[2]))


def is_due(con: Connection, workspace_id: str) -> bool:
    """Tell whether a new computer would have to apply very much, and this role may publish a snapshot."""
    may = "SELECT has_function_privilege(f.oid, 'EXECUTE') FROM pg_proc f WHERE f.proname = 'publish' AND "
    row = con.execute(may + "f.pronamespace = 'nirs_store'::regnamespace").fetchone()
    if row is None or not row[0]:
        return False
    count, size = one(
        con,
        "SELECT count(*), coalesce(sum(l.bytes), 0) FROM nirs_store.log l JOIN nirs_store.workspaces w ON w.ws = l.ws "
        "WHERE l.ws = %s AND l.n > coalesce(w.snapshot_n, 0)",
        [workspace_id],
    )
    return bool(count >= EVERY_COMMITS or size >= EVERY_BYTES)


def publish(
    engine: Engine, log: SharedLog, backend: ObjectBlobs | SharedFolder, *, compacted: bool = True
) -> int:
    """Compact this computer's replica, and put a copy of it into the object store; returns its number."""
    layout = engine.layout
    copy = layout.tmp / f"snapshot-{new_id()}"

    def work(access: Database) -> Position:
        position = access.settle(lambda con: log.position())
        access.close_connection()
        if compacted:
            access.rewrite(lambda con: None)
        shutil.copyfile(layout.catalog, copy)
        return position

    try:
        position = engine.exclusive(work)
        draft = Draft(layout.tmp)
        try:
            with copy.open("rb") as source:
                zstandard.ZstdCompressor(_LEVEL).copy_stream(source, cast(IO[bytes], draft), read_size=_PIECE)
            draft.finish()
            digest = draft.digest
            key = f"snapshots/{digest[:2]}/{digest}.zst"
            backend.put({key: draft.path})
        finally:
            draft.discard()
    finally:
        copy.unlink(missing_ok=True)
    params = [log.workspace_id, position.number, position.txid, key, digest]
    log.server.run(lambda con: con.execute("SELECT nirs_store.publish(%s, %s, %s, %s, %s)", params))
    return position.number


def truncate(
    server: Server, workspace_id: str, backend: ObjectBlobs | SharedFolder, *, older_than_days: float
) -> int:
    """Delete the bodies of old commits that the newest snapshot holds; returns how many."""
    params = [workspace_id, older_than_days]
    (count,) = server.run(lambda con: one(con, "SELECT nirs_store.truncate(%s, %s)", params))
    sql = (
        "SELECT l.key FROM nirs_store.log l JOIN nirs_store.workspaces w ON w.ws = l.ws "
        "WHERE l.ws = %s AND l.n <= w.floor AND l.n > w.floor - %s AND l.key IS NOT NULL"
    )
    keys = server.run(lambda con: con.execute(sql, [workspace_id, count]).fetchall())
    backend.remove([str(key) for (key,) in keys])
    return int(count)


def start_from(
    server: Server, workspace_id: str, backend: ObjectBlobs | SharedFolder, place: Layout, *, wait: float
) -> None:
    """Copy the catalog of the newest snapshot into a replica that has none, or one older than the log."""
    if place.catalog.exists():
        return
    found = server.run(lambda con: newest(con, workspace_id))
    if found is None:
        return
    make_folders(place, False)
    with alone(place, timeout=wait):
        if not place.catalog.exists():
            _fetch(found, backend, place)


def _fetch(found: Snapshot, backend: ObjectBlobs | SharedFolder, place: Layout) -> None:
    """Verify the bytes against the hash that the server has, before DuckDB looks at any of them."""
    packed = backend.path(found.key)
    with packed.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != found.sha256:
        raise ReplicaRefused(
            f"{backend.address(found.key)} is not the snapshot that was published: its SHA-256 is another. Nothing was "
            "made of it. Look at who may write there; `nirs-store shared snapshot` makes another."
        )
    target = place.tmp / f"snapshot-{new_id()}"
    try:
        most = _MOST_BYTES + _MOST_TIMES * packed.stat().st_size
        with packed.open("rb") as source, target.open("wb") as file:
            written = 0
            for piece in zstandard.ZstdDecompressor().read_to_iter(source, read_size=_PIECE):
                written += len(piece)
                if written > most:
                    raise ReplicaRefused(
                        f"{backend.address(found.key)} unfolds to more than {most:,} bytes, as no catalog does. "
                        "Nothing was made of it. `nirs-store shared snapshot` publishes another."
                    )
                file.write(piece)
        # Another file that was looked at may have had its number.
        forget(place.catalog)
        put_in_place(target, place.catalog)
    finally:
        target.unlink(missing_ok=True)


def set_aside(place: Layout, *, wait: float) -> None:
    """Put away the catalog of a replica that the log does not reach back to."""
    with alone(place, timeout=wait):
        for path in (place.catalog, place.wal):
            path.unlink(missing_ok=True)
