"""Estimators that need a word before they are cross-validated: fitted ones, NaN, names of columns, frames inside."""

from __future__ import annotations

import pickle
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor, StackingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

from nirs_store import load_bundle, record_cross_validation, record_stacking
from nirs_store.blobs.serializers import get_serializer
from nirs_store.chains.predictor import ChainPredictor
from nirs_store.datasets import Tecator
from nirs_store.errors import InvalidInput, ReplayError, SerializationError

FOLDS = KFold(3, shuffle=True, random_state=1)
NAMES = [f"ch {k}" for k in range(100)]


def record(store: Any, estimator: Any, X: Any, y: Any, **options: Any) -> Any:
    return record_cross_validation(store, estimator, X, y, **{"cv": FOLDS, "dataset_name": "meat"} | options)


def replays(store: Any, chain_id: str, folder: Path) -> list[Any]:
    """Every way from a chain to predictions."""
    return [
        partial(store.replay_chain, chain_id),
        store.predictor(chain_id).predict,
        load_bundle(store.export_chain(chain_id, folder / "b.n4a"), allow_pickle=True).predict,
    ]


# -- What no fold would fit.

FITTED: dict[str, Any] = {
    "frozen": lambda model, _: FrozenEstimator(model),
    "predictor": lambda _, predictor: predictor,
    "inside a pipeline": lambda model, _: make_pipeline(StandardScaler(), FrozenEstimator(model)),
    "a frozen transformer": lambda model, _: make_pipeline(FrozenEstimator(PCA(3)), Ridge()),
    "in a stack": lambda _, predictor: StackingRegressor([("a", predictor), ("b", Ridge())]),
    "in a search": lambda model, _: GridSearchCV(
        make_pipeline(FrozenEstimator(PCA(3)), Ridge()), {"ridge__alpha": [1]}
    ),
    "as a function": lambda model, _: make_pipeline(FunctionTransformer(model.predict), LinearRegression()),
}


@pytest.mark.parametrize("kind", FITTED)
def test_what_is_fitted_already_is_not_cross_validated(kind: str, workspace: Any, tecator: Tecator) -> None:
    X, y = tecator.X[:60], tecator.fat[:60]
    honest = record(workspace, PLSRegression(3), X, y)
    estimator = FITTED[kind](PLSRegression(3).fit(X, y), workspace.predictor(honest.chain_id))
    with pytest.raises(InvalidInput, match="fitted already"):
        record(workspace, estimator, X, y)
    assert len(workspace.list_runs()) == 1
    with pytest.raises(InvalidInput, match=r"final_estimator.*fitted already"):
        record_stacking(workspace, [honest.chain_id], workspace.predictor(honest.chain_id), X, y)


# -- NaN.


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(SimpleImputer(), PLSRegression(3)),
        make_pipeline(StandardScaler(), KNNImputer(), Ridge()),
        make_pipeline(make_union(SimpleImputer(), SimpleImputer(strategy="median")), PLSRegression(2)),
        HistGradientBoostingRegressor(max_iter=3),
    ],
    ids=["imputer", "scaled before", "union", "model"],
)
def test_nan_goes_through_pipelines_that_fill_it_in(
    estimator: Any, workspace: Any, tecator: Tecator, tmp_path: Path
) -> None:
    X, y = tecator.X[:60].copy(), tecator.fat[:60]
    X[3:50:7, 5] = np.nan
    result = record(workspace, estimator, X, y)
    assert result.rmsecv == pytest.approx(
        root_mean_squared_error(y, cross_val_predict(estimator, X, y, cv=FOLDS).ravel())
    )
    expected = np.ravel(estimator.fit(X, y).predict(X[:5]))
    for predict in replays(workspace, result.chain_id, tmp_path):
        np.testing.assert_allclose(np.ravel(predict(X[:5])), expected)


@pytest.mark.parametrize(
    ("estimator", "value", "words"),
    [
        (PLSRegression(3), np.nan, r"row 3, column 5. PLS\(3\) takes none.*SimpleImputer"),
        (make_pipeline(StandardScaler(), Ridge()), np.nan, "Ridge.* takes none"),
        (make_pipeline(PCA(2), SimpleImputer(), Ridge()), np.nan, r"PCA\(2\) takes none"),
        (make_pipeline(SimpleImputer(), Ridge()), np.inf, "row 3, column 5"),
    ],
)
def test_other_nan_is_refused_before_anything_is_recorded(
    estimator: Any, value: float, words: str, workspace: Any, tecator: Tecator
) -> None:
    X = tecator.X[:60].copy()
    X[3, 5] = value
    with pytest.raises(InvalidInput, match=words):
        record(workspace, estimator, X, tecator.fat[:60])
    assert len(workspace.list_runs()) == 0


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("kind", ["regression", "probabilities"])
def test_a_model_that_predicts_nan_is_named_with_its_fold(
    kind: str, model_store: Any, tecator: Tecator
) -> None:
    class Unsure(LogisticRegression):  # type: ignore[misc]
        def predict_proba(self, X: Any) -> Any:
            return super().predict_proba(X) * np.where(X[:, :1] > 2.9, np.nan, 1.0)

    logs = {"func": np.negative, "inverse_func": np.log, "check_inverse": False}
    model: Any = TransformedTargetRegressor(Ridge(), **logs) if kind == "regression" else Unsure()
    y = tecator.fat if kind == "regression" else tecator.fat > 20
    y = y.astype(float) if kind == "regression" else y
    with pytest.raises(InvalidInput, match=r"predicts NaN .* samples of fold_0.*row") as error:
        record(model_store, model, tecator.X, y, artifact_format="cloudpickle")
    assert "remove such samples" not in str(error.value)


# -- Columns by name.


def blocks(*columns: Any) -> ColumnTransformer:
    scalers = (StandardScaler(), MinMaxScaler())
    return ColumnTransformer(
        [(str(place), scalers[place], each) for place, each in enumerate(columns)], remainder="passthrough"
    )


BY_NAME: dict[str, Any] = {
    "names": lambda: make_pipeline(blocks(NAMES[60:90], NAMES[:20]), PLSRegression(3, scale=False)),
    "range": lambda: make_pipeline(blocks(slice("ch 10", "ch 30")), PLSRegression(3, scale=False)),
    "in a union": lambda: make_pipeline(make_union(blocks(NAMES[:9]), PCA(2)), Ridge()),
    "in a search": lambda: GridSearchCV(make_pipeline(blocks(NAMES[:9]), Ridge()), {"ridge__alpha": [1.0, 2.0]}),
    "with a scaled target": lambda: TransformedTargetRegressor(make_pipeline(blocks(NAMES[5:9]), Ridge())),
    "selector": lambda: make_pipeline(blocks(make_column_selector(pattern="[02468]$")), PLSRegression(3)),
}  # fmt: skip


@pytest.mark.parametrize("kind", BY_NAME)
def test_columns_are_picked_by_name_as_scikit_learn_does(
    kind: str, workspace: Any, tecator: Tecator, tmp_path: Path
) -> None:
    y = tecator.fat[:60]
    frame: Any = pd.DataFrame(tecator.X[:60], columns=NAMES)
    expected = root_mean_squared_error(y, cross_val_predict(BY_NAME[kind](), frame, y, cv=FOLDS).ravel())
    if kind not in ("selector", "range"):
        frame = (
            pl.DataFrame(frame)
            .with_columns(pl.Series("id", [f"s{k}" for k in range(60)]))
            .select("id", *NAMES)
        )
    result = record(workspace, BY_NAME[kind](), frame, y, sample_ids="id" if "id" in frame.columns else None)
    assert result.rmsecv == pytest.approx(expected)
    shuffled = frame[["ch 5", *(name for name in NAMES if name != "ch 5")]]
    one, *others = replays(workspace, result.chain_id, tmp_path)
    for predict in others:
        np.testing.assert_array_equal(predict(tecator.X[:5]), one(frame[NAMES][:5]))
        with pytest.raises(InvalidInput, match="column 0 is 'ch 5'"):
            predict(shuffled)


@pytest.mark.parametrize(
    ("estimator", "frame", "words"),
    [
        (make_pipeline(blocks(NAMES[:9]), Ridge()), False, r"by name \('ch 0', \.\.\.\), and X has none"),
        (make_pipeline(blocks(["ch 100"]), Ridge()), True, "no of that name. Did you mean 'ch 10"),
        (make_pipeline(StandardScaler(), blocks(NAMES[:9]), Ridge()), True, "by position"),
        (make_pipeline(blocks(lambda X: X.nothing), Ridge()), True, "cannot be chosen"),
    ],
)
def test_names_that_cannot_be_kept_are_refused_in_words(
    estimator: Any, frame: bool, words: str, model_store: Any, tecator: Tecator
) -> None:
    X = pl.DataFrame(tecator.X, schema=NAMES) if frame else tecator.X
    with pytest.raises(InvalidInput, match=words):
        record(model_store, estimator, X, tecator.fat)


# -- Frames between the steps.


@pytest.mark.parametrize("where", ["step", "last step", "process", "process at replay"])
@pytest.mark.parametrize("kind", ["polars", "pandas"])
def test_frames_between_steps_are_replayed(
    kind: str, where: str, workspace: Any, tecator: Tecator, tmp_path: Path
) -> None:
    X, y = tecator.X[:60], tecator.fat[:60]
    model = make_pipeline(StandardScaler(), PCA(5), MinMaxScaler(), PLSRegression(3))
    expected = np.ravel(model.fit(X, y).predict(X[:5]))
    if where.endswith("step"):
        model[0 if where == "step" else 2].set_output(transform=kind)
    with sklearn.config_context(transform_output=kind if where == "process" else "default"):
        result = record(workspace, model, X, y)
    script = workspace.export_chain(result.chain_id, tmp_path / "s", format="n4a.py")
    names: dict[str, Any] = {"__name__": "script"}
    exec(script.read_text("utf-8"), names)
    with (
        sklearn.config_context(transform_output=kind if where == "process at replay" else "default"),
        warnings.catch_warnings(),
    ):
        if where != "process at replay":
            warnings.simplefilter("error")
        for predict in (*replays(workspace, result.chain_id, tmp_path), names["predict"]):
            np.testing.assert_allclose(np.ravel(predict(X[:5])), expected)


# -- Models that another scikit-learn fitted.


def as_of(version: str, model: Any) -> bytes:
    """The pickle that a scikit-learn of that version might have written."""
    data = pickle.dumps(model)
    here = sklearn.__version__.encode()
    return data.replace(
        b"\x8c" + bytes([len(here)]) + here, b"\x8c" + bytes([len(version)]) + version.encode()
    )


@pytest.mark.parametrize("lost", ["transform_input", "memory", "verbose"])
def test_what_lacks_a_parameter_that_came_later_predicts_all_the_same(
    lost: str, workspace: Any, tecator: Tecator, tmp_path: Path
) -> None:
    model = make_pipeline(StandardScaler(copy=False), Ridge()).fit(tecator.X.copy(), tecator.fat)
    expected = model.predict(tecator.X[:3].copy())
    delattr(model, lost)
    chain = save(workspace, model)
    for predict in replays(workspace, chain, tmp_path):
        np.testing.assert_array_equal(predict(tecator.X[:3]), expected)


def save(store: Any, model: Any) -> str:
    pipeline = store.begin_pipeline(store.begin_run("r", {}, ["d"]), "p", {}, [], "d", "h")
    artifact = store.save_artifact(model, "Old", "model")
    step = {"step_idx": 0, "operator_class": "Old", "params": {}, "artifact_id": artifact}
    return str(store.save_chain(pipeline, [step], 0, "Old", "", "none", {"final": artifact}, {}))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.InconsistentVersionWarning")
@pytest.mark.parametrize("name", ["joblib", "pickle", "cloudpickle"])
def test_what_cannot_be_used_any_more_names_both_versions(name: str, tecator: Tecator) -> None:
    model = Ridge().fit(tecator.X, tecator.fat)
    del model.coef_
    loads = get_serializer(name).loads
    for broken in (model, make_pipeline(model)):
        old = loads(as_of("1.5.2", broken))
        chain = {"steps": [], "model_step_idx": 0, "fold_artifacts": {"final": "m"}}
        with pytest.raises(ReplayError, match=rf"with scikit-learn 1\.5\.2, and {sklearn.__version__}"):
            ChainPredictor(chain, {"m": old}.__getitem__).predict(tecator.X[:3])
    gone = as_of("1.5.2", model).replace(b"sklearn.linear_model._ridge", b"sklearn.linear_model._gone_")
    with pytest.raises(SerializationError, match=rf"with scikit-learn 1\.5\.2, and {sklearn.__version__}"):
        loads(gone)
