"""What a curve and a heat map join: one target, the same samples and splits, the same model but for one parameter."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.ensemble import BaggingRegressor, VotingRegressor
from sklearn.model_selection import GridSearchCV, KFold, RepeatedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from nirs_store import WorkspaceStore, load_tecator, plots, record_cross_validation

MEAT = load_tecator()
X = MEAT.X[:60, ::10]


@pytest.fixture
def recorder(tmp_path: Path) -> Any:
    with WorkspaceStore(tmp_path) as store:
        run_id = store.begin_run("all", {}, ["meat"])

        def record(model: Any, cv: Any = None, y: str = "fat", n: int = 60, **words: Any) -> Any:
            estimator = PLSRegression(model) if isinstance(model, int) else model
            words = {"dataset_name": "meat", "target": y, "target_unit": "%"} | words
            return record_cross_validation(
                store, estimator, X[:n], MEAT.y[y][:n], cv=cv or KFold(3), run_id=run_id, refit=False, **words
            )

        record.store = store  # type: ignore[attr-defined]
        yield record


def curves(figure: Any) -> dict[str, list[float]]:
    axes = figure.axes[0]
    lines = {
        line.get_label(): line.get_ydata() for line in axes.lines if not line.get_label().startswith("_")
    }
    return {re.sub(r": [\d.]+ at \d+.*", "", name): np.round(y, 6).tolist() for name, y in lines.items()}


def test_figures_of_one_target_hold_its_scores_alone(recorder: Any) -> None:
    own = []
    for lv in (1, 3):
        recorder(lv, y="protein")
        recorder(lv, y="water")
        recorder(lv, target_unit="g/kg")
        recorder(lv, dataset_name="other")
        own.append(recorder(lv))
    chain = own[0].chain_id
    expected = [round(result.rmsecv, 6) for result in own]
    assert curves(plots.chain_rmsecv_vs_components(recorder.store, chain)) == {"raw": expected}
    texts = [float(text.get_text()) for text in plots.chain_heatmap(recorder.store, chain).axes[0].texts]
    assert np.allclose(texts, expected, atol=0.01)


def test_seeds_are_averaged_and_a_band_shows_their_spread(recorder: Any) -> None:
    values = [
        [recorder(lv, KFold(3, shuffle=True, random_state=seed)).rmsecv for lv in (1, 2, 4)]
        for seed in range(3)
    ]
    chain = recorder.store.top_chains(1)["chain_id"][0]
    figure = plots.chain_rmsecv_vs_components(recorder.store, chain)
    assert curves(figure) == {"raw (mean of 3 seeds)": np.round(np.mean(values, axis=0), 6).tolist()}
    (band,) = figure.axes[0].collections
    reach = np.ptp([y for x, y in band.get_paths()[0].vertices if x == 2])
    assert np.isclose(reach, 2 * np.std(np.array(values)[:, 1], ddof=1))
    note = plots.chain_heatmap(recorder.store, chain)._supxlabel.get_text()
    assert note == "A cell is the mean of up to 3 chains."


def test_what_does_not_belong_together_is_not_joined(recorder: Any) -> None:
    for lv in (1, 2):
        first = recorder(lv)
        recorder(lv, KFold(5))
        recorder(PLSRegression(lv, scale=False))
        recorder(lv, n=50)
        recorder(make_pipeline(StandardScaler(), PLSRegression(lv)))
    recorder(1, KFold(5, shuffle=True, random_state=1))
    recorder(3, KFold(5, shuffle=True, random_state=2))
    found = curves(plots.chain_rmsecv_vs_components(recorder.store, first.chain_id))
    assert sorted(map(len, found.values())) == [1, 1, 2, 2, 2, 2, 2]
    assert {name.split(" · ")[0] for name in found} == {"raw", "StandardScaler"}
    assert {name.rpartition(" · ")[2] for name in found if "seed" in name} == {"seed 1", "seed 2"}
    heat = plots.chain_heatmap(recorder.store, first.chain_id)
    assert "6 chains of other samples or splits are left out." in heat._supxlabel.get_text()


def test_the_repeats_of_one_chain_make_a_band_too(recorder: Any) -> None:
    results = [recorder(lv, RepeatedKFold(n_splits=3, n_repeats=4, random_state=0)) for lv in (1, 3)]
    figure = plots.chain_rmsecv_vs_components(recorder.store, results[0].chain_id)
    assert curves(figure) == {"raw": [round(result.rmsecv, 6) for result in results]}
    assert len(figure.axes[0].collections) == 1
    assert f"± {results[1].repeat_sd:.2f}" in figure.legends[0].get_texts()[0].get_text()


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        (["raw", "SNV > " * 30], ["PLS(4)", "GridSearchCV(" + "estimator=" * 20], {}),
        (["a" * 300], ["b" * 300, "b" * 299 + "c"], {"target": "fat " * 60, "unit": "g/100 g " * 20}),
        (
            [f"step {n}" for n in range(25)],
            [f"a model with a long name and number {n}" for n in range(30)],
            {},
        ),
        (
            ["raw"],
            ["PLS(1)"],
            {"title": "a title that is much wider than its figure " * 3, "note": "word " * 80},
        ),
        (["x\ny\x1b[2J", "z"], ["\u202eabc", "d"], {"target": "f\x1bat"}),
    ],
)
def test_a_heat_map_keeps_every_label_inside(
    rows: list[str], columns: list[str], words: dict[str, str], tmp_path: Path
) -> None:
    table = np.arange(1.0, len(rows) * len(columns) + 1).reshape(len(rows), len(columns))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plots.heatmap(rows, columns, table, **words)
        plots.save_figure(figure, tmp_path / "map.png")
        figure.canvas.draw()
    box, (wide, high) = figure.get_tightbbox(), figure.get_size_inches()
    assert max(-box.x0, -box.y0, box.x1 - wide, box.y1 - high) < 0.05
    assert figure.axes[0].get_position().width > 0.2
    assert figure.axes[0].get_position().height > 0.2
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert len(set(labels)) == len(columns)


INSIDE = {
    "StandardScaler (in GridSearchCV)": GridSearchCV(
        make_pipeline(StandardScaler(), PLSRegression()), {"plsregression__n_components": [1, 2]}, cv=3
    ),
    "StandardScaler (in BaggingRegressor)": BaggingRegressor(
        make_pipeline(StandardScaler(), PLSRegression(1)), 2
    ),
    "MinMaxScaler > StandardScaler | MinMaxScaler (in VotingRegressor)": VotingRegressor(
        [
            ("a", make_pipeline(MinMaxScaler(), make_pipeline(StandardScaler(), PLSRegression(1)))),
            ("b", make_pipeline(MinMaxScaler(), PLSRegression(1))),
        ]
    ),
    "": GridSearchCV(PLSRegression(), {"n_components": [1, 2]}, cv=3),
}


@pytest.mark.parametrize("named", INSIDE)
def test_the_preprocessing_inside_a_model_is_named(recorder: Any, named: str) -> None:
    result = recorder(INSIDE[named])
    assert recorder.store.get_chain(result.chain_id)["preprocessings"] == named
    pivot = recorder.store.pivot().frame["preprocessings"].to_list()
    assert pivot == [named]


def test_a_pivot_tells_targets_apart_and_warns_of_other_samples(recorder: Any) -> None:
    recorder(1)
    recorder(1, y="protein", target_unit="g/kg")
    pivot = recorder.store.pivot()
    assert pivot.frame["preprocessings"].to_list() == ["raw · fat (%)", "raw · protein (g/kg)"]
    assert recorder.store.pivot(target="fat").frame["preprocessings"].to_list() == [""]
    recorder(1, n=50)
    with pytest.warns(UserWarning, match="1 cells of this pivot join scores of different samples"):
        recorder.store.pivot(target="fat")
    recorder(2, KFold(4), y="protein", target_unit="g/kg")
    with pytest.warns(UserWarning, match="different cross-validations"):
        recorder.store.pivot(target="protein")
    recorder(1, dataset_name="other")
    with pytest.warns(UserWarning, match="different"):
        names = recorder.store.pivot(aggregate="mean").frame["preprocessings"].to_list()
    assert "raw · fat (%) · other" in names


@pytest.mark.parametrize("metric", ["rmse", "mae", "bias", "sep", "r2", "rpd"])
def test_the_scores_of_a_pivot_are_those_of_the_ranking(recorder: Any, metric: str) -> None:
    for lv in (1, 2, 4):
        recorder(lv)
        recorder(lv, RepeatedKFold(n_splits=3, n_repeats=2, random_state=lv), dataset_name="repeated")
    for dataset in ("meat", "repeated"):
        ranked = recorder.store.top_chains(None, metric, dataset)
        frame = recorder.store.pivot("preprocessings", "model_name", metric, dataset_name=dataset).frame
        for name, score in ranked.select("model_name", "score").rows():
            assert np.isclose(frame[name][0], score, rtol=1e-9)
