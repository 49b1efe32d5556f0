"""Reading Parquet files: a stranger's may take a thousand times its size in memory."""

from __future__ import annotations

from pathlib import Path

from nirs_store.lazy import polars as pl
from nirs_store.reading.dialect import Unreadable, largest

# Each cell takes 8 bytes, and what is said of a row some more.
_CELL, _ROW = 8, 256


def parquet_frame(path: Path) -> pl.DataFrame:
    """Read a table whole, unless it is too large for that; equal values take hardly any room in the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        described = pq.read_metadata(path)
        parts = [described.row_group(number) for number in range(described.num_row_groups)]
        groups = [part.num_rows for part in parts]
        # A list in a cell counts with all its values.
        values = sum(part.column(place).num_values for part in parts for place in range(part.num_columns))
        size = sum(part.total_byte_size for part in parts)
    except pa.ArrowException as error:
        raise Unreadable(f"it cannot be read as Parquet: {error}.") from error
    rows, columns = max(described.num_rows, sum(groups)), described.num_columns
    most = largest()
    if min(groups, default=0) < 0 or max(max(rows * columns, values) * _CELL + rows * _ROW, size) > most:
        raise Unreadable(
            f"it has {rows:,} rows of {columns:,} columns, unpacked {size:,} bytes, which is too much. "
            "Divide it into several files."
        )
    frame = pl.read_parquet(path)
    text = [name for name, kind in frame.schema.items() if kind == pl.String]
    length = sum(int(frame[name].str.len_bytes().sum() or 0) for name in text)
    if length > most:
        raise Unreadable(f"its texts take {length:,} bytes, which is too much. Leave columns out.")
    return frame
