"""Bringing stored files out, checked: what does not hash to what was stored is never handed out."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import secrets
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import msgspec
import pyarrow as pa

from nirs_store.blobs.durable import ensure_dir, fsync_dir, move_file, remove_file, write_error, write_file
from nirs_store.blobs.plain import Identity, hash_file, identity_of
from nirs_store.db.session import Engine
from nirs_store.errors import BlobCorrupt, InvalidInput, NirsStoreError
from nirs_store.files.content import (
    MEMBER,
    PIECE,
    FolderContent,
    MemoryContent,
    content_of,
    listing_hash,
    showing,
    table_format,
)
from nirs_store.files.names import check_member, placed
from nirs_store.files.rows import unnamed
from nirs_store.lazy import polars as pl
from nirs_store.records import artifacts

Row = Mapping[str, Any]
_WINDOWS = os.name == "nt"
_CODEC_ERRORS = (EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError, pa.ArrowException, KeyError)


# -- as values -----------------------------------------------------------------------------------


def read_value(engine: Engine, row: Row, kind: str | None = None) -> Any:
    """Return the content as it was put: bytes, plain data or a polars frame; or as another kind."""
    if row["kind"] == "metadata":
        return row["metadata"] or {}
    if row["kind"] == "folder":
        raise InvalidInput(f"{row['name']!r} is a folder. Say where to put it: get(name, output=...).")
    data = b"".join(_pieces(engine, row))
    what, form = kind or row["kind"], table_format(row["name"])
    try:
        if what == "json":
            return msgspec.json.decode(data)
        if what == "text":
            return data.decode("utf-8")
        if what != "table":
            return data
        if form is None:
            raise ValueError("expected a name that ends with .parquet, .csv or .tsv")
        if form == "parquet":
            return pl.read_parquet(io.BytesIO(data))
        separator = "\t" if form == "tsv" else ","
        return pl.read_csv(io.BytesIO(data), separator=separator, infer_schema_length=None)
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is 0x{data[error.start]:02x}, which is not UTF-8 there"
        raise _unlike(row, what, reason) from error
    except (ValueError, msgspec.DecodeError, pl.exceptions.PolarsError) as error:
        raise _unlike(
            row, "JSON" if what == "json" else f"a {form or ''} table".replace("  ", " "), str(error)
        ) from error


def _unlike(row: Row, what: str, reason: str) -> InvalidInput:
    return InvalidInput(
        f"{row['name']!r} v{row['version']} is not {what}: {reason}. It is unchanged; read it with kind='bytes'."
    )


def open_stream(engine: Engine, row: Row, mode: str, encoding: str | None) -> IO[Any]:
    """Open the content for reading; the blob is compared with its hash first, once a process."""
    if mode not in ("rb", "r", "rt"):
        raise InvalidInput(
            f"mode: expected 'rb' or 'r', found {mode!r}. Stored files are read only; put a new one."
        )
    if row["kind"] in ("metadata", "folder"):
        raise InvalidInput(f"{row['name']!r} is not a single file ({row['kind']}) and cannot be opened.")
    raw: IO[bytes] = _blob_of(engine, row, verified=True).open("rb")
    if row["compression"] != "none":
        raw = io.BufferedReader(_Decompressed(raw, row["compression"]), PIECE)
    return raw if mode == "rb" else io.TextIOWrapper(raw, encoding or "utf-8")


class _Decompressed(io.RawIOBase):
    """A decompressed stream that closes everything below it."""

    def __init__(self, file: IO[bytes], compression: str) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._stack.enter_context(file)
        self._stream = self._stack.enter_context(_decoding(file, compression))

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


@contextmanager
def _decoding(file: IO[bytes], compression: str) -> Iterator[IO[bytes]]:
    """Return a stream of the content of one compressed file."""
    with ExitStack() as stack:
        if compression == "none":
            yield file
        elif compression == "gzip":
            yield cast("IO[bytes]", stack.enter_context(gzip.GzipFile(fileobj=file, mode="rb")))
        elif compression == "zstd":
            yield stack.enter_context(pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))
        elif compression == "zip":
            yield stack.enter_context(stack.enter_context(zipfile.ZipFile(file)).open(MEMBER))
        else:
            archive = stack.enter_context(tarfile.open(fileobj=file, mode="r|gz", bufsize=PIECE))
            member = archive.next()
            content = None if member is None else archive.extractfile(member)
            if content is None:
                raise tarfile.ReadError("it holds no file")
            yield content


def _pieces(engine: Engine, row: Row) -> Iterator[bytes]:
    """Return the content of one file in pieces; the last comes only if all of them hash to what was stored."""
    path = _blob_of(engine, row)
    digest = hashlib.sha256()
    kept = b""
    with (
        _corruption(row, path),
        showing(f"reading {row['name']}", int(row["size_bytes"])) as advance,
        path.open("rb") as file,
        _decoding(file, row["compression"]) as stream,
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


def check_content(engine: Engine, row: Row) -> None:
    """Read a file or folder to its end and compare it with its hash."""
    if row["kind"] == "folder":
        _unpack(row, _blob_of(engine, row), None)
    else:
        for _ in _pieces(engine, row):
            pass


# -- to the disk ---------------------------------------------------------------------------------


def write_output(engine: Engine, row: Row, output: Path, *, inside: bool = True) -> Path:
    """Write the content to a file, or as a folder, and return its path; `inside` a folder that is there it keeps
    its name.
    """
    if row["kind"] == "metadata":
        raise InvalidInput(f"{row['name']!r} has metadata only; there is no content to write.")
    if row["kind"] != "folder":
        target = placed(output, PurePosixPath(row["name"]).name) if inside and output.is_dir() else output
        ensure_dir(target.parent)
        write_file(target, _pieces(engine, row))
        return target
    ensure_dir(output.parent)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InvalidInput(
            f"output: {output} exists already. Nothing was written. Name a folder that does not."
        )
    blob = _blob_of(engine, row)
    with _draft_of(output, output.parent) as draft:
        _unpack(row, blob, draft)
        if output.exists():
            output.rmdir()
        draft.rename(output)
    return output


def write_group(engine: Engine, members: Mapping[str, Row], output: Path) -> Path:
    """Write the members of a group below a folder, once all of them were checked: all, or none."""
    there = output.is_dir()
    for name, row in members.items():
        target = placed(output, name)
        if row["kind"] == "folder":
            occupied = os.path.lexists(target) and (not target.is_dir() or any(target.iterdir()))
        else:
            occupied = target.is_dir()
        if occupied:
            raise InvalidInput(
                f"output: {target} exists already, where {row['name']!r} would be. Nothing was written. Name another "
                "folder, or move it away."
            )
    ensure_dir(output.parent)
    # Renaming is what makes it all or nothing, so the draft lies on the file system of its target: next to a folder
    # to be made; inside one that is there, which may be a mount of its own.
    with _draft_of(output, output if there else output.parent) as draft:
        for name, row in members.items():
            write_output(engine, row, placed(draft, name), inside=False)
        if there:
            _move_in(draft, output, members)
        else:
            draft.rename(output)
            fsync_dir(output.parent)
    return output


@contextmanager
def _draft_of(output: Path, folder: Path) -> Iterator[Path]:
    """Make a folder to be renamed to an output; what is left of it at the end goes."""
    draft = folder / f".{output.name[:80]}.{secrets.token_hex(8)}.part"
    try:
        draft.mkdir()
        yield draft
    except OSError as error:
        raise (error if isinstance(error, NirsStoreError) else write_error(output, error)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _move_in(draft: Path, output: Path, members: Mapping[str, Row]) -> None:
    """Move checked members into a folder that is there; take new ones out again if the system stops it."""
    new: list[Path] = []
    try:
        for name, row in members.items():
            target = placed(output, name)
            ensure_dir(target.parent)
            if row["kind"] == "folder" and target.is_dir():
                target.rmdir()
            if not os.path.lexists(target):
                new.append(target)
            move_file(placed(draft, name), target)
    except BaseException:
        for target in new:
            # The first error is what the caller must hear.
            with contextlib.suppress(OSError):
                if target.is_dir():
                    shutil.rmtree(target)
                else:
                    remove_file(target, missing_ok=True)
        raise


def _unpack(row: Row, blob: Path, target: Path | None) -> None:
    """Compare a stored folder with its hash, and write its files where there is a target."""
    hashes: list[tuple[str, str]] = []
    empty: list[str] = []
    with _corruption(row, blob), showing(f"reading {row['name']}", int(row["size_bytes"])) as advance:
        for name, stream, executable in _members(row, blob, target):
            # Names that are only hashed may be those of another system.
            path = None if target is None else placed(target, name)
            if stream is None:
                empty.append(name.rstrip("/"))
                if path is not None:
                    path.mkdir(parents=True, exist_ok=True)
                continue
            digest = hashlib.sha256()
            with ExitStack() as stack:
                file = None
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    file = stack.enter_context(path.open("xb"))
                while piece := stream.read(PIECE):
                    digest.update(piece)
                    advance(len(piece))
                    if file is not None:
                        file.write(piece)
            if path is not None and executable:
                path.chmod(0o755)
            hashes.append((name, digest.hexdigest()))
    _compare(row, blob, listing_hash(hashes, empty))


def _members(row: Row, blob: Path, target: Path | None) -> Iterator[tuple[str, IO[bytes] | None, bool]]:
    """Return each file of a stored folder and whether it is executable; empty folders have no stream."""
    compression = "gzip" if row["compression"] == "tar.gz" else str(row["compression"])
    with ExitStack() as stack:
        file = stack.enter_context(blob.open("rb"))
        if compression == "zip":
            archive = stack.enter_context(zipfile.ZipFile(file))
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
        packed = stack.enter_context(_decoding(file, compression))
        tar = stack.enter_context(tarfile.open(fileobj=packed, mode="r|", bufsize=PIECE))
        for member in tar:
            check_member(member.name)
            if target is not None:
                placed(target, member.name)
                tarfile.data_filter(member, str(target))
            content = tar.extractfile(member) if member.isreg() else None
            if content is None and not member.isdir():
                raise tarfile.ReadError(f"{member.name} is neither a file nor a folder")
            yield member.name, content, bool((member.mode or 0) & 0o100)


# -- as a path for other programs ----------------------------------------------------------------

# Of each file, and the empty folders.
_State = tuple[tuple[tuple[str, Identity], ...], tuple[str, ...]]
# What each copy was like when its bytes were found to fit, so that a large one is hashed once a process.
_fitting: dict[Path, _State] = {}


def copy_of(engine: Engine, row: Row) -> Path:
    """Return a path at which the content can be opened by any program."""
    # That of the blob where it is stored as it is; else that of a copy below ``exports/files/``, which is made again
    # where it was altered.
    if row["kind"] == "metadata":
        raise InvalidInput(f"{row['name']!r} has metadata only, no file.")
    if row["kind"] != "folder" and row["compression"] == "none":
        return _blob_of(engine, row, verified=True)
    target = placed(_copies(engine) / str(row["content_hash"]), PurePosixPath(row["name"]).name)
    if not _fits(target, row):
        _make_copy(engine, row, target)
    return target


def remove_copies(engine: Engine, hashes: Iterable[str]) -> None:
    """Remove the copies of contents that are gone."""
    for digest in hashes:
        folder = _copies(engine) / digest
        try:
            _remove(folder)
        except OSError as error:
            raise write_error(folder, error) from error


def remove_stray_copies(engine: Engine) -> None:
    """Remove the copies here of contents that are gone; another computer can delete a version, not our copies."""
    copies = _copies(engine)
    if copies.is_dir():
        # Listed first: a copy is made of a version that has its row.
        there = {each.name for each in copies.iterdir()}
        remove_copies(engine, engine.query(lambda con: unnamed(con, there)))


def _copies(engine: Engine) -> Path:
    return engine.layout.root / "exports" / "files"


def _fits(target: Path, row: Row) -> bool:
    """Tell whether a copy holds what was stored: by its hash, once for each state that its files are in."""
    try:
        content = None if target.is_symlink() else content_of(target, target.name)
        if content is None or isinstance(content, MemoryContent):
            return False
        folder = isinstance(content, FolderContent)
        files, empty = (
            (content.files, content.empty) if isinstance(content, FolderContent) else ((("", content),), ())
        )
        # Taken before the bytes are read: what changes in between is another state the next time.
        state = tuple((name, identity_of(file.path.stat())) for name, file in files), empty
        if _fitting.get(target) == state:
            return True
        hashes = [(name, hash_file(file.path)) for name, file in files]
    except (InvalidInput, OSError):
        # Not there, something that is never stored, or not to be read.
        return False
    if (listing_hash(hashes, empty) if folder else hashes[0][1]) != row["content_hash"]:
        return False
    _fitting[target] = state
    return True


def _make_copy(engine: Engine, row: Row, target: Path) -> None:
    """Write a copy, whole and read-only, in the place of whatever is there."""
    token = secrets.token_hex(8)
    draft, old = (target.parent / f".{target.name[:80]}.{token}.{end}" for end in ("part", "old"))
    ensure_dir(target.parent)
    try:
        write_output(engine, row, draft, inside=False)
        # Folders stay writable, or the copy could not be removed.
        for file in _files_of(draft):
            file.chmod(stat.S_IMODE(file.stat().st_mode) & ~0o222)
        if draft.is_dir() or target.is_dir() or target.is_symlink():
            # A rename replaces no folder, so it steps aside. It does replace a file: others always see one.
            if _fits(target, row):  # another process was faster, and may have handed it out
                return
            with contextlib.suppress(FileNotFoundError):
                target.rename(old)
        move_file(draft, target)
    except OSError as error:
        # Another process may have made the same copy in the meantime.
        if not _fits(target, row):
            raise (error if isinstance(error, NirsStoreError) else write_error(target, error)) from error
    finally:
        for left in (draft, old):
            with contextlib.suppress(OSError):
                _remove(left)


def _files_of(path: Path) -> list[Path]:
    found = path.rglob("*") if path.is_dir() else (path,)
    return [each for each in found if each.is_file() and not each.is_symlink()]


def _remove(path: Path) -> None:
    """Remove a file or folder if it is there."""
    if not os.path.lexists(path):
        return
    if _WINDOWS:
        # Windows deletes no read-only file.
        for file in _files_of(path):
            file.chmod(stat.S_IREAD | stat.S_IWRITE)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


# -- checking ------------------------------------------------------------------------------------


def _blob_of(engine: Engine, row: Row, *, verified: bool = False) -> Path:
    """Return a path of the blob, on request compared with its hash now or before in this process."""
    if row["artifact_id"] is None:
        raise InvalidInput(f"{row['name']!r} v{row['version']} has no content ({row['status']}).")
    return artifacts.artifact_path(engine, row["artifact_id"], verified=verified)


@contextmanager
def _corruption(row: Row, path: Path) -> Iterator[None]:
    """Turn what a decompressor says of damaged bytes into the error of a damaged blob."""
    try:
        yield
    except BlobCorrupt:
        raise
    except (*_CODEC_ERRORS, OSError) as error:
        # Decompressors raise OSError without a number; the system never does.
        if isinstance(error, OSError) and error.errno is not None:
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
