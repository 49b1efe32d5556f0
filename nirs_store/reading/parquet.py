"""Reading Parquet files: a stranger's may take a thousand times its size in memory."""

from __future__ import annotations

from pathlib import Path

from nirs_store.lazy import polars as pl
from nirs_store.reading.dialect import Unreadable

__all__ = ["parquet_frame"]

# As much as an unpacked text file may have: each cell takes 8 bytes, and what is said of a row some more.
_MOST, _CELL, _ROW = 2**31, 8, 256


def parquet_frame(path: Path) -> pl.DataFrame:
    """Read a table whole, unless it is too large for that; equal values take hardly any room in the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        described = pq.read_metadata(path)
        groups = [described.row_group(number).num_rows for number in range(described.num_row_groups)]
    except pa.ArrowException as error:
        raise Unreadable(f"it cannot be read as Parquet: {error}.") from error
    rows, columns = max(described.num_rows, sum(groups)), described.num_columns
    if min(groups, default=0) < 0 or rows * (columns * _CELL + _ROW) > _MOST:
        raise Unreadable(
            f"it has {rows:,} rows of {columns:,} columns, which is too much. Divide it into several files."
        )
    frame = pl.read_parquet(path)
    text = [name for name, kind in frame.schema.items() if kind == pl.String]
    length = sum(int(frame[name].str.len_bytes().sum() or 0) for name in text)
    if length > _MOST:
        raise Unreadable(f"its texts take {length:,} bytes, which is too much. Leave columns out.")
    return frame
