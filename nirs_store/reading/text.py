"""Reading the spectra of a text file: header, samples and labels, or a refusal that names the line.

Uses the standard library and numpy only: scripts that predict on their own carry the source of this module.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nirs_store.reading.cells import is_missing, parse_channel, parse_number, tidy
from nirs_store.reading.dialect import (
    DELIMITERS,
    Row,
    Unreadable,
    decode,
    find_decimal,
    number_like,
    split_rows,
)
from nirs_store.reading.grid import (
    find_channels,
    header_kind,
    in_range,
    is_counted,
    is_monotone,
    is_regular,
    read_values,
    refuse_grids,
    refuse_left_out,
    refuse_numbered_samples,
    refuse_odd_ends,
    unit_in,
    width_of,
)
from nirs_store.reading.summaries import find_summaries, list_summaries, summary_of, tell_left

_AXIS = re.compile(
    r"wave ?(length|number)|lambda|\u03bb|wellen(l|z)|longueur|longitud|nm\b|cm ?-1|^x$", re.IGNORECASE
)
_QUANTITY = re.compile(
    r"(absorbance|extinction|log ?\(?1/r|reflectance|transmittance|reference|sample) ?(signal)?s?"
    r" ?([\[(].*[\])])?|(intensity|counts|signal|scope|dark|raw|y)( ?[\[(].*[\])])?",
    re.IGNORECASE,
)
_FAST = re.compile(r"[0-9eE+.\-\x1f]*")
_HALF = re.compile(r"0[0-9]+")
_BETWEEN = "\x1f"


class TextTable:
    """Spectra of a text file, and labels as they are written."""

    # Not a data class: scripts are also run by programs that keep no module, which data classes look for.
    def __init__(
        self,
        X: Any,
        channels: list[str],
        wavelengths: Any,
        unit: str | None,
        unit_from: str,
        labels: dict[str, list[str]],
        places: list[str],
        decimal: str = ".",
        notes: Sequence[str] = (),
    ) -> None:
        self.X, self.channels, self.wavelengths = X, channels, wavelengths
        self.unit, self.unit_from = unit, unit_from
        self.labels, self.places, self.notes = labels, places, list(notes)
        self.delimiter, self.decimal, self.encoding = ",", decimal, "utf-8"
        self.metadata: dict[str, str] = {}


class _Cells(NamedTuple):
    """Header and samples, cut out of the lines around them."""

    names: list[str]
    samples: list[list[str]]
    places: list[str]
    headed: bool
    above: list[Row]
    notes: list[str]


def read_text(
    data: bytes,
    *,
    decimal: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    orientation: str | None = None,
    header: bool | None = None,
    channels: Sequence[str] | None = None,
) -> TextTable:
    """Read the bytes of a text file."""
    if decimal not in (None, ".", ","):
        raise Unreadable(f"decimal: expected '.' or ',', found {decimal!r}.")
    if orientation not in (None, "rows", "columns"):
        raise Unreadable(f"orientation: expected 'rows' or 'columns', found {orientation!r}.")
    text, encoding = decode(data, encoding)
    if not text.strip():
        raise Unreadable("it is empty; the first line must name the columns.")
    rows, delimiter = split_rows(text, delimiter)
    rows, comments = _without_comments(rows)
    if not rows:
        raise Unreadable("it holds comments only.")
    cut = _cut(rows, orientation, header, decimal, channels)
    names, samples = _named_columns(cut)
    table = _table(names, samples, cut, decimal, channels)
    table.delimiter, table.encoding = delimiter, encoding
    table.metadata = _metadata([*comments, *cut.above])
    if delimiter == "," and not (table.X % 1).any():
        for place, row in zip(cut.places, samples, strict=True):
            spoilt = next(
                (
                    c
                    for c, name in zip(row[1:], names[1:], strict=True)
                    if _HALF.fullmatch(c) and name not in table.labels
                ),
                None,
            )
            if spoilt is not None:
                raise Unreadable(
                    f"{place} has the cell {spoilt!r}: do decimal commas separate cells as well? Export the table with "
                    "semicolons or tabs between the cells."
                )
    if table.unit is None and table.wavelengths is not None:
        words = [name for name in names if name not in table.channels] + [
            c for row in cut.above for c in row.cells
        ]
        named = {unit for word in words if _AXIS.search(word) and (unit := unit_in(word))}
        if len(named) == 1:
            table.unit, table.unit_from = named.pop(), "header"
        else:
            table.unit, table.unit_from = unit_by_range(table.wavelengths), "range"
    return table


def describe(table: TextTable) -> str:
    """Say in one line what was understood."""
    n, p = table.X.shape
    parts = [f"{n} sample{'s' * (n != 1)}, {p} channel{'s' * (p != 1)}"]
    if table.wavelengths is None:
        parts[0] += " without wavelengths"
    else:
        grid = table.wavelengths
        parts[0] += f" {grid[0]:.6g}" + (f" to {grid[-1]:.6g}" if p > 1 else "")
        if table.unit is not None:
            parts[0] += f" {table.unit}" + (" (by its range)" if table.unit_from == "range" else "")
    shown = list(table.labels)[:8]
    parts[0] += ", labels: " + (
        ", ".join(shown) + (", ..." if len(table.labels) > 8 else "") if shown else "none"
    )
    if table.delimiter != ",":
        parts.append("separated by " + DELIMITERS.get(table.delimiter, repr(table.delimiter)))
    if table.decimal == ",":
        parts.append("decimal comma")
    return "; ".join([*parts, *table.notes])


def unit_by_range(grid: Any) -> str | None:
    """Tell the unit of a grid of the near infrared by its numbers."""
    low, high = float(grid.min()), float(grid.max())
    return "nm" if low >= 350 and high <= 2700 else "cm-1" if low >= 3300 and high <= 16000 else None


# -- Lines around the table.


def _usual_width(rows: Sequence[Row]) -> int:
    counts = Counter(map(width_of, rows))
    # One long line among several of one width is a slip, not the table.
    repeated = {width: count for width, count in counts.items() if count > 1} or counts
    return max(repeated, key=lambda width: (width * repeated[width], width))


def _without_comments(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Take out lines that begin as comments do and are not rows of the table."""
    width, kept, comments = _usual_width(rows), [], []
    for row in rows:
        sign = re.match(r"#+|%+|//+|!+", row.cells[0])
        if sign is None:
            kept.append(row)
        elif width_of(row) < width or (width == 1 and len(rows) > 1):
            comments.append(row)
        else:
            head = not kept and len(row.cells[0]) > len(sign[0])
            kept.append(
                Row(row.line, [row.cells[0][len(sign[0]) :].strip(), *row.cells[1:]]) if head else row
            )
    return kept, comments


def _metadata(rows: Sequence[Row]) -> dict[str, str]:
    found: dict[str, str] = {}
    for row in rows:
        cells = [cell for cell in (cell.lstrip("#%/!* ").strip() for cell in row.cells) if cell]
        if len(cells) == 1:
            key, sign, value = re.match(r"([^:=]*)([:=]?)(.*)", cells[0], re.DOTALL).groups()  # type: ignore[union-attr]
            cells = [key, value.strip()] if sign else [f"line {row.line}", cells[0]]
        for key, value in zip(cells[::2], cells[1::2], strict=False):
            found.setdefault(key.rstrip(":= "), value)
    return found


def _cut(
    rows: list[Row], orientation: str | None, header: bool | None, decimal: str | None, channels: Any
) -> _Cells:
    """Find the table in the lines of a file and turn it so that a sample is a row."""
    width = _usual_width(rows)
    start = next(k for k, row in enumerate(rows) if width_of(row) >= 0.6 * width)
    upright = _upright(rows, start, header, decimal, channels)
    across = None if channels is not None or orientation == "rows" else _axis(rows, decimal, orientation)
    if orientation == "columns" and across is None:
        raise Unreadable(
            "orientation: no column of wavelengths was found; with orientation='columns' the first column must "
            "hold wavelengths that rise or fall, one sample in each other column."
        )
    if across is not None and (orientation == "columns" or _prefers_across(rows, across, upright, start)):
        return _turned(rows, *across)
    start, headed = upright if upright is not None else (start, False)
    if upright is None:
        row = rows[start]
        raise Unreadable(
            f"line {row.line} ({', '.join(row.cells[:3])}, ...) may be a header of wavelengths or a spectrum. Say "
            "which: header=True or header=False (--header, --no-header)."
        )
    refuse_left_out(rows[:start], rows[start])
    if not headed and channels is None and (orientation is None or header is None):
        refuse_odd_ends(rows[start:], decimal)
    if headed and channels is None and orientation is None:
        refuse_numbered_samples(rows[start], rows[start + 1 :], decimal)
    return _standing(rows, start, headed)


def _upright(
    rows: list[Row], start: int, header: bool | None, decimal: str | None, channels: Any
) -> tuple[int, bool] | None:
    """Find the header of a table of samples in rows; None where it cannot be told from a spectrum."""
    if header is not None:
        return start, header
    if channels is not None:
        wanted = set(channels)
        for k, row in enumerate(rows[: start + 20]):
            if wanted <= set(row.cells):
                return k, True
    # Rows of units or of titles over several columns may be above the header.
    while start + 2 < len(rows) and _is_title(rows[start], width_of(rows[start + 1])):
        start += 1
    cells = rows[start].cells
    below = rows[start + 1].cells if start + 1 < len(rows) else []
    kind = header_kind(cells, below, decimal)
    values, lower = read_values(cells, decimal), read_values(below, decimal)
    if kind == 3:
        return start, True
    if kind == 2:
        # Counts of a detector rise or fall as well, but not in regular steps.
        regular = (
            len(values) > 5 and is_regular(values) and not (len(lower) == len(values) and is_regular(lower))
        )
        clear = header_kind(below, [], decimal) < 2 or not (in_range(lower) and in_range(values))
        return (start, True) if clear or regular else None
    if kind == 1 and len(values) > 4 and is_regular(values) and not is_regular(lower):
        return start, True
    return start, not any(map(number_like, cells))


def _is_title(row: Row, width: int) -> bool:
    """Tell a row of titles or units from a sample, which may have the same value in all channels."""
    filled = [cell for cell in row.cells if cell]
    return len(set(filled)) * 2 < width and sum(map(number_like, filled)) * 2 <= len(filled)


def _head(rows: list[Row], start: int, width: int) -> int:
    """Return where the rows above the wavelengths begin that belong to the same table."""
    top = start
    widest = max(width, len(rows[start].cells))
    while top > 0 and 1 < len(rows[top - 1].cells) <= widest and (width == 2 or width_of(rows[top - 1]) > 1):
        top -= 1
    for k in range(top - 1, -1, -1):  # rows of labels may be empty, below the one that names the samples
        if not 1 < len(rows[k].cells) <= widest:
            break
        if width_of(rows[k]) > 1 and _AXIS.search(rows[k].cells[0]):
            top = k
    if width == 2:
        # Of two columns, lines such as "Serial number,123" above the header do not belong to the table.
        axis = [k for k in range(top, start) if _AXIS.search(rows[k].cells[0])]
        headed = top < start and width_of(rows[start - 1]) > 1
        top = axis[-1] if axis else start - headed
    return top


def _axis(rows: list[Row], decimal: str | None, orientation: str | None) -> tuple[int, int] | None:
    """Find the longest block of rows whose first cells rise or fall: wavelengths down the first column."""
    firsts = [parse_channel(row.cells[0], decimal) if row.cells[0] else None for row in rows]
    best, start = (0, 0), 0
    for k in range(len(rows) + 1):
        values = [first[0] if first else None for first in firsts[max(start, k - 2) : k + 1]]
        if k < len(rows) and values[-1] is not None and len(rows[k].cells) > 1:
            numbers = [value for value in values if value is not None]
            if is_monotone(numbers) and len(numbers) == len(values):
                continue
        if k - start > best[1] - best[0]:
            best = (start, k)
        start = k if k < len(rows) and firsts[k] is not None else k + 1
    start, stop = best
    if stop - start < 3:
        return None
    grid = [first[0] for first in firsts[start:stop] if first is not None]
    top = _head(rows, start, max(map(width_of, rows[start:stop])))
    named = any(first[1] for first in firsts[start:stop] if first)
    named = named or any(_AXIS.search(row.cells[0]) for row in rows[top:start])
    if named or orientation == "columns" or (len(grid) >= 10 and in_range(grid) and is_regular(grid)):
        return best
    return None


def _prefers_across(
    rows: list[Row], across: tuple[int, int], upright: tuple[int, bool] | None, start: int
) -> bool:
    """Choose between wavelengths down the first column and wavelengths in a header."""
    first, stop = across
    above = rows[first - 1].cells if first else []
    corner = above[0] if above else ""
    top = _head(rows, first, max(map(width_of, rows[first:stop])))
    if any(_AXIS.search(row.cells[0]) for row in rows[top:first]):
        # Over names of samples the word may be any; numbers are names only where wavelengths are below.
        grid = read_values([row.cells[0] for row in rows[first:stop]])
        return in_range(grid) or upright is None or not in_range(read_values(rows[upright[0]].cells) or [0.0])
    if upright is None or not upright[1]:
        # No header: two columns are wavelength and value; whole numbers in steps of one may as well be names.
        values = read_values([row.cells[0] for row in rows[first:stop]], None)
        if width_of(rows[first]) > 2 and all(abs(b - a) == 1 for a, b in itertools.pairwise(values)):
            raise Unreadable(
                f"the first column may hold wavelengths or names of samples ({rows[first].cells[0]}, ...). Say which: "
                "orientation='columns' or 'rows' (--orientation)."
            )
        return True
    head = read_values(rows[upright[0]].cells, None)
    if is_counted(head):
        firsts = read_values([row.cells[0] for row in rows[first:stop]], None)
        if all(abs(b - a) == 1 for a, b in itertools.pairwise(firsts)):
            refuse_numbered_samples(rows[upright[0]], rows[first:stop], None)
    if not head or is_counted(head) or not in_range(head):
        return not corner or upright[0] != first - 1 or not head
    if not corner and upright[0] == first - 1 and is_regular(head) and len(head) > 2:
        raise Unreadable(
            f"both line {rows[upright[0]].line} and the first column may hold the wavelengths. Say which: "
            "orientation='rows' or 'columns' (--orientation)."
        )
    return False


def _turned(rows: list[Row], start: int, stop: int) -> _Cells:
    """Cut out a table with one sample per column and turn it."""
    width = max(map(width_of, rows[start:stop]))
    top = _head(rows, start, width)
    block = rows[top:stop]
    for row in block:
        if len(row.cells) < width:
            raise Unreadable(f"line {row.line} has {len(row.cells)} cells, others {width}.")
    names = [row.cells[0] for row in block]
    above = rows[:top]
    units = [
        k for k, row in enumerate(block) if all(re.fullmatch(r"[\[(].*[\])]", c) for c in row.cells[:width])
    ]
    if top < start and block[0].cells[0] != "sample":
        # A heading over the wavelengths describes them; over the samples are their names.
        above = [*above, Row(block[0].line, block[0].cells[:1])]
        names[0] = "sample" if "sample" not in names else "name"
    if units:
        above = [*above, *(block[k] for k in units)]
        block = [row for k, row in enumerate(block) if k not in units]
        names = [name for k, name in enumerate(names) if k not in units]
    columns = [[row.cells[k] for row in block] for k in range(1, width)]
    places = [f"column {k + 1}" for k in range(1, width)]
    notes = ["one sample per column"]
    heads = [column[0] for column in columns] if top < start else []
    if heads and all(_QUANTITY.fullmatch(tidy(head)) for head in heads):
        chosen = 0
        if len(heads) > 1:
            kinds = [k for k, head in enumerate(heads) if re.match("absorb|log|extinc", head, re.IGNORECASE)]
            if len(kinds) != 1:
                raise Unreadable(f"its columns are {', '.join(heads)}; keep the one that holds the spectrum.")
            chosen = kinds[0]
            notes.append(f"of {', '.join(heads)} the column {heads[chosen]!r}")
        names, columns, places = names[1:], [columns[chosen][1:]], [places[chosen]]
    rest = rows[stop:]
    for row in rest:
        many = width > 3 and sum(map(number_like, row.cells)) * 2 > width
        if number_like(row.cells[0]) and (many or len(row.cells) >= width):
            raise Unreadable(
                f"line {row.line} ({row.cells[0]}, ...) does not go on with the wavelengths above it."
            )
    if rest:
        notes.append(f"{_lines(rest)} below the table left out ({_shown(rest[0])})")
    return _Cells(names, columns, places, True, above, notes)


def _standing(rows: list[Row], start: int, headed: bool) -> _Cells:
    """Cut out a table with one sample per row."""
    names = list(rows[start].cells) if headed else []
    body = rows[start + 1 :] if headed else rows[start:]
    if not body:
        raise Unreadable("it has a header but no spectra below it.")
    notes = [] if headed else ["no header"]
    if headed and len(body) > 1 and (unit := _units_below(body[0])):
        notes.append(f"line {body[0].line} ({unit}, ...) below the header left out")
        body = body[1:]
    while body and _is_footer(body[-1], len(rows[start].cells)):
        body = body[:-1]
    rest = [row for row in rows[start + 1 :] if row.line > body[-1].line] if body else list(rows[start + 1 :])
    if not body:
        raise Unreadable(
            f"it has a header but no spectra below it; line {rest[0].line} is {_shown(rest[0])}."
        )
    if rest:
        notes.append(f"{_lines(rest)} below the table left out ({_shown(rest[0])})")
    width = max(width_of(row) for row in body)
    if headed:
        wide = next(k for k in range(len(names), -1, -1) if k == 0 or names[k - 1])
        firsts = [row.cells[0] for row in body]
        named = parse_channel(names[0]) is not None or (
            len(body) > 1 and firsts == [str(k + 1) for k in range(len(body))]
        )
        if width == wide + 1 and named and all(width_of(row) == width for row in body):
            names = ["", *names[:wide]]  # as R writes names of rows
        elif width > wide and width > len(names):
            row = next(row for row in body if width_of(row) > wide)
            raise Unreadable(
                f"line {row.line} has {width_of(row)} cells, the header in line {rows[start].line} has {wide} columns."
            )
        else:
            names = [*names[: max(wide, width)], *[""] * (width - len(names))]
    else:
        names = [""] * width
    samples = []
    for row in body:
        cells = row.cells[: len(names)]
        samples.append([*cells, *[""] * (len(names) - len(cells))])
    short = [len(row.cells) for row in body]
    places = [f"line {row.line}" for row in body]
    cut = _Cells(names, samples, places, headed, rows[:start], notes)
    for row, count, cells in zip(body, short, samples, strict=True):
        pairs = zip(names, cells, strict=True)
        if headed and summary_of(cells[0]) and not any(cell and parse_channel(name) for name, cell in pairs):
            continue  # it sums up reference values alone, as an Excel sheet ends such a row
        if count < width and (not headed or any(parse_channel(name) for name in names[count:])):
            if not any(cells[1:]):
                raise Unreadable(f"line {row.line} ({_shown(row)}) is not a row of the table.")
            raise Unreadable(f"line {row.line} has {count} cells, others have {width}: it was cut off.")
    return cut


def _units_below(row: Row) -> str | None:
    """Return the unit that a row below a header repeats for the channels; None where it is a sample."""
    filled = [cell for cell in row.cells if cell]
    unit, count = Counter(filled).most_common(1)[0]
    words = not any(map(number_like, filled)) and not is_missing(unit)
    return unit if words and count > 2 and count * 2 > len(filled) else None


def _is_footer(row: Row, width: int) -> bool:
    """Tell a line of words below a table from a sample."""
    return width > 1 and len(row.cells) < max(2, 0.6 * width) and not any(map(number_like, row.cells))


def _lines(rows: Sequence[Row]) -> str:
    return "1 line" if len(rows) == 1 else f"{len(rows)} lines"


def _shown(row: Row) -> str:
    text = " ".join(cell for cell in row.cells if cell)
    return repr(text[:37] + "..." if len(text) > 40 else text)


# -- Columns.


def _named_columns(cut: _Cells) -> tuple[list[str], list[list[str]]]:
    """Drop columns without a name and a value; name the others that have none."""
    empty = [not name and not any(row[k] for row in cut.samples) for k, name in enumerate(cut.names)]
    kept = [k for k, gone in enumerate(empty) if not gone]
    samples = cut.samples if len(kept) == len(empty) else [[row[k] for k in kept] for row in cut.samples]
    return [cut.names[k] for k in kept], samples


def _table(
    names: list[str],
    samples: list[list[str]],
    cut: _Cells,
    decimal: str | None,
    channels: Sequence[str] | None,
) -> TextTable:
    if channels is not None:
        missing = [name for name in channels if name not in names]
        if missing:
            raise Unreadable(
                f"it has no column {missing[0]!r}; {len(channels) - len(missing)} of {len(channels)} are there."
            )
        run = [names.index(name) for name in channels]
        found = [parse_channel(name, decimal) for name in channels]
        values = [each[0] for each in found if each is not None]
        if len(values) < len(found) or not is_monotone(values) or is_counted(values):
            values = []
        units = {each[1] for each in found if each is not None} - {None}
        unit = units.pop() if values and len(units) == 1 else None
    elif cut.headed:
        run = find_channels(names, decimal).places
        values, unit = [], None
    else:
        run = [k for k in range(len(names)) if number_like(samples[0][k]) or is_missing(samples[0][k])]
        values, unit = [], None
    columns = set(run)
    labels = [k for k in range(len(names)) if k not in columns]
    headers = [names[k] for k in run] if cut.headed else []
    decimal = decimal or find_decimal(samples, run, labels, headers, cut.places)
    if channels is None and cut.headed:
        run, found_values, unit = find_channels(names, decimal)
        values = found_values or []
    titles = {k: names[k] or f"column {k + 1}" for k in range(len(names))}
    twice = [title for title, count in Counter(titles[k] for k in labels).items() if count > 1]
    if twice:
        raise Unreadable(f"it names the column {twice[0]!r} twice; each name may occur once.")
    inside = (
        [k for k in labels if run[0] < k < run[-1] and not names[k]]
        if cut.headed and channels is None
        else []
    )
    if inside:
        raise Unreadable(f"column {inside[0] + 1}, within the spectrum, has no name.")
    shown = [titles[k] if cut.headed else str(position + 1) for position, k in enumerate(run)]
    places, notes = cut.places, list(cut.notes)
    summed = list_summaries([[row[k] for k in labels] for row in samples])
    # Of reference values alone: there is no spectrum that could be one of a sample.
    bare = {row: summed[row][0] for row in summed if all(is_missing(samples[row][k]) for k in run)}
    if 0 < len(bare) < len(samples):
        notes.append(tell_left(bare, places))
        samples = [row for k, row in enumerate(samples) if k not in bare]
        places = [place for k, place in enumerate(places) if k not in bare]
    X = spectra_of(samples, run, decimal, shown, places)
    left = find_summaries(X, [[row[k] for k in labels] for row in samples], places)
    if left:
        notes.append(tell_left(left, places))
        kept = [k for k in range(len(samples)) if k not in left]
        X, samples, places = X[kept], [samples[k] for k in kept], [places[k] for k in kept]
    refuse_grids(X, places)
    return TextTable(
        X=X,
        channels=shown,
        wavelengths=np.array(values, dtype=np.float64) if values else None,
        unit=unit,
        unit_from="header",
        labels={titles[k]: [row[k] for row in samples] for k in labels},
        places=places,
        decimal=decimal,
        notes=notes,
    )


def spectra_of(
    samples: Sequence[Sequence[str]],
    run: Sequence[int],
    decimal: str,
    names: Sequence[str],
    places: Sequence[str],
) -> Any:
    """Turn the cells of channels into numbers; refuse gaps and words by sample and channel."""
    X = np.empty((len(samples), len(run)), dtype=np.float64)
    first, stop = run[0], run[-1] + 1
    straight = list(run) == list(range(first, stop))
    gaps: list[tuple[int, int]] = []
    for k, sample in enumerate(samples):
        cells = sample[first:stop] if straight else [sample[c] for c in run]
        joined = _BETWEEN.join(cells)
        if decimal == "," and "." not in joined:
            joined = joined.replace(",", ".")
        if _FAST.fullmatch(joined):
            try:
                X[k] = [float(cell) for cell in joined.split(_BETWEEN)]
                continue
            except ValueError:
                pass
        for c, cell in enumerate(cells):
            number = parse_number(cell, decimal)
            if number is None and not is_missing(cell):
                raise Unreadable(
                    f"sample {k + 1} ({places[k]}): the column {names[c]} is a channel and must hold numbers; found "
                    f"{cell[:40]!r}{_hint(cell, decimal)}."
                )
            if number is None:
                gaps.append((k, c))
            X[k, c] = np.nan if number is None else number
    if gaps:
        k, c = gaps[0]
        raise Unreadable(
            f"it holds {len(gaps)} missing values in the spectra; the first is sample {k + 1} ({places[k]}) at "
            f"{names[c]}. Fill or leave out such samples first."
        )
    bad = np.argwhere(~np.isfinite(X))
    if bad.size:
        k, c = bad[0]
        raise Unreadable(f"sample {k + 1} ({places[k]}) at {names[c]}: the number is too large.")
    return X


def _hint(cell: str, decimal: str) -> str:
    other = "," if decimal == "." else "."
    return f", but {decimal!r} is the decimal sign" if parse_number(cell, other) is not None else ""
