"""Rules that choose a number of components from out-of-fold errors: plain functions of one matrix."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nirs_store.errors import InvalidInput, ShapeMismatch
from nirs_store.values import one_of

Rule = Literal["one_se", "randomization", "wold", "min"]
Floats = NDArray[np.float64]
_BLOCK = 1 << 22


def errors_of_the_mean(y: ArrayLike) -> Floats:
    """Return the errors of a model without components: each sample predicted by the mean of the others.

    Parameters
    ----------
    y : array-like, shape (n_samples,)
        Measured values.

    Returns
    -------
    ndarray, shape (n_samples,)
        Predicted minus measured, in the unit of `y`.
    """
    values = np.asarray(y, dtype=float)
    errors: Floats = (values.sum() - values) / (len(values) - 1) - values
    return errors


def p_values(errors: Floats, reference: int, *, n_permutations: int, seed: int) -> Floats:
    """Test whether each column's squared errors are larger than the reference column's.

    The randomization test of van der Voet (1994), Chemometrics and Intelligent Laboratory Systems 25, 313-323:
    the signs of the paired differences of squared errors are flipped at random; the one-sided p value is
    (count + 0.5) / (n_permutations + 1), as ``pls::selectNcomp`` of R computes it.

    Parameters
    ----------
    errors : ndarray, shape (n_samples, n_models)
        Out-of-fold errors, in the unit of y.
    reference : int
        The column that the others are compared with.
    n_permutations, seed : int
        How many random sign flips, and where their sequence starts.

    Returns
    -------
    ndarray, shape (n_models,)
        One p value per column; NaN for the reference itself.
    """
    squares = errors**2
    differences = np.delete(squares - squares[:, [reference]], reference, axis=1)
    observed = differences.mean(axis=0)
    # A flipped mean that differs from the observed one by rounding alone counts as equal.
    observed = observed - 1e-12 * np.abs(differences).mean(axis=0)
    counts = np.zeros(differences.shape[1])
    for means in flipped_means(differences, n_permutations, seed):
        counts += (means >= observed).sum(axis=0)
    return np.insert((counts + 0.5) / (n_permutations + 1), reference, np.nan)


def flipped_means(differences: Floats, n_permutations: int, seed: int) -> Iterator[Floats]:
    """Yield means of differences whose signs are flipped at random, some of the permutations at a time."""
    random, n, left = np.random.default_rng(seed), len(differences), n_permutations
    while left:
        size = min(left, max(1, _BLOCK // n))
        signs = random.integers(0, 2, size=(size, n), dtype=np.int8) * 2.0 - 1.0
        yield signs @ differences / n
        left -= size


def wold_ratios(errors: Floats) -> Floats:
    """Return Wold's R of each column: its PRESS divided by the PRESS of the column before it."""
    # Wold (1978), Technometrics 20, 397-405. The first value is NaN.
    press = (errors**2).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.concatenate([[np.nan], press[1:] / press[:-1]])


def select_components(
    errors: ArrayLike,
    components: Sequence[int],
    rule: Rule = "one_se",
    *,
    alpha: float = 0.01,
    threshold: float = 0.95,
    n_permutations: int = 999,
    seed: int = 0,
    samples: Sequence[Hashable] | None = None,
) -> tuple[int, dict[str, Any]]:
    """Choose a number of components from the out-of-fold errors of each.

    Parameters
    ----------
    errors : array-like, shape (n_predictions, n_models)
        Predicted minus measured, one column per number of components, all for the same samples.
    components : sequence of int, length n_models
        Rising numbers of components; 0 is the mean of y.
    rule : {"one_se", "randomization", "wold", "min"}
        ``one_se`` takes the smallest number whose RMSECV is less than one standard error (SD of its errors
        divided by sqrt(n)) above the lowest RMSECV, as "onesigma" of R's pls package. ``randomization`` takes the
        smallest number whose squared errors are not significantly larger than those at the lowest RMSECV.
        ``wold`` takes the number after which PRESS falls by less than 1 - `threshold`. ``min`` takes the lowest.
    alpha : float
        Level of the randomization test.
    threshold : float
        Wold's R above which a further component is not taken.
    n_permutations, seed : int
        Of the randomization test.
    samples : sequence, length n_predictions, optional
        The sample of each row, where a repeated cross-validation predicts samples several times: the standard error
        and the randomization test then count samples, not predictions. By default each row is a sample of its own.

    Returns
    -------
    tuple of int and dict
        The chosen number, and the columns `rmsecv`, `se`, `p` and `wold_r` it was chosen by.

    Raises
    ------
    InvalidInput
        An unknown rule, errors that are not finite, or numbers that do not rise.
    ShapeMismatch
        `errors` does not have one column per number of components.

    Examples
    --------
    >>> import numpy as np
    >>> errors = np.array([[9.0, 1.0, 0.9], [-9.0, -1.0, -1.0], [9.0, -1.0, 1.0], [-9.0, 1.0, -0.9]])
    >>> [select_components(errors, [1, 2, 3], rule)[0] for rule in ("min", "wold", "one_se")]
    [3, 3, 2]
    """
    matrix, numbers = np.asarray(errors, dtype=float), list(components)
    one_of("rule", rule, RULES, "")
    if matrix.ndim != 2 or matrix.shape[1] != len(numbers) or len(matrix) < 2:
        raise ShapeMismatch(
            f"errors: expected at least 2 samples and one column per number of components ({len(numbers)}); "
            f"found shape {matrix.shape}."
        )
    if not np.isfinite(matrix).all():
        raise InvalidInput("errors: expected finite numbers; found NaN or infinity.")
    if any(after <= before for before, after in itertools.pairwise(numbers)):
        raise InvalidInput(f"components: expected rising numbers; found {numbers[:12]}.")
    if not 0 < alpha < 1 or not 0 < threshold <= 1 or n_permutations < 1:
        raise InvalidInput("alpha and threshold lie between 0 and 1, and n_permutations is at least 1.")
    if samples is not None and len(samples) != len(matrix):
        raise ShapeMismatch(f"samples: expected one per row of errors ({len(matrix)}); found {len(samples)}.")
    rmsecv = np.sqrt((matrix**2).mean(axis=0))
    best = int(np.argmin(rmsecv))
    # Predictions of one sample depend on each other, so that they count as one.
    squares = matrix**2 if samples is None else _means(matrix**2, samples)
    columns: dict[str, Any] = {
        "rmsecv": rmsecv,
        "se": matrix.std(axis=0, ddof=1) / np.sqrt(len(squares)),
        "p": p_values(np.sqrt(squares), best, n_permutations=n_permutations, seed=seed)
        if rule == "randomization"
        else np.full(len(numbers), np.nan),
        "wold_r": wold_ratios(matrix),
    }
    return numbers[RULES[rule](columns, best, alpha, threshold)], columns


def _means(rows: Floats, samples: Sequence[Hashable]) -> Floats:
    """Average the rows of each sample, in the order in which the samples first come."""
    codes: dict[Hashable, int] = {}
    places = np.array([codes.setdefault(each, len(codes)) for each in samples])
    sums = np.zeros((len(codes), rows.shape[1]))
    np.add.at(sums, places, rows)
    means: Floats = sums / np.bincount(places)[:, None]
    return means


def _one_se(columns: dict[str, Any], best: int, alpha: float, threshold: float) -> int:
    near = columns["rmsecv"] - columns["se"] < columns["rmsecv"][best]
    return int(np.flatnonzero(near)[0]) if near.any() else best


def _randomization(columns: dict[str, Any], best: int, alpha: float, threshold: float) -> int:
    alike = np.flatnonzero(columns["p"][:best] > alpha)
    return int(alike[0]) if len(alike) else best


def _wold(columns: dict[str, Any], best: int, alpha: float, threshold: float) -> int:
    flat = np.flatnonzero(columns["wold_r"][1:] > threshold)
    return int(flat[0]) if len(flat) else len(columns["wold_r"]) - 1


def _min(columns: dict[str, Any], best: int, alpha: float, threshold: float) -> int:
    return best


#: Rules by name; each returns the column to take.
RULES: dict[str, Callable[[dict[str, Any], int, float, float], int]] = {
    "one_se": _one_se,
    "randomization": _randomization,
    "wold": _wold,
    "min": _min,
}
