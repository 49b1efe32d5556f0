"""What commands print: aligned tables, strict JSON, sizes and moments."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from nirs_store.lazy import polars as pl

__all__ = [
    "cell_text",
    "fitting",
    "flat_text",
    "human_bytes",
    "moment",
    "number",
    "on_terminal",
    "print_fields",
    "print_json",
    "print_table",
    "progress",
    "short_id",
]

_GAP = "  "
_LEAST_WIDTH = 12


def on_terminal() -> bool:
    """Say whether a person reads the output."""
    # There is none where the caller closed it.
    return sys.stdout is not None and sys.stdout.isatty()


def print_json(value: Any) -> None:
    """Print strict JSON: NaN and infinities become null, moments ISO 8601 in UTC."""
    click.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    numeric: Sequence[str] = (),
    flexible: Sequence[str] = (),
) -> None:
    """Print aligned columns below their names.

    A line that is wider than the terminal is cut in its `flexible` columns; in a pipe nothing is.

    Parameters
    ----------
    columns
        Names of the columns.
    rows
        Cells; None is printed as ``-``.
    numeric
        Columns that are aligned to the right.
    flexible
        Columns that may be shortened with an ellipsis on a terminal.
    """
    cells = [["-" if cell is None else _one_line(str(cell)) for cell in row] for row in rows]
    widths = [max(map(_width, (name, *(row[i] for row in cells)))) for i, name in enumerate(columns)]
    if on_terminal():
        _fit(widths, columns, flexible)
    click.secho(_line(columns, widths, columns, numeric), bold=True)
    for row in cells:
        click.echo(_line(row, widths, columns, numeric))


def fitting(line: str) -> str:
    """Cut a line to the width of the terminal; in a pipe it is left alone."""
    width = shutil.get_terminal_size().columns
    return line if not on_terminal() else _cut(line, width)


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print ``name  value`` lines, values in one column; empty values are left out."""
    known = {name: value for name, value in fields.items() if value not in (None, "", [], {})}
    width = max(map(_width, known), default=0)
    for name, value in known.items():
        lines = str(value).splitlines() or [""]
        click.echo(f"{click.style(_padded(name, width), bold=True)}{_GAP}{lines[0]}")
        for line in lines[1:]:
            click.echo(f"{' ' * width}{_GAP}{line}")


def number(value: Any, decimals: int = 3) -> str | None:
    """Format a score; None for what is missing or not a number."""
    if value is None or not math.isfinite(value):
        return None
    text = f"{value:.{decimals}f}"
    return text if float(text) or not value else f"{value:.{decimals - 1}e}"


def human_bytes(count: int) -> str:
    """Return a size that can be read: ``1.4 MB`` (powers of 1000, as file managers do)."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def moment(when: Any) -> str | None:
    """Return a moment in UTC to the second: ``2026-03-01 12:00:00Z``."""
    if when is None:
        return None
    if not isinstance(when, datetime):
        return str(when)
    return (when if when.tzinfo is None else when.astimezone(UTC)).strftime("%Y-%m-%d %H:%M:%SZ")


def short_id(identifier: str) -> str:
    """Return the end of an id, which is random; every command accepts it in place of the whole."""
    return identifier[-8:]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)).isoformat()
    if isinstance(value, date | Path):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, time | timedelta):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _plain(value.tolist())
    return value


def _one_line(text: str) -> str:
    """Keep names with line breaks, or with escape sequences for the terminal, inside their cell."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else " " for sign in text)


def _width(text: str) -> int:
    """Give the columns that a text takes on a terminal, where a character may take two or none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _padded(text: str, width: int, *, right: bool = False) -> str:
    space = " " * max(width - _width(text), 0)
    return space + text if right else text + space


def _cut(text: str, width: int) -> str:
    """Cut a text that is wider, with an ellipsis; of a wide character there is no half."""
    if _width(text) <= width:
        return text
    kept = text[: max(width - 1, 0)]
    while kept and _width(kept) >= width:
        kept = kept[:-1]
    return kept + "…"


def _fit(widths: list[int], columns: Sequence[str], flexible: Sequence[str]) -> None:
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - shutil.get_terminal_size().columns
    for index in sorted((i for i, name in enumerate(columns) if name in flexible), key=lambda i: -widths[i]):
        if excess <= 0:
            return
        cut = min(excess, max(widths[index] - _LEAST_WIDTH, 0))
        widths[index] -= cut
        excess -= cut


def _line(cells: Sequence[str], widths: Sequence[int], columns: Sequence[str], numeric: Sequence[str]) -> str:
    parts = []
    for cell, width, name in zip(cells, widths, columns, strict=True):
        parts.append(_padded(_cut(cell, width), width, right=name in numeric))
    return _GAP.join(parts).rstrip()


# -- A progress bar on a terminal, nothing in a pipe.


@contextmanager
def progress(words: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function ``show(done, total)``; the bar is drawn on standard error and is gone at the end."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(words), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(words, total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield show


# -- Values of any type that a query may answer with, as text.


_SHOWN_BYTES = 16


def cell_text(value: Any) -> str | None:
    """Put a value into words for a table; None stays None."""
    if value is None:
        return None
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, bytes):
        return _hex(value[:_SHOWN_BYTES]) + ("…" if len(value) > _SHOWN_BYTES else "")
    return _plain_text(value)


def flat_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Turn the columns that CSV cannot hold (bytes, lists, structures) into text."""
    nested = [name for name, kind in frame.schema.items() if kind.is_nested() or kind == pl.Binary]
    return frame.with_columns(
        pl.Series(name, [None if v is None else _plain_text(v) for v in frame[name].to_list()], pl.String)
        for name in nested
    )


def _plain_text(value: Any) -> str:
    if isinstance(value, bytes):
        return _hex(value)
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _hex(value: bytes) -> str:
    return f"0x{value.hex()}"
