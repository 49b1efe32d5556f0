"""From a source to a draft of its blob: read once, hash, compress, in the memory of a few pieces."""

from __future__ import annotations

import hashlib
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, cast

import pyarrow as pa

from nirs_store.blobs.draft import Draft
from nirs_store.blobs.store import BlobStore
from nirs_store.registry.files.codecs import (
    SUFFIXES,
    compressed_size,
    encoding,
    tar_info,
    zip_info,
)
from nirs_store.registry.files.content import Content, FileContent, FolderContent, MemoryContent
from nirs_store.registry.files.names import file_ending
from nirs_store.registry.files.progress import Advance, showing

__all__ = ["Stored", "listing_hash", "take_in"]

# Below that nothing is won; and a sample that shrinks by less than a tenth is not worth the reading.
_SMALLEST = 512
_WORTH = 0.9
_CODEC_ERRORS = (zlib.error, pa.ArrowException, zipfile.LargeZipFile, tarfile.TarError, MemoryError)


@dataclass(frozen=True)
class Stored:
    """A source whose bytes are on the disk, in a draft.

    Attributes
    ----------
    draft : Draft
        Synced, and not yet a blob.
    content_hash : str
        SHA-256 of the content before compression; of a folder that of its listing, see `listing_hash`.
    size : int
        Bytes of the content.
    compression, note : str
        What was done, and why it is not what one might expect.
    ending : str
        For the name of the blob.
    """

    draft: Draft
    content_hash: str
    size: int
    compression: str
    note: str | None
    ending: str


def take_in(blobs: BlobStore, content: Content, name: str, compression: str) -> Stored:
    """Write a draft of the content.

    Raises
    ------
    InvalidInput
        A file changed while it was read.
    WriteFailed, ReadOnlyStore
    """
    chosen, note = (compression, None) if compression != "auto" else _by_trial(content)
    stored = None
    if chosen != "none":
        try:
            stored = _write(blobs, content, name, chosen, note)
        except _CODEC_ERRORS as error:
            note = f"stored uncompressed: {chosen} failed ({error})"
            warnings.warn(f"{name}: {note}", stacklevel=4)
        if stored is not None and compression == "auto" and stored.draft.size >= content.size:
            stored.draft.discard()
            stored, note = None, "stored uncompressed: the whole did not shrink, although a sample did"
    return stored or _write(blobs, content, name, "none", note)


def _by_trial(content: Content) -> tuple[str, str | None]:
    if content.size < _SMALLEST:
        return "none", "stored uncompressed: too small to shrink"
    assert isinstance(content, (MemoryContent, FileContent, FolderContent))
    sample = content.sample()
    rest = compressed_size(sample) / max(len(sample), 1)
    if rest > _WORTH:
        return "none", f"stored uncompressed: a sample shrank to {rest:.0%} only"
    return "zstd", None


def _write(blobs: BlobStore, content: Content, name: str, compression: str, note: str | None) -> Stored:
    draft = blobs.draft()
    try:
        with showing(f"storing {name}", content.size) as advance:
            if isinstance(content, FolderContent):
                digest = _write_folder(draft, content, compression, advance)
                ending = (
                    "tar"
                    if compression == "none"
                    else "tgz"
                    if compression == "gzip"
                    else SUFFIXES[compression]
                )
            else:
                assert isinstance(content, (MemoryContent, FileContent))
                digest = _write_file(draft, content, compression, advance)
                ending = SUFFIXES.get(compression) or file_ending(name)
        draft.finish()
    except BaseException:
        draft.discard()
        raise
    return Stored(draft, digest, content.size, compression, note, ending)


def _write_file(
    draft: Draft, content: MemoryContent | FileContent, compression: str, advance: Advance
) -> str:
    if compression == "none":
        # What is written is what was read: one hash is enough.
        for piece in content.pieces():
            draft.write(piece)
            advance(len(piece))
        return draft.digest
    digest = hashlib.sha256()
    with encoding(draft, compression, content.size) as write:
        for piece in content.pieces():
            digest.update(piece)
            write(piece)
            advance(len(piece))
    return digest.hexdigest()


def _write_folder(draft: Draft, content: FolderContent, compression: str, advance: Advance) -> str:
    if compression == "zip":
        return _zip_folder(draft, content, advance)
    # A folder is a tar, whatever comes after; tar.gz is then the same as gzip.
    after = {"tar.gz": "gzip"}.get(compression, compression)
    hashes = []
    with encoding(draft, after, None) as write:
        for folder in content.empty:
            write(tar_info(folder, 0, folder=True).tobuf(tarfile.PAX_FORMAT))
        for name, member in content.files:
            write(tar_info(name, member.size, executable=_executable(member)).tobuf(tarfile.PAX_FORMAT))
            hashes.append((name, _copy(member.pieces(), write, advance)))
            write(bytes(-member.size % tarfile.BLOCKSIZE))
        write(bytes(2 * tarfile.BLOCKSIZE))
    return listing_hash(hashes, content.empty)


def _zip_folder(draft: Draft, content: FolderContent, advance: Advance) -> str:
    hashes = []
    with zipfile.ZipFile(cast("IO[bytes]", draft), "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in content.empty:
            archive.writestr(zip_info(folder + "/"), b"")
        for name, member in content.files:
            with archive.open(zip_info(name), "w", force_zip64=True) as target:
                hashes.append((name, _copy(member.pieces(), target.write, advance)))
    return listing_hash(hashes, content.empty)


def _executable(member: FileContent) -> bool:
    return bool(member.path.stat().st_mode & 0o100)


def _copy(pieces: Iterable[memoryview], write: Callable[[memoryview], object], advance: Advance) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        write(piece)
        advance(len(piece))
    return digest.hexdigest()


def listing_hash(files: Iterable[tuple[str, str]], empty: Iterable[str] = ()) -> str:
    """Hash a folder: the SHA-256 of what ``sha256sum`` prints of its files, sorted, and of its empty folders.

    Examples
    --------
    >>> listing_hash([("a.txt", "ab" * 32)])[:12] == listing_hash([("b.txt", "ab" * 32)])[:12]
    False
    """
    digest = hashlib.sha256()
    for name, found in sorted(files):
        digest.update(f"{found}  {name}\n".encode())
    for name in sorted(empty):
        digest.update(f"{name}/\n".encode())
    return digest.hexdigest()
