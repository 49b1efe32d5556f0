"""Reading the Arrow tables of an archive that a stranger made: never more memory than their bytes promise.

What this library writes is plain: no compressed buffers, no dictionaries, one message after the other. Whatever
unfolds while it is read or converted is refused before it is read: a table of a few kilobytes could fill the memory.
"""

from __future__ import annotations

import struct

import pyarrow as pa

__all__ = ["Unfolds", "read_plain"]

_MAGIC = b"ARROW1\0\0"
# Places of the fields in the tables of Arrow's format, which no later version may move.
_MESSAGE_HEADER, _BATCH_COMPRESSION = 2, 3


class Unfolds(ValueError):
    """A table that is larger than its bytes, or that this library would not have written."""


def read_plain(source: pa.NativeFile, size: int, schema: pa.Schema) -> pa.Table:
    """Read a mapped Arrow file without copying it."""
    if bytes(source.read(len(_MAGIC))) != _MAGIC:
        raise Unfolds("it does not begin as an Arrow file")
    # One message after the other, and not as the table of contents at the end says: that may name one a thousand times.
    messages = pa.ipc.MessageReader.open_stream(source)
    found = pa.ipc.read_schema(messages.read_next_message())
    for field in found:
        if field.name not in schema.names:
            raise Unfolds(f"it has a column {field.name[:60]!r} that is not known")
        if not _same_kind(field.type, schema.field(field.name).type):
            raise Unfolds(f"its column {field.name!r} is of the type {str(field.type)[:60]}")
    batches = []
    for message in messages:
        if message.type != "record batch" or _is_compressed(message.metadata):
            raise Unfolds("it is compressed a second time inside, or has dictionaries")
        batches.append(pa.ipc.read_record_batch(message, found))
    table = pa.Table.from_batches(batches, found)
    table.validate(full=True)
    if table.nbytes > size:
        raise Unfolds(
            f"its columns take {table.nbytes:,} bytes of {size:,}: they share what each should have"
        )
    return table


def _same_kind(found: pa.DataType, expected: pa.DataType) -> bool:
    kinds = (pa.types.is_string, pa.types.is_large_string), (pa.types.is_binary, pa.types.is_large_binary)
    return found == expected or any(
        any(kind(found) for kind in pair) and any(kind(expected) for kind in pair) for pair in kinds
    )


def _is_compressed(metadata: pa.Buffer) -> bool:
    """Tell from a message's description whether its buffers are compressed, before any is unpacked."""
    data = memoryview(metadata)
    try:
        header = _field(data, struct.unpack_from("<I", data)[0], _MESSAGE_HEADER)
        batch = header + struct.unpack_from("<I", data, header)[0]
        return _field(data, batch, _BATCH_COMPRESSION) != 0
    except struct.error as error:
        raise Unfolds("a message of it cannot be read") from error


def _field(data: memoryview, table: int, number: int) -> int:
    """Find a field of a table of flatbuffers; 0 where it is not set."""
    listed = table - struct.unpack_from("<i", data, table)[0]
    place = 4 + 2 * number
    if place >= struct.unpack_from("<H", data, listed)[0]:
        return 0
    offset = struct.unpack_from("<H", data, listed + place)[0]
    return table + offset if offset else 0
