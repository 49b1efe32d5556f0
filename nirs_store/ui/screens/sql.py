"""SQL: one SELECT, read-only, with a bound on time, rows and bytes; the tables are listed next to it."""

from __future__ import annotations

from typing import Any

from nirs_store.lazy import polars as pl
from nirs_store.ui.figure import Figure
from nirs_store.ui.frame import Request, Screen, View
from nirs_store.ui.table import Column, table_of

_SECONDS, _MOST, _MOST_BYTES = 10.0, 100_000, 20 << 20
_EXAMPLE = "SELECT pipeline, dataset, best_val\nFROM models\nORDER BY best_val\nLIMIT 20"
_INNER = ("applied", "dead", "deferred", "dropped", "nirs_store_meta", "sessions", "arrays", "prediction_arrays",
          "trash")  # fmt: skip


def show(request: Request) -> View:
    """Ask a query of the address, and show its result."""
    asked = request.text("query")
    values: dict[str, Any] = {"asked": asked, "example": _EXAMPLE, "tables": _tables(request)}
    values |= {"table": None, "figure": None, "waits": bool(asked.strip()) and request.foreign}
    # The author of a link elsewhere does not decide what this machine works on: its query waits for a click.
    if not asked.strip() or request.foreign:
        return View("sql.html", "SQL", values, data={"tables": values["tables"]})
    frame = request.store.sql(asked, timeout=_SECONDS, max_rows=_MOST, max_bytes=_MOST_BYTES)
    columns, shown = [], []
    for name, kind in frame.schema.items():
        column = pl.col(name)
        shown.append(
            column.bin.size()
            if kind == pl.Binary
            else column.cast(pl.Float64)
            if kind.is_decimal()
            else column
        )
        is_float, is_whole = kind.is_float() or kind.is_decimal(), kind.is_integer() or kind == pl.Binary
        columns.append(
            Column(name, name, "number" if is_float else "whole" if is_whole else "text", longest=80)
        )
    frame = frame.with_columns(shown)
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
    words = next((name for name, kind in frame.schema.items() if kind == pl.String), None)
    titles = [str(each) for each in frame[words].to_list()] if words is not None else None
    x, y = ("Row", numbers[0]) if len(numbers) == 1 else numbers[:2]
    figure = Figure(
        f"{y} by row" if len(numbers) == 1 else f"{y} against {x}", x, y, whole_x=len(numbers) == 1
    )
    places = range(1, frame.height + 1) if len(numbers) == 1 else frame[x]
    return figure.points(places, frame[y], titles=titles)


SCREENS = (Screen("/sql", show, "SQL", aside=True),)
