"""Reading tables of spectra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import nirs_store
from nirs_store.cli._spectra import read_spectra, split_table
from nirs_store.errors import InvalidInput

TECATOR = Path(nirs_store.__file__).parent / "data" / "tecator.csv"


def write(folder: Path, text: str, name: str = "spectra.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_named_by_a_number_are_wavelengths_and_the_others_labels() -> None:
    table = read_spectra(TECATOR)
    assert table.X.shape == (215, 100)
    assert table.X.flags.c_contiguous
    assert (table.wavelengths[0], table.wavelengths[-1]) == (850.0, 1050.0)
    assert table.labels.columns == ["sample", "water", "fat", "protein"]
    assert table.column("fat")[0] == 22.5


@pytest.mark.parametrize(
    "text",
    [
        "id,850,852.5\na,1.5,2\n",
        "id;850;852.5\na;1.5;2\n",
        "id\t850\t852.5\na\t1.5\t2\n",
        "id;850;852,5\na;1,5;2\n",
        "\ufeffid,850,852.5\r\na,1.5,2\r\n",
        '"id","850","852.5"\n"a","1.5","2"\n',
        "id, 850, 852.5\na, 1.5, 2\n",
    ],
    ids=["commas", "semicolons", "tabs", "decimal commas", "BOM and CRLF", "quotes", "blanks"],
)
def test_instruments_write_csv_in_many_ways(tmp_path: Path, text: str) -> None:
    table = read_spectra(write(tmp_path, text))
    assert table.X.tolist() == [[1.5, 2.0]]
    assert table.wavelengths.tolist() == [850.0, 852.5]
    assert table.labels.to_dicts() == [{"id": "a"}]


def test_parquet_gives_the_same_as_csv(tmp_path: Path) -> None:
    pl.read_csv(TECATOR).write_parquet(tmp_path / "t.parquet")
    csv, parquet = read_spectra(TECATOR), read_spectra(tmp_path / "t.parquet")
    assert np.array_equal(csv.X, parquet.X)
    assert csv.labels.equals(parquet.labels)


def test_sample_names_keep_their_leading_zeros(tmp_path: Path) -> None:
    table = read_spectra(write(tmp_path, "sample,850,852\n007,1,2\n008,1,2\n"))
    assert table.labels["sample"].to_list() == ["007", "008"]


def test_a_missing_label_is_null_and_no_reason_to_refuse(tmp_path: Path) -> None:
    table = read_spectra(write(tmp_path, "fat,850,852\n,1,2\n3.5,1,2\n"))
    assert table.column("fat").to_list() == [None, 3.5]


def test_falling_wavenumbers_are_accepted(tmp_path: Path) -> None:
    assert read_spectra(write(tmp_path, "9000,8000\n1,2\n")).wavelengths.tolist() == [9000.0, 8000.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("id,850\n", "no spectra below it"),
        ("id,absorbance\na,1\n", "no spectral columns.*Found: id, absorbance"),
        ("id,X850,X852\na,1,2\n", "Rename 'X850' to '850'"),
        ("id,850,850\na,1,2\n", "names the column '850' twice"),
        ("id,850,850.0\na,1,2\n", "the wavelength 850 twice"),
        ("id,850,852,851\na,1,2,3\n", "after 852 comes 851"),
        ("id,850,852\na,1,oops\n", "sample 1: the column 852 .* found 'oops'"),
        ("id,850,852\na,1,01x\n", "found '01x'"),
        ("id,850,852\na,1,2\nb,,2\n", "1 missing or infinite values; the first is sample 2 at 850"),
        ("id,850,852\na,1,inf\n", "sample 1 at 852"),
        ("id,850,852\na,,\n", "2 missing"),
        ("id,850,852\na,1,2,3\n", "3 columns"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_the_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        read_spectra(write(tmp_path, text))


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not exist"):
        read_spectra(tmp_path / "none.csv")
    with pytest.raises(InvalidInput, match="is a folder"):
        read_spectra(tmp_path)
    with pytest.raises(InvalidInput, match="must end in one of"):
        read_spectra(write(tmp_path, "x", "spectra.xlsx"))
    with pytest.raises(InvalidInput, match="cannot be read as Parquet"):
        read_spectra(write(tmp_path, "no parquet", "spectra.parquet"))
    (tmp_path / "latin.csv").write_bytes("größe,850\n1,2\n".encode("latin-1"))
    with pytest.raises(InvalidInput, match="UTF-8"):
        read_spectra(tmp_path / "latin.csv")


def test_a_missing_column_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match=r"no column 'protien'\. Did you mean 'protein'"):
        read_spectra(TECATOR).column("protien")


def test_a_frame_is_parted_like_a_file() -> None:
    table = split_table(pl.DataFrame({"name": ["a"], "850": [1], "852": [2]}))
    assert (table.X.tolist(), table.X.dtype, table.labels.columns) == ([[1.0, 2.0]], np.float64, ["name"])
