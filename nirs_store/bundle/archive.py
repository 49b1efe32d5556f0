"""The ZIP file of a bundle: its members uncompressed, as pieces that are written one after the other.

The bytes are those that `zipfile` would write. That module puts every member together in memory first, which for
a bundle of models takes longer than anything else about them: here the models are handed on as they are.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

__all__ = ["Entry", "stored_archive"]

Entry = tuple[str, bytes, int | None]
"""Name and content of a member, and its CRC-32 where that is known already."""

_LOCAL = struct.Struct("<4s2B4HL2L2H")
_CENTRAL = struct.Struct("<4s4B4HL2L5H2L")
_END = struct.Struct("<4s4H2LH")
_VERSION = 20
_UNIX = 3
_DATE = (0 << 9) | (1 << 5) | 1  # 1980-01-01, the first that a ZIP file can state
_MODE = 0o100644
# What is shorter is joined with its neighbours: a system call takes as long as copying it.
_PIECE = 1 << 16


def stored_archive(members: Sequence[Entry]) -> Iterator[bytes]:
    """Give the pieces of a ZIP file, in order.

    Parameters
    ----------
    members : sequence of (str, bytes, int or None)
        Names are ASCII; all together they take less than 4 GiB.

    Examples
    --------
    >>> import io, zipfile
    >>> archive = zipfile.ZipFile(io.BytesIO(b"".join(stored_archive([("a", b"first", None)]))))
    >>> archive.read("a")
    b'first'
    """
    directory, place = [], 0
    waiting: list[bytes] = []
    for name, data, known in members:
        encoded = name.encode("ascii")
        checksum = zlib.crc32(data) if known is None else known
        # Stored: no flags, method 0, and the size twice.
        common = (0, 0, 0, _DATE, checksum, len(data), len(data), len(encoded), 0)
        directory.append(
            _CENTRAL.pack(b"PK\x01\x02", _VERSION, _UNIX, _VERSION, 0, *common, 0, 0, 0, _MODE << 16, place)
            + encoded
        )
        waiting += (_LOCAL.pack(b"PK\x03\x04", _VERSION, 0, *common), encoded)
        place += _LOCAL.size + len(encoded) + len(data)
        if len(data) < _PIECE:
            waiting.append(data)
            continue
        yield b"".join(waiting)
        yield data
        waiting.clear()
    names = b"".join(directory)
    end = _END.pack(b"PK\x05\x06", 0, 0, len(members), len(members), len(names), place, 0)
    yield b"".join((*waiting, names, end))
