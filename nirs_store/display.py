"""What notebooks show: small pieces of HTML, every text in them escaped.

Names, notes and parameters come from the person who recorded them, and a notebook runs the HTML that it
is given. So text goes in through these functions and nowhere else.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

_LONGEST = 200
_UNITS = ("B", "kB", "MB", "GB", "TB")


def escape(value: object) -> str:
    """Text for HTML: nothing in it can end a tag or an attribute."""
    return html.escape(str(value), quote=True)


def printable(text: str) -> str:
    """Replace what steers a terminal (control characters, escapes, marks of direction) by spaces."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else " " for sign in text)


def cell_text(value: object, digits: int = 4) -> str:
    """Format a value for people: numbers rounded, None as nothing, times to the second, long text cut."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{digits}g}" if math.isfinite(value) else str(value)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}" + (f" {value.tzname()}" if value.tzinfo else "")
    if isinstance(value, Mapping):
        return short(", ".join(f"{key}={_item_text(item, digits)}" for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return short(", ".join(_item_text(item, digits) for item in value))
    return short(str(value))


def _item_text(value: object, digits: int) -> str:
    # In a list of parameters None and True are values as others are.
    return str(value) if value is None or isinstance(value, bool) else cell_text(value, digits)


def short(text: str, longest: int = _LONGEST) -> str:
    """Cut a text that is too long for a table."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def with_unit(name: str, unit: str | None) -> str:
    """Put a unit in brackets after a name that does not end with it already, as many column headers do."""
    if not unit or name.endswith((f"({unit})", f"[{unit}]", f" {unit}", f"_{unit}", f"/{unit}")):
        return name
    return f"{name} ({unit})".strip()


def counted(n: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun, in the singular for one."""
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"


def byte_text(size: int) -> str:
    """Return a size in bytes for people, in powers of 1000."""
    amount = float(size)
    for unit in _UNITS:
        if amount < 1000 or unit == _UNITS[-1]:
            break
        amount /= 1000
    return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"


def table(
    head: Sequence[object], rows: Iterable[Sequence[object]], *, caption: str = "", digits: int = 4
) -> str:
    """Build a table with a heading row; numbers are right-aligned."""
    top = "".join(f"<th>{escape(cell_text(name))}</th>" for name in head)
    body = "".join(f"<tr>{''.join(_cell(value, digits) for value in row)}</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object, digits: int) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    style = ' style="text-align:right"' if number else ""
    return f"<td{style}>{escape(cell_text(value, digits))}</td>"


def field_table(fields: Mapping[str, Any]) -> str:
    """Build a table of names and values, one per row; None and empty values are left out."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(cell_text(value))}</td></tr>'
        for name, value in fields.items()
        if value is not None and value != ""
    )
    return f"<table><tbody>{rows}</tbody></table>"


def block(title: str, *parts: str) -> str:
    """Build a heading (escaped here) above finished pieces of HTML."""
    return f"<div><p><b>{escape(title)}</b></p>{''.join(parts)}</div>"
