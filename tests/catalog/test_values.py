"""What callers pass becomes what columns take, or is refused by name."""

from __future__ import annotations

import enum
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from framekit import COLUMNS, LABELS, NAMES, TABLES, X, Y

from nirs_store import values
from nirs_store.errors import InvalidInput
from nirs_store.values import (
    as_array,
    as_error,
    as_float,
    as_floats,
    as_int,
    as_long,
    as_text,
    from_json,
    index_names,
    is_frame,
    native,
    to_json,
)


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ({"a": math.nan, "b": [math.inf, -math.inf, 1.5]}, {"a": None, "b": [None, None, 1.5]}),
        ({"a": np.float32("nan"), "b": np.int64(3), "c": np.bool_(True)}, {"a": None, "b": 3, "c": True}),
        (np.array([[1, 2]]), [[1, 2]]),
        ((1, 2), [1, 2]),
        ({1: "a"}, {"1": "a"}),
        (Path("a/b"), "a/b"),
        (np.ndarray, "numpy.ndarray"),
        (Colour.RED, "red"),
        (None, None),
    ],
)
def test_json_is_strict_and_takes_what_training_loops_pass(value: Any, plain: Any) -> None:
    text = to_json(value, "config")
    assert from_json(text) == plain
    if text is not None:
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize("value", [object(), {"a": lambda: 1}, {(1, 2): 3}, "\ud800", 1j])
def test_what_json_cannot_hold_is_refused_with_the_name_of_the_argument(value: Any) -> None:
    with pytest.raises(InvalidInput, match="best_params"):
        to_json(value, "best_params")


def test_json_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidInput, match="config"):
        to_json(loop, "config")


@pytest.mark.parametrize("value", [None, 1, b"x", "a\x00b", "\udfff"])
def test_text_is_text(value: Any) -> None:
    with pytest.raises(InvalidInput, match="name"):
        as_text(value, "name")


@pytest.mark.parametrize("value", ["../..", "CON", "x" * 300, "🍇", "", "a\nb", "'; DROP TABLE runs; --"])
def test_strange_text_is_data(value: str) -> None:
    assert as_text(value, "name") == value


@pytest.mark.parametrize("value", ["x", [1, 2], {}, 10**400, object()])
def test_a_score_is_a_number(value: Any) -> None:
    with pytest.raises(InvalidInput, match="val_score"):
        as_float(value, "val_score")


def test_scores_may_be_nothing_or_not_a_number() -> None:
    assert as_float(None, "s") is None
    assert math.isnan(as_float(math.nan, "s") or 0.0)
    assert as_float(np.float32(0.5), "s") == 0.5


@pytest.mark.parametrize("value", [1.5, "x", math.nan, math.inf, 2**31, -(2**31) - 1, 10**400])
def test_a_count_is_a_whole_number_of_32_bits(value: Any) -> None:
    with pytest.raises(InvalidInput, match="n_samples"):
        as_int(value, "n_samples")


def test_a_duration_may_need_64_bits_and_no_more() -> None:
    assert as_long(2**40, "duration_ms") == 2**40
    with pytest.raises(InvalidInput, match="duration_ms"):
        as_long(2**63, "duration_ms")
    assert as_int(np.int64(7), "n") == 7
    assert as_int(7.0, "n") == 7


def test_the_text_of_an_error_is_never_refused() -> None:
    assert as_error("caf\udce9 \x00 end") == "caf\\udce9 \\x00 end"
    assert as_error(ValueError("bad")) == "bad"


def test_what_no_commit_can_carry_is_refused_in_bytes_not_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "MOST_BYTES", 6)
    assert as_text("ééé", "note") == "ééé"
    assert to_json([1, 2], "config") == "[1,2]"
    with pytest.raises(InvalidInput, match="note: expected at most 6 bytes, found 8"):
        as_text("éééé", "note")
    with pytest.raises(InvalidInput, match="config: expected at most 6 bytes, found 7"):
        to_json([1, 2, 3], "config")


# -- frames and arrays of any make --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_every_table_becomes_the_same_array(name: str) -> None:
    table = native(TABLES[name]())
    assert is_frame(table)
    np.testing.assert_array_equal(as_array(table), X)
    assert as_array(table).dtype == np.float64


@pytest.mark.parametrize("name", COLUMNS)
def test_every_column_of_numbers_and_of_text_becomes_the_same_array(name: str) -> None:
    np.testing.assert_array_equal(as_array(COLUMNS[name](Y)), Y)
    assert as_array(COLUMNS[name](LABELS)).tolist() == LABELS.tolist()
    assert as_array(COLUMNS[name]([1, 2] * 12)).dtype.kind == "i"


def test_labels_that_look_like_numbers_stay_text() -> None:
    for make in COLUMNS.values():
        assert as_array(make(["1", "2"] * 12)).tolist() == ["1", "2"] * 12


def test_missing_numbers_are_nan_whatever_marks_them() -> None:
    for column in (
        pl.Series([1.0, None]),
        pl.Series([1, None]),
        pd.Series([1.0, None]),
        pd.Series([1, None], dtype="Int64"),
        pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [1.5, 2.5]}),
        pa.array([1, None]),
    ):
        array = as_array(column)
        assert array.dtype == np.float64
        assert np.isnan(array[1]).any()


def test_a_column_of_spectra_is_a_matrix() -> None:
    for column in (
        pl.Series(X.tolist()),
        pl.Series(X),
        pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), X.shape[1]),
        pa.array(X.tolist()),
    ):
        np.testing.assert_array_equal(as_array(column), X)


def test_numpy_arrays_are_passed_on_without_a_copy() -> None:
    assert as_array(X) is X
    assert native(X) is X


def test_lists_of_different_lengths_are_refused_in_words() -> None:
    with pytest.raises(InvalidInput, match="y_pred cannot be read as an array"):
        as_array([[1], [1, 2]], "y_pred")


def test_complex_numbers_are_not_taken_for_real_ones() -> None:
    assert as_floats(np.array(["1.5", "2"])).tolist() == [1.5, 2.0]
    with pytest.raises(TypeError, match="complex"):
        as_floats(np.array([1 + 0j]))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_masked_numbers_are_nan(dtype: Any) -> None:
    masked = np.ma.masked_array(np.array([1.5, 2.5, 3.5], dtype), mask=[False, True, False])
    found = as_array(masked)
    assert type(found) is np.ndarray
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, [1.5, np.nan, 3.5])
    whole = as_array(np.ma.masked_array([1, 2], mask=False))
    assert type(whole) is np.ndarray
    assert whole.tolist() == [1, 2]


@pytest.mark.parametrize("values", [[1, 2], ["beef", "pork"], [True, False]])
def test_masked_values_that_cannot_be_nan_are_refused(values: list[Any]) -> None:
    with pytest.raises(InvalidInput, match="y_pred: masked values"):
        as_array(np.ma.masked_array(values, mask=[False, True]), "y_pred")


def test_arrow_data_that_polars_cannot_hold_is_refused_in_words() -> None:
    month = pa.array([(1, 2, 3)], type=pa.month_day_nano_interval())
    with pytest.raises(InvalidInput, match="y_true holds Arrow data that cannot be read"):
        native(month, "y_true")


def test_only_an_index_of_text_names_rows() -> None:
    names = index_names(pd.DataFrame(X, index=NAMES))
    assert names is not None
    assert names.tolist() == NAMES
    for table in (X, pd.DataFrame(X), pd.DataFrame(X, index=range(5, 53)), pl.DataFrame(X), pd.DataFrame()):
        assert index_names(table) is None
