"""SQL: one SELECT, read-only, with a bound on time, rows and bytes; the tables are listed beside it."""

from __future__ import annotations

from typing import Any

from nirs_store.lazy import polars as pl
from nirs_store.ui.figure import Figure
from nirs_store.ui.frame import Request, Screen, View
from nirs_store.ui.table import Column, table_of

__all__ = ["SCREENS"]

_SECONDS, _MOST, _MOST_BYTES = 10.0, 100_000, 20 << 20
_EXAMPLE = "SELECT pipeline, dataset, best_val\nFROM models\nORDER BY best_val\nLIMIT 20"
_INNER = ("applied", "dead", "deferred", "dropped", "nirs_store_meta", "sessions", "arrays", "prediction_arrays",
          "trash")  # fmt: skip


def show(request: Request) -> View:
    """Ask a query of the address, and show its result."""
    asked = request.text("query")
    values: dict[str, Any] = {"asked": asked, "example": _EXAMPLE, "tables": _tables(request)}
    values |= {"table": None, "figure": None, "waits": bool(asked.strip()) and request.foreign}
    # Whoever made a link elsewhere does not decide what this machine works on: its query waits for a click.
    if not asked.strip() or request.foreign:
        return View("sql.html", "SQL", values, data={"tables": values["tables"]})
    frame = request.store.sql(asked, timeout=_SECONDS, max_rows=_MOST, max_bytes=_MOST_BYTES)
    frame = frame.with_columns(
        pl.col(pl.Binary).bin.size().alias(name) for name, kind in frame.schema.items() if kind == pl.Binary
    )
    frame = frame.with_columns(
        pl.col(name).cast(pl.Float64) for name, kind in frame.schema.items() if kind.is_decimal()
    )
    columns = [
        Column(
            name, name, "number" if kind.is_float() else "whole" if kind.is_integer() else "text", longest=80
        )
        for name, kind in frame.schema.items()
    ]
    table = table_of(request, frame, columns, size=100, empty="No rows.", name="query")
    return View("sql.html", "SQL", values | {"table": table, "figure": _figure(frame)}, table=table)


def _tables(request: Request) -> list[tuple[str, list[str]]]:
    found = request.store.sql(
        "SELECT table_name, list(column_name ORDER BY ordinal_position) AS names FROM information_schema.columns "
        "WHERE table_schema = 'main' GROUP BY table_name ORDER BY table_name"
    )
    return [(name, names) for name, names in found.iter_rows() if name not in _INNER]


def _figure(frame: pl.DataFrame) -> Figure | None:
    """Draw the first two columns of numbers against each other, or one after the order of the rows."""
    numbers = [name for name, kind in frame.schema.items() if kind.is_numeric()]
    if not numbers or frame.height < 2:
        return None
    words = [name for name, kind in frame.schema.items() if kind == pl.String]
    titles = [str(each) for each in frame[words[0]].to_list()] if words else None
    if len(numbers) == 1:
        return Figure(f"{numbers[0]} by row", "Row", numbers[0], whole_x=True).points(
            range(1, frame.height + 1), frame[numbers[0]], titles=titles
        )
    return Figure(f"{numbers[1]} against {numbers[0]}", numbers[0], numbers[1]).points(
        frame[numbers[0]], frame[numbers[1]], titles=titles
    )


SCREENS = (Screen("/sql", show, "SQL", aside=True),)
