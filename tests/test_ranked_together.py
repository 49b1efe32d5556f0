"""What may be ranked and averaged together: one target, one metric, one direction; repeats of a cross-validation."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GroupShuffleSplit,
    KFold,
    RepeatedKFold,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedKFold,
)

from nirs_store import WorkspaceStore, load_tecator, record_cross_validation
from nirs_store.errors import InvalidInput, quoted, shortened
from nirs_store.scores import repeats_of

MEAT = load_tecator()
X, FAT = MEAT.X[:60, ::5], MEAT.fat[:60]
LABELS = np.where(FAT > 20, "fat", "lean")


def record(store: Any, lv: int, **words: Any) -> Any:
    words = {"cv": KFold(3), "dataset_name": "meat"} | words
    return record_cross_validation(store, PLSRegression(lv), X, words.pop("y", FAT), refit=False, **words)


@pytest.mark.parametrize("metric", ["r2", "rpd", "sep", "mae", "rmse"])
def test_the_best_comes_first_whatever_the_metric_of_a_regression(tmp_path: Path, metric: str) -> None:
    with WorkspaceStore(tmp_path) as store:
        for lv in (1, 3, 6):
            record(store, lv, metric=metric)
        scores = store.top_predictions(9)["val_score"].to_list()
        chains = store.top_chains()
        assert scores == sorted(scores, reverse=metric in ("r2", "rpd"))
        # Without a word chains are ranked by what they were recorded to be ranked by.
        assert chains["metric"].unique().to_list() == [metric]
        assert store.top_predictions(9, ascending=False)["val_score"].to_list() == sorted(
            scores, reverse=True
        )


@pytest.mark.parametrize(("metric", "high"), [("f1", True), ("accuracy", True), ("log_loss", False)])
def test_the_best_comes_first_whatever_the_metric_of_a_classification(
    tmp_path: Path, metric: str, high: bool
) -> None:
    with WorkspaceStore(tmp_path) as store:
        for model in (LinearDiscriminantAnalysis(), LogisticRegression(C=0.01)):
            record_cross_validation(
                store,
                model,
                X,
                LABELS,
                cv=StratifiedKFold(3),
                dataset_name="kind",
                metric=metric,
                refit=False,
            )
        scores = store.top_predictions(9)["val_score"].to_list()
    assert scores == sorted(scores, reverse=high)


def test_metrics_that_do_not_rank_together_are_refused_until_one_is_named(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path) as store:
        record(store, 2)
        record(store, 4, metric="r2", dataset_name="other")
        with pytest.raises(InvalidInput, match=r"'r2', 'rmse'.*scored_by="):
            store.top_predictions(5)
        assert set(store.top_predictions(5, scored_by="r2")["metric"]) == {"r2"}
        assert set(store.top_predictions(5, dataset_name="meat")["metric"]) == {"rmse"}
        assert store.top_predictions(5, ascending=True).height == 5
        with pytest.raises(InvalidInput, match="do not rank together"):
            store.top_predictions(1, group_by="dataset_name")  # each group ranks, in directions of its own
        with pytest.warns(UserWarning, match="different metrics, targets or units"):
            store.aggregate_predictions("partition")
        assert store.aggregate_predictions(["dataset_name", "partition"]).height == 4


def test_targets_are_columns_filters_and_a_warning(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path) as store:
        for target, unit in (("fat", "%"), ("protein", "g/kg"), ("fat", "g/kg")):
            record(store, 2, y=MEAT.y[target][:60], target=target, target_unit=unit)
        with pytest.warns(UserWarning, match="'fat' \\('%'\\), 'fat' \\('g/kg'\\), 'protein'"):
            ranked = store.top_chains()
        kinds = {("fat", "%"), ("fat", "g/kg"), ("protein", "g/kg")}
        assert set(ranked.select("target", "target_unit").rows()) == kinds
        assert store.top_chains(target="protein")["target"].to_list() == ["protein"]
        assert store.top_chains(metric="r2").height == 3  # R2 has no unit
        with pytest.warns(UserWarning, match="'fat' \\('g/kg'\\), 'protein' .*target="):
            best = store.top_predictions(50)
        with pytest.warns(
            UserWarning, match="'fat' \\('%'\\), 'fat' \\('g/kg'\\)\\. Name one with target_unit="
        ):
            store.top_predictions(2, target="fat")
        assert set(store.top_predictions(9, target="fat", target_unit="%")["target_unit"]) == {"%"}
        assert store.top_predictions(2, group_by="chain_id").height == 6
        for rows in (store.query_predictions(), best):
            assert set(rows.select("target", "target_unit").rows()) == kinds
        assert store.query_predictions(target="protein").height == 6
        assert set(store.top_predictions(9, target="protein")["target"]) == {"protein"}
        means = store.aggregate_predictions(["target", "target_unit"], partition="val")
        assert means.select("target", "target_unit", "count").rows() == [
            ("fat", "%", 3), ("fat", "g/kg", 3), ("protein", "g/kg", 3)
        ]  # fmt: skip
        with pytest.warns(UserWarning, match="different metrics, targets"):
            store.aggregate_predictions("model_name")


def test_a_limit_may_be_larger_than_any_table(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path) as store:
        record(store, 2)
        huge = 10**30
        assert store.top_chains(huge).height == store.search("PLS", n=huge).height == 1
        assert store.list_runs(limit=huge).height == 1
        assert store.list_runs(limit=huge, offset=huge).height == 0
        assert (
            store.top_predictions(huge).height == store.query_predictions(limit=huge, partition="val").height
        )


SPLITTERS = [
    (RepeatedKFold(n_splits=4, n_repeats=3, random_state=1), 3, 60),
    (RepeatedStratifiedKFold(n_splits=3, n_repeats=2, random_state=1), 2, 60),
    (ShuffleSplit(5, test_size=20, random_state=1), 5, 20),
    (ShuffleSplit(3, test_size=20, random_state=0), 3, 20),
    (KFold(5), 1, 60),
]


@pytest.mark.parametrize(("cv", "repeats", "samples"), SPLITTERS, ids=lambda each: type(each).__name__)
def test_repeats_are_scored_one_by_one_and_averaged(
    tmp_path: Path, cv: Any, repeats: int, samples: int
) -> None:
    y = LABELS if isinstance(cv, RepeatedStratifiedKFold) else FAT
    stratify = y if y is LABELS else None
    with WorkspaceStore(tmp_path) as store:
        model: Any = LinearDiscriminantAnalysis() if y is LABELS else PLSRegression(3)
        result = record_cross_validation(store, model, X, y, cv=cv, dataset_name="d", refit=False)
        row = store.top_chains().row(0, named=True)
    own = []
    folds = list(cv.split(X, stratify))
    each = len(folds) // repeats
    for begin in range(0, len(folds), each):
        pairs = [
            (y[val], np.asarray(model.fit(X[fit], y[fit]).predict(X[val])).ravel())
            for fit, val in folds[begin : begin + each]
        ]
        truth, guess = (np.concatenate(part) for part in zip(*pairs, strict=True))
        if y is LABELS:
            own.append(np.mean([np.mean(guess[truth == k] == k) for k in np.unique(y)]))
        else:
            own.append(np.sqrt(np.mean((guess - truth) ** 2)))
    assert np.isclose(result.value, np.mean(own))
    assert np.isclose(row["score"], np.mean(own))
    assert (row["n_repeats"], row["n_samples"], result.pooled["n"]) == (repeats, samples, samples)
    if repeats == 1:
        assert (row["repeat_sd"], result.repeat_sd) == (None, None)
    else:
        assert np.isclose(row["repeat_sd"], np.std(own, ddof=1))
        assert np.isclose(result.repeat_sd, np.std(own, ddof=1))
        assert f"SD over {repeats} repeats" in repr(result)


def test_repeats_that_an_older_library_did_not_number_are_told_by_their_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WorkspaceStore(tmp_path) as store:
        cv = RepeatedKFold(n_splits=4, n_repeats=2, random_state=3)
        record(store, 3, cv=cv)
        monkeypatch.setattr("nirs_store.recording.crossval.repeats_of", lambda rows: None)
        monkeypatch.setattr("nirs_store.recording.rows.pooled_scores", _pooled_of_old)
        record(store, 3, cv=cv)
        rows = store.top_chains().select("score", "n_repeats", "repeat_sd", "n_samples").rows()
    assert np.allclose(rows[0], rows[1])
    assert rows[0][1] == 2


def _pooled_of_old(folds: Any, **words: Any) -> dict[str, Any]:
    from nirs_store.scores import pooled_scores

    return pooled_scores(folds, **{**words, "repeats": None})


@pytest.mark.parametrize(
    ("rows", "numbers"),
    [
        ([[0, 1], [2, 3]], [0, 0]),
        ([[0, 1], [2, 3], [1, 2], [0, 3]], [0, 0, 1, 1]),
        ([[0, 1], [1, 2], [5, 6]], [0, 1, 2]),
        ([[0], [0], [0]], [0, 1, 2]),
        ([[0, 1], [2], [0, 1], [3]], [0, 1, 2, 3]),
    ],
)
def test_repeats_are_told_from_the_samples(rows: list[list[int]], numbers: list[int]) -> None:
    assert repeats_of([np.array(each) for each in rows]) == numbers


def test_disjoint_partial_splits_are_one_cross_validation(tmp_path: Path) -> None:
    groups = np.repeat(np.arange(6), 10)
    cv = list(GroupShuffleSplit(1, test_size=2, random_state=0).split(X, FAT, groups))
    with WorkspaceStore(tmp_path) as store, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert record(store, 2, cv=cv).n_repeats == 1


@pytest.mark.parametrize("given", ["x" * 10**6, b"y" * 10**6, list(range(10**5)), {"k": "v" * 10**6}])
def test_what_was_given_is_quoted_in_few_characters(given: Any) -> None:
    assert len(quoted(given)) <= 120
    assert len(str(InvalidInput(f"name: expected a text, found {given!r}. Nothing was recorded."))) <= 2000
    assert str(InvalidInput(f"a {given!r} Nothing was recorded.")).endswith("Nothing was recorded.")
    assert shortened("short", 5) == "short"


@pytest.mark.parametrize(
    "call",
    [
        lambda store, huge: store.files.put(huge, "name", type="report"),
        lambda store, huge: store.files.get(huge),
        lambda store, huge: store.replay_chain(huge, X[:1]),
        lambda store, huge: store.show_run(huge),
        lambda store, huge: store.save_artifact(1, "a.B", "model", huge),
        lambda store, huge: store.tag_run(huge, "x"),
    ],
)
def test_megabytes_in_the_wrong_place_stay_out_of_messages_and_the_trail(tmp_path: Path, call: Any) -> None:
    with WorkspaceStore(tmp_path) as store:
        store.audit.switch(True)
        with pytest.raises(Exception) as caught:
            call(store, "x" * 300_000)
        longest = store.sql("SELECT max(length(to_json(e))) FROM audit_entries e").item()
    assert len(str(caught.value)) <= 2000
    assert longest < 5000
