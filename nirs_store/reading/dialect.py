"""From the bytes of a text file to rows of cells: encoding, separator, and lines that hold no cells.

Uses the standard library only: scripts that predict on their own carry the source of this module.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import NamedTuple

from nirs_store.reading.cells import is_missing, parse_channel, parse_number, tidy

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "blanks"}
_USUAL = 2**31
_largest: ContextVar[int] = ContextVar("largest", default=_USUAL)
#: Bytes that a cell takes at least once it was split off.
_CELL = 16
#: Cells of a line where files of others are read: each heading is looked at several times.
_MOST_CELLS = 100_000
_SAMPLE_LINES = 60
_SAMPLE_CHARACTERS = 60_000
_BINARY = {
    b"PK\x03\x04": "a ZIP archive or a workbook (.xlsx, .ods): save the sheet as CSV, or unpack it",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls): save the sheet as CSV",
    b"PAR1": "a Parquet file: give it the ending .parquet",
    b"%PDF": "a PDF document",
    b"\x89HDF": "an HDF5 file",
    b"\x89PNG": "a picture",
    b"BZh": "compressed with bzip2: unpack it",
    b"\xfd7zXZ": "compressed with xz: unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it",
}
_BOMS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


class Unreadable(ValueError):
    """A file, or a cell of it, that cannot be read for sure."""


class Row(NamedTuple):
    """Cells of a line, the blanks around them removed, and its number in the file."""

    line: int
    cells: list[str]


def largest() -> int:
    """Return how many bytes a file may take once it is unpacked; cells that are packed count as 8."""
    return _largest.get()


@contextlib.contextmanager
def at_most(size: int) -> Iterator[None]:
    """Refuse larger files than usual while the block runs, before they are unpacked."""
    before = _largest.set(size)
    try:
        yield
    finally:
        _largest.reset(before)


def decode(data: bytes, encoding: str | None = None) -> tuple[str, str]:
    """Decode the text of a file that may be packed with gzip; return the encoding as well."""
    # Without `encoding` a byte-order mark decides, then UTF-16 is told by its zero bytes; all else is UTF-8 where it
    # can be, and Windows' cp1252 where not.
    if data[:2] == b"\x1f\x8b":
        data = _unpack(data)
    for magic, words in _BINARY.items():
        if data.startswith(magic):
            raise Unreadable(f"this is {words}.")
    if encoding is None:
        encoding = next((name for bom, name in _BOMS.items() if data.startswith(bom)), None) or _guess(data)
    try:
        text = data.decode(encoding)
    except LookupError as error:
        raise Unreadable(f"encoding: Python knows no {encoding!r}; try utf-8, cp1252 or utf-16.") from error
    except UnicodeError as error:
        place = data.count(b"\n", 0, getattr(error, "start", 0)) + 1
        raise Unreadable(
            f"line {place} is not {encoding} text. Name the encoding it was saved in, e.g. encoding='cp1252' "
            "(--encoding cp1252)."
        ) from error
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if largest() != _USUAL and any(
        len(line) > _MOST_CELLS < max(map(line.count, DELIMITERS)) for line in text.split("\n")
    ):
        raise Unreadable(f"a line has more than {_MOST_CELLS:,} cells, which is too much.")
    if "\x00" in text:
        raise Unreadable("this is not a text file: it holds zero bytes. Export the spectra as CSV.")
    if re.match(r'\s*(\{\s*["}]|<(html|\?xml|!doctype|table)\b)', text, re.IGNORECASE):
        raise Unreadable("this is JSON, HTML or XML, not a table of cells. Export the spectra as CSV.")
    return text, encoding


def _unpack(data: bytes) -> bytes:
    found, rest, most = b"", data, largest()
    try:
        while rest[:2] == b"\x1f\x8b":
            unpacker = zlib.decompressobj(wbits=31)
            found += unpacker.decompress(rest, most - len(found))
            if unpacker.unconsumed_tail or len(found) >= most:
                raise Unreadable(f"unpacked, the file is larger than {most:,} bytes.")
            if not unpacker.eof:
                raise Unreadable("the gzip file ends too early; copy it again.")
            rest = unpacker.unused_data
    except zlib.error as error:
        raise Unreadable(f"the gzip file is damaged: {error}.") from error
    return found


def _guess(data: bytes) -> str:
    head = data[:4096]
    if len(head) > 3 and b"\x00" in head:
        even, odd = head[0::2].count(0), head[1::2].count(0)
        if max(even, odd) > 0.7 * len(head) / 2 and min(even, odd) * 10 < max(even, odd):
            return "utf-16-be" if even > odd else "utf-16-le"
    for encoding in ("utf-8", "cp1252"):
        try:
            data.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"


def number_like(cell: str) -> bool:
    """Tell whether a cell is a number in one of the two decimal signs."""
    return parse_number(cell) is not None or parse_number(cell, ",") is not None


def split_rows(text: str, delimiter: str | None = None) -> tuple[list[Row], str]:
    """Split text into rows of cells, without blank lines; return the separator as well."""
    first, _, rest = text.partition("\n")
    declared = re.fullmatch(r'"?sep=(.|\\t)"?[;,\t ]*', first.strip(" \ufeff"), re.IGNORECASE)
    skipped = 0
    if declared:
        delimiter, text, skipped = delimiter or declared[1].replace("\\t", "\t"), rest, 1
    if delimiter is None:
        delimiter = _find_delimiter(text)
    elif len(delimiter) != 1 or delimiter in '"\n\r':
        raise Unreadable(f"delimiter: expected one character such as ',', ';' or a tab, found {delimiter!r}.")
    if delimiter == " ":
        text = "\n".join(re.sub(r"[ \t]+", " ", line.strip(" \t")) for line in text.split("\n"))
    # Where less than usual is allowed, the cells would take many times the bytes of the text.
    most, count = largest() // _CELL, text.count(delimiter) + text.count("\n") + 1
    if largest() < _USUAL and count > most:
        raise Unreadable(f"it has up to {count:,} cells, and at most {most:,} are allowed here. Divide it.")
    rows = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = skipped + 1
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                rows.append(Row(line, cells))
            line = skipped + reader.line_num + 1
    except csv.Error as error:
        raise Unreadable(
            f"the cells from line {line} on cannot be told apart ({error}): is a quote missing?"
        ) from error
    return rows, delimiter


def table_delimiter(text: str) -> str | None:
    """Return the only separator with which a header names every column; None where there is no such one."""
    # In a small table decimal commas can leave more numbers than the separator does: "a;12,5" below "id;fat".
    first = "\n".join(text.split("\n")[:_SAMPLE_LINES])
    found = []
    for delimiter in ",;\t|":
        try:
            rows = split_rows(first, delimiter)[0]
        except Unreadable:
            continue
        if rows and 2 <= len(rows[0].cells) == max(len(row.cells) for row in rows):
            found.append(delimiter)
    return found[0] if len(found) == 1 else None


def _find_delimiter(text: str) -> str:
    """Take the separator that leaves most numbers and fewest cells that are none."""
    lines = [line for line in text[:_SAMPLE_CHARACTERS].split("\n") if line.strip()][:_SAMPLE_LINES]
    best, score, share = ",", 0.0, 0.0
    for delimiter in ",;\t| ":
        if delimiter == " " and (best != "," or share >= 0.7):
            break  # blanks are in names as well
        cells = [
            tidy(cell.strip('"'))
            for line in lines
            for cell in (re.split(r"[ \t]+", line.strip()) if delimiter == " " else line.split(delimiter))
        ]
        filled = [cell for cell in cells if not is_missing(cell)]
        numbers = sum(number_like(cell) or parse_channel(cell) is not None for cell in filled)
        if numbers * numbers > score * len(filled) * 1.001:
            best, score, share = delimiter, numbers * numbers / len(filled), numbers / len(filled)
    return best


# -- Which sign of a file is the decimal one, and which cells leave it in doubt.

_JOIN = "\x1f"


def find_decimal(
    samples: Sequence[Sequence[str]],
    run: Sequence[int],
    labels: Sequence[int],
    headers: Sequence[str],
    places: Sequence[str],
) -> str:
    """Find the decimal sign: in the spectra, else in the header, else in the labels; refuse two, and a doubtful one."""
    doubtful, grouped, points = "", False, ""
    for lines, columns in ((samples, run), ([headers], range(len(headers))), (samples, labels)):
        seen: dict[str, str] = {}
        for place, row in zip(places, lines, strict=False):
            cells = [row[k] for k in columns]
            joined = _JOIN.join(cells)
            if not {sign for sign in ",." if sign in joined} - seen.keys():
                continue
            for cell in cells:
                grouped = grouped or ("," in cell and "." in cell)
                for sign in ".,":
                    if sign not in seen and sign in cell and _only(cell, sign):
                        if sign == "." and columns is run and _is_doubtful(cell):
                            points = points or f"{cell!r} ({place})"
                        else:
                            seen[sign] = f"{cell!r} ({place})"
                if not doubtful and columns is run and re.search(r"[0-9],[0-9]{3}$", cell):
                    doubtful = f"{cell!r} ({place})"
            if columns is run and points and "," in seen and not grouped:
                seen.setdefault(".", points)
            if len(seen) == 2 and columns is run:
                raise Unreadable(
                    f"two decimal signs: {seen['.']} and {seen[',']}. Write all numbers in one way; if one of them "
                    "separates thousands, name the other: decimal='.' or decimal=',' (--decimal)."
                )
        if len(seen) == 1:
            if columns is run and "." in seen and doubtful and not grouped:
                raise Unreadable(
                    f"two decimal signs? {doubtful} and {seen['.']}. Say which it is: decimal='.' or decimal=',' "
                    "(--decimal)."
                )
            if "," in seen and points:
                doubtful = points
                break
            return next(iter(seen))
    if doubtful:
        raise Unreadable(
            f"{doubtful} may be a decimal number or thousands. Say which: decimal=',' or decimal='.' (--decimal)."
        )
    return "."


def _is_doubtful(cell: str) -> bool:
    """Tell a cell such as "1.234" or "12,345", which is a decimal number or thousands."""
    return re.fullmatch(r"[+-]?[1-9][0-9]{0,2}[.,][0-9]{3}", cell) is not None


def in_doubt(cells: Sequence[str | None], decimal: str) -> str | None:
    """Return a cell with the other sign, of a column where nothing tells whether it is decimal or for thousands."""
    signed = [cell for cell in cells if cell and ("." in cell or "," in cell)]
    if any(decimal in cell or not _is_doubtful(cell) for cell in signed):
        return None
    return signed[0] if signed else None


def _only(cell: str, sign: str) -> bool:
    """Tell a number that can be read with this decimal sign alone."""
    other = "," if sign == "." else "."
    return parse_number(cell, sign) is not None and (
        parse_number(cell, other) is None or (sign == "." and "," not in cell and cell.count(".") == 1)
    )
