"""Turning what callers pass into what columns take, with errors that name the argument."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from numbers import Real
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from nirs_store.errors import InvalidInput, RecordingWarning, did_you_mean, quoted

MOST_ROWS = 2**48
"""More rows than any table has: larger limits count as this one."""

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
    """Strict JSON text (NaN and infinities become null); None stays None."""
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
    # Here, because a commit that Arrow refuses would hold back all that was recorded with it.
    if nbytes > MOST_BYTES:
        raise InvalidInput(
            f"{name}: expected at most {MOST_BYTES:,} bytes, found {nbytes:,}. Nothing was recorded. Keep what is "
            "that large as a file (store.files) and record its name."
        )


def from_json(text: str | None) -> Any:
    """Decode a JSON column."""
    return None if text is None else msgspec.json.decode(text)


def target_of(metadata: Any) -> dict[str, str | None]:
    """Return the columns `target` and `target_unit` of a chain, from its decoded metadata."""
    found: dict[str, str | None] = {}
    for name in ("target", "target_unit"):
        value = metadata.get(name) if isinstance(metadata, Mapping) else None
        plain = value if value is None or isinstance(value, str) else to_json(value, name)
        found[name] = (plain or "").strip(" ") or None
    return found


def as_text(value: Any, name: str) -> str:
    """Return a text column that may not be NULL."""
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


def as_name(value: Any, name: str) -> str:
    """Return a text that names something in lists: it has at least one character that can be seen."""
    text = as_text(value, name)
    if not any(sign.isprintable() and not sign.isspace() for sign in text):
        raise InvalidInput(
            f"{name}: expected a name that can be seen, found {quoted(text)}. Nothing was recorded."
        )
    return text


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
    """Return an id as a query can hold it; text that UTF-8 cannot hold becomes empty, which is not an id either."""
    return "" if isinstance(identifier, str) and not is_text(identifier) else identifier


def as_float(value: Any, name: str) -> float | None:
    """Return a DOUBLE column; None stays None and NaN stays NaN (both rank last)."""
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(
            f"{name}: expected a number or None, found {value!r}. Nothing was recorded."
        ) from error


def as_seconds(value: Any, name: str) -> float:
    """Return a span of time: a number of at least 0, infinity among them."""
    seconds = float(value) if isinstance(value, Real) else -1.0
    if not seconds >= 0:
        raise InvalidInput(
            f"{name}: expected seconds, a number of at least 0, found {value!r}. Nothing was changed."
        )
    return seconds


def as_int(value: Any, name: str) -> int | None:
    """Return an INTEGER column; None stays None."""
    return _whole(value, name, 32)


def as_long(value: Any, name: str) -> int | None:
    """Return a BIGINT column; None stays None."""
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
    """Return the text of an error, whatever it holds: reporting a failure must not fail itself."""
    return storable(str(value))


def storable(text: str) -> str:
    """Text that every column takes: what UTF-8 cannot hold, and NUL, is written out with a backslash."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def with_zone(moment: datetime | None) -> datetime | None:
    """Return a TIMESTAMP as an aware UTC datetime."""
    return None if moment is None else moment.replace(tzinfo=UTC)


# -- Taking arrays and data frames from anybody: numpy, polars, pandas, and what speaks Arrow.


_KNOWN = ("numpy", "pandas", "polars")


def native(value: Any, name: str = "The table") -> Any:
    """Return a value that numpy, polars or pandas can handle: what speaks Arrow becomes polars."""
    kind = type(value)
    if kind.__module__.partition(".")[0] in _KNOWN:
        return value.collect() if kind.__name__ == "LazyFrame" else value
    if not (hasattr(kind, "__arrow_c_stream__") or hasattr(kind, "__arrow_c_array__")):
        return value
    import polars as pl

    try:
        series = pl.Series(value)
        return series.struct.unnest() if series.dtype == pl.Struct else series
    except pl.exceptions.PolarsError as error:
        raise InvalidInput(f"{name} holds Arrow data that cannot be read: {error}") from error


def is_frame(value: Any) -> bool:
    """Whether a value is a table with named columns, polars or pandas or alike."""
    kind = type(value)
    return hasattr(kind, "columns") and hasattr(kind, "to_numpy")


def column_names(frame: Any) -> list[Any]:
    """Names of the columns, as they are (pandas may have numbers)."""
    return list(frame.columns)


def as_array(value: Any, name: str = "The table") -> NDArray[Any]:
    """Anything array-like as a numpy array."""
    value = native(value, name)
    if isinstance(value, np.ndarray):
        # Looked at by its name first: numpy imports its masked arrays when they are asked for.
        return _unmasked(value, name) if hasattr(value, "mask") else value
    if not hasattr(value, "to_numpy"):
        try:
            return np.asarray(value)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"{name} cannot be read as an array: {error} Nothing was changed.") from error
    if type(value).__module__.partition(".")[0] == "polars":
        import polars as pl

        if isinstance(value, pl.Series) and isinstance(value.dtype, pl.List):
            widths = value.list.len().unique()
            if widths.len() == 1 and widths[0] is not None:
                value = value.list.to_array(widths[0])
        return np.asarray(value.to_numpy())
    array = np.asarray(value.to_numpy())
    if array.dtype.hasobject and _is_numeric(value):
        # Nullable columns of pandas come as objects, with a marker of its own for what is missing.
        return np.asarray(value.to_numpy(dtype=np.float64, na_value=np.nan))
    return array


def as_floats(array: NDArray[Any]) -> NDArray[np.float64]:
    """Real numbers as float64."""
    if array.dtype.kind in "Mmc":
        raise TypeError(f"found {_STRANGE[array.dtype.kind]} ({array.dtype})")
    if array.dtype.kind not in "OUS":
        return array.astype(np.float64)
    values = [_as_real(value) for value in array.ravel().tolist()]
    return np.array(values, dtype=np.float64).reshape(array.shape)


_STRANGE = {"M": "dates or times", "m": "spans of time", "c": "complex numbers"}


def _as_real(value: Any) -> float:
    """Read one boxed number; text only as it is written in a table."""
    if value is None:
        return math.nan
    if isinstance(value, str | bytes):
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if (
            re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", text, re.ASCII)
            or text.strip().lower() == "nan"
        ):
            return float(text)
        raise ValueError(f"found {value!r}")
    if isinstance(value, date | time | np.datetime64):
        raise TypeError(f"found dates or times ({value})")
    if isinstance(value, timedelta | np.timedelta64):
        raise TypeError(f"found spans of time ({value})")
    if isinstance(value, complex | np.complexfloating):
        raise TypeError(f"found complex numbers ({value})")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"found {type(value).__name__} {str(value)[:40]!r}") from error


def _unmasked(value: NDArray[Any], name: str) -> NDArray[Any]:
    if not isinstance(value, np.ma.MaskedArray):
        return value
    if not np.ma.is_masked(value):
        return np.asarray(value.data)
    if value.dtype.kind not in "fc":
        raise InvalidInput(
            f"{name}: masked values can be NaN among floating-point numbers only, found {value.dtype}. Nothing was "
            "changed. Convert it first, e.g. with .astype(float), or fill it with .filled(...)."
        )
    return np.asarray(value.filled(np.nan))


def _is_numeric(value: Any) -> bool:
    dtypes = value.dtypes if is_frame(value) else [getattr(value, "dtype", None)]
    return all(getattr(dtype, "kind", "O") in "biuf" for dtype in dtypes)


def index_names(frame: Any) -> NDArray[Any] | None:
    """Names of the rows of a pandas frame whose index is text; None for every other table."""
    index = getattr(frame, "index", None)
    if index is None or not hasattr(index, "to_numpy"):
        return None
    names = np.asarray(index.to_numpy())
    if names.ndim != 1 or not names.size or not all(isinstance(each, str) for each in names.tolist()):
        return None
    return names.astype(np.str_)


def check_index(**tables: Any) -> None:
    """Compare the pandas indexes of tables whose rows are joined by their places."""
    # Warns where the first merely counts its rows: the others may keep the labels they had before a selection.
    indexed = [(name, each.index) for name, each in tables.items() if hasattr(each, "iloc")]
    for name, index in indexed[1:]:
        first, expected = indexed[0]
        if len(index) != len(expected) or index.equals(expected) or set(index) != set(expected):
            continue
        message = (
            f"The index of {name} has the labels of {first} in another order, and rows are joined by their places. "
            f"Where the labels name the samples, pass {name}.loc[{first}.index]; where the rows are in order, "
            f"{name}.to_numpy()."
        )
        if list(expected) != list(range(len(expected))):
            raise InvalidInput(f"{message} Nothing was stored.")
        warnings.warn(message, RecordingWarning, stacklevel=3)


# -- Recording an evaluation: everything is checked, blobs are durable, then rows and champion in one transaction.


def one_of(name: str, value: object, known: Collection[str], undone: str = " Nothing was changed.") -> str:
    """Check a spelling; the nearest is suggested. `undone` ends the message."""
    if isinstance(value, str) and value in known:
        return value
    hint = did_you_mean(value, known)
    raise InvalidInput(f"{name}: expected one of {', '.join(known)}, found {value!r}.{hint}{undone}")


def whole_number(name: str, value: object, least: int, undone: str = " Nothing was changed.") -> int:
    """Check a whole number. `undone` ends the message."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidInput(f"{name}: expected a whole number of at least {least}, found {value!r}.{undone}")
    return value


# -- Spans of time as people write them.


GRACE_SECONDS = 3600.0
"""How long a gc leaves alone what a session saved, after its end."""

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|min|m|h|d|w)\s*")


def as_duration(value: timedelta | float | str, name: str) -> timedelta:
    """Return a timedelta, seconds, or a text such as ``"90min"``, ``"24h"``, ``"7d"``."""
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


# Whole numbers up to this are exact as floating-point numbers.
_EXACT = 1 << 53


def one_kind(cells: Sequence[Any], name: str) -> list[Any]:
    """Give the cells of a column one kind of number each: 1 and 0.85 become 1.0 and 0.85, True and 2 become 1 and 2."""
    # Lists and records are gone through as well: a table library that looks at the first of them only would cut the
    # fractions of the others, and drop the keys that it lacks.
    plain = [_plain_number(cell) for cell in cells]
    there = [cell for cell in plain if cell is not None]
    if there and all(isinstance(cell, Mapping) for cell in there):
        keys = list(dict.fromkeys(key for cell in there for key in cell))
        columns = {
            key: one_kind([None if cell is None else cell.get(key) for cell in plain], f"{name}.{key}")
            for key in keys
        }
        return [
            None if cell is None else {key: columns[key][row] for key in keys}
            for row, cell in enumerate(plain)
        ]
    if there and all(isinstance(cell, list | tuple) for cell in there):
        inner = iter(one_kind([each for cell in there for each in cell], name))
        return [None if cell is None else [next(inner) for _ in cell] for cell in plain]
    kinds = {type(cell) for cell in there}
    if len(kinds) < 2 or not kinds <= {bool, int, float}:
        return plain
    if float not in kinds:
        return [None if cell is None else int(cell) for cell in plain]
    for cell in there:
        if isinstance(cell, int) and abs(cell) > _EXACT:
            raise InvalidInput(
                f"{name}: expected numbers of one kind, found the whole number {cell} next to fractions, where it "
                "would be rounded. Nothing was recorded; turn the column into text, or into fractions yourself."
            )
    return [None if cell is None else float(cell) for cell in plain]


def _plain_number(cell: Any) -> Any:
    """Turn a number or truth value of numpy into that of Python; leave anything else as it is."""
    # A timedelta counts as an integer to numpy.
    number = isinstance(cell, np.integer | np.floating | np.bool_) and not isinstance(cell, np.timedelta64)
    return cell.item() if number else cell
