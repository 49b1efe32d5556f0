"""Opening store.duckdb: the settings, whose file it is, and its schema.

Always called under the lock. The file is attached to an in-memory connection, because the
row group size can only be said at ATTACH; then everything that could reach outside is locked.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import duckdb
import msgspec

from nirs_store.blobs.durable import remove_file, write_error
from nirs_store.blobs.plain import share, stat_plain
from nirs_store.db.layout import Layout, put_in_place
from nirs_store.db.schema import (
    BLOCK_SIZE,
    CATALOG_ALIAS,
    ROW_GROUP_SIZE,
    SCHEMA_VERSION,
    create_statements,
    objects_of,
    refuse_altered,
    refuse_false_meta,
    remember,
    was_inspected,
)
from nirs_store.db.sql import execute
from nirs_store.errors import (
    CatalogDamaged,
    ForeignCatalog,
    InvalidInput,
    NirsStoreError,
    ReadOnlyStore,
    SchemaTooNew,
    StoreBusy,
    WriteFailed,
)
from nirs_store.ids import new_id
from nirs_store.lazy import hold_while_forking

# -- DuckDB instances of stores that were closed, kept for the next store of the same catalog in this process.


# An idle instance takes 4 MB and some sleeping threads.
_MOST = 2

_pool: OrderedDict[Hashable, duckdb.DuckDBPyConnection] = OrderedDict()
# A store may be collected, and so closed, wherever something is allocated: also in here.
_lock = threading.RLock()


def take(key: Hashable) -> duckdb.DuckDBPyConnection | None:
    """Take the pooled instance that was made with these settings for this catalog; no other caller gets it."""
    with _lock:
        return _pool.pop(key, None)


def keep(key: Hashable, instance: duckdb.DuckDBPyConnection) -> None:
    """Keep an instance, in which nothing is attached, in place of an older one."""
    with _lock:
        # Two stores of one catalog may be closed, one after the other.
        dropped = [_pool.pop(key)] if key in _pool else []
        _pool[key] = instance
        while len(_pool) > _MOST:
            dropped.append(_pool.popitem(last=False)[1])
    for other in dropped:
        other.close()


def clear() -> None:
    """Close them all: a child would wait for threads that it has not got."""
    with _lock:
        dropped = list(_pool.values())
        _pool.clear()
    for instance in dropped:
        instance.close()


atexit.register(clear)
# Before a fork the last that was registered comes first: cleared, and then held.
hold_while_forking(_lock)
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(before=clear)


_FILE_ENDINGS = ("", ".wal", ".wal.checkpoint", ".wal.recovery", ".checkpoint.wal", ".recovery.wal", ".tmp")
_LOCKED = re.compile(r"[Cc]ould not set lock|[Cc]onflicting lock|being used by another process")
_OWN = re.compile(r"Unique file handle conflict|already attached")
_HOLDER = re.compile(r"held in (.+?) \(PID (\d+)\)")
_DENIED = re.compile(r"Permission denied|Access is denied")
_NO_SPACE = re.compile(
    r"No space left|Input/output error|Disk quota|Read-only file system|[Nn]ot enough space"
)


# Part of the name of the drafts of this process: an instance may be handed on, and can reach no other file. Only the
# holder of the lock makes one.
_DRAFT = new_id()


class CatalogLocked(Exception):
    """A connection outside this protocol has the file open, of another program or of this process (`own`)."""

    def __init__(self, words: str, *, own: bool = False, pid: int | None = None) -> None:
        super().__init__(words)
        self.own = own
        self.pid = pid


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
    """Connect to a catalog file in a DuckDB of its own, which ends with the connection."""
    return Instance(path, options, spill).attach(read_only=read_only)


def _in_memory(options: Options, spill: Path | None) -> duckdb.DuckDBPyConnection:
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        # For remote files: eight threads a store that would never have anything to do.
        "async_threads": 0,
        # Checkpoints are made where there is room for them, see `Checkpoint`: one that fails has filled the disk.
        "checkpoint_threshold": "1TB",
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
    _require_plain(path)
    access = ", READ_ONLY" if read_only else ""
    con.execute(f"ATTACH {_quote(path)} AS {CATALOG_ALIAS} (ROW_GROUP_SIZE {ROW_GROUP_SIZE}{access})")
    con.execute(f"USE {CATALOG_ALIAS}")


def _require_plain(path: Path) -> None:
    """Refuse a catalog that is a link or a pipe: it may be another workspace's, whose lock is not the one held."""
    for end in _FILE_ENDINGS:
        if end == ".tmp":
            continue  # a folder, where DuckDB spills
        place = Path(f"{path}{end}")
        try:
            stat_plain(place)
        except FileNotFoundError:
            continue
        except PermissionError as error:
            raise _no_right(path, error) from error
        except OSError as error:
            raise ForeignCatalog(
                f"{place} was not opened: {error.strerror}. A workspace has its catalog in a file of its own. Nothing "
                "was changed. Name the folder where the catalog is, or move away what is in its place."
            ) from error


def _no_right(path: Path, error: BaseException) -> ReadOnlyStore:
    return ReadOnlyStore(
        f"{path} could not be opened, because this user may not: {error}. Nothing was changed, and nothing is damaged. "
        "Let its owner give the right to read and write (chmod g+rw), or open the workspace with read_only=True."
    )


class Instance:
    """A DuckDB in memory that opens and closes one catalog file as often as it is asked to.

    Making one takes 20 ms, opening the file in it 1 ms: a store that shares its catalog with others closes it
    after every few questions. It can reach that file and nothing else.
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
            # By a call that was interrupted: nothing uses the connection any more.
            self.discard()
        con = self._made().cursor()
        self._attached = True
        try:
            _attach(con, path, read_only)
        except duckdb.Error as error:
            self.discard(con)
            raise explain(error, path) from error
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
            # After a fatal error, or interrupted: the state of this instance is unknown.
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
            # Work may still be under way in it.
            self.discard(con)
            raise
        self.detach(con)

    def discard(self, con: duckdb.DuckDBPyConnection | None = None) -> None:
        """Release everything; the next `attach` starts with a new instance."""
        root, self._root = self._root, None
        self._attached = False
        if con is not None:
            con.close()
        if root is not None:
            root.close()

    def release(self) -> None:
        """Release it to the next store of the same catalog in this process."""
        if self._attached:
            self.discard()
            return
        root, self._root = self._root, None
        if root is not None:
            keep(self._settings, root)

    def abandon(self) -> list[duckdb.DuckDBPyConnection]:
        """Forget an instance that a forked child inherited; returns what must not be destroyed there."""
        root, self._root = self._root, None
        self._attached = False
        return [] if root is None else [root]

    def _made(self) -> duckdb.DuckDBPyConnection:
        if self._root is None:
            self._root = take(self._settings)
        if self._root is None:
            root = _in_memory(self._options, self._spill)
            try:
                root.execute("SET GLOBAL TimeZone = 'UTC'")
                root.execute("PRAGMA disable_checkpoint_on_shutdown")
                # The file, its log, and what a checkpoint or the recovery after a crash writes next to them.
                reached = [self._path] if self.draft is None else [self._path, self.draft]
                files = [f"{path}{end}" for path in reached for end in _FILE_ENDINGS]
                root.execute(f"SET allowed_paths = [{', '.join(_quote(Path(file)) for file in files)}]")
                # It changes no answer.
                root.execute("SET allowed_configs = ['max_vacuum_tasks']")
                root.execute("SET enable_external_access = false")
                root.execute("SET lock_configuration = true")
            except BaseException:
                root.close()
                raise
            self._root = root
        return self._root


def explain(error: duckdb.Error, path: Path) -> Exception:
    """Return the error of this library for what DuckDB says of a file that it cannot open."""
    text = str(error)
    if _OWN.search(text):
        return CatalogLocked("by another DuckDB connection of this process (duckdb.connect)", own=True)
    if _LOCKED.search(text):
        # Not DuckDB's advice to open the file read-only: it would be a second program outside the lock.
        holder = _HOLDER.search(text)
        words = f"in another program: {holder[1]} (PID {holder[2]})" if holder else "in another program"
        return CatalogLocked(words, pid=int(holder[2]) if holder else None)
    if _DENIED.search(text):
        return _no_right(path, error)
    if _NO_SPACE.search(text):
        return WriteFailed(
            f"{path} could not be opened: {text} Nothing was changed; free space and call again."
        )
    if "WAL file" in text:
        return CatalogDamaged(
            f"DuckDB's log {path.name}.wal cannot be read: {text} Nothing was changed. Move the log out of "
            f"{path.parent} and open the workspace again: the commits that it holds are in the journal too and are "
            "applied again. "
            "Deletions, files, evaluations and settings that it holds are lost without it; a backup has them."
        )
    advice = "Restore it from a backup or from the copy that the last migration kept."
    if Layout(path.parent).replica.exists():
        advice = "It is this computer's replica of a shared workspace: `nirs-store repair` builds it again."
    return CatalogDamaged(
        f"{path} cannot be opened as a DuckDB catalog: {text} The file was left as it is. {advice}"
    )


def inspect_catalog(con: duckdb.DuckDBPyConnection, path: Path) -> int:
    """Version of an attached catalog in which nothing of others acts."""
    known = was_inspected(path)
    objects = [] if known else objects_of(con)
    refuse_false_meta(objects, path)
    version = schema_version(con, path)
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{path} has schema version {version}; this nirs_store reads up to {SCHEMA_VERSION}. "
            "It was left untouched. Upgrade nirs_store to open this workspace."
        )
    if not known:
        refuse_altered(con, objects, path)
        remember(path)
    return version


def schema_version(con: duckdb.DuckDBPyConnection, path: Path) -> int:
    """Version of an attached catalog."""
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


def create_catalog(
    layout: Layout, instance: Instance, meta: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Make an empty catalog in another file and rename it into place, so that none is ever half made.

    `meta` says more of it, or something else than is usual.
    """
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
            usual = {"format": "nirs_store", "schema_version": str(SCHEMA_VERSION), "workspace_id": new_id()}
            for key, value in (usual | dict(meta)).items():
                con.execute("INSERT INTO nirs_store_meta VALUES (?, ?)", [key, value])
            con.execute("COMMIT")
            con.execute(f"CHECKPOINT {CATALOG_ALIAS}")
        except duckdb.Error as error:
            raise explain(error, draft) from error
        finally:
            instance.detach(con)
        try:
            share(draft, layout.root)
            put_in_place(draft, layout.catalog)
        except OSError as error:
            if isinstance(error, NirsStoreError):
                raise
            raise write_error(draft, error) from error
    finally:
        clear_draft(draft)
    # A new catalog holds nothing of others.
    remember(layout.catalog)


def clear_draft(draft: Path) -> None:
    """Remove a draft that is not used, or that a killed process left: a fork has drafts of the same name."""
    remove_file(draft, missing_ok=True)
    remove_file(draft.with_name(draft.name + ".wal"), missing_ok=True)


def refuse_foreign(layout: Layout, options: Options) -> None:
    """Refuse a store.duckdb that is not ours before anything is made next to it."""
    try:
        con = attach(layout.catalog, read_only=True, options=options, spill=None)
    except CatalogLocked as error:
        raise StoreBusy(
            f"{layout.catalog} is open {error}, and has no journal next to it. "
            "Nothing was changed. Close it there and open the workspace again.",
            pid=error.pid,
        ) from error
    try:
        inspect_catalog(con, layout.catalog)
    except duckdb.Error as error:
        raise CatalogDamaged(f"{layout.catalog} cannot be read: {error} It was left as it is.") from error
    finally:
        con.close()
