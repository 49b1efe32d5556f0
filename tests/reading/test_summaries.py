"""Rows that sum up samples, units below a header, and tables without a header that may be read in two ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from nirs_store.errors import InvalidInput
from nirs_store.reading import read_spectra

N, GRID = 9, [1100 + 2 * k for k in range(14)]
X = np.round(
    0.4
    + 0.1 * np.random.default_rng(3).normal(size=(N, 1))
    + np.random.default_rng(4).normal(0, 0.02, (N, 14)).cumsum(1),
    4,
)
NAMES = [f"W{k}" for k in range(N)]
MEAN, SD = X.mean(0), X.std(0, ddof=1)


def table(folder: Path, rows: Any, head: Any = ("id", *GRID), sign: str = ",") -> Path:
    cells = [[cell if isinstance(cell, str) else f"{cell:.4f}" for cell in row] for row in rows]
    lines = [sign.join(map(str, head))] if head else []
    path = folder / "table.csv"
    path.write_text("\n".join([*lines, *(sign.join(row) for row in cells)]) + "\n", encoding="utf-8")
    return path


SAMPLES = [(name, *x) for name, x in zip(NAMES, X, strict=True)]


@pytest.mark.parametrize(
    ("above", "below"),
    [
        ([], [("Mean", *MEAN), ("SD", *SD)]),
        ([("Mittelwert", *MEAN), ("Standardabweichung", *SD)], [("Minimum", *X.min(0)), ("Maximum", *X.max(0))]),
        ([], [("Moyenne", *MEAN), ("Écart-type", *X.std(0)), ("CV (%)", *(100 * SD / MEAN))]),
        ([], [("Promedio", *MEAN), ("Desv. Est.", *SD), ("n", *["9"] * 14)]),
        ([], [("count", *["9"] * 14), ("mean", *MEAN), ("std", *SD), ("25%", *np.percentile(X, 25, axis=0))]),
        ([], [("Average (n=9)", *MEAN), ("", *SD)]),
        ([], [("", *MEAN)]),
        ([("среднее", *MEAN)], [("W mean", *MEAN)]),
        ([], [("Mean", *[""] * 14)]),
    ],
    ids=["en", "de", "fr", "es", "describe", "unnamed sd", "unnamed", "ru", "references alone"],
)  # fmt: skip
def test_rows_that_sum_up_the_samples_are_left_out_and_named(tmp_path: Path, above: Any, below: Any) -> None:
    found = read_spectra(table(tmp_path, [*above, *SAMPLES, *below]))
    assert found.X.tolist() == X.tolist()
    assert found.ids is not None
    assert found.ids.tolist() == NAMES
    assert len(found.places) == N
    for row in (*above, *below):
        assert (repr(row[0]) if row[0] else "line") in found.understood
    assert "sum" in found.understood


def test_means_of_groups_parquet_and_tables_without_names(tmp_path: Path) -> None:
    rows: list[Any] = []
    for k in range(0, N, 3):
        rows += [
            *SAMPLES[k : k + 3],
            (f"W{k} mean", *X[k : k + 3].mean(0)),
            (f"W{k} sd", *X[k : k + 3].std(0)),
        ]
    assert read_spectra(table(tmp_path, rows)).X.tolist() == X.tolist()
    frame = pl.DataFrame(
        {"id": [*NAMES, "average"], **{str(w): [*X[:, k], MEAN[k]] for k, w in enumerate(GRID)}}
    )
    frame.write_parquet(tmp_path / "t.parquet")
    assert "'average' (row 10)" in read_spectra(tmp_path / "t.parquet").understood
    bare = read_spectra(table(tmp_path, [*X, MEAN, SD], GRID))
    assert (bare.X.tolist(), "left out line 11, line 12" in bare.understood) == (X.tolist(), True)


@pytest.mark.parametrize("name", ["Mean", "Stdev", "Maximum", "Médiane", "Mean of all 9"])
def test_a_name_that_the_numbers_do_not_bear_out_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match=rf"line 11 is called '{name}'"):
        read_spectra(table(tmp_path, [*SAMPLES, (name, *(X[2] + 0.013))]))


@pytest.mark.parametrize(
    "names", [["N", "S", "M"], ["S1 mean", "Max 7", "Total"], ["low", "mean", "low"], [""] * 3]
)
def test_names_that_may_be_those_of_samples_stay(tmp_path: Path, names: list[str]) -> None:
    rows = [(name, *(x + 0.017)) for name, x in zip(names, X, strict=False)]
    if "low" in names:  # classes, each several times
        rows = [(names[k % 3], *x) for k, x in enumerate(X)]
        assert len(read_spectra(table(tmp_path, [("high", *X[0]), *rows]))) == N + 1
        return
    assert len(read_spectra(table(tmp_path, [*SAMPLES, *rows]))) == N + 3


def test_a_row_of_statistics_without_samples_is_refused_and_a_lone_mean_is_a_sample(tmp_path: Path) -> None:
    assert len(read_spectra(table(tmp_path, [("Mean", *MEAN)]))) == 1
    with pytest.raises(InvalidInput, match=r"line 2 .*not in the file"):
        read_spectra(table(tmp_path, [("Mean", *MEAN), ("SD", *SD)]))


def test_what_one_of_several_files_leaves_out_is_told(tmp_path: Path) -> None:
    for k, more in enumerate(([], [("Mean", *MEAN)])):
        (tmp_path / str(k)).mkdir()
        table(tmp_path / str(k), [*SAMPLES, *more]).rename(tmp_path / f"{k}.csv")
    assert "1.csv: left out 'Mean'" in read_spectra([tmp_path / "0.csv", tmp_path / "1.csv"]).understood


def test_a_workbook_names_its_rows_and_one_sample_has_a_mean(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    rows = [(name, 3.5, *map(float, x)) for name, x in zip(NAMES, X, strict=True)]
    for row in [
        ("id", "fat", *GRID),
        *rows,
        (),
        ("Mittelwert", 3.5, *map(float, MEAN)),
        ("Stabw", 1.0),
        ("n", 9),
    ]:
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    found = read_spectra(tmp_path / "t.xlsx")
    assert found.X.tolist() == X.tolist()
    assert "'Mittelwert' (row 12)" in found.understood
    assert "'Stabw' (row 13), 'n' (row 14)" in found.understood
    assert len(read_spectra(table(tmp_path, [SAMPLES[0], ("Mean", *X[0])]))) == 1


def test_a_header_of_negative_numbers_is_not_a_spectrum(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"line 1 .*holds wavelengths"):
        read_spectra(table(tmp_path, SAMPLES, ("id", *(-w for w in GRID))))


@pytest.mark.parametrize("unit", ["nm", "AU", "log(1/R)"])
def test_a_row_of_units_below_the_header_is_left_out_and_told(tmp_path: Path, unit: str) -> None:
    found = read_spectra(table(tmp_path, [("-", *[unit] * 14), *SAMPLES]))
    assert (found.X.tolist(), f"line 2 ({unit}, ...)" in found.understood) == (X.tolist(), True)
    with pytest.raises(InvalidInput, match="missing"):  # a sample that was not measured is not a row of units
        read_spectra(table(tmp_path, [("W", *["n.d."] * 14), *SAMPLES]))


@pytest.mark.parametrize("count", [3, 5, 9])
@pytest.mark.parametrize("grid", [GRID, [9000.37 - 7.7 * k for k in range(14)]], ids=["nm", "cm-1"])
def test_small_tables_of_channels_in_rows_are_refused_until_told(
    tmp_path: Path, count: int, grid: Any
) -> None:
    rows = [(f"{w:g}", *X[:, k]) for k, w in enumerate(grid[:count])]
    path = table(tmp_path, rows, None)
    with pytest.raises(InvalidInput, match="orientation='columns'"):
        read_spectra(path)
    found = read_spectra(path, orientation="columns")
    np.testing.assert_allclose(found.X, X[:, :count])
    np.testing.assert_allclose(found.wavelengths, grid[:count])  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="counts 1, 2"):
        read_spectra(table(tmp_path, rows, ["", *range(1, N + 1)]))


@pytest.mark.parametrize(
    ("rows", "which"),
    [
        ([(str(k + 1), *x) for k, x in enumerate(X)], "first"),
        ([(str(5 * k % 7 + 1501), *x) for k, x in enumerate(X[:7])], "first"),
        ([("17", *X[0])], "first"),
        ([(f"{108 - k}", *(f"{v * 1e5:.0f}" for v in x)) for k, x in enumerate(X)], "first"),
        ([(*np.sort(x), f"{12.5 + k / 10:.1f}") for k, x in enumerate(X)], "last"),
    ],
    ids=["counted", "numbers", "one", "raw counts", "reference values"],
)
def test_names_and_references_of_a_table_without_a_header_are_not_channels(
    tmp_path: Path, rows: Any, which: str
) -> None:
    path = table(tmp_path, rows, None)
    with pytest.raises(InvalidInput, match=f"no header, and the {which} column"):
        read_spectra(path)
    assert read_spectra(path, header=False, orientation="rows").X.shape == (len(rows), 15)
    assert read_spectra(table(tmp_path, X, None)).X.tolist() == X.tolist()


def test_numbers_of_samples_below_a_header_that_counts_are_not_taken_for_wavelengths(tmp_path: Path) -> None:
    path = table(tmp_path, [(str(1501 + k), *X[k % N]) for k in range(12)], ["", *range(1, 15)])
    with pytest.raises(InvalidInput, match="counts 1, 2"):
        read_spectra(path)
    assert read_spectra(path, orientation="rows").X.shape == (12, 14)
    assert read_spectra(path, orientation="columns").X.shape == (14, 12)
