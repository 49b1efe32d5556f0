"""What a caller may hand over to be stored, and how it becomes a draft of a blob.

A source is a path, a folder, bytes, plain data, a table, or nothing. It is read once, hashed and compressed in the
memory of a few pieces.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import sys
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from nirs_store.addresses import user_path
from nirs_store.blobs.durable import Draft
from nirs_store.blobs.store import BlobStore
from nirs_store.errors import InvalidInput, SourceMissing, quoted
from nirs_store.files.names import file_ending
from nirs_store.lazy import polars as pl
from nirs_store.values import is_frame, is_text, native, to_json

PIECE = 1 << 20
SUFFIXES = {"gzip": "gz", "zip": "zip", "tar.gz": "tgz", "zstd": "zst"}
#: What the only file of a zip or tar is called.
MEMBER = "content"


# -- Sources -------------------------------------------------------------------------------------

_SAMPLE = 256 << 10
_FORMATS = {"": "parquet", "parquet": "parquet", "pq": "parquet", "csv": "csv", "tsv": "tsv", "tab": "tsv"}


@dataclass(frozen=True)
class MemoryContent:
    """Bytes in memory; `kind` says as what they come back."""

    kind: str
    size: int
    data: bytes = field(repr=False)

    def pieces(self) -> Iterator[memoryview]:
        """Yield the bytes in pieces."""
        whole = memoryview(self.data)
        for start in range(0, len(whole), PIECE):
            yield whole[start : start + PIECE]

    def sample(self) -> bytes:
        """Return some bytes of the beginning, the middle and the end."""
        return b"".join(self.data[start : start + _SAMPLE] for start in _places(self.size))


@dataclass(frozen=True)
class FileContent:
    """A file on a disk."""

    size: int
    path: Path
    kind: str = "file"

    def pieces(self) -> Iterator[memoryview]:
        """Read the file in pieces of 1 MB, always into the same memory."""
        buffer = bytearray(PIECE)
        view, total = memoryview(buffer), 0
        with _source(self.path) as file:
            while count := file.readinto(view):
                total += count
                yield view[:count]
        if total != self.size:
            raise InvalidInput(
                f"source: {self.path} changed while it was read ({self.size:,} bytes, then {total:,}). Nothing was "
                "stored. Store it when no process writes to it any more."
            )

    def sample(self) -> bytes:
        """Read some bytes of the beginning, the middle and the end."""
        found = []
        with _source(self.path) as file:
            for start in _places(self.size):
                file.seek(start)
                found.append(file.read(_SAMPLE))
        return b"".join(found)


@dataclass(frozen=True)
class FolderContent:
    """A folder: its files, and the folders that are empty, by their path below it, in order."""

    size: int
    files: tuple[tuple[str, FileContent], ...]
    empty: tuple[str, ...]
    kind: str = "folder"

    def sample(self) -> bytes:
        """Read the beginnings of the largest files."""
        largest = sorted(self.files, key=lambda member: -member[1].size)[:8]
        return b"".join(member.sample()[:_SAMPLE] for _, member in largest)


Content = MemoryContent | FileContent | FolderContent


@contextmanager
def _source(path: Path) -> Iterator[io.FileIO]:
    """Open what the caller named; an error in reading it is the caller's to repair."""
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        raise SourceMissing(f"source: {path} has gone while it was stored. Nothing was stored.") from None
    except OSError as error:
        raise InvalidInput(
            f"source: {path} cannot be read: {error.strerror or error}. Nothing was stored."
        ) from error
    with file:
        yield file


def _places(size: int) -> tuple[int, ...]:
    return (0,) if size <= 3 * _SAMPLE else (0, size // 2, size - _SAMPLE)


def content_of(source: Any, name: str) -> Content | None:
    """Find out what a source is; None for none."""
    if source is None:
        return None
    if isinstance(source, (str, os.PathLike)):
        return _on_disk(user_path(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        return MemoryContent("bytes", len(data), data)
    table = native(source, "source")
    if is_frame(table):
        form = table_format(name)
        if form is None:
            raise InvalidInput(
                f"name: a data frame is stored as .parquet, .csv or .tsv; {name!r} ends with .{_ending(name)}. Nothing "
                "was stored. Give it one of these endings."
            )
        data = _table_bytes(table, form)
        return MemoryContent("table", len(data), data)
    if isinstance(source, (Mapping, list, tuple, int, float, bool)):
        data = (to_json(source, "source") or "").encode()
        return MemoryContent("json", len(data), data)
    raise InvalidInput(
        f"source: expected a path, bytes, plain data, a data frame or None, found {type(source).__name__}. Nothing "
        "was stored. Let `with store.files.create(name) as path:` give you a path and write it there."
    )


def _on_disk(path: Path) -> Content:
    try:
        if path.is_dir():
            return _folder(path)
        if not path.is_file():
            raise FileNotFoundError
        return FileContent(path.stat().st_size, path)
    except FileNotFoundError:
        state = "is not a regular file or folder" if os.path.lexists(path) else "does not exist"
        raise SourceMissing(
            f"source: {path} {state}. Nothing was stored. Text is taken for a path; give text to be stored as bytes."
        ) from None
    except InvalidInput:
        raise
    except ValueError as error:
        raise InvalidInput(f"source: {str(path)!r} cannot be a path: {error}.") from error
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise InvalidInput(
            f"source: text is taken for a path, and {quoted(str(path))} is too long for one. Nothing was stored. Give "
            "text to be stored as bytes."
        ) from None


def _folder(root: Path) -> FolderContent:
    files: list[tuple[str, FileContent]] = []
    empty: list[str] = []
    for place, folders, names in os.walk(root):
        here = Path(place)
        for each in (*folders, *names):
            if not is_text(each):
                raise InvalidInput(
                    f"source: the name {each!r} in the folder {str(here)!r} is not UTF-8, and would come back as "
                    "another. Nothing was stored. Rename it."
                )
            if (here / each).is_symlink():
                raise InvalidInput(
                    f"source: {here / each} is a symbolic link; a folder with links is not stored, because what they "
                    "lead to may be anywhere. Nothing was stored. Put the file itself there."
                )
        for each in names:
            path = here / each
            if not path.is_file():
                raise InvalidInput(f"source: {path} is neither a file nor a folder. Nothing was stored.")
            files.append((path.relative_to(root).as_posix(), FileContent(path.stat().st_size, path)))
        if not folders and not names and here != root:
            empty.append(here.relative_to(root).as_posix())
    files.sort(key=lambda member: member[0])
    return FolderContent(sum(f.size for _, f in files), tuple(files), tuple(sorted(empty)))


def table_format(name: str) -> str | None:
    """Return the format of a table by the ending of its name, or None."""
    return _FORMATS.get(_ending(name))


def _ending(name: str) -> str:
    """Return what comes after the last dot of a name, in lower case."""
    _, dot, ending = name.rpartition("/")[2].rpartition(".")
    return ending.lower() if dot else ""


def _table_bytes(table: Any, form: str) -> bytes:
    if not isinstance(table, pl.DataFrame):
        table = _from_pandas(table)
    target = io.BytesIO()
    try:
        if form == "parquet":
            table.write_parquet(target)
        else:
            table.write_csv(target, separator="\t" if form == "tsv" else ",")
    except pl.exceptions.PolarsError as error:
        raise InvalidInput(
            f"source: the table cannot be written as {form}: {error}. Nothing was stored. Convert that column, for "
            "example with .cast(str), or give the name another of the endings .parquet, .csv and .tsv."
        ) from error
    return target.getvalue()


def _from_pandas(table: Any) -> Any:
    # An index that says more than the number of a row becomes columns.
    named = table.index.names != [None] or type(table.index).__name__ != "RangeIndex"
    try:
        return pl.from_pandas(table, include_index=named)
    # A column of several types, names that occur twice, a whole number beyond 64 bits: each has an error of its own.
    except (pa.ArrowException, pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(
            "source: expected a data frame with unique names and columns of one type each, found one that is not: "
            f"{error}.{_mixed(table)} Nothing was stored. Convert such columns, for example with .astype(str)."
        ) from error


def _mixed(table: Any) -> str:
    """Name the columns whose values are of several types."""
    columns = ((name, table.iloc[:, number]) for number, name in enumerate(table.columns))
    types = {
        str(name): sorted({type(value).__name__ for value in column.dropna()})
        for name, column in columns
        if column.dtype == object
    }
    mixed = [f"{name!r} ({', '.join(each)})" for name, each in types.items() if len(each) > 1]
    return f" Columns of several types: {', '.join(mixed)}." if mixed else ""


# -- A bar for files that take a while, on a terminal only ----------------------------------------


Advance = Callable[[int], None]
# About a tenth of a second: below it a bar would only flicker.
_WORTH_A_BAR = 32 << 20


@contextmanager
def showing(words: str, total: int) -> Iterator[Advance]:
    """Return a function that takes the bytes done since the last call; the bar is gone at the end."""
    if total < _WORTH_A_BAR or sys.stderr is None or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn(escape(words)), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(words, total=total)
        yield lambda count: bar.advance(task, count)


# -- From a source to a draft of its blob --------------------------------------------------------

# Below that nothing is won; and a sample that shrinks by less than a tenth is not worth the reading.
_SMALLEST = 512
_WORTH = 0.9
_LEVEL = 6
_OLDEST_ZIP = (1980, 1, 1, 0, 0, 0)
_CODEC_ERRORS = (zlib.error, pa.ArrowException, zipfile.LargeZipFile, tarfile.TarError, MemoryError)
_Write = Callable[[Any], object]


@dataclass(frozen=True)
class Stored:
    """A source whose bytes are on the disk, in a draft."""

    draft: Draft
    content_hash: str
    size: int
    compression: str
    note: str | None
    ending: str


def take_in(blobs: BlobStore, content: Content, name: str, compression: str) -> Stored:
    """Write a draft of the content."""
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
    sample = content.sample()
    rest = compressed_size(sample) / max(len(sample), 1)
    if rest > _WORTH:
        return "none", f"stored uncompressed: a sample shrank to {rest:.0%} only"
    return "zstd", None


def compressed_size(sample: bytes) -> int:
    """Return the bytes that a sample shrinks to."""
    return len(pa.compress(sample, codec="zstd", asbytes=True)) if sample else 0


def _write(blobs: BlobStore, content: Content, name: str, compression: str, note: str | None) -> Stored:
    folder = isinstance(content, FolderContent)
    endings = (
        {**SUFFIXES, "none": "tar", "gzip": "tgz"} if folder else {**SUFFIXES, "none": file_ending(name)}
    )
    draft = blobs.draft()
    try:
        with showing(f"storing {name}", content.size) as advance:
            if isinstance(content, FolderContent):
                hashes = _write_members(draft, content.files, content.empty, compression, advance)
                digest = listing_hash(hashes, content.empty)
            elif compression in ("zip", "tar.gz"):
                [(_, digest)] = _write_members(draft, [(MEMBER, content)], (), compression, advance)
            elif compression == "none":
                # The bytes written are those read: the draft's own hash is enough.
                for piece in content.pieces():
                    draft.write(piece)
                    advance(len(piece))
                digest = draft.digest
            else:
                with encoding(draft, compression) as write:
                    digest = _copy(content.pieces(), write, advance)
        draft.finish()
    except BaseException:
        draft.discard()
        raise
    return Stored(draft, digest, content.size, compression, note, endings[compression])


@contextmanager
def encoding(draft: Draft, compression: str) -> Iterator[_Write]:
    """Return a function that takes pieces of a stream and writes them compressed."""
    with ExitStack() as stack:
        if compression == "none":
            yield draft.write
        elif compression == "gzip":
            yield stack.enter_context(gzip.GzipFile("", "wb", _LEVEL, draft, mtime=0)).write
        else:
            target = pa.PythonFile(_Uncloseable(draft), mode="w")
            yield stack.enter_context(pa.CompressedOutputStream(target, "zstd")).write


class _Uncloseable(io.RawIOBase):
    """A sink that pyarrow may close without closing the draft below it."""

    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self._draft = draft

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        return self._draft.write(piece)


def _write_members(
    draft: Draft,
    members: Sequence[tuple[str, MemoryContent | FileContent]],
    empty: Sequence[str],
    compression: str,
    advance: Advance,
) -> list[tuple[str, str]]:
    """Write files as a zip, or as a tar that is then compressed; returns the hash of each."""
    hashes = []
    if compression == "zip":
        with zipfile.ZipFile(
            cast("IO[bytes]", draft), "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL
        ) as archive:
            for folder in empty:
                archive.writestr(_zip_info(folder + "/"), b"")
            for name, member in members:
                with archive.open(_zip_info(name), "w", force_zip64=True) as target:
                    hashes.append((name, _copy(member.pieces(), target.write, advance)))
        return hashes
    with encoding(draft, {"tar.gz": "gzip"}.get(compression, compression)) as write:
        for folder in empty:
            write(_tar_header(folder, None))
        for name, member in members:
            write(_tar_header(name, member))
            hashes.append((name, _copy(member.pieces(), write, advance)))
            write(bytes(-member.size % tarfile.BLOCKSIZE))
        write(bytes(2 * tarfile.BLOCKSIZE))
    return hashes


def _zip_info(name: str) -> zipfile.ZipInfo:
    """Make an entry without anything of the machine in it."""
    info = zipfile.ZipInfo(name, _OLDEST_ZIP)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info


def _tar_header(name: str, member: MemoryContent | FileContent | None) -> bytes:
    """Make the header of a file, or of an empty folder, without anything of the machine in it."""
    info = tarfile.TarInfo(name)
    executable = isinstance(member, FileContent) and member.path.stat().st_mode & 0o100
    info.size = 0 if member is None else member.size
    info.type = tarfile.DIRTYPE if member is None else tarfile.REGTYPE
    info.mode = 0o755 if member is None or executable else 0o644
    return info.tobuf(tarfile.PAX_FORMAT)


def _copy(pieces: Iterable[memoryview], write: _Write, advance: Advance) -> str:
    """Write pieces and return their hash."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        write(piece)
        advance(len(piece))
    return digest.hexdigest()


def listing_hash(files: Iterable[tuple[str, str]], empty: Iterable[str] = ()) -> str:
    """Hash a folder: the SHA-256 of what ``sha256sum`` prints of its files, sorted, and of its empty folders."""
    lines = [f"{found}  {name}\n" for name, found in sorted(files)]
    lines += [f"{name}/\n" for name in sorted(empty)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
