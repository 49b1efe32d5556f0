"""What a caller may hand over to be stored: a path, a folder, bytes, plain data, a table, or nothing."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nirs_store.catalog.values import to_json
from nirs_store.errors import InvalidInput, SourceMissing
from nirs_store.frames import is_frame, native
from nirs_store.registry.files.codecs import PIECE
from nirs_store.registry.files.places import is_text

__all__ = ["Content", "FileContent", "FolderContent", "MemoryContent", "content_of", "table_format"]

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
        """Read the file in pieces of 1 MB, always into the same memory.

        Raises
        ------
        InvalidInput
            It has another size than when it was looked at.
        """
        buffer = bytearray(PIECE)
        view, total = memoryview(buffer), 0
        with _source(self.path) as file:
            while count := file.readinto(view):
                total += count
                yield view[:count]
        if total != self.size:
            raise InvalidInput(
                f"source: {self.path} changed while it was read ({self.size:,} bytes, then {total:,}). Nothing was "
                "stored. Store it once nobody writes to it any more."
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
    """Find out what a source is; None for none.

    Raises
    ------
    SourceMissing
        There is no such file.
    InvalidInput
        Something that cannot be stored.
    """
    if source is None:
        return None
    if isinstance(source, (str, os.PathLike)):
        return _on_disk(Path(source))
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
        state = "is no regular file or folder" if os.path.lexists(path) else "does not exist"
        raise SourceMissing(
            f"source: {path} {state}. Nothing was stored. Text is taken for a path; give text to be stored as bytes."
        ) from None
    except InvalidInput:
        raise
    except ValueError as error:
        raise InvalidInput(f"source: {str(path)!r} cannot be a path: {error}.") from error


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
