"""Rewriting the catalog into a new file: the only way DuckDB gives space back."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import duckdb

from nirs_store.blobs.durable import fsync_dir, move_file, write_error
from nirs_store.catalog.connection import Instance, clear_draft
from nirs_store.catalog.layout import Layout
from nirs_store.catalog.scalars import number
from nirs_store.catalog.schema import (
    CATALOG_ALIAS,
    TABLES,
    column_names,
    create_statement,
    create_statements,
)
from nirs_store.errors import CatalogDamaged, NirsStoreError, WriteFailed

__all__ = ["compact"]


_OLD = "old"
_ARRAYS = "arrays"


def compact(
    layout: Layout, instance: Instance, finish: Callable[[duckdb.DuckDBPyConnection], None] = lambda con: None
) -> None:
    """Copy the catalog row by row into a new file and rename it into place.

    The lease is held alone, the catalog is closed in `instance` and its log was checkpointed. `finish` writes a
    last thing into the new file. Nothing has changed when this raises.

    Raises
    ------
    WriteFailed, CatalogDamaged
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
            _copy(con, layout, finish)
        fd = os.open(draft, os.O_RDWR)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        move_file(draft, layout.catalog)
        fsync_dir(layout.root)
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


def _copy(
    con: duckdb.DuckDBPyConnection, layout: Layout, finish: Callable[[duckdb.DuckDBPyConnection], None]
) -> None:
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
            raise CatalogDamaged(
                f"Rewriting {layout.catalog} gave {after} rows of {table} for {before}; the old file is "
                "in place and unchanged. Run `nirs-store check --read-data`."
            )
