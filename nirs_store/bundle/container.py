"""What a ZIP file must look like before a single byte of it is decompressed: a bundle, its payloads, an archive.

A ZIP file is a list of promises (the central directory) at the end of a file that a stranger made.
`check_archive` reads the promises only: how many members, their names, sizes, places and modes. `Members`
then reads them, counting what really comes out. Nothing here ever joins a member's name to a path.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from nirs_store.errors import BundleInvalid, NirsStoreError

# -- The ZIP file of a bundle: its members uncompressed, as pieces that are written one after the other.


Entry = tuple[str, bytes]
"""Name and content of a member."""

_LOCAL = struct.Struct("<4s2B4HL2L2H")
_CENTRAL = struct.Struct("<4s4B4HL2L5H2L")
_END = struct.Struct("<4s4H2LH")
_LARGE_END = struct.Struct("<4sQ2H2L4Q4sLQL")  # the last record of a large file, and what says where it is
_VERSION = 20
_UNIX = 3
_DATE = (0 << 9) | (1 << 5) | 1  # 1980-01-01, the first that a ZIP file can state
_MODE = 0o100644


def stored_archive(members: Sequence[Entry]) -> Iterator[bytes]:
    """Return the pieces of a ZIP file, in order."""
    directory, place = [], 0
    for name, data in members:
        encoded = name.encode("ascii")
        # Stored: no flags, method 0, and the size twice.
        common = (0, 0, 0, _DATE, zlib.crc32(data), len(data), len(data), len(encoded), 0)
        directory.append(
            _CENTRAL.pack(b"PK\x01\x02", _VERSION, _UNIX, _VERSION, 0, *common, 0, 0, 0, _MODE << 16, place)
            + encoded
        )
        yield b"".join((_LOCAL.pack(b"PK\x03\x04", _VERSION, 0, *common), encoded, data))
        place += _LOCAL.size + len(encoded) + len(data)
    names = b"".join(directory)
    yield names + _END.pack(b"PK\x05\x06", 0, 0, len(members), len(members), len(names), place, 0)


_MIB = 1 << 20
_GIB = 1 << 30
_PIECE = 1 << 20
_LOCAL_HEADER = 30
_ENTRY = 46
_EXTRA = 256
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_PATCH = 0x20

# The exact names that this library gives to members; everything else is not ours.
_OWN_NAMES = re.compile(
    r"manifest\.json|nirs_store\.json|pipeline\.json|chain\.json|fold_weights\.json|trace\.json"
    r"|train_pipeline\.json|card\.md"
    r"|artifacts/step_(?:0|[1-9]\d{0,5})_(?:sub(?:0|[1-9]\d{0,3})|fold(?:0|[1-9]\d{0,5})|foldfinal)\.joblib"
    r"|blobs/[0-9a-f]{64}\.(?:joblib|skops)"
    r"|arrays/[0-9a-f]{64}\.(?:npy|arrow)"
)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much an archive may promise, and how much may come out of it.

    Attributes
    ----------
    members : int
        Number of members.
    member_bytes, total_bytes : int
        Size of one member and of all, decompressed.
    ratio : float
        Decompressed over compressed size of a member; looked at above `ratio_from` bytes.
    ratio_from : int
        Below this size a member may be compressed as well as it can.
    total_ratio : float
        Decompressed size of all members over the size of the file; looked at above `total_ratio_from` bytes.
    total_ratio_from : int
        So much any file may unpack to.
    json_bytes, schema_bytes : int
        Size of a JSON member, ``manifest.json`` may have 1 MiB; and of what describes a fitted object without pickles.
    name_bytes, depth : int
        Length of a member's name, and how many parts it may have between slashes.

    Examples
    --------
    >>> Limits(members=100).members
    100
    """

    members: int = 10_000
    member_bytes: int = 2 * _GIB
    total_bytes: int = 4 * _GIB
    ratio: float = 200.0
    ratio_from: int = _MIB
    total_ratio: float = 20.0
    total_ratio_from: int = 64 * _MIB
    json_bytes: int = 16 * _MIB
    schema_bytes: int = 32 * _MIB
    manifest_bytes: int = _MIB
    name_bytes: int = 200
    depth: int = 4


DEFAULT_LIMITS = Limits()


def is_own_name(name: str) -> bool:
    """Tell whether a member's name is one that a bundle of this library can have."""
    return _OWN_NAMES.fullmatch(name) is not None


class Members:
    """The members of an open archive that passed `check_archive`, read with counted bytes."""

    def __init__(self, archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo], limits: Limits) -> None:
        self._archive = archive
        self._infos = {info.filename: info for info in infos}
        self._limits = limits
        self._read = 0

    @property
    def names(self) -> list[str]:
        """Names in the order in which they stand in the file."""
        return list(self._infos)

    def size(self, name: str) -> int:
        """Return the size that the directory promises for a member, in bytes."""
        return self._infos[name].file_size

    def open(self, name: str) -> IO[bytes]:
        """Open a member that is too large for memory; the caller counts what comes out of it."""
        return self._archive.open(self._infos[name])

    def read(self, name: str, limit: int | None = None) -> bytes:
        """Decompress one member."""
        bound = min(self._limits.member_bytes, self._limits.member_bytes if limit is None else limit)
        if self.size(name) > bound:
            raise BundleInvalid(
                f"The member {name} promises {self.size(name):,} bytes; at most {bound:,} are accepted for it. Raise "
                "the limit with limits=Limits(...) if you know why it is that large."
            )
        return b"".join(self._pieces(name, bound))

    def _pieces(self, name: str, bound: int) -> Iterator[bytes]:
        count = 0
        try:
            with self._archive.open(self._infos[name]) as stream:
                while piece := stream.read(_PIECE):
                    count += len(piece)
                    self._read += len(piece)
                    if count > bound or self._read > self._limits.total_bytes:
                        raise BundleInvalid(
                            f"The member {name} goes on after {count:,} bytes, beyond what is accepted. It was made "
                            "to exhaust memory, or its directory is damaged; nothing of it was kept."
                        )
                    yield piece
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as exc:
            raise BundleInvalid(
                f"The member {name} is damaged: {exc or 'it ends too early'}. Nothing was loaded; "
                "copy or export the bundle again."
            ) from exc
        if count != self.size(name):
            raise BundleInvalid(
                f"The member {name} holds {count:,} bytes where {self.size(name):,} were promised. "
                "Nothing was loaded; copy or export the bundle again."
            )


Refuse = Callable[[str], NirsStoreError]
"""Makes the error of what is wrong with a file."""


def check_archive(
    stream: BinaryIO,
    path: Path,
    limits: Limits = DEFAULT_LIMITS,
    *,
    stored_only: bool = False,
    large: bool = False,
    refuse: Refuse | None = None,
) -> Members:
    """Open an archive after its directory was found acceptable; `large` accepts one beyond 4 GiB or 65,535 members."""
    refuse = refuse or partial(_not_a_bundle, path)
    directory_at, count = _check_end(stream, path, limits, large, refuse)
    try:
        archive = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, OSError) as exc:
        raise refuse(f"its directory cannot be read ({exc})") from exc
    infos = archive.infolist()
    if len(infos) != count:
        raise refuse(f"its last record says {count:,} members, its directory has {len(infos):,}")
    total = 0
    place = 0
    seen: dict[str, str] = {}
    for info in infos:
        name = info.filename
        _check_name(info, limits, refuse)
        other = seen.setdefault(name.casefold(), name)
        if other is not name:
            raise refuse(
                f"two members are called {name!r} (the other {other!r}), and readers differ in which they take",
            )
        if wrong := _wrong_with(info, limits):
            raise refuse(f"the member {name!r} {wrong}")
        if stored_only and info.compress_type != zipfile.ZIP_STORED:
            raise refuse(f"the member {name!r} is compressed inside another archive")
        if info.header_offset < place:
            raise refuse(f"the member {name!r} overlaps the one before it")
        place = info.header_offset + _LOCAL_HEADER + len(name) + info.compress_size
        total += info.file_size
    if place > directory_at:
        raise refuse("its last member overlaps the directory")
    if total > limits.total_bytes:
        raise refuse(
            f"it promises {total:,} bytes, more than the {limits.total_bytes:,} that are accepted "
            "(Limits.total_bytes)",
        )
    size = stream.seek(0, os.SEEK_END)
    most = max(limits.total_ratio_from, int(limits.total_ratio * size))
    if total > most:
        raise refuse(
            f"its {size:,} bytes would unpack to {total:,}; at most {most:,} are accepted (Limits.total_ratio="
            f"{limits.total_ratio:g} times the file, or Limits.total_ratio_from={limits.total_ratio_from:,})",
        )
    return Members(archive, infos, limits)


def _check_end(stream: BinaryIO, path: Path, limits: Limits, large: bool, refuse: Refuse) -> tuple[int, int]:
    """Read the record at the very end; give the directory's place and the number of its members."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    start = stream.read(4)
    stream.seek(max(0, size - _LARGE_END.size - _END.size))
    ends = stream.read()
    before, tail = ends[: -_END.size], ends[-_END.size :]
    if size < _END.size or not tail.startswith(b"PK\x05\x06"):
        if start.startswith(b"PK"):
            what = "it does not end as a ZIP file ends: it was cut off, or something was appended"
        else:
            what = f"it is not a ZIP file ({size:,} bytes)"
            if path.suffix == ".py":
                what += (
                    "; a .n4a.py file is a Python script, to be run or imported and not loaded as a bundle"
                )
        raise refuse(what)
    _, disk, directory_disk, here, count, length, offset, comment = _END.unpack(tail)
    if disk or directory_disk or here != count or comment:
        raise refuse("it is one part of a set of archives, or carries a comment, which no bundle does")
    end = size - _END.size
    if large and before.startswith(b"PK\x06\x06") and before[56:60] == b"PK\x06\x07":
        here, count, length, offset = _LARGE_END.unpack(before)[6:10]
        end -= _LARGE_END.size
    elif 0xFFFF in (here, count) or 0xFFFFFFFF in (length, offset):
        raise refuse("it uses the ZIP64 directory, which only archives beyond the accepted limits need")
    if count > limits.members:
        raise refuse(f"it promises {count:,} members; at most {limits.members:,} are accepted")
    # The directory is read as far as it is long, whatever number of members it is said to have.
    if length > count * (_ENTRY + limits.name_bytes + _EXTRA):
        raise refuse(f"its directory has {length:,} bytes, too many for {count:,} members")
    if offset + length != end:
        raise refuse("its directory is not where it should be: something was put before, into or after it")
    return int(offset), int(count)


def _check_name(info: zipfile.ZipInfo, limits: Limits, refuse: Refuse) -> None:
    name = info.orig_filename  # as it is in the file; the other one is already adapted to this system
    parts = name.split("/")
    if (
        not name.isprintable()
        or any(part in ("", ".", "..") for part in parts)
        or any(sign in name for sign in '\\:*?"<>|')
        or name != info.filename
    ):
        raise refuse(f"the member name {name[:200]!r} is not a plain relative name, or is that of a folder")
    if len(name.encode("utf-8", "surrogatepass")) > limits.name_bytes or len(parts) > limits.depth:
        raise refuse(
            f"the member name {name[:200]!r} is longer than {limits.name_bytes} bytes or deeper than {limits.depth}",
        )


def _wrong_with(info: zipfile.ZipInfo, limits: Limits) -> str:
    """Say what is not acceptable about a member; nothing where all is."""
    growth = info.file_size / max(1, info.compress_size)
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        return "is a link or a device, not a file"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if info.flag_bits & _PATCH or info.compress_type not in _METHODS:
        return f"is packed by method {info.compress_type}; only {sorted(_METHODS.values())} are read"
    if info.volume:
        return "lies in another part of a set of archives"
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        return "gives two sizes for the same stored bytes"
    if info.file_size > limits.member_bytes:
        return f"promises {info.file_size:,} bytes; at most {limits.member_bytes:,} are accepted"
    if info.file_size > limits.ratio_from and growth > limits.ratio:
        return f"would grow {growth:,.0f}-fold when decompressed; at most {limits.ratio:g} is accepted"
    return ""


def _not_a_bundle(path: Path, what: str) -> BundleInvalid:
    return BundleInvalid(
        f"{path} is not an acceptable bundle: {what}. Nothing was decompressed. Copy or export it again; "
        "limits=Limits(...) changes the limits where one of them was met."
    )


# -- Arrays of a bundle: read only after the header was compared with what is there.


def read_npy(data: bytes) -> NDArray[Any]:
    """Read an array in numpy's format; nothing of the size that its header states is allocated."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        first = version == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except MemoryError:
        raise
    except Exception as exc:
        # numpy parses the header as Python text, and a broken one fails in the parser's many ways.
        raise ValueError(f"its header cannot be read ({type(exc).__name__}: {exc})") from exc
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError("its header does not fit its length")
    found = np.frombuffer(data, dtype, offset=stream.tell())
    return found.reshape(shape[::-1]).T if fortran else found.reshape(shape)


# -- Probe spectra as a bundle holds them, and comparing predictions with the ones that they should be.


TOLERANCE = 1e-6
"""Largest accepted difference, as a share of the largest expected value.

Replay on the same machine gives the same bits. Another build of the linear algebra gives about 1e-12; one
part in a million is far below what any reference method resolves.
"""


def difference(found: NDArray[Any], expected: NDArray[Any]) -> str:
    """Say how two sets of predictions differ, labels at all or numbers beyond the tolerance; else nothing."""
    if found.shape != expected.shape:
        return f"the shape is {found.shape}, expected {expected.shape}"
    if found.dtype.kind not in "biuf" or expected.dtype.kind not in "biuf":
        wrong = int(np.sum(found.astype(str) != expected.astype(str)))
        return f"{wrong} of {expected.size} labels differ" if wrong else ""
    numbers = expected.astype(np.float64)
    scale = float(np.max(np.abs(numbers), initial=0.0, where=np.isfinite(numbers)))
    if np.allclose(found, numbers, rtol=0.0, atol=TOLERANCE * scale, equal_nan=True):
        return ""
    if (gone := np.isnan(found.astype(np.float64)) != np.isnan(numbers)).any():
        return f"{int(gone.sum())} of {expected.size} values are NaN on one side only"
    worst = float(np.nanmax(np.abs(found - numbers)))
    largest = float(np.nanmax(np.abs(numbers)))
    return f"the largest difference is {worst:.3g}, the largest expected value {largest:.3g}"


def unpacked(
    parts: Sequence[NDArray[Any]], grids: Sequence[NDArray[Any]], sources: Sequence[int]
) -> tuple[Any, Any]:
    """Return the arrays of a probe as `predict` takes them: spectra, and wavelengths or None."""
    X = parts[0] if len(parts) == 1 else dict(zip(sources, parts, strict=False))
    if not grids:
        return X, None
    return X, grids[0] if len(grids) == 1 else dict(zip(sources, grids, strict=False))


# -- JSON as the members of a bundle may hold it: bounded, without NaN, and with each key once.


MAX_DEPTH = 50
_MAX_INT = 2**53  # what every JSON reader can hold exactly
_MAX_DIGITS = 40
_MAX_FLOAT = 400
_MOST_TOKENS = 2_000_000
# Possessive, and a string may lack its end: from no place is the rest of the text read twice.
_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{\]}]', re.DOTALL)


def parse_json(data: bytes, member: str, max_depth: int = MAX_DEPTH) -> Any:
    """Parse the bytes of a member."""

    def refuse(what: str) -> BundleInvalid:
        return BundleInvalid(
            f"The member {member} is not acceptable JSON: {what}. The bundle was damaged, or written by a "
            "program that does not keep to the format; ask for a new export."
        )

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            twice = min(key for key, count in Counter(key for key, _ in items).items() if count > 1)
            raise refuse(f"the key {twice[:80]!r} occurs twice")
        return found

    def integer(text: str) -> int:
        if len(text) > _MAX_DIGITS or abs(int(text)) > _MAX_INT:
            raise refuse("it holds an integer above 2**53")
        return int(text)

    def number(text: str) -> float:
        value = float(text) if len(text) <= _MAX_FLOAT else math.inf
        if not math.isfinite(value):
            raise refuse("it holds a number that is too large or too long")
        return value

    def constant(text: str) -> Any:
        raise refuse(f"it holds {text}, which JSON does not know")

    deepest, tokens = _depth(data)
    if deepest > max_depth:
        raise refuse(f"it is nested deeper than {max_depth} levels")
    if tokens > _MOST_TOKENS:
        # Each takes a hundred bytes or more once it is parsed, and two in the file.
        raise refuse(f"it has more than {_MOST_TOKENS:,} texts and brackets")
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=pairs,
            parse_int=integer,
            parse_float=number,
            parse_constant=constant,
        )
    except BundleInvalid:
        raise
    except ValueError as exc:  # JSONDecodeError and UnicodeDecodeError are both of this kind
        raise refuse(str(exc)) from exc


def parse_object(data: bytes, member: str, max_depth: int = MAX_DEPTH) -> dict[str, Any]:
    """Parse the bytes of a member that must be a JSON object; errors as for `parse_json`."""
    value = parse_json(data, member, max_depth)
    if not isinstance(value, dict):
        raise BundleInvalid(
            f"The member {member} should hold a JSON object, and holds a {type(value).__name__}. "
            "The bundle was not written to the format; ask for a new export."
        )
    return value


def dump_json(value: Any) -> bytes:
    """Write a cleaned value so that equal content gives equal bytes."""
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=1) + b"\n"


def clean(value: Any) -> Any:
    """Turn a value into what strict JSON holds: NaN becomes null, arrays lists, other objects their repr."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((clean(item) for item in value), key=repr)
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, int):
        return int(value) if abs(value) <= _MAX_INT else str(int(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return clean(value.tolist())
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return repr(value)


def _depth(data: bytes) -> tuple[int, int]:
    """Count nesting without recursion, and texts and brackets; brackets inside strings do not count."""
    depth = deepest = tokens = 0
    for token in _TOKENS.finditer(data):
        tokens += 1
        first = token[0][:1]
        if first in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif first in b"]}":
            depth -= 1
        if tokens > _MOST_TOKENS:
            break
    return deepest, tokens
