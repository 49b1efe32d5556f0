"""Which reader reads a file: by format, first bytes, or ending of the name; other packages add readers of their own.

A package adds a reader with the entry point group ``nirs_store.readers``; its name is the name of the format, its
value a `Reader`. It is loaded when a file asks for it: by ``format=``, or because no built-in reader fits.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import numpy as np

from nirs_store.errors import InvalidInput
from nirs_store.reading.dialect import Unreadable
from nirs_store.reading.instruments import OPUS_MAGIC, is_asd, read_asd, read_opus, read_spc
from nirs_store.reading.jcamp import is_jcamp, read_jcamp
from nirs_store.reading.measured import Measured

GROUP = "nirs_store.readers"
HEAD = 4096
TEXT = (".csv", ".tsv", ".txt", ".tab", ".dat", ".asc", ".prn", ".dpt")


@dataclass(frozen=True)
class Reader:
    """How one format is read."""

    name: str
    title: str
    suffixes: tuple[str, ...]
    read: Callable[..., Any] | str
    sniff: Callable[[bytes], bool] | None = None
    takes_bytes: bool = False

    def function(self) -> Callable[..., Any]:
        """Return the function that reads, imported if need be."""
        if not isinstance(self.read, str):
            return self.read
        module, _, name = self.read.partition(":")
        return getattr(import_module(module), name)  # type: ignore[no-any-return]


def _is_workbook(head: bytes) -> bool:
    return head.startswith(b"PK\x03\x04") and (b"[Content_Types].xml" in head or b"xl/" in head)


BUILT_IN: Mapping[str, Reader] = {
    reader.name: reader
    for reader in (
        Reader("text", "text (CSV)", TEXT, ""),
        Reader("parquet", "Parquet", (".parquet", ".pq"), "", lambda head: head.startswith(b"PAR1")),
        Reader("excel", "Excel", (".xlsx", ".xlsm"), "", _is_workbook),
        Reader("jcamp", "JCAMP-DX", (".jdx", ".dx", ".jcm"), read_jcamp, is_jcamp, True),
        Reader("spc", "Galactic SPC", (".spc",), read_spc, None, True),
        Reader("opus", "Bruker OPUS", (), read_opus, lambda head: head.startswith(OPUS_MAGIC), True),
        Reader("asd", "ASD FieldSpec", (".asd",), read_asd, is_asd, True),
    )
}
#: Formats that are tables of cells, read by rules of their own; see `nirs_store.reading.single`.
TABLES = ("text", "parquet", "excel")
_NAMES = {
    "csv": "text", "xlsx": "excel", "jcamp-dx": "jcamp", "jdx": "jcamp", "galactic": "spc", "bruker": "opus",
}  # fmt: skip


def list_readers() -> dict[str, str]:
    """Return the formats that can be read and what they are; those of other packages with the package's value."""
    found = {name: reader.title for name, reader in BUILT_IN.items()}
    return found | {entry.name: entry.value for entry in _entries() if entry.name not in found}


def _entries() -> list[EntryPoint]:
    return list(entry_points(group=GROUP))


def _load(entry: EntryPoint) -> Reader:
    try:
        reader = entry.load()
        reader = reader() if isinstance(reader, type) or not isinstance(reader, Reader) else reader
    except Exception as error:
        raise InvalidInput(
            f"The format {entry.name!r} is offered by {entry.value}, which cannot be loaded: "
            f"{type(error).__name__}: {error}. Repair or remove that package."
        ) from error
    if not isinstance(reader, Reader):
        raise InvalidInput(
            f"The format {entry.name!r} is offered by {entry.value}, which is {type(reader).__name__}, not a "
            "nirs_store.reading.Reader. Repair or remove that package."
        )
    return reader


def choose_reader(path: Path, head: bytes, format: str | None) -> Reader:
    """Choose the reader of a file: by `format`, else by its first bytes, else by the ending of its name."""
    if format is not None:
        name = _NAMES.get(format.lower(), format.lower())
        if name in BUILT_IN:
            return BUILT_IN[name]
        for entry in _entries():
            if entry.name.lower() == name:
                return _load(entry)
        raise InvalidInput(
            f"format: expected one of {', '.join(map(repr, list_readers()))}; found {format!r}."
        )
    for reader in BUILT_IN.values():
        if reader.sniff is not None and reader.sniff(head):
            return reader
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    last = suffixes[-1] if suffixes else ""
    inner = suffixes[-2] if last == ".gz" and len(suffixes) > 1 else last
    if inner in TEXT:
        return BUILT_IN["text"]
    for reader in BUILT_IN.values():
        if last in reader.suffixes:
            return reader
    return _installed(path, last, head)


def _installed(path: Path, suffix: str, head: bytes) -> Reader:
    """Choose among the readers of other packages; one that is broken hides none of the others."""
    broken = []
    for entry in _entries():
        try:
            reader = _load(entry)
        except InvalidInput as error:
            broken.append(str(error))
            continue
        if suffix in reader.suffixes:
            return reader
        try:
            if reader.sniff is not None and reader.sniff(head):
                return reader
        except Exception as error:  # noqa: BLE001 - code of another package
            broken.append(
                f"The reader {entry.name!r} of {entry.value} failed: {type(error).__name__}: {error}."
            )
    known = ", ".join(suffix for reader in BUILT_IN.values() for suffix in reader.suffixes)
    hint = " Save the sheet as .xlsx or CSV." if suffix in (".xls", ".ods", ".xlsb") else ""
    if re.fullmatch(r"\.\d{1,4}", suffix):
        hint = " A Bruker OPUS file begins with the bytes 0A 0A FE FE; this one does not."
    raise InvalidInput(
        f"{path} must end in one of {known}, or be a Bruker OPUS file (.0, .1, ...); found "
        f"{path.suffix or 'no suffix'!r}.{hint} If it is text, say format='text'."
        + "".join(f" {each}" for each in broken)
    )


def call_reader(reader: Reader, path: Path, data: bytes, options: Mapping[str, Any]) -> Measured | Any:
    """Call a reader with the options that it takes; refuse others that were given."""
    function = reader.function()
    takes = inspect.signature(function).parameters
    some = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in takes.values())
    given = {name: value for name, value in options.items() if value is not None}
    # What its values become is done to what a reader returns, unless it does that itself.
    unknown = [name for name in given if name not in takes and not some and name != "to"]
    if unknown:
        raise Unreadable(f"{unknown[0]}= does not go with {reader.title}.")
    given = {name: value for name, value in given.items() if name in takes or some}
    if reader.takes_bytes:
        with np.errstate(all="ignore"):  # damaged numbers are refused at the end, as not finite
            return function(data, **given)
    try:
        return function(path, **given)
    except (InvalidInput, Unreadable):
        raise
    except Exception as error:
        raise Unreadable(
            f"the reader {reader.name!r} of another package failed: {type(error).__name__}: {error}"
        ) from error
