"""Which sign of a file is the decimal one, and which cells leave it in doubt.

Uses the standard library only: scripts that predict on their own carry the source of this module.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from nirs_store.reading.cells import parse_number
from nirs_store.reading.dialect import Unreadable

_JOIN = "\x1f"


def find_decimal(
    samples: Sequence[Sequence[str]],
    run: Sequence[int],
    labels: Sequence[int],
    headers: Sequence[str],
    places: Sequence[str],
) -> str:
    """Find the decimal sign: in the spectra, else in the header, else in the labels; refuse two, and a doubtful one."""
    doubtful, grouped, points = "", False, ""
    for lines, columns in ((samples, run), ([headers], range(len(headers))), (samples, labels)):
        seen: dict[str, str] = {}
        for place, row in zip(places, lines, strict=False):
            cells = [row[k] for k in columns]
            joined = _JOIN.join(cells)
            if not {sign for sign in ",." if sign in joined} - seen.keys():
                continue
            for cell in cells:
                grouped = grouped or ("," in cell and "." in cell)
                for sign in ".,":
                    if sign not in seen and sign in cell and _only(cell, sign):
                        if sign == "." and columns is run and _is_doubtful(cell):
                            points = points or f"{cell!r} ({place})"
                        else:
                            seen[sign] = f"{cell!r} ({place})"
                if not doubtful and columns is run and re.search(r"[0-9],[0-9]{3}$", cell):
                    doubtful = f"{cell!r} ({place})"
            if columns is run and points and "," in seen and not grouped:
                seen.setdefault(".", points)
            if len(seen) == 2 and columns is run:
                raise Unreadable(
                    f"two decimal signs: {seen['.']} and {seen[',']}. Write all numbers in one way; if one of them "
                    "separates thousands, name the other: decimal='.' or decimal=',' (--decimal)."
                )
        if len(seen) == 1:
            if columns is run and "." in seen and doubtful and not grouped:
                raise Unreadable(
                    f"two decimal signs? {doubtful} and {seen['.']}. Say which it is: decimal='.' or decimal=',' "
                    "(--decimal)."
                )
            if "," in seen and points:
                doubtful = points
                break
            return next(iter(seen))
    if doubtful:
        raise Unreadable(
            f"{doubtful} may be a decimal number or thousands. Say which: decimal=',' or decimal='.' (--decimal)."
        )
    return "."


def _is_doubtful(cell: str) -> bool:
    """Tell a cell such as "1.234" or "12,345", which is a decimal number or thousands."""
    return re.fullmatch(r"[+-]?[1-9][0-9]{0,2}[.,][0-9]{3}", cell) is not None


def in_doubt(cells: Sequence[str | None], decimal: str) -> str | None:
    """Return a cell with the other sign, of a column where nothing tells whether it is decimal or for thousands."""
    signed = [cell for cell in cells if cell and ("." in cell or "," in cell)]
    if any(decimal in cell or not _is_doubtful(cell) for cell in signed):
        return None
    return signed[0] if signed else None


def _only(cell: str, sign: str) -> bool:
    """Tell a number that can be read with this decimal sign alone."""
    other = "," if sign == "." else "."
    return parse_number(cell, sign) is not None and (
        parse_number(cell, other) is None or (sign == "." and "," not in cell and cell.count(".") == 1)
    )
