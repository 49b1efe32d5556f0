"""Values of any type that a query may answer with, as text."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from nirs_store.cli._output import moment
from nirs_store.lazily import polars as pl

__all__ = ["cell_text", "flat_text"]

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
