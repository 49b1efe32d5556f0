"""Numpy arrays as content-addressed rows: dtype, shape and bytes, keyed by their hash.

The same `y_true` belongs to hundreds of predictions; it is stored once. Bytes rather than
lists of doubles, because DuckDB rewrites a list column whole at each commit that touches it.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xxhash

from nirs_store.catalog.values import MOST_BYTES
from nirs_store.errors import CatalogDamaged, InvalidInput
from nirs_store.frames import as_array

__all__ = ["ARRAY_BYTES", "StoredArray", "decode_array", "encode_array"]

StoredArray = tuple[str, str, str, bytes]
"""A row of the table `arrays`: array_hash, dtype, shape (JSON list), data (C order)."""

ARRAY_BYTES = """coalesce((
    TRY_CAST(regexp_extract(dtype, '[0-9]+') AS BIGINT) * CASE WHEN dtype LIKE '_U%' THEN 4 ELSE 1 END
    * CASE WHEN shape = '[]' THEN 1 ELSE list_product(TRY_CAST(shape AS BIGINT[])) END
)::BIGINT, 0)"""
"""SQL for the bytes of a row's array, as its dtype and shape say: the data itself would have to be decompressed.

Of a row that was damaged it counts none, so that a gc goes on; `check` finds the damage.
"""


def encode_array(value: Any, name: str) -> tuple[StoredArray, np.ndarray]:
    """Turn anything array-like into a row of `arrays`.

    Returns
    -------
    row, array
        The row and the array it was made of (for checks of lengths).

    Raises
    ------
    InvalidInput
        For values numpy can only hold as Python objects (other than text), and for arrays of 2 GB or more.
    """
    array = as_array(value, name)
    if array.dtype.names is not None:
        raise InvalidInput(
            f"{name}: expected one value an entry, found records with the fields {', '.join(array.dtype.names)}. "
            "Save each field as an array of its own."
        )
    if array.dtype.hasobject:
        flat = array.ravel().tolist()
        if not all(isinstance(item, str) for item in flat):
            kinds = sorted({type(item).__name__ for item in flat})
            raise InvalidInput(
                f"{name}: expected numbers, booleans or text, found objects of type "
                f"{', '.join(kinds)}. Convert the array first, e.g. with numpy.asarray(..., dtype=float)."
            )
        # Numpy pads text with NULs, and takes those at its end for padding.
        if any(item.endswith("\0") for item in flat):
            raise InvalidInput(f"{name}: text may not end with a NUL character. Nothing was recorded.")
        array = np.array(flat, dtype=np.str_).reshape(array.shape)
    if array.nbytes > MOST_BYTES:
        raise InvalidInput(
            f"{name}: expected an array of at most {MOST_BYTES:,} bytes, found {array.nbytes:,} (shape {array.shape}, "
            f"dtype {array.dtype}). Nothing was recorded. Use a smaller dtype, or keep it as a file (store.files)."
        )
    data = array.tobytes(order="C")
    dtype = array.dtype.str
    shape = f"[{','.join(map(str, array.shape))}]"
    key = xxhash.xxh3_128(f"{dtype}{shape}".encode())
    key.update(data)
    return (key.hexdigest(), dtype, shape, data), array


def decode_array(array_hash: str, dtype: str, shape: str, data: bytes) -> np.ndarray:
    """Rebuild the array of a row; the bytes are checked against their hash.

    Raises
    ------
    CatalogDamaged
        When they do not fit it.
    """
    key = xxhash.xxh3_128(f"{dtype}{shape}".encode())
    key.update(data)
    if key.hexdigest() != array_hash:
        raise CatalogDamaged(
            f"Array {array_hash} does not hash to its name: the catalog's bytes were altered. "
            "Run `nirs-store check --read-data` to see what depends on it."
        )
    array: np.ndarray = np.frombuffer(data, dtype=np.dtype(dtype)).reshape(json.loads(shape))
    return array.copy()
