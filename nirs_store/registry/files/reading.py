"""Bringing stored files out again, checked: what does not hash to what was stored is never handed out."""

from __future__ import annotations

import hashlib
import io
import secrets
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import msgspec
import pyarrow as pa

from nirs_store.blobs.durable import ensure_dir, write_error, write_file
from nirs_store.catalog import artifacts
from nirs_store.catalog.engine import Engine
from nirs_store.errors import BlobCorrupt, InvalidInput
from nirs_store.registry.files.codecs import PIECE, decoding
from nirs_store.registry.files.content import table_format
from nirs_store.registry.files.intake import listing_hash
from nirs_store.registry.files.places import check_member, placed
from nirs_store.registry.files.progress import showing

__all__ = ["content_hash", "open_stream", "pieces_of", "read_value", "verified_blob", "write_output"]

Row = Mapping[str, Any]
_CODEC_ERRORS = (EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError, pa.ArrowException, KeyError)
_TAR_LIKE = {"tar.gz": "gzip"}


def read_value(engine: Engine, row: Row, kind: str | None = None) -> Any:
    """Give the content as it was put: bytes, plain data, a polars frame; of a group each member by name.

    Raises
    ------
    InvalidInput
        It is a folder, or cannot be read as the kind asked for.
    BlobMissing, BlobCorrupt
    """
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
            reason = f"byte {error.start} is 0x{data[error.start]:02x}, which is no UTF-8 there"
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
    """Give the content of one file in pieces; the last one comes only if all of them hash to what was stored.

    Raises
    ------
    BlobMissing, BlobCorrupt
    """
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
    """Read a file or folder to its end and give its hash.

    Raises
    ------
    BlobMissing, BlobCorrupt
    """
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
    """Write the content to a file, or as a folder; gives the path.

    Parameters
    ----------
    output : Path
        With `inside`, an existing folder is where a file is put under its own name.

    Raises
    ------
    BlobMissing, BlobCorrupt, InvalidInput, WriteFailed, ReadOnlyStore
        Nothing was left at the path. PathEscapes where a name in a folder cannot be made on this system.
    """
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
        raise InvalidInput(f"{row['name']!r} is no single file ({row['kind']}) and cannot be opened.")
    path = verified_blob(engine, row)
    raw: IO[bytes] = path.open("rb")
    if row["compression"] != "none":
        raw = io.BufferedReader(_Content(raw, row["compression"]), PIECE)
    return raw if mode == "rb" else io.TextIOWrapper(raw, encoding or "utf-8")


def verified_blob(engine: Engine, row: Row) -> Path:
    """Give the path of the blob, compared with its hash now or before in this process.

    Raises
    ------
    BlobMissing, BlobCorrupt
    """
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
    except _CODEC_ERRORS as error:
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
