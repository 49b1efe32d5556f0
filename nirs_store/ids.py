"""Identifiers, clock and hash: the three things that every room takes from here.

Ids are UUIDs of version 7 as text: they sort by the moment they were made, need no catalog to be unique, and
are safe in file names.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    from uuid_utils import uuid7

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def new_id() -> str:
    """Make a new identifier."""
    return str(uuid7())


def derived_id(base: str, *parts: str) -> str:
    """Make the identifier that follows from others, with the moment of `base`: the same wherever it is made."""
    found = hashlib.sha256("\0".join((base, *parts)).encode()).hexdigest()
    moment = base[:13] if is_id(base) else "00000000-0000"
    return f"{moment}-7{found[:3]}-{'89ab'[int(found[3], 16) % 4]}{found[4:7]}-{found[7:19]}"


def is_id(text: object) -> bool:
    """Tell whether `text` has the form of an id made by `new_id`."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def utcnow() -> datetime:
    """Return the present moment as an aware UTC datetime with microseconds."""
    return datetime.now(UTC)


def earlier(moment: datetime, *, days: float = 0.0, seconds: float = 0.0) -> datetime:
    """Return the moment that lies so long before another; the first of the calendar where that would lie before
    it.
    """
    try:
        return moment - timedelta(days=days, seconds=seconds)
    except OverflowError:
        return datetime.min.replace(tzinfo=moment.tzinfo)


def sha256_hex(data: bytes | bytearray | memoryview) -> str:
    """Return the SHA-256 of `data` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _leave_the_millisecond_of_the_fork() -> None:
    # Within one millisecond a UUIDv7 continues a counter, which two forked children inherit alike; only 32
    # random bits would then keep them apart. In a later millisecond the counter starts from fresh randomness.
    inherited = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == inherited:
        time.sleep(0.0002)


# There is no fork on Windows, and no such hook there either.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_the_millisecond_of_the_fork)


# -- Rows that were recorded but not committed yet.


def naive(moment: datetime) -> datetime:
    """UTC without the zone: what a TIMESTAMP column takes."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def now_naive() -> datetime:
    """Return the present moment for a TIMESTAMP column."""
    return naive(utcnow())


def content_hash(X: NDArray[Any], y: NDArray[Any]) -> str:
    """Hash spectra and targets (SHA-256 of dtypes, shapes and values): the same data, the same text."""
    digest = hashlib.sha256()
    for array in (X, y):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def spectrum_hashes(X: NDArray[Any]) -> list[bytes]:
    """Hash each spectrum by its values, 16 bytes each: the same numbers have the same hash in every dtype.

    Examples
    --------
    >>> import numpy as np
    >>> one, other = spectrum_hashes(np.array([[1, 0]], dtype=np.int16)), spectrum_hashes(np.array([[1.0, -0.0]]))
    >>> one == other
    True
    """
    import numpy as np
    from xxhash import xxh3_128_digest

    # A copy: minus zero becomes zero, and every NaN the same.
    values = np.array(X, dtype="<f8", order="C")
    values += 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        odd = not np.isfinite(values.sum())
    if odd:
        values[np.isnan(values)] = np.nan
    return [xxh3_128_digest(row) for row in values]
