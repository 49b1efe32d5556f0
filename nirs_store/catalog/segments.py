"""One commit as bytes: a small header, Arrow streams a table, and a checksum over all of it.

Layout of a segment (integers little-endian)::

    8 bytes   magic "NIRSSEG1"
    4 bytes   length of the header
    header    JSON: format, txid, claim, session, created, tables [[name, rows, bytes], ...]
    streams   one Arrow IPC stream a table, in the order of the header
    16 bytes  xxh3-128 of everything before
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
import pyarrow as pa
import xxhash

from nirs_store.catalog.schema import ADDED_COLUMNS, SEGMENT_TABLES, arrow_schema

__all__ = ["Segment", "SegmentDamaged", "decode", "encode"]

_MAGIC = b"NIRSSEG1"
_FORMAT = 1
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class SegmentDamaged(ValueError):
    """The bytes are not a whole segment of a known format."""


class Segment(msgspec.Struct):
    """A decoded commit."""

    txid: str
    claim: str
    session: str
    created: str
    tables: dict[str, pa.Table] = msgspec.field(default_factory=dict)


def encode(
    rows: Mapping[str, Sequence[tuple[Any, ...]]], *, txid: str, claim: str, session: str, created: str
) -> list[bytes]:
    """Encode rows (tuples in column order, a list a table) as the pieces of a segment."""
    streams: list[bytes] = []
    index: list[tuple[str, int, int]] = []
    for name in SEGMENT_TABLES:
        table_rows = rows.get(name)
        if not table_rows:
            continue
        stream = _stream(name, table_rows)
        streams.append(stream)
        index.append((name, len(table_rows), len(stream)))
    header = json.dumps(
        {
            "format": _FORMAT,
            "txid": txid,
            "claim": claim,
            "session": session,
            "created": created,
            "tables": index,
        }
    ).encode()
    pieces = [_MAGIC, struct.pack("<I", len(header)), header, *streams]
    digest = xxhash.xxh3_128()
    for piece in pieces:
        digest.update(piece)
    return [*pieces, digest.digest()]


def _stream(name: str, rows: Sequence[tuple[Any, ...]]) -> bytes:
    # What pyarrow's stream writer gives, byte for byte, in two fifths of its time: all columns are converted in one
    # call, and the schema, which is always the same, is encoded once.
    opening, row_type = _opening(name)
    array = pa.array(rows, type=row_type)
    # More than 2 GB of text or bytes in a column is more than an array's offsets can address: Arrow makes several.
    chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    batches = [pa.RecordBatch.from_struct_array(chunk).serialize() for chunk in chunks]
    return b"".join((opening, *batches, _END_OF_STREAM))


@cache
def _opening(name: str) -> tuple[bytes, pa.StructType]:
    schema = arrow_schema(name)
    return schema.serialize().to_pybytes(), pa.struct(list(schema))


def _complete(name: str, table: pa.Table) -> pa.Table:
    """The table with the columns of today; an older library's rows lack those added since."""
    schema = arrow_schema(name)
    if table.schema.equals(schema):
        return table
    missing = ADDED_COLUMNS.get(name, frozenset()) - set(table.column_names)
    for column in schema:
        if column.name in missing:
            table = table.append_column(column, pa.nulls(table.num_rows, column.type))
    if sorted(table.column_names) != sorted(schema.names) or not table.select(schema.names).schema.equals(
        schema
    ):
        raise SegmentDamaged(f"rows of {name!r} have other columns than the table")
    return table.select(schema.names)


def decode(data: bytes) -> Segment:
    """Decode and verify a segment.

    Raises
    ------
    SegmentDamaged
        When anything about the bytes is off.
    """
    if len(data) < 28 or data[:8] != _MAGIC:
        raise SegmentDamaged("not a segment: the magic number is missing")
    if xxhash.xxh3_128(memoryview(data)[:-16]).digest() != data[-16:]:
        raise SegmentDamaged("checksum mismatch: the file is torn or altered")
    (length,) = struct.unpack_from("<I", data, 8)
    try:
        header = json.loads(data[12 : 12 + length])
        if header["format"] != _FORMAT:
            raise SegmentDamaged(f"segment format {header['format']} is not known here")
        segment = Segment(header["txid"], header["claim"], header["session"], header["created"])
        start = 12 + length
        for name, _, size in header["tables"]:
            if name not in SEGMENT_TABLES:
                raise SegmentDamaged(f"rows for an unknown table {name!r}")
            stream = pa.py_buffer(memoryview(data)[start : start + size])
            table = pa.ipc.open_stream(stream).read_all()
            segment.tables[name] = _complete(name, table)
            start += size
    except SegmentDamaged:
        raise
    except (ValueError, KeyError, TypeError, OSError, pa.ArrowException) as error:
        # OSError too: so Arrow calls a stream that makes no sense, though no file is read here.
        raise SegmentDamaged(f"cannot be decoded: {error}") from error
    return segment
