"""What an archive is made of, and reading one that a stranger may have made.

A tar (gzip or zstd) or a zip file: first ``manifest.json``, which names every other member with its size and
SHA-256, then ``tables/<name>.arrow`` and ``blobs/<sha256>``. Nothing else may be in it, nothing is ever
extracted by a name that is in it, and nothing is decompressed beyond what the manifest says.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, cast

import msgspec

from nirs_store.bundle import container
from nirs_store.errors import ArchiveInvalid, InvalidInput

FORMAT = "nirs_store-archive"
FORMAT_VERSION = 1
FORMATS = ("tar.gz", "tar.zst", "zip")
MANIFEST = "manifest.json"
_NAME = re.compile(r"manifest\.json|tables/[a-z_]{1,40}\.arrow|blobs/[0-9a-f]{64}")
_BLOCK = 512
# What tarfile reads ahead, and room for the header of one member.
_AHEAD = 4 * tarfile.RECORDSIZE
_PIECE = 1 << 20


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much an archive may promise before anything of it is decompressed.

    Attributes
    ----------
    members : int
    total_bytes : int
        Of all members, decompressed.
    manifest_bytes : int
    ratio : float
        Decompressed over compressed size; looked at above `ratio_from` bytes.
    """

    members: int = 2_000_000
    total_bytes: int = 1 << 40
    manifest_bytes: int = 256 << 20
    ratio: float = 1000.0
    ratio_from: int = 1 << 30


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of an archive."""

    member: str
    size: int
    sha256: str
    rows: int = 0


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The first member: what the archive holds."""

    format: str
    format_version: int
    schema_version: int
    nirs_store: str
    created_at: str
    workspace_id: str
    selection: dict[str, list[str] | None]
    tables: dict[str, Member]
    blobs: list[Member]

    @property
    def members(self) -> dict[str, Member]:
        """All files by their name."""
        return {each.member: each for each in (*self.tables.values(), *self.blobs)}

    @property
    def total_bytes(self) -> int:
        """Bytes of all files."""
        return sum(each.size for each in self.members.values())


def format_of(path: Path) -> str:
    """Return the format that a name asks for."""
    for each in FORMATS:
        if path.name.lower().endswith(f".{each}"):
            return each
    raise InvalidInput(
        f"path: the extension of {path.name!r} is not supported; use .{', .'.join(FORMATS[:-1])} or .{FORMATS[-1]}. "
        "Nothing was written."
    )


# -- writing -----------------------------------------------------------------------------------


Add = Callable[[str, int, IO[bytes]], None]
"""Adds a member: its name, its size and where its bytes come from."""


def _add_to_tar(tar: tarfile.TarFile, name: str, size: int, source: IO[bytes]) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    tar.addfile(info, source)


def _add_to_zip(file: zipfile.ZipFile, name: str, size: int, source: IO[bytes]) -> None:
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    with file.open(info, "w", force_zip64=size >= 1 << 31) as target:
        left = size
        while left and (piece := source.read(min(_PIECE, left))):
            target.write(piece)
            left -= len(piece)
    if left:
        raise OSError("unexpected end of data")


@contextlib.contextmanager
def packer(file: BinaryIO, format: str) -> Iterator[Add]:
    """Write an archive into an open file."""
    if format == "zip":
        with zipfile.ZipFile(file, "w", allowZip64=True) as packed:
            yield partial(_add_to_zip, packed)
        return
    with contextlib.ExitStack() as opened:
        if format == "tar.zst":
            import zstandard

            compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
            stream = cast(IO[bytes], opened.enter_context(compressor.stream_writer(file, closefd=False)))
        else:
            # Neither a time nor a name in the header: the same content gives the same bytes.
            stream = opened.enter_context(
                cast(contextlib.AbstractContextManager[IO[bytes]], gzip.GzipFile("", "wb", 6, file, 0))
            )
        tar = opened.enter_context(tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT))
        yield partial(_add_to_tar, tar)


# -- reading -----------------------------------------------------------------------------------


class _Bounded(io.RawIOBase):
    """A decompressed stream that ends with an error where it gives more than it may."""

    def __init__(self, source: IO[bytes], path: Path) -> None:
        self._source = source
        self._path = path
        self.given = 0
        self.allowed = _AHEAD

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        # One byte more than allowed tells; asking for everything must not bring everything.
        room = self.allowed - self.given + 1
        data = self._source.read(room if size < 0 else min(size, room)) or b""
        self.given += len(data)
        if self.given > self.allowed:
            raise ArchiveInvalid(
                f"{self._path} holds more than its manifest says. Nothing was restored from it."
            )
        return data


Members = Iterator[tuple[str, int, IO[bytes]]]
"""The members of an archive in their order: name, size and content; each is read once, before the next."""


def invalid(path: Path, what: str) -> ArchiveInvalid:
    """Return the error of an archive that this library would not have written."""
    return ArchiveInvalid(
        f"{path} {what}. Nothing was restored from it; get the archive again from where it was made."
    )


def _checked(path: Path, name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise invalid(path, f"has a member called {name[:100]!r}, which no archive of this library has")
    return name


def _tar_members(path: Path, limits: Limits, stream: IO[bytes]) -> Members:
    bounded = _Bounded(stream, path)
    with tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r|") as tar:
        position = 0
        while (info := tar.next()) is not None:
            if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                raise invalid(path, f"has a member {info.name[:100]!r} that is not a plain file")
            if info.offset_data != position + _BLOCK:
                raise invalid(path, "has headers of a kind that this library does not write")
            limit = limits.manifest_bytes if position == 0 else limits.total_bytes
            if info.size > limit:
                raise invalid(path, f"has a member of {info.size:,} bytes, more than the {limit:,} allowed")
            name = _checked(path, info.name)
            position = info.offset_data + -(-info.size // _BLOCK) * _BLOCK
            bounded.allowed = position + _AHEAD
            content = tar.extractfile(info)
            if content is None:
                raise invalid(path, f"has a member {name!r} without content")
            yield name, info.size, content
            # The headers lie one after the other: a list of them would only cost memory.
            tar.members = []  # type: ignore[attr-defined]
    # To the end of the stream, where the checksum of the compression is.
    bounded.allowed = bounded.given + _AHEAD
    while rest := bounded.read(_PIECE):
        if rest.strip(b"\0"):
            raise invalid(path, "goes on behind its end")


def _zip_members(path: Path, limits: Limits, file: BinaryIO) -> Members:
    # The manifest says what all members unpack to, whatever the format, and is held to `limits.ratio`.
    bounds = container.Limits(
        members=limits.members,
        member_bytes=limits.total_bytes,
        total_bytes=limits.total_bytes,
        ratio=math.inf,
        total_ratio_from=limits.total_bytes,
    )

    def refuse(what: str) -> ArchiveInvalid:
        return invalid(path, f"is not an acceptable archive: {what}")

    held = container.check_archive(file, path, bounds, large=True, refuse=refuse)
    for name in held.names:
        if name == MANIFEST and held.size(name) > limits.manifest_bytes:
            raise invalid(path, "has a manifest larger than is allowed")
        with held.open(_checked(path, name)) as content:
            yield name, held.size(name), content


@contextlib.contextmanager
def open_members(path: Path, limits: Limits) -> Iterator[Members]:
    """Open an archive of any of the formats, by what it is and not by its name."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise ArchiveInvalid(
            f"{path} cannot be read: {error.strerror or error}. Nothing was restored."
        ) from error
    with file, contextlib.ExitStack() as opened:
        try:
            head = file.read(4)
            file.seek(0)
            if head[:2] == b"\x1f\x8b":
                unzipped = opened.enter_context(gzip.GzipFile(fileobj=file))
                yield _tar_members(path, limits, cast(IO[bytes], unzipped))
            elif head == b"\x28\xb5\x2f\xfd":
                import zstandard

                # A frame may ask for a window of gigabytes.
                reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
                    file, closefd=False
                )
                yield _tar_members(path, limits, cast(IO[bytes], opened.enter_context(reader)))
            elif head[:2] == b"PK":
                yield _zip_members(path, limits, file)
            else:
                raise ArchiveInvalid(
                    f"{path} is neither a tar.gz, tar.zst nor zip file. Nothing was restored from it."
                )
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile) as error:
            raise _damaged(path, error) from error
        except Exception as error:
            if type(error).__name__ != "ZstdError":
                raise
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ArchiveInvalid:
    return ArchiveInvalid(
        f"{path} is damaged: {type(error).__name__}: {error}. Nothing was restored from it; get the archive again."
    )
