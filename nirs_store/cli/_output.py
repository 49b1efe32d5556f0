"""What commands print: aligned tables, strict JSON, sizes and moments."""

from __future__ import annotations

import json
import math
import re
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

from nirs_store.cli._options import given
from nirs_store.display import printable
from nirs_store.errors import shortened
from nirs_store.lazy import polars as pl

_GAP = "  "
_LEAST_WIDTH = 12


def on_terminal() -> bool:
    """Say whether a person reads the output."""
    # There is none where the caller closed it.
    return sys.stdout is not None and sys.stdout.isatty()


def print_json(value: Any) -> None:
    """Print strict JSON: NaN and infinities become null, moments ISO 8601 in UTC."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    # JSON has a way to say what steers a terminal, so nothing is lost.
    click.echo(_STEERS.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def printed_json(value: Any) -> bool:
    """Print a value as JSON where ``--json`` was given, and tell whether it was."""
    if given("json"):
        print_json(value)
        return True
    return False


def answer(value: Any, words: str) -> None:
    """Print a value as JSON where ``--json`` was given, else the words."""
    if not printed_json(value):
        click.echo(words)


def print_data(text: str) -> None:
    """Print CSV: as it is for a program, without what steers a terminal for a person."""
    click.echo(text if on_terminal() else text.encode(), nl=False)


def print_csv(frame: pl.DataFrame) -> None:
    """Print a whole table as CSV with all digits."""
    from nirs_store.reading.tables import frame_csv

    print_data(frame_csv(frame, cell=plain_text))


def joined_lists(frame: pl.DataFrame) -> pl.DataFrame:
    """Turn the columns of lists into text, which CSV can hold."""
    lists = [name for name, kind in frame.schema.items() if isinstance(kind, pl.List)]
    return frame.with_columns(pl.col(lists).cast(pl.List(pl.String)).list.join("; ")) if lists else frame


def write_made(path: Path, content: bytes) -> None:
    """Write a file that a command makes, and its folders."""
    from nirs_store.blobs.durable import write_file

    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content)


def refuse_json_with_csv(as_csv: object) -> None:
    """Refuse a command that is to print both."""
    if as_csv and given("json"):
        raise click.UsageError("--json and --csv exclude each other.")


# What a text may steer a terminal with: control characters but tab and line break, and marks of direction.
_STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# Bold, red and back, which this program prints.
_OURS = re.compile(r"(\x1b\[(?:0|1|31)m)")


class CleanOutput:
    """A text stream that no name can steer a terminal through; everything else is that of `stream`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, with spaces for what steers a terminal."""
        parts = _OURS.split(text)
        parts[::2] = [_STEERS.sub(" ", part) for part in parts[::2]]
        self._stream.write("".join(parts))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def clean_output() -> Iterator[None]:
    """Clean everything that is printed meanwhile."""
    before = sys.stdout
    if before is None:  # the caller closed it
        yield
        return
    sys.stdout = CleanOutput(before)
    try:
        yield
    finally:
        sys.stdout = before


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    numeric: Sequence[str] = (),
    flexible: Sequence[str] = (),
) -> None:
    """Print aligned columns below their names, `numeric` ones to the right, and None as ``-``.

    Where a line is wider than the terminal, its `flexible` columns lose what all rows share and are cut in
    the middle; in a pipe nothing is cut.
    """
    cells = [["-" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(_width, (name, *(row[i] for row in cells)))) for i, name in enumerate(columns)]
    if on_terminal():
        _fit(cells, widths, columns, flexible)
    click.secho(_line(columns, widths, columns, numeric), bold=True)
    for row in cells:
        click.echo(_line(row, widths, columns, numeric))


def print_rows(
    rows: Iterable[Any],
    columns: Mapping[str, str | Callable[[Any], Any] | None],
    *,
    empty: str = "",
    numeric: Sequence[str] = (),
    flexible: Sequence[str] = (),
) -> None:
    """Print a listing: as JSON where ``--json`` was given, else as an aligned table, or `empty` without rows.

    `columns` has the cells below each heading: a key of the rows, a function of a row, or None to leave it out.
    """
    found = rows.to_dicts() if hasattr(rows, "to_dicts") else list(rows)
    if printed_json(found):
        return
    if empty and not found:
        click.echo(empty)
        return
    cells = {
        name: [row[of] if isinstance(of, str) else of(row) for row in found]
        for name, of in columns.items()
        if of is not None
    }
    print_columns(cells, numeric=numeric, flexible=flexible)


def print_columns(
    columns: Mapping[str, Sequence[Any]], *, numeric: Sequence[str] = (), flexible: Sequence[str] = ()
) -> None:
    """Print a table, as `print_table` does, from the cells of each column."""
    print_table(list(columns), zip(*columns.values(), strict=True), numeric=numeric, flexible=flexible)


def print_aliases(aliases: Mapping[str, int]) -> None:
    """Print the aliases of a name with their versions: as JSON where ``--json`` was given, else as a table."""
    if printed_json(aliases):
        return
    if aliases:
        print_table(["alias", "version"], [(word, f"v{version}") for word, version in aliases.items()])
    else:
        click.echo("No aliases.")


def print_counts(counts: Mapping[str, int]) -> None:
    """Print how many there are of each kind, a line each, numbers in one column."""
    for what, count in counts.items():
        click.echo(f"  {count:>8} {what}")


def fitting(line: str) -> str:
    """Cut a line to the width of the terminal; in a pipe it is left alone."""
    width = shutil.get_terminal_size().columns
    return line if not on_terminal() else _cut(line, width)


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print ``name  value`` lines, values in one column; empty values are left out."""
    known = {name: value for name, value in fields.items() if value not in (None, "", [], {})}
    width = max(map(_width, known), default=0)
    for name, value in known.items():
        lines = [printable(line) for line in str(value).splitlines()] or [""]
        click.echo(f"{click.style(_padded(name, width), bold=True)}{_GAP}{lines[0]}")
        for line in lines[1:]:
            click.echo(f"{' ' * width}{_GAP}{line}")


def number(value: Any, decimals: int = 3) -> str | None:
    """Format a score; None for what is missing or not a number."""
    if value is None or not math.isfinite(value):
        return None
    text = f"{value:.{decimals}f}"
    return text if float(text) or not value else f"{value:.{max(decimals - 1, 1)}e}"


# So many significant digits that differ are told apart in a column.
_DISTINCT = 5
_MOST_DECIMALS = 9


def numbers(values: Sequence[Any], decimals: int = 3) -> list[str | None]:
    """Format a column of scores with digits that tell its values apart; None for what is not a number.

    Three decimals by default, fewer above a thousand, more for small values or ones close together; in
    exponents where that would fill the screen.

    Examples
    --------
    >>> numbers([0.00029, 0.00089, None])
    ['0.000290', '0.000890', None]
    """
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    largest = max(map(abs, known), default=0.0)
    places = decimals
    if largest:
        exponent = math.floor(math.log10(largest))
        if exponent > 2:
            places = max(decimals + 2 - exponent, 0)
        elif exponent < 0:
            places = decimals - 1 - exponent
    distinct = len({f"{value:.{_DISTINCT - 1}e}" for value in known})
    while places <= _MOST_DECIMALS and len({f"{value:.{places}f}" for value in known}) < distinct:
        places += 1
    if places > _MOST_DECIMALS or largest >= 1e9:
        digits = next(
            d
            for d in range(2, _DISTINCT)
            if d == _DISTINCT - 1 or len({f"{v:.{d}e}" for v in known}) >= distinct
        )
        return [None if v is None or not math.isfinite(v) else f"{v:.{digits}e}" for v in values]
    return [number(value, places) for value in values]


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


def _width(text: str) -> int:
    """Return the columns that a text takes on a terminal, where a character may take two or none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _padded(text: str, width: int, *, right: bool = False) -> str:
    space = " " * max(width - _width(text), 0)
    return space + text if right else text + space


def _cut(text: str, width: int) -> str:
    """Cut a text that is wider in its middle, with an ellipsis; a wide character is never halved."""
    if _width(text) <= width:
        return text
    kept = max(width, 1)
    cut = shortened(text, kept)
    while kept > 1 and _width(cut) > width:
        kept -= 1
        cut = shortened(text, kept)
    return cut


def _fit(cells: list[list[str]], widths: list[int], columns: Sequence[str], flexible: Sequence[str]) -> None:
    """Narrow the flexible columns, the widest first, until a line fits the terminal; texts stay distinct."""
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - shutil.get_terminal_size().columns
    for index in sorted((i for i, name in enumerate(columns) if name in flexible), key=lambda i: -widths[i]):
        if excess <= 0:
            return
        texts = [row[index] for row in cells]
        target = max(widths[index] - excess, min(_LEAST_WIDTH, widths[index]))
        lean = [_cut(text, target) for text in texts]
        if len(set(lean)) < len(set(texts)):
            shared = without_shared(texts)
            lean = [_cut(text, target) for text in shared]
            if len(set(lean)) < len(set(texts)):  # the line wraps rather than that rows look alike
                lean = shared
        width = max(map(_width, (columns[index], *lean)))
        for row, text in zip(cells, lean, strict=True):
            row[index] = text
        excess -= widths[index] - width
        widths[index] = width


def without_shared(texts: Sequence[str]) -> list[str]:
    """Replace what all texts begin and end with by an ellipsis, at the boundaries of words.

    Examples
    --------
    >>> without_shared(["SNV > SG(deriv=1) > PLS(4)", "SNV > SG(deriv=1) > PLS(11)"])
    ['…PLS(4)', '…PLS(11)']
    """
    if len(set(texts)) < 2:
        return list(texts)
    words = [re.findall(r"[\w.]+|\W", text) for text in texts]
    least = min(map(len, words))
    head = next((i for i in range(least) if len({row[i] for row in words}) > 1), least)
    # A word that names the parameters in parentheses stays with them.
    while head and words[0][head - 1] in "(=[":
        head -= 2
    head = max(head, 0)
    tail = next((i for i in range(least - head) if len({row[-1 - i] for row in words}) > 1), least - head)
    tail = tail if tail > 2 else 0
    head = head if head > 2 else 0
    return [
        "".join([*(["…"] if head else []), *row[head : len(row) - tail], *(["…"] if tail else [])])
        for row in words
    ]


def _line(cells: Sequence[str], widths: Sequence[int], columns: Sequence[str], numeric: Sequence[str]) -> str:
    parts = []
    for cell, width, name in zip(cells, widths, columns, strict=True):
        parts.append(_padded(_cut(cell, width), width, right=name in numeric))
    return _GAP.join(parts).rstrip()


# -- A progress bar on a terminal, nothing in a pipe.


@contextmanager
def progress(words: str) -> Iterator[Callable[[int, int], None]]:
    """Return a function ``show(done, total)``; the bar is drawn on standard error and is gone at the end."""
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
        return plain_text(value[:_SHOWN_BYTES]) + ("…" if len(value) > _SHOWN_BYTES else "")
    return plain_text(value)


def plain_text(value: Any) -> str:
    """Write bytes as hexadecimal digits, and values of several parts as JSON."""
    if isinstance(value, bytes):
        return f"0x{value.hex()}"
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
