"""Spans of time as people write them."""

from __future__ import annotations

import math
import re
from datetime import timedelta

from nirs_store.errors import InvalidInput

__all__ = ["GRACE_SECONDS", "as_duration"]

GRACE_SECONDS = 3600.0
"""How long a gc leaves alone what a session saved, after its end."""

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|min|m|h|d|w)\s*")


def as_duration(value: timedelta | float | str, name: str) -> timedelta:
    """A timedelta, seconds, or a text such as ``"90min"``, ``"24h"``, ``"7d"``.

    Raises
    ------
    InvalidInput

    Examples
    --------
    >>> as_duration("36h", "max_age")
    datetime.timedelta(days=1, seconds=43200)
    """
    seconds = -1.0
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        match = _TEXT.fullmatch(value)
        if match is not None:
            seconds = float(match[1]) * _UNITS[match[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    if not 0 <= seconds <= 1e11 or not math.isfinite(seconds):
        raise InvalidInput(
            f"{name}: expected a timedelta, seconds, or a text such as '24h' or '7d', found {value!r}. Nothing was "
            "changed."
        )
    return timedelta(seconds=seconds)
