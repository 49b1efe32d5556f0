"""Checkpoints of the catalog, and rewriting it into a new file: the only way DuckDB gives space back."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb

from nirs_store.blobs.durable import fsync_dir, write_error
from nirs_store.blobs.plain import open_plain, stat_plain
from nirs_store.db.connection import Instance, clear_draft
from nirs_store.db.interrupts import interruptible
from nirs_store.db.journal import ARRAY_BYTES
from nirs_store.db.layout import Layout, put_in_place
from nirs_store.db.objects import OLD_ALIAS, foreign_objects, objects_of, quoted
from nirs_store.db.schema import CATALOG_ALIAS, TABLES, column_names, create_statement, create_statements
from nirs_store.db.sql import number
from nirs_store.errors import CatalogDamaged, NirsStoreError, WriteFailed

# A checkpoint makes a mark, and another one for so many commits. Until its rows are put together with others it
# costs a fifth of a megabyte; putting together those of 81 took 0.26 s.
MOST = 128
_COMMITS_A_MARK = 16
# Commits beside which putting groups together counts for little.
MANY = 64
_DUCKDB_DEFAULT = 100
# What a checkpoint adds to the file besides the rows.
_OVERHEAD = 1 << 18


class Checkpoint:
    """What a store has changed in the catalog and not yet written into its file."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._pending = False
        self._commits = 0
        self._tidying = False

    def need(self, *, tidying: bool) -> None:
        """Ask for one when the catalog is released, and, with `tidying`, for small row groups to be put together."""
        self._pending = True
        self._tidying = self._tidying or tidying

    def offer(self) -> None:
        """Have it put them together if it has much to write anyway: nobody of this process waits for it."""
        self._tidying = self._tidying or self._commits >= MANY

    def count(self, commits: int) -> None:
        """Note how many commits were applied."""
        self._commits += commits

    def write(self, con: duckdb.DuckDBPyConnection, *, hurried: bool) -> bool:
        """Make it, if anything was changed; tells whether it was made."""
        if not self._pending or not self._has_room(con):
            return False
        tidying = (self._tidying and not hurried) or self._marks() >= MOST
        commits = self._commits
        self._pending, self._commits, self._tidying = False, 0, False
        if tidying:
            con.execute(f"CHECKPOINT {CATALOG_ALIAS}")
            with contextlib.suppress(OSError):
                self._layout.untidied.unlink(missing_ok=True)
            return True
        try:
            con.execute("SET GLOBAL max_vacuum_tasks = 0")
            con.execute(f"CHECKPOINT {CATALOG_ALIAS}")
        finally:
            with contextlib.suppress(duckdb.Error):  # after a fatal error the instance is not used again
                con.execute(f"SET GLOBAL max_vacuum_tasks = {_DUCKDB_DEFAULT}")
        # A hint for the next process that holds the lock; without it groups stay small for longer.
        with contextlib.suppress(OSError):
            marks = open_plain(self._layout.untidied, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            with os.fdopen(marks, "ab") as file:
                file.write(b"." * (1 + commits // _COMMITS_A_MARK))
        return True

    def _has_room(self, con: duckdb.DuckDBPyConnection) -> bool:
        """Whether the disk has room for what the log holds; much of that may have been deleted again."""
        try:
            logged, free = self._layout.wal.stat().st_size, shutil.disk_usage(self._layout.root).free
        except OSError:  # there is no log, or nobody can say
            return True
        if free >= logged + _OVERHEAD:
            return True
        return number(con, f"SELECT coalesce(sum({ARRAY_BYTES}), 0) FROM arrays") + _OVERHEAD <= free

    def _marks(self) -> int:
        try:
            return stat_plain(self._layout.untidied).st_size
        except OSError:
            return 0


_OLD = OLD_ALIAS
_ARRAYS = "arrays"


def compact(
    layout: Layout, instance: Instance, finish: Callable[[duckdb.DuckDBPyConnection], None] = lambda con: None
) -> None:
    """Copy the catalog row by row into a new file and rename it into place.

    The lease is held alone, the catalog is closed in `instance` and its log was checkpointed. `finish` writes a
    last thing into the new file. Nothing has changed when this raises.
    """
    if layout.wal.exists():
        # The log belongs to the old file and would be replayed into the new one.
        raise WriteFailed(
            f"{layout.wal} could not be checkpointed, so the catalog cannot be rewritten. Nothing was lost; "
            "free space and call again."
        )
    draft = instance.draft
    if draft is None:
        raise ValueError("an instance that may write nowhere")  # only read-only stores have one
    clear_draft(draft)
    try:
        # Were the log to come back after a power loss, it must not find the new file.
        fsync_dir(layout.root)
        with instance.rewriting(_OLD) as con:
            interruptible(con, lambda con: _copy(con, layout, finish))
        _take_rights(draft, layout.catalog)
        put_in_place(draft, layout.catalog)
    except duckdb.Error as error:
        raise WriteFailed(
            f"{layout.catalog} could not be rewritten: {error} The old file is in place and unchanged; "
            "free space and call again."
        ) from error
    except OSError as error:
        if isinstance(error, NirsStoreError):
            raise
        raise write_error(layout.catalog, error) from error
    finally:
        clear_draft(draft)


def _take_rights(draft: Path, old: Path) -> None:
    """Give the new file the owner, group and mode of the old one, so that those who could open it still can."""
    found = os.stat(old)
    if os.name != "nt":
        for owner in (found.st_uid, -1):
            # Of another user's file the group can be kept, by a member of it; root keeps both.
            with contextlib.suppress(PermissionError):
                os.chown(draft, owner, found.st_gid)
                break
    os.chmod(draft, stat.S_IMODE(found.st_mode))


def _copy(
    con: duckdb.DuckDBPyConnection, layout: Layout, finish: Callable[[duckdb.DuckDBPyConnection], None]
) -> None:
    if foreign_objects(objects_of(con, _OLD)):
        _copy_everything(con, layout, finish)
        return
    tables = [table for table in TABLES if table != _ARRAYS]
    con.execute(create_statement(TABLES[_ARRAYS]))
    other = con.cursor()
    try:
        # Decompressing arrays is one thread's work, and takes about as long as everything else before the checkpoint.
        with ThreadPoolExecutor(1, thread_name_prefix="nirs-store-vacuum") as beside:
            try:
                arrays = beside.submit(_copy_arrays, other, layout)
                con.execute("BEGIN")
                for statement in create_statements(tables):
                    con.execute(statement)
                _copy_tables(con, layout, tables)
                finish(con)
                con.execute("COMMIT")
                arrays.result()
            except BaseException:
                other.interrupt()  # a large catalog is not waited for
                raise
    finally:
        other.close()
    con.execute(f"CHECKPOINT {CATALOG_ALIAS}")


def _copy_everything(
    con: duckdb.DuckDBPyConnection, layout: Layout, finish: Callable[[duckdb.DuckDBPyConnection], None]
) -> None:
    """Copy a catalog with what others have put there, in DuckDB's own way: it keeps rows in the order they came."""
    con.execute(f"COPY FROM DATABASE {_OLD} TO {CATALOG_ALIAS}")
    lost = {str(each) for each in objects_of(con, _OLD)} - {str(each) for each in objects_of(con)}
    if lost:
        raise WriteFailed(
            f"{layout.catalog} could not be rewritten: DuckDB does not copy {', '.join(sorted(lost))}, which others "
            "have put there. The old file is in place and unchanged. Move it into a file of its own and call again."
        )
    for each in objects_of(con, _OLD):
        if each.kind == "table":
            name = f"{quoted(each.schema)}.{quoted(each.name)}"
            counts = [number(con, f"SELECT count(*) FROM {alias}.{name}") for alias in (_OLD, CATALOG_ALIAS)]
            if counts[0] != counts[1]:
                raise _rows_lost(layout, each.name, counts[0], counts[1])
    con.execute("BEGIN")
    finish(con)
    con.execute("COMMIT")
    con.execute(f"CHECKPOINT {CATALOG_ALIAS}")


def _rows_lost(layout: Layout, table: str, before: int, after: int) -> CatalogDamaged:
    return CatalogDamaged(
        f"Rewriting {layout.catalog} gave {after} rows of {table} for {before}; the old file is "
        "in place and unchanged. Run `nirs-store check --read-data`."
    )


def _copy_arrays(con: duckdb.DuckDBPyConnection, layout: Layout) -> None:
    con.execute("BEGIN")
    _copy_tables(con, layout, [_ARRAYS])
    con.execute("COMMIT")


def _copy_tables(con: duckdb.DuckDBPyConnection, layout: Layout, tables: Sequence[str]) -> None:
    counts = " UNION ALL ".join(f"SELECT '{table}', count(*) FROM {_OLD}.{table}" for table in tables)
    for table, before in con.execute(counts).fetchall():
        if not before:
            continue
        names = ", ".join(column_names(table))
        # In the order of the key: ids sort by time, so a pipeline's rows lie together. Arrays stay in the order
        # in which they came, because that of their hashes would scatter them: what is read to get one is
        # decompressed two thousand at a time.
        order = "" if table == _ARRAYS else " ORDER BY 1"
        new = f"{CATALOG_ALIAS}.{table}"
        after = number(con, f"INSERT INTO {new} ({names}) SELECT {names} FROM {_OLD}.{table}{order}")
        if before != after:
            raise _rows_lost(layout, table, before, after)
