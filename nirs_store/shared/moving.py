"""From a folder to a shared workspace and back: `share` and `clone`; both go on after they were interrupted."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from nirs_store.blobs.backend import BlobBackend
from nirs_store.blobs.durable import fsync_dir, remove_file
from nirs_store.db.apply import applied_ids
from nirs_store.db.database import Connection, Database
from nirs_store.db.layout import Layout, as_folder
from nirs_store.db.schema import SCHEMA_VERSION, TABLES, arrow_schema
from nirs_store.db.session import Engine, Settings
from nirs_store.db.table import LOCAL_KEYS, LOCAL_TABLES, digests, encode_images, plain_rows
from nirs_store.errors import BlobMissing, InvalidInput, NirsStoreError, OverwriteRefused, StoreBusy
from nirs_store.ids import new_id
from nirs_store.shared import pgschema, snapshots
from nirs_store.shared.address import Address, replica_folder
from nirs_store.shared.log import SharedLog
from nirs_store.shared.objects import LogBodies, backend_of
from nirs_store.shared.opening import library, open_engine
from nirs_store.shared.pg import Connection as ServerConnection
from nirs_store.shared.pg import Server
from nirs_store.shared.replica import Mark, is_filled, read_mark, write_mark

# Rows of one commit: of tables with bytes fewer.
_ROWS, _ROWS_OF_BYTES = 20_000, 1_000
_SMALL = 64 << 20
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Moved:
    """What `share` or `clone` did, or would do.

    Attributes
    ----------
    source, target
        From where to where.
    rows
        Rows of the catalog.
    blobs, bytes
        Objects, and their bytes.
    dry_run
        Whether nothing was done.
    """

    source: str
    target: str
    rows: int
    blobs: int
    bytes: int
    dry_run: bool


def share(
    folder: Path, address: Address, *, dry_run: bool = False, progress: Progress | None = None
) -> Moved:
    """Make a shared workspace of a folder, under a name that is not taken; the folder is then only read.

    Nothing of it can be seen under that name before all of it is there and was compared.
    """
    folder = as_folder(folder, "folder")
    if address.blobs is None:
        raise InvalidInput(
            f"blobs: name a place for the blobs of {address}, e.g. blobs='s3://bucket/prefix' (--blobs). Nothing "
            "was changed."
        )
    if not dry_run and (done := _finish_marked(Layout(folder), address)) is not None:
        return done
    engine = Engine.open(Settings(folder, create=False, read_only=dry_run))
    try:
        _look_first(engine.query(_workspace_id), address, engine.layout)
        if dry_run:
            return engine.query(lambda con: _counted(con, str(folder), str(address), dry_run=True))
        others = [each for each in engine.claims.living() if each != engine.session_id]
        if others:
            raise StoreBusy(
                f"{len(others)} store objects are recording into {folder}. Nothing was changed. Close them, and share "
                "it again."
            )
        return engine.exclusive(lambda access: _share(engine, access, address, progress))
    finally:
        engine.close()


def _finish_marked(layout: Layout, address: Address) -> Moved | None:
    """Go on where a share was killed after the folder was marked, and before the workspace got its name."""
    mark = read_mark(layout)
    if mark is None or mark.address != str(address):
        return None
    hidden, sql = _hidden(address, mark.workspace_id), "SELECT name FROM nirs_store.workspaces WHERE ws = %s"
    server = Server(address)
    try:
        row = server.run(lambda con: con.execute(sql, [mark.workspace_id]).fetchone())
        if row is None or row[0] != hidden:
            return None
        server.run(lambda con: _finish(con, mark.workspace_id, address))
    finally:
        server.close()
    engine = open_engine(Settings(Path(), shared=address, create=False))
    try:
        return engine.query(lambda con: _counted(con, str(layout.root), str(address), dry_run=False))
    finally:
        engine.close()


def _hidden(address: Address, workspace_id: str) -> str:
    """Return the name that a workspace has until all of it is there; no address can have it."""
    return f"{address.workspace} ({workspace_id})"


def _share(engine: Engine, access: Database, address: Address, progress: Progress | None) -> Moved:
    workspace_id = access.transact(_workspace_id)
    server = Server(address)
    try:
        hidden = _hidden(address, workspace_id)
        server.run(lambda con: _begin(con, workspace_id, address, hidden))
        backend = backend_of(str(address.blobs), engine.layout, owner=workspace_id)
        backend.claim()
        blobs = access.transact(_blob_rows)
        for number, (key, size) in enumerate(blobs):
            if progress is not None:
                progress(number, len(blobs))
            found = backend.stat(key)
            if found is None or found.size != size:
                put_from(engine.layout, backend, key)
        log = SharedLog(server, workspace_id, engine.layout, LogBodies(backend), library())
        for body, txid in access.settle(lambda con: list(_images(con))):
            log.commit_images(body, txid)
        expected = access.settle(digests)
        moved = access.settle(lambda con: _counted(con, str(engine.layout.root), str(address), dry_run=False))
        # One from an attempt before is of a log that is gone.
        before = Layout(replica_folder(address, workspace_id))
        if before.catalog.exists():
            snapshots.set_aside(before, wait=engine.settings.lock_timeout)
        _compare(address, hidden, expected)
        if not engine.journal.is_empty(access.settle(applied_ids)):
            raise StoreBusy(
                f"Another process recorded into {engine.layout.root} meanwhile. It is not shared; share it again."
            )
        write_mark(engine.layout, Mark(workspace_id, str(address), str(address.blobs)))
        server.run(lambda con: _finish(con, workspace_id, address))
        return moved
    finally:
        server.close()


def _look_first(workspace_id: str, address: Address, layout: Layout) -> None:
    """Ask the server and the place of the blobs whether another workspace is there; change nothing."""
    server = Server(address)
    try:
        if server.run(pgschema.version) is not None:
            server.run(lambda con: _refuse_taken(con, workspace_id, address, _hidden(address, workspace_id)))
    finally:
        server.close()
    if backend_of(str(address.blobs), layout).owner_there() not in (None, workspace_id):
        raise InvalidInput(
            f"blobs: {address.blobs} holds the blobs of another workspace. Nothing was changed. Choose another place."
        )


def _refuse_taken(con: ServerConnection, workspace_id: str, address: Address, hidden: str) -> None:
    taken = con.execute(
        "SELECT ws::text FROM nirs_store.workspaces WHERE name = %s", [address.workspace]
    ).fetchone()
    shared = con.execute("SELECT name FROM nirs_store.workspaces WHERE ws = %s", [workspace_id]).fetchone()
    if taken is not None or (shared is not None and shared[0] != hidden):
        if taken is not None and taken[0] != workspace_id:
            words = "the name is taken. Choose another one"
        else:
            words = (
                f"the workspace of this folder is in that database already, as {shared and shared[0]!r}. To add what "
                "the folder has and it lacks, use `nirs-store push`"
            )
        raise OverwriteRefused(f"{address}: {words}. Nothing was changed.")


def _begin(con: ServerConnection, workspace_id: str, address: Address, hidden: str) -> None:
    pgschema.ensure(con)
    _refuse_taken(con, workspace_id, address, hidden)
    with con.transaction():
        # What an interrupted attempt left; its blobs stay, and are not sent again.
        con.execute("DELETE FROM nirs_store.log WHERE ws = %s", [workspace_id])
        con.execute("DELETE FROM nirs_store.workspaces WHERE ws = %s", [workspace_id])
        con.execute(
            "INSERT INTO nirs_store.workspaces (ws, name, schema_version, blobs_url) VALUES (%s, %s, %s, %s)",
            [workspace_id, hidden, SCHEMA_VERSION, address.blobs],
        )


def _finish(con: ServerConnection, workspace_id: str, address: Address) -> None:
    con.execute("UPDATE nirs_store.workspaces SET name = %s WHERE ws = %s", [address.workspace, workspace_id])


def _compare(address: Address, hidden: str, expected: dict[str, str]) -> None:
    """Read everything back into a replica of this computer, which stays, and compare it with the folder."""
    engine = open_engine(Settings(Path(), shared=replace(address, workspace=hidden), create=False))
    try:
        found = engine.query(digests)
    finally:
        engine.close()
    wrong = [name for name, digest in expected.items() if found.get(name) != digest]
    if wrong:
        raise NirsStoreError(
            f"{address}: what was read back is not what was sent: {', '.join(wrong)}. The folder is as it was, and "
            "nothing can be seen under that name."
        )


def put_from(layout: Layout, backend: BlobBackend, key: str) -> None:
    """Put a blob of a folder into another place."""
    try:
        file, found = layout.blobs.open(key)
    except FileNotFoundError as error:
        raise BlobMissing(
            f"{layout.blobs.address(key)} is missing. Nothing is shared. `nirs-store check` says what it belongs to; "
            "restore or repair the workspace first."
        ) from error
    with file:
        if found.size <= _SMALL:
            backend.put({key: file.read()})
            return
        # A file that is put is moved.
        copy = layout.tmp / f"share-{new_id()}"
        with copy.open("wb") as target:
            shutil.copyfileobj(file, target)
    backend.put({key: copy})


def _images(con: Connection) -> Iterator[tuple[bytes, str]]:
    """Yield the whole catalog as changes, each with some thousand rows of one table."""
    for table in TABLES:
        if table in LOCAL_TABLES:
            continue
        schema = arrow_schema(table)
        key = schema.names[0]
        where = ""
        if table == "nirs_store_meta":
            where = f"WHERE key NOT IN ({', '.join(repr(each) for each in (*LOCAL_KEYS, 'format', 'schema_version'))})"
        keys = [
            row[0] for row in con.execute(f"SELECT DISTINCT {key} FROM {table} {where} ORDER BY 1").fetchall()
        ]
        step = _ROWS_OF_BYTES if pa.binary() in schema.types else _ROWS
        for start in range(0, len(keys), step):
            chunk = keys[start : start + step]
            touched = pa.table({"key": pa.array(chunk, schema.field(0).type)})
            found = con.sql(
                f"SELECT * FROM {table} WHERE {key} BETWEEN ? AND ?", params=[chunk[0], chunk[-1]]
            ).to_arrow_table()
            if where:
                found = found.filter(pc.is_in(found.column(key), touched.column(0).combine_chunks()))
            txid = new_id()
            yield encode_images({table: (touched, plain_rows(found, schema))}, txid=txid), txid


def _counted(con: Connection, source: str, target: str, *, dry_run: bool) -> Moved:
    # Not what each computer notes for itself: two copies of one workspace have the same number.
    rows = sum(
        int(con.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])
        for table in TABLES
        if table not in (*LOCAL_TABLES, "nirs_store_meta")
    )
    blobs = _blob_rows(con)
    return Moved(source, target, rows, len(blobs), sum(size for _, size in blobs), dry_run)


def _blob_rows(con: Connection) -> list[tuple[str, int]]:
    found = con.execute(
        "SELECT artifact_path, any_value(size_bytes) FROM blobs GROUP BY 1 ORDER BY 1"
    ).fetchall()
    return [(str(path), int(size)) for path, size in found]


def _workspace_id(con: Connection) -> str:
    return str(con.execute("SELECT value FROM nirs_store_meta WHERE key = 'workspace_id'").fetchall()[0][0])


def clone(
    address: Address, folder: Path, *, dry_run: bool = False, progress: Progress | None = None
) -> Moved:
    """Make an ordinary workspace of a shared one, as it is now, with all its blobs; an interrupted one goes on."""
    folder = as_folder(folder, "folder")
    if read_mark(Layout(folder)) is None and is_filled(Layout(folder)):
        raise OverwriteRefused(f"{folder} is not empty. Nothing was changed. Name a new or an empty folder.")
    rights = folder.stat().st_mode if folder.is_dir() else None
    settings = Settings(Path(), shared=replace(address, replica=folder), create=False)
    if dry_run:
        settings = Settings(Path(), shared=address, create=False)
    engine = open_engine(settings)
    try:
        moved = engine.query(lambda con: _counted(con, str(address), str(folder), dry_run=dry_run))
        if dry_run:
            return moved
        local, remote = Layout(folder), engine.layout.blobs
        lost: str | None = None
        while missing := [key for key, size in engine.query(_blob_rows) if _size(local, key) != size]:
            if lost in missing:
                raise BlobMissing(f"{lost} is missing, and rows name it. {folder} is not complete.")
            for number, key in enumerate(missing):
                if progress is not None:
                    progress(number, len(missing))
                try:
                    _bring(remote, local, key)
                except FileNotFoundError as error:
                    # Deleted a moment ago, with its row: the catalog is asked again.
                    lost = str(error.filename and key)
    finally:
        engine.close()
    # From here on it is a workspace like any other: every blob of its rows was found there.
    remove_file(local.replica)
    fsync_dir(folder)
    shutil.rmtree(folder / "cache", ignore_errors=True)
    # A replica is for its user alone; a workspace is for those who may enter the folders that are made now.
    folder.chmod(stat.S_IMODE((folder / "journal").stat().st_mode if rights is None else rights))
    return moved


def _size(layout: Layout, key: str) -> int | None:
    found = layout.blobs.stat(key)
    return None if found is None else found.size


def _bring(remote: BlobBackend, local: Layout, key: str) -> None:
    file, _ = remote.open(key)
    with file:
        local.blobs.put({key: file.read()})
