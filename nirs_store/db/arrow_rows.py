"""Reading Arrow rows that a stranger may have made: never more memory than their bytes promise.

Commits and archives are plain: no compressed buffers, no dictionaries, one message after the other. Anything that
unfolds while it is read or converted is refused before it is read: a table of a few kilobytes could fill the memory.
Rows in the trash are compressed; what they unfold to is added up first.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pyarrow as pa

# Places of the fields in the tables of Arrow's format, which no later version may move.
_MESSAGE_VERSION, _MESSAGE_HEADER, _BATCH_BUFFERS, _BATCH_COMPRESSION = 0, 2, 2, 3
# In messages before it, Arrow believes notes of the writer that the buffers are compressed.
_V5 = 4


class Unfolds(ValueError):
    """A table that is larger than its bytes, or that this library would not have written."""


def read_rows(
    source: pa.NativeFile | pa.Buffer, check: Callable[[pa.Schema], None], *, most: int, packed: bool = False
) -> pa.Table:
    """Read a stream of Arrow rows, from its schema on, without copying it; they may take `most` bytes.

    `check` raises if the schema is not the right one. With `packed`, buffers may be compressed with zstd or LZ4.
    """
    # One message after the other, and not as the table of contents of a file says: that may name one a thousand times.
    messages = pa.ipc.MessageReader.open_stream(source)
    first = next(iter(messages), None)
    if first is None:
        raise Unfolds("it has no schema")
    found = pa.ipc.read_schema(first)
    check(found)
    batches, size = [], 0
    for message in messages:
        if message.type != "record batch":
            raise Unfolds("it has dictionaries, or other messages than rows")
        unfolded = _unfolded(message)
        if unfolded is not None:
            if not packed:
                raise Unfolds("it is compressed a second time inside")
            size += unfolded
            if size > most:
                raise Unfolds(f"it unfolds to more than {most:,} bytes")
        batches.append(pa.ipc.read_record_batch(message, found))
    table = pa.Table.from_batches(batches, found)
    table.validate(full=True)
    if table.nbytes > most:
        raise Unfolds(
            f"its columns take {table.nbytes:,} bytes of {most:,}: they share what each should have"
        )
    return table


def same_kind(found: pa.DataType, expected: pa.DataType) -> bool:
    """Tell whether two types are the same but for how long a text or a value may be."""
    kinds = (pa.types.is_string, pa.types.is_large_string), (pa.types.is_binary, pa.types.is_large_binary)
    return found == expected or any(
        any(kind(found) for kind in pair) and any(kind(expected) for kind in pair) for pair in kinds
    )


def _unfolded(message: pa.Message) -> int | None:
    """Add up what the compressed buffers of a message say that they unfold to; None if it is not compressed.

    Arrow allots what a buffer says, and refuses one that unfolds to more or less.
    """
    data, body = memoryview(message.metadata), memoryview(message.body)
    try:
        root = struct.unpack_from("<I", data)[0]
        version = _field(data, root, _MESSAGE_VERSION)
        if not version or struct.unpack_from("<h", data, version)[0] != _V5:
            raise Unfolds("it has another version of Arrow's format")
        header = _field(data, root, _MESSAGE_HEADER)
        batch = header + struct.unpack_from("<I", data, header)[0]
        if not _field(data, batch, _BATCH_COMPRESSION):
            return None
        listed = _field(data, batch, _BATCH_BUFFERS)
        listed += struct.unpack_from("<I", data, listed)[0]
        (count,) = struct.unpack_from("<I", data, listed)
        total = 0
        for place in range(listed + 4, listed + 4 + 16 * count, 16):
            offset, length = struct.unpack_from("<qq", data, place)
            if not 0 <= offset <= len(body) or not 0 <= length <= len(body) - offset:
                raise Unfolds("a buffer of it does not lie in it")
            # No bytes are an empty buffer; -1 says that what follows is not compressed.
            said = struct.unpack_from("<q", body, offset)[0] if length else 0
            if said < -1:
                raise Unfolds("a buffer of it has a size below zero")
            total += length if said == -1 else said
        return total
    except struct.error as error:
        raise Unfolds("a message of it cannot be read") from error


def _field(data: memoryview, table: int, number: int) -> int:
    """Find a field of a table of flatbuffers; 0 where it is not set."""
    listed = table - struct.unpack_from("<i", data, table)[0]
    place = 4 + 2 * number
    if listed < 0:
        raise Unfolds("a message of it cannot be read")
    if place >= struct.unpack_from("<H", data, listed)[0]:
        return 0
    offset = struct.unpack_from("<H", data, listed + place)[0]
    return table + offset if offset else 0
