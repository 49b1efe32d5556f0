"""Rewriting the catalog into a new file: the only way DuckDB gives space back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import duckdb

from nirs_store.blobs.durable import fsync_dir, move_file, remove_file, write_error
from nirs_store.catalog.layout import Layout
from nirs_store.catalog.scalars import number
from nirs_store.catalog.schema import (
    BLOCK_SIZE,
    CATALOG_ALIAS,
    ROW_GROUP_SIZE,
    TABLES,
    column_names,
    create_statements,
)
from nirs_store.errors import CatalogDamaged, NirsStoreError, WriteFailed
from nirs_store.ids import new_id

__all__ = ["compact"]


def compact(layout: Layout, finish: Callable[[duckdb.DuckDBPyConnection], None] = lambda con: None) -> None:
    """Copy the catalog row by row into a new file and rename it into place.

    The lease is held alone, the catalog is closed and its log was checkpointed. `finish` writes a last
    thing into the new file. Nothing has changed when this raises.

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
    draft = layout.tmp / f"catalog-{new_id()}.duckdb"
    try:
        # Were the log to come back after a power loss, it must not find the new file.
        fsync_dir(layout.root)
        _copy(layout, draft, finish)
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
        remove_file(draft, missing_ok=True)
        remove_file(draft.with_name(draft.name + ".wal"), missing_ok=True)


def _copy(layout: Layout, draft: Path, finish: Callable[[duckdb.DuckDBPyConnection], None]) -> None:
    con = duckdb.connect(":memory:", config={"temp_directory": str(layout.tmp), "async_threads": 0})
    try:
        new = f", BLOCK_SIZE {BLOCK_SIZE}"
        for path, alias, option in ((layout.catalog, "old", ", READ_ONLY"), (draft, CATALOG_ALIAS, new)):
            quoted = str(path).replace("'", "''")
            con.execute(f"ATTACH '{quoted}' AS {alias} (ROW_GROUP_SIZE {ROW_GROUP_SIZE}{option})")
        # So that the commit writes the file itself, and not a log that the checkpoint would write once more.
        con.execute("SET checkpoint_threshold = '1KB'")
        con.execute(f"USE {CATALOG_ALIAS}")
        con.execute("BEGIN")
        for statement in create_statements():
            con.execute(statement)
        counts = " UNION ALL ".join(f"SELECT '{table}', count(*) FROM old.{table}" for table in TABLES)
        for table, before in con.execute(counts).fetchall():
            if not before:
                continue
            names = ", ".join(column_names(table))
            # In the order of the key: ids sort by time, so a pipeline's rows lie together. Arrays stay in the order
            # in which they came, because that of their hashes would scatter them: what is read to get one is
            # decompressed two thousand at a time.
            order = "" if table == "arrays" else " ORDER BY 1"
            after = number(con, f"INSERT INTO {table} ({names}) SELECT {names} FROM old.{table}{order}")
            if before != after:
                raise CatalogDamaged(
                    f"Rewriting {layout.catalog} gave {after} rows of {table} for {before}; the old file is "
                    "in place and unchanged. Run `nirs-store check --read-data`."
                )
        finish(con)
        con.execute("COMMIT")
        con.execute(f"CHECKPOINT {CATALOG_ALIAS}")
    finally:
        con.close()
