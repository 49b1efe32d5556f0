"""Figures of merit: against hand-made numbers, against scikit-learn, and on bad input."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.scores import (
    REGRESSION_SCORES,
    classification_scores,
    default_metric,
    higher_is_better,
    pooled_scores,
    regression_scores,
)

# y = 1..5, errors +1, 0, -1, +2, +1: sum 3, sum of squares 7, bias 0.6.
MEASURED = [1.0, 2.0, 3.0, 4.0, 5.0]
PREDICTED = [2.0, 2.0, 2.0, 6.0, 6.0]


def test_regression_scores_are_the_numbers_worked_out_by_hand() -> None:
    scores = regression_scores(MEASURED, PREDICTED)
    sep = math.sqrt((7 - 5 * 0.36) / 4)
    assert scores["rmse"] == pytest.approx(math.sqrt(7 / 5))
    assert scores["mae"] == pytest.approx(1.0)
    assert scores["bias"] == pytest.approx(0.6)
    assert scores["sep"] == pytest.approx(sep)
    assert scores["r2"] == pytest.approx(1 - 7 / 10)
    assert scores["rpd"] == pytest.approx(math.sqrt(2.5) / sep)
    assert scores["rpiq"] == pytest.approx((4 - 2) / sep)
    assert scores["n"] == 5


def test_bias_is_predicted_minus_measured() -> None:
    assert regression_scores([10.0, 20.0], [11.0, 21.0])["bias"] == 1.0


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 40), st.integers(1, 3), st.integers(0, 10_000))
def test_regression_scores_agree_with_scikit_learn(n: int, targets: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.normal(20, 5, (n, targets))
    yhat = y + rng.normal(0.3, 1, (n, targets))
    scores = regression_scores(y, yhat)
    assert scores["rmse"] == pytest.approx(metrics.root_mean_squared_error(y, yhat))
    assert scores["mae"] == pytest.approx(metrics.mean_absolute_error(y, yhat))
    assert scores["r2"] == pytest.approx(metrics.r2_score(y, yhat))
    assert scores["n"] == n


def test_rmse_is_made_of_bias_and_sep() -> None:
    scores = regression_scores(MEASURED, PREDICTED)
    n = scores["n"]
    assert scores["rmse"] ** 2 == pytest.approx(scores["bias"] ** 2 + scores["sep"] ** 2 * (n - 1) / n)


def test_several_targets_are_averaged_or_given_one_by_one() -> None:
    y = np.column_stack([MEASURED, MEASURED])
    yhat = np.column_stack([MEASURED, PREDICTED])
    alone = regression_scores(MEASURED, PREDICTED)
    assert regression_scores(y, yhat)["rmse"] == pytest.approx(alone["rmse"] / 2)
    assert regression_scores(y, yhat, per_target=True)["rmse"] == pytest.approx([0.0, alone["rmse"]])


def test_a_column_and_a_vector_are_the_same_target() -> None:
    column = np.array(PREDICTED)[:, None]
    assert regression_scores(MEASURED, column) == regression_scores(MEASURED, PREDICTED)


def test_what_is_not_defined_is_nan_and_perfection_is_infinite() -> None:
    one = regression_scores([3.0], [4.0])
    assert one["rmse"] == 1.0
    assert all(math.isnan(one[name]) for name in ("sep", "rpd", "rpiq", "r2"))
    assert math.isnan(regression_scores([2.0, 2.0], [1.0, 3.0])["r2"])
    perfect = regression_scores(MEASURED, MEASURED)
    assert perfect["rpd"] == math.inf
    assert perfect["r2"] == 1.0


@pytest.mark.parametrize("kind", ["str", "int", "bool"])
def test_classification_scores_agree_with_scikit_learn(kind: str) -> None:
    rng = np.random.default_rng(3)
    labels = {"str": np.array(["beef", "lamb", "pork"]), "int": np.arange(3), "bool": np.array([False, True])}
    classes = labels[kind]
    y = rng.choice(classes, 60, p=rng.dirichlet(np.ones(classes.size)))
    proba = rng.dirichlet(np.ones(classes.size), 60)
    yhat = classes[proba.argmax(axis=1)]
    scores = classification_scores(y, yhat, proba, classes)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(y, yhat))
    assert scores["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(y, yhat))
    assert scores["f1"] == pytest.approx(metrics.f1_score(y, yhat, average="macro"))
    assert scores["log_loss"] == pytest.approx(metrics.log_loss(y, proba, labels=classes))


def test_classification_scores_are_the_numbers_worked_out_by_hand() -> None:
    # a: recalled 2 of 3, b: 1 of 1, c never true but guessed once: F1 4/5, 1, 0.
    scores = classification_scores(["a", "a", "a", "b"], ["a", "a", "c", "b"])
    assert scores["accuracy"] == 0.75
    assert scores["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["f1"] == pytest.approx((4 / 5 + 1 + 0) / 3)
    assert math.isnan(scores["log_loss"])


def test_log_loss_uses_the_column_of_the_true_class_and_stays_finite() -> None:
    proba = [[0.25, 0.75], [1.0, 0.0]]
    loss = classification_scores(["b", "b"], ["a", "b"], proba, ["b", "a"])["log_loss"]
    assert loss == pytest.approx(-math.log(0.25) / 2)
    assert math.isfinite(classification_scores(["a"], ["b"], [[1.0, 0.0]], ["b", "a"])["log_loss"])


def test_rmsecv_is_pooled_and_not_the_mean_over_folds() -> None:
    pooled = pooled_scores([([0.0] * 3, [1.0] * 3), ([0.0], [5.0])])
    assert pooled["rmsecv"] == pooled["rmse"] == pytest.approx(math.sqrt((3 * 1 + 25) / 4))
    assert pooled["fold_mean"] == 3.0
    assert pooled["fold_sd"] == pytest.approx(math.sqrt(8))
    assert (pooled["n"], pooled["n_folds"]) == (4, 2)


def test_leave_one_out_folds_can_be_pooled() -> None:
    pooled = pooled_scores([([y], [yhat]) for y, yhat in zip(MEASURED, PREDICTED, strict=True)])
    assert pooled["r2"] == pytest.approx(0.3)


def test_pooled_classification_keeps_probabilities() -> None:
    folds = [(["a"], ["a"], [[0.9, 0.1]]), (["b"], ["a"], [[0.6, 0.4]])]
    pooled = pooled_scores(folds, task_type="classification", metric="accuracy", classes=["a", "b"])
    assert pooled["accuracy"] == 0.5
    assert pooled["log_loss"] == pytest.approx(-(math.log(0.9) + math.log(0.4)) / 2)
    assert "rmsecv" not in pooled


@pytest.mark.parametrize(
    "metric", ["rmse", "rmsecv", "rmsep", "rmsec", "mae", "mse", "bias", "sep", "log_loss"]
)
def test_errors_are_better_when_low(metric: str) -> None:
    assert higher_is_better(metric) is False


@pytest.mark.parametrize("metric", ["r2", "accuracy", "balanced_accuracy", "f1", "rpd", "rpiq", "roc_auc"])
def test_merits_are_better_when_high(metric: str) -> None:
    assert higher_is_better(metric) is True


def test_an_unknown_metric_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InvalidInput, match="Did you mean 'rmsecv'"):
        higher_is_better("RMSCV")
    with pytest.raises(InvalidInput, match=r"metric of a regression.*'accuracy'"):
        pooled_scores([([1.0], [1.0])], metric="accuracy")


def test_the_default_metric_follows_the_task() -> None:
    assert default_metric("regression") == "rmse"
    assert default_metric("binary_classification") == "balanced_accuracy"
    with pytest.raises(InvalidInput, match="Did you mean 'regression'"):
        default_metric("regresion")


@pytest.mark.parametrize(
    ("y", "yhat", "error", "word"),
    [
        ([1.0, 2.0], [1.0], ShapeMismatch, r"y has \(2,\), yhat has \(1,\)"),
        (np.ones((3, 2)), np.ones((3, 1)), ShapeMismatch, "one shape"),
        (np.ones((2, 2, 2)), np.ones((2, 2, 2)), ShapeMismatch, "shape"),
        ([], [], InvalidInput, "empty"),
        ([1.0, math.nan], [1.0, 2.0], InvalidInput, "y holds a NaN.*row 1"),
        ([1.0, 2.0], [math.inf, 2.0], InvalidInput, "yhat holds.*row 0"),
        (["fat", "lean"], [1.0, 2.0], InvalidInput, "numbers only"),
    ],
)
def test_what_a_regression_cannot_score_is_refused(
    y: object, yhat: object, error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        regression_scores(y, yhat)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        ((["a", "b"], ["a"]), ShapeMismatch, "2 true labels but 1"),
        ((np.ones((2, 2)), [1, 1]), ShapeMismatch, "one label per sample"),
        (([], []), InvalidInput, "empty"),
        ((np.array(["a", None], dtype=object), ["a", "b"]), InvalidInput, "missing label in row 1"),
        (([1.0, math.nan], [1.0, 1.0]), InvalidInput, "missing label in row 1"),
        (([1, 2], ["1", "2"]), InvalidInput, "one kind"),
        ((np.array(["a", 1], dtype=object), ["a", "b"]), InvalidInput, "mixes"),
        ((["a"], ["a"], [[1.0, 0.0]]), InvalidInput, "classes"),
        ((["a"], ["a"], [[1.0]], ["a", "b"]), ShapeMismatch, r"\(1, 2\).*found \(1, 1\)"),
        ((["a"], ["a"], [[1.5, -0.5]], ["a", "b"]), InvalidInput, r"\[0, 1\]"),
        ((["z"], ["a"], [[0.5, 0.5]], ["a", "b"]), InvalidInput, "lacks the true classes.*z"),
    ],
)
def test_what_a_classification_cannot_score_is_refused(
    arguments: tuple[object, ...], error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        classification_scores(*arguments)  # type: ignore[arg-type]


def test_pooling_needs_a_fold() -> None:
    with pytest.raises(InvalidInput, match="at least one fold"):
        pooled_scores([])


def test_scores_need_nothing_but_numpy() -> None:
    code = (
        "import sys, nirs_store.scores;"
        "print([m for m in ('sklearn', 'polars', 'duckdb', 'pandas', 'scipy') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_only_the_figures_that_are_named_are_computed() -> None:
    y, yhat = [1.0, 2.0, 4.0], [1.5, 2.0, 3.5]
    every = regression_scores(y, yhat)
    for name in REGRESSION_SCORES:
        assert regression_scores(y, yhat, names=[name]) == {name: every[name], "n": 3}
    with pytest.raises(InvalidInput, match="rmse"):
        regression_scores(y, yhat, names=["rmsee"])
