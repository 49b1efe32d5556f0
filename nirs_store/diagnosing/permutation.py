"""Permutation test of a chain: how good would its recipe look if y had nothing to do with X?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.diagnosing.diagnose import _given, inside
from nirs_store.errors import InvalidInput, ShapeMismatch

__all__ = ["PermutationTest", "permutation_test"]


@dataclass(frozen=True, eq=False)
class PermutationTest:
    """RMSECV of the recipe with the true y and with shuffled ones.

    Attributes
    ----------
    chain_id : str
        The chain.
    rmsecv : float
        With the true y, in its unit.
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
) -> PermutationTest:
    """Cross-validate the recipe of a chain with shuffled reference values.

    Ojala and Garriga (2010), Journal of Machine Learning Research 11, 1833-1863, as scikit-learn's
    ``permutation_test_score``. A large p value says that the RMSECV is no better than chance.

    Parameters
    ----------
    store, chain_id
        Workspace and chain; its fitted objects are cloned and fitted again.
    X, y
        Spectra and measured values, or what `read_spectra` returned.
    cv, groups
        Splitter and groups, as in scikit-learn; with groups, values are shuffled within a group only.
    n_permutations, seed, n_jobs
        How often to shuffle, from where, and on how many processes.

    Raises
    ------
    UnknownId, InvalidInput, ShapeMismatch
    """
    from sklearn.model_selection import permutation_test_score
    from sklearn.pipeline import make_pipeline

    X, y, _, _ = _given(X, y, None, None)
    if y is None:
        raise InvalidInput("permutation_test: expected measured values y.")
    spectra, values = np.asarray(X, dtype=float), np.asarray(y, dtype=float)
    if len(spectra) != len(values):
        raise ShapeMismatch(f"y: expected one value for each of {len(spectra)} spectra; found {len(values)}.")
    if n_permutations < 1:
        raise InvalidInput(f"n_permutations: expected at least 1; found {n_permutations}.")
    found = inside(store, chain_id)
    estimator = make_pipeline(*found.steps())
    score, permuted, _ = permutation_test_score(
        estimator, spectra, values, cv=cv, groups=groups, n_permutations=n_permutations, random_state=seed,
        n_jobs=n_jobs, scoring="neg_root_mean_squared_error",
    )  # fmt: skip
    errors = -np.asarray(permuted, dtype=float)
    p = (int((errors <= -score).sum()) + 1) / (n_permutations + 1)
    return PermutationTest(str(found.chain["chain_id"]), float(-score), errors, p)
