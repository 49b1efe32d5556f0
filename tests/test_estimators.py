"""Configurations to estimators and back, and what a configuration may not do."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.ensemble import StackingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneOut,
    PredefinedSplit,
    RepeatedKFold,
    StratifiedKFold,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

from nirs_store.datasets import load_tecator
from nirs_store.errors import InvalidInput, SerializationError
from nirs_store.estimators import build_cv, build_estimator, class_path, describe_cv, describe_estimator


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), Ridge(alpha=0.5)),
        make_pipeline(MinMaxScaler(feature_range=(0, 2)), PCA(3), Ridge()),
        make_pipeline(SimpleImputer(missing_values=np.nan), RidgeCV(alphas=np.logspace(-3, 3, 7))),
        TransformedTargetRegressor(regressor=Ridge(2.0), transformer=StandardScaler()),
        StackingRegressor([("a", Ridge(1.0)), ("b", make_pipeline(PCA(2), Ridge(2.0)))], cv=KFold(3)),
        GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=KFold(4)),
        LogisticRegression(class_weight={0: 1.0, 1: 3.0}),
        GaussianProcessRegressor(kernel=RBF(length_scale=2.0)),
        make_pipeline(StandardScaler(), "passthrough", Ridge()),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_a_described_estimator_is_rebuilt_the_same(estimator: BaseEstimator) -> None:
    described = describe_estimator(estimator)
    rebuilt = build_estimator(through_json(described))
    assert describe_estimator(rebuilt)["steps"] == [
        {"name": rebuilt.steps[i][0], **step} for i, step in enumerate(described["steps"])
    ]
    steps = (
        [s for _, s in estimator.steps if s != "passthrough"]
        if isinstance(estimator, Pipeline)
        else [estimator]
    )
    assert [repr(step) for _, step in rebuilt.steps] == [repr(step) for step in steps]


def test_a_rebuilt_pipeline_predicts_the_same() -> None:
    tecator = load_tecator()
    estimator = make_pipeline(StandardScaler(), StackingRegressor([("r", Ridge(1.0)), ("s", Ridge(9.0))]))
    rebuilt = build_estimator(through_json(describe_estimator(estimator)))
    expected = estimator.fit(tecator.X, tecator.fat).predict(tecator.X)
    np.testing.assert_array_equal(rebuilt.fit(tecator.X, tecator.fat).predict(tecator.X), expected)


@pytest.mark.parametrize(
    "cv",
    [
        KFold(5, shuffle=True, random_state=3),
        StratifiedKFold(4),
        GroupKFold(3),
        LeaveOneOut(),
        RepeatedKFold(n_splits=3, n_repeats=2, random_state=1),
        PredefinedSplit([0, 0, 1, 1, -1, 0] * 2),
    ],
    ids=lambda cv: type(cv).__name__,
)
def test_a_described_splitter_is_rebuilt_the_same(cv: Any) -> None:
    rebuilt = build_cv({"cv": through_json(describe_cv(cv))})
    X = np.zeros((12, 1))
    y = np.arange(12) % 2
    groups = np.arange(12) % 4 if isinstance(cv, GroupKFold) else None

    def splits(splitter: Any) -> list[tuple[list[int], list[int]]]:
        return [(train.tolist(), test.tolist()) for train, test in splitter.split(X, y, groups)]

    assert splits(rebuilt) == splits(cv)


def test_folds_from_a_number_are_shuffled_stratified_for_classes_and_ten_by_default() -> None:
    assert repr(build_cv({"cv": 5})) == repr(KFold(5, shuffle=True, random_state=0))
    assert repr(build_cv({}, classifier=True)) == repr(StratifiedKFold(10, shuffle=True, random_state=0))
    assert describe_cv(7) == 7


def test_steps_may_be_bare_classes_and_equal_ones_get_names_of_their_own() -> None:
    scaler = "sklearn.preprocessing.StandardScaler"
    built = build_estimator([scaler, scaler, {"class": "sklearn.linear_model.Ridge", "name": "model"}])
    assert [name for name, _ in built.steps] == ["standardscaler", "standardscaler-2", "model"]


def test_classes_are_named_by_their_public_module() -> None:
    assert class_path(Ridge) == "sklearn.linear_model.Ridge"
    assert class_path(Pipeline) == "sklearn.pipeline.Pipeline"


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "nirs_store.datasets.Tecator",
        "joblib.Memory",
    ],
)
def test_classes_outside_the_allowed_packages_are_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match="only chemotools, sklearn are allowed"):
        build_estimator([{"class": path}])


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("sklearn.utils._testing.TempMemmap", "no estimator or splitter"),
        ("sklearn.base.warnings.warn", "cannot be imported"),
        ("sklearn.pipeline.Bunch", "no estimator or splitter"),
        ("sklearn.model_selection.KFold", "not a scikit-learn estimator"),
        ("sklearn.linear_model.Rigde", "Did you mean 'Ridge'"),
        ("sklearn.linear_modell.Ridge", "Check the spelling"),
        ("sklearn.__main__.X", "not a fully qualified class"),
        ("sklearn", "not a fully qualified class"),
        ("sklearn.linear_model.Ridge()", "not a fully qualified class"),
        ("../sklearn.svm.SVR", "not a fully qualified class"),
    ],
)
def test_a_name_inside_an_allowed_package_must_be_an_estimator_defined_there(path: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        build_estimator([{"class": path}])


def test_nested_classes_are_held_to_the_same_rules() -> None:
    step = {
        "class": "sklearn.compose.TransformedTargetRegressor",
        "params": {"regressor": {"class": "os.path.X"}},
    }
    with pytest.raises(InvalidInput, match=r"steps\[0\]\.regressor.*'os'"):
        build_estimator([step])


def test_a_package_is_allowed_when_the_caller_names_it(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "private_operators.py").write_text(
        "from sklearn.linear_model import Ridge\nclass Mine(Ridge):\n    pass\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InvalidInput, match="allow=\\['private_operators'\\]"):
        build_estimator(["private_operators.Mine"])
    built = build_estimator(["private_operators.Mine"], allow=["private_operators"])
    assert type(built.steps[0][1]).__name__ == "Mine"
    with pytest.raises(InvalidInput, match="Install 'not_installed_anywhere'"):
        build_estimator(["not_installed_anywhere.Mine"], allow=["not_installed_anywhere"])
    with pytest.raises(InvalidInput, match="top-level packages"):
        build_estimator(["private_operators.Mine"], allow=["private_operators.inner"])


def test_a_class_that_an_allowed_package_only_passes_on_is_refused(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hidden_operators.py").write_text(
        "from sklearn.linear_model import Ridge\nclass Hidden(Ridge):\n    pass\n", encoding="utf-8"
    )
    (tmp_path / "open_facade.py").write_text("from hidden_operators import Hidden\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InvalidInput, match="no estimator or splitter 'Hidden'"):
        build_estimator(["open_facade.Hidden"], allow=["open_facade"])
    assert build_estimator(["open_facade.Hidden"], allow=["open_facade", "hidden_operators"])


def test_a_folder_of_pickles_cannot_be_named() -> None:
    step = {"class": "sklearn.pipeline.Pipeline", "params": {"steps": [], "memory": "/tmp/cache"}}
    with pytest.raises(InvalidInput, match="memory"):
        build_estimator([step])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "needs a list of steps"),
        ({"steps": []}, "needs a list of steps"),
        ({"steps": "sklearn.svm.SVR"}, "needs a list of steps"),
        ([42], r"steps\[0\] needs a 'class'"),
        ([{"class": "sklearn.svm.SVR", "parms": {}}], "also has \\['parms'\\]"),
        ([{"class": "sklearn.svm.SVR", "params": [1]}], "params must be a mapping"),
        ([{"class": "sklearn.svm.SVR", "params": {"gama": 1}}], "Did you mean 'gamma'"),
        ([{"class": "sklearn.svm.SVR", "name": "a__b"}], "name must be"),
        ([{"class": "sklearn.svm.SVR", "params": {"C": {"array": [[1], [2, 3]]}}}], "rows of one length"),
        ([{"class": "sklearn.svm.SVR", "params": {"C": {"array": [{}]}}}], "'array' holds"),
        ([{"class": "sklearn.svm.SVR", "params": {"C": {"items": 3}}}], "list of \\[key, value\\] pairs"),
        ({"steps": [{"class": "sklearn.svm.SVR"}], "not_rebuildable": ["steps"]}, "build them in Python"),
    ],
)
def test_a_bad_configuration_says_what_is_wrong_with_it(config: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        build_estimator(config)


def test_renamed_parameters_of_chemotools_name_the_nearest() -> None:
    step = {"class": "chemotools.derivative.SavitzkyGolay", "params": {"windows_length": 5}}
    with pytest.raises(InvalidInput, match="Did you mean 'window_length'"):
        build_estimator([step])
    step["params"] = {"window_length": 5, "polyorder": 2, "deriv": 1}
    params = describe_estimator(build_estimator([step]))["steps"][0]["params"]
    assert params == {"window_length": 5, "polyorder": 2, "deriv": 1, "mode": "nearest"}


def test_endless_nesting_is_refused() -> None:
    value: Any = 1
    for _ in range(50):
        value = [value]
    with pytest.raises(InvalidInput, match="nested deeper"):
        build_estimator([{"class": "sklearn.svm.SVR", "params": {"C": value}}])


@pytest.mark.parametrize(
    ("cv", "words"),
    [
        (1, "at least 2 folds"),
        (True, "must be a number of folds"),
        ({"class": "sklearn.svm.SVR"}, "does not split"),
        ("KFold", "must be a number of folds"),
    ],
)
def test_a_bad_cv_says_what_is_wrong_with_it(cv: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        build_cv({"cv": cv})


@pytest.mark.parametrize(
    ("estimator", "path"),
    [
        (FunctionTransformer(np.log), r"steps\[0\]\.func"),
        (make_pipeline(Ridge(random_state=np.random.RandomState(0))), r"steps\[0\]\.random_state"),
        (TransformedTargetRegressor(Ridge(), func=np.log, inverse_func=np.exp), r"steps\[0\]\.func"),
    ],
)
def test_code_and_state_cannot_be_described_and_are_named(estimator: Any, path: str) -> None:
    with pytest.raises(SerializationError, match=path):
        describe_estimator(estimator)


def test_ready_made_splits_cannot_be_described() -> None:
    with pytest.raises(SerializationError, match="list"):
        describe_cv([([0], [1])])
