"""Refusals of tables that may be read in two ways, by their lines.

Uses the standard library and numpy only: scripts that predict on their own carry the source of this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nirs_store.reading.cells import parse_number
from nirs_store.reading.dialect import Row, Unreadable, number_like
from nirs_store.reading.grid import in_range, is_counted, is_monotone, is_regular, read_values


def width_of(row: Row) -> int:
    """Return the width of a row up to its last filled cell."""
    return next((k for k in range(len(row.cells), 0, -1) if row.cells[k - 1]), 0)


def refuse_unclear(row: Row) -> None:
    """Refuse a first row that may be a header of wavelengths or a spectrum."""
    raise Unreadable(
        f"line {row.line} ({', '.join(row.cells[:3])}, ...) may be a header of wavelengths or a spectrum. Say which: "
        "header=True or header=False (--header, --no-header)."
    )


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
