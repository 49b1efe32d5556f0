"""Spectra as rows of a NumPy file: a small header, then the rows as they are in memory.

Every program reads ``.npy``; a row is found by its number; nothing unfolds while it is read.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from nirs_store.blobs.durable import Draft
from nirs_store.errors import BlobCorrupt, InvalidInput
from nirs_store.ids import spectrum_hashes

# A block is copied, hashed twice and written while it lies in the processor's cache.
BLOCK = 1 << 20
_EXACT = 2**53


def checked_matrix(X: NDArray[Any]) -> NDArray[Any]:
    """Return a matrix of numbers in the byte order that is stored, or refuse it; nothing is copied without need."""
    if X.ndim != 2:
        hint = " A single spectrum is X.reshape(1, -1)." if X.ndim == 1 else ""
        raise InvalidInput(
            f"X must have the shape (n_samples, n_channels); found {X.shape}.{hint} Nothing was stored."
        )
    if X.dtype.kind not in "fiu" or X.dtype.itemsize > 8:
        raise InvalidInput(
            f"X must hold real numbers of at most 64 bits; found {X.dtype}. Nothing was stored."
        )
    if not X.size:
        raise InvalidInput(f"X holds no spectra: its shape is {X.shape}. Nothing was stored.")
    if X.dtype.kind in "iu" and X.dtype.itemsize == 8 and (X.max() > _EXACT or X.min() < -_EXACT):
        raise InvalidInput(
            f"X holds whole numbers beyond 2**53, up to {X.max()}: no calibration can tell them apart. Nothing was "
            "stored. Convert them with .astype(float)."
        )
    if X.dtype.byteorder == ">" or (X.dtype.byteorder == "=" and not np.little_endian):
        return X.astype(X.dtype.newbyteorder("<"))
    return X


def write_rows(draft: Draft, X: NDArray[Any]) -> list[bytes]:
    """Write a checked matrix into a draft; return the hash of each spectrum."""
    header = io.BytesIO()
    described = {"descr": npy.dtype_to_descr(X.dtype), "fortran_order": False, "shape": X.shape}
    npy.write_array_header_1_0(header, described)
    draft.write(header.getvalue())
    step = max(1, BLOCK // (X.shape[1] * X.itemsize))
    hashes: list[bytes] = []
    # Hashing and writing leave the interpreter free, so the spectra are hashed meanwhile. The third thread syncs.
    with ThreadPoolExecutor(3, thread_name_prefix="nirs-store-spectra") as pool:
        pending: list[Future[Any]] = []
        for start in range(0, len(X), step):
            block = np.ascontiguousarray(X[start : start + step])
            _refuse_infinite(block, start)
            for each in pending:
                each.result()
            pending = draft.write_beside(block.data.cast("B"), pool)
            hashes += spectrum_hashes(block)
        for each in pending:
            each.result()
    return hashes


def _refuse_infinite(block: NDArray[Any], start: int) -> None:
    if block.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(block.sum()):
            return
    infinite = np.argwhere(np.isinf(block))
    if infinite.size:
        row, channel = infinite[0]
        raise InvalidInput(
            f"X holds infinite values, first in row {start + row}, channel {channel}. Nothing was stored."
        )


def take_rows(
    path_of: Callable[[int], Path],
    parts: NDArray[np.int64],
    rows: NDArray[np.int64],
    hashes: Sequence[bytes],
    dtype: np.dtype[Any],
    channels: int,
) -> NDArray[Any]:
    """Read spectra by part and row, each compared with its hash."""
    X: NDArray[Any] | None = None
    for part in np.unique(parts).tolist():
        path = path_of(part)
        there = _open_rows(path, dtype, channels)
        chosen = np.flatnonzero(parts == part)
        wanted = rows[chosen]
        if wanted.min() < 0 or wanted.max() >= len(there):
            raise BlobCorrupt(
                f"{path} has {len(there)} spectra; row {int(wanted.max())} was asked for. It was left as it is; run "
                "`nirs-store check --read-data`."
            )
        if X is None:  # not before a file has as many channels as its row says
            X = np.empty((rows.size, channels), dtype=dtype)
        step = max(1, BLOCK // (channels * dtype.itemsize))
        for start in range(0, chosen.size, step):
            some = chosen[start : start + step]
            # From the map into the answer, and compared there: what is returned is what was looked at.
            X[some] = there[rows[some]]
            found = spectrum_hashes(X[some])
            bad = next(
                (place for place, digest in zip(some, found, strict=True) if digest != hashes[place]), None
            )
            if bad is not None:
                raise BlobCorrupt(
                    f"{path} is damaged: the spectrum in row {int(rows[bad])} is not what was stored. It was left as "
                    "it is. Add the same spectra again to heal it, or restore the file from a backup."
                )
    return np.empty((0, channels), dtype=dtype) if X is None else X


def _open_rows(path: Path, dtype: np.dtype[Any], channels: int) -> NDArray[Any]:
    """Map the rows of a file whose header says what is expected and whose size fits it."""
    try:
        with path.open("rb") as file:
            if npy.read_magic(file) != (1, 0):
                raise ValueError("its version is not 1.0")
            shape, fortran, kind = npy.read_array_header_1_0(file)
            offset = file.tell()
        if fortran or kind != dtype or len(shape) != 2 or shape[1] != channels or shape[0] < 1:
            raise ValueError(f"it holds {kind} of the shape {shape}")
        if path.stat().st_size != offset + shape[0] * channels * dtype.itemsize:
            raise ValueError(f"{path.stat().st_size:,} bytes do not hold {shape[0]:,} spectra")
        return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
    except (ValueError, EOFError, SyntaxError) as error:
        raise BlobCorrupt(
            f"{path} is not what was stored: {error}; expected {channels} channels of {dtype}. It was left as it is; "
            "restore the file from a backup."
        ) from error
