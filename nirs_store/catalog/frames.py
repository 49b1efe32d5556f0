"""Results as polars data frames, made column by column.

`relation.pl()` copies the columns together on polars' thread pool, and in a child that was forked
after its parent had used that pool it waits for threads that do not exist there. Column by column
needs no pool, so a forked child gets its answers too.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from nirs_store.lazily import polars as pl

__all__ = ["to_frame"]


def to_frame(relation: duckdb.DuckDBPyRelation) -> pl.DataFrame:
    """Fetch a result whole; TIMESTAMP columns come back as UTC, as everything in the catalog is."""
    table: pa.Table = relation.to_arrow_table()
    return pl.DataFrame(
        [_series(name, column) for name, column in zip(table.column_names, table.columns, strict=True)]
    )


def _series(name: str, column: pa.ChunkedArray) -> pl.Series:
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):  # more than one chunk is left where offsets would overflow
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], column.type)
    if isinstance(values, pa.ExtensionArray):  # JSON is text with a label
        values = values.storage
    if pa.types.is_timestamp(values.type) and values.type.tz is None:
        values = values.cast(pa.timestamp(values.type.unit, "UTC"))
    made = pl.from_arrow(values)
    return pl.Series(name, made)
