"""How values are written: filters of the templates, and plain data for programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl

from nirs_store.display import byte_text, cell_text, printable
from nirs_store.errors import shortened
from nirs_store.ui.figure import Figure
from nirs_store.ui.frame import address
from nirs_store.ui.table import Table, count_text, decimals_of, number_text


def as_json(value: Any) -> bytes:
    """Return strict JSON: NaN and infinities become null, times ISO 8601."""
    return msgspec.json.encode(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | bool | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    for kind, plain in _AS_PLAIN:
        if isinstance(value, kind):
            return _plain(plain(value))
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    return _plain(asdict(value)) if is_dataclass(value) and not isinstance(value, type) else str(value)


#: Names that are not written as they are, and how.
_AS_PLAIN: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (Decimal, float),
    (datetime | date, lambda value: value.isoformat()),
    (bytes, lambda value: f"{len(value)} bytes"),
    (np.ndarray | np.generic, lambda value: value.tolist()),
    (pl.Series, pl.Series.to_list),
    (pl.DataFrame, pl.DataFrame.to_dicts),
    (Table, Table.data),
    (Figure, lambda value: {"title": value.title, "x": value.x, "y": value.y, "marks": value.data}),
)


def filters() -> dict[str, Callable[..., Any]]:
    """Return the filters of the templates."""
    return {
        "words": lambda value: printable(str(value) if isinstance(value, Path) else cell_text(value)),
        "cut": lambda text, longest=60: shortened(printable(str(text)), longest),
        "num": lambda value: "" if value is None else number_text(float(value), decimals_of([value])),
        "count": count_text,
        "size": byte_text,
        "ago": _ago,
        "address": address,
        # A text of several lines without what steers a terminal or turns the direction of writing.
        "clean": lambda text, longest=20_000: "\n".join(
            map(printable, shortened(str(text), longest).splitlines())
        ),
    }


def _ago(span: timedelta) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if span.total_seconds() >= size:
            return f"{span.total_seconds() / size:.1f} {unit}"
    return f"{span.total_seconds():.1f} s"
