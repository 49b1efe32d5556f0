"""Writing tables as CSV for people: no cell of text is taken for a formula."""

from __future__ import annotations

from nirs_store.lazy import polars as pl
from nirs_store.reading.cells import safe_cell

__all__ = ["frame_csv"]


def frame_csv(frame: pl.DataFrame, delimiter: str = ",", decimal: str = ".") -> str:
    """Write a frame as CSV; text that begins as a formula does gets a quote before it, numbers stay numbers."""
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
