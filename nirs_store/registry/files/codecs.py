"""Compressing while writing and decompressing while reading, a piece at a time.

Everything is written so that the same content gives the same bytes: no clock, no user, no file name goes into
a gzip, zip or tar header, or no two copies would ever be one blob.
"""

from __future__ import annotations

import gzip
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any, cast

import pyarrow as pa

from nirs_store.blobs.draft import Draft

__all__ = ["PIECE", "SUFFIXES", "compressed_size", "decoding", "encoding", "tar_info", "zip_info"]

PIECE = 1 << 20
SUFFIXES = {"gzip": "gz", "zip": "zip", "tar.gz": "tgz", "zstd": "zst"}
_LEVEL = 6
_OLDEST_ZIP = (1980, 1, 1, 0, 0, 0)
_MEMBER = "content"

Write = Callable[[Any], object]


def tar_info(name: str, size: int, *, folder: bool = False, executable: bool = False) -> tarfile.TarInfo:
    """Make a header without anything of the machine in it."""
    info = tarfile.TarInfo(name)
    info.size = size
    info.type = tarfile.DIRTYPE if folder else tarfile.REGTYPE
    info.mode = 0o755 if folder or executable else 0o644
    return info


def zip_info(name: str) -> zipfile.ZipInfo:
    """Make an entry without anything of the machine in it."""
    info = zipfile.ZipInfo(name, _OLDEST_ZIP)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info


@contextmanager
def encoding(draft: Draft, compression: str, size: int | None) -> Iterator[Write]:
    """Give a function that takes pieces of one file and writes them compressed.

    Parameters
    ----------
    draft : Draft
    compression : {"none", "gzip", "zip", "tar.gz", "zstd"}
    size : int, optional
        Bytes that will come; tar.gz must know.
    """
    sink = cast("IO[bytes]", draft)
    with ExitStack() as stack:
        if compression == "none":
            yield draft.write
        elif compression == "gzip":
            yield stack.enter_context(gzip.GzipFile("", "wb", _LEVEL, draft, mtime=0)).write
        elif compression == "zstd":
            target = pa.PythonFile(_Uncloseable(draft), mode="w")
            yield stack.enter_context(pa.CompressedOutputStream(target, "zstd")).write
        elif compression == "zip":
            archive = stack.enter_context(
                zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL)
            )
            yield stack.enter_context(archive.open(zip_info(_MEMBER), "w", force_zip64=True)).write
        else:
            packed = stack.enter_context(gzip.GzipFile("", "wb", _LEVEL, draft, mtime=0))
            yield stack.enter_context(_one_member(packed, size or 0))


@contextmanager
def _one_member(packed: gzip.GzipFile, size: int) -> Iterator[Write]:
    packed.write(tar_info(_MEMBER, size).tobuf(tarfile.PAX_FORMAT))
    yield packed.write
    packed.write(bytes(-size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE))


class _Uncloseable:
    """A sink that pyarrow may close without closing the draft below it."""

    closed = False

    def __init__(self, draft: Draft) -> None:
        self._draft = draft

    def write(self, piece: Any) -> int:
        return self._draft.write(piece)

    def flush(self) -> None:
        pass

    def tell(self) -> int:
        return self._draft.tell()

    def seekable(self) -> bool:
        return False

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        pass


@contextmanager
def decoding(file: IO[bytes], compression: str) -> Iterator[IO[bytes]]:
    """Give a stream of the content of one compressed file."""
    with ExitStack() as stack:
        if compression == "none":
            yield file
        elif compression == "gzip":
            yield cast("IO[bytes]", stack.enter_context(gzip.GzipFile(fileobj=file, mode="rb")))
        elif compression == "zstd":
            stream = stack.enter_context(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))
            yield cast("IO[bytes]", stream)
        elif compression == "zip":
            archive = stack.enter_context(zipfile.ZipFile(file))
            yield stack.enter_context(archive.open(_MEMBER))
        else:
            archive_ = stack.enter_context(tarfile.open(fileobj=file, mode="r|gz", bufsize=PIECE))
            member = archive_.next()
            content = None if member is None else archive_.extractfile(member)
            if content is None:
                raise tarfile.ReadError("it holds no file")
            yield content


def compressed_size(sample: bytes) -> int:
    """Give the bytes that a sample shrinks to."""
    return len(pa.compress(sample, codec="zstd", asbytes=True)) if sample else 0
