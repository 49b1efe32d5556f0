"""Real spectra, four kinds of calibrations, and how often their domain is right over random splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from nirs_store import load_tecator
from nirs_store.domain import Domain
from nirs_store.recording.crossval import domain_of_results
from nirs_store.recording.folds import FINAL, Job, fit_fold
from nirs_store.recording.inputs import Fold, check_data

DATASETS = ("tecator", "coffee", "fermentation")
MODELS = ("pls", "pcr", "svr", "forest")


def spectra(name: str) -> tuple[Any, Any]:
    """Return the spectra and a target of a data set that a package ships."""
    if name == "tecator":
        meat = load_tecator()
        return meat.X, meat.fat
    datasets = pytest.importorskip("chemotools.datasets")
    if name == "coffee":
        X, origin = datasets.load_coffee()
        return np.asarray(X, dtype=float), np.unique(np.ravel(origin), return_inverse=True)[1].astype(float)
    X, y = datasets.load_fermentation_train()
    return np.asarray(X, dtype=float), np.ravel(np.asarray(y, dtype=float))


def model(name: str, trees: int = 10) -> Any:
    """Return an estimator without its own preprocessing, except the scaling that an SVR needs."""
    return {
        "pls": PLSRegression(6, scale=False),
        "pcr": make_pipeline(PCA(6), LinearRegression()),
        "svr": make_pipeline(StandardScaler(), SVR(C=100)),
        "forest": RandomForestRegressor(trees, min_samples_leaf=2, random_state=0),
    }[name]


def wrong(X: Any, seed: int = 0) -> dict[str, Any]:
    """Return one spectrum of each kind that nobody should predict."""
    rng = np.random.default_rng(seed)
    one = X[len(X) // 2]
    # Not all of these data sets are absorbances; of larger numbers no power of ten is left.
    absorbance = one * min(1.0, 3.0 / float(np.abs(X).max()))
    return {
        "empty cup": np.abs(rng.normal(1e-3, 1e-4, X.shape[1])),
        "constant": np.full(X.shape[1], float(X.mean())),
        "reflectance": 10.0**-absorbance,
        "reversed axis": one[::-1],
        "noise": rng.normal(X.mean(), X.std(), X.shape[1]),
        "times 1,000": one * 1000,
    }


def calibrated(estimator: Any, X: Any, y: Any, folds: int = 10, seed: int = 0) -> tuple[Domain, Any]:
    """Return the domain that recording would store, without a store, and the estimator fitted on everything."""
    data = check_data(X, y, task_type="regression")
    splits = KFold(folds, shuffle=True, random_state=seed).split(X)
    of_folds = [Fold(f"fold_{number}", train, val) for number, (train, val) in enumerate(splits)]
    job = Job(estimator, data, "", "joblib", keep="nothing", domain="refit")
    tasks = [*of_folds, Fold(FINAL, np.arange(len(X)), None)]
    nothing: Any = None
    results = [fit_fold(nothing, job, fold) for fold in tasks]
    return domain_of_results(data, "regression", of_folds, results), clone(estimator).fit(X, y)


def space_of(fitted: Any, domain: Domain, X: Any) -> Any:
    """Return spectra as the domain measures them."""
    if not isinstance(fitted, Pipeline):
        return X
    return fitted[: -1 - domain.before].transform(X) if len(fitted) > 1 + domain.before else X


def rates(
    name: str, dataset: str, splits: int, *, held: float = 0.3, scaled: bool = False
) -> dict[str, float]:
    """Return the share of held-out samples flagged 'outside', and the share that 90 % intervals cover."""
    X, y = spectra(dataset)
    flagged, covered = [], []
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(len(X))
        test, train = order[: round(held * len(X))], order[round(held * len(X)) :]
        domain, fitted = calibrated(model(name), X[train], y[train], seed=seed)
        predicted = np.ravel(fitted.predict(X[test]))
        found = domain.measure([space_of(fitted, domain, X[test])], predicted, scaled=scaled)
        flagged.append(np.mean(["outside" in row[0] for row in found.flags]))
        assert found.lower is not None
        assert found.upper is not None
        inside = (found.lower[:, 0] <= y[test]) & (y[test] <= found.upper[:, 0])
        covered.append(np.mean(inside))
    return {"flagged": float(np.mean(flagged)), "covered": float(np.mean(covered))}
