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
from nirs_store.ui.table import Table, decimals_of, number_text

__all__ = ["as_json", "filters"]


def as_json(value: Any) -> bytes:
    """Return strict JSON: NaN and infinities become null, times ISO 8601."""
    return msgspec.json.encode(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | bool | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Table):
        return _plain(value.data())
    if isinstance(value, Figure):
        return {"title": value.title, "x": value.x, "y": value.y, "marks": _plain(value.data)}
    if isinstance(value, pl.DataFrame):
        return _plain(value.to_dicts())
    if isinstance(value, np.ndarray | np.generic | pl.Series):
        return _plain(value.to_list() if isinstance(value, pl.Series) else value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    return str(value)


def filters() -> dict[str, Callable[..., Any]]:
    """Return the filters of the templates."""
    return {
        "words": _words,
        "cut": lambda text, longest=60: shortened(printable(str(text)), longest),
        "num": lambda value: "" if value is None else number_text(float(value), decimals_of([value])),
        "count": lambda value: f"{value:,}".replace(",", "\u202f"),
        "size": byte_text,
        "ago": _ago,
        "address": address,
        "clean": lambda text, longest=20_000: printable_lines(shortened(str(text), longest)),
    }


def _words(value: Any) -> str:
    if isinstance(value, Path):
        return printable(str(value))
    return printable(cell_text(value))


def printable_lines(text: str) -> str:
    """Return a text of several lines without what steers a terminal or turns the direction of writing."""
    return "\n".join(printable(line) for line in text.splitlines())


def _ago(seconds: float | timedelta | None) -> str:
    if seconds is None:
        return ""
    value = seconds.total_seconds() if isinstance(seconds, timedelta) else float(seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.1f} s"
