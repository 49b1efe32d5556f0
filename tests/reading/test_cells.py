"""Numbers and channel headers as instruments, spreadsheets and R write them."""

from __future__ import annotations

import pytest

from nirs_store.reading.cells import is_missing, parse_channel, parse_number, safe_cell
from nirs_store.reading.summaries import summary_of


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("850", 850, None),
        (" 1100.5 ", 1100.5, None),
        ("7692,31", 7692.31, None),
        ("X7692.31", 7692.31, None),
        ("x_1100", 1100, None),
        ("spc.1100", 1100, None),
        ("Wavelength 1100", 1100, None),
        ("nm1100", 1100, "nm"),
        ("1100nm", 1100, "nm"),
        ("1100 [nm]", 1100, "nm"),
        ("X1100.nm", 1100, "nm"),
        ("X7692.31.cm.1", 7692.31, "cm-1"),
        ("7692.31 cm\u207b\u00b9", 7692.31, "cm-1"),
        ("7692,31 cm\u22121", 7692.31, "cm-1"),
        ("7692.31 1/cm", 7692.31, "cm-1"),
        ("7.692,31", 7692.31, None),
        ("7,692.31", 7692.31, None),
        ("7\u202f692,31", 7692.31, None),
        ("7'692.31", 7692.31, None),
        ("7 692", 7692, None),
        ("1.1 \u00b5m", 1100, "nm"),
        ("1,250 \u03bcm", 1250, "nm"),
        ("1,000", 1000, None),
        ("12,500", 12500, None),
        ("850,125", 850.125, None),
        ("1.000", 1, None),
        ("1.1e3", 1100, None),
        (1100.0, 1100, None),
    ],
)
def test_a_channel_is_read_in_every_usual_form(text: object, value: float, unit: str | None) -> None:
    assert parse_channel(text) == (value, unit)


@pytest.mark.parametrize(
    "text",
    [
        "id",
        "fat",
        "20_24",
        "930.81*",
        "-850",
        "nan",
        "inf",
        "1e999",
        "0x352",
        "pH7",
        "2024-01-15",
        "12:30",
        "1.2.3",
        "850..",
        "X",
        "nm",
        "",
        "sample 12",
        "850 852",
        "1,00,000",
        "\u0661\u0662\u0663",
    ],
)
def test_labels_are_no_channels(text: str) -> None:
    assert parse_channel(text) is None


@pytest.mark.parametrize(("decimal", "value"), [(".", 1000.0), (",", 1.0), (None, 1000.0)])
def test_the_decimal_sign_decides_where_it_is_known(decimal: str | None, value: float) -> None:
    assert parse_channel("1,000", decimal) == (value, None)


@pytest.mark.parametrize(
    ("text", "decimal", "value"),
    [
        ("1.5", ".", 1.5),
        ("1,5", ",", 1.5),
        ("\u22121,5", ",", -1.5),
        (".5", ".", 0.5),
        ("-,5", ",", -0.5),
        ("1,5E-3", ",", 0.0015),
        ("6.200", ",", 6200.0),
        ("6,200", ".", 6200.0),
        ("6\u00a0200,5", ",", 6200.5),
        ("1'234'567.8", ".", 1234567.8),
        ("6.20", ",", None),
        ("0.200", ",", None),
        ("1,5", ".", None),
        ("1.234,5", ".", None),
        ("<0.5", ".", None),
        ("1_0", ".", None),
        ("1e999", ".", None),
        ("", ".", None),
    ],
)
def test_a_number_is_read_with_its_decimal_sign_or_not_at_all(
    text: str, decimal: str, value: float | None
) -> None:
    assert parse_number(text, decimal) == value


def test_gaps_and_formulas() -> None:
    assert all(map(is_missing, ["", " ", "NA", "n.d.", "-", "\u2013", "#N/A", "1.#INF", "NaN"]))
    assert not any(map(is_missing, ["0", "<0.5", "none left", "S-"]))
    assert [safe_cell(text) for text in ["=A1", "@x", "\tx", "-1", "a=b", ""]] == [
        "'=A1",
        "'@x",
        "'\tx",
        "'-1",
        "a=b",
        "",
    ]


def test_words_of_summaries() -> None:
    assert summary_of("STABW.N") == ("sd", True)
    assert summary_of("Mean spectrum") == ("mean", True)
    assert summary_of("Max Mustermann") == ("max", False)
    assert [summary_of(name) for name in ("Meander", "S 1", "M1", "Standard 3", "Minze")] == [None] * 5
