"""Permutation test of a chain: how good would its recipe look if y had nothing to do with X?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.chains.one_target import column, one_target, say_which
from nirs_store.diagnosing.diagnose import check_length, given_spectra, inside
from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.scores import pooled_scores, repeats_of

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PermutationTest:
    """RMSECV of the recipe with the true y and with shuffled ones.

    Attributes
    ----------
    chain_id : str
        The chain.
    rmsecv : float
        With the true y, in its unit, of the pooled out-of-fold predictions.
    permuted : ndarray, shape (n_permutations,)
        With each shuffled y.
    p : float
        (number of shuffled at most as large + 1) / (n_permutations + 1).
    """

    chain_id: str
    rmsecv: float
    permuted: NDArray[np.float64]
    p: float

    def __repr__(self) -> str:
        return (
            f"<PermutationTest: RMSECV {self.rmsecv:.4g}, shuffled {self.permuted.min():.4g} to "
            f"{self.permuted.max():.4g}, p = {self.p:.2g}>"
        )


def permutation_test(
    store: Any,
    chain_id: str,
    X: Any,
    y: Any = None,
    *,
    cv: Any = 5,
    groups: Any = None,
    n_permutations: int = 100,
    seed: int = 0,
    n_jobs: int | None = None,
    target: str | int | None = None,
) -> PermutationTest:
    """Cross-validate the recipe of a chain with shuffled reference values.

    Ojala and Garriga (2010), Journal of Machine Learning Research 11, 1833-1863, with the RMSECV of the pooled
    out-of-fold predictions as the statistic. A large p value says that the RMSECV is not better than chance.

    Parameters
    ----------
    store, chain_id
        Workspace and chain; its fitted objects are cloned and fitted again.
    X, y
        Spectra and measured values, or what `read_spectra` returned.
    cv, groups
        Splitter and groups, as in scikit-learn; with groups, a number means `GroupKFold`. Groups of one value each, as
        replicates of a sample are, exchange their values as wholes; other values are shuffled within their group.
        `Spectra` bring their groups.
    n_permutations, seed, n_jobs
        How often to shuffle, from where, and on how many processes.
    target : str or int, optional
        Which target, by name or counted from 0, of a chain that predicts several.

    Raises
    ------
    UnknownId, InvalidInput, ShapeMismatch
    """
    from joblib import Parallel, delayed
    from sklearn.model_selection import GroupKFold, check_cv
    from sklearn.pipeline import make_pipeline

    own = getattr(X, "groups", None)
    groups = own if groups is None else groups
    X, y, _, _ = given_spectra(X, y, None, None)
    if y is None:
        raise InvalidInput("permutation_test: expected measured values y.")
    spectra, values = np.asarray(X, dtype=float), np.asarray(y, dtype=float)
    check_length("y", "value", values, len(spectra))
    labels = None if groups is None else np.asarray(groups)
    if labels is not None and len(labels) != len(values):
        raise ShapeMismatch(f"groups: expected one for each of {len(values)} spectra; found {len(labels)}.")
    if n_permutations < 1:
        raise InvalidInput(f"n_permutations: expected at least 1; found {n_permutations}.")
    found = inside(one_target(store, target), chain_id)
    if values.ndim > 1 and values.shape[1] > 1 and found.place is None:
        which = say_which(found.chain, values.shape[1])
        raise InvalidInput(f"y: expected the values of one target; found {values.shape[1]}. {which}")
    estimator = make_pipeline(*found.steps())
    if labels is not None and isinstance(cv, (int, np.integer)):
        cv = GroupKFold(int(cv))
    try:
        splits = list(check_cv(cv, values, classifier=False).split(spectra, values, labels))
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"cv: {error}") from error
    random = np.random.default_rng(seed)
    orders = [np.arange(len(values)), *(_shuffled(values, labels, random) for _ in range(n_permutations))]
    errors = np.array(
        Parallel(n_jobs=n_jobs)(
            delayed(_rmsecv)(estimator, spectra, values[order], splits, found.place) for order in orders
        )
    )
    # A fit whose error differs by rounding alone is as good.
    p = (int((errors[1:] <= errors[0] * (1 + 1e-12)).sum()) + 1) / (n_permutations + 1)
    return PermutationTest(str(found.chain["chain_id"]), float(errors[0]), errors[1:], p)


def _rmsecv(estimator: Any, X: Floats, y: Floats, splits: Sequence[Any], place: int | None) -> float:
    """Return the RMSE of all out-of-fold predictions together; of repeats the mean, as everywhere."""
    from sklearn.base import clone

    folds = []
    for train, val in splits:
        predicted = clone(estimator).fit(X[train], y[train]).predict(X[val])
        folds.append((column(y[val], place).ravel(), column(predicted, place).ravel()))
    return float(pooled_scores(folds, repeats=repeats_of([val for _, val in splits]))["rmsecv"])


def _shuffled(values: Floats, groups: NDArray[Any] | None, random: np.random.Generator) -> NDArray[np.intp]:
    """Return the row that each row takes its values from."""
    if groups is None:
        return random.permutation(len(values))
    _, first, codes = np.unique(groups, return_index=True, return_inverse=True)
    if np.array_equal(values, values[first][codes]):
        moved: NDArray[np.intp] = first[random.permutation(len(first))][codes]
        return moved
    order = np.arange(len(values))
    for code in range(len(first)):
        rows = np.flatnonzero(codes == code)
        order[rows] = random.permutation(rows)
    return order
