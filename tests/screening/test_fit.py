"""One PLS fit for all numbers of components: the same numbers as separate fits."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nirs_store.recording.folds import Job
from nirs_store.recording.inputs import Fold, check_data
from nirs_store.screening import fit
from nirs_store.screening.fit import Group, fit_group, truncated_pls


def data(kind: str):
    random = np.random.default_rng(0)
    X = random.normal(size=(40, 25)) * random.uniform(0.01, 100, 25) + 50
    coefficients = random.normal(size=(25, 2 if kind == "two targets" else 1))
    y = X @ coefficients + random.normal(size=(40, 1))
    if kind == "rank 5":
        X = random.normal(size=(40, 5)) @ random.normal(size=(5, 25))
    if kind == "exact":  # the residual of y vanishes after three components, and scikit-learn stops
        X = np.column_stack([random.normal(size=(40, 3)), np.zeros((40, 22))])
        y = X[:, :1] - 2 * X[:, 1:2]
    if kind == "float32":
        X = X.astype(np.float32)
    return X, y if kind == "two targets" else y[:, 0]


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("kind", ["one target", "two targets", "rank 5", "exact", "float32"])
def test_one_fit_gives_what_separate_fits_give(kind, scale):
    X, y = data(kind)
    job = Job(None, check_data(X, y, task_type="regression"), "", "", keep="nothing")
    fold = Fold("fold_0", np.arange(30), np.arange(30, 40))
    numbers = (1, 2, 3, 4, 5, 8, 12)
    group = Group("raw", "pls", PLSRegression(2, scale=scale), 0, "n_components", numbers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = fit_group(job, group, fold)
        each = [PLSRegression(n, scale=scale).fit(X[:30], y[:30]).predict(X[30:]) for n in numbers]
    for result, expected in zip(found, each, strict=True):
        np.testing.assert_allclose(result.predictions["val"].y_pred, expected, rtol=1e-9, atol=0)


def test_a_pls_is_fitted_once_for_all_numbers_and_its_preprocessing_too(monkeypatch):
    X, y = data("one target")
    fitted = []
    for kind in (PLSRegression, StandardScaler):
        own = kind.fit
        monkeypatch.setattr(
            kind,
            "fit",
            lambda self, *a, own=own, **k: (fitted.append(type(self).__name__), own(self, *a, **k))[1],
        )
    job = Job(None, check_data(X, y, task_type="regression"), "", "", keep="nothing")
    fold = Fold("fold_0", np.arange(30), np.arange(30, 40))
    estimator = make_pipeline(StandardScaler(), PLSRegression(scale=False))
    fit_group(job, Group("x", "pls", estimator, 1, "plsregression__n_components", (1, 2, 3, 4)), fold)
    assert sorted(fitted) == ["PLSRegression", "StandardScaler"]
    fitted.clear()
    pcr = make_pipeline(StandardScaler(), make_pipeline(PCA(), LinearRegression()))
    found = fit_group(job, Group("x", "pcr", pcr, 1, "pipeline__pca__n_components", (2, 3)), fold)
    assert fitted == ["StandardScaler"]
    expected = make_pipeline(StandardScaler(), PCA(3), LinearRegression()).fit(X[:30], y[:30]).predict(X[30:])
    np.testing.assert_allclose(found[1].predictions["val"].y_pred, expected, rtol=1e-9)


def test_what_another_version_computes_in_another_way_is_fitted_separately(monkeypatch):
    X, y = data("one target")
    whole = PLSRegression(6, scale=False).fit(X, y)
    assert set(truncated_pls(whole, [2, 6])) == {2, 6}
    right = fit._coefficients
    monkeypatch.setattr(fit, "_coefficients", lambda *given: right(*given) * (1 + 1e-9))
    assert truncated_pls(whole, [2, 6]) == {}
