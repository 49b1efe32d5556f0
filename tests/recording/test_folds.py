"""Classifiers, transformed targets and pipelines of every build, fold by fold."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from chemotools.derivative import SavitzkyGolay
from chemotools.scatter import StandardNormalVariate
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import StackingRegressor
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.metrics import balanced_accuracy_score, log_loss, root_mean_squared_error
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import LabelEncoder, StandardScaler

from nirs_store import CrossValidationResult, record_cross_validation
from nirs_store.datasets import Tecator
from nirs_store.errors import InvalidInput

FOLDS = KFold(4, shuffle=True, random_state=0)


def record(store: Any, estimator: Any, X: Any, y: Any, **options: Any) -> CrossValidationResult:
    return record_cross_validation(store, estimator, X, y, **{"cv": FOLDS, "dataset_name": "meat"} | options)


def arrays(store: Any, result: CrossValidationResult, fold_id: str, partition: str) -> dict[str, Any]:
    row = result.scores.filter(pl.col("fold_id") == fold_id, pl.col("partition") == partition)
    prediction: dict[str, Any] = store.get_prediction(row["prediction_id"].item(), load_arrays=True)
    return prediction


def operators(store: Any, result: CrossValidationResult) -> list[str]:
    chain = store.get_chain(result.chain_id)
    return [step["operator_class"].rpartition(".")[2] for step in chain["steps"]]


def test_a_classifier_keeps_its_labels_and_probabilities(
    store: Any, tecator: Tecator, meat: NDArray[Any]
) -> None:
    estimator = make_pipeline(StandardScaler(), PCA(5, random_state=0), KNeighborsClassifier(7))
    cv = StratifiedKFold(4, shuffle=True, random_state=0)
    result = record(store, estimator, tecator.X, meat, cv=cv)
    labels = cross_val_predict(estimator, tecator.X, meat, cv=cv)
    proba = cross_val_predict(estimator, tecator.X, meat, cv=cv, method="predict_proba")
    assert (result.task_type, result.metric) == ("classification", "balanced_accuracy")
    assert result.value == pytest.approx(balanced_accuracy_score(meat, labels))
    assert result.pooled["log_loss"] == pytest.approx(log_loss(meat, proba))
    assert result.rmsecv is None
    stored = arrays(store, result, "fold_1", "val")
    assert set(stored["y_pred"]) <= {"fatty", "lean", "medium"}
    np.testing.assert_array_equal(stored["y_true"], meat[stored["sample_indices"]])
    np.testing.assert_allclose(stored["y_proba"], proba[stored["sample_indices"]])
    chain = store.get_chain(result.chain_id)
    assert chain["metadata"]["classes"] == ["fatty", "lean", "medium"]
    assert operators(store, result) == ["StratifiedKFold", "StandardScaler", "PCA", "KNeighborsClassifier"]
    model = store.load_artifact(chain["fold_artifacts"]["final"])
    assert list(model.classes_) == ["fatty", "lean", "medium"]


def test_a_number_of_folds_is_stratified_for_a_classifier(
    model_store: Any, tecator: Tecator, meat: NDArray[Any]
) -> None:
    assert (
        operators(model_store, record(model_store, RidgeClassifier(), tecator.X, meat, cv=3))[0]
        == "StratifiedKFold"
    )
    assert operators(model_store, record(model_store, Ridge(), tecator.X, tecator.fat, cv=3))[0] == "KFold"


def test_labels_in_an_object_column_are_stored_as_text(
    model_store: Any, tecator: Tecator, meat: NDArray[Any]
) -> None:
    result = record(model_store, RidgeClassifier(), tecator.X, pl.Series(meat.tolist()))
    assert arrays(model_store, result, "fold_0", "val")["y_true"].dtype.kind == "U"


def test_a_classifier_without_probabilities_has_no_log_loss(
    model_store: Any, tecator: Tecator, meat: NDArray[Any]
) -> None:
    result = record(model_store, RidgeClassifier(), tecator.X, meat, metric="f1")
    stored = arrays(model_store, result, "fold_0", "val")
    assert stored["y_proba"] is None
    assert stored["scores"]["log_loss"] is None
    assert result.metric == "f1"


def test_a_class_that_a_fold_never_saw_has_probability_zero(model_store: Any, tecator: Tecator) -> None:
    y = np.array(["lean", "fatty"])[(tecator.fat > 15).astype(int)]
    y[:3] = "rare"
    rows = np.arange(215)
    result = record(model_store, LinearDiscriminantAnalysis(), tecator.X, y, cv=[(rows[3:], rows[:3])])
    stored = arrays(model_store, result, "fold_0", "val")
    assert model_store.get_chain(result.chain_id)["metadata"]["classes"] == ["fatty", "lean", "rare"]
    assert stored["y_proba"].shape == (3, 3)
    np.testing.assert_array_equal(stored["y_proba"][:, 2], 0.0)
    assert arrays(model_store, result, "final", "train")["y_proba"][:, 2].min() > 0


def test_a_label_encoder_is_fitted_once_and_shared(store: Any, tecator: Tecator, meat: NDArray[Any]) -> None:
    plain = record(store, KNeighborsClassifier(15), tecator.X, meat)
    coded = record(store, KNeighborsClassifier(15), tecator.X, meat, y_processing=LabelEncoder())
    assert coded.pooled["log_loss"] == pytest.approx(plain.pooled["log_loss"])
    step = store.get_chain(coded.chain_id)["steps"][1]
    assert step["operator_type"] == "y_processing"
    encoder = store.load_artifact(step["artifact_id"])
    assert store.get_artifact(step["artifact_id"])["artifact_type"] == "encoder"
    model = store.load_artifact(store.get_chain(coded.chain_id)["fold_artifacts"]["fold_0"])
    assert list(model.classes_) == [0, 1, 2]
    assert list(encoder.classes_) == ["fatty", "lean", "medium"]
    depends_on = store.get_chain(coded.chain_id)["metadata"]["depends_on"]
    assert all(step["artifact_id"] in needed for needed in depends_on.values())
    stored = arrays(store, coded, "fold_0", "val")
    again = encoder.inverse_transform(model.predict(tecator.X[stored["sample_indices"]]))
    np.testing.assert_array_equal(stored["y_pred"], again)


def test_a_scaled_target_is_fitted_in_each_fold_and_scaled_back(model_store: Any, tecator: Tecator) -> None:
    estimator = make_pipeline(StandardNormalVariate(), Ridge(1e-3))
    result = record(model_store, estimator, tecator.X, tecator.fat, y_processing=StandardScaler())
    wrapped = TransformedTargetRegressor(estimator, transformer=StandardScaler())
    expected = cross_val_predict(wrapped, tecator.X, tecator.fat, cv=FOLDS)
    assert result.rmsecv == pytest.approx(root_mean_squared_error(tecator.fat, expected))
    step = model_store.get_chain(result.chain_id)["steps"][2]
    assert step["operator_type"] == "y_processing"
    for index, (train, _) in enumerate(FOLDS.split(tecator.X)):
        (encoder_id,) = step["fold_artifact_ids"][f"fold_{index}"]
        assert model_store.load_artifact(encoder_id).mean_[0] == pytest.approx(tecator.fat[train].mean())
    assert arrays(model_store, result, "fold_0", "val")["y_pred"].ndim == 1


def test_a_transformed_target_regressor_is_one_model(model_store: Any, tecator: Tecator) -> None:
    wrapped = TransformedTargetRegressor(PLSRegression(6), transformer=StandardScaler())
    result = record(model_store, make_pipeline(StandardNormalVariate(), wrapped), tecator.X, tecator.fat)
    assert operators(model_store, result) == ["KFold", "StandardNormalVariate", "TransformedTargetRegressor"]
    model = model_store.load_artifact(model_store.get_chain(result.chain_id)["fold_artifacts"]["fold_0"])
    assert model.transformer_.mean_.shape == (1,)


def test_a_search_is_one_model_and_its_choice_is_recorded(model_store: Any, tecator: Tecator) -> None:
    inner = make_pipeline(StandardScaler(), Ridge())
    search = GridSearchCV(inner, {"ridge__alpha": [1e-3, 1e3]}, cv=3)
    result = record(model_store, search, tecator.X, tecator.fat, refit=False)
    assert operators(model_store, result) == ["KFold", "GridSearchCV"]
    best = arrays(model_store, result, "fold_0", "val")["best_params"]
    assert best["ridge__alpha"] == 1e-3
    assert "Pipeline" in best["estimator"]


def test_nested_pipelines_are_flattened_and_idle_steps_dropped(model_store: Any, tecator: Tecator) -> None:
    inner = make_pipeline(StandardNormalVariate(), "passthrough", SavitzkyGolay(window_length=7, polyorder=2))
    estimator = Pipeline(
        [("first", inner), ("idle", None), ("last", make_pipeline(StandardScaler(), Ridge()))]
    )
    result = record(model_store, estimator, tecator.X, tecator.fat)
    assert operators(model_store, result) == [
        "KFold", "StandardNormalVariate", "SavitzkyGolay", "StandardScaler", "Ridge",
    ]  # fmt: skip
    expected = cross_val_predict(estimator, tecator.X, tecator.fat, cv=FOLDS)
    assert result.rmsecv == pytest.approx(root_mean_squared_error(tecator.fat, expected))


def test_unions_and_column_transformers_are_one_transformer_each(model_store: Any, tecator: Tecator) -> None:
    union = FeatureUnion([("snv", StandardNormalVariate()), ("pca", PCA(3, random_state=0))])
    columns = ColumnTransformer([("low", StandardScaler(), slice(0, 50))], remainder="passthrough")
    estimator = make_pipeline(union, columns, Ridge())
    result = record(model_store, estimator, tecator.X, tecator.fat)
    assert operators(model_store, result) == ["KFold", "FeatureUnion", "ColumnTransformer", "Ridge"]
    expected = cross_val_predict(estimator, tecator.X, tecator.fat, cv=FOLDS)
    assert result.rmsecv == pytest.approx(root_mean_squared_error(tecator.fat, expected))


def test_a_stack_is_one_model(model_store: Any, tecator: Tecator) -> None:
    stack = StackingRegressor([("pls", PLSRegression(5)), ("ridge", Ridge())], cv=3)
    assert operators(model_store, record(model_store, stack, tecator.X, tecator.fat)) == [
        "KFold",
        "StackingRegressor",
    ]


class OwnPipeline(Pipeline):  # type: ignore[misc]
    """Fits in its own way, so only it knows how to predict."""


class Bare(BaseEstimator):  # type: ignore[misc]
    """Does not say what it is, and has no fit_transform."""

    def fit(self, X: NDArray[Any], y: Any = None) -> Bare:
        self.mean_ = X.mean(axis=0)
        return self

    def transform(self, X: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(X - self.mean_)

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(X[:, 0])


def test_a_pipeline_of_another_class_is_one_model(model_store: Any, tecator: Tecator) -> None:
    own = OwnPipeline([("scale", StandardScaler()), ("ridge", Ridge())])
    assert operators(model_store, record(model_store, own, tecator.X, tecator.fat)) == [
        "KFold",
        "OwnPipeline",
    ]


def test_transformers_and_models_need_not_come_from_scikit_learn(model_store: Any, tecator: Tecator) -> None:
    result = record(model_store, make_pipeline(Bare(), Ridge()), tecator.X, tecator.fat)
    expected = cross_val_predict(make_pipeline(Bare(), Ridge()), tecator.X, tecator.fat, cv=FOLDS)
    assert result.rmsecv == pytest.approx(root_mean_squared_error(tecator.fat, expected))
    with pytest.raises(InvalidInput, match="task_type='regression'"):
        record(model_store, Bare(), tecator.X, tecator.fat)
    assert record(model_store, Bare(), tecator.X, tecator.fat, task_type="regression").rmsecv is not None


@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize("estimator", [KNeighborsClassifier(7), RidgeClassifier()])
def test_a_replayed_classifier_says_what_was_recorded(
    workspace: Any, tecator: Tecator, meat: NDArray[Any], estimator: Any, refit: bool
) -> None:
    chained = make_pipeline(StandardScaler(), PCA(5, random_state=0), estimator)
    result = record(workspace, chained, tecator.X[:180], meat[:180], refit=refit,
                    X_test=tecator.X[180:], y_test=meat[180:])  # fmt: skip
    replayed = workspace.replay_chain(result.chain_id, tecator.X[180:])
    assert balanced_accuracy_score(meat[180:], replayed) == pytest.approx(result.test_value)


@pytest.mark.parametrize("refit", [True, False])
def test_a_replayed_chain_undoes_the_processing_of_the_target(
    workspace: Any, tecator: Tecator, meat: NDArray[Any], refit: bool
) -> None:
    options = {"refit": refit, "X_test": tecator.X[180:]}
    scaled = record(workspace, Ridge(1e-3), tecator.X[:180], tecator.fat[:180],
                    y_processing=StandardScaler(), y_test=tecator.fat[180:], **options)  # fmt: skip
    replayed = workspace.replay_chain(scaled.chain_id, tecator.X[180:])
    assert root_mean_squared_error(tecator.fat[180:], replayed) == pytest.approx(scaled.test_value)
    coded = record(workspace, KNeighborsClassifier(15), tecator.X[:180], meat[:180],
                   y_processing=LabelEncoder(), y_test=meat[180:], **options)  # fmt: skip
    labels = workspace.replay_chain(coded.chain_id, tecator.X[180:])
    assert balanced_accuracy_score(meat[180:], labels) == pytest.approx(coded.test_value)
