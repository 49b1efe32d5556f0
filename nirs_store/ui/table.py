"""A table on the page: columns that know how to show themselves; sort, filter, pages and columns in the address."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from nirs_store.display import byte_text, cell_text, printable
from nirs_store.errors import InvalidInput, did_you_mean, quoted, shortened
from nirs_store.lazy import polars as pl
from nirs_store.ui.frame import Request, View

if TYPE_CHECKING:
    from nirs_store.store import WorkspaceStore

PAGE = 50
_LONGEST = 60
_DIGITS = 4


class Cell(NamedTuple):
    """One cell as it is written: text, whole text where it was cut, address, and classes."""

    text: str
    title: str = ""
    href: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Column:
    """One column."""

    name: str
    label: str = ""
    kind: str = "text"  # text, number, whole, bytes, time, id, list, status
    link: Callable[[Mapping[str, Any]], str] | None = None
    hint: str = ""  # what the heading says when pointed at
    sorts: bool = True
    hidden: bool = False  # shown only when it was chosen
    longest: int = _LONGEST
    like: str = ""  # a column whose decimals this one shares: errors are read side by side
    places: int | None = None

    @property
    def heading(self) -> str:
        """The label, or the name in words."""
        return self.label or self.name.replace("_", " ").capitalize()


def decimals_of(values: Sequence[float | None]) -> int | None:
    """Return how many decimals a column of numbers shares; None where only powers of ten can show them."""
    sizes = sorted(abs(v) for v in values if v is not None and math.isfinite(v) and v != 0)
    if not sizes:
        return 0
    middle = sizes[len(sizes) // 2]
    if middle < 1e-4 or sizes[-1] >= 1e9:
        return None
    return max(0, min(6, _DIGITS - 1 - math.floor(math.log10(middle))))


def number_text(value: float | None, decimals: int | None = None) -> str:
    """Write a number for people; a true minus sign keeps columns straight."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    text = f"{value:.{_DIGITS - 1}e}" if decimals is None else f"{value:.{decimals}f}"
    return text.replace("-", "−")


def count_text(value: int) -> str:
    """Write a whole number with thin spaces between its thousands."""
    return f"{value:,}".replace(",", "\u202f")


def to(path: str, name: str) -> Callable[[Mapping[str, Any]], str]:
    """Return what leads from a row to the thing whose id it has; nowhere where it has none."""
    return lambda row: f"{path}/{row[name]}" if row[name] else ""


def frame_of(rows: Iterable[Any], columns: Sequence[Column]) -> pl.DataFrame:
    """Return a frame of these columns from rows that are mappings, or objects with attributes of the same names."""
    found = [
        row if isinstance(row, Mapping) else {c.name: getattr(row, c.name) for c in columns} for row in rows
    ]
    kinds = {
        "number": pl.Float64(),
        "whole": pl.Int64(),
        "bytes": pl.Int64(),
        "time": pl.Datetime("us", "UTC"),
    }
    schema = {c.name: kinds.get(c.kind, pl.String()) for c in columns}
    return pl.DataFrame([[row[c.name] for c in columns] for row in found], schema=schema, orient="row")


@dataclass
class Table:
    """Rows of one page of a list, with what leads to the others."""

    frame: pl.DataFrame
    columns: Sequence[Column]
    request: Request
    total: int
    first: int = 0
    size: int = PAGE
    sort: str = ""
    descending: bool = False
    ticks: str = ""  # a column whose value a tick box sends
    picks: str = ""  # an address that the tick value is added to: the number of a row leads there
    picked: str = ""
    ranks: bool = False
    prefix: str = ""
    empty: str = "Nothing here yet."
    everything: Callable[[], pl.DataFrame] | None = None
    chosen: list[str] = field(default_factory=list)
    name: str = "table"
    cut: tuple[str, int, int] | None = None  # which rows were read, how many, and of how many

    def __post_init__(self) -> None:
        """Leave out columns that this list does not have: an address may be older than its columns."""
        names = [column.name for column in self.columns]
        for name in self.chosen:
            if name not in names:
                hint = did_you_mean(name, names)
                warnings.warn(f"show: {quoted(name)} is not a column of this list.{hint}", stacklevel=2)
        self.chosen = [name for name in self.chosen if name in names]

    @property
    def shown(self) -> list[Column]:
        """The columns that are shown: those chosen in the address, or the usual ones."""
        return [c for c in self.columns if (c.name in self.chosen if self.chosen else not c.hidden)]

    def rows(self) -> list[tuple[str, list[Cell]]]:
        """Return each row's tick value and cells."""
        columns = self.shown
        places = {c.name: self._decimals(c) for c in columns if c.kind == "number"}
        return [
            (
                str(row.get(self.ticks) or "") if self.ticks else "",
                [_cell(column, row, places.get(column.name)) for column in columns],
            )
            for row in self.frame.iter_rows(named=True)
        ]

    def _decimals(self, column: Column) -> int | None:
        if column.places is not None:
            return column.places
        name = column.like if column.like in self.frame.columns else column.name
        return decimals_of(self.frame[name].to_list()) if name in self.frame.columns else 0

    def sort_link(self, column: Column) -> str:
        """Return the address of this list sorted by a column, the other way round where it is already."""
        down = self.sort == column.name and not self.descending
        return self.request.here(
            **{self.prefix + "sort": column.name, self.prefix + "down": "1" if down else "", "page": ""}
        )

    @property
    def page(self) -> int:
        """The number of this page, from 1."""
        return self.first // self.size + 1

    @property
    def pages(self) -> int:
        """How many pages there are."""
        return max(1, math.ceil(self.total / self.size))

    def page_link(self, page: int) -> str:
        """Return the address of another page of this list."""
        return self.request.here(**{self.prefix + "page": page if page > 1 else ""})

    def hidden_fields(self, *without: str) -> list[tuple[str, str]]:
        """Return the values of the address that a form must keep."""
        left = {*without, self.prefix + "page"}
        return [
            (key, each) for key, values in self.request.query.items() if key not in left for each in values
        ]

    def data(self) -> dict[str, Any]:
        """Return the page as plain data."""
        return {"total": self.total, "first": self.first, "rows": self.frame.to_dicts()}

    def download(self, form: str) -> tuple[bytes, str]:
        """Return all matching rows as CSV or Parquet, and the media type."""
        whole = self.frame if self.everything is None else self.everything()
        sink = io.BytesIO()
        if form == "parquet":
            whole.write_parquet(sink)
            return sink.getvalue(), "application/vnd.apache.parquet"
        if form != "csv":
            raise InvalidInput(f"format: expected csv, parquet or json, found {quoted(form)}.")
        from nirs_store.reading.tables import frame_csv

        return frame_csv(whole).encode(), "text/csv; charset=utf-8"


def table_of(
    request: Request,
    frame: pl.DataFrame | Iterable[Any],
    columns: Sequence[Column],
    *,
    sort: str = "",
    descending: bool = False,
    prefix: str = "",
    size: int = PAGE,
    **options: Any,
) -> Table:
    """Sort, filter and cut a frame, or rows, as the address asks: for lists that are read whole anyhow."""
    if not isinstance(frame, pl.DataFrame) or not frame.width:
        frame = frame_of(frame, columns)
    words = request.text(prefix + "q")
    if words:
        frame = frame.filter(_holding(frame, words))
    known = {column.name for column in columns if column.sorts and column.name in frame.columns}
    asked = request.text(prefix + "sort")
    if asked:
        if asked not in known:
            raise InvalidInput(f"sort: expected one of {', '.join(sorted(known))}, found {quoted(asked)}.")
        sort, descending = asked, bool(request.text(prefix + "down"))
    if sort:
        key = pl.col(sort)
        key = key.fill_nan(None) if frame.schema[sort].is_float() else key
        key = key.list.join(" ") if frame.schema[sort] == pl.List(pl.String) else key
        frame = frame.sort(key, descending=descending, nulls_last=True, maintain_order=True)
    size = request.number(prefix + "size", size, 1, 1000)
    page = request.number(prefix + "page", 1, 1, max(1, math.ceil(frame.height / size)))
    whole = frame
    return Table(
        frame.slice((page - 1) * size, size),
        columns,
        request,
        frame.height,
        first=(page - 1) * size,
        size=size,
        sort=sort,
        descending=descending,
        prefix=prefix,
        everything=lambda: whole,
        chosen=request.texts(prefix + "show"),
        **options,
    )


def list_of(
    request: Request,
    title: str,
    frame: pl.DataFrame,
    columns: Sequence[Column],
    words: str = "",
    **options: Any,
) -> View:
    """Return a screen that is one list."""
    table = table_of(request, frame, columns, **options)
    return View("list.html", title, {"table": table, "words": words}, table=table)


def cut_of(
    store: WorkspaceStore, frame: pl.DataFrame, most: int, count: str, which: str = "newest", values: Sequence[Any] = ()
) -> tuple[str, int, int] | None:  # fmt: skip
    """Return which rows of a long list were read and how many there are; None where all were."""
    if frame.height < most:
        return None
    whole = int(store.sql(count, list(values)).item())
    return (which, frame.height, whole) if whole > frame.height else None


def _holding(frame: pl.DataFrame, words: str) -> pl.Expr:
    """Return the condition that every word is found in some text of a row."""
    parts = [
        pl.col(name).list.join(" ") if kind == pl.List(pl.String) else pl.col(name).cast(pl.String)
        for name, kind in frame.schema.items()
        if kind in (pl.String, pl.Categorical) or kind == pl.List(pl.String) or kind.is_integer()
    ]
    text = pl.concat_str(parts or [pl.lit("")], separator=" ", ignore_nulls=True).str.to_lowercase()
    found = pl.lit(True)
    for word in words.lower().split()[:32]:
        found &= text.str.contains(word, literal=True)
    return found


def seen(value: Any, places: int | None) -> int | None:
    """Return the decimals of one value: more than its column's where these would hide it."""
    # Errors in units of very different size may share a column.
    hidden = places is not None and isinstance(value, float) and 0 < abs(value) < 10.0 ** (1 - places)
    return decimals_of([value]) if hidden else places


def _cell(column: Column, row: Mapping[str, Any], decimals: int | None) -> Cell:
    value = row.get(column.name)
    href = column.link(row) if column.link is not None and value is not None else ""
    if value is None:
        return Cell("", kind=column.kind)
    if column.kind == "number" and isinstance(value, int | float):
        measure = row.get(column.like) if column.like else value
        decimals = decimals if column.places is not None else seen(measure, decimals)
        return Cell(number_text(float(value), decimals), repr(value), href, "number")
    if column.kind == "whole" and isinstance(value, int):
        return Cell(count_text(value), "", href, "number")
    if column.kind == "bytes" and isinstance(value, int):
        return Cell(byte_text(value), f"{value} bytes", href, "number")
    if isinstance(value, datetime):
        return Cell(f"{value:%Y-%m-%d %H:%M}", cell_text(value), href, "time")
    if isinstance(value, date):
        return Cell(value.isoformat(), "", href, "time")
    if isinstance(value, float):
        return Cell(number_text(value, decimals_of([value])), repr(value), href, "number")
    text = printable(cell_text(value) if not isinstance(value, str) else value)
    if column.kind == "id":
        return Cell(text[-8:], text, href, "id")
    short = shortened(text, column.longest)
    return Cell(short, "" if short == text else shortened(text, 2000), href, column.kind)
