"""Turning what callers pass into what columns take, with errors that name the argument."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from numbers import Real
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from nirs_store.errors import InvalidInput

__all__ = [
    "MOST_BYTES",
    "as_error",
    "as_float",
    "as_int",
    "as_long",
    "as_seconds",
    "as_text",
    "askable",
    "from_json",
    "is_text",
    "storable",
    "to_json",
    "with_zone",
]

MOST_BYTES = 2**31 - 2
"""The longest text or array that a commit can carry: more than that Arrow does not take as one value."""


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, Mapping):
        return dict(value)
    raise NotImplementedError(type(value).__name__)


def to_json(value: Any, name: str) -> str | None:
    """Strict JSON text (NaN and infinities become null); None stays None.

    Raises
    ------
    InvalidInput
        For what JSON cannot hold, and for more than `MOST_BYTES` of it.
    """
    if value is None:
        return None
    try:
        encoded = msgspec.json.encode(value, enc_hook=_plain)
    except (NotImplementedError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise InvalidInput(
            f"{name}: expected plain data (dict, list, text, number, bool, None), found something that JSON "
            f"cannot hold: {error}. Nothing was recorded. Convert it first, e.g. with str() or .tolist()."
        ) from error
    _check_size(len(encoded), name)
    return encoded.decode()


def _check_size(nbytes: int, name: str) -> None:
    # Here, because a commit that Arrow refuses would hold back all that was recorded beside it.
    if nbytes > MOST_BYTES:
        raise InvalidInput(
            f"{name}: expected at most {MOST_BYTES:,} bytes, found {nbytes:,}. Nothing was recorded. Keep what is "
            "that large as a file (store.files) and record its name."
        )


def from_json(text: str | None) -> Any:
    """Decode a JSON column."""
    return None if text is None else msgspec.json.decode(text)


def as_text(value: Any, name: str) -> str:
    """A text column that may not be NULL.

    Raises
    ------
    InvalidInput
        For anything but text, for text that UTF-8 cannot hold, and for more than `MOST_BYTES` of it.
    """
    if not isinstance(value, str):
        raise InvalidInput(
            f"{name}: expected text, found {type(value).__name__} {value!r}. Nothing was recorded."
        )
    try:
        encoded = value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{name}: {value!r} is not valid Unicode text ({error.reason}).") from error
    _check_size(len(encoded), name)
    if "\x00" in value:
        raise InvalidInput(f"{name}: text may not hold NUL characters, found {value!r}.")
    return value


def is_text(value: Any) -> bool:
    """Whether a value could be an id: text that UTF-8 can hold."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def askable(identifier: Any) -> Any:
    """An id as a question can hold it: what UTF-8 cannot hold becomes empty, which is no id of anything either."""
    return "" if isinstance(identifier, str) and not is_text(identifier) else identifier


def as_float(value: Any, name: str) -> float | None:
    """A DOUBLE column; None stays None and NaN stays NaN (both rank last)."""
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(
            f"{name}: expected a number or None, found {value!r}. Nothing was recorded."
        ) from error


def as_seconds(value: Any, name: str) -> float:
    """A span of time: a number of at least 0, infinity among them.

    Raises
    ------
    InvalidInput
    """
    seconds = float(value) if isinstance(value, Real) else -1.0
    if not seconds >= 0:
        raise InvalidInput(
            f"{name}: expected seconds, a number of at least 0, found {value!r}. Nothing was changed."
        )
    return seconds


def as_int(value: Any, name: str) -> int | None:
    """An INTEGER column; None stays None."""
    return _whole(value, name, 32)


def as_long(value: Any, name: str) -> int | None:
    """A BIGINT column; None stays None."""
    return _whole(value, name, 64)


def _whole(value: Any, name: str, bits: int) -> int | None:
    if value is None:
        return None
    try:
        number = float(value)
        if not math.isfinite(number) or number != int(number):
            raise ValueError("not whole")
        whole = int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(
            f"{name}: expected a whole number, found {value!r}. Nothing was recorded."
        ) from error
    if not -(2 ** (bits - 1)) <= whole < 2 ** (bits - 1):
        raise InvalidInput(f"{name}: {whole} does not fit a {bits}-bit integer. Nothing was recorded.")
    return whole


def as_error(value: Any) -> str:
    """The text of an error, whatever it holds: reporting a failure must not fail itself."""
    return storable(str(value))


def storable(text: str) -> str:
    """Text that every column takes: what UTF-8 cannot hold, and NUL, is written out with a backslash."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def with_zone(moment: datetime | None) -> datetime | None:
    """A TIMESTAMP as an aware UTC datetime."""
    return None if moment is None else moment.replace(tzinfo=UTC)
