"""Arrays keep type, shape and bytes, are stored once, and are checked when read."""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nirs_store.db.journal import ARRAY_BYTES, decode_array, encode_array
from nirs_store.errors import CatalogDamaged, InvalidInput


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        st.one_of(
            hnp.floating_dtypes(),
            hnp.integer_dtypes(),
            hnp.unicode_string_dtypes(min_len=1),
            st.just(np.dtype(bool)),
        ),
        hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4),
    )
)
def test_any_array_comes_back_as_it_was(array: np.ndarray) -> None:
    row, _ = encode_array(array, "y")
    back = decode_array(*row)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    assert back.flags.writeable or not back.size


@pytest.mark.parametrize(
    "array",
    [
        np.array(["lean", "fatty"]),
        np.array(["lean", "fatty"], dtype=object),
        np.array(["lean", "fatty"], dtype=np.dtypes.StringDType()),
    ],
)
def test_labels_of_any_kind_come_back_as_text(array: np.ndarray) -> None:
    assert decode_array(*encode_array(array, "y")[0]).tolist() == ["lean", "fatty"]


def test_two_columns_of_probabilities_stay_two_columns_also_from_fortran_order() -> None:
    proba = np.asfortranarray([[0.1, 0.9], [0.3, 0.7], [0.5, 0.5]])
    back = decode_array(*encode_array(proba, "y_proba")[0])
    np.testing.assert_array_equal(back, proba)
    assert encode_array(proba, "y")[0] == encode_array(np.ascontiguousarray(proba), "y")[0]


def test_equal_content_has_one_key_and_other_types_or_shapes_have_others() -> None:
    base = np.arange(4.0)
    keys = [
        encode_array(value, "y")[0][0]
        for value in (base, base.copy(), base.reshape(2, 2), base.view(np.int64), base.astype(np.float32))
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


@pytest.mark.parametrize(
    "value",
    [
        [object()],
        [None, 1.0],
        [{"a": 1}],
        np.zeros(2, dtype=[("a", "f8"), ("b", "i4")]),
        [[1], [1, 2]],
        np.array(["a", "a\0"], dtype=object),
    ],
)
def test_what_is_not_an_array_of_values_is_refused_with_the_name_of_the_argument(value: Any) -> None:
    with pytest.raises(InvalidInput, match="y_pred"):
        encode_array(value, "y_pred")


def test_an_array_that_no_commit_can_carry_is_refused() -> None:
    huge = np.broadcast_to(np.uint8(0), (2**31 - 1,))  # takes one byte
    with pytest.raises(InvalidInput, match=r"y_pred: expected .* at most 2,147,483,646 bytes"):
        encode_array(huge, "y_pred")


def test_altered_bytes_are_not_given_out() -> None:
    key, dtype, shape, data = encode_array(np.arange(3.0), "y")[0]
    with pytest.raises(CatalogDamaged, match=key):
        decode_array(key, dtype, shape, bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(CatalogDamaged, match=key):
        decode_array(key, "<i8", shape, data)


def test_a_row_that_makes_no_sense_hinders_nobody_who_counts_bytes() -> None:
    con = duckdb.connect()
    con.execute("CREATE TABLE arrays (dtype VARCHAR, shape VARCHAR)")
    con.execute("INSERT INTO arrays VALUES ('<f8', '[2]'), ('<f8', 'x'), ('', '[3]'), ('<f8', '[]')")
    assert con.execute(f"SELECT {ARRAY_BYTES} FROM arrays").fetchall() == [(16,), (0,), (0,), (8,)]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 2)),
        np.zeros((2, 0, 4), np.float32),
        np.array(2.5),
        np.array(["oats", "rye", "å"]),
        np.array([b"ab", b"c"]),
        np.array([True, False]),
        np.array(["2026-01-02"], dtype="datetime64[ns]"),
        np.array([1 + 2j]),
        np.arange(5, dtype=np.int8),
        np.arange(5, dtype=">i4"),
    ],
    ids=lambda array: array.dtype.str,
)
def test_the_bytes_of_an_array_follow_from_what_its_row_says(array: np.ndarray) -> None:
    (_, dtype, shape, data), _ = encode_array(array, "y")
    con = duckdb.connect()
    con.execute("CREATE TABLE arrays (dtype VARCHAR, shape VARCHAR)")
    con.execute("INSERT INTO arrays VALUES (?, ?)", [dtype, shape])
    assert con.execute(f"SELECT {ARRAY_BYTES} FROM arrays").fetchall() == [(len(data),)]
