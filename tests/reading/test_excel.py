"""Workbooks: read as the same table saved as CSV would be, or refused in words."""

from __future__ import annotations

import io
import random
import sys
import zipfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from nirs_store.errors import InvalidInput
from nirs_store.reading import read_spectra

HEAD = ["id", "day", "moisture", 9090.91, "9083.19", 9075.47]
ROWS = [
    ["007", date(2024, 5, 17), 12.5, 0.512, 0.498, 0.491],
    ["008", datetime(2024, 5, 18, 9, 30), 13, 0.534, 1, 5e-05],
]


def book(path: Path, rows: list[list[Any]], name: str = "NIR", **sheets: list[list[Any]]) -> Path:
    made = openpyxl.Workbook()
    made.active.title = name  # type: ignore[union-attr]
    for title, table in {name: rows, **sheets}.items():
        sheet = made[title] if title in made.sheetnames else made.create_sheet(title)
        for row in table:
            sheet.append(row)
    made.save(path)
    return path


def test_a_sheet_is_read_like_csv(tmp_path: Path) -> None:
    found = read_spectra(
        book(tmp_path / "w.xlsx", [["Serial number", "123"], [], HEAD, *ROWS]), target="moisture"
    )
    assert found.X.tolist() == [[0.512, 0.498, 0.491], [0.534, 1, 5e-05]]
    assert found.wavelengths.tolist() == [9090.91, 9083.19, 9075.47]  # type: ignore[union-attr]
    assert (found.ids.tolist(), found.y.tolist()) == (["007", "008"], [12.5, 13])  # type: ignore[union-attr]
    assert found.references["day"].to_list() == ["2024-05-17", "2024-05-18 09:30:00"]
    assert (found.unit, found.instrument["Serial number"]) == ("cm-1", "123")
    assert found.places == ("row 4", "row 5")
    assert "Excel sheet 'NIR'" in found.understood


def test_the_sheet_is_chosen(tmp_path: Path) -> None:
    path = book(tmp_path / "w.xlsx", [HEAD, *ROWS], Empty=[], Other=[["id", 850, 852], ["x", 1, 2]])
    with pytest.raises(InvalidInput, match=r"several sheets: 'NIR', 'Empty', 'Other'. Say which"):
        read_spectra(path)
    assert read_spectra(path, sheet="Other").X.tolist() == [[1, 2]]
    assert read_spectra(path, sheet=3).X.tolist() == [[1, 2]]
    with pytest.raises(InvalidInput, match="no sheet 'Spectra'; its sheets are 'NIR'"):
        read_spectra(path, sheet="Spectra")
    with pytest.raises(InvalidInput, match="'Empty' is empty"):
        read_spectra(path, sheet="Empty")
    assert len(read_spectra(book(tmp_path / "v.xlsx", [HEAD, *ROWS], Empty=[]))) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda sheet: sheet.merge_cells("A2:A3"),
            r"cells A2:A3 of the sheet 'NIR' are merged over several rows",
        ),
        (lambda sheet: sheet.__setitem__("E3", "#DIV/0!"), r"sheet 'NIR': .*sample 2 \(row 3\) at 9083.19"),
        (lambda sheet: sheet.__setitem__("E3", "oops"), r"\(row 3\).*found 'oops'"),
        # A formula that no spreadsheet has computed yet has no value.
        (
            lambda sheet: sheet.__setitem__("E3", "=D3*2"),
            r"missing values in the spectra; the first is sample 2",
        ),
    ],
)
def test_what_is_not_a_table_is_refused(change: Any, words: str, tmp_path: Path) -> None:
    path = book(tmp_path / "w.xlsx", [HEAD, *ROWS])
    made = openpyxl.load_workbook(path)
    change(made["NIR"])
    made.save(path)
    with pytest.raises(InvalidInput, match=words):
        read_spectra(path)


def test_a_title_over_columns_is_no_matter(tmp_path: Path) -> None:
    path = book(tmp_path / "w.xlsx", [["Harvest 2024"], HEAD, *ROWS])
    made = openpyxl.load_workbook(path)
    made["NIR"].merge_cells("A1:F1")
    made.save(path)
    assert read_spectra(path).X.shape == (2, 3)


def test_damaged_and_swollen_workbooks_are_refused(tmp_path: Path) -> None:
    whole = book(tmp_path / "w.xlsx", [HEAD, *ROWS]).read_bytes()
    chance, path, refused = random.Random(3), tmp_path / "d.xlsx", 0
    parts = {
        name: zipfile.ZipFile(io.BytesIO(whole)).read(name)
        for name in zipfile.ZipFile(io.BytesIO(whole)).namelist()
    }
    for k in range(150):
        if k % 2:
            data = bytearray(whole)
            if k % 4 == 1:
                del data[chance.randrange(4, len(data)) :]
            data[chance.randrange(4, len(data))] = chance.randrange(256)
        else:  # bytes of a part, under checksums that fit
            name = chance.choice(
                [name for name in parts if "sheet" in name or "workbook" in name or "styles" in name]
            )
            part, sink = bytearray(parts[name]), io.BytesIO()
            for _ in range(3):
                part[chance.randrange(len(part))] = chance.choice(b'<>"/9AZ&\xff')
            with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
                for each, content in parts.items():
                    archive.writestr(each, bytes(part) if each == name else content)
            data = bytearray(sink.getvalue())
        path.write_bytes(data)
        try:
            read_spectra(path)
        except InvalidInput:
            refused += 1
    assert refused > 60
    sheet = parts["xl/worksheets/sheet1.xml"]
    far = sheet.replace(b'r="F3"', b'r="XFD1048576"').replace(b'<row r="3"', b'<row r="1048576"')
    assert far != sheet
    for content, words in ((far, "empty rows between others"), (sheet + b" " * 2**26, "unpacks to")):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for each, part in parts.items():
                archive.writestr(each, content if each == "xl/worksheets/sheet1.xml" else part)
        with pytest.raises(InvalidInput, match=words):
            read_spectra(path)


def test_without_openpyxl_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = book(tmp_path / "w.xlsx", [HEAD, *ROWS])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(InvalidInput, match=r'pip install "nirs-store\[excel\]"; or save the sheet as CSV'):
        read_spectra(path)
