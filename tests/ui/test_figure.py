"""Figures as SVG: what is drawn where, and that no text in them is markup."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest

from nirs_store.ui.figure import Figure, ticks
from nirs_store.ui.frame import Request
from nirs_store.ui.table import Column, Table

EVIL = "<script>x</script>\"'&\x1b\u202e"


def parsed(figure: Figure) -> ElementTree.Element:
    """Parse strictly: an unescaped name would not be XML."""
    return ElementTree.fromstring(str(figure.svg()))


def test_every_text_is_escaped() -> None:
    figure = Figure(EVIL, EVIL, EVIL, labels=[EVIL, "b"])
    figure.points([0, 1], [1, 2], label=EVIL, titles=[EVIL, EVIL], keys=[EVIL, EVIL], links=["/x?<\"'&", ""])
    figure.line([0, 1], [1, 2], title=EVIL, label=EVIL).bars([0, 1], [1, 2], titles=[EVIL, EVIL], label=EVIL)
    figure.band([0, 1], [0, 1], [1, 2], label=EVIL).across(1.0, label=EVIL).upright(0.5, label=EVIL)
    text = str(figure.svg())
    assert "<script" not in text
    assert not {"\x1b", "\u202e"} & set(text)
    names = {element.tag for element in parsed(figure).iter()}
    assert names <= {"svg", "g", "path", "text", "title", "circle", "rect", "a"}


def test_equal_axes_put_a_perfect_prediction_on_the_line() -> None:
    figure = Figure("t", "x", "y", equal=True).points(
        [1.0, 5.0, 9.0], [1.0, 5.0, 9.0], titles=["a", "b", "c"]
    )
    circles = [c for c in parsed(figure).iter("circle") if "mark" in c.get("class", "")]
    x, y = (np.array([float(c.get(name, "nan")) for c in circles]) for name in ("cx", "cy"))
    one = next(p for p in parsed(figure).iter("path") if p.get("class") == "one").get("d", "")
    x0, y0, x1, y1 = map(float, re.findall(r"-?[\d.]+", one))
    np.testing.assert_allclose(y, y0 + (x - x0) / (x1 - x0) * (y1 - y0), atol=0.2)
    assert np.diff(x)[0] == pytest.approx(np.diff(x)[1], abs=0.2)


def test_wavenumbers_fall_from_left_to_right() -> None:
    rising, falling = (
        Figure("t", "x", "y", falling=falling).points([4000.0, 9000.0], [0.0, 1.0], titles=["a", "b"])
        for falling in (False, True)
    )
    places = [[float(c.get("cx", "nan")) for c in parsed(f).iter("circle")] for f in (rising, falling)]
    assert places[0][0] < places[0][1]
    assert places[1][0] > places[1][1]


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1.0, 1e6, 1e12])
def test_values_of_any_size_get_few_and_readable_ticks(scale: float) -> None:
    figure = Figure("t", "x", "y").points(np.arange(5) * scale, np.arange(5) * scale)
    texts = [t.text or "" for t in parsed(figure).iter("text") if not t.get("class")]
    assert 6 <= len(texts) <= 20
    assert all(len(text) <= 6 for text in texts)
    powers = {text for text in texts if text.startswith("×10")}
    exponent = round(np.log10(scale))
    superscript = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    assert powers == ({f"×10{superscript}"} if abs(exponent) > 5 else set())


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 7.5), (2.0, 2.0), (0.1, 0.3), (-1e-7, 1e-7)])
def test_ticks_lie_within_the_bounds(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 9
    assert all(low - 1e-12 <= each <= high + 1e-12 for each in found)


@pytest.mark.parametrize("y", [[], [np.nan, np.nan]])
def test_without_a_value_nothing_is_drawn(y: list[float]) -> None:
    figure = Figure("t", "x", "y").line(range(len(y)), y).across(1.0)
    assert not figure
    assert figure.svg() == ""


@pytest.mark.parametrize(
    "values",
    [
        [12.3, 12.3, 12.3 + 2e-15],
        [1e17, 1e17],
        [1e308, -1e308],
        [1e308, 1.0],
        [1e-320, 3e-320],
        [1e6, 1e6 + 2e-10],
    ],
)
@pytest.mark.parametrize("how", ["points", "line", "bars", "histogram", "equal"])
@pytest.mark.filterwarnings("error")
def test_values_that_are_almost_equal_or_huge_are_drawn_or_left_out(how: str, values: list[float]) -> None:
    figure = Figure("t", "x", "y", equal=how == "equal")
    if how == "histogram":
        figure.histogram(values)
    else:
        getattr(figure, {"equal": "points"}.get(how, how))(
            values if how == "equal" else range(len(values)), values
        )
    svg = str(figure.across(values[0]).upright(float("nan")).svg())
    assert "nan" not in svg
    assert "inf" not in svg
    assert bool(svg) == (values != [1e308, -1e308])


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [0.0, 0.0], [np.nan, 5.0, np.inf]])
def test_constant_and_missing_values_are_drawn_where_they_are_known(values: list[float]) -> None:
    figure = Figure("t", "x", "y").points(range(len(values)), values, titles=[str(v) for v in values])
    circles = list(parsed(figure).iter("circle"))
    assert len(circles) == int(np.isfinite(values).sum())
    assert "nan" not in str(figure.svg())
    assert "inf" not in str(figure.svg())


def test_a_cloud_is_one_path_and_its_outliers_keep_their_names() -> None:
    y = np.zeros(10_000)
    y[7] = 50.0
    figure = Figure("t", "x", "y").points(np.arange(10_000), y, titles=[f"s{i}" for i in range(10_000)])
    svg = str(figure.svg())
    assert len(svg) < 300_000
    assert "<title>s7</title>" in svg
    assert svg.count('class="dots') == 1


def test_a_line_breaks_where_a_value_is_missing_and_keeps_its_length() -> None:
    figure = Figure("t", "x", "y").line([0, 1, 2, 3, 4], [0, 1, np.nan, 1, 0])
    path = next(p for p in parsed(figure).iter("path") if p.get("class") == "line line").get("d", "")
    assert path.count("M") == 2
    long = Figure("t", "x", "y").line(np.arange(50_000), np.sin(np.arange(50_000)))
    assert len(str(long.svg())) < 60_000


def test_a_small_value_is_not_rounded_away_next_to_large_ones() -> None:
    request = Request(None, "/", {}, {})  # type: ignore[arg-type]
    frame = pl.DataFrame({"score": [2.0, 7e-6, 7e6, None], "bias": [1e-15, 2e-6, 1.0, None]})
    columns = [Column("score", kind="number"), Column("bias", kind="number", like="score")]
    cells = [[cell.text for cell in row] for _, row in Table(frame, columns, request, 4).rows()]
    assert cells == [["2.000", "0.000"], ["7.000e−06", "2.000e−06"], ["7000000.000", "1.000"], ["", ""]]


@pytest.mark.parametrize("moments", [[0.0], [0.0] * 3, [0.0, 0.2], [0.0, 3.0], [0.0, 40.0, 50.0]])
def test_measurements_of_one_moment_have_an_axis_of_their_time(moments: list[float]) -> None:
    figure = Figure("t", "", "y", times=True).points(1.7e9 + np.array(moments), np.arange(len(moments)))
    words = [t.text or "" for t in parsed(figure).iter("text")]
    assert 2 <= sum(each.startswith("11-14 22:1") for each in words) <= 8


@pytest.mark.parametrize("width", [300, 360, 460, 720])
def test_the_names_of_axes_fit_on_them(width: int) -> None:
    figure = Figure("t", "n" * 99, "m" * 99, width=width).points([0, 1], [0, 1])
    x, y = (len(t.text or "") for t in parsed(figure).iter("text") if t.get("class") == "name")
    assert 0.9 * (width - 78) < 6.2 * x <= width - 78
    assert 250 < 6.2 * y <= 340
