"""Results as polars data frames, made column by column.

`relation.pl()` copies the columns together on polars' thread pool, and in a child that was forked
after its parent had used that pool it waits for threads that do not exist there. Column by column
needs no pool, so a forked child gets its answers too.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from functools import cache
from typing import Any

import duckdb
import pyarrow as pa

from nirs_store.lazily import polars as pl

__all__ = ["few_rows", "to_frame"]


def to_frame(relation: duckdb.DuckDBPyRelation) -> pl.DataFrame:
    """Fetch a result whole; TIMESTAMP columns come back as UTC, as everything in the catalog is."""
    table: pa.Table = relation.to_arrow_table()
    return pl.DataFrame(
        [_series(name, column) for name, column in zip(table.column_names, table.columns, strict=True)]
    )


def few_rows(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pl.DataFrame:
    """Make the frame of a few rows that were fetched as Python values: for them Arrow takes as long as the query.

    Parameters
    ----------
    rows : sequence of sequences
        Values in the order of the columns, moments without a time zone.
    schema : pyarrow.Schema
        The columns, as `nirs_store.catalog.schema.arrow_schema` has them.
    """
    columns = _columns(schema)
    moments = [name for name, kind in columns.items() if isinstance(kind, pl.Datetime)]
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    for row in named:
        for name in moments:
            if row[name] is not None:
                row[name] = row[name].replace(tzinfo=UTC)
    # All columns at once: one by one, and the time zone set afterwards, takes ten times as long; as plain rows, three
    # times. Not by way of Arrow, which imports pandas when it is given a list, if that is installed.
    return pl.from_dicts(named, schema=columns) if named else pl.DataFrame(schema=columns)


@cache
def _columns(schema: pa.Schema) -> dict[str, pl.DataType]:
    return {field.name: _kind(field.type) for field in schema}


def _kind(kind: pa.DataType) -> pl.DataType:
    if pa.types.is_timestamp(kind):
        return pl.Datetime(kind.unit, "UTC")
    kinds = {
        pa.string(): pl.String(),
        pa.float64(): pl.Float64(),
        pa.int32(): pl.Int32(),
        pa.int64(): pl.Int64(),
    }
    return kinds[kind]


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
