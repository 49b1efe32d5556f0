"""Rows before their commit: complete, in order, each array once."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from nirs_store.db.journal import encode_array
from nirs_store.db.recorder import Buffer
from nirs_store.db.schema import column_names
from nirs_store.errors import InvalidInput
from nirs_store.ids import naive


def test_columns_that_are_not_given_are_null_and_unknown_ones_are_an_error() -> None:
    buffer = Buffer()
    assert not buffer
    buffer.add("logs", {"log_id": "l", "event": "start"})
    assert buffer
    assert dict(zip(column_names("logs"), buffer.rows["logs"][0], strict=True))["message"] is None
    with pytest.raises(KeyError, match="colour"):
        buffer.add("logs", {"colour": "red"})


def test_an_array_is_carried_once_a_commit_and_by_each_commit_that_names_it() -> None:
    first, second, whole = Buffer(), Buffer(), Buffer()
    row, _ = encode_array(np.arange(3.0), "y")
    for buffer in (first, second):
        assert buffer.add_array(row) == buffer.add_array(row) == row[0]
        assert len(buffer.rows["arrays"]) == 1
    for buffer in (first, second):
        whole.absorb(buffer)
    assert whole.rows["arrays"] == [row]


def test_absorbing_keeps_the_order_and_the_claims() -> None:
    one, two, whole = Buffer(), Buffer(), Buffer()
    one.change("a", "1")
    one.blobs.add("x")
    two.change("b", "2")
    two.add("logs", {"log_id": "l"})
    whole.absorb(one)
    whole.absorb(two, ("changes",))
    assert [row[1] for row in whole.rows["changes"]] == ["a", "b"]
    assert whole.rows["logs"] == []
    assert whole.blobs == {"x"}


def test_a_change_travels_as_strict_json() -> None:
    buffer = Buffer()
    buffer.change("complete_run", "r", {"summary": {"best": math.nan, "n": np.int64(3)}})
    payload = buffer.rows["changes"][0][4]
    assert json.loads(payload, parse_constant=pytest.fail) == {"summary": {"best": None, "n": 3}}
    with pytest.raises(InvalidInput):
        buffer.change("complete_run", "r", {"summary": object()})


def test_times_are_utc() -> None:
    moment = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert naive(moment) == datetime(2026, 3, 1, 10)
    assert naive(datetime(2026, 3, 1, tzinfo=UTC)).tzinfo is None
