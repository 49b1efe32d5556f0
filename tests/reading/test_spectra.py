"""What `read_spectra` gives: targets, groups, names, units; Parquet; and text that is no formula in exports."""

from __future__ import annotations

import gzip
import io
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nirs_store.errors import InvalidInput
from nirs_store.reading import read_spectra
from nirs_store.reading.dialect import at_most
from nirs_store.reading.tables import frame_csv

TEXT = "plot;id;moisture;protein;kind;850;852;854\nA;007;12,5;6.200;x;0,1;0,2;0,3\nA;008;;930;y;0,4;0,5;0,6\nB;009;11;7.001,5;x;0,7;0,8;0,9\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "s.csv").write_text(TEXT)
    return tmp_path / "s.csv"


def test_targets_groups_and_names_are_columns(path: Path) -> None:
    found = read_spectra(path, target="moisture", unit="%", groups="plot")
    assert (found.target, found.target_unit, found.groups.tolist()) == ("moisture", "%", ["A", "A", "B"])  # type: ignore[union-attr]
    assert np.array_equal(found.y, [12.5, np.nan, 11], equal_nan=True)
    assert found.ids.tolist() == ["007", "008", "009"]  # type: ignore[union-attr]
    assert found.labels == ("plot", "id", "moisture", "protein", "kind")
    both = read_spectra(path, target=["moisture", "protein"], unit=["%", "mg"])
    assert both.y[:, 1].tolist() == [6200, 930, 7001.5]  # type: ignore[index]
    assert read_spectra(path, target="kind").y.tolist() == ["x", "y", "x"]  # type: ignore[union-attr]
    part = found[found.groups == "A"]
    assert (len(part), part.X.tolist(), part.ids.tolist()) == (
        2,
        [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]],
        ["007", "008"],
    )  # type: ignore[union-attr]
    assert repr(found).startswith("<Spectra of s.csv: 3 samples, 3 channels 850 to 854 nm")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "protien"}, "Did you mean 'protein'"),
        ({"target": ["moisture", "kind"]}, r"'x' in sample 1 \(line 2\)"),
        ({"groups": "moisture"}, r"empty in sample 2 \(line 3\)"),
        ({"id_column": "moisture"}, r"empty in sample 2 \(line 3\)"),
        ({"wavelength_unit": "THz"}, "'nm' or 'cm-1'"),
        ({"format": "word"}, "'text', 'parquet', 'excel'"),
        ({"sheet": "a"}, "does not go with text"),
        ({"block": "AB"}, "does not go with text"),
        ({"decimal": ";"}, "decimal: expected"),
        ({"orientation": "across"}, "orientation: expected"),
        ({"orientation": "columns"}, "no column of wavelengths"),
        ({"encoding": "klingon"}, "knows no 'klingon'"),
        ({"channels": ["850", "851"]}, "no column '851'"),
        ({"channels": []}, "each once, found"),
        ({"channels": ["850", "850"]}, "each once, found"),
        ({"channels": "850"}, "in a list, found '850'"),
        ({"target": 7}, "in a list, found 7"),
        ({"target": ["moisture", "moisture"]}, "each once"),
    ],
)
def test_a_wrong_option_is_answered_in_words(path: Path, options: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        read_spectra(path, **options)


@pytest.mark.parametrize("cell", ["<0,5", "> 100", "trace", "12,5 %", "12.5.1"])
def test_a_reference_value_that_is_no_number_is_shown_with_its_line(tmp_path: Path, cell: str) -> None:
    (tmp_path / "s.csv").write_text(TEXT.replace("B;009;11", f"B;009;{cell}"))
    with pytest.raises(InvalidInput, match=r"sample 3 \(line 4\)") as refused:
        read_spectra(tmp_path / "s.csv", target="moisture")
    assert repr(cell) in str(refused.value)


@pytest.mark.parametrize(
    "cells", [("<0,5", "<0,5", "1,2"), ("12,5 %", "9 %", "8,1%"), ("1,52.", "1.5", "~2.5")]
)
def test_numbers_with_signs_are_no_classes(tmp_path: Path, cells: Any) -> None:
    (tmp_path / "s.csv").write_text("id;fat;850;852\n" + "".join(f"a;{cell};0,1;0,2\n" for cell in cells))
    with pytest.raises(InvalidInput, match=r"sample 1 \(line 2\)"):
        read_spectra(tmp_path / "s.csv", target="fat")


@pytest.mark.parametrize("signs", [(",", "."), (".", ",")])
def test_a_reference_value_that_may_be_thousands_is_refused_until_the_caller_decides(
    tmp_path: Path, signs: Any
) -> None:
    sign, other = signs
    text = f"id;fat;850;852\na;12{other}512;0{sign}1;0{sign}2\nb;;0{sign}1;0{sign}2\nc;8;0{sign}1;0{sign}2\n"
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(InvalidInput, match=f"'12{other}512', which may be .*--decimal"):
        read_spectra(tmp_path / "s.csv", target="fat")
    found = read_spectra(tmp_path / "s.csv", target="fat", decimal=sign).y
    assert np.array_equal(found, [12512, np.nan, 8], equal_nan=True)  # type: ignore[arg-type]


def test_names_of_samples_are_kept_to_the_letter(tmp_path: Path) -> None:
    names = ["1.10", "1E5", "1,234", "12345678901234567890"]
    (tmp_path / "s.csv").write_text("sample;lot;850;852\n" + "".join(f"{n};{n};0.1;0.2\n" for n in names))
    found = read_spectra(tmp_path / "s.csv")
    assert found.ids.tolist() == found.references["sample"].to_list() == names  # type: ignore[union-attr]
    assert read_spectra(tmp_path / "s.csv", id_column="lot").ids.tolist() == names  # type: ignore[union-attr]


def test_the_header_and_the_caller_must_agree_on_the_unit(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("id,9000 cm-1,8990 cm-1\na,1,2\n")
    with pytest.raises(InvalidInput, match="'nm' was given, but the header says 'cm-1'"):
        read_spectra(tmp_path / "s.csv", wavelength_unit="nm")
    assert read_spectra(tmp_path / "s.csv", wavelength_unit="1/cm").unit == "cm-1"


@pytest.mark.parametrize(
    ("columns", "X"),
    [
        ({"850": [1.5], "852": [2]}, [[1.5, 2]]),
        ({"850": ["1.5"], "852": ["2"]}, [[1.5, 2]]),
        ({"850 nm": ["1,5"], "852 nm": [2.0]}, [[1.5, 2]]),
        ({"850": [1.5], "852": ["oops"]}, "'oops'"),
        ({"850": [1.5], "852": [None]}, "missing"),
        ({"850": [1.5], "852": [True]}, r"column 852 .*Boolean"),
        ({"850": [1.5], "852": [date(2024, 1, 1)]}, r"column 852 .*Date"),
        ({"a": [1.5]}, "no spectral columns"),
        ({"850": [], "852": []}, "no spectra"),
    ],
)
def test_parquet_is_read_by_the_same_rules(tmp_path: Path, columns: Any, X: Any) -> None:
    pl.DataFrame({"sample": ["a"] * len(next(iter(columns.values()))), **columns}).write_parquet(
        tmp_path / "s.parquet"
    )
    if isinstance(X, str):
        with pytest.raises(InvalidInput, match=X):
            read_spectra(tmp_path / "s.parquet")
    else:
        found = read_spectra(tmp_path / "s.parquet")
        assert (found.X.tolist(), found.ids.tolist()) == (X, ["a"])  # type: ignore[union-attr]


def test_dates_are_no_reference_values(tmp_path: Path) -> None:
    pl.DataFrame({"day": [date(2024, 1, 1)], "850": [1.0]}).write_parquet(tmp_path / "s.parquet")
    with pytest.raises(InvalidInput, match="'day' holds dates"):
        read_spectra(tmp_path / "s.parquet", target="day")


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    for name, words in [
        ("none.csv", "does not exist"),
        ("", "holds no file of spectra"),
        ("*.spc", "No file fits"),
        ("s.xlsx", "not a complete workbook"),
        ("s.xls", "Save the sheet as .xlsx or CSV"),
        ("s.0", "OPUS file begins with"),
    ]:
        if name in ("s.xlsx", "s.xls", "s.0"):
            (tmp_path / name).write_bytes(b"PK")
        with pytest.raises(InvalidInput, match=words):
            read_spectra(tmp_path / name)
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(InvalidInput, match="cannot be read as Parquet"):
        read_spectra(tmp_path / "bad.parquet")


def test_text_is_no_formula_and_numbers_stay_numbers() -> None:
    frame = pl.DataFrame(
        {"=n": ["=A1", "+1", "-x", "@f", "\tt", "ok", None], "v": [-1.5, 2, 3, 4, 5, 6, None]}
    )
    assert frame_csv(frame[:6], ";", ",").splitlines() == [
        "'=n;v", "'=A1;-1,5", "'+1;2,0", "'-x;3,0", "'@f;4,0", "'\tt;5,0", "ok;6,0"
    ]  # fmt: skip
    assert frame_csv(frame[6:]).splitlines()[1] == ","


# -- Parquet files that are larger than they look.


def _alike(rows: int, columns: int, value: object = 0.0) -> Any:
    return pa.table(
        {str(1000 + number): pa.array([value]).take(pa.array([0] * rows)) for number in range(columns)}
    )


@pytest.mark.parametrize("how", ["rows", "groups", "columns", "text"])
def test_a_parquet_file_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, how: str) -> None:
    path = tmp_path / "small.parquet"
    rows, columns = {"columns": (2000, 700)}.get(how, (40_000, 2))
    table = _alike(rows, columns)
    if how == "text":
        table = table.append_column("note", pa.array(["A" * 600]).take(pa.array([0] * rows)))
    pq.write_table(table, path, row_group_size=1000 if how == "groups" else None, compression="zstd")
    assert read_spectra(path).X.shape == (rows, columns)
    # A limit that is reached without making gigabytes first.
    with at_most(10_000_000 if how != "text" else 20_000_000), pytest.raises(InvalidInput, match="too much"):
        read_spectra(path)


def test_one_long_text_of_a_parquet_file_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "small.parquet"
    pq.write_table(pa.table({"850": [1.0, 2.0], "note": ["A" * 3_000_000, "B"]}), path, compression="zstd")
    assert path.stat().st_size < 50_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pl, "read_parquet", None)
        with at_most(2_000_000), pytest.raises(InvalidInput, match="too much"):
            read_spectra(path)


@pytest.mark.parametrize("text", ["," * 200_000, ("1," * 100 + "\n") * 2000, "\n" * 200_000])
def test_text_of_tiny_cells_is_refused_before_it_is_split(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"sample,850\na,1\n{text}", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("csv.reader", None)
        with at_most(1_000_000), pytest.raises(InvalidInput, match="cells"):
            read_spectra(path)


def test_a_text_that_many_cells_of_a_workbook_share_counts_for_each(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book, plain, path = openpyxl.Workbook(), io.BytesIO(), tmp_path / "table.xlsx"
    for row in [["sample", "note", 850, 852], *([f"s{row}", "shared", 0.5, 0.25] for row in range(60))]:
        book.active.append(row)
    book.save(plain)
    text = f"<sst xmlns='{openpyxl.xml.constants.SHEET_MAIN_NS}'><si><t>{'x' * 20_000}</t></si></sst>"
    kind = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{openpyxl.xml.constants.SHARED_STRINGS}"/></Types>'
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name).replace(b'"inlineStr"><is><t>shared</t></is>', b'"s"><v>0</v>')
            new.writestr(name, data.replace(b"</Types>", kind.encode()))
        new.writestr("xl/sharedStrings.xml", text)
    assert read_spectra(path).X.shape == (60, 2)
    with at_most(500_000), pytest.raises(InvalidInput, match="the texts of the sheet 'Sheet' take more"):
        read_spectra(path)


@pytest.mark.parametrize("packed", [False, True])
def test_an_instrument_file_claims_no_more_values_than_are_allowed(tmp_path: Path, packed: bool) -> None:
    n, path = 20_000, tmp_path / "one.jdx"
    body = "0AT0000" if packed else "\n".join(f"{x} 1" for x in range(n))
    head = f"##TITLE=a\n##JCAMP-DX=4.24\n##DATA TYPE=INFRARED SPECTRUM\n##XUNITS=1/CM\n##YUNITS=ABSORBANCE\n##NPOINTS={n}\n"
    head += f"##FIRSTX=0\n##LASTX={n - 1}\n##XFACTOR=1\n##YFACTOR=1\n##XYDATA=(X++(Y..Y))\n"
    path.write_text(f"{head}{body}\n##END=\n", encoding="utf-8")
    assert read_spectra(path).X.shape == (1, n)
    with at_most(100_000), pytest.raises(InvalidInput, match="values"):
        read_spectra(path)


def test_a_list_in_a_cell_counts_with_all_its_values(tmp_path: Path) -> None:
    path = tmp_path / "small.parquet"
    pq.write_table(pa.table({"850": [[1.0] * 200_000] * 5}), path)
    with at_most(5_000_000), pytest.raises(InvalidInput, match="too much"):
        read_spectra(path)


@pytest.mark.parametrize("kind", ["gzip", "cells", "unpacked"])
def test_a_smaller_limit_holds_for_every_packed_file(tmp_path: Path, kind: str) -> None:
    path, rows = tmp_path / ("table.csv.gz" if kind == "gzip" else "table.xlsx"), 400
    if kind == "gzip":
        lines = ["sample,850,852", *(f"s{row},0.5,0.5" for row in range(rows))]
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
    else:
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        for row in [["sample", 850, 852], *([f"s{row}", 0.5, 0.25] for row in range(rows))]:
            book.active.append(row)
        book.save(path)
    assert read_spectra(path).X.shape == (rows, 2)
    with (
        at_most({"gzip": 3000, "cells": 90_000, "unpacked": 20_000}[kind]),
        pytest.raises(InvalidInput) as told,
    ):
        read_spectra(path)
    assert {"gzip": "larger than", "cells": "cells", "unpacked": "unpacks"}[kind] in str(told.value)


def test_a_damaged_parquet_file_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "cut.parquet"
    pq.write_table(_alike(5, 5), path)
    path.write_bytes(path.read_bytes()[:-30] + path.read_bytes()[-8:])
    with pytest.raises(InvalidInput, match="cannot be read as Parquet"):
        read_spectra(path)
