"""Steps in words and in JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from chemotools.derivative import SavitzkyGolay
from chemotools.scatter import MultiplicativeScatterCorrection, StandardNormalVariate
from sklearn.compose import TransformedTargetRegressor
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from nirs_store.recording.steps import (
    class_name,
    configuration,
    describe,
    json_safe,
    parameters,
    preprocessing_text,
    take_apart,
)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (StandardNormalVariate(), "SNV"),
        (MultiplicativeScatterCorrection(), "MSC"),
        (SavitzkyGolay(), "SG(deriv=1)"),
        (SavitzkyGolay(window_length=11, polyorder=2, deriv=2), "SG(window_length=11, polyorder=2, deriv=2)"),
        (PLSRegression(), "PLS(2)"),
        (PLSRegression(10, scale=False), "PLS(10, scale=False)"),
        (PCA(5), "PCA(5)"),
        (Ridge(0.5), "Ridge(alpha=0.5)"),
        (StandardScaler(), "StandardScaler"),
        (StandardScaler(with_std=False), "StandardScaler(with_std=False)"),
        (FunctionTransformer(np.log1p), "FunctionTransformer(func=log1p)"),
        (
            TransformedTargetRegressor(make_pipeline(StandardNormalVariate(), PLSRegression(3))),
            "TransformedTargetRegressor(regressor=SNV > PLS(3))",
        ),
        (
            FeatureUnion([("a", StandardNormalVariate()), ("b", PCA(2))]),
            "FeatureUnion(transformer_list=[['a', SNV], ['b', PCA(2)]])",
        ),
        (
            GridSearchCV(Ridge(), {"alpha": (0.1, 1.0)}),
            "GridSearchCV(estimator=Ridge(alpha=1.0), param_grid={'alpha': (0.1, 1.0)})",
        ),
    ],
)  # fmt: skip
def test_a_step_is_described_by_what_is_not_default(step: Any, text: str) -> None:
    assert describe(step) == text


def test_a_long_value_is_cut() -> None:
    assert describe(Ridge(alpha=list(range(100)))).endswith("…)")
    assert describe(Ridge(alpha=np.ones(4))) == "Ridge(alpha=array(4,))"


def test_a_chain_is_described_in_order() -> None:
    steps = (StandardNormalVariate(), SavitzkyGolay(), PLSRegression(10))
    assert preprocessing_text(steps) == "SNV > SG(deriv=1) > PLS(10)"


def test_class_names_go_through_public_modules() -> None:
    assert class_name(PLSRegression()) == "sklearn.cross_decomposition.PLSRegression"
    assert class_name(StandardNormalVariate()) == "chemotools.scatter.StandardNormalVariate"
    assert class_name(KFold()) == "sklearn.model_selection.KFold"

    class Local:
        pass

    assert class_name(Local()).endswith("<locals>.Local")


def test_taking_apart_keeps_the_order() -> None:
    parts = take_apart(make_pipeline(make_pipeline(PCA(2), "passthrough"), StandardScaler(), Ridge()))
    assert [type(step).__name__ for step in parts.transformers] == ["PCA", "StandardScaler"]
    assert isinstance(parts.model, Ridge)


def test_parameters_are_strict_json_whatever_they_hold() -> None:
    forest = RandomForestRegressor(random_state=np.random.RandomState(0), max_features=np.float32(0.5))
    found = parameters(forest)
    json.dumps(found, allow_nan=False)
    assert found["random_state"].startswith("RandomState")
    assert found["max_features"] == 0.5
    assert parameters(KFold(3, shuffle=True, random_state=1)) == {
        "n_splits": 3, "shuffle": True, "random_state": 1,
    }  # fmt: skip
    assert "window_size" not in parameters(SavitzkyGolay())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int64(3), 3),
        (float("nan"), "nan"),
        (np.array([1.0, np.inf]), [1.0, "inf"]),
        (np.zeros(2000), "array of shape (2000,), float64"),
        ((1, "a", None, True), [1, "a", None, True]),
        ({1: {2.5}}, {"1": "{2.5}"}),
        (np.log1p, "numpy.log1p"),
        (Ridge, "sklearn.linear_model.Ridge"),
        (slice(0, 5), "slice(0, 5, None)"),
    ],
)
def test_what_json_cannot_say_is_given_by_its_repr(value: Any, expected: Any) -> None:
    assert json_safe(value) == expected


def test_a_configuration_says_what_cannot_be_rebuilt() -> None:
    rebuildable = configuration(make_pipeline(PCA(2), Ridge()), KFold(3))
    assert "not_rebuildable" not in rebuildable
    lost = configuration(make_pipeline(FunctionTransformer(np.log1p), Ridge()), [([0], [1])])
    assert lost["not_rebuildable"] == ["steps", "cv"]
    assert lost["steps"][0]["params"]["func"] == "numpy.log1p"
    json.dumps(lost, allow_nan=False)
