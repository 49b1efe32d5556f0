"""Opening store.duckdb: the settings, whose file it is, and its schema.

Always called under the lease. The file is attached to an in-memory connection, because the
row group size can only be said at ATTACH; then everything that could reach outside is locked.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import msgspec

from nirs_store.blobs.durable import fsync_dir, move_file, remove_file, write_error
from nirs_store.catalog import spare
from nirs_store.catalog.layout import Layout
from nirs_store.catalog.migrations import migrate_catalog, pending_migrations
from nirs_store.catalog.schema import (
    BLOCK_SIZE,
    CATALOG_ALIAS,
    ROW_GROUP_SIZE,
    SCHEMA_VERSION,
    create_statements,
)
from nirs_store.catalog.statements import execute
from nirs_store.errors import (
    CatalogDamaged,
    ForeignCatalog,
    InvalidInput,
    NirsStoreError,
    SchemaTooNew,
    WriteFailed,
)
from nirs_store.ids import new_id

__all__ = [
    "CatalogLocked",
    "Instance",
    "Options",
    "attach",
    "clear_draft",
    "create_catalog",
    "open_catalog",
    "open_migrated_copy",
    "schema_version",
]

_FILE_ENDINGS = ("", ".wal", ".wal.checkpoint", ".wal.recovery", ".checkpoint.wal", ".recovery.wal", ".tmp")
_LOCKED = re.compile(r"[Cc]ould not set lock|[Cc]onflicting lock|being used by another process")
_NO_SPACE = re.compile(
    r"No space left|Input/output error|Disk quota|Read-only file system|[Nn]ot enough space"
)


# Part of the name of the drafts of this process: an instance may be handed on, and can reach no other file. Only the
# holder of the lease makes one.
_DRAFT = new_id()


class CatalogLocked(Exception):
    """Somebody outside this protocol has the file open."""


class Options(msgspec.Struct, frozen=True):
    """Settings of the DuckDB connection."""

    threads: int | None = None
    memory_limit: str | None = None
    # Answer from an index however much of the table the answer is: how `check` reads whole indexes.
    whole_indexes: bool = False


def _quote(path: Path) -> str:
    # ATTACH takes no bound parameter.
    return "'" + str(path).replace("'", "''") + "'"


def attach(path: Path, *, read_only: bool, options: Options, spill: Path | None) -> duckdb.DuckDBPyConnection:
    """Connect to a catalog file.

    Raises
    ------
    CatalogLocked
        Somebody outside the lease has it open.
    CatalogDamaged, WriteFailed
        It cannot be opened.
    """
    con = _in_memory(options, spill)
    try:
        _attach(con, path, read_only)
        con.execute("SET TimeZone = 'UTC'")
        con.execute("SET enable_external_access = false")
        con.execute("SET lock_configuration = true")
    except duckdb.Error as error:
        con.close()
        raise _explain(error, path) from error
    except BaseException:
        con.close()
        raise
    return con


def _in_memory(options: Options, spill: Path | None) -> duckdb.DuckDBPyConnection:
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        # For remote files: eight threads a store that would never have anything to do.
        "async_threads": 0,
        # Of files that are made; one that is there has its own.
        "default_block_size": str(BLOCK_SIZE),
        # An in-memory connection would spill into the current folder.
        "temp_directory": str(spill) if spill is not None else "",
    }
    if options.threads is not None:
        config["threads"] = options.threads
    if options.memory_limit is not None:
        config["memory_limit"] = options.memory_limit
    if options.whole_indexes:
        config |= {"index_scan_percentage": 1.0, "index_scan_max_count": 1 << 40}
    try:
        return duckdb.connect(":memory:", config=config)
    except duckdb.Error as error:
        raise InvalidInput(f"threads, memory_limit: DuckDB refuses them: {error}") from error


def _attach(con: duckdb.DuckDBPyConnection, path: Path, read_only: bool) -> None:
    access = ", READ_ONLY" if read_only else ""
    con.execute(f"ATTACH {_quote(path)} AS {CATALOG_ALIAS} (ROW_GROUP_SIZE {ROW_GROUP_SIZE}{access})")
    con.execute(f"USE {CATALOG_ALIAS}")


class Instance:
    """A DuckDB in memory that opens and closes one catalog file as often as it is asked to.

    Making one takes 20 ms, opening the file in it 1 ms: a store that shares its catalog with others closes it
    after every few questions. It can reach that file and nothing else.

    Parameters
    ----------
    path : Path
        The catalog.
    options : Options
    spill : Path or None
        Where large sorts may write; None for nowhere.
    """

    def __init__(self, path: Path, options: Options, spill: Path | None) -> None:
        self._path = path
        self._options = options
        self._spill = spill
        # What two instances have to have in common for one to stand in for the other.
        self._settings = (path, options, spill)
        self._root: duckdb.DuckDBPyConnection | None = None
        # Whether a file may be open in it: set before it is opened, and taken back when it is closed for sure.
        self._attached = False
        # The other file that it can reach: where a new catalog is made, to be renamed into place.
        self.draft = None if spill is None else spill / f"catalog-{_DRAFT}.duckdb"

    def attach(self, *, read_only: bool, path: Path | None = None) -> duckdb.DuckDBPyConnection:
        """Open the catalog, or its draft; errors as for `attach`."""
        path = path or self._path
        if self._attached:
            # By a call that was interrupted: nobody has the connection any more.
            self.discard()
        con = self._made().cursor()
        self._attached = True
        try:
            _attach(con, path, read_only)
        except duckdb.Error as error:
            self.discard(con)
            raise _explain(error, path) from error
        except BaseException:
            self.discard(con)
            raise
        return con

    def detach(self, con: duckdb.DuckDBPyConnection) -> None:
        """Close the file again; what was open on the connection is rolled back."""
        try:
            with contextlib.suppress(duckdb.Error):  # there is no transaction, most of the time
                con.rollback()
            con.execute("USE memory")
            con.execute(f"DETACH {CATALOG_ALIAS}")
        except BaseException as error:
            # After a fatal error, or interrupted: nobody can say what this instance still holds.
            self.discard(con)
            if not isinstance(error, duckdb.Error):
                raise
        else:
            self._attached = False
            con.close()

    @contextlib.contextmanager
    def rewriting(self, old: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a new draft in the catalog's place, and the catalog read-only under another name.

        Nothing is logged: what the draft was given is in it after a checkpoint, and not before. Both are closed
        when the block ends.

        Raises
        ------
        duckdb.Error
            As DuckDB gave it.
        """
        if self.draft is None:
            raise ValueError("an instance that may write nowhere")  # only read-only stores have one
        if self._attached:
            self.discard()
        con = self._made().cursor()
        self._attached = True
        try:
            con.execute(f"ATTACH {_quote(self._path)} AS {old} (READ_ONLY)")
            con.execute(
                f"ATTACH {_quote(self.draft)} AS {CATALOG_ALIAS} "
                f"(ROW_GROUP_SIZE {ROW_GROUP_SIZE}, BLOCK_SIZE {BLOCK_SIZE}, RECOVERY_MODE no_wal_writes)"
            )
            con.execute(f"USE {CATALOG_ALIAS}")
            yield con
            con.execute("USE memory")
            con.execute(f"DETACH {old}")
        except BaseException:
            # Nobody can say what is still under way in it.
            self.discard(con)
            raise
        self.detach(con)

    def discard(self, con: duckdb.DuckDBPyConnection | None = None) -> None:
        """Let go of everything; the next `attach` starts with a new instance."""
        root, self._root = self._root, None
        self._attached = False
        if con is not None:
            con.close()
        if root is not None:
            root.close()

    def put_by(self) -> None:
        """Let go of it for whoever opens the same catalog next in this process."""
        if self._attached:
            self.discard()
            return
        root, self._root = self._root, None
        if root is not None:
            spare.keep(self._settings, root)

    def abandon(self) -> list[duckdb.DuckDBPyConnection]:
        """Forget an instance that a forked child inherited; returns what must not be destroyed there."""
        root, self._root = self._root, None
        self._attached = False
        return [] if root is None else [root]

    def _made(self) -> duckdb.DuckDBPyConnection:
        if self._root is None:
            self._root = spare.take(self._settings)
        if self._root is None:
            root = _in_memory(self._options, self._spill)
            try:
                root.execute("SET GLOBAL TimeZone = 'UTC'")
                # The file, its log, and what a checkpoint or the recovery after a crash writes beside them.
                reached = [self._path] if self.draft is None else [self._path, self.draft]
                files = [f"{path}{end}" for path in reached for end in _FILE_ENDINGS]
                root.execute(f"SET allowed_paths = [{', '.join(_quote(Path(file)) for file in files)}]")
                # Neither changes an answer.
                root.execute("SET allowed_configs = ['enable_optimizer', 'max_vacuum_tasks']")
                root.execute("SET enable_external_access = false")
                root.execute("SET lock_configuration = true")
            except BaseException:
                root.close()
                raise
            self._root = root
        return self._root


def _explain(error: duckdb.Error, path: Path) -> Exception:
    text = str(error)
    if _LOCKED.search(text):
        return CatalogLocked(text)
    if _NO_SPACE.search(text):
        return WriteFailed(
            f"{path} could not be opened: {text} Nothing was changed; free space and call again."
        )
    return CatalogDamaged(
        f"{path} cannot be opened as a DuckDB catalog: {text} "
        "The file was left as it is. Restore it from a backup or from the copy that the last migration kept."
    )


def schema_version(con: duckdb.DuckDBPyConnection, path: Path) -> int:
    """Version of an attached catalog.

    Raises
    ------
    ForeignCatalog
        When the file is somebody else's.
    """
    try:
        # Asked at every opening, so not by way of a list of all tables.
        rows = execute(con, "SELECT value FROM nirs_store_meta WHERE key = 'schema_version'").fetchall()
    except (duckdb.CatalogException, duckdb.BinderException):
        raise ForeignCatalog(
            f"{path} is not a nirs_store catalog: it is {_whose(con)}. It was left untouched. "
            "Choose another folder for this workspace."
        ) from None
    if rows and str(rows[0][0]).isdigit():
        return int(rows[0][0])
    raise CatalogDamaged(f"{path} says it is ours but does not say its schema version. It was left as it is.")


def _whose(con: duckdb.DuckDBPyConnection) -> str:
    tables = {
        str(row[0])
        for row in con.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_catalog = ?", [CATALOG_ALIAS]
        ).fetchall()
    }
    if {"runs", "pipelines", "chains", "predictions"} <= tables:
        return (
            "a workspace of nirs4all 0.7 or 0.8, which used the same file name "
            "(`nirs-store migrate` brings its content into another folder)"
        )
    if tables:
        return f"a DuckDB database of another program (tables {', '.join(sorted(tables)[:5])})"
    return "an empty DuckDB database of unknown origin"


def create_catalog(layout: Layout, instance: Instance) -> None:
    """Make an empty catalog beside and rename it into place, so that none is ever half made."""
    draft = instance.draft
    if draft is None:
        raise ValueError("an instance that may write nowhere")  # only read-only stores have one
    clear_draft(draft)
    try:
        con = instance.attach(read_only=False, path=draft)
        try:
            con.execute("BEGIN")
            for statement in create_statements():
                con.execute(statement)
            for key, value in (
                ("format", "nirs_store"),
                ("schema_version", str(SCHEMA_VERSION)),
                ("workspace_id", new_id()),
            ):
                con.execute("INSERT INTO nirs_store_meta VALUES (?, ?)", [key, value])
            con.execute("COMMIT")
            con.execute(f"CHECKPOINT {CATALOG_ALIAS}")
        except duckdb.Error as error:
            raise _explain(error, draft) from error
        finally:
            instance.detach(con)
        try:
            fd = os.open(draft, os.O_RDWR)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            move_file(draft, layout.catalog)
            fsync_dir(layout.root)
        except OSError as error:
            if isinstance(error, NirsStoreError):
                raise
            raise write_error(draft, error) from error
    finally:
        clear_draft(draft)


def clear_draft(draft: Path) -> None:
    """Remove a draft that is not used, or that a killed process left: a fork has drafts of the same name."""
    remove_file(draft, missing_ok=True)
    remove_file(draft.with_name(draft.name + ".wal"), missing_ok=True)


def open_catalog(
    layout: Layout, *, read_only: bool, options: Options, instance: Instance | None = None
) -> duckdb.DuckDBPyConnection:
    """Attach the workspace's catalog, check whose it is and bring its schema up to date.

    Raises
    ------
    ForeignCatalog, SchemaTooNew, CatalogDamaged
        The file was left untouched.
    """

    def connect() -> duckdb.DuckDBPyConnection:
        if instance is not None:
            return instance.attach(read_only=read_only)
        return attach(
            layout.catalog, read_only=read_only, options=options, spill=None if read_only else layout.tmp
        )

    def close() -> None:
        if instance is not None:
            instance.detach(con)
        else:
            con.close()

    con = connect()
    try:
        version = schema_version(con, layout.catalog)
        if version > SCHEMA_VERSION:
            raise SchemaTooNew(
                f"{layout.catalog} has schema version {version}; this nirs_store reads up to {SCHEMA_VERSION}. "
                "It was left untouched. Upgrade nirs_store to open this workspace."
            )
        if read_only or not pending_migrations(version):
            return con
    except duckdb.Error as error:
        close()
        raise _explain(error, layout.catalog) from error
    except BaseException:
        close()
        raise
    close()
    migrate_catalog(
        layout, version, lambda: attach(layout.catalog, read_only=False, options=options, spill=layout.tmp)
    )
    return connect()


def open_migrated_copy(layout: Layout, folder: Path, *, options: Options) -> duckdb.DuckDBPyConnection:
    """Attach a copy of an older catalog, brought up to date in a folder of its own.

    For stores that may write nothing: the workspace stays as it is. The lease is held, and this process
    has the catalog closed, so that copying it drops no lock.
    """
    copy = Layout(folder)
    for place in copy.folders:
        place.mkdir(parents=True, exist_ok=True)
    for source, target in ((layout.catalog, copy.catalog), (layout.wal, copy.wal)):
        if source.exists():
            shutil.copyfile(source, target)
    open_catalog(copy, read_only=False, options=options).close()
    return attach(copy.catalog, read_only=True, options=options, spill=None)
