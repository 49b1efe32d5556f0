"""Tables in other forms: Excel and Parquet read within bounds, and CSV written for people."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from nirs_store.errors import InvalidInput
from nirs_store.lazy import polars as pl
from nirs_store.reading.cells import safe_cell
from nirs_store.reading.dialect import Unreadable, largest

# -- Excel workbooks (.xlsx, .xlsm): a sheet becomes rows of text and is read by the same rules as a CSV file.

_LARGEST_UNPACKED = 2**30
#: Bytes that a cell takes as text and as an object of Python.
_CELL_AS_TEXT = 64
_MOST_EMPTY = 10_000
_RATIO = 200
_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\s[^>]*?ref="([A-Z]+)(\d+):([A-Z]+)(\d+)"')


def sheet_as_text(
    data: bytes, sheet: str | int | None = None, decimal: str | None = None
) -> tuple[bytes, str]:
    """Return the cells of a sheet as CSV text, one line per row, and the name of the sheet."""
    try:
        import openpyxl
    except ImportError as error:
        raise InvalidInput(
            'Reading Excel workbooks needs openpyxl. Install it with: pip install "nirs-store[excel]"; or save the '
            "sheet as CSV."
        ) from error
    _check_size(data)
    try:
        # Values only: of a formula what Excel computed last.
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    except Exception as error:
        raise Unreadable(
            f"this workbook cannot be opened ({_short(error)}). Save it in Excel once more."
        ) from error
    try:
        chosen = _choose(book, sheet)
        return _text(data, chosen, decimal or "."), str(chosen.title)
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(
            f"a sheet cannot be read ({_short(error)}). Save the workbook in Excel once more."
        ) from error
    finally:
        book.close()


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:100]


def _check_size(data: bytes) -> None:
    """Refuse archives that unpack to more than a workbook does, before anything is unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise Unreadable("this is not a complete workbook; it was cut off or is damaged.") from error
    if "xl/workbook.xml" not in {member.filename for member in members}:
        raise Unreadable("this is not an Excel workbook (.xlsx), but another ZIP archive.")
    size = sum(member.file_size for member in members)
    if size > min(_LARGEST_UNPACKED, largest()) or size > max(_RATIO * len(data), 2**24):
        raise Unreadable(
            f"this workbook unpacks to {size / 2**20:,.0f} MiB, which is too much. Save the sheet as CSV."
        )


def _choose(book: Any, sheet: str | int | None) -> Any:
    sheets = list(book.worksheets)
    names = [each.title for each in sheets]
    shown = ", ".join(repr(name) for name in names[:10]) or "none"
    if sheet is None:
        filled = [each for each in sheets if next(_rows(each), None) is not None]
        if not filled:
            raise Unreadable(f"its sheets are empty: {shown}.")
        if len(filled) > 1:
            raise Unreadable(
                f"it has several sheets: {shown}. Say which: sheet={filled[0].title!r} (--sheet)."
            )
        return filled[0]
    if str(sheet) in names:
        return sheets[names.index(str(sheet))]
    if str(sheet).isdigit() and 1 <= int(sheet) <= len(sheets):
        return sheets[int(sheet) - 1]
    raise Unreadable(f"it has no sheet {sheet!r}; its sheets are {shown}.")


def _rows(sheet: Any) -> Iterator[tuple[Any, ...]]:
    """Return the rows that hold anything, with empty ones between; the size that a sheet claims may be false."""
    sheet.reset_dimensions()
    empty = cells = 0
    most = largest() // _CELL_AS_TEXT
    for row in sheet.iter_rows(values_only=True):
        cells += len(row) + 1
        if cells > most:
            raise Unreadable(f"the sheet {sheet.title!r} has more than {most:,} cells. Save it as CSV.")
        if all(value is None for value in row):
            empty += 1
            continue
        if empty > _MOST_EMPTY:
            raise Unreadable(
                f"the sheet {sheet.title!r} has {empty:,} empty rows between others. Delete what is below."
            )
        for _ in range(empty):
            yield ()
        empty = 0
        yield row


def _text(data: bytes, sheet: Any, decimal: str) -> bytes:
    _check_merged(data, sheet)
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter="\t", lineterminator="\n")
    most = largest()
    for row in _rows(sheet):
        # An empty line holds the place of an empty row, so that messages name the right one.
        cells = [_cell(value, decimal) for value in row] or [""]
        # A workbook holds equal texts once, however many cells show them.
        if sink.tell() + sum(map(len, cells)) > most:
            raise Unreadable(
                f"the texts of the sheet {sheet.title!r} take more than {most:,} bytes. Leave columns out."
            )
        writer.writerow(cells)
    if not sink.tell():
        raise Unreadable(f"the sheet {sheet.title!r} is empty.")
    return sink.getvalue().encode()


def _cell(value: Any, decimal: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float):
        text = repr(value) if not value.is_integer() or abs(value) >= 1e15 else str(int(value))
        return text.replace(".", decimal)
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return str(value)
    return re.sub(r"\s+", " ", str(value)).strip()


def _check_merged(data: bytes, sheet: Any) -> None:
    """Refuse cells that are merged over several rows: all but the first of them would be empty."""
    # openpyxl does not tell of merged cells when it reads row by row.
    path = str(sheet._worksheet_path).lstrip("/")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        xml = archive.read(path)
    for found in _MERGED.finditer(xml):
        left, top, right, bottom = (part.decode() for part in found.groups())
        if top != bottom:
            raise Unreadable(
                f"the cells {left}{top}:{right}{bottom} of the sheet {sheet.title!r} are merged over several rows. "
                "Unmerge them, and write the value into each row."
            )


# -- Writing tables as CSV for people: no cell of text is taken for a formula.


def _whole_text(value: Any) -> str:
    """Write a value of several parts as one cell: a list with commas, what has parts of its own as JSON."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list) and not any(isinstance(each, list | dict) for each in value):
        return ", ".join("" if each is None else str(each) for each in value)
    is_nested = isinstance(value, list | dict)
    return json.dumps(value, ensure_ascii=False, default=str) if is_nested else str(value)


def frame_csv(
    frame: pl.DataFrame, delimiter: str = ",", decimal: str = ".", cell: Callable[[Any], str] = _whole_text
) -> str:
    """Write a frame as CSV; text that begins as a formula does gets a quote before it, numbers stay numbers."""
    # `cell` writes bytes and values of several parts.
    frame = frame.with_columns(
        pl.Series(name, [None if v is None else cell(v) for v in frame[name].to_list()], dtype=pl.String)
        for name, kind in frame.schema.items()
        if kind.is_nested() or kind == pl.Object or kind == pl.Binary
    )
    text = [name for name, kind in frame.schema.items() if kind in (pl.String, pl.Categorical, pl.Enum)]
    formula = r"^[=+\-@\t\r\n]"
    cells = [
        pl.when(pl.col(name).cast(pl.String).str.contains(formula))
        .then(pl.lit("'") + pl.col(name).cast(pl.String))
        .otherwise(pl.col(name).cast(pl.String))
        .alias(name)
        for name in text
    ]
    safe = frame.with_columns(cells)
    safe.columns = [safe_cell(name) for name in frame.columns]
    if decimal == ",":
        return safe.write_csv(separator=";" if delimiter == "," else delimiter, decimal_comma=True)
    return safe.write_csv(separator=delimiter)


# -- Parquet files: a stranger's may take a thousand times its size in memory.

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
