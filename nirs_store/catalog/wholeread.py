"""Reading a whole catalog: every column and index, so that DuckDB verifies every block, and every array.

A flipped bit in a block that no query needs today would otherwise wait for the query that does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa

from nirs_store.catalog.arrays import decode_array
from nirs_store.catalog.scalars import number
from nirs_store.catalog.schema import CATALOG_ALIAS
from nirs_store.catalog.segments import Segment
from nirs_store.errors import CatalogDamaged

__all__ = ["altered_arrays", "unreadable"]


def unreadable(con: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, str, str | None]]:
    """Read every column and every index; DuckDB verifies the checksum of each block it reads.

    Tables that never had a row have no blocks and are passed over.

    Yields
    ------
    table, what, reason
        "columns", "column …" or "index"; the reason is None for what could be read.

    Raises
    ------
    CatalogDamaged
        Not even the names of the tables can be read.
    """
    try:
        columns = con.execute(
            "SELECT c.table_name, c.column_name FROM duckdb_columns() c JOIN duckdb_tables() t USING (table_oid, "
            "database_name) WHERE database_name = ? AND NOT c.internal AND t.estimated_size > 0 "
            "ORDER BY c.table_name, c.column_index",
            [CATALOG_ALIAS],
        ).fetchall()
        keys = con.execute(
            "SELECT table_name, constraint_column_names[1] FROM duckdb_constraints() WHERE database_name = ? "
            "AND constraint_type IN ('PRIMARY KEY', 'UNIQUE') AND len(constraint_column_names) = 1 ORDER BY ALL",
            [CATALOG_ALIAS],
        ).fetchall()
    except duckdb.Error as error:
        raise CatalogDamaged(f"the catalog cannot be read: {error}") from error
    by_table: dict[str, list[str]] = {}
    for table, column in columns:
        by_table.setdefault(str(table), []).append(str(column))
    for table, names in by_table.items():
        # All columns at once, and one by one only to tell which of them it is.
        if _unread(con, table, names) is None:
            yield table, "columns", None
            continue
        for name in names:
            yield table, f"column {name}", _unread(con, table, [name])
    for table, column in keys:
        if str(table) not in by_table:
            continue
        try:
            yield str(table), "index", _differs(con, _name(str(table)), _name(str(column)))
        except duckdb.Error as error:
            yield str(table), "index", str(error)


def _unread(con: duckdb.DuckDBPyConnection, table: str, columns: list[str]) -> str | None:
    hashed = ", ".join(f"bit_xor(hash({_name(column)}))" for column in columns)
    try:
        con.execute(f"SELECT {hashed} FROM {_name(table)}").fetchall()
    except duckdb.Error as error:
        return str(error)
    return None


def _differs(con: duckdb.DuckDBPyConnection, table: str, key: str) -> str | None:
    """Walk a whole index: lookups and inserts use blocks that no scan of the table ever reads."""
    ((rows, least),) = con.execute(f"SELECT count(*), min({key}) FROM {table}").fetchall()
    if not rows:
        return None
    # Everything above the smallest key, and that one: DuckDB answers both from the index (see
    # `Options.whole_indexes`), where `>=` would be found to hold for every row and scanned.
    found = number(con, f"SELECT count({key}) FROM {table} WHERE {key} = ?", [least])
    found += number(con, f"SELECT count({key}) FROM {table} WHERE {key} > ?", [least])
    return None if found == rows else f"it finds {found} of {rows} rows"


def altered_arrays(con: duckdb.DuckDBPyConnection, segments: Sequence[Segment]) -> Iterator[str]:
    """Hash every array anew, also those of pending commits; yields the hashes that no longer fit.

    Raises
    ------
    CatalogDamaged
        The arrays cannot be read to their end.
    """
    try:
        for batch in con.sql("SELECT array_hash, dtype, shape, data FROM arrays").to_arrow_reader(512):
            yield from _altered(batch)
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise CatalogDamaged(f"the catalog cannot be read: {error}") from error
    for segment in segments:
        if "arrays" in segment.tables:
            for batch in segment.tables["arrays"].to_batches():
                yield from _altered(batch)


def _altered(batch: pa.RecordBatch) -> Iterator[str]:
    for array_hash, dtype, shape, data in zip(*(column.to_pylist() for column in batch.columns), strict=True):
        try:
            decode_array(array_hash, dtype, shape, data)
        except CatalogDamaged:
            yield array_hash


def _name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
