"""Say whether two chains differ, from their errors on the same out-of-fold samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.chains.family import family_of
from nirs_store.chains.one_target import one_target
from nirs_store.choosing.components import Errors, errors_of_run, searched, several
from nirs_store.choosing.rules import flipped_means
from nirs_store.errors import InvalidInput
from nirs_store.protocol import ReadsRuns, chain_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairedComparison:
    """Two chains on the same samples.

    Attributes
    ----------
    first, second : str
        Their ids.
    rmse_first, rmse_second : float
        RMSE of the out-of-fold predictions on the samples that both predicted, in the unit of the target.
    n : int
        Number of those samples.
    p : float
        Two-sided p value of the randomization test on the paired squared errors.
    alpha : float
        The level that `distinguishable` compares it with.
    """

    first: str
    second: str
    rmse_first: float
    rmse_second: float
    n: int
    p: float
    alpha: float

    @property
    def distinguishable(self) -> bool:
        """Tell whether the errors differ at the level `alpha`."""
        return self.p < self.alpha

    @property
    def verdict(self) -> str:
        """Say it in words: which chain is better, or that they are not distinguishable."""
        if not self.distinguishable:
            return f"not distinguishable (p = {self.p:.2g}, n = {self.n})"
        better = self.first if self.rmse_first < self.rmse_second else self.second
        return f"{better[-8:]} is better (p = {self.p:.2g}, n = {self.n})"

    def __repr__(self) -> str:
        return (
            f"<RMSECV {self.rmse_first:.4g} ({self.first[-8:]}) and {self.rmse_second:.4g} ({self.second[-8:]}): "
            f"{self.verdict}>"
        )


def paired_p_value(first: Floats, second: Floats, *, n_permutations: int = 9999, seed: int = 0) -> float:
    """Return the two-sided p value that two vectors of squared errors of the same samples have one mean.

    The signs of the paired differences are flipped at random, as in van der Voet (1994); flipped means at least as
    far from 0 as the observed one count, p = (count + 0.5) / (n_permutations + 1).

    Parameters
    ----------
    first, second : ndarray, shape (n_samples,)
        Squared errors.
    n_permutations, seed : int
        How many sign flips, and where their sequence starts.

    Examples
    --------
    >>> import numpy as np
    >>> paired_p_value(np.ones(20), np.ones(20))
    0.99995
    """
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    observed = abs(differences.mean()) - 1e-12 * np.abs(differences).mean()
    flipped = flipped_means(differences, n_permutations, seed)
    count = sum(int((np.abs(means) >= observed).sum()) for means in flipped)
    return (count + 0.5) / (n_permutations + 1)


def compare_errors(
    store: ReadsRuns,
    first: str,
    second: str,
    *,
    alpha: float = 0.05,
    n_permutations: int = 9999,
    seed: int = 0,
    target: str | int | None = None,
) -> PairedComparison:
    """Test whether two chains differ in their out-of-fold errors on the same samples.

    Parameters
    ----------
    store : WorkspaceStore
        Where they are recorded.
    first, second : str
        Ids of two regression chains of one number per sample. They may belong to different runs and splitters, as
        long as they predict the same target for samples of the same names.
    alpha : float
        Level below which they count as different.
    n_permutations, seed : int
        Of the randomization test.
    target : str or int, optional
        Which target, by name or counted from 0, where a chain predicts several; the other may predict it alone.

    Returns
    -------
    PairedComparison

    Raises
    ------
    UnknownId
        No chain has that id.
    InvalidInput
        The chains have fewer than 5 samples in common, measured values that differ, or other targets.
    """
    store = one_target(store, target)
    rows = [chain_of(store, each) for each in (first, second)]
    targets = [family_of(row)[:2] for row in rows]
    names, units = ([pair[i] for pair in targets] for i in (0, 1))
    if names[0] != names[1] or (units[0] != units[1] and all(units)):
        raise InvalidInput(
            f"compare: expected chains of one target and unit; found {targets[0]} and {targets[1]}."
        )
    found = [_by_sample(store, row) for row in rows]
    common = sorted(set(found[0]) & set(found[1]), key=str)
    if len(common) < 5:
        raise InvalidInput(
            f"compare: expected at least 5 samples that both chains predicted out of fold; found {len(common)}."
        )
    if any(not np.isclose(found[0][name][0], found[1][name][0], rtol=1e-9, atol=0) for name in common):
        raise InvalidInput(
            "compare: the measured values of samples of one name differ; these are other samples, or the reference "
            "values were corrected in between."
        )
    squares = [np.array([each[name][1] for name in common]) for each in found]
    return PairedComparison(
        str(rows[0]["chain_id"]),
        str(rows[1]["chain_id"]),
        float(np.sqrt(squares[0].mean())),
        float(np.sqrt(squares[1].mean())),
        len(common),
        paired_p_value(squares[0], squares[1], n_permutations=n_permutations, seed=seed),
        alpha,
    )


def _by_sample(store: ReadsRuns, chain: dict[str, Any]) -> dict[Any, tuple[float, float]]:
    """Map each sample to its measured value and its mean squared out-of-fold error over repeats."""
    pipeline = store.get_pipeline(chain["pipeline_id"]) or {}
    errors: Errors | None = errors_of_run(store, str(pipeline.get("run_id")), [chain["chain_id"]]).get(
        chain["chain_id"]
    )
    if errors is None:
        raise InvalidInput(
            f"compare: the chain {chain['chain_id']!r} has no stored out-of-fold predictions of one number per sample."
            f"{searched(chain)}{several(store, chain)}"
        )
    collected: dict[Any, list[tuple[float, float]]] = {}
    for name, measured, error in zip(errors.samples, errors.measured, errors.errors, strict=True):
        collected.setdefault(name, []).append((measured, error**2))
    return {
        name: (float(np.mean([m for m, _ in each])), float(np.mean([s for _, s in each])))
        for name, each in collected.items()
    }
