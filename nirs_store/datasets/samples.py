"""The table of samples of a version: names, groups, references, and where each spectrum is.

Columns that users named begin with ``:``, the others with ``@``; no name of theirs can take the place of one of ours.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nirs_store.db.table import Unfolds, read_rows
from nirs_store.errors import BlobCorrupt
from nirs_store.lazy import polars as pl

ID, GROUP, HASH, PART, ROW = "@id", "@group", "@hash", "@part", "@row"
_HEADER = b"nirs_store"
_KINDS = (
    pa.large_string(), pa.string(), pa.int64(), pa.int32(), pa.float64(), pa.bool_(), pa.date32(),
    pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.large_binary(), pa.binary(),
)  # fmt: skip
_MAGIC = b"ARROW1\0\0"
_DIGEST = 16


class Header(msgspec.Struct, frozen=True):
    """What holds for all samples."""

    dtype: str
    n_channels: int
    wavelengths: list[float] | None = None
    unit: str | None = None
    channel_names: list[str] | None = None
    instrument: dict[str, str] = {}
    units: dict[str, str] = {}

    @property
    def grid(self) -> NDArray[np.float64] | None:
        """Return the wavelengths as an array."""
        return None if self.wavelengths is None else np.array(self.wavelengths, dtype=np.float64)


class Samples(msgspec.Struct, frozen=True):
    """A header and its table."""

    header: Header
    frame: Any

    def to_bytes(self) -> bytes:
        """Return an Arrow file without compression: one that cannot unfold when a stranger sends it."""
        table = self.frame.to_arrow(compat_level=pl.CompatLevel.oldest()).combine_chunks()
        table = table.replace_schema_metadata({_HEADER: msgspec.json.encode(self.header)})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())

    @classmethod
    def read(cls, data: bytes, name: str, parts: int) -> Samples:
        """Read what `to_bytes` made."""
        try:
            source = pa.BufferReader(data)
            if bytes(source.read(len(_MAGIC))) != _MAGIC:
                raise Unfolds("it does not begin as an Arrow file")
            table = read_rows(source, _check_kinds, most=len(data))
            said = (table.schema.metadata or {}).get(_HEADER)
            if said is None:
                raise Unfolds("it does not say what holds for all samples")
            header = msgspec.json.decode(said, type=Header)
            frame = pl.DataFrame(pl.from_arrow(table.replace_schema_metadata(None)))
            _check(header, frame, parts)
        except (pa.ArrowException, Unfolds, msgspec.DecodeError, OSError, TypeError, ValueError) as error:
            raise BlobCorrupt(
                f"The samples of {name} cannot be read: {error}. Nothing was changed; run `nirs-store check "
                "--read-data`, and restore the file from a backup."
            ) from error
        return cls(header, frame)

    @property
    def hashes(self) -> list[bytes]:
        """Return the hash of each spectrum."""
        found: list[bytes] = self.frame[HASH].to_list()
        return found

    def names(self, column: str) -> NDArray[Any] | None:
        """Return the names or groups of the samples as an array; None where there are none."""
        if column not in self.frame.columns:
            return None
        values = self.frame[column]
        return values.to_numpy() if values.dtype.is_integer() else np.array(values.to_list(), dtype=np.str_)

    @property
    def references(self) -> pl.DataFrame:
        """Return the columns of the user under their names."""
        own = [name for name in self.frame.columns if name.startswith(":")]
        found: pl.DataFrame = self.frame.select(pl.col(name).alias(name[1:]) for name in own)
        return found

    def content_hash(self) -> str:
        """Hash everything that a user put in: spectra, names, groups, references and what holds for all."""
        # Where a spectrum lies does not count, so that the same content has the same hash in every workspace.
        digest = hashlib.sha256(msgspec.json.encode(self.header, order="deterministic"))
        for name in sorted(self.frame.columns):
            if name in (PART, ROW):
                continue
            column = self.frame[name]
            values = b"".join(column.to_list()) if name == HASH else msgspec.json.encode(_cells(column))
            digest.update(msgspec.json.encode([name, str(column.dtype), len(values)]))
            digest.update(values)
        return digest.hexdigest()


def label(name: str) -> str:
    """Return the column of a user's name."""
    return f":{name}"


def labels_of(frame: pl.DataFrame) -> list[str]:
    """Return the names that users gave to columns."""
    return [name[1:] for name in frame.columns if name.startswith(":")]


def identity(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Count the samples of one name, so that each row is told from its replicates."""
    return frame.with_columns(pl.int_range(pl.len()).over(list(names)).alias("@replicate"))


def _cells(column: pl.Series) -> list[Any]:
    """Return the values of a column; what JSON has no number for is text, as JSON makes null of it."""
    cells: list[Any] = column.to_list()
    if column.dtype.is_float() and not column.is_finite().all():
        return [repr(cell) if cell is not None and not math.isfinite(cell) else cell for cell in cells]
    return cells


def _check_kinds(found: pa.Schema) -> None:
    for column in found:
        if column.type not in _KINDS:
            raise Unfolds(f"its column {column.name[:60]!r} is of the type {str(column.type)[:60]}")


def _check(header: Header, frame: pl.DataFrame, parts: int) -> None:
    kinds = dict(zip(frame.columns, frame.dtypes, strict=True))
    if kinds.get(HASH) != pl.Binary or kinds.get(PART) != pl.Int32 or kinds.get(ROW) != pl.Int64:
        raise ValueError("it lacks the places of the spectra")
    if any(kinds.get(name, pl.String) not in (pl.String, pl.Int64) for name in (ID, GROUP)):
        raise ValueError("its names are neither text nor whole numbers")
    if any(frame[name].null_count() for name in (HASH, PART, ROW, *({ID, GROUP} & set(kinds)))):
        raise ValueError("it has gaps")
    lengths = frame[HASH].bin.size(unit="b")
    if frame.height and (lengths.min(), lengths.max()) != (_DIGEST, _DIGEST):
        raise ValueError("a hash has another length")
    if frame.height and not (frame[PART].min() >= 0 and frame[PART].max() < parts):  # type: ignore[operator]
        raise ValueError("a spectrum is in a file that is not named")
    # Rows that are named twice would unfold: a small file into any number of spectra.
    if frame.select(PART, ROW).n_unique() != frame.height:
        raise ValueError("a spectrum is named twice")
    if np.dtype(header.dtype).kind not in "fiu":
        raise ValueError(f"its spectra are of the type {header.dtype[:20]}")
    for found in (header.wavelengths, header.channel_names):
        if found is not None and len(found) != header.n_channels:
            raise ValueError("its wavelengths are not as many as its channels")
