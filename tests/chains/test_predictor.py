"""A stored chain is a scikit-learn estimator that is fitted on arrival."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.ensemble import StackingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted

from nirs_store import WorkspaceStore, load_bundle, load_tecator, record_cross_validation
from nirs_store.chains.predictor import ChainPredictor, spread
from nirs_store.errors import InvalidInput, ShapeMismatch, UnknownId

MEAT = load_tecator()
X, FAT = MEAT.X[:160, ::4], MEAT.fat[:160]
NEW, NEW_FAT = MEAT.X[160:, ::4], MEAT.fat[160:]
GRID = MEAT.wavelengths[::4]
FATTY = np.where(FAT > 15, "fatty", "lean")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WorkspaceStore, dict[str, str]]]:
    """A store with a refitted regression, one of folds alone, and a classification."""
    with WorkspaceStore(tmp_path_factory.mktemp("predictors") / "workspace") as store:
        pls = make_pipeline(StandardScaler(), PLSRegression(6))
        about: dict[str, Any] = {
            "cv": 4,
            "dataset_name": "meat",
            "wavelengths": GRID,
            "wavelength_unit": "nm",
        }
        chains = {
            "refit": record_cross_validation(store, pls, X, FAT, target="fat", target_unit="%", **about),
            "folds": record_cross_validation(store, pls, X, FAT, refit=False, **about),
            "classes": record_cross_validation(
                store, make_pipeline(StandardScaler(), LogisticRegression()), X, FATTY, refit=False, **about
            ),
        }
        yield store, {name: result.chain_id for name, result in chains.items()}


@pytest.fixture(scope="module")
def refit(recorded: Any) -> Any:
    store, chains = recorded
    return store.predictor(chains["refit"])


@pytest.fixture(scope="module")
def classes(recorded: Any) -> Any:
    store, chains = recorded
    return store.predictor(chains["classes"])


def test_it_predicts_what_the_store_predicts_and_says_what_it_takes(recorded: Any, refit: Any) -> None:
    store, chains = recorded
    np.testing.assert_array_equal(refit.predict(NEW), store.replay_chain(chains["refit"], NEW))
    check_is_fitted(refit)
    assert refit.n_features_in_ == NEW.shape[1]
    np.testing.assert_array_equal(refit.feature_names_in_.astype(float), GRID)
    assert is_regressor(refit)
    assert not is_classifier(refit)
    assert not hasattr(refit, "classes_")
    assert not hasattr(refit, "predict_proba")
    with pytest.raises(UnknownId, match="nothing"):
        store.predictor("nothing")


def test_a_frame_whose_columns_are_named_like_its_features_is_taken(refit: Any) -> None:
    frame = pl.DataFrame(NEW, schema=list(refit.feature_names_in_))
    np.testing.assert_array_equal(refit.predict(frame), refit.predict(NEW))
    with pytest.raises(ShapeMismatch, match="grid"):
        refit.predict(frame.rename({str(refit.feature_names_in_[0]): "700"}))


def test_a_classifier_has_labels_and_probabilities(recorded: Any, classes: Any) -> None:
    store, chains = recorded
    assert classes.classes_.tolist() == ["fatty", "lean"]
    proba = classes.predict_proba(NEW)
    np.testing.assert_allclose(proba.sum(axis=1), 1.0)
    np.testing.assert_array_equal(classes.classes_[proba.argmax(axis=1)], classes.predict(NEW))
    np.testing.assert_array_equal(classes.predict(NEW), store.replay_chain(chains["classes"], NEW))
    assert is_classifier(classes)
    assert classes.score(X, FATTY) == np.mean(classes.predict(X) == FATTY)


def test_the_spread_is_that_of_the_fold_models_beside_a_refit_too(recorded: Any, refit: Any) -> None:
    store, chains = recorded
    chain = store.get_chain(chains["refit"])
    assert chain is not None
    scaled = []
    for fold in range(4):
        one = {
            **chain,
            "fold_artifacts": {f"fold_{fold}": chain["fold_artifacts"][f"fold_{fold}"]},
        }
        scaled.append(ChainPredictor(one, store.load_artifact).predict(NEW))
    y, std = refit.predict(NEW, return_std=True)
    np.testing.assert_array_equal(y, refit.predict(NEW))
    np.testing.assert_allclose(std, np.std(scaled, axis=0, ddof=1), rtol=1e-12)
    mean, same = store.predictor(chains["folds"]).predict(NEW, return_std=True)
    np.testing.assert_allclose(mean, np.mean(scaled, axis=0), rtol=1e-12)
    np.testing.assert_allclose(same, std, rtol=1e-12)


def test_weights_count_in_the_spread_and_equal_ones_do_not() -> None:
    each = [np.array([1.0, 2.0]), np.array([3.0, 2.0]), np.array([8.0, 2.0])]
    np.testing.assert_allclose(spread(each, (2.0, 2.0, 2.0)), np.std(each, axis=0, ddof=1))
    # Worked out by hand: mean 2, sum of squares 1 + 1 + 0, W = 2, sum of squared weights 2.
    np.testing.assert_allclose(spread(each, (1.0, 1.0, 0.0)), [np.sqrt(2.0), 0.0])
    with pytest.raises(InvalidInput, match="at least two"):
        spread(each, (1.0, 0.0, 0.0))


def test_a_spread_that_is_not_there_is_refused(recorded: Any, classes: Any, tmp_path: Path) -> None:
    store, chains = recorded
    with pytest.raises(InvalidInput, match="classifier"):
        classes.predict(NEW, return_std=True)
    bundle = load_bundle(store.export_chain(chains["refit"], tmp_path / "x"), allow_pickle=True)
    with pytest.raises(InvalidInput, match="at least two folds"):
        bundle.predict(NEW, return_std=True)


def test_it_works_where_scikit_learn_takes_a_fitted_estimator(recorded: Any, refit: Any) -> None:
    store, chains = recorded
    folds = store.predictor(chains["folds"])
    assert refit.score(NEW, NEW_FAT) == cross_val_score(refit, NEW, NEW_FAT, cv=[([0], range(len(NEW)))])[0]
    # A product of matrices may end in other bits when it has other rows.
    np.testing.assert_allclose(cross_val_predict(refit, NEW, NEW_FAT, cv=3), refit.predict(NEW), rtol=1e-12)
    found = permutation_importance(refit, NEW, NEW_FAT, n_repeats=2, random_state=0)
    assert found.importances_mean.shape == (NEW.shape[1],)
    assert found.importances_mean.max() > 0
    piped = make_pipeline(FunctionTransformer(), refit).fit(NEW, NEW_FAT)
    np.testing.assert_array_equal(piped.predict(NEW), refit.predict(NEW))
    np.testing.assert_array_equal(FrozenEstimator(refit).fit(NEW, NEW_FAT).predict(NEW), refit.predict(NEW))
    stack = StackingRegressor([("a", refit), ("b", folds)], LinearRegression(), cv="prefit").fit(X, FAT)
    columns = np.column_stack([refit.predict(NEW), folds.predict(NEW)])
    np.testing.assert_array_equal(stack.predict(NEW), stack.final_estimator_.predict(columns))
    frozen = StackingRegressor(
        [("a", FrozenEstimator(refit)), ("b", FrozenEstimator(folds))], LinearRegression()
    )
    np.testing.assert_allclose(frozen.fit(X, FAT).predict(NEW), stack.predict(NEW))


def test_it_is_never_fitted_again_and_clones_to_itself(refit: Any) -> None:
    before = refit.predict(NEW)
    assert refit.fit(NEW[:5], np.zeros(5)) is refit
    assert clone(refit) is refit
    assert refit.get_params() == {}
    assert refit.set_params() is refit
    with pytest.raises(InvalidInput, match="n_components"):
        refit.set_params(n_components=3)
    np.testing.assert_array_equal(refit.predict(NEW), before)


def test_it_needs_neither_store_nor_bundle_once_it_is_there(tmp_path: Path) -> None:
    with WorkspaceStore(tmp_path / "w") as store:
        result = record_cross_validation(store, PLSRegression(3), X, FAT, cv=3, dataset_name="meat")
        expected = store.replay_chain(result.chain_id, NEW)
        predictor = store.predictor(result.chain_id)
        bundle = load_bundle(store.export_chain(result.chain_id, tmp_path / "b"), allow_pickle=True)
    (tmp_path / "b.n4a").unlink()
    for one in (predictor, bundle):
        for other in (one, pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
            np.testing.assert_array_equal(other.predict(NEW), expected)  # type: ignore[attr-defined]
            assert repr(other) == repr(one)


def test_a_pickle_of_it_holds_no_plan_and_needs_none(recorded: Any) -> None:
    store, chains = recorded
    predictor = store.predictor(chains["refit"])
    y, std = predictor.predict(NEW, return_std=True)
    written = pickle.dumps(predictor)
    assert b"nirs_store.chains.plan" not in written
    assert b"nirs_store.chains.plan" not in written
    assert b"nirs_store.chains.replay" not in written
    for state in (predictor.__getstate__(), {**predictor.__getstate__(), "_plan": "of another time"}):
        again = ChainPredictor.__new__(ChainPredictor)
        again.__setstate__(state)
        found = again.predict(NEW, return_std=True)
        np.testing.assert_array_equal(found[0], y)
        np.testing.assert_array_equal(found[1], std)


def test_a_bundle_is_such_an_estimator_as_well(recorded: Any, tmp_path: Path) -> None:
    store, chains = recorded
    with pytest.warns(UserWarning, match="domain of the calibration is left out"):
        path = store.export_chain(chains["folds"], tmp_path / "x")
    bundle = load_bundle(path, allow_pickle=True)
    assert isinstance(bundle, ChainPredictor)
    assert bundle.n_features_in_ == NEW.shape[1]
    y, std = bundle.predict(NEW, return_std=True)
    expected = store.predictor(chains["folds"]).predict(NEW, return_std=True)
    np.testing.assert_array_equal(y, expected[0])
    np.testing.assert_array_equal(std, expected[1])
    assert clone(bundle) is bundle
    assert "Bundle" in bundle._repr_mimebundle_()["text/html"]


def test_a_notebook_shows_the_chain_and_escapes_its_names(refit: Any) -> None:
    shown = refit._repr_mimebundle_()
    assert "PLSRegression" in shown["text/html"]
    assert "fat (%)" in shown["text/html"]
    assert shown["text/plain"] == repr(refit)
    evil = ChainPredictor({**refit.chain, "metadata": {"target": "<script>"}}, refit._objects.__getitem__)
    assert "<script>" not in evil._repr_html_()


def test_a_chain_that_does_not_say_how_many_channels_it_takes_has_no_such_attribute() -> None:
    chain = {"steps": [{"step_idx": 0}], "model_step_idx": 0, "fold_artifacts": {"final": "x"}}
    shy = ChainPredictor(chain, {"x": Shy()}.__getitem__)
    assert not hasattr(shy, "n_features_in_")
    assert not hasattr(shy, "feature_names_in_")
    assert shy.predict(NEW).shape == (len(NEW),)


class Same:
    """A transformer that knows nothing of the spectra it was fitted on."""

    def fit(self, X: np.ndarray) -> Same:
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        return X


def predictor_of(steps: list[dict[str, Any]], fitted: dict[str, Any], **chain: Any) -> ChainPredictor:
    return ChainPredictor(
        {"steps": steps, "model_step_idx": steps[-1]["step_idx"], **chain}, fitted.__getitem__
    )


def merged(*branches: Any) -> ChainPredictor:
    """A model behind branches that are put side by side; None is one without a step."""
    fitted = {f"step {n}": step.fit(X) for n, step in enumerate(branches) if step is not None}
    both = np.hstack([X if step is None else step.transform(X) for step in branches])
    steps = [
        {"step_idx": n, "artifact_id": f"step {n}", "branch_path": [n]}
        for n, step in enumerate(branches)
        if step is not None
    ]
    paths = [[n] for n in range(len(branches))]
    merge = {"step_idx": 8, "operator_type": "merge", "stateless": True, "branches": paths}
    fitted["model"] = LinearRegression().fit(both, FAT)
    return predictor_of([*steps, merge, {"step_idx": 9, "artifact_id": "model"}], fitted)


@pytest.mark.parametrize(
    "branches",
    [(StandardScaler(), PCA(3)), (PCA(3), None), (None, PCA(3)), (Same(), PCA(2))],
)
def test_merged_branches_take_the_channels_that_went_into_them(branches: tuple[Any, ...]) -> None:
    predictor = merged(*branches)
    assert predictor.n_features_in_ == X.shape[1]
    assert predictor.predict(NEW).shape == (len(NEW),)


def test_merged_branches_that_do_not_know_their_channels_say_so() -> None:
    assert not hasattr(merged(Same(), None), "n_features_in_")


def test_augmented_channels_are_not_those_that_go_in() -> None:
    both = np.hstack([X, X])
    fitted = {"same": Same(), "model": LinearRegression().fit(both, FAT)}
    steps = [
        {"step_idx": 0, "artifact_id": "same", "operator_type": "feature_augmentation"},
        {"step_idx": 1, "artifact_id": "model"},
    ]
    assert not hasattr(predictor_of(steps, fitted), "n_features_in_")


def test_the_spread_counts_folds_that_the_step_of_the_model_names() -> None:
    models = {str(fold): LinearRegression().fit(X[fold::3], FAT[fold::3]) for fold in range(3)}
    fitted = {**models, "refit": LinearRegression().fit(X, FAT)}
    alone = [model.predict(NEW) for model in models.values()]
    for names in ({fold: fold for fold in models}, {**{fold: fold for fold in models}, "final": "refit"}):
        predictor = predictor_of([{"step_idx": 0, "fold_artifact_ids": names}], fitted)
        y, std = predictor.predict(NEW, return_std=True)
        np.testing.assert_array_equal(y, predictor.predict(NEW))
        np.testing.assert_allclose(std, spread(alone))


class Shy:
    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.zeros(len(X))


# -- scikit-learn's own checks -----------------------------------------------------------------

_FIT_CHECKS_DATA = "fit() is asked to refuse data; here it changes nothing and looks at none"
_MADE_OF_A_CHAIN = "an object is made of a chain, not of parameters"
_FITS_ANEW = "the estimator is to learn from the data of the check"
EXPECTED_FAILED = {
    "check_parameters_default_constructible": _MADE_OF_A_CHAIN,
    "check_do_not_raise_errors_in_init_or_set_params": _MADE_OF_A_CHAIN,
    "check_complex_data": _FIT_CHECKS_DATA,
    "check_estimators_empty_data_messages": _FIT_CHECKS_DATA,
    "check_estimators_nan_inf": _FIT_CHECKS_DATA,
    "check_estimator_sparse_tag": _FIT_CHECKS_DATA,
    "check_estimator_sparse_array": _FIT_CHECKS_DATA,
    "check_estimator_sparse_matrix": _FIT_CHECKS_DATA,
    "check_supervised_y_no_nan": _FIT_CHECKS_DATA,
    "check_fit1d": _FIT_CHECKS_DATA,
    "check_n_features_in_after_fitting": _FIT_CHECKS_DATA,
    "check_regressors_train": _FIT_CHECKS_DATA,
    "check_classifiers_train": _FIT_CHECKS_DATA,
    "check_classifiers_regression_target": _FIT_CHECKS_DATA,
    "check_dtype_object": _FIT_CHECKS_DATA,
    "check_supervised_y_2d": _FIT_CHECKS_DATA,
    "check_classifiers_one_label": _FITS_ANEW,
    "check_classifiers_one_label_sample_weights": _FITS_ANEW,
    "check_classifiers_classes": _FITS_ANEW,
    "check_n_features_in": "n_features_in_ is there before fit(), as the estimator is fitted on arrival",
}


def toy(width: int, kind: str) -> ChainPredictor:
    """A chain of three folds on as many channels as scikit-learn's data have."""
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(60, width))
    y = Z[:, 0] if kind == "regression" else np.arange(60) % 2
    model = LinearRegression() if kind == "regression" else LogisticRegression()
    fitted: dict[str, Any] = {"scaler": StandardScaler().fit(Z)}
    for fold in range(3):
        rows = np.arange(60) % 3 != fold
        fitted[f"model {fold}"] = clone(model).fit(fitted["scaler"].transform(Z[rows]), y[rows])
    chain = {
        "steps": [{"step_idx": 0, "artifact_id": "scaler"}, {"step_idx": 1}],
        "model_step_idx": 1,
        "fold_artifacts": {f"fold_{fold}": f"model {fold}" for fold in range(3)},
    }
    return ChainPredictor(chain, fitted.__getitem__)


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_scikit_learns_checks_pass_but_for_those_that_fit(kind: str) -> None:
    """A check counts as passed when it does for a chain as wide as the data that the check makes."""
    passed: set[str] = set()
    failed: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for width in (1, 2, 3, 4, 5, 10):
            results = check_estimator(toy(width, kind), on_fail=None, on_skip=None)
            worst = {r["check_name"] for r in results if r["status"] == "failed"}
            passed |= {r["check_name"] for r in results if r["status"] == "passed"} - worst
            failed |= {r["check_name"]: repr(r["exception"]) for r in results if r["status"] == "failed"}
    unexpected = {name: why for name, why in failed.items() if name not in passed | EXPECTED_FAILED.keys()}
    assert unexpected == {}
    assert len(passed) >= 30
    assert passed & EXPECTED_FAILED.keys() == set()
