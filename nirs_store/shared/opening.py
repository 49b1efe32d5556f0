"""Opening a shared workspace: its row on the server, this computer's replica, and an engine over both."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

from nirs_store.db.layout import Layout
from nirs_store.db.schema import SCHEMA_VERSION
from nirs_store.db.session import Engine, Parts, Settings
from nirs_store.errors import InvalidInput, MigrationNeeded, NotAWorkspace, SchemaTooNew
from nirs_store.ids import new_id
from nirs_store.shared import pgschema, snapshots
from nirs_store.shared.address import Address, replica_folder
from nirs_store.shared.log import SharedLog
from nirs_store.shared.objects import LogBodies, ObjectBlobs, SharedFolder, backend_of
from nirs_store.shared.pg import Connection, Server
from nirs_store.shared.replica import ReplicaTooOld, new_meta, prepare
from nirs_store.shared.sessions import SharedClaims


def open_engine(settings: Settings, *, until: int | None = None, migrating: bool = False) -> Engine:
    """Open a shared workspace; makes it where it is not there, the role may, and an object store is named.

    With `until`, the replica gets no commit beyond that number. `migrating` opens an older one as it is.
    """
    address: Address = settings.shared
    if not settings.fresh:
        from nirs_store.shared.offline import open_offline

        return open_offline(settings)
    server = Server(address)
    try:
        create = settings.create and not settings.read_only
        workspace_id, known, empty, schema = server.run(
            lambda con: _workspace(con, address, create=create),
            patience=min(settings.lock_timeout, address.patience),
        )
        if schema < SCHEMA_VERSION and not migrating:
            raise MigrationNeeded(
                f"{address} has schema version {schema}, and this nirs_store writes {SCHEMA_VERSION}. Nothing was "
                "changed. Migrate it with: nirs-store shared migrate. Computers with an older nirs_store are refused "
                "from then on."
            )
        folder = replica_folder(address, workspace_id)
        place = Layout(folder)
        blobs = address.blobs or known
        backend = _place_of_blobs(address, workspace_id, known, place, new=create and empty)
        prepare(place, workspace_id, str(address), blobs)
        snapshots.start_from(server, workspace_id, backend, place, wait=settings.lock_timeout)
        layout = Layout(folder, backend)
        log = SharedLog(server, workspace_id, layout, LogBodies(backend), library(), until=until)
        log.schema = schema
        parts = Parts(layout, log, SharedClaims(log, backend), new_meta(workspace_id))
        # A replica may always be made: it is this computer's own.
        replica = replace(settings, root=folder, create=True)
        try:
            engine = Engine.open(replica, parts)
        except ReplicaTooOld:
            snapshots.set_aside(place, wait=settings.lock_timeout)
            snapshots.start_from(server, workspace_id, backend, place, wait=settings.lock_timeout)
            engine = Engine.open(replica, parts)
    except BaseException:
        server.close()
        raise
    if (
        engine.writable
        and not migrating
        and settings.session_id is None
        and server.run(lambda con: snapshots.is_due(con, workspace_id))
    ):
        snapshots.publish(engine, log, backend)
    return engine


def workspace_id_of(settings: Settings) -> str:
    """Ask the server for the id of a workspace that is there."""
    server = Server(settings.shared)
    try:
        return server.run(lambda con: _workspace(con, settings.shared, create=False))[0]
    finally:
        server.close()


def place_of(settings: Settings) -> Layout:
    """Return where this computer's replica of a workspace is."""
    return Layout(replica_folder(settings.shared, workspace_id_of(settings)))


def parts_of(engine: Engine) -> tuple[SharedLog, SharedFolder | ObjectBlobs]:
    """Return the log and the place of the blobs of a shared workspace that is open."""
    log, backend = engine.journal, engine.layout.blobs
    assert isinstance(log, SharedLog)
    assert isinstance(backend, (SharedFolder, ObjectBlobs))
    return log, backend


def library() -> str:
    """Return the version of this library, for the log."""
    try:
        return version("nirs-store")
    except PackageNotFoundError:
        return "unknown"


def _place_of_blobs(
    address: Address, workspace_id: str, known: str, place: Layout, *, new: bool
) -> SharedFolder | ObjectBlobs:
    """Return the place of the blobs: where the workspace has them, or the same place under another address."""
    backend = backend_of(address.blobs or known, place, owner=workspace_id)
    if address.blobs in (None, known):
        if new:
            backend.claim()
        elif isinstance(backend, SharedFolder):
            backend.look_at_owner()  # an object store is looked at when it is first needed
        return backend
    if backend.owner_there() != workspace_id:
        raise InvalidInput(
            f"{address} keeps its blobs in {known}, and {address.blobs} is not that place under another address. "
            "Nothing was changed. Leave blobs out, or name where that place is reached from here."
        )
    return backend


def _workspace(con: Connection, address: Address, *, create: bool) -> tuple[str, str, bool, int]:
    """Return id, place of the blobs, whether nothing was ever committed, and schema version of a workspace."""
    found = pgschema.version(con)
    if found is None and create:
        pgschema.ensure(con)
    elif found is None:
        raise NotAWorkspace(f"{address}: this database has no workspaces. Nothing was changed.")
    elif found > pgschema.VERSION:
        raise SchemaTooNew(
            f"{address}: its tables have version {found}, and this nirs_store knows {pgschema.VERSION}. Nothing was "
            "changed. Upgrade nirs_store here."
        )
    sql = "SELECT ws::text, schema_version, blobs_url, head = 0 FROM nirs_store.workspaces WHERE name = %s"
    row = con.execute(sql, [address.workspace]).fetchone()
    if row is None and create:
        if address.blobs is None:
            raise InvalidInput(
                f"{address} is a new workspace: name a place for its blobs, e.g. blobs='s3://bucket/prefix' (--blobs). "
                "Nothing was made."
            )
        con.execute(
            "INSERT INTO nirs_store.workspaces (ws, name, schema_version, blobs_url) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (name) DO NOTHING",
            [new_id(), address.workspace, SCHEMA_VERSION, address.blobs],
        )
        row = con.execute(sql, [address.workspace]).fetchone()
    if row is None:
        names = [
            str(r[0]) for r in con.execute("SELECT name FROM nirs_store.workspaces ORDER BY name LIMIT 20")
        ]
        known = f" There are: {', '.join(names)}." if names else ""
        raise NotAWorkspace(
            f"{address}: this database has no workspace with that name.{known} Nothing was changed."
        )
    workspace_id, schema, blobs, empty = row
    if schema > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{address} has schema version {schema}; this nirs_store knows {SCHEMA_VERSION}. Nothing was changed. "
            "Upgrade nirs_store here."
        )
    return str(workspace_id), str(blobs), bool(empty), int(schema)
