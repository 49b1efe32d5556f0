"""Figures of evaluations show what their frame says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from nirs_store import WorkspaceStore, plots
from nirs_store.errors import InvalidInput


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceStore]:
    rng = np.random.default_rng(0)
    with WorkspaceStore(tmp_path_factory.mktemp("figures") / "ws") as opened:
        for day, (name, shift) in enumerate((("a", 0.0), ("b", 0.3), ("c", 0.31), ("d", 0.5))):
            opened.evaluations.record(
                name,
                "s",
                {"reward": shift, "time": float(day)},
                episodes={"reward": rng.normal(shift, 0.05, 30), "noise": np.arange(30) % 3},
                created_at=datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=day),
            )
        opened.evaluations.record(
            "e", "s", {"reward": 0.1, "time": 9.0}, created_at=datetime(2025, 2, 1, tzinfo=UTC)
        )
        yield opened


def test_a_leaderboard_has_a_point_a_model_and_a_line_where_there_is_an_interval(
    store: WorkspaceStore,
) -> None:
    axes = plots.leaderboard_intervals(store.evaluations.leaderboard("s", n_resamples=50)).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["d", "c", "b", "e", "a"]
    assert len(axes.lines) == 5 + 4
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_a_matrix_has_a_number_a_pair_and_none_on_the_diagonal(store: WorkspaceStore) -> None:
    found = store.evaluations.compare("s")
    axes = plots.comparison_matrix(found).axes[0]
    assert len(axes.texts) == 4 * 3
    assert "wilcoxon" in axes.get_title(loc="left")
    with pytest.raises(InvalidInput, match="what `compare` gives"):
        plots.comparison_matrix(found.frame)


def test_a_front_names_every_model(store: WorkspaceStore) -> None:
    points = store.evaluations.pareto("s", {"reward": "higher", "time": "lower"})
    axes = plots.pareto_front(points).axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["a", "b", "c", "d", "e"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("reward", "time")
    assert list(axes.lines[0].get_xdata()) == sorted(points.filter("on_front")["reward"])


def test_curves_have_a_line_and_a_band_a_model(store: WorkspaceStore) -> None:
    curves = store.evaluations.robustness("s", "noise", n_resamples=30)
    axes = plots.robustness_curves(curves).axes[0]
    assert [line.get_label() for line in axes.lines] == ["a", "b", "c", "d"]
    assert len(axes.collections) == 4


def test_a_trend_has_steps_points_and_the_line(store: WorkspaceStore, tmp_path: Path) -> None:
    figure = plots.score_trend(store.evaluations.trend("s"), title="since January")
    assert figure.axes[0].get_title(loc="left") == "since January"
    assert [line.get_label() for line in figure.axes[0].lines] == [
        "best so far", "a", "b", "c", "d", "e", "Theil-Sen line",
    ]  # fmt: skip
    assert plots.save_figure(figure, tmp_path / "trend.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "draw", [plots.leaderboard_intervals, plots.pareto_front, plots.robustness_curves, plots.score_trend]
)
def test_another_frame_is_refused(draw: object) -> None:
    with pytest.raises(InvalidInput, match="Nothing to draw"):
        draw(pl.DataFrame({"x": [1]}))  # type: ignore[operator]
