"""Which columns of a header are the channels of spectra, and whether a row is a header at all.

Uses the standard library and numpy only: scripts that predict on their own carry the source of this module.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nirs_store.reading.cells import parse_channel, parse_number, tidy
from nirs_store.reading.dialect import Row, Unreadable, number_like

_NAMED_UNIT = re.compile(
    r"(?:^|[^a-z])nm(?:$|[^a-z])|nanomet|(cm ?\^?-1|1/cm|/cm|wave ?number|wellenzahl|nombre d'onde)",
    re.IGNORECASE,
)
_FAR = 20
"""So many times the usual step away from the others a channel is taken for a label that is named by a number."""


class Channels(NamedTuple):
    """Where the channels are in a header, and what their names say."""

    places: list[int]
    values: list[float] | None
    unit: str | None


def unit_in(text: str) -> str | None:
    """Find the unit that a word such as "Wavelength (nm)" names."""
    found = _NAMED_UNIT.search(tidy(text))
    return None if found is None else "cm-1" if found[1] else "nm"


def is_monotone(values: Sequence[float]) -> bool:
    """Tell whether numbers rise, or fall, from each to the next."""
    pairs = list(itertools.pairwise(values))
    return all(a < b for a, b in pairs) or all(a > b for a, b in pairs)


def is_counted(values: Sequence[float]) -> bool:
    """Tell numbers that only count columns, from 0 or 1 on."""
    return len(values) > 1 and any(list(values) == list(range(k, len(values) + k)) for k in (0, 1))


def in_range(values: Sequence[float]) -> bool:
    """Tell whether numbers can be wavelengths in nm or wavenumbers in cm-1."""
    return all(100 <= value < 1e5 for value in values)


def is_regular(values: Sequence[float]) -> bool:
    """Tell whether most steps of a grid are alike, in nm or in cm-1."""
    if len(values) < 3 or min(values) <= 0:
        return len(values) > 1
    for grid in (list(values), [1e7 / value for value in values]):
        steps = sorted(abs(b - a) for a, b in itertools.pairwise(grid))
        middle = steps[len(steps) // 2]
        if sum(abs(step - middle) <= 0.25 * middle for step in steps) >= 0.8 * len(steps):
            return True
    return False


def header_kind(cells: Sequence[str], below: Sequence[str], decimal: str | None = None) -> int:
    """Say how much a row looks like a header of channels: 3 surely, 2 by its numbers, 1 if they are a grid, 0 not."""
    found = [(parse_channel(cell, decimal), cell) for cell in cells]
    values = [channel[0] for channel, _ in found if channel is not None]
    if not values:
        return 0
    named = [cell for channel, cell in found if channel is not None and not number_like(cell)]
    if len(named) * 2 > len(values):
        return 3
    words = [
        k for k, (channel, cell) in enumerate(found) if channel is None and cell and not number_like(cell)
    ]
    heads = any(k < len(below) and number_like(below[k]) for k in words)
    # Spectra seldom reach 100: a row that does, over one that does not, is a header, even a disordered one.
    under = [below[k] for k, (channel, _) in enumerate(found) if channel is not None and k < len(below)]
    apart = (
        len(values) > 1
        and len(under) > 0
        and _share(values) >= 0.7
        and _share(read_values(under, decimal or ",")) < 0.2
    )
    if heads or (apart and words):
        return 3
    if apart:
        return 2 if len(set(values)) == len(values) or _share(values) < 1 else 0
    if not is_monotone(values):
        return 0
    return 2 if in_range(values) or is_counted(values) else 1


def read_values(cells: Sequence[str], decimal: str | None = None) -> list[float]:
    """Read the cells that can be names of channels, as numbers."""
    return [channel[0] for channel in (parse_channel(cell, decimal) for cell in cells) if channel is not None]


def _share(values: Sequence[float]) -> float:
    return sum(100 <= value < 1e5 for value in values) / len(values) if values else 0.0


def find_channels(names: Sequence[str], decimal: str | None = None) -> Channels:
    """Find the channels in a header: the longest run of columns whose names rise or fall as numbers."""
    parsed = [parse_channel(name, decimal) or parse_channel(name) for name in names]
    run = _longest_run([None if channel is None else channel[0] for channel in parsed])
    if not run:
        raise Unreadable(_no_channels(names))
    run = _without_labels(names, parsed, run)
    values = [parsed[place][0] for place in run]  # type: ignore[index]
    _check_others(names, parsed, run, values)
    units = {parsed[place][1] for place in run} - {None}  # type: ignore[index]
    if len(units) > 1:
        raise Unreadable("the header has channels in nm and in cm-1; keep those of one spectrum.")
    unit = units.pop() if units else None
    if unit is None and is_counted(values):
        return Channels(run, None, None)
    return Channels(run, values, unit)


def _longest_run(values: Sequence[float | None]) -> list[int]:
    """Find the longest run of neighbors that rise or fall."""
    runs: list[list[int]] = [[]]
    for place, value in enumerate(values):
        run = runs[-1]
        last = values[run[-1]] if run else None
        before = values[run[-2]] if len(run) > 1 else None
        if value is None:
            runs.append([])
            continue
        if value == last:
            runs.append([])
        elif last is not None and before is not None and (value > last) != (last > before):
            runs.append([run[-1]])  # the last of a run may begin the next
        runs[-1].append(place)
    return max(runs, key=len)


def _without_labels(
    names: Sequence[str], parsed: Sequence[tuple[float, str | None] | None], run: list[int]
) -> list[int]:
    """Take names such as X1 off the ends of a run of plain numbers that they do not belong to."""
    value = {place: channel for place, channel in enumerate(parsed) if channel is not None}
    for end in (0, -1):
        place = run[end]
        rest = [each for each in run if each != place]
        odd = value[place][1] is None and not number_like(names[place])
        if odd and all(number_like(names[each]) for each in rest):
            run = rest if _lies_apart(value[place][0], [value[each][0] for each in rest]) else run
    return run


def _check_others(
    names: Sequence[str],
    parsed: Sequence[tuple[float, str | None] | None],
    run: list[int],
    values: list[float],
) -> None:
    """Refuse a column that may be a channel outside of the run, and one within that is none."""
    plain = sum(number_like(names[place]) for place in run) * 2 > len(run)
    rising = len(values) < 2 or values[1] > values[0]
    # The nearest first: the reason lies between it and the run.
    for place in sorted(range(len(names)), key=lambda k: max(run[0] - k, k - run[-1])):
        channel = parsed[place]
        if channel is None or run[0] <= place <= run[-1]:
            continue
        if plain and channel[1] is None and not number_like(names[place]):
            continue  # a label such as X1
        if channel[0] in values:
            raise Unreadable(f"the header holds the wavelength {channel[0]:g} twice ({names[place]!r}).")
        behind = place > run[-1]
        near = run[-1] if behind else run[0]
        first, second = sorted((near, place))
        between = names[first + 1 : second]
        goes_on = (channel[0] > values[-1]) == rising if behind else (channel[0] < values[0]) == rising
        if goes_on and between and not _lies_apart(channel[0], values):
            raise Unreadable(
                f"the column {between[0]!r} between the channels {names[first]} and {names[second]} "
                f"{'is not named by a wavelength' if between[0] else 'has no name'}. Correct the name; if it is a "
                "label, move it out of the spectrum."
            )
        if not between and not goes_on and len(run) < 2 * sum(channel is not None for channel in parsed):
            raise Unreadable(
                f"the wavelengths must rise or fall along the columns; after {names[first]} comes {names[second]}. "
                "Is the header line missing, or is a column of labels named by a number?"
            )
        raise Unreadable(
            f"the column {names[place]!r} is named by a number but does not belong to the channels {names[run[0]]} "
            f"to {names[run[-1]]}. Rename it if it is a label, or correct it."
        )
    for end, other in ((0, 1), (-1, -2)):
        rest = values[1:] if end == 0 else values[:-1]
        if _lies_apart(values[end], rest):
            raise Unreadable(
                f"the column {names[run[end]]!r} lies far from the channel {names[run[other]]} next to it. Rename it "
                "if it is a label, e.g. to 'year 2024'; if it is a channel, name the channels (channels=[...])."
            )
    for place, edge, step in ((run[0] - 1, values[0], -1), (run[-1] + 1, values[-1], 1)):
        if not 0 <= place < len(names) or len(values) < 3:
            continue
        spoilt = re.match(r"[^0-9]{0,2}([0-9][0-9.,]*)", tidy(names[place]))
        number = parse_channel(spoilt[1]) if spoilt else None
        usual = abs(values[-1] - values[0]) / (len(values) - 1) * (step if rising else -step)
        if number is not None and 0 < (number[0] - edge) / usual <= 3:
            raise Unreadable(
                f"the column {names[place]!r} seems to be a channel next to {edge:g}, but its name is not a number. "
                "Correct the name, or put another column between if it is a label."
            )


def _lies_apart(value: float, values: Sequence[float]) -> bool:
    if len(values) < 3:
        return False
    steps = sorted(abs(b - a) for a, b in itertools.pairwise(values))
    return min(abs(value - values[0]), abs(value - values[-1])) > _FAR * steps[len(steps) // 2]


def _no_channels(names: Sequence[str]) -> str:
    shown = ", ".join(name for name in names[:6]) + (", ..." if len(names) > 6 else "")
    return (
        f"it has no spectral columns: none is named by a number (its wavelength). Found: {shown}. Name each "
        "spectral column by its wavelength, for example 850.00, '850 nm' or X850; or name them (channels=[...]). If "
        "each column is a sample, say so: orientation='columns' (--orientation)."
    )


# -- Refusals of tables that may be read in two ways, by their lines.


def width_of(row: Row) -> int:
    """Return the width of a row up to its last filled cell."""
    return next((k for k in range(len(row.cells), 0, -1) if row.cells[k - 1]), 0)


def refuse_left_out(above: Sequence[Row], first: Row) -> None:
    """Refuse lines above the table that hold numbers as samples or a header do: leaving them out would be silent."""
    for row in above:
        filled = [cell for cell in row.cells if cell]
        if len(filled) > 2 and 2 * sum(map(number_like, filled)) >= len(filled):
            raise Unreadable(
                f"line {row.line} ({', '.join(row.cells[:3])}, ...) has {len(filled)} cells and looks like a part of "
                f"the table, whose other lines have {width_of(first)} (from line {first.line}). Give every line as "
                "many cells; where decimal commas separate cells as well, separate these by semicolons or tabs."
            )


def refuse_odd_ends(rows: Sequence[Row], decimal: str | None) -> None:
    """Refuse a table without a header whose first or last column does not go on as spectra do: they may be anything."""
    table = [
        [parse_number(cell, decimal or ".") if decimal else _either(cell) for cell in row.cells]
        for row in rows
    ]
    firsts = [row[0] for row in table if row[0] is not None]
    table = [row[: width_of(line)] for row, line in zip(table, rows, strict=True)]
    if len(firsts) < len(rows) or len({len(row) for row in table}) > 1 or any(None in row for row in table):
        return
    X = np.array(table, dtype=np.float64)
    ranged = len(rows) >= 3 and in_range(firsts) and is_monotone(firsts)
    whole = len(set(firsts)) == len(rows) > 1 and not (X[:, 0] % 1).any() and (X[:, 1:] % 1 == 0).mean() < 0.2
    counted = np.diff(X[:, 0])
    whole = whole or (len(rows) >= 3 and bool((counted == 1).all() or (counted == -1).all()))
    apart = ranged and not in_range(X[:, 1:].ravel().tolist())
    steps = np.abs(np.diff(X, axis=1))
    ends = [whole or apart or (ranged and len(rows) >= 10), False]
    if steps.shape[1] >= 5:
        inner = 10 * steps[:, 1:-1].max(axis=1)
        ends = [ends[0] or bool((steps[:, 0] > inner).all()), bool((steps[:, -1] > inner).all())]
    for odd, place, words in ((ends[0], 0, "first"), (ends[1], X.shape[1] - 1, "last")):
        if odd:
            raise Unreadable(
                f"there is no header, and the {words} column ({rows[0].cells[place]}, ...) may hold names of samples, "
                "reference values or wavelengths. Write a header; say orientation='columns' (--orientation) if a "
                "sample is a column; or header=False and orientation='rows' if every column is a channel."
            )


def _either(cell: str) -> float | None:
    found = parse_number(cell)
    return parse_number(cell, ",") if found is None else found


def refuse_numbered_samples(head: Row, body: Sequence[Row], decimal: str | None) -> None:
    """Refuse a header that only counts, over a first column that can be wavelengths as well as names of samples."""
    firsts = read_values([row.cells[0] for row in body], decimal)
    if (
        is_counted(read_values(head.cells[1:], decimal))
        and not (head.cells[0] and not number_like(head.cells[0]))
        and len(body) == len(firsts) >= 3
        and in_range(firsts)
        and is_monotone(firsts)
    ):
        raise Unreadable(
            f"line {head.line} counts 1, 2, ... and the first column below it ({body[0].cells[0]}, ...) may hold "
            "wavelengths or names of samples. Say which: orientation='columns' or 'rows' (--orientation)."
        )


def refuse_grids(X: Any, places: Sequence[str]) -> None:
    """Refuse a second header among the samples, and one below a row that only counts the channels."""
    if X.shape[1] < 5:
        return
    steps = np.diff(X, axis=1)
    size = np.abs(X)
    rows = np.flatnonzero(
        (size.min(axis=1) >= 100)
        & (size.max(axis=1) < 1e5)
        & ((steps > 0).all(axis=1) | (steps < 0).all(axis=1))
    )
    if 0 < len(rows) * 2 <= len(X):
        row = next((row for row in rows.tolist() if is_regular(size[row].tolist())), None)
        if row is not None:
            raise Unreadable(
                f"{places[row]} ({X[row, 0]:g}, {X[row, 1]:g}, ...) holds wavelengths, not a spectrum. Leave one "
                "header in the file, above the samples of one instrument, and check the decimal sign."
            )
