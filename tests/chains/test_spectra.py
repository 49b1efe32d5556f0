from __future__ import annotations

from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from nirs_store.chains.grids import differ, disordered, parse_header, same_grid
from nirs_store.chains.plan import ReplayPlan
from nirs_store.chains.spectra import read_spectra
from nirs_store.errors import InvalidInput, ShapeMismatch

GRID = [850.0, 852.02, 854.04]
X = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def plan(**changes: Any) -> ReplayPlan:
    return ReplayPlan.from_chain(
        {"steps": [], "model_step_idx": 9, "fold_artifacts": {0: "m"}, "wavelengths": GRID, **changes}
    )


FRAMES = [
    pl.DataFrame(X, schema=["850.00", "852.02", "854.04"]),
    pd.DataFrame(X, columns=["850.00", "852.02", "854.04"]),
    pd.DataFrame(X, columns=GRID),
    pa.table({"850": X[:, 0], "852.02": X[:, 1], "854.04": X[:, 2]}),
    duckdb.sql(
        'SELECT * FROM (VALUES (1.0::DOUBLE, 2.0::DOUBLE, 3.0::DOUBLE), (4, 5, 6)) t("850","852.02","854.04")'
    ),
]


def test_an_array_is_passed_on_as_it_is() -> None:
    read = read_spectra(plan(), X)
    assert read.parts[0] is X
    assert read.grids[0] is not None
    assert read.grids[0].tolist() == GRID


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__module__.partition(".")[0])
def test_a_frame_gives_its_values_row_by_row_and_its_columns_as_wavelengths(frame: Any) -> None:
    read = read_spectra(plan(wavelengths=None), frame)
    assert np.array_equal(read.parts[0], X)
    assert read.parts[0].flags.c_contiguous
    assert read.grids[0] is not None
    assert read.grids[0].tolist() == GRID
    assert np.array_equal(read_spectra(plan(), frame).parts[0], X)


def test_a_frame_on_another_grid_is_refused() -> None:
    frame = pl.DataFrame(X, schema=["850", "852.02", "855"])
    with pytest.raises(ShapeMismatch, match=r"channel 2 is at 855, expected 854\.04"):
        read_spectra(plan(), frame)
    with pytest.raises(ShapeMismatch, match="the same values in another order"):
        read_spectra(plan(), FRAMES[0].select(["852.02", "850.00", "854.04"]))


def test_a_header_may_be_rounded_to_a_hundredth_of_the_spacing() -> None:
    read_spectra(plan(), pl.DataFrame(X, schema=["850.01", "852.03", "854.03"]))
    with pytest.raises(ShapeMismatch, match="not on the grid"):
        read_spectra(plan(), pl.DataFrame(X, schema=["850.03", "852.02", "854.04"]))


def test_a_single_channel_has_a_grid_too() -> None:
    one = plan(wavelengths=[1450.0])
    read_spectra(one, X[:, :1], wavelengths=[1450.0])
    with pytest.raises(ShapeMismatch, match="1450"):
        read_spectra(one, X[:, :1], wavelengths=[1451.0])


def test_columns_that_are_not_wavelengths_are_named() -> None:
    frame = FRAMES[0].with_columns(pl.lit("a").alias("sample"), pl.lit(1.0).alias("nan"))
    with pytest.raises(InvalidInput, match=r"2 of 5 columns.*sample, nan"):
        read_spectra(plan(), frame)


def test_a_frame_without_names_is_an_array() -> None:
    assert read_spectra(plan(wavelengths=None), pd.DataFrame(X)).grids == (None,)
    assert np.array_equal(read_spectra(plan(), pd.DataFrame(X)).parts[0], X)


def named(*names: str) -> Any:
    return pd.DataFrame(X, columns=names)


CALIBRATED = {"wavelengths": None, "metadata": {"calibration_columns": ["w0", "w1", "w2"]}}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("w2", "w1", "w0"), "column 0 is 'w2', expected 'w0'. They are the same in another order"),
        (("w0", "w1", "v2"), "column 2 is 'v2', expected 'w2'. Put"),
    ],
)
def test_columns_of_another_name_or_order_than_the_calibrations_are_refused(
    names: tuple[str, ...], words: str
) -> None:
    assert np.array_equal(read_spectra(plan(**CALIBRATED), named("w0", "w1", "w2")).parts[0], X)
    with pytest.raises(ShapeMismatch, match=words):
        read_spectra(plan(**CALIBRATED), named(*names))
    with pytest.raises(ShapeMismatch, match=words):
        read_spectra(plan(**CALIBRATED), [pl.DataFrame(X, schema=names)])


def test_names_that_are_too_many_are_counted() -> None:
    more = pd.DataFrame(np.hstack([X, X[:, :1]]), columns=["w0", "w1", "w2", "id"])
    with pytest.raises(ShapeMismatch, match="there are 4, expected 3"):
        read_spectra(plan(**CALIBRATED), more)


def test_where_no_names_are_known_on_either_side_nothing_is_compared() -> None:
    for frame in (pd.DataFrame(X), pl.DataFrame(X), X):
        assert np.array_equal(read_spectra(plan(**CALIBRATED), frame).parts[0], X)
    bare = plan(wavelengths=None, metadata={"calibration_columns": ["column_0", "column_1", "column_2"]})
    read_spectra(bare, named("w0", "w1", "w2"))
    with pytest.raises(ShapeMismatch, match="another order"):
        read_spectra(bare, pl.DataFrame(X).select("column_1", "column_0", "column_2"))
    for metadata in (None, {}, {"calibration_columns": 3}, {"calibration_columns": [1, 2, 3]}):
        read_spectra(plan(wavelengths=None, metadata=metadata), named("low", "high", "mid"))
        with pytest.raises(ShapeMismatch, match="numbered in another order"):
            read_spectra(plan(wavelengths=None, metadata=metadata), named("w2", "w1", "w0"))
        read_spectra(plan(metadata=metadata), named("w0", "w1", "w2"))


def test_wavelengths_in_a_header_are_compared_with_the_grid_whatever_names_are_known() -> None:
    known = plan(metadata={"calibration_columns": ["w0", "w1", "w2"]})
    read_spectra(known, FRAMES[0])
    with pytest.raises(ShapeMismatch, match="same values in another order"):
        read_spectra(known, FRAMES[0].select(["852.02", "850.00", "854.04"]))


def test_missing_values_of_a_frame_are_seen() -> None:
    holes = pl.DataFrame({"850": [1, None], "852.02": [2, 5], "854.04": [3, 6]})
    assert not read_spectra(plan(), holes).finite


def test_text_in_a_frame_is_refused() -> None:
    with pytest.raises(InvalidInput, match="real numbers"):
        read_spectra(plan(), pl.DataFrame({"850": ["a"], "852.02": ["b"], "854.04": ["c"]}))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_seen(value: float) -> None:
    broken = X.copy()
    broken[1, 1] = value
    assert not read_spectra(plan(), broken).finite
    assert read_spectra(plan(), X).finite
    assert read_spectra(plan(), X.astype(int)).finite


@pytest.mark.parametrize(
    ("value", "moderate"), [(3e38, True), (-3e38, True), (1e39, False), (-1e39, False), (np.nan, False)]
)
def test_values_beyond_32_bits_are_seen(value: float, moderate: bool) -> None:
    large = X.copy()
    large[1, 1] = value
    assert read_spectra(plan(), large).moderate is moderate
    assert read_spectra(plan(), X.astype(int)).moderate


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (X[0], r"found \(3,\).*reshape\(1, -1\)"),
        (X[np.newaxis], r"found \(1, 2, 3\)"),
        (3.0, r"found \(\)"),
        (X[:0], r"empty.*\(0, 3\)"),
        (X[:, :0], r"empty.*\(2, 0\)"),
        ([[1.0, 2.0], [3.0]], "not a table of numbers"),
        (X.astype(complex), "complex128"),
        (X.astype(str), "real numbers"),
        (np.array([["a", 1, 2]], dtype=object), "object"),
        (np.ma.masked_greater(X, 5), "masked"),
        ({}, "empty dict"),
        (X[:, :2], r"trained on 3 channels \(850 to 854\.04\), X has 2"),
        ({0: X, "0": X}, "names a source twice"),
        ({"nir": X}, "source 'nir'"),
    ],
)
def test_what_is_no_table_of_spectra_is_refused(value: Any, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        read_spectra(plan(), value)


def test_boxed_numbers_are_unboxed_and_nested_lists_are_a_table() -> None:
    assert read_spectra(plan(), X.astype(object)).parts[0].dtype == np.float64
    assert np.array_equal(read_spectra(plan(), X.tolist()).parts[0], X)


@pytest.mark.parametrize(
    ("wavelengths", "named"),
    [
        ([1.0, 2.0], "3 channels, but 'wavelengths' has 2"),
        (np.ones((1, 3)), "1-D and finite"),
        (["a", "b", "c"], "must be numbers"),
        ([1.0, np.nan, 3.0], "finite"),
        ([850.0, 852.02, 860.0], "channel 2 is at 860"),
    ],
)
def test_wavelengths_that_do_not_fit_are_refused(wavelengths: Any, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        read_spectra(plan(), X, wavelengths)


def test_a_chain_that_adapts_to_the_grid_takes_any() -> None:
    other = [1.0, 2.0]
    read = read_spectra(plan(), X[:, :2], other, adapts=lambda: "required")
    assert read.grids[0] is not None
    assert read.grids[0].tolist() == other
    with pytest.raises(ShapeMismatch, match="trained on 3 channels"):
        read_spectra(plan(), X[:, :2], adapts=lambda: "required")


def test_columns_and_wavelengths_must_say_the_same() -> None:
    read_spectra(plan(), FRAMES[0], GRID)
    with pytest.raises(ShapeMismatch, match="column names of X and 'wavelengths' differ"):
        read_spectra(plan(), FRAMES[0], [1.0, 2.0, 3.0])
    with pytest.raises(ShapeMismatch, match="3 values, expected 2"):
        read_spectra(plan(), FRAMES[0], [1.0, 2.0])


TWO = [{"step_idx": 0}]
MAP = {"_source_map": {"0": {"0": ["a"], "1": ["b"]}}}


def two_sources(**changes: Any) -> ReplayPlan:
    return plan(steps=TWO, shared_artifacts=MAP, wavelengths=None, **changes)


@pytest.mark.parametrize(
    "value", [[X, X[:, :2]], (X, X[:, :2]), {1: X[:, :2], 0: X}, {"1": X[:, :2], "0": X}]
)
def test_sources_come_as_a_sequence_or_a_dict(value: Any) -> None:
    read = read_spectra(two_sources(), value)
    assert [part.shape for part in read.parts] == [(2, 3), (2, 2)]
    assert np.array_equal(read.merged().parts[0], np.hstack([X, X[:, :2]]))
    assert read.merged() is read.merged()


def test_sources_must_be_those_of_the_chain() -> None:
    with pytest.raises(ShapeMismatch, match=r"2 sources apart \[0, 1\], but X is one ndarray"):
        read_spectra(two_sources(), X)
    with pytest.raises(ShapeMismatch, match=r"trained on the sources \[0, 1\]; X has \[0, 1, 2\]"):
        read_spectra(two_sources(), [X, X, X])
    with pytest.raises(ShapeMismatch, match=r"different numbers of samples: \[2, 1\]"):
        read_spectra(two_sources(), [X, X[:1]])


def test_the_source_of_the_chain_is_picked() -> None:
    picked = two_sources(source_index=1)
    assert np.array_equal(read_spectra(picked, [X, X + 1]).parts[0], X + 1)
    assert read_spectra(picked, X).parts[0] is X
    with pytest.raises(ShapeMismatch, match="uses source 1"):
        read_spectra(picked, {0: X})


def test_sources_have_grids_of_their_own() -> None:
    both = [np.array(GRID), np.array([1.0, 2.0])]
    for value in (both, {1: both[1], "0": both[0]}, np.concatenate(both)):
        read = read_spectra(two_sources(), [X, X[:, :2]], value)
        assert [grid.tolist() for grid in read.grids if grid is not None] == [GRID, [1.0, 2.0]]
        merged = read.merged().grids[0]
        assert merged is not None
        assert merged.tolist() == [*GRID, 1.0, 2.0]
    with pytest.raises(ShapeMismatch, match="missing: \\[1\\]"):
        read_spectra(two_sources(), [X, X[:, :2]], {0: GRID})
    with pytest.raises(ShapeMismatch, match="Expected 5 wavelengths"):
        read_spectra(two_sources(), [X, X[:, :2]], [1.0, 2.0, 3.0])


def test_a_stored_grid_covers_the_sources_one_after_the_other() -> None:
    stored = plan(steps=TWO, shared_artifacts=MAP, wavelengths=[*GRID, 1.0, 2.0])
    read = read_spectra(stored, [FRAMES[0], X[:, :2]])
    assert [grid.tolist() for grid in read.grids if grid is not None] == [GRID, [1.0, 2.0]]
    with pytest.raises(ShapeMismatch, match="channel 1 is at 3"):
        read_spectra(stored, [X, X[:, :2]], [GRID, [1.0, 3.0]])


# -- Grids that are compared, and headers that tell them.


FINE = np.linspace(4000.0, 400.0, 7468)


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        (np.round(FINE, 2), FINE, True),
        (FINE, np.round(FINE, 2), True),
        (FINE.astype(np.float32), FINE, True),
        (np.float32(np.arange(12000, 11990, -0.01)), np.arange(12000, 11990, -0.01), True),
        (np.round(FINE, 1), FINE, False),
        (FINE + 0.012, FINE, False),
        (np.arange(1100, 1110, 2), np.arange(1100, 1110, 2) + 0.4, False),
        (np.array([1100, 1102, 1104]), np.array([1100, 1102.5, 1104]), False),
        ([850.0, 850.0, 900.0], [850.0, 850.0, 900.2], True),
        ([850.0, 850.0, 900.0], [850.0, 850.0, 901.0], False),
    ],
)
def test_grids_agree_but_for_rounding(found: Any, expected: Any, same: bool) -> None:
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert same_grid(found, expected) is same
    if same:
        read_spectra(plan(wavelengths=expected), np.ones((1, expected.size)), found)
        return
    with pytest.raises(ShapeMismatch) as error:
        read_spectra(plan(wavelengths=expected), np.ones((1, expected.size)), found)
    first, second = str(error.value).partition(" is at ")[2].split(". Resample")[0].split(", expected ")
    assert float(first) != float(second)


def test_two_numbers_that_differ_are_shown_as_such() -> None:
    assert (
        differ(np.array([1007.9575]), np.array([1007.9600])) == "channel 0 is at 1007.957, expected 1007.96"
    )


@pytest.mark.parametrize(
    ("names", "values", "unit"),
    [
        (["10.000,5", "9.090"], [10000.5, 9090.0], None),
        (["10,000.5", "9,090"], [10000.5, 9090.0], None),
        (["9.090", "8.5"], [9.09, 8.5], None),
        (["1.1 µm", "1.2 µm"], [1100.0, 1200.0], "nm"),
        ([850, 852.5, np.float32(855)], [850.0, 852.5, 855.0], None),
        (["x1", "x2", "y"], [None, None, None], None),
        (["X850", "X852", "id"], [850.0, 852.0, None], None),
        (["850", "x1"], [850.0, None], None),
    ],
)
def test_a_header_is_read_as_a_whole(names: list[Any], values: list[Any], unit: str | None) -> None:
    assert parse_header(names) == (values, unit)


def test_what_is_in_order_or_falls_as_wavelengths_do_is_not_disordered() -> None:
    for names in (
        ["V0", "V1", "V10"],
        ["2500", "2499"],
        [2500, 2499],
        ["R990", "R980"],
        ["a", "c", "b"],
        ["x1"],
        ["a1", "b0"],
    ):
        assert disordered(names) is None  # type: ignore[arg-type]
    assert disordered(["R980", "R990", "R985"]) == "R980, R990, R985"
    assert disordered(["X1", "X2", "X3", "X5", "X4"]) == "..., X5, X4"
