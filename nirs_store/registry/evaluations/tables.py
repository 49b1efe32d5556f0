"""Tables of episodes and samples: taken from anybody, kept as Parquet, handed out as CSV or JSON."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from nirs_store.blobs.durable import ensure_dir, write_file
from nirs_store.catalog.values import to_json
from nirs_store.errors import InvalidInput
from nirs_store.frames import native
from nirs_store.lazily import polars as pl

__all__ = ["EXPORT_FORMATS", "as_table", "export_table", "from_parquet", "to_parquet"]

EXPORT_FORMATS = ("csv", "json", "both")


def as_table(value: Any, name: str) -> pl.DataFrame:
    """Take a table of a polars or pandas frame, Arrow data, a mapping of columns, or a list of dicts.

    Raises
    ------
    InvalidInput
        It is none of these, has no rows or no columns, or holds what a table cannot.
    """
    value = native(value, name)
    try:
        if isinstance(value, pl.DataFrame):
            table = value
        elif type(value).__module__.partition(".")[0] == "pandas":
            table = pl.from_pandas(value)
        elif isinstance(value, Mapping):
            table = pl.DataFrame(dict(value))
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            rows = list(value)
            if not all(isinstance(row, Mapping) for row in rows):
                raise InvalidInput(
                    f"{name}: expected a dict a row, found {_kinds(rows)}. Nothing was recorded."
                )
            # A column that the first rows lack is a column all the same.
            columns = list(dict.fromkeys(str(key) for row in rows for key in row))
            plain = [{str(key): cell for key, cell in row.items()} for row in rows]
            table = pl.DataFrame(
                {c: pl.Series(c, [row.get(c) for row in plain], strict=True) for c in columns}
            )
        else:
            raise InvalidInput(
                f"{name}: expected a data frame or a list of dicts, found {type(value).__name__}. "
                "Nothing was recorded."
            )
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(
            f"{name}: expected columns of one kind of value each, found otherwise: {error}. Nothing was recorded."
        ) from error
    if not table.height or not table.width:
        raise InvalidInput(f"{name}: expected at least one row, found none. Leave it out instead.")
    opaque = [column for column, kind in table.schema.items() if kind == pl.Object]
    if opaque:
        raise InvalidInput(
            f"{name}: the columns {', '.join(opaque)} hold Python objects. Turn them into text or numbers; "
            "nothing was recorded."
        )
    return table


def _kinds(rows: Sequence[Any]) -> str:
    return ", ".join(sorted({type(row).__name__ for row in rows}))


def to_parquet(table: pl.DataFrame) -> bytes:
    """A table as a Parquet file; the same table gives the same bytes."""
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd", statistics=False)
    return buffer.getvalue()


def from_parquet(data: bytes) -> pl.DataFrame:
    """Read what `to_parquet` wrote."""
    return pl.read_parquet(io.BytesIO(data))


def export_table(
    table: pl.DataFrame, facts: Mapping[str, Any], folder: Path, stem: str, what: str, format: str
) -> dict[str, Path]:
    """Write a table as CSV, as JSON with the facts of its evaluation, or as both.

    Returns
    -------
    dict
        The files by format.

    Raises
    ------
    InvalidInput
        An unknown format.
    WriteFailed, ReadOnlyStore
    """
    if format not in EXPORT_FORMATS:
        from nirs_store.scores import unknown_name

        raise InvalidInput(unknown_name("format", format, EXPORT_FORMATS))
    ensure_dir(folder)
    written: dict[str, Path] = {}
    if format in ("csv", "both"):
        written["csv"] = folder / f"{stem}-{what}.csv"
        write_file(written["csv"], _flat(table).write_csv().encode())
    if format in ("json", "both"):
        written["json"] = folder / f"{stem}-{what}.json"
        text = to_json({"evaluation": dict(facts), what: table.to_dicts()}, what) or ""
        write_file(written["json"], msgspec.json.format(text.encode(), indent=2))
    return written


def _flat(table: pl.DataFrame) -> pl.DataFrame:
    """Lists and records as JSON text: a cell of a CSV file holds one value."""
    nested = [name for name, kind in table.schema.items() if kind.is_nested()]
    return table.with_columns(
        pl.Series(
            name, [None if cell is None else to_json(_items(cell), name) for cell in table[name]], pl.String
        )
        for name in nested
    )


def _items(cell: Any) -> Any:
    return cell.to_list() if isinstance(cell, pl.Series) else cell
