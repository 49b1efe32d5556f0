"""Every figure can be read with long names, tiny and huge units, two samples and two thousand."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sampling import covering

from nirs_store import plots
from tests.kit.figures import unreadable

LONG = "Winter wheat, field 17 north-west corner, second harvest 2024, replicate B"
TITLE = "StandardNormalVariate > SavitzkyGolay(window_size=21, polynomial_order=2, deriv=1) > EMSC > PLS(12)"
WHAT = "aflatoxin B1 and other mycotoxins of the whole lot after cleaning"
CASES = {
    "tiny": (60, 1e-6, WHAT, "g/g"),
    "huge": (60, 1e6, "yield", "cells/mL"),
    "two": (2, 1.0, "fat", "%"),
    "many": (2000, 1.0, "fat", "%"),
}


class Case:
    """Samples of which six lie far off, five of them in one place."""

    def __init__(self, name: str) -> None:
        self.n, self.scale, target, unit = CASES[name]
        self.words: dict[str, Any] = {"target": target, "unit": unit, "title": TITLE}
        self.rng = np.random.default_rng(3)
        self.y = self.rng.gamma(6, 3, self.n) * self.scale
        self.guess = self.y + self.rng.normal(0, 1.2, self.n) * self.scale
        if self.n > 6:
            self.y[:5] = self.y[0]
            self.guess[:6] = self.y[:6] + (8 + self.rng.normal(0, 0.05, 6)) * self.scale
        self.names = [f"{LONG} {i}" for i in range(self.n)]


def predicted(case: Case) -> Any:
    pair = (case.y, case.guess)
    names = {"cv": case.names, "test": case.names}
    return plots.predicted_vs_measured(calibration=pair, cv=pair, test=pair, names=names, **case.words)


def residuals(case: Case) -> Any:
    return plots.residuals(case.y, case.guess, names=case.names, **case.words)


def components(case: Case) -> Any:
    n = np.arange(1, 16)
    curves = {f"{TITLE} {i}": (n, case.scale * (2 + i + 8 / n)) for i in range(4)}
    return plots.rmsecv_vs_components(curves, deleted={f"{TITLE} 0": [3, 4]}, **case.words)


def errors(case: Case) -> Any:
    n = np.arange(1, 16)
    return plots.errors_vs_components(
        {"RMSEC": (n, case.scale / n), "RMSECV": (n, case.scale / n)}, **case.words
    )


def heat(case: Case) -> Any:
    size = {2: (1, 1), 2000: (30, 70)}.get(case.n, (4, 8))
    values = case.scale * (1 + case.rng.random(size))
    rows, columns = [f"{LONG} {i}" for i in range(size[0])], [f"PLS({i})" for i in range(size[1])]
    return plots.heatmap(rows, columns, values, deleted=values > np.median(values), **case.words)


def folds(case: Case) -> Any:
    names = case.names[:8] if case.n == 60 else [str(i) for i in range(case.n)]
    values = case.scale * (2 + case.rng.random(len(names)))
    return plots.fold_stability(
        names, values, train=values / 2, test=values, pooled=2 * case.scale, **case.words
    )


def coefficients(case: Case) -> Any:
    grid = np.linspace(10000, 4000, 200)
    line = case.scale * np.sin(grid / 300)
    return plots.pls_coefficients(
        line, wavelengths=grid, wavelength_unit="cm-1", folds=[line, 2 * line], **case.words
    )


def intervals(case: Case) -> Any:
    return plots.prediction_intervals(frame_of(case), **case.words)


def intervals_measured(case: Case) -> Any:
    return plots.prediction_intervals(frame_of(case), measured=case.y, **case.words)


def control(case: Case) -> Any:
    start = dt.datetime(2025, 1, 1)
    points = pl.DataFrame(
        {
            "time": [start + dt.timedelta(days=3 * i) for i in range(case.n)],
            "value": case.guess - case.y,
            "sample": case.names,
        }
    )
    return plots.control_chart(points, sep=1.2 * case.scale, **case.words)


def spectra(case: Case) -> Any:
    grid = np.linspace(10000, 4000, 50)
    X = case.scale * (1 + np.sin(grid / 700)) * np.ones((case.n, 1))
    return plots.raw_spectra(X, wavelengths=grid, wavelength_unit="cm-1", values=case.y, **case.words)


def groups(case: Case) -> Any:
    X = case.scale * np.ones((case.n, 3))
    return plots.raw_spectra(X, groups=[f"{LONG} {i % 12}" for i in range(case.n)], **case.words)


def steps(case: Case) -> Any:
    X = case.scale * np.arange(20.0) * np.ones((case.n, 1))
    return plots.spectra_by_step([("raw", X), (TITLE, X - 1)], values=case.y, **case.words)


def classes(case: Case) -> Any:
    labels = [f"{LONG} {i % 30 if case.n > 60 else i % 4}" for i in range(case.n)]
    return plots.confusion_matrix(labels, labels[::-1], title=TITLE)


def leaders(case: Case) -> Any:
    value = case.scale * np.sort(case.rng.random(case.n))
    board = {
        "model_id": case.names,
        "metric": "rmsep",
        "value": value,
        "ci_low": value / 2,
        "ci_high": value * 2,
    }
    return plots.leaderboard_intervals(pl.DataFrame(board).with_columns(champion=False), title=TITLE)


def front(case: Case) -> Any:
    board = {
        "model_id": case.names,
        "rmsep": case.y,
        "cost": case.guess,
        "on_front": [i % 9 == 0 for i in range(case.n)],
    }
    return plots.pareto_front(pl.DataFrame(board), title=TITLE)


def curves(case: Case) -> Any:
    points = [
        (str(p), f"{LONG} {p}", "loss", i, case.scale / (i + p)) for p in range(1, 7) for i in range(1, 20)
    ]
    columns = ["pipeline_id", "pipeline", "name", "step", "value"]
    return plots.training_curves(pl.DataFrame(points, columns, orient="row"), title=TITLE)


def frame_of(case: Case) -> pl.DataFrame:
    reach = 2 * case.scale
    flags = [["outside"] if i < 6 else [] for i in range(case.n)]
    return pl.DataFrame(
        {
            "sample": case.names,
            "prediction": case.guess,
            "lower": case.guess - reach,
            "upper": case.guess + reach,
        }
    ).with_columns(flags=pl.Series(flags, dtype=pl.List(pl.String)))


FIGURES = (
    predicted, residuals, components, errors, heat, folds, coefficients, intervals, intervals_measured, control,
    spectra, groups, steps, classes, leaders, front, curves,
)  # fmt: skip


@pytest.mark.parametrize(("draw", "name"), covering(FIGURES, CASES))
def test_nothing_is_cut_off_or_covered(draw: Any, name: str) -> None:
    assert unreadable(draw(Case(name))) == []


def test_the_check_sees_what_is_cut_off_or_covered() -> None:
    figure = residuals(Case("huge"))
    axes = figure.axes[0]
    axes.set_ylabel("Predicted minus measured " * 6)
    for words in ("one name", "another name"):
        axes.annotate(words, (2e7, 0.0))
    assert {each.split(":")[0] for each in unreadable(figure)} == {"cut", "names"}


def test_a_name_is_near_its_point_and_eight_are_written_at_most() -> None:
    case = Case("many")
    axes = residuals(case).axes[0]
    assert len(axes.texts) == 8
    points = np.column_stack([case.guess, case.guess - case.y])
    for text in axes.texts:
        i = int(np.argmin(np.abs(points - text.xy).sum(axis=1)))
        assert np.allclose(points[i], text.xy)
        assert text.get_text().split()[-1] == str(i)
        assert np.hypot(*text.get_position()) < 160


def test_a_small_negative_bias_is_not_minus_zero() -> None:
    figure = plots.residuals(np.arange(10.0), np.arange(10.0) + np.r_[3e4, -3e4, -1.0, np.zeros(7)])
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert "bias +0" in labels


@pytest.mark.parametrize("name", ["$x^$", "$\\nosuch$", "$$", "US$ 5", "$x_{1}$"])
def test_dollar_signs_are_no_mathematics(name: str, tmp_path: Path) -> None:
    measured = np.arange(12.0)
    predicted = measured + np.r_[4.0, np.zeros(11)]
    words = {"target": name, "unit": name, "title": name}
    diagnosed = plots.predicted_vs_measured(test=(measured, predicted), names={"test": [name] * 12}, **words)
    figures = [
        diagnosed,
        plots.residuals(measured, predicted, names=[name] * 12, **words),
        plots.confusion_matrix([name, "b"], ["b", name], title=name),
        plots.rmsecv_vs_components({name: ([1, 2], [2.0, 1.0]), "b": ([1, 2], [2.0, 1.5])}, **words),
        plots.heatmap([name, "b"], ["c", name], [[1.0, 2.0], [3.0, 4.0]]),
        plots.raw_spectra(np.random.default_rng(0).random((4, 5)), groups=[name, name, "b", "b"]),
        plots.pls_coefficients([1.0, 2.0, 3.0], **words),
    ]
    for figure in figures:
        plots.save_figure(figure, tmp_path / "figure.png", dpi=30)
    assert diagnosed.axes[0].get_xlabel().replace("\\$", "$").startswith(f"Measured {name}")


def test_a_long_name_of_a_curve_and_of_a_colour_bar_stay_within_the_figure() -> None:
    long = "Starch of the kernels after drying at 105 °C over night, from the second lot of the harvest"
    figure = plots.rmsecv_vs_components({long: ([1, 2], [2.0, 1.0]), "b": ([1, 2], [2.0, 1.5])})
    bar = plots.raw_spectra(
        np.random.default_rng(0).random((4, 5)), values=np.arange(4.0), target=long, unit="%"
    )
    for each in (figure, bar):
        assert not unreadable(each)
