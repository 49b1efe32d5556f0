"""What callers pass becomes what columns take, or is refused by name."""

from __future__ import annotations

import enum
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nirs_store import values
from nirs_store.errors import InvalidInput
from nirs_store.values import as_error, as_float, as_int, as_long, as_text, from_json, to_json


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
