"""What a caller may hand over to be stored: a path, a folder, bytes, plain data, a table, or nothing."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import secrets
import shutil
import sys
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import msgspec
import pyarrow as pa

from nirs_store.addresses import user_path
from nirs_store.blobs.durable import ensure_dir, write_error, write_file
from nirs_store.blobs.store import BlobStore, Draft
from nirs_store.db.session import Engine
from nirs_store.errors import BlobCorrupt, InvalidInput, SourceMissing, quoted
from nirs_store.files.names import check_member, file_ending, is_text, placed
from nirs_store.records import artifacts
from nirs_store.values import is_frame, native, to_json

__all__ = [
    "PIECE",
    "SUFFIXES",
    "Advance",
    "Content",
    "FileContent",
    "FolderContent",
    "MemoryContent",
    "Stored",
    "compressed_size",
    "content_hash",
    "content_of",
    "decoding",
    "encoding",
    "listing_hash",
    "open_stream",
    "pieces_of",
    "read_value",
    "showing",
    "table_format",
    "take_in",
    "tar_info",
    "verified_blob",
    "write_output",
    "zip_info",
]


# -- Compressing while writing and decompressing while reading, a piece at a time.


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
    """Give a function that takes pieces of one file and writes them compressed."""
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


_SAMPLE = 256 << 10
_FORMATS = {"": "parquet", "parquet": "parquet", "pq": "parquet", "csv": "csv", "tsv": "tsv", "tab": "tsv"}


@dataclass(frozen=True)
class Content:
    """Something to be stored. `kind` says as what it comes back."""

    kind: str
    size: int


@dataclass(frozen=True)
class MemoryContent(Content):
    """Bytes in memory."""

    data: bytes = field(repr=False)

    def pieces(self) -> Iterator[memoryview]:
        """Give the bytes in pieces."""
        whole = memoryview(self.data)
        for start in range(0, len(whole), PIECE):
            yield whole[start : start + PIECE]

    def sample(self) -> bytes:
        """Give some bytes of the beginning, the middle and the end."""
        return b"".join(self.data[start : start + _SAMPLE] for start in _places(self.size))


@dataclass(frozen=True)
class FileContent(Content):
    """A file on a disk."""

    path: Path

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
class FolderContent(Content):
    """A folder: its files, and the folders that are empty, by their path below it, in order."""

    root: Path
    files: tuple[tuple[str, FileContent], ...]
    empty: tuple[str, ...]

    def sample(self) -> bytes:
        """Read the beginnings of the largest files."""
        largest = sorted(self.files, key=lambda member: -member[1].size)[:8]
        return b"".join(member.sample()[:_SAMPLE] for _, member in largest)


@contextmanager
def _source(path: Path) -> Iterator[io.FileIO]:
    """Open what the caller named; that it cannot be read is the caller's to mend."""
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
        return FileContent("file", path.stat().st_size, path)
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
            files.append((path.relative_to(root).as_posix(), FileContent("file", path.stat().st_size, path)))
        if not folders and not names and here != root:
            empty.append(here.relative_to(root).as_posix())
    files.sort(key=lambda member: member[0])
    return FolderContent("folder", sum(f.size for _, f in files), root, tuple(files), tuple(sorted(empty)))


def table_format(name: str) -> str | None:
    """Give the format of a table by the ending of its name; None for another ending than .parquet, .csv, .tsv."""
    return _FORMATS.get(_ending(name))


def _ending(name: str) -> str:
    last = name.rpartition("/")[2]
    return last.rpartition(".")[2].lower() if "." in last else ""


def _table_bytes(table: Any, form: str) -> bytes:
    import polars as pl

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
    import polars as pl
    import pyarrow as pa

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


# -- A bar for files that take a while, on a terminal only.


Advance = Callable[[int], None]
# About a tenth of a second: below it a bar would only flicker.
_WORTH_A_BAR = 32 << 20


@contextmanager
def showing(words: str, total: int) -> Iterator[Advance]:
    """Give a function that takes the bytes done since the last call; the bar is gone at the end."""
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


# -- From a source to a draft of its blob: read once, hash, compress, in the memory of a few pieces.


# Below that nothing is won; and a sample that shrinks by less than a tenth is not worth the reading.
_SMALLEST = 512
_WORTH = 0.9
_CODEC_ERRORS = (zlib.error, pa.ArrowException, zipfile.LargeZipFile, tarfile.TarError, MemoryError)


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
    """Hash a folder: the SHA-256 of what ``sha256sum`` prints of its files, sorted, and of its empty folders."""
    digest = hashlib.sha256()
    for name, found in sorted(files):
        digest.update(f"{found}  {name}\n".encode())
    for name in sorted(empty):
        digest.update(f"{name}/\n".encode())
    return digest.hexdigest()


# -- Bringing stored files out again, checked: what does not hash to what was stored is never handed out.


Row = Mapping[str, Any]
_CODEC_ERRORS_reading = (
    EOFError,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
    pa.ArrowException,
    KeyError,
)
_TAR_LIKE = {"tar.gz": "gzip"}


def read_value(engine: Engine, row: Row, kind: str | None = None) -> Any:
    """Give the content as it was put: bytes, plain data, a polars frame; of a group each member by name."""
    what = kind or row["kind"]
    if row["kind"] == "metadata":
        return row["metadata"] or {}
    if row["kind"] == "folder":
        raise InvalidInput(f"{row['name']!r} is a folder. Say where to put it: get(name, output=...).")
    data = b"".join(pieces_of(engine, row))
    if what == "json":
        try:
            return msgspec.json.decode(data)
        except msgspec.DecodeError as error:
            raise _unlike(row, "JSON", str(error)) from error
    if what == "table":
        return _table(row, data)
    if what == "text":
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            reason = f"byte {error.start} is 0x{data[error.start]:02x}, which is not UTF-8 there"
            raise _unlike(row, "text", reason) from error
    return data


def _table(row: Row, data: bytes) -> Any:
    import polars as pl

    form = table_format(row["name"])
    if form is None:
        raise _unlike(row, "table", "expected a name that ends with .parquet, .csv or .tsv")
    target = io.BytesIO(data)
    try:
        if form == "parquet":
            return pl.read_parquet(target)
        return pl.read_csv(target, separator="\t" if form == "tsv" else ",", infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise _unlike(row, f"{form} table", str(error)) from error


def _unlike(row: Row, what: str, reason: str) -> InvalidInput:
    return InvalidInput(
        f"{row['name']!r} v{row['version']} is no {what}: {reason}. It is unchanged; read it with kind='bytes'."
    )


def pieces_of(engine: Engine, row: Row) -> Iterator[bytes]:
    """Give the content of one file in pieces; the last one comes only if all of them hash to what was stored."""
    path = _blob_of(engine, row)
    digest = hashlib.sha256()
    kept = b""
    with (
        _corruption(row, path),
        showing(f"reading {row['name']}", int(row["size_bytes"])) as advance,
        path.open("rb") as file,
        decoding(file, row["compression"]) as stream,
    ):
        while piece := stream.read(PIECE):
            digest.update(piece)
            advance(len(piece))
            if kept:
                yield kept
            kept = piece
    _compare(row, path, digest.hexdigest())
    if kept:
        yield kept


def content_hash(engine: Engine, row: Row) -> str:
    """Read a file or folder to its end and give its hash."""
    if row["kind"] == "folder":
        path = _blob_of(engine, row)
        with _corruption(row, path):
            found = _listing(row, path, None)
        _compare(row, path, found)
        return found
    for _ in pieces_of(engine, row):
        pass
    return str(row["content_hash"])


def write_output(engine: Engine, row: Row, output: Path, *, inside: bool = True) -> Path:
    """Write the content to a file, or as a folder; gives the path."""
    if row["kind"] == "metadata":
        raise InvalidInput(f"{row['name']!r} has metadata only; there is no content to write.")
    inside = inside and row["kind"] != "folder" and output.is_dir()
    target = placed(output, PurePosixPath(row["name"]).name) if inside else output
    ensure_dir(target.parent)
    if row["kind"] != "folder":
        write_file(target, pieces_of(engine, row))
        return target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidInput(
            f"output: {target} exists already. Nothing was written. Name a folder that does not."
        )
    path = _blob_of(engine, row)
    draft = target.parent / f".{target.name[:80]}.{secrets.token_hex(8)}.part"
    try:
        draft.mkdir()
        with _corruption(row, path):
            found = _listing(row, path, draft)
        _compare(row, path, found)
        if target.exists():
            target.rmdir()
        draft.rename(target)
    except OSError as error:
        raise (error if isinstance(error, BlobCorrupt) else write_error(target, error)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def open_stream(engine: Engine, row: Row, mode: str, encoding: str | None) -> IO[Any]:
    """Open the content for reading; the blob is compared with its hash first, once a process."""
    if mode not in ("rb", "r", "rt"):
        raise InvalidInput(
            f"mode: expected 'rb' or 'r', found {mode!r}. Stored files are read only; put a new one."
        )
    if row["kind"] in ("metadata", "folder"):
        raise InvalidInput(f"{row['name']!r} is not a single file ({row['kind']}) and cannot be opened.")
    path = verified_blob(engine, row)
    raw: IO[bytes] = path.open("rb")
    if row["compression"] != "none":
        raw = io.BufferedReader(_Content(raw, row["compression"]), PIECE)
    return raw if mode == "rb" else io.TextIOWrapper(raw, encoding or "utf-8")


def verified_blob(engine: Engine, row: Row) -> Path:
    """Give the path of the blob, compared with its hash now or before in this process."""
    path = _blob_of(engine, row)
    try:
        relative = path.relative_to(engine.layout.root).as_posix()
    except ValueError:  # set aside by a gc that is deciding
        relative = path.as_posix()
    return engine.blobs.verified_path(relative, row["artifact_id"])


class _Content(io.RawIOBase):
    """A decompressed stream that closes everything below it."""

    def __init__(self, file: IO[bytes], compression: str) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._stack.enter_context(file)
        self._stream = self._stack.enter_context(decoding(file, compression))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._stream.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._stack.close()
        super().close()


# -- folders -------------------------------------------------------------------------------------


def _listing(row: Row, blob: Path, target: Path | None) -> str:
    """Hash a folder's listing, and write its files where there is a target."""
    hashes: list[tuple[str, str]] = []
    empty: list[str] = []
    with showing(f"reading {row['name']}", int(row["size_bytes"])) as advance:
        for name, stream, executable in _members(row, blob, target):
            # Only hashed, names may be those of another system.
            place = None if target is None else placed(target, name)
            if stream is None:
                empty.append(name.rstrip("/"))
                if place is not None:
                    place.mkdir(parents=True, exist_ok=True)
                continue
            digest = hashlib.sha256()
            with ExitStack() as stack:
                file = None
                if place is not None:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    file = stack.enter_context(place.open("xb"))
                while piece := stream.read(PIECE):
                    digest.update(piece)
                    advance(len(piece))
                    if file is not None:
                        file.write(piece)
            if place is not None and executable:
                place.chmod(0o755)
            hashes.append((name, digest.hexdigest()))
    return listing_hash(hashes, empty)


def _members(row: Row, blob: Path, target: Path | None) -> Iterator[tuple[str, IO[bytes] | None, bool]]:
    with blob.open("rb") as file:
        if row["compression"] == "zip":
            with zipfile.ZipFile(file) as archive:
                for entry in archive.infolist():
                    # As it was stored: on Windows `filename` has other separators.
                    name = entry.orig_filename
                    check_member(name)
                    if name.endswith("/"):
                        yield name, None, False
                        continue
                    with archive.open(entry) as stream:
                        yield name, stream, False
            return
        compression = str(row["compression"])
        with (
            decoding(file, _TAR_LIKE.get(compression, compression)) as packed,
            tarfile.open(fileobj=packed, mode="r|", bufsize=PIECE) as tar,
        ):
            for member in tar:
                check_member(member.name)
                if target is not None:
                    placed(target, member.name)
                    tarfile.data_filter(member, str(target))
                if member.isdir():
                    yield member.name, None, False
                    continue
                content = tar.extractfile(member) if member.isreg() else None
                if content is None:
                    raise tarfile.ReadError(f"{member.name} is neither a file nor a folder")
                yield member.name, content, bool((member.mode or 0) & 0o100)


# -- checking ------------------------------------------------------------------------------------


def _blob_of(engine: Engine, row: Row) -> Path:
    if row["artifact_id"] is None:
        raise InvalidInput(f"{row['name']!r} v{row['version']} has no content ({row['status']}).")
    return artifacts.artifact_path(engine, row["artifact_id"])


@contextmanager
def _corruption(row: Row, path: Path) -> Iterator[None]:
    """Turn what a decompressor says of damaged bytes into the error of a damaged blob."""
    try:
        yield
    except BlobCorrupt:
        raise
    except _CODEC_ERRORS_reading as error:
        raise _corrupt(row, path, str(error)) from error
    except OSError as error:
        # Decompressors raise it without a number; the system never does.
        if error.errno is not None:
            raise
        raise _corrupt(row, path, str(error)) from error


def _compare(row: Row, path: Path, found: str) -> None:
    if found != row["content_hash"]:
        raise _corrupt(row, path, f"its content has the SHA-256 {found}, expected was {row['content_hash']}")


def _corrupt(row: Row, path: Path, reason: str) -> BlobCorrupt:
    return BlobCorrupt(
        f"{row['name']!r} v{row['version']} is damaged ({path}): {reason}. Nothing was handed out. Put the same file "
        "again to heal it, or bring the blob back from a backup."
    )
