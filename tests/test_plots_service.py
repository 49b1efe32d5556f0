"""Figures of a calibration in service: intervals, control charts, spectra, and chains that retention deleted."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from clikit import invoke
from sklearn.cross_decomposition import PLSRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nirs_store import WorkspaceStore, load_tecator, plots, read_spectra, record_cross_validation
from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.history.policy import keep_top_k
from nirs_store.service.statistics import control_chart as limits_of

TECATOR = load_tecator()


def legend(figure: Any) -> list[str]:
    return [text.get_text() for each in figure.legends for text in each.get_texts()]


# -- what retention deleted ------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path: Path) -> Any:
    """A run of two recipes with two to five latent variables, and its best chain."""
    X, y = TECATOR.X[:60], TECATOR.fat[:60]
    words: dict[str, Any] = {"target": "fat", "target_unit": "%", "dataset_name": "meat", "refit": False}
    with WorkspaceStore(tmp_path / "ws") as store:
        run_id = store.begin_run("r", {}, [{"name": "meat"}])
        results = [
            record_cross_validation(
                store, make_pipeline(*steps, PLSRegression(n)), X, y, cv=KFold(3), run_id=run_id, **words
            )
            for steps in ([], [StandardScaler()])
            for n in (2, 3, 4, 5)
        ]
        yield store, min(results, key=lambda each: each.rmsecv).chain_id


@pytest.mark.parametrize("now", [False, True])
def test_figures_keep_the_scores_of_chains_that_retention_deleted(recorded: Any, now: bool) -> None:
    store, best = recorded
    curves, cells = store.plot_data("components", best), store.plot_data("heatmap", best)
    assert not curves["deleted"].any()
    assert curves.height == cells.height == 8
    kept = set(store.top_chains(3)["chain_id"])
    store.retention.execute(store.retention.plan(keep_top_k(3, metric="rmse")), now=now)
    after, table = store.plot_data("components", best), store.plot_data("heatmap", best)
    assert after["deleted"].sum() == table["deleted"].sum() == 8 - len(kept)
    for before, now_known, keys in (
        (curves, after, ["curve", "components"]),
        (cells, table, ["preprocessing", "model"]),
    ):
        assert now_known.select(keys).equals(before.select(keys))
        assert np.allclose(now_known["rmsecv"], before["rmsecv"], rtol=1e-12)

    figure = store.plot("components", best)
    hollow = [
        line
        for line in figure.axes[0].lines
        if line.get_markerfacecolor() == "white" and len(line.get_xdata())
    ]
    drawn = {(x, y) for line in hollow for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}
    expected = after.filter("deleted").select("components", "rmsecv").rows()
    assert np.allclose(sorted(drawn), sorted(expected))
    assert "hollow: deleted, score kept" in legend(figure)
    heat = store.plot("heatmap", best)
    assert len(heat.axes[0].patches) == 8 - len(kept)
    assert "Hollow cells" in heat.get_supxlabel()


def test_chains_that_a_user_deleted_are_not_drawn(recorded: Any) -> None:
    store, best = recorded
    other = next(
        c["chain_id"]
        for c in store.get_chains_for_run(store.list_runs()["run_id"][0])
        if c["chain_id"] != best
    )
    store.delete_chain(other)
    assert store.past_chains()["chain_id"].to_list() == [other]
    assert store.plot_data("components", best).height == 7


# -- intervals -------------------------------------------------------------------------------------


def frame(**columns: Any) -> pl.DataFrame:
    table = {
        "sample": ["a", "b", "c"],
        "prediction": [1.0, 2.0, 3.0],
        "lower": [0.5, None, 2.5],
        "upper": [1.5, None, 3.5],
        "flags": [[], ["domain not known"], ["outside", "extrapolated"]],
    }
    return pl.DataFrame({**table, **columns})


def test_bars_go_from_lower_to_upper_and_flagged_samples_are_apart() -> None:
    figure = plots.prediction_intervals(frame(), target="fat", unit="%")
    axes = figure.axes[0]
    bars, points, flagged_bars, flagged = axes.collections
    assert np.allclose(points.get_offsets(), [[0, 1], [1, 2]])
    assert np.allclose(flagged.get_offsets(), [[2, 3]])
    assert np.allclose(bars.get_segments()[0], [[0, 0.5], [0, 1.5]])
    assert np.allclose(flagged_bars.get_segments(), [[[2, 2.5], [2, 3.5]]])
    assert axes.get_ylabel() == "Predicted fat (%)"
    assert legend(figure) == ["n = 2", "flagged: 1", "no interval: 1"]


def test_measured_values_are_the_axis_and_missing_ones_are_counted() -> None:
    figure = plots.prediction_intervals(frame(), measured=[1.1, np.nan, 2.2])
    axes = figure.axes[0]
    assert np.allclose(
        np.vstack([each.get_offsets() for each in axes.collections[1::2]]), [[1.1, 1], [2.2, 3]]
    )
    assert axes.get_xlim() == axes.get_ylim()
    assert "not drawn, no value: 1" in legend(figure)
    assert [text.get_text() for text in axes.texts] == ["c"]


def test_of_two_targets_one_is_drawn_by_name() -> None:
    both = pl.concat(
        [frame(target="fat"), frame(target="water", prediction=[7.0, 8.0, 9.0])], how="diagonal_relaxed"
    )
    points = plots.prediction_intervals(both, target="water").axes[0].collections[1]
    assert points.get_offsets()[:, 1].tolist() == [7, 8]
    with pytest.raises(InvalidInput, match="fat, water; name the one"):
        plots.prediction_intervals(both)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"frame": frame()[:0]}, InvalidInput, "no sample"),
        ({"frame": frame().drop("lower")}, InvalidInput, "lacks the columns lower"),
        ({"frame": frame(prediction=["x", "y", "z"])}, InvalidInput, "classes"),
        ({"frame": frame(), "measured": [1, 2]}, ShapeMismatch, "expected 3 values"),
        ({"frame": frame(), "measured": [np.nan] * 3}, InvalidInput, "both a measured"),
        ({"frame": frame(), "measured": ["x"] * 3}, InvalidInput, "expected numbers"),
    ],
)
def test_frames_without_intervals_are_refused(given: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        plots.prediction_intervals(given.pop("frame"), **given)


# -- control charts --------------------------------------------------------------------------------

# NIST/SEMATECH e-Handbook of Statistical Methods, 6.3.2.4: data, and the EWMA for lambda 0.3 from 50 with s = 2.0539.
NIST = (52.0, 47.0, 53.0, 49.3, 50.1, 47.0, 51.0, 50.1, 51.2, 50.5, 49.6, 47.6, 49.9, 51.3, 47.8, 51.2, 52.6, 52.4, 53.6, 52.1)  # fmt: skip
NIST_EWMA = (50.60, 49.52, 50.56, 50.18, 50.16, 49.21, 49.75, 49.85, 50.26, 50.33, 50.11, 49.36, 49.52, 50.05, 49.38, 49.92, 50.73, 51.23, 51.94, 51.99)  # fmt: skip


def test_the_ewma_and_its_limits_are_those_of_the_nist_handbook() -> None:
    points = pl.DataFrame({"time": range(20), "value": NIST})
    found = plots.control_frame(points, center=50, sep=2.0539, lam=0.3)
    assert np.allclose(found["ewma"], NIST_EWMA, atol=0.006)
    assert found["ewma_high"][-1] == pytest.approx(52.5884, abs=5e-3)
    assert found["ewma_low"][-1] == pytest.approx(47.4115, abs=5e-3)
    assert set(found["signal"]) == {""}


def test_the_chart_draws_limits_and_names_what_is_beyond_them() -> None:
    start = dt.datetime(2025, 1, 1)
    points = pl.DataFrame(
        {
            "time": [start + dt.timedelta(days=i) for i in (3, 2, 1, 0)],
            "value": [0.1, -3.5, float("nan"), 2.5],
            "sample": ["d", "c", "b", "a"],
        }
    )
    assert plots.control_frame(points, sep=1.0)["signal"].to_list() == ["beyond 2 SEP", "beyond 3 SEP", ""]
    figure = plots.control_chart(points, sep=1.0, target="fat", unit="%")
    axes = figure.axes[0]
    levels = {
        float(line.get_ydata()[0])
        for line in axes.lines
        if len(set(line.get_ydata())) == 1 and len(line.get_ydata()) == 3
    }
    assert levels == {0.0, 2.0, -2.0, 3.0, -3.0}
    assert [text.get_text() for text in axes.texts] == ["c"]
    assert {"beyond 3 SEP: 1", "not drawn, no value: 1", "EWMA, λ = 0.4"} <= set(legend(figure))


@pytest.mark.parametrize("known", [True, False])
def test_a_monitoring_is_drawn_with_its_own_limits(known: bool) -> None:
    difference = np.array([0.2, -0.3, 4.0, 0.1])
    start = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    points = pl.DataFrame(
        {"sample_id": list("abcd"), "measured_at": [start + dt.timedelta(days=i) for i in range(4)]}
    )
    chart = points.hstack(limits_of(difference, np.full(4, 1.0 if known else np.nan)))
    monitoring = SimpleNamespace(chart=chart, target="fat", unit="%", label="fat@v3 (production)")
    figure = plots.control_chart(monitoring)
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "fat@v3 (production)"
    assert axes.get_ylabel() == "Reference − predicted fat (%)"
    line = next(each for each in axes.lines if each.get_label() == "EWMA")
    assert np.allclose(line.get_ydata(), chart["ewma"])
    assert [text.get_text() for text in axes.texts] == (["c"] if known else [])
    assert ("± 3 SEP, SEP 1.00" if known else "± 3 SEP: not known") in legend(figure)
    with pytest.raises(InvalidInput, match="brings its own"):
        plots.control_chart(monitoring, sep=2.0)


def test_limits_change_with_the_version_and_the_ewma_starts_again() -> None:
    points = pl.DataFrame({"time": [1, 2, 3, 4], "value": [1.0, 1.0, 1.0, 1.0], "center": [0.0, 0.0, 1.0, 1.0], "sep": [1.0, 1.0, 2.0, 2.0]})  # fmt: skip
    found = plots.control_frame(points, lam=0.5)
    assert found["ewma"].to_list() == [0.5, 0.75, 1.0, 1.0]
    assert np.allclose(found["ewma_high"] - found["center"], [1.5, 1.5 * 1.25**0.5, 3.0, 3 * 1.25**0.5])


@pytest.mark.parametrize(
    ("columns", "given", "words"),
    [
        ({"time": [1]}, {"sep": 1.0}, "lacks the columns value"),
        ({"time": [1], "value": [None]}, {"sep": 1.0}, "must hold numbers|none of 1 points"),
        ({"time": [1], "value": [float("nan")]}, {"sep": 1.0}, "none of 1 points"),
        ({"time": [1], "value": [1.0]}, {}, "sep: expected the standard error"),
        ({"time": [1], "value": [1.0]}, {"sep": 0.0}, "sep: expected a number above 0"),
        ({"time": [1], "value": [1.0]}, {"sep": 1.0, "lam": 1.5}, "lam: expected"),
        ({"time": [1], "value": [1.0], "sep": [None]}, {}, "sep: expected a number above 0"),
    ],
)
def test_points_that_cannot_be_charted_are_refused(columns: Any, given: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        plots.control_chart(pl.DataFrame(columns), **given)


# -- spectra ---------------------------------------------------------------------------------------


def test_wavenumbers_fall_and_lines_are_sorted_along_them() -> None:
    grid = [5000.0, 9000.0, 7000.0]
    figure = plots.raw_spectra(
        [[1, 3, 2], [2, np.nan, 3]], wavelengths=grid, wavelength_unit="1/cm", values=[1, 2]
    )
    axes = figure.axes[0]
    assert axes.xaxis.get_inverted()
    assert axes.get_xlabel() == "Wavenumber (cm⁻¹)"
    assert axes.collections[0].get_segments()[0].tolist() == [[5000, 1], [7000, 2], [9000, 3]]


def test_missing_values_are_grey_and_large_sets_are_thinned() -> None:
    values = np.arange(400.0)
    values[1] = np.nan
    figure = plots.raw_spectra(np.ones((400, 5)), values=values)
    lines = figure.axes[0].collections[0]
    assert len(lines.get_segments()) == 300
    assert figure.axes[0].get_title(loc="left") == "300 of 400 spectra"
    assert legend(figure) == ["no reference value: 1"]
    assert np.allclose(lines.get_colors()[1][:3], 0xC8 / 255)


def test_groups_have_colours_and_the_small_ones_share_grey() -> None:
    names = [f"g{i % 10}" for i in range(40)] + ["g9"] * 3
    figure = plots.raw_spectra(np.ones((43, 5)), groups=names, target="lot")
    assert legend(figure) == [*(f"g{i} (4)" for i in range(7)), "g9 (7)", "2 other groups (8)"]


def test_what_was_read_brings_its_targets_and_groups(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [f"s{i},{i},{9 - i},{'xy'[i % 2]}," + ",".join(str(i + k) for k in range(6)) for i in range(4)]
    path.write_text(
        "id,fat,water,lot," + ",".join(str(9000 - 500 * k) for k in range(6)) + "\n" + "\n".join(rows)
    )
    read = read_spectra(path, target=["fat", "water"], wavelength_unit="cm-1")
    assert plots.raw_spectra(read).axes[1].get_ylabel() == "fat"
    assert plots.raw_spectra(read, colour_by="water").axes[1].get_ylabel() == "water"
    assert legend(plots.raw_spectra(read, colour_by="lot")) == ["x (2)", "y (2)"]
    with pytest.raises(InvalidInput, match="no column 'ash'; the columns are"):
        plots.raw_spectra(read, colour_by="ash")


@pytest.mark.parametrize(
    ("X", "options", "error"),
    [
        (np.ones((0, 4)), {}, InvalidInput),
        (np.ones(4), {}, InvalidInput),
        (np.ones((2, 4)), {"values": [1, 2, 3]}, ShapeMismatch),
        (np.ones((2, 4)), {"values": [np.nan, np.nan]}, InvalidInput),
        (np.ones((2, 4)), {"groups": ["a"]}, ShapeMismatch),
        (np.ones((2, 4)), {"wavelengths": [1, 2]}, ShapeMismatch),
        (np.ones((2, 4)), {"colour_by": "fat"}, InvalidInput),
    ],
)
def test_spectra_that_cannot_be_drawn_are_refused(X: Any, options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        plots.raw_spectra(X, **options)


# -- every figure by its name ----------------------------------------------------------------------


def test_every_figure_of_a_chain_has_a_name_and_its_data(tmp_path: Path) -> None:
    X, y = TECATOR.X[:50], TECATOR.fat[:50]
    with WorkspaceStore(tmp_path / "ws") as store:
        words: dict[str, Any] = {"dataset_name": "meat", "wavelengths": TECATOR.wavelengths, "target": "fat"}
        run_id = store.begin_run("r", {}, [{"name": "meat"}])
        chains = [
            record_cross_validation(store, PLSRegression(n, scale=False), X, y, cv=3, run_id=run_id, **words)
            for n in (2, 4)
        ]
        chain = chains[-1].chain_id
        store.log_metrics(store.get_chain(chain)["pipeline_id"], "loss", [3.0, 2.0])
        drawn = {}
        for name, kind in plots.KINDS.items():
            if name == "confusion":
                continue
            given: dict[str, Any] = {"X": X, "y": y} if kind.spectra else {}
            if name == "permutation":
                given["n_permutations"] = 5
            figure, data = store.plot(name, chain, **given), store.plot_data(name, chain, **given)
            assert figure.axes, name
            assert data.height, name
            drawn[name] = figure.axes[0], data
        axes, data = drawn["predicted"]
        for marks, part in zip(axes.collections, ("calibration", "cv"), strict=True):
            pairs = data.filter(pl.col("set") == part).select("measured", "predicted")
            assert np.allclose(marks.get_offsets(), pairs.to_numpy())
        axes, data = drawn["errors"]
        assert np.allclose(axes.lines[1].get_ydata(), data.filter(pl.col("error") == "RMSECV")["value"])
        assert data.filter(pl.col("error") == "RMSECV")["value"].to_list() == pytest.approx(
            [c.rmsecv for c in chains]
        )
        axes, data = drawn["coefficients"]
        assert np.allclose(axes.lines[1].get_ydata(), data["coefficient"])
        axes, data = drawn["intervals"]
        points = np.vstack([each.get_offsets() for each in axes.collections[1::2]])
        assert np.allclose(np.sort(points[:, 0]), np.sort(y))
        assert np.allclose(np.sort(points[:, 1]), np.sort(data["prediction"]))
        for wrong, words_of in (("predict", "Did you mean 'predicted'"), ("t2-q", "needs spectra")):
            with pytest.raises(InvalidInput, match=words_of):
                store.plot(wrong, chain)
        with pytest.raises(InvalidInput, match="leave out X"):
            store.plot_data("folds", chain, X)

    told = " ".join(invoke("plot", "no such figure", chain, "-w", tmp_path / "ws").output.split())
    assert f"Figures: {', '.join(plots.KINDS)}." in told
    of_spectra = ", ".join(name for name, kind in plots.KINDS.items() if kind.spectra)
    told = " ".join(invoke("plot", "folds", chain, "--data", "x.csv", "-w", tmp_path / "ws").output.split())
    assert f"--data goes with the figures {of_spectra}, not with 'folds'." in told
