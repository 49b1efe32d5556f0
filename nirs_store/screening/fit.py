"""Fit the candidates of one preprocessing and model on one fold: the work of a worker."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import pinv
from sklearn.base import clone
from sklearn.cross_decomposition import PLSRegression

from nirs_store.chains.operators import plain_output
from nirs_store.recording.folds import FoldResult, Job, predict
from nirs_store.recording.inputs import Fold
from nirs_store.recording.steps import Parts, json_safe, take_apart


@dataclass(frozen=True, eq=False)
class Group:
    """Candidates that differ in the number of components only: one pipeline of the store.

    Attributes
    ----------
    estimator : scikit-learn estimator
        Preprocessing and model in one; never fitted itself.
    shared : int
        Number of leading transformers that all candidates share.
    parameter : str or None
        The parameter of `estimator` that sets the number of components.
    components : tuple of int or None
        One entry per candidate; (None,) for a model without components.
    key : str or None
        Hash of everything that the result depends on; None if a part cannot be described.
    """

    preprocessing: str
    model: str
    estimator: Any
    shared: int
    parameter: str | None
    components: tuple[int | None, ...]
    key: str | None = None

    def candidate(self, components: int | None) -> Any:
        """Return the estimator of one candidate, not fitted."""
        estimator = clone(self.estimator)
        if self.parameter is None or components is None:
            return estimator
        return estimator.set_params(**{self.parameter: components})

    def parts(self, components: int | None) -> Parts:
        """Return the steps of one candidate."""
        return take_apart(self.candidate(components))


def fit_group(job: Job, group: Group, fold: Fold) -> list[FoldResult]:
    """Fit all candidates of a group on one fold's training rows and predict the others.

    The preprocessing is fitted once, and all numbers of components of a PLS come from one fit.

    Parameters
    ----------
    job : Job
        Data and companions; its estimator is not used.
    group, fold
        What to fit, and on which rows.

    Returns
    -------
    list of FoldResult
        One per entry of `group.components`, with the predictions of the validation samples.
    """
    with plain_output():
        return _fit_group(job, group, fold)


def _fit_group(job: Job, group: Group, fold: Fold) -> list[FoldResult]:
    rows = fold.val
    assert rows is not None
    target = job.data.y[fold.train]
    X, X_val = job.data.X[fold.train], job.data.X[rows]
    counts = [n for n in group.components if n is not None]
    largest = max(counts, default=None)
    parts = group.parts(largest)
    for step in parts.transformers[: group.shared]:
        X, X_val = _through(step, job, fold, X, X_val, target)
    cut: dict[int, PLSRegression] = {}
    if len(counts) > 1 and len(parts.transformers) == group.shared and type(parts.model) is PLSRegression:
        cut = truncated_pls(_fit(parts.model, job, fold, X.copy(), target), counts)
    results = []
    for n in group.components:
        # Estimators with copy=False overwrite what they get, and the next candidate needs it.
        spectra, val = (X.copy(), X_val.copy()) if counts[1:] else (X, X_val)
        if n in cut:
            model: Any = cut[n]
        else:
            own = parts if n == largest else group.parts(n)
            for step in own.transformers[group.shared :]:
                spectra, val = _through(step, job, fold, spectra, val, target)
            model = _fit(own.model, job, fold, spectra, target)
        found = predict(model, None, job, fold.key, "val", rows, val, job.data.y[rows])
        best = json_safe(getattr(model, "best_params_", {}))
        results.append(FoldResult(fold.key, best_params=best, predictions={"val": found}))
    return results


def _fit(model: Any, job: Job, fold: Fold, X: NDArray[Any], target: NDArray[Any]) -> Any:
    return model.fit(X, target, **job.companions.of(model, fold.train, model=True))


def _through(
    step: Any, job: Job, fold: Fold, X: NDArray[Any], X_val: NDArray[Any], target: NDArray[Any]
) -> tuple[Any, Any]:
    options = job.companions.of(step, fold.train, model=False)
    if hasattr(step, "fit_transform"):
        X = step.fit_transform(X, target, **options)
    else:
        X = step.fit(X, target, **options).transform(X)
    return X, step.transform(X_val)


def truncated_pls(whole: PLSRegression, numbers: Sequence[int]) -> dict[int, PLSRegression]:
    """Return a fitted PLS cut down to fewer components, as each predicts; nothing where that cannot be trusted."""
    # NIPALS finds one component after the other, so the first n columns of weights and loadings are those of a fit with
    # n components. The coefficients follow from them by scikit-learn's own formula on arrays of the same layout, so
    # that a rank that is too small, or a fit that ended early, gives what a separate fit gives.
    scale = [getattr(whole, name, None) for name in ("_y_std", "_x_std")]
    if any(each is None for each in scale):
        return {}
    # Another version of scikit-learn may compute them in another way.
    known, again = whole.coef_, _coefficients(whole, whole.n_components, *scale)
    if again.shape != known.shape or np.abs(again - known).max() > 1e-12 * np.abs(known).max():
        return {}
    found = {}
    for n in numbers:
        found[n] = copy.copy(whole)
        found[n].n_components = n
        found[n].coef_ = _coefficients(whole, n, *scale)
    return found


def _coefficients(whole: PLSRegression, n: int, y_std: Any, x_std: Any) -> NDArray[np.float64]:
    weights, loadings, y_loadings = (
        np.ascontiguousarray(each[:, :n]) for each in (whole.x_weights_, whole.x_loadings_, whole.y_loadings_)
    )
    rotations = np.dot(weights, pinv(np.dot(loadings.T, weights), check_finite=False))
    found: NDArray[np.float64] = (np.dot(rotations, y_loadings.T) * y_std).T / x_std
    return found
