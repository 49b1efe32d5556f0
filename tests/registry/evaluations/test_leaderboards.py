"""Leaderboards, tables by group, comparisons, fronts, curves, trends: against SciPy and by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from nirs_store import WorkspaceStore
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.evaluations.statistics import adjusted, estimate, row_values
from nirs_store.scores import classification_scores, regression_scores

RNG = np.random.default_rng(7)
Y = RNG.normal(20, 5, 60)
SAMPLES = {
    name: Y + RNG.normal(0, spread, 60) for name, spread in (("good", 0.5), ("fair", 1.5), ("poor", 4.0))
}


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three models on the same samples and on the same episodes; no test changes it."""
    with WorkspaceStore(tmp_path_factory.mktemp("ranked") / "ws") as store:
        for number, (name, guess) in enumerate(SAMPLES.items()):
            store.evaluations.record(
                name,
                "lab",
                {"rmsep": regression_scores(Y, guess)["rmse"], "milliseconds": 1.0 + number % 2},
                samples=pl.DataFrame(
                    {
                        "sample": np.arange(60),
                        "y_true": Y,
                        "y_pred": guess,
                        "noise": np.arange(60) % 3 / 10,
                        "site": ["north", "south"] * 30,
                    }
                ),
            )
        store.evaluations.record("untabled", "lab", {"rmsep": 0.1, "milliseconds": 9.0}, champion=False)
        yield store


def test_a_leaderboard_has_scipys_interval_and_the_same_one_each_time(ranked: WorkspaceStore) -> None:
    board = ranked.evaluations.leaderboard("lab", n_resamples=300, seed=3)
    assert board["model_id"].to_list() == ["untabled", "good", "fair", "poor"]
    assert board["rank"].to_list() == [1, 2, 3, 4]
    first, good = board.row(0, named=True), board.row(1, named=True)
    assert (first["value"], first["ci_low"], first["ci_high"], first["n"]) == (0.1, None, None, 0)
    expected = stats.bootstrap(
        (Y, SAMPLES["good"]),
        lambda y, yhat, axis: np.sqrt(((y - yhat) ** 2).mean(axis=axis)),
        paired=True,
        n_resamples=300,
        method="BCa",
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert (good["ci_low"], good["ci_high"]) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert good["champion"]
    assert ranked.evaluations.leaderboard("lab", n_resamples=300, seed=3).equals(board)
    other = ranked.evaluations.leaderboard("lab", n_resamples=300, seed=4)
    assert other["ci_low"][1] != good["ci_low"]
    narrow = ranked.evaluations.leaderboard("lab", n_resamples=300, seed=3, confidence=0.5)
    assert narrow["ci_low"][1] > good["ci_low"]


def test_the_value_of_a_column_is_its_mean_and_constants_need_no_luck() -> None:
    table = pl.DataFrame({"reward": [0.2, 0.4, None, 0.9], "success": [True, True, True, True]})
    found = estimate(table, "reward", n_resamples=500)
    assert found.value == pytest.approx(0.5)
    assert found.n == 3
    assert found.low is not None
    assert found.high is not None
    assert 0.2 <= found.low < 0.5 < found.high <= 0.9
    assert estimate(table, "success_rate")[:3] == (1.0, 1.0, 1.0)
    assert estimate(table, "unknown", recorded=0.7) == (0.7, None, None, 4)
    assert estimate(table.head(1), "reward") == (0.2, None, None, 1)
    assert estimate(pl.DataFrame({"x": [1.0, float("nan")]}), "x", recorded=2.0) == (2.0, None, None, 2)


def test_labels_are_resampled_by_row() -> None:
    table = pl.DataFrame({"y_true": ["a", "b"] * 10, "y_pred": ["a", "b", "a", "a"] * 5})
    found = estimate(table, "accuracy", n_resamples=200)
    expected = classification_scores(table["y_true"].to_numpy(), table["y_pred"].to_numpy())["accuracy"]
    assert found.value == pytest.approx(expected)
    assert found.low is not None
    assert found.high is not None
    assert found.low < expected < found.high


@pytest.mark.parametrize("metric", ["rmsep", "mae", "bias", "sep", "r2", "rpd", "mse"])
def test_scores_of_resamples_are_those_of_this_library(metric: str) -> None:
    table = pl.DataFrame({"y_true": Y, "y_pred": SAMPLES["fair"]})
    scores = regression_scores(Y, SAMPLES["fair"])
    expected = scores["rmse"] ** 2 if metric == "mse" else scores.get(metric, scores["rmse"])
    found = estimate(table, metric, n_resamples=50)
    assert found.value == pytest.approx(expected)
    assert found.low is not None


def test_equal_values_share_a_rank_and_unknown_ones_come_last(store: WorkspaceStore) -> None:
    for model, value in (("a", 1.0), ("b", 2.0), ("c", 2.0)):
        store.evaluations.record(model, "s", {"score": value})
    store.evaluations.record("d", "s", {"score": None, "other": 1.0}, metric="score")  # type: ignore[dict-item]
    board = store.evaluations.leaderboard("s")
    assert list(zip(board["model_id"], board["rank"], strict=True)) == [
        ("b", 1),
        ("c", 1),
        ("a", 3),
        ("d", 4),
    ]


def test_the_latest_the_best_or_all_evaluations_count(store: WorkspaceStore) -> None:
    for value in (1.0, 3.0, 2.0):
        store.evaluations.record("a", "s", value)
    which = {
        w: store.evaluations.leaderboard("s", which=w)["value"].to_list() for w in ("latest", "best", "all")
    }
    assert which == {"latest": [2.0], "best": [3.0], "all": [3.0, 2.0, 1.0]}


def test_groups_are_scored_apart(ranked: WorkspaceStore) -> None:
    table = ranked.evaluations.by_group("lab", "site", models=["good", "poor"], n_resamples=50)
    assert table.columns == ["model_id", "site", "metric", "value", "ci_low", "ci_high", "n"]
    south = table.filter((pl.col("model_id") == "poor") & (pl.col("site") == "south")).row(0, named=True)
    assert south["value"] == pytest.approx(regression_scores(Y[1::2], SAMPLES["poor"][1::2])["rmse"])
    assert south["n"] == 30
    wide = ranked.evaluations.by_group("lab", "site", wide=True, n_resamples=10)
    assert wide.columns == ["model_id", "north", "south"]
    assert wide.height == 3
    with pytest.raises(InvalidInput, match="Did you mean 'site'"):
        ranked.evaluations.by_group("lab", "sites")
    with pytest.raises(InvalidInput, match="neither a column"):
        ranked.evaluations.by_group("lab", "site", "reward")


@pytest.mark.parametrize("test", ["wilcoxon", "t-test"])
def test_pairs_are_tested_with_scipy_on_what_each_row_contributes(ranked: WorkspaceStore, test: str) -> None:
    found = ranked.evaluations.compare("lab", test=test, correction="holm", models=list(SAMPLES))
    errors = {name: (guess - Y) ** 2 for name, guess in SAMPLES.items()}
    row = found.frame.filter((pl.col("model_a") == "fair") & (pl.col("model_b") == "good")).row(0, named=True)
    ask = stats.wilcoxon if test == "wilcoxon" else stats.ttest_rel
    assert row["p_value"] == pytest.approx(ask(errors["fair"], errors["good"]).pvalue)
    assert row["mean_difference"] == pytest.approx((errors["fair"] - errors["good"]).mean())
    assert (row["n"], row["better"], row["significant"]) == (60, "good", True)
    matrix = found.matrix("mean_difference")
    assert matrix["model"].to_list() == matrix.columns[1:] == ["fair", "good", "poor"]
    assert matrix["good"][0] == -matrix["fair"][1]
    assert found.matrix()["good"][0] == found.matrix()["fair"][1] == row["p_adjusted"]
    with pytest.raises(InvalidInput, match="Did you mean 'p_value'"):
        found.matrix("pvalue")


def test_p_values_are_corrected_for_their_number() -> None:
    raw: list[float | None] = [0.01, None, 0.04, 0.03]
    known = [0.01, 0.04, 0.03]
    for method in ("bh", "by"):
        expected = stats.false_discovery_control(known, method="bh" if method == "bh" else "by")
        corrected = adjusted(raw, method)
        assert corrected[1] is None
        assert [corrected[0], corrected[2], corrected[3]] == pytest.approx(list(expected))
    # Worked by hand: 3 * 0.01; 2 * 0.03; max(0.06, 1 * 0.04).
    assert adjusted(raw, "holm") == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert adjusted([0.6, 0.7], "holm") == [1.0, 1.0]
    assert adjusted(raw, "none") == raw


def test_rows_are_paired_by_name_and_not_by_place(store: WorkspaceStore) -> None:
    names = [f"ep{number}" for number in range(12)]
    reward = np.linspace(0, 1, 12)
    store.evaluations.record(
        "a", "s", {"reward": 0.5}, episodes={"episode_id": names, "reward": reward + 0.1}
    )
    store.evaluations.record(
        "b", "s", {"reward": 0.4}, episodes={"episode_id": names[::-1][:11], "reward": reward[::-1][:11]}
    )
    row = store.evaluations.compare("s").frame.row(0, named=True)
    assert (row["n"], row["better"]) == (11, "a")
    assert row["mean_difference"] == pytest.approx(0.1)


def test_models_that_do_the_same_do_not_differ(store: WorkspaceStore) -> None:
    for model in ("a", "b"):
        store.evaluations.record(model, "s", {"reward": 0.5}, episodes={"reward": [0.1, 0.9, 0.5]})
    row = store.evaluations.compare("s").frame.row(0, named=True)
    assert (row["p_value"], row["significant"], row["better"]) == (1.0, False, None)


def test_what_cannot_be_paired_is_refused(store: WorkspaceStore) -> None:
    book = store.evaluations
    book.record("a", "s", {"reward": 0.5}, episodes={"reward": [0.1, 0.9], "kind": ["x", "x"]})
    with pytest.raises(InvalidInput, match="two models"):
        book.compare("s")
    book.record("b", "s", {"reward": 0.5}, episodes={"reward": [0.1, 0.9, 0.4], "kind": ["x", "y", "z"]})
    with pytest.raises(InvalidInput, match="no column says which belong together"):
        book.compare("s")
    with pytest.raises(InvalidInput, match="names several rows alike"):
        book.compare("s", pair_by="kind")
    with pytest.raises(InvalidInput, match="Did you mean 'kind'"):
        book.compare("s", pair_by="kinds")
    with pytest.raises(InvalidInput, match="Did you mean 'wilcoxon'"):
        book.compare("s", test="wilcoxn")
    with pytest.raises(InvalidInput, match="one evaluation per model"):
        book.compare("s", which="all")
    with pytest.raises(InvalidInput, match="no value a row"):
        row_values(pl.DataFrame({"y_true": [1.0], "y_pred": [1.0]}), "r2")


def test_the_front_is_what_no_other_beats_in_everything(ranked: WorkspaceStore) -> None:
    found = ranked.evaluations.pareto("lab", ["rmsep", "milliseconds"])
    by_model = {row["model_id"]: row for row in found.iter_rows(named=True)}
    # Higher is better for a name that nobody explained, so more milliseconds are better here.
    assert by_model["untabled"]["on_front"]
    assert by_model["good"]["dominated_by"] == 1
    said = ranked.evaluations.pareto("lab", {"rmsep": "lower", "milliseconds": "lower"})
    assert set(said.filter("on_front")["model_id"]) == {"untabled", "good"}
    with pytest.raises(InvalidInput, match="Did you mean 'rmsep'"):
        ranked.evaluations.pareto("lab", ["rmsepp", "milliseconds"])
    with pytest.raises(InvalidInput, match="at least two"):
        ranked.evaluations.pareto("lab", ["rmsep"])
    with pytest.raises(InvalidInput, match="Did you mean 'lower'"):
        ranked.evaluations.pareto("lab", {"rmsep": "lowr", "milliseconds": "lower"})


def test_a_curve_follows_the_levels_of_a_disturbance(ranked: WorkspaceStore) -> None:
    curves = ranked.evaluations.robustness("lab", "noise", n_resamples=30)
    own = curves.filter(pl.col("model_id") == "poor")
    assert own["noise"].to_list() == [0.0, 0.1, 0.2]
    values = [regression_scores(Y[k::3], SAMPLES["poor"][k::3])["rmse"] for k in range(3)]
    assert own["value"].to_list() == pytest.approx(values)
    assert own["change"].to_list() == pytest.approx([value - values[0] for value in values])
    with pytest.raises(InvalidInput, match="column of numbers"):
        ranked.evaluations.robustness("lab", "site")


def test_a_trend_is_scipys_line_through_the_days(store: WorkspaceStore) -> None:
    begun = datetime(2025, 1, 1, tzinfo=UTC)
    scores = [0.5, 0.6, 0.55, 0.9, 0.7]
    for day, score in enumerate(scores):
        store.evaluations.record("a", "s", score, created_at=begun + timedelta(days=day))
    trend = store.evaluations.trend("s")
    assert trend["best_so_far"].to_list() == [0.5, 0.6, 0.6, 0.9, 0.9]
    assert trend["change"].to_list()[1:] == pytest.approx([0.1, -0.05, 0.35, -0.2])
    line = stats.theilslopes(scores, np.arange(5))
    assert trend["slope_per_day"][0] == pytest.approx(line.slope)
    assert trend["fitted"][4] == pytest.approx(line.intercept + 4 * line.slope)


def test_an_unknown_suite_or_model_names_those_that_there_are(ranked: WorkspaceStore) -> None:
    with pytest.raises(UnknownId, match="There are: lab"):
        ranked.evaluations.leaderboard("lba")
    with pytest.raises(UnknownId, match="good"):
        ranked.evaluations.leaderboard("lab", models=["god"])
    with pytest.raises(InvalidInput, match="confidence"):
        ranked.evaluations.leaderboard("lab", confidence=95)
    with pytest.raises(InvalidInput, match="Did you mean 'latest'"):
        ranked.evaluations.leaderboard("lab", which="lates")


# -- the summary ---------------------------------------------------------------------------------


def test_a_summary_names_the_leader_and_says_how_sure_that_is(ranked: WorkspaceStore, tmp_path: Path) -> None:
    page = ranked.evaluations.summary("lab", by="site", n_resamples=50)
    text = page.to_markdown()
    assert text.startswith("# Evaluation of lab\n")
    assert "untabled is best of 4 models with rmsep = 0.1." in text
    assert any("record its episodes or samples" in each for each in page.recommendations)
    assert any(each.startswith("The champion good is no longer best") for each in page.recommendations)


def test_the_advice_follows_the_tests(store: WorkspaceStore, tmp_path: Path) -> None:
    for name in ("good", "poor"):
        store.evaluations.record(
            name,
            "s",
            {"rmsep": regression_scores(Y, SAMPLES[name])["rmse"]},
            samples={"y_true": Y, "y_pred": SAMPLES[name], "site": ["a", "b"] * 30},
        )
    page = store.evaluations.summary("s", by="site", n_resamples=50)
    assert (
        page.recommendations[0]
        == "Use good: its lead over every other model is significant (corrected, 0.05)."
    )
    assert page.recommendations[-1].startswith("Work on site = ")
    assert page.save(tmp_path / "page.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    assert page.save(tmp_path / "page.md").read_text("utf-8") == page.to_markdown()
    with pytest.raises(InvalidInput, match=r"\.html"):
        page.save(tmp_path / "page.pdf")
    store.evaluations.record(
        "twin", "s", {"rmsep": 0.9}, samples={"y_true": Y, "y_pred": SAMPLES["good"] + 0.01}
    )
    again = store.evaluations.summary("s", n_resamples=50)
    assert "with care" in again.recommendations[0]
    assert "twin" in again.recommendations[0]


def test_names_cannot_leave_their_place_in_the_page(store: WorkspaceStore) -> None:
    name = "<script>alert(1)</script>|`x`\n# head"
    store.evaluations.record(name, "suite <b>", 0.5, episodes={"score": [0.4, 0.6], name: ["<i>", "<i>"]})
    page = store.evaluations.summary("suite <b>", by=name, n_resamples=20)
    html = page.to_html()
    assert "<script>" not in html
    assert "<i>" not in html
    assert "suite &lt;b&gt;" in html
    text = page.to_markdown()
    assert "\n# head" not in text
    assert "\\<script\\>alert\\(1\\)\\</script\\>\\|\\`x\\` \\# head" in text
    assert "<script>" not in page._repr_html_()
