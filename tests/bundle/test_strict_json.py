"""JSON that means one thing only."""

from __future__ import annotations

import datetime
import json
from typing import Any

import numpy as np
import pytest

from nirs_store.bundle.container import MAX_DEPTH, clean, dump_json, parse_json, parse_object
from nirs_store.errors import BundleInvalid


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"x": {"a": 1, "a": 1}}', "twice"),
        (b"[NaN]", "NaN"),
        (b"[Infinity]", "Infinity"),
        (b"[1e999]", "too large"),
        (b"[1." + b"5" * 100_000 + b"]", "too long"),
        (b"[9007199254740993]", r"2\*\*53"),
        (b"[" + b"9" * 100_000 + b"]", r"2\*\*53"),
        (b"[" * 60 + b"]" * 60, "deeper"),
        (b'{"a":' * 100_000, "deeper"),
        (b"[" + b"[]," * 1_000_001 + b"1]", "more than 2,000,000 texts and brackets"),
        (b"\xff\xfe", "utf-8"),
        (b"{", "Expecting"),
        (b"", "Expecting"),
    ],
)
def test_what_two_readers_could_understand_differently_is_refused(text: bytes, reason: str) -> None:
    with pytest.raises(BundleInvalid, match=reason) as caught:
        parse_json(text, "manifest.json")
    assert "manifest.json" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda n: b"{" + b",".join(b'"%x": 1' % k for k in range(n // 2)) + b', "0": 2}', "twice"),
        (lambda n: b'{"a": 1}' + b'\\"' * n, "Extra data"),
        (lambda n: b'["' + b'\\"' * n + b"\\", "Unterminated|Invalid"),
        (lambda n: b'"' * (2 * n + 1), "Extra data"),
    ],
    ids=["a key twice", "quotes outside", "a string without an end", "empty strings"],
)
def test_the_time_it_takes_grows_with_the_size_only(make: Any, reason: str) -> None:
    """At a million characters a reader that looks at each place twice is never done."""
    with pytest.raises(BundleInvalid, match=reason):
        parse_json(make(1 << 20), "x")


def test_brackets_in_strings_are_no_depth() -> None:
    text = '["' + "[" * 100 + '\\"[[", "\\\\", "{"]'
    assert parse_json(text.encode(), "x") == json.loads(text)
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, "x")


def test_an_object_is_asked_for_where_one_must_be() -> None:
    assert parse_object(b'{"a": [1.5, null, true, -3]}', "x") == {"a": [1.5, None, True, -3]}
    with pytest.raises(BundleInvalid, match="holds a list"):
        parse_object(b"[]", "x")


def test_values_become_what_json_can_hold() -> None:
    value = {
        1: np.float64("nan"),
        "b": (np.int64(3), float("inf")),
        "c": np.array([[1.5, 2.0]]),
        "d": {"y", "x"},
        "e": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        "f": 2**60,
        "g": np.bool_(True),
        "h": complex(1, 2),
    }
    cleaned = clean(value)
    assert cleaned == {
        "1": None,
        "b": [3, None],
        "c": [[1.5, 2.0]],
        "d": ["x", "y"],
        "e": "2026-01-02T00:00:00+00:00",
        "f": str(2**60),
        "g": True,
        "h": "(1+2j)",
    }
    assert parse_json(dump_json(cleaned), "x") == cleaned


def test_doubles_survive_exactly_and_order_does_not_matter() -> None:
    values = np.random.default_rng(0).normal(size=200) * 10.0 ** np.arange(-100, 100)
    assert parse_json(dump_json(clean(values)), "x") == values.tolist()
    assert dump_json({"a": 1, "b": 2}) == dump_json({"b": 2, "a": 1})
