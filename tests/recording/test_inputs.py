"""Bad input is refused in words, before anything is fitted or recorded."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from nirs_store.errors import InvalidInput, RecordingWarning, ShapeMismatch
from nirs_store.ids import content_hash
from nirs_store.recording import record_cross_validation
from nirs_store.recording.folds import Prediction, align_probabilities, average_folds
from nirs_store.recording.inputs import check_data, choose_metric

X = np.random.default_rng(0).normal(size=(12, 4))
Y = np.arange(12.0)
LABELS = np.array(["a", "b"] * 6)
ROWS = np.arange(12)


def with_value(array: Any, place: Any, value: Any) -> Any:
    changed = array.copy()
    changed[place] = value
    return changed


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "NaN in X": ({"X": with_value(X, (3, 1), np.nan)}, InvalidInput, "row 3, column 1"),
    "infinity in X": ({"X": with_value(X, (0, 2), np.inf)}, InvalidInput, "X holds 1 values"),
    "NaN in y": ({"y": with_value(Y, 5, np.nan)}, InvalidInput, "y holds 1 .* row 5"),
    "NaN in X_test": ({"X_test": with_value(X, (1, 1), np.nan), "y_test": Y}, InvalidInput, "X_test"),
    "lengths": ({"y": Y[:-1]}, ShapeMismatch, "X has 12 samples but y has 11"),
    "test lengths": ({"X_test": X, "y_test": Y[:-2]}, ShapeMismatch, "X_test has 12"),
    "other channels": ({"X_test": X[:, :2], "y_test": Y}, ShapeMismatch, r"X_test \(12, 2\)"),
    "half a test set": ({"X_test": X}, InvalidInput, "come together"),
    "no samples": ({"X": X[:0], "y": Y[:0]}, InvalidInput, "X is empty"),
    "one dimension": ({"X": X[:, 0]}, ShapeMismatch, r"\(n_samples, n_features\)"),
    "three targets deep": ({"y": np.ones((12, 1, 1))}, ShapeMismatch, "y must be"),
    "words in X": ({"X": X.astype(str)}, InvalidInput, "real numbers"),
    "objects in X": ({"X": with_value(X.astype(object), (0, 0), "x")}, InvalidInput, "numbers only"),
    "sparse X": ({"X": sparse.csr_matrix(X)}, InvalidInput, "sparse"),
    "words in y": ({"y": LABELS}, InvalidInput, "y must hold numbers"),
    "a mixed frame": (
        {"X": pl.DataFrame({"900": Y, "902": Y, "operator": Y})}, InvalidInput, "but for 'operator'",
    ),
    "too few wavelengths": ({"wavelengths": [1.0, 2.0]}, ShapeMismatch, "Expected 4 finite wavelengths"),
    "words for wavelengths": ({"wavelengths": list("abcd")}, InvalidInput, "wavelengths must hold numbers"),
    "two grids": (
        {"X": pl.DataFrame(X, schema=["900", "902", "904", "906"]), "wavelengths": [1.0, 2.0, 3.0, 4.0]},
        ShapeMismatch, "disagrees with the column names",
    ),
    "wavelengths in another order": (
        {"X": pl.DataFrame(X, schema=["900", "900.1", "900.2", "900.3"]), "wavelengths": [900.3, 900.2, 900.1, 900.0]},
        ShapeMismatch, "disagrees with the column names of X: the same values in another order",
    ),
    "another test grid": (
        {"X": pl.DataFrame(X, schema=["900", "902", "904", "906"]),
         "X_test": pl.DataFrame(X, schema=["900", "902", "904", "907"]), "y_test": Y},
        ShapeMismatch, "different wavelengths",
    ),
    "test columns in another order": (
        {"X": pl.DataFrame(X, schema=list("abcd")), "X_test": pl.DataFrame(X, schema=list("abdc")), "y_test": Y},
        ShapeMismatch, "columns of X_test are not those of X: column 2 is 'd', expected 'c'",
    ),
    "one class": ({"estimator": LogisticRegression(), "y": np.repeat("a", 12)}, InvalidInput, "two classes"),
    "a missing label": (
        {"estimator": LogisticRegression(), "y": np.array(["a", None] * 6, dtype=object)},
        InvalidInput, "lacks 6 labels, first in row 1",
    ),
    "dates for labels": (
        {"estimator": LogisticRegression(), "y": np.datetime64("2024-01-01") + ROWS // 6},
        InvalidInput, "of the type datetime64",
    ),
    "spans for labels": (
        {"estimator": LogisticRegression(), "y": pl.Series(ROWS // 6 * 1000).cast(pl.Duration("ms"))},
        InvalidInput, "of the type timedelta",
    ),
    "boxed dates for labels": (
        {"estimator": LogisticRegression(), "y": pl.Series([date(2024, 1, 1 + row // 6) for row in ROWS])},
        InvalidInput, "expected text, whole numbers",
    ),
    "complex labels": (
        {"estimator": LogisticRegression(), "y": ROWS // 6 * 1j}, InvalidInput, "of the type complex",
    ),
    "targets in another order": (
        {"X": pd.DataFrame(X, index=[f"s{row}" for row in ROWS]), "y": pd.Series(Y, index=[f"s{row}" for row in ROWS[::-1]])},
        InvalidInput, r"index of y has the labels of X in another order.*y\.loc\[X\.index\]",
    ),
    "test targets in another order": (
        {"X_test": pd.DataFrame(X, index=ROWS + 20), "y_test": pd.Series(Y, index=np.roll(ROWS + 20, 1))},
        InvalidInput, "index of y_test",
    ),
    "groups in another order": (
        {"X": pd.DataFrame(X, index=ROWS + 5), "groups": pd.Series(ROWS // 2, index=np.roll(ROWS + 5, 3))},
        InvalidInput, "index of groups",
    ),
    "weights in another order": (
        {"estimator": Ridge(), "X": pd.DataFrame(X, index=ROWS * 2), "sample_weight": pd.Series(Y + 1, index=ROWS[::-1] * 2)},
        InvalidInput, "index of sample_weight",
    ),
    "mixed labels": (
        {"estimator": LogisticRegression(), "y": np.array(["a", 1] * 6, dtype=object)}, InvalidInput, "mixes",
    ),
    "two columns of labels": (
        {"estimator": LogisticRegression(), "y": np.column_stack([LABELS, LABELS])},
        ShapeMismatch, "one target",
    ),
    "a class for an estimator": ({"estimator": PLSRegression}, InvalidInput, "call it first"),
    "no model at the end": ({"estimator": make_pipeline(StandardScaler())}, InvalidInput, "ends in a model"),
    "nothing in the pipeline": ({"estimator": make_pipeline("passthrough")}, InvalidInput, "found None"),
    "a model before the model": ({"estimator": make_pipeline(Ridge(), Ridge())}, InvalidInput, "no trans"),
    "a clusterer": ({"estimator": KMeans(2)}, InvalidInput, "neither that it is a regressor"),
    "something else": ({"estimator": "PLS"}, InvalidInput, "Expected a scikit-learn estimator"),
    "an unknown task": ({"task_type": "regresion"}, InvalidInput, "Did you mean 'regression'"),
    "an unknown metric": ({"metric": "rsme"}, InvalidInput, "Did you mean 'rmse'"),
    "a metric of another task": ({"metric": "accuracy"}, InvalidInput, "metric of a regression"),
    "a metric with a sign": ({"metric": "bias"}, InvalidInput, "has a sign"),
    "no name": ({"dataset_name": " "}, InvalidInput, "dataset_name"),
    "no jobs": ({"n_jobs": 0}, InvalidInput, "n_jobs"),
    "half a job": ({"n_jobs": 1.5}, InvalidInput, "n_jobs"),
    "a target that cannot come back": ({"y_processing": KFold(3)}, InvalidInput, "lacks"),
    "too many folds": ({"cv": 13}, InvalidInput, "cannot split these 12 samples"),
    "one fold": ({"cv": 1}, InvalidInput, "cannot split"),
    "a word for cv": ({"cv": "ten"}, InvalidInput, "Expected cv as"),
    "an object for cv": ({"cv": object()}, InvalidInput, "Expected cv as"),
    "no folds": ({"cv": []}, InvalidInput, "no fold at all"),
    "no pair": ({"cv": [ROWS]}, InvalidInput, "not a pair"),
    "an empty fold": ({"cv": [(ROWS[:6], ROWS[6:]), (ROWS, [])]}, InvalidInput, "Fold 1 has no samples"),
    "nothing to fit": ({"cv": [([], ROWS)]}, InvalidInput, "Fold 0 has no samples to fit"),
    "rows that are not there": ({"cv": [(ROWS[:6], [11, 12])]}, InvalidInput, "11 to 12 of 12"),
    "rows from the end": ({"cv": [(ROWS[:6], [-1])]}, InvalidInput, "Fold 0 names rows -1"),
    "rows that are no numbers": ({"cv": [(ROWS[:6], [0.5])]}, InvalidInput, "list of row numbers"),
    "validation on training rows": ({"cv": [(ROWS[:6], ROWS[5:])]}, InvalidInput, "first: row 5"),
    "groups that are missing": ({"cv": GroupKFold(3)}, InvalidInput, "groups"),
    "groups of another length": ({"groups": [1, 2]}, ShapeMismatch, "one label per sample, 12"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_and_nothing_is_recorded(model_store: Any, case: str) -> None:
    change, error, words = BAD[case]
    given: dict[str, Any] = {"estimator": Ridge(), "X": X, "y": Y, "cv": 3, "dataset_name": "noise"} | change
    with pytest.raises(error, match=words):
        record_cross_validation(model_store, given.pop("estimator"), given.pop("X"), given.pop("y"), **given)
    assert model_store.list_runs().is_empty()
    assert not model_store._state.artifacts


def test_integers_and_masks_are_taken_for_what_they_are(model_store: Any) -> None:
    mask = ROWS < 8
    result = record_cross_validation(
        model_store, Ridge(), (X * 100).astype(int), ROWS, cv=[(mask, ~mask)], dataset_name="noise",
        wavelengths=pl.Series([900, 902, 904, 906]).to_numpy(), n_jobs=None,
    )  # fmt: skip
    assert result.pooled["n"] == 4
    assert model_store.get_chain(result.chain_id)["wavelengths"].dtype == np.float64


def test_a_frame_without_numbers_for_names_has_no_wavelengths(model_store: Any) -> None:
    frame = pl.DataFrame(X, schema=["a", "b", "c", "d"])
    result = record_cross_validation(model_store, Ridge(), frame, Y, cv=3, dataset_name="noise")
    assert model_store.get_chain(result.chain_id)["wavelengths"] is None


def test_a_regressor_may_come_before_the_model_when_it_transforms(model_store: Any) -> None:
    estimator = make_pipeline(FunctionTransformer(), Ridge())
    result = record_cross_validation(model_store, estimator, X, Y, cv=3, dataset_name="noise")
    assert result.n_folds == 3


@pytest.mark.parametrize("name", ["rmsec", "rmsecv", "rmsep", "rmse", None])
def test_every_name_of_the_rmse_is_the_rmse(name: str | None) -> None:
    assert choose_metric(name, "regression") == "rmse"


def test_the_hash_of_the_data_follows_its_values_and_shape() -> None:
    same = content_hash(np.asfortranarray(X), Y.copy())
    assert re.fullmatch("[0-9a-f]{64}", same)
    assert same == content_hash(X, Y)
    assert same != content_hash(with_value(X, (0, 0), 9.0), Y)
    assert content_hash(X, Y) != content_hash(X.reshape(4, 12), Y)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.datetime64("2024-01-01") + np.arange(12), "dates or times"),
        (np.arange(12).astype("timedelta64[D]"), "spans of time"),
        (np.array([np.datetime64("2024-01-01")] * 12, dtype=object), "dates or times"),
        (np.arange(12) + 1j, "complex"),
        (np.array([1j] * 12, dtype=object), "complex"),
        (np.array([{}] * 12, dtype=object), "dict"),
        (["20_24"] * 12, "20_24"),
        (["<0.5"] * 12, "<0.5"),
    ],
)
def test_targets_that_are_no_numbers_are_refused_in_words(y: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        check_data(np.eye(12), y, task_type="regression")


def test_targets_of_a_selection_are_joined_by_place_with_a_word() -> None:
    y = pd.Series(Y, index=ROWS[::-1])
    with pytest.warns(RecordingWarning, match=r"y\.to_numpy\(\)"):
        data = check_data(pd.DataFrame(X), y, task_type="regression")
    np.testing.assert_array_equal(data.y, Y)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("index", [ROWS, ROWS + 100, [*ROWS[:-1], 99]])
def test_other_indexes_are_joined_by_place_without_a_word(index: Any) -> None:
    check_data(pd.DataFrame(X), pd.Series(Y, index=index), task_type="regression")


# -- Predictions of several folds.


def test_probabilities_are_put_under_their_own_class() -> None:
    aligned = align_probabilities(np.array([[0.3, 0.7]]), np.array(["c", "a"]), ["a", "b", "c"])
    np.testing.assert_array_equal(aligned, [[0.7, 0.0, 0.3]])
    with pytest.raises(ShapeMismatch):
        align_probabilities(np.ones((2, 3)), ["a", "b"], ["a", "b"])
    with pytest.raises(InvalidInput, match="z"):
        align_probabilities(np.ones((2, 1)), ["z"], ["a", "b"])


def prediction(y_pred: list[Any], y_proba: list[Any] | None = None) -> Prediction:
    rows = np.arange(len(y_pred))
    proba = None if y_proba is None else np.array(y_proba)
    return Prediction("test", rows, np.array(y_pred), np.array(y_pred), proba)


def test_folds_average_numbers_and_probabilities_and_vote_on_labels() -> None:
    mean = average_folds([prediction([1.0, 2.0]), prediction([3.0, 2.0])], None)
    np.testing.assert_array_equal(mean.y_pred, [2.0, 2.0])
    classes = np.array(["a", "b"])
    sure, unsure = prediction(["a"], [[0.9, 0.1]]), prediction(["b"], [[0.4, 0.6]])
    assert average_folds([sure, unsure, unsure], classes).y_pred.tolist() == ["a"]
    votes = [prediction(["a"]), prediction(["b"]), prediction(["b"])]
    assert average_folds(votes, classes).y_pred.tolist() == ["b"]
