"""Tables, fields, JSON, sizes."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from nirs_store.cli import _output
from nirs_store.cli._output import moment, number, print_fields, print_json, print_table
from nirs_store.display import byte_text


def test_columns_are_aligned_and_numbers_stand_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "n"], [["SNV", 5], ["a longer name", None]], numeric=["n"])
    assert capsys.readouterr().out.splitlines() == [
        "name           n",
        "SNV            5",
        "a longer name  -",
    ]


def test_a_pipe_gets_whole_lines_and_a_terminal_lines_that_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [["x" * 200, "id"]]
    print_table(["name", "id"], rows, flexible=["name"])
    assert "x" * 200 in capsys.readouterr().out
    monkeypatch.setattr(_output, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    print_table(["name", "id"], rows, flexible=["name"])
    line = capsys.readouterr().out.splitlines()[1]
    assert len(line) == 80
    assert re.fullmatch("x+…x+  id", line)


def test_wide_characters_take_two_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [["运行", 5], ["plain", 12]]
    print_table(["name", "n"], rows, numeric=["n"])
    assert capsys.readouterr().out.splitlines() == ["name    n", "运行    5", "plain  12"]
    print_fields({"运行": "a", "n": "b"})
    assert capsys.readouterr().out.splitlines() == ["运行  a", "n     b"]
    monkeypatch.setattr(_output, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    print_table(["name", "id"], [["运" * 30, "id"]], flexible=["name"])
    # 16 columns are left: seven characters of two, the ellipsis, and one that is filled up.
    assert capsys.readouterr().out.splitlines()[1] == "运" * 4 + "…" + "运" * 3 + "  id"
    assert _output.fitting("运" * 30) == "运" * 5 + "…" + "运" * 4


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    when = datetime(2026, 3, 1, 12, tzinfo=UTC)
    print_json(
        {
            "nan": float("nan"),
            "inf": np.float64("inf"),
            "array": np.arange(2),
            "when": when,
            "path": Path("a"),
        }
    )
    assert json.loads(capsys.readouterr().out) == {
        "nan": None,
        "inf": None,
        "array": [0, 1],
        "when": "2026-03-01T12:00:00+00:00",
        "path": "a",
    }


def test_fields_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields({"name": "fat", "error": None, "note": "two\nlines", "count": 0})
    assert capsys.readouterr().out.splitlines() == ["name   fat", "note   two", "       lines", "count  0"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"), (5 * 10**12, "5.0 TB")],
)
def test_sizes_can_be_read(count: int, text: str) -> None:
    assert byte_text(count) == text


def test_moments_are_shown_in_utc() -> None:
    assert moment(datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))) == "2026-03-01 10:00:00Z"
    assert moment(None) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, None), (float("nan"), None), (2.0, "2.000"), (0.00001234, "1.23e-05"), (0.0, "0.000")],
)
def test_scores_keep_three_decimals_unless_they_would_vanish(value: float | None, text: str | None) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.00029, 0.00031, 0.00089], ["0.000290", "0.000310", "0.000890"]),
        ([2.3451, 2.3452, 8.0], ["2.3451", "2.3452", "8.0000"]),
        ([1234567.0, 1234890.5], ["1234567", "1234890"]),
        ([3.1e-6, 2.2e-6], ["0.00000310", "0.00000220"]),
        ([3.1e-12, 2.2e-12], ["3.10e-12", "2.20e-12"]),
        ([5e11, 5.001e11], ["5.000e+11", "5.001e+11"]),
        ([2.0, None, float("nan")], ["2.000", None, None]),
        ([0.0, 0.0], ["0.000", "0.000"]),
        ([2.5, 0.00031, 0.00029], ["2.50000", "0.00031", "0.00029"]),
        ([], []),
    ],
)
def test_a_column_has_the_digits_that_tell_its_values_apart(
    values: list[float | None], shown: list[str | None]
) -> None:
    assert _output.numbers(values) == shown


LONG = "SNV > SG(window_length=15, polyorder=2, deriv=1) > "


@pytest.mark.parametrize(
    "names",
    [
        [f"{LONG}PLS({n}, scale=False)" for n in (4, 7, 11)],
        [f"PLS({n}) after {LONG * 3}" for n in (4, 7, 11)],
        [f"{LONG}PLS({n}) {LONG}" for n in (4, 7, 11)],
        [f"SG(window_length={n}, polyorder=2) > {LONG * 2}PLS(5)" for n in (4, 7, 11)],
        [f"{n}" * 90 for n in (4, 7)],
        [f"{LONG * 2}{n}" + f"PLS(3) {LONG * 3}" for n in "ab"],
    ],
)
def test_names_that_differ_look_different_on_a_narrow_terminal(
    names: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_output, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    print_table(["chain", "RMSECV"], [[name, "2.345"] for name in names], flexible=["chain"])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(set(lines)) == len(names)
    assert max(map(len, lines)) <= 60


HOSTILE = ["a\x1b]0;owned\x07b", "a\x9b2Jb", "a\u202eb", "a\nb", "a\rb", "a\x1b[31mb", "a\u2028b", "a\x00b"]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_steers_the_terminal(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name"], [[name]])
    print_fields({"name": name})
    print_json({"name": name})
    text = capsys.readouterr().out
    assert all(sign.isprintable() or sign == "\n" for sign in text)
    assert json.loads(text[text.index("{") :]) == {"name": name}
