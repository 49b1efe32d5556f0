"""Fitted objects of every accepted class, in every setting that its constraints name as a word or switch."""

from __future__ import annotations

import importlib
import inspect
import typing
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.experimental import enable_iterative_imputer  # noqa: F401

from nirs_store.blobs.trusted import _PLAIN, CHEMOTOOLS

_RNG = np.random.default_rng(0)
X = np.abs(_RNG.normal(1.0, 0.4, size=(40, 12))).cumsum(axis=1)
Y = X[:, 3] * 0.5 + _RNG.normal(0, 0.05, size=40)
LABELS = np.where(np.quantile(Y, 0.6) < Y, "high", np.where(np.quantile(Y, 0.3) < Y, "mid", "low"))
HOLES = X.copy()
HOLES[3, 2] = HOLES[17, 5] = np.nan
GROUPS = np.column_stack([LABELS, np.where(X[:, 0] > 1, "a", "b")]).astype(object)
TARGETS = {
    "numbers": Y,
    "two": Y.mean() < Y,
    "labels": LABELS,
    "objects": LABELS.astype(object),
    "classes": np.digitize(Y, np.quantile(Y, [0.3, 0.6])),
    "columns": np.column_stack([Y, -(Y**2)]),
    "column labels": np.column_stack([np.median(Y) < Y, np.quantile(Y, 0.7) < Y]).astype(int),
}
_ONCE = ("verbose", "warm_start", "copy", "copy_X", "sparse_output", "scoring")


@cache
def classes() -> dict[str, type[Any]]:
    """Find every accepted class: its name without private modules, to the class."""
    found: dict[str, type[Any]] = {}
    for package, names in _PLAIN.items():
        home = importlib.import_module(f"sklearn.{package}")
        found |= {f"sklearn.{package}.{name}": getattr(home, name) for name in names if hasattr(home, name)}
    for path in CHEMOTOOLS:
        module, _, name = path.rpartition(".")
        found[f"chemotools.{path.split('.')[1]}.{name}"] = getattr(importlib.import_module(module), name)
    return dict(sorted(found.items()))


def scorers() -> list[str]:
    """List the names of scikit-learn's scorers."""
    from sklearn.metrics import get_scorer_names

    return list(get_scorer_names())


def words(cls: type[Any]) -> dict[str, list[Any]]:
    """List the parameters whose values are words or switches, with these values."""
    found: dict[str, list[Any]] = {}
    for name, constraints in getattr(cls, "_parameter_constraints", {}).items():
        for constraint in () if isinstance(constraints, str) else constraints:
            bare = getattr(constraint, "constraint", constraint)  # what is hidden is still read
            values = getattr(bare, "options", ())
            if isinstance(bare, str) and bare == "boolean":
                values = (True, False)
            found.setdefault(name, []).extend(sorted(values, key=str))
    if cls.__module__.startswith("chemotools."):
        for name, hint in typing.get_type_hints(cls.__init__).items():
            if typing.get_origin(hint) is typing.Literal:
                found.setdefault(name, []).extend(typing.get_args(hint))
    return {name: values for name, values in found.items() if values}


def _bases(name: str) -> list[Any]:
    """Make unfitted objects of a class, apart from what single words of its parameters change."""
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.frozen import FrozenEstimator
    from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
    from sklearn.model_selection import KFold, ShuffleSplit
    from sklearn.pipeline import FeatureUnion, make_pipeline
    from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

    cls = classes()[name]
    short = name.rpartition(".")[2]
    several = [
        ("pls", PLSRegression(2)),
        ("ridge", make_pipeline(StandardScaler(), Ridge())),
        ("off", "drop"),
    ]
    voters = [
        ("a", LogisticRegression()),
        ("b", make_pipeline(StandardScaler(), LogisticRegression())),
        ("c", "drop"),
    ]
    made: dict[str, list[dict[str, Any]]] = {
        "ColumnTransformer": [
            {"transformers": [("s", StandardScaler(), slice(0, 3)), ("m", MinMaxScaler(), [4, 5]), ("d", "drop", [6])]},
            {"transformers": [("s", StandardScaler(), [True, True, *[False] * 10])], "remainder": MinMaxScaler()},
            {"transformers": [("s", "passthrough", np.array([1, 2]))], "transformer_weights": {"s": 2.0}},
        ],
        "TransformedTargetRegressor": [
            {"regressor": Ridge(), "transformer": StandardScaler()},
            {"regressor": Ridge(), "func": np.log, "inverse_func": np.exp},
            {"regressor": None},
        ],
        "FunctionTransformer": [{"func": f, "inverse_func": g} for f, g in ((None, None), (np.log, np.exp), (np.sqrt, np.square), (np.log1p, np.expm1))]
        + [{"func": np.log10, "kw_args": {}, "inv_kw_args": {}}],
        "StackingRegressor": [
            {"estimators": several},
            {"estimators": several[:2], "final_estimator": Ridge(), "cv": KFold(3, shuffle=True, random_state=1)},
            {"estimators": several[:2], "cv": ShuffleSplit(3, random_state=0, test_size=0.2)},
        ],
        "StackingClassifier": [{"estimators": voters}, {"estimators": voters[:2], "stack_method": "predict", "cv": 3}],
        "VotingRegressor": [{"estimators": several}, {"estimators": several[:2], "weights": [1.0, 2.0]}],
        "VotingClassifier": [{"estimators": voters}, {"estimators": voters[:2], "weights": np.array([1, 2])}],
        "RFE": [{"estimator": Ridge(), "n_features_to_select": 4}, {"estimator": Ridge(), "step": 0.3}],
        "RFECV": [{"estimator": Ridge(), "cv": 3}],
        "SelectFromModel": [
            {"estimator": Ridge(), "threshold": text} for text in ("median", "1.25*mean", 0.01, None)
        ]
        + [{"estimator": FrozenEstimator(Ridge().fit(X, Y)), "prefit": False}],
        "SequentialFeatureSelector": [{"estimator": LinearRegression(), "n_features_to_select": 2, "cv": 3}],
        "FrozenEstimator": [{"estimator": Ridge().fit(X, Y)}, {"estimator": StandardScaler().fit(X)}],
        "OneVsOneClassifier": [{"estimator": LogisticRegression()}],
        "OneVsRestClassifier": [{"estimator": LogisticRegression()}],
        "OutputCodeClassifier": [{"estimator": LogisticRegression(), "random_state": 0}],
        "ClassifierChain": [{"estimator": LogisticRegression()}, {"estimator": LogisticRegression(), "order": "random", "random_state": 0, "cv": 3}],
        "MultiOutputClassifier": [{"estimator": LogisticRegression()}],
        "MultiOutputRegressor": [{"estimator": Ridge()}],
        "RegressorChain": [{"estimator": Ridge()}, {"estimator": Ridge(), "order": [1, 0]}],
        "FeatureUnion": [{"transformer_list": [("a", StandardScaler()), ("b", MinMaxScaler()), ("c", "drop"), ("d", "passthrough")], "transformer_weights": {"a": 2.0}}],
        "Pipeline": [
            {"steps": [("s", StandardScaler()), ("p", "passthrough"), ("n", None), ("m", PLSRegression(2))]},
            {"steps": [("u", FeatureUnion([("a", StandardScaler())])), ("f", FunctionTransformer(np.log1p)), ("m", Ridge())]},
        ],
        "AdaBoostRegressor": [{"n_estimators": 3}, {"n_estimators": 3, "estimator": Ridge()}],
        "AdaBoostClassifier": [{"n_estimators": 3}, {"n_estimators": 3, "estimator": LogisticRegression()}],
        "BaggingRegressor": [{"n_estimators": 3, "estimator": Ridge()}, {"n_estimators": 3, "max_features": 0.5, "estimator": PLSRegression(1)}],
        "BaggingClassifier": [{"n_estimators": 3, "estimator": LogisticRegression()}],
        "PCA": [{}, {"n_components": 3}, {"n_components": 0.9}, {"whiten": True}, {"svd_solver": "randomized", "n_components": 2}],
        "KernelPCA": [{"n_components": 2}, {"kernel_params": {"gamma": 0.1}, "kernel": "rbf"}, {"fit_inverse_transform": True, "kernel": "rbf", "n_components": 2}],
        "RidgeCV": [{}, {"alphas": np.logspace(-2, 2, 5)}, {"cv": KFold(3)}, {"store_cv_results": True}, {"alpha_per_target": True}],
        "Ridge": [{}, {"alpha": np.array([1.0, 2.0])}, {"positive": True, "solver": "lbfgs"}],
        "LassoCV": [{"cv": KFold(3), "max_iter": 50}, {"n_alphas": 5, "max_iter": 50}],
        "ElasticNetCV": [{"l1_ratio": [0.2, 0.8], "cv": 3, "max_iter": 50}],
        "RANSACRegressor": [{"estimator": LinearRegression(), "random_state": 0, "min_samples": 5}, {"random_state": 0, "min_samples": 5}],
        "XAxisInterpolator": [{"common_x_axis": np.arange(12.0)}],
        "SRSelector": [{"model": PLSRegression(2).fit(X, Y)}],
        "VIPSelector": [{"model": PLSRegression(2).fit(X, Y)}],
        "IntensityConversion": [{}, {"input_unit": "transmittance", "output_unit": "absorbance"}],
        "SubtractReference": [{}, {"reference": X[0]}],
        "MultiplicativeScatterCorrection": [{}, {"reference": X[0]}, {"weights": np.ones(12)}],
        "ExtendedMultiplicativeScatterCorrection": [{}, {"reference": X[0]}, {"weights": np.ones(12), "interferences": X[:2]}],
        "MLPRegressor": [{"max_iter": 5}, {"max_iter": 5, "early_stopping": True, "hidden_layer_sizes": (4, 3)}, {"max_iter": 5, "hidden_layer_sizes": [4]}],
        "MLPClassifier": [{"max_iter": 5}],
        "RandomForestRegressor": [{"n_estimators": 2}, {"n_estimators": 2, "oob_score": True}],
        "SimpleImputer": [{}, {"add_indicator": True}, {"strategy": "constant", "fill_value": 1.0}],
        "KNNImputer": [{}, {"add_indicator": True}],
        "IterativeImputer": [{"max_iter": 2}, {"max_iter": 2, "estimator": Ridge()}, {"max_iter": 2, "add_indicator": True, "sample_posterior": True}, {"max_iter": 2, "min_value": -1.0, "max_value": 9.0, "n_nearest_features": 3}],
        "OneHotEncoder": [{}, {"handle_unknown": "ignore", "sparse_output": False}, {"min_frequency": 3}, {"max_categories": 2}, {"drop": "first"}, {"categories": [["high", "mid", "low"], ["a", "b"]]}],
        "OrdinalEncoder": [{}, {"handle_unknown": "use_encoded_value", "unknown_value": -1}, {"min_frequency": 3}, {"dtype": np.float32}],
        "GaussianRandomProjection": [{"n_components": 3}],
        "OrthogonalMatchingPursuitCV": [{"cv": 3, "max_iter": 3}],
        "ParetoScaler": [{}, {"with_mean": False}],
        "WhittakerSmooth": [{}, {"weights": np.ones(12)}],
        "RangeCut": [{"start": 1, "end": 5}, {"start": 1.0, "end": 5.0, "x_axis": np.arange(12.0)}],
        "IndexSelector": [{"features": np.array([1, 2])}, {"features": [1.0, 2.0], "x_axis": np.arange(12.0)}],
        "CubicSplineCorrection": [{}, {"indices": [0, 3, 6, 9, 11]}],
        "PolynomialCorrection": [{}, {"indices": [0, 3, 6, 9, 11]}],
        "StandardScaler": [{}], "PLSRegression": [{}, {"n_components": 3}],
        "QuantileTransformer": [{"n_quantiles": 10}],
        "DummyRegressor": [{}, {"strategy": "constant", "constant": 1.0}, {"strategy": "quantile", "quantile": 0.5}],
        "DummyClassifier": [{}, {"strategy": "constant", "constant": "high"}],
    }  # fmt: skip
    if short == "BandedSolver":
        return []  # inside the smoothers only
    names = set(inspect.signature(cls).parameters)
    return [cls(**params) for params in made.get(short, [{}]) if not names or params.keys() <= names]


def unfitted(name: str) -> Iterator[Any]:
    """Yield objects of a class: as they are made, and with each word of a parameter in turn."""
    first = True
    for base in _bases(name):
        if "max_iter" in base.get_params() and base.get_params()["max_iter"] not in (2, 3, 5):
            base.set_params(max_iter=60)
        yield base
        if first:
            for parameter, values in words(type(base)).items():
                for value in values:
                    if parameter in base.get_params(deep=False) and parameter not in _ONCE:
                        yield clone(base).set_params(**{parameter: value})
        first = False


def fitted(name: str, *, every: bool = True) -> Iterator[Any]:
    """Yield fitted objects of a class; settings and targets that do not go together are passed over."""
    short = name.rpartition(".")[2]
    if name.startswith(("sklearn.preprocessing.LabelEncoder", "sklearn.preprocessing.LabelBinarizer")):
        sources = [(TARGETS[key], None) for key in ("labels", "objects", "classes")]
    elif name.startswith("sklearn.impute."):
        sources = [(HOLES, None)]
    elif name.rpartition(".")[2] in ("OneHotEncoder", "OrdinalEncoder"):
        sources = [(GROUPS, None), (np.round(X[:, :2]), None)]
    else:
        sources = [(X, target) for target in TARGETS.values()]
        if short == "KernelCenterer":
            sources = [(X @ X.T, None)]
    for model in unfitted(name) if every else _bases(name)[:1]:
        done = 0
        for samples, target in sources:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with np.errstate(all="ignore"):
                    try:
                        found = (
                            clone(model)
                            if type(model).__name__ not in ("SRSelector", "VIPSelector")
                            else model
                        )
                        if "source" in _fit_parameters(found):
                            found.fit(samples, target, X_source=samples + 0.1)
                        else:
                            found.fit(samples) if target is None else found.fit(samples, target)
                    except Exception:
                        continue
            yield found
            done += 1
            if not every or (target is not None and not _looks_at(found) and done):
                break


def _fit_parameters(model: Any) -> str:
    return " ".join(getattr(model.fit, "__code__", fitted.__code__).co_varnames).replace("X_source", "source")


def _looks_at(model: Any) -> bool:
    """Whether what is learned depends on the kind of target."""
    return hasattr(model, "predict") or "select" in type(model).__module__
