"""Chains ranked by their pooled out-of-fold predictions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rankkit import error, names, record
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation
from nirs_store.bundle.transfer import ExportSource, known_scores
from nirs_store.chains.folds import REFIT, fold_key
from nirs_store.errors import InvalidInput

REFIT_FOLDS = ("final", "fold_final", "foldfinal", "refit", "fold_refit")
Floats = NDArray[np.float64]
SCORES = ("rmsecv", "rmsec", "rmsep", "mae", "bias", "sep", "r2", "rpd", "rpiq")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WorkspaceStore]:
    with WorkspaceStore(tmp_path / "workspace") as opened:
        yield opened


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkspaceStore]:
    """One store for all questions that are refused."""
    with WorkspaceStore(tmp_path_factory.mktemp("workspace")) as opened:
        yield opened


# -- what the numbers are ----------------------------------------------------------------------------


def test_scores_are_those_of_the_pooled_arrays_and_not_a_mean_over_folds(store: WorkspaceStore) -> None:
    rng = np.random.default_rng(0)
    # Folds of different size and quality, so that a mean over folds is something else.
    folds = [
        (y := rng.normal(10, 3, n), y + rng.normal(0.2, s, n)) for n, s in ((5, 0.1), (20, 2.0), (9, 1.0))
    ]
    chain_id = record(store, folds=folds)
    row = store.top_chains().row(0, named=True)

    y, yhat = (np.concatenate(side) for side in zip(*folds, strict=True))
    error = yhat - y
    rmsecv = math.sqrt(np.mean(error**2))
    sep = math.sqrt(np.sum((error - error.mean()) ** 2) / (y.size - 1))
    by_hand = {
        "rmsecv": rmsecv,
        "mae": np.abs(error).mean(),
        "bias": error.mean(),
        "sep": sep,
        "r2": 1 - np.sum(error**2) / np.sum((y - y.mean()) ** 2),
        "rpd": y.std(ddof=1) / sep,
        "rpiq": np.subtract(*np.percentile(y, [75, 25])) / sep,
    }
    assert row["chain_id"] == chain_id
    for name, value in by_hand.items():
        assert row[name] == pytest.approx(value, rel=1e-12), name
    each = [math.sqrt(np.mean((b - a) ** 2)) for a, b in folds]
    assert row["score"] == row["rmsecv"]
    assert row["score_sd"] == pytest.approx(np.std(each, ddof=1), rel=1e-12)
    assert row["score"] != pytest.approx(np.mean(each), rel=0.01)
    assert (row["n_folds"], row["n_samples"], row["metric"]) == (3, 34, "rmse")
    assert (row["refit_score"], row["test_score"]) == (None, None)


def test_a_recorded_cross_validation_is_ranked_by_its_own_rmsecv(store: WorkspaceStore) -> None:
    meat = load_tecator()
    results = [
        record_cross_validation(
            store, PLSRegression(k, scale=False), meat.X[:160], meat.fat[:160], dataset_name="meat",
            cv=KFold(4, shuffle=True, random_state=0), X_test=meat.X[160:], y_test=meat.fat[160:],
        )
        for k in (2, 8, 5)
    ]  # fmt: skip
    ranked = store.top_chains()
    best_first = sorted(results, key=lambda result: result.value)
    assert ranked["chain_id"].to_list() == [result.chain_id for result in best_first]
    for result, row in zip(best_first, ranked.iter_rows(named=True), strict=True):
        table = {(r["fold_id"], r["partition"]): r for r in result.scores.iter_rows(named=True)}
        assert row["rmsecv"] == pytest.approx(result.rmsecv, rel=1e-12)
        assert row["score_sd"] == pytest.approx(result.fold_sd, rel=1e-12)
        assert row["refit_score"] == row["rmsec"] == pytest.approx(table["final", "train"]["rmse"], rel=1e-12)
        assert row["test_score"] == row["rmsep"] == pytest.approx(table["final", "test"]["rmse"], rel=1e-12)
        assert row["pipeline"] == result.name


def test_refit_and_test_scores_come_from_the_refit(store: WorkspaceStore) -> None:
    record(store, folds=[error(2.0), error(2.0)], refit=error(1.0), test=error(3.0), fold_tests=[error(9.0)])
    row = store.top_chains().row(0, named=True)
    assert (row["score"], row["refit_score"], row["test_score"]) == pytest.approx((2.0, 1.0, 3.0))
    assert (row["rmsecv"], row["rmsec"], row["rmsep"]) == pytest.approx((2.0, 1.0, 3.0))


def test_without_a_refit_the_test_score_is_that_of_the_folds_average(store: WorkspaceStore) -> None:
    y, _ = error(0.0)
    folds = [error(1.0), error(1.0)]
    record(store, folds=folds, fold_tests=[(y, y + 4.0), (y, y - 2.0)])
    assert store.top_chains()["test_score"].to_list() == pytest.approx([1.0])
    weights = {"0": 3.0, "fold_1": 1.0}
    record(store, "weighted", folds, fold_tests=[(y, y + 4.0), (y, y - 2.0)], fold_weights=weights)
    by_name = dict(store.top_chains().select("model_name", "test_score").iter_rows())
    assert by_name["weighted"] == pytest.approx(2.5)


def test_folds_that_predict_different_test_samples_have_no_common_test_score(store: WorkspaceStore) -> None:
    y, yhat = error(1.0)
    record(store, folds=[error(1.0)], fold_tests=[error(1.0, 4), error(1.0, 5)])
    record(store, folds=[error(1.0)], fold_tests=[(y, yhat), (y + 10, yhat + 10)])
    assert store.top_chains()["test_score"].to_list() == [None, None]


def test_a_column_of_predictions_counts_as_a_vector_and_several_targets_are_averaged(
    store: WorkspaceStore,
) -> None:
    y, yhat = error(2.0)
    record(store, "column", [(y, yhat[:, None]), (y, yhat[:, None])])
    two = np.column_stack([y, y])
    record(store, "two targets", [(two, two + np.array([1.0, 2.0]))])
    scores = dict(store.top_chains().select("model_name", "rmsecv").iter_rows())
    assert scores == pytest.approx({"column": 2.0, "two targets": 1.5})


def test_rows_for_averages_of_folds_are_not_pooled_with_the_folds(store: WorkspaceStore) -> None:
    chain_id = record(store, folds=[error(1.0), error(1.0)])
    pipeline_id = store.get_chain(chain_id)["pipeline_id"]  # type: ignore[index]
    for fold in ("avg", "w_avg", *REFIT_FOLDS):
        store.save_prediction(
            pipeline_id, chain_id, "corn", "PLS(3)", "m", fold, "val", 50.0, None, None, "rmse", "regression", 4, 7,
            {}, {}, None, None, 0, 0.0,
        )  # fmt: skip
    row = store.top_chains().row(0, named=True)
    assert (row["score"], row["n_folds"], row["n_samples"]) == pytest.approx((1.0, 2, 8))


def test_the_refit_has_the_same_names_as_in_replay() -> None:
    assert {fold_key(name) for name in REFIT_FOLDS} == {REFIT}


# -- chains without arrays ---------------------------------------------------------------------------


def test_without_arrays_the_folds_scores_are_pooled_with_their_sizes(store: WorkspaceStore) -> None:
    pairs = [error(0.0, 2), error(0.0, 6)]
    record(store, folds=pairs, arrays=False, recorded=[1.0, 3.0])
    row = store.top_chains().row(0, named=True)
    assert row["score"] == row["rmsecv"] == pytest.approx(math.sqrt((2 * 1 + 6 * 9) / 8))
    assert row["score_sd"] == pytest.approx(np.std([1.0, 3.0], ddof=1))
    assert (row["sep"], row["r2"]) == (None, None)


def test_without_arrays_recorded_scores_fill_the_other_columns(store: WorkspaceStore) -> None:
    scores = [{"rmse": 1.0, "bias": 0.5, "r2": 0.9}, {"val": {"rmse": 3.0, "bias": -0.5, "r2": 0.5}}]
    pairs = [error(0.0, 2), error(0.0, 6)]
    record(store, folds=pairs, arrays=False, scores=scores)
    row = store.top_chains().row(0, named=True)
    assert row["rmsecv"] == pytest.approx(math.sqrt(56 / 8))
    assert row["bias"] == pytest.approx((2 * 0.5 - 6 * 0.5) / 8)
    assert row["r2"] is None, "the R² of all samples does not follow from those of the folds"
    assert store.top_chains(metric="r2")["score"].to_list() == pytest.approx([(2 * 0.9 + 6 * 0.5) / 8])


def test_without_arrays_refit_and_test_scores_are_what_was_recorded(store: WorkspaceStore) -> None:
    pair = error(0.0)
    record(
        store, folds=[pair], refit=pair, test=pair, arrays=False, recorded=[2.0, 1.0, 3.0], metric="rmsecv"
    )
    row = store.top_chains().row(0, named=True)
    assert (row["score"], row["refit_score"], row["test_score"]) == pytest.approx((2.0, 1.0, 3.0))
    assert row["score_sd"] is None


def test_a_fold_that_recorded_no_score_leaves_the_chain_without_one(store: WorkspaceStore) -> None:
    record(store, folds=[error(0.0), error(0.0)], arrays=False, recorded=[1.0, None])
    for metric in ("rmse", "r2"):
        row = store.top_chains(metric=metric).row(0, named=True)
        assert (row["score"], row["score_sd"], row["n_folds"]) == (None, None, 2)


def test_one_fold_without_arrays_makes_all_folds_count_as_recorded(store: WorkspaceStore) -> None:
    chain_id = record(store, folds=[error(1.0), error(1.0)], recorded=[5.0, 5.0])
    pipeline_id = store.get_chain(chain_id)["pipeline_id"]  # type: ignore[index]
    store.save_prediction(
        pipeline_id, chain_id, "corn", "PLS(3)", "m", "fold_2", "val", 5.0, None, None, "rmse", "regression", 4, 7,
        {}, {}, None, None, 0, 0.0,
    )  # fmt: skip
    row = store.top_chains().row(0, named=True)
    assert (row["score"], row["score_sd"], row["n_folds"]) == pytest.approx((5.0, 0.0, 3))


def test_a_chain_that_was_only_tested_stands_last_with_its_test_score(store: WorkspaceStore) -> None:
    record(store, "tested", test=error(0.1))
    record(store, "validated", [error(9.0)])
    ranked = store.top_chains()
    assert names(ranked) == ["validated", "tested"]
    assert ranked["score"].to_list() == [9.0, None]
    assert ranked["n_folds"].to_list() == [1, 0]
    assert ranked["test_score"].to_list() == [None, pytest.approx(0.1)]


# -- the order -----------------------------------------------------------------------------------------


def test_the_metric_says_which_end_is_best_and_ascending_overrides_it(store: WorkspaceStore) -> None:
    for rmse in (2.0, 1.0, 3.0):
        record(store, f"{rmse}", [error(rmse), error(rmse)])
    assert names(store.top_chains()) == ["1.0", "2.0", "3.0"]
    assert names(store.top_chains(metric="rmsecv")) == ["1.0", "2.0", "3.0"]
    assert names(store.top_chains(metric="r2")) == ["1.0", "2.0", "3.0"]
    assert store.top_chains(metric="r2")["score"].is_sorted(descending=True)
    assert names(store.top_chains(metric="r2", ascending=True)) == ["3.0", "2.0", "1.0"]
    assert names(store.top_chains(ascending=False)) == ["3.0", "2.0", "1.0"]
    assert names(store.top_chains(2)) == ["1.0", "2.0"]
    assert names(store.top_chains(0)) == []
    assert len(names(store.top_chains(None))) == 3


def test_a_bias_is_best_near_zero_on_either_side(store: WorkspaceStore) -> None:
    for bias in (-5.0, 0.5, -0.1, 4.0):
        record(store, f"{bias}", [error(bias)])
    ranked = store.top_chains(metric="bias")
    assert names(ranked) == ["-0.1", "0.5", "4.0", "-5.0"]
    assert ranked["score"].to_list() == pytest.approx([-0.1, 0.5, 4.0, -5.0])


def test_what_cannot_be_scored_ranks_last_in_either_direction(store: WorkspaceStore) -> None:
    y, _ = error(0.0)
    record(store, "nan", [(y, np.full(4, np.nan))], recorded=[0.001])
    record(store, "shapes", [(y, np.zeros((4, 3)))])
    record(store, "text", [(np.array(list("abcd")), y)])
    record(store, "nothing recorded", [error(0.0)], arrays=False)
    record(store, "recorded nan", [error(0.0)], arrays=False, recorded=[math.nan])
    record(store, "good", [error(2.0)])
    for metric, ascending in itertools.product(("rmse", "r2", "bias"), (None, True, False)):
        ranked = store.top_chains(metric=metric, ascending=ascending)
        assert names(ranked)[0] == "good", metric
        assert ranked.height == 6
        assert store.top_chains(1, metric=metric, ascending=ascending)["model_name"].to_list() == ["good"]


# -- classifications -----------------------------------------------------------------------------------


def test_a_classification_is_ranked_by_its_balanced_accuracy(store: WorkspaceStore) -> None:
    meat = load_tecator()
    label = np.where(meat.fat > 20, "fatty", "lean")
    result = record_cross_validation(
        store, LogisticRegression(max_iter=500), StandardScaler().fit_transform(meat.X), label,
        cv=3, dataset_name="meat", refit=False, X_test=meat.X[:20], y_test=label[:20],
    )  # fmt: skip
    row = store.top_chains().row(0, named=True)
    assert row["metric"] == "balanced_accuracy"
    for name in ("accuracy", "balanced_accuracy", "f1", "log_loss"):
        assert row[name] == pytest.approx(result.pooled[name], rel=1e-12), name
    assert row["score_sd"] == pytest.approx(result.fold_sd)
    assert row["test_score"] == pytest.approx(result.test_value), "the folds vote by their mean probabilities"
    assert "rmsecv" not in row


def test_without_probabilities_the_folds_vote_on_test_samples(store: WorkspaceStore) -> None:
    truth = np.array(["a", "a", "b", "b"])
    wrong = np.array(["b", "b", "a", "a"])
    record(
        store, folds=[(truth, truth)], fold_tests=[(truth, truth), (truth, wrong), (truth, truth)],
        task_type="classification", metric="accuracy",
    )  # fmt: skip
    row = store.top_chains(metric="accuracy").row(0, named=True)
    assert row["test_score"] == 1.0
    assert row["log_loss"] is None


def test_regressions_and_classifications_are_not_ranked_together(store: WorkspaceStore) -> None:
    record(store, "regression", [error(1.0)])
    labels = np.array(["a", "b", "a"])
    record(store, "classifier", [(labels, labels)], task_type="multiclass_classification", dataset="meat")
    with pytest.raises(InvalidInput, match=r"task_type='regression'"):
        store.top_chains()
    assert names(store.top_chains(task_type="regression")) == ["regression"]
    assert names(store.top_chains(task_type="classification")) == ["classifier"]
    assert names(store.top_chains(metric="f1")) == ["classifier"]
    assert names(store.top_chains(metric="rpd")) == ["regression"]
    assert names(store.top_chains(dataset_name="meat")) == ["classifier"]
    with pytest.raises(InvalidInput, match="does not score a regression"):
        store.top_chains(metric="f1", task_type="regression")


# -- filters and bad input -----------------------------------------------------------------------------


def test_filters_are_joined_by_and(store: WorkspaceStore) -> None:
    first = record(store, "one", [error(1.0)], dataset="corn", run="first")
    second = record(store, "two", [error(2.0)], dataset="wheat", run="second", model_class="sklearn.svm.SVR")
    runs = dict(store.list_runs().select("name", "run_id").iter_rows())
    chain = store.get_chain(second)
    assert chain is not None
    for filters, expected in (
        ({"dataset_name": "corn"}, ["one"]),
        ({"run_id": runs["second"]}, ["two"]),
        ({"pipeline_id": chain["pipeline_id"]}, ["two"]),
        ({"chain_id": first}, ["one"]),
        ({"model_class": "%.SVR"}, ["two"]),
        ({"model_class": "sklearn.svm.SVR"}, ["two"]),
        ({"dataset_name": "corn", "run_id": runs["second"]}, []),
        ({"dataset_name": "co"}, []),
    ):
        assert names(store.top_chains(**filters)) == expected, filters  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "rmes"}, "Did you mean 'rmse'"),
        ({"metric": "balanced_acuracy"}, "Did you mean 'balanced_accuracy'"),
        ({"metric": 5}, "Unknown metric"),
        ({"metric": "roc_auc"}, "does not score"),
        ({"task_type": "regresion"}, "Did you mean 'regression'"),
        ({"n": -1}, "at least 0"),
        ({"n": 2.5}, "at least 0"),
        ({"n": True}, "at least 0"),
        ({"dataset_name": 5}, "expected text"),
    ],
)
def test_bad_input_is_refused_and_the_nearest_name_is_offered(
    untouched: WorkspaceStore, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        untouched.top_chains(**arguments)


def test_a_metric_of_any_name_in_the_catalog_hinders_nobody(store: WorkspaceStore) -> None:
    record(store, "strange", [error(1.0)], metric='mean "error" in $', recorded=[1.0])
    assert store.top_chains()["rmsecv"].to_list() == pytest.approx([1.0])


def test_an_empty_store_gives_empty_frames_with_their_columns(store: WorkspaceStore) -> None:
    empty = store.top_chains()
    record(store, folds=[error(1.0)])
    assert empty.height == 0
    assert empty.schema == store.top_chains().schema
    assert set(SCORES) <= set(empty.columns)
    assert "accuracy" in store.top_chains(task_type="classification", dataset_name="none").columns


# -- aggregates ----------------------------------------------------------------------------------------


def test_aggregates_count_only_numbers(store: WorkspaceStore) -> None:
    pair = error(0.0)
    record(store, "PLS", [pair] * 4, arrays=False, recorded=[1.0, 3.0, math.nan, None])
    record(store, "SVR", [pair], arrays=False, recorded=[5.0], dataset="wheat")
    frame = store.aggregate_predictions("model_name", partition="val")
    assert frame.columns == ["model_name", "count", "mean", "std", "min", "max"]
    assert frame.rows() == [
        ("PLS", 2, 2.0, pytest.approx(math.sqrt(2)), 1.0, 3.0),
        ("SVR", 1, 5.0, None, 5.0, 5.0),
    ]
    assert store.aggregate_predictions("model_name", dataset_name="wheat")["model_name"].to_list() == ["SVR"]
    assert store.aggregate_predictions(["dataset_name", "fold_id"]).height == 5
    runs = store.aggregate_predictions(("run_id", "run_id"), "n_samples")
    assert runs["mean"].to_list() == [4.0, 4.0]
    assert runs.columns[:2] == ["run_id", "count"]


def test_aggregates_of_nothing_have_their_columns(untouched: WorkspaceStore) -> None:
    frame = untouched.aggregate_predictions(["run_id", "partition"])
    assert frame.columns == ["run_id", "partition", "count", "mean", "std", "min", "max"]
    assert frame.height == 0


@pytest.mark.parametrize(
    ("group_by", "metric", "message"),
    [
        ("model_nam", "val_score", "Did you mean 'model_name'"),
        ("name; DROP TABLE runs", "val_score", "Invalid group_by column"),
        ([], "val_score", "at least one column"),
        (5, "val_score", "Invalid group_by column"),
        ("fold_id", "val_scor", "Did you mean 'val_score'"),
    ],
)
def test_aggregates_refuse_columns_that_are_not_there(
    untouched: WorkspaceStore, group_by: Any, metric: str, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        untouched.aggregate_predictions(group_by, metric)


# -- one chain alone, as its card shows it -------------------------------------------------------------


def test_a_chain_on_its_way_out_has_the_figures_of_its_row(store: WorkspaceStore) -> None:
    labels = np.array(["a", "b", "a", "b"])
    chains = [
        record(store, folds=[error(0.5), error(1.5, 9)], refit=error(0.1), test=error(0.7, 6)),
        record(store, folds=[error(0.5), error(1.5)], fold_tests=[error(0.5, 3), error(0.7, 3)]),
        record(store, folds=[error(0.5), error(1.5)], recorded=[0.5, 1.5], arrays=False),
        record(store, test=error(2.0, 5)),
        record(
            store,
            folds=[(labels, labels), (labels, labels[::-1])],
            task_type="binary_classification",
            metric="balanced_accuracy",
            metadata={"classes": ["a", "b"]},
        ),
        record(store, folds=[error(0.3)], fold_weights={"fold_0": 1.0}),
    ]
    seen = set()
    for chain_id in chains:
        row = store.top_chains(1, chain_id=chain_id).row(0, named=True)
        told = ExportSource(store._engine, chain_id).described({})
        assert told["scores"] == known_scores(row, {})
        assert (told["facts"]["n_folds"], told["facts"]["n_samples"]) == (row["n_folds"], row["n_samples"])
        newest = store.query_predictions(chain_id=chain_id, partition="test", limit=1)
        assert told["facts"]["n_test_samples"] == (newest["n_samples"].item() if newest.height else None)
        seen |= told["scores"].keys()
    assert {"rmsecv", "rmsec", "rmsep", "balanced_accuracy"} <= seen
    unscored = store.save_chain(
        store.list_pipelines()["pipeline_id"][0], [], 0, "a.Model", "", "per_fold", {}, {}
    )
    assert ExportSource(store._engine, unscored).described({"scores": {"rmsep": 1.0}})["scores"] == {
        "rmsep": 1.0
    }
