"""Writing tables as CSV for people: no cell of text is taken for a formula."""

from __future__ import annotations

import json
from typing import Any

from nirs_store.lazy import polars as pl
from nirs_store.reading.cells import safe_cell


def frame_csv(frame: pl.DataFrame, delimiter: str = ",", decimal: str = ".") -> str:
    """Write a frame as CSV; text that begins as a formula does gets a quote before it, numbers stay numbers.

    A list is written with commas, what has parts of its own as JSON, and bytes as hexadecimal digits.
    """
    frame = frame.with_columns(
        pl.Series(name, [_whole_text(value) for value in frame[name].to_list()], dtype=pl.String)
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


def _whole_text(value: Any) -> str | None:
    """Write a value of several parts as one cell, whole."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list) and not any(isinstance(each, list | dict) for each in value):
        return ", ".join("" if each is None else str(each) for each in value)
    is_nested = isinstance(value, list | dict)
    return json.dumps(value, ensure_ascii=False, default=str) if is_nested else value and str(value)
