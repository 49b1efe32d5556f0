"""Figures of merit: what a chemometrician reads next to a calibration.

Written for measured values ``y``, predicted values ``y_hat`` and ``n`` samples, in the unit of
``y`` unless said otherwise:

======== ================================================= ==========================
name     formula                                           better
======== ================================================= ==========================
rmse     sqrt(mean((y_hat - y)^2))                         low
mae      mean(abs(y_hat - y))                              low
bias     mean(y_hat - y)                                   near 0
sep      sqrt(sum((y_hat - y - bias)^2) / (n - 1))         low
r2       1 - sum((y_hat - y)^2) / sum((y - mean(y))^2)     high, no unit
rpd      SD(y) / sep, with SD over n - 1                   high, no unit
rpiq     (Q3(y) - Q1(y)) / sep                             high, no unit
======== ================================================= ==========================

The RMSE is called RMSEC on the calibration set, RMSEP on a test set and RMSECV on the pooled
out-of-fold predictions of a cross-validation; the last is *not* the mean of the folds' RMSEs.

Sources. RMSE, bias, SEP and RPD: P. Williams, K. Norris (eds), Near-Infrared Technology in the
Agricultural and Food Industries, 2nd ed., AACC, St. Paul 2001. RPIQ: V. Bellon-Maurel,
E. Fernandez-Ahumada, B. Palagos, J.-M. Roger, A. McBratney, Critical review of chemometric
indicators commonly used for assessing the quality of the prediction of soil attributes by NIR
spectroscopy, TrAC Trends in Analytical Chemistry 29 (2010) 1073-1081,
doi:10.1016/j.trac.2010.05.006. That paper's SEP still holds the bias, ours does not; the two
RPIQ agree where the bias is zero. Quartiles are interpolated linearly (type 7 of Hyndman and
Fan, the default of numpy and R).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nirs_store.errors import InvalidInput, ShapeMismatch, did_you_mean

__all__ = [
    "CLASSIFICATION_SCORES",
    "METRICS",
    "REGRESSION_SCORES",
    "RMSE_BY_SET",
    "SCORES",
    "SCORE_COLUMNS",
    "Metric",
    "classification_scores",
    "default_metric",
    "direction",
    "higher_is_better",
    "is_figure",
    "mean_scores",
    "pooled_scores",
    "regression_scores",
    "repeats_of",
    "score_label",
    "unknown_name",
]


class Metric(NamedTuple):
    """A figure of merit: one value per target, from residuals; None where labels are scored together."""

    function: Callable[[_Residuals], NDArray[np.float64]] | None
    better: Literal["lower", "higher", "zero"]
    label: str
    help: str
    decimals: int = 3
    in_units: bool = False
    formula: str = ""
    additive: bool = False
    """The mean over samples, or its root: pooled from the folds without their predictions."""


def higher_is_better(metric: str) -> bool:
    """Say in which direction a metric improves.

    Parameters
    ----------
    metric : str
        A name of this module, also ``rmsec``, ``rmsecv``, ``rmsep``, ``mse`` or ``roc_auc``.

    Returns
    -------
    bool
        True for r2, accuracy, balanced_accuracy, f1, rpd, rpiq and roc_auc, False for errors.

    Raises
    ------
    InvalidInput
        The name is unknown; the message offers the nearest one.

    Examples
    --------
    >>> higher_is_better("r2"), higher_is_better("rmsecv")
    (True, False)
    """
    better = direction(metric)
    if better is None:
        raise InvalidInput(unknown_name("metric", metric, _BETTER))
    return better == "higher"


def direction(metric: str) -> Literal["lower", "higher", "zero"] | None:
    """Return where the best value of a metric lies; None for a name that is not known."""
    return _BETTER.get(metric)


def is_classification(task: object) -> bool:
    """Tell whether a task predicts labels, however many classes its name speaks of."""
    return "classification" in str(task).lower()


def default_metric(task_type: str) -> str:
    """Return the metric that models of a task are ranked by when the user names none.

    Parameters
    ----------
    task_type : str
        ``"regression"`` or ``"classification"`` (also ``"binary_classification"`` and
        ``"multiclass_classification"``).

    Returns
    -------
    str
        ``"rmse"`` for regression, ``"balanced_accuracy"`` for classification: the plain
        accuracy praises a model that always answers with the commonest class.

    Raises
    ------
    InvalidInput
        The task is neither.

    Examples
    --------
    >>> default_metric("regression")
    'rmse'
    """
    if task_type == "regression":
        return "rmse"
    if task_type in ("classification", "binary_classification", "multiclass_classification"):
        return "balanced_accuracy"
    raise InvalidInput(unknown_name("task type", task_type, ("regression", "classification")))


def regression_scores(
    y: ArrayLike, yhat: ArrayLike, *, per_target: bool = False, names: Iterable[str] | None = None
) -> dict[str, Any]:
    """Compute the figures of merit of a regression (formulas: see the module).

    Parameters
    ----------
    y, yhat : array-like, shape (n,), (n, 1) or (n, k)
        Measured and predicted values. With k targets each score is computed for every target
        and averaged with equal weights.
    per_target : bool
        Give lists of k scores instead of their means.
    names : iterable of str, optional
        The scores that are wanted, all by default; what is not named is not computed.

    Returns
    -------
    dict
        The scores as floats (lists with `per_target`) and ``n``.
        NaN where a score is not defined: ``sep, rpd, rpiq`` of one sample, ``r2`` of a
        constant y. A perfect prediction has an infinite rpd and rpiq.

    Raises
    ------
    ShapeMismatch
        The two have different lengths or numbers of targets.
    InvalidInput
        Nothing to score, a NaN, an infinity or something that is not a number, or an unknown name.

    Examples
    --------
    >>> scores = regression_scores([1.0, 2.0, 3.0], [1.5, 2.0, 3.5])
    >>> round(scores["bias"], 4), round(scores["sep"], 4), scores["n"]
    (0.3333, 0.2887, 3)
    """
    measured, predicted = _numbers("y", y), _numbers("yhat", yhat)
    if measured.shape != predicted.shape:
        raise ShapeMismatch(
            f"Measured and predicted values must have one shape: y has {_shape(y)}, yhat has {_shape(yhat)}."
        )
    residuals = _Residuals(measured, predicted - measured)
    scores: dict[str, Any] = {}
    for name in REGRESSION_SCORES if names is None else names:
        function = METRICS[name].function if name in METRICS else None
        if function is None:
            raise InvalidInput(unknown_name("figure of merit", name, REGRESSION_SCORES))
        values = function(residuals)
        scores[name] = values.tolist() if per_target else float(values.mean())
    scores["n"] = measured.shape[0]
    return scores


class _Residuals:
    """The figures of merit of a regression, one value per target; each is computed when it is asked for."""

    def __init__(self, measured: NDArray[np.float64], error: NDArray[np.float64]) -> None:
        self._measured = measured
        self._error = error
        self._n = measured.shape[0]

    @property
    def rmse(self) -> NDArray[np.float64]:
        return np.asarray(np.sqrt((self._error**2).mean(axis=0)))

    @property
    def mae(self) -> NDArray[np.float64]:
        return np.asarray(np.abs(self._error).mean(axis=0))

    @cached_property
    def bias(self) -> NDArray[np.float64]:
        return np.asarray(self._error.mean(axis=0))

    @cached_property
    def sep(self) -> NDArray[np.float64]:
        return self._deviation(((self._error - self.bias) ** 2).sum(axis=0))

    @property
    def r2(self) -> NDArray[np.float64]:
        total = np.where(self._total > 0, self._total, math.nan)
        return 1.0 - _ratio((self._error**2).sum(axis=0), total)

    @property
    def rpd(self) -> NDArray[np.float64]:
        return _ratio(self._deviation(self._total), self.sep)

    @property
    def rpiq(self) -> NDArray[np.float64]:
        lower, upper = np.quantile(self._measured, (0.25, 0.75), axis=0)
        return _ratio(upper - lower, self.sep)

    @cached_property
    def _total(self) -> NDArray[np.float64]:
        return np.asarray(((self._measured - self._measured.mean(axis=0)) ** 2).sum(axis=0))

    def _deviation(self, squares: NDArray[np.float64]) -> NDArray[np.float64]:
        undefined = np.full(squares.shape, math.nan)
        return np.asarray(np.sqrt(squares / (self._n - 1))) if self._n > 1 else undefined


METRICS: dict[str, Metric] = {
    "rmse": Metric(
        lambda r: r.rmse, "lower", "RMSE", "root mean square error", in_units=True, additive=True,
        formula="sqrt(mean((predicted − measured)²))",
    ),
    "mae": Metric(
        lambda r: r.mae, "lower", "MAE", "mean absolute error", in_units=True, additive=True,
        formula="mean(|predicted − measured|)",
    ),
    "bias": Metric(
        lambda r: r.bias, "zero", "bias", "mean of predicted minus measured", in_units=True, additive=True,
        formula="mean(predicted − measured)",
    ),
    "sep": Metric(
        lambda r: r.sep, "lower", "SEP", "standard error of prediction, corrected for bias", in_units=True,
        formula="SD of predicted − measured, corrected for bias",
    ),
    "r2": Metric(
        lambda r: r.r2, "higher", "R²", "coefficient of determination", formula="1 − SSE / SS of the measured values"
    ),
    "rpd": Metric(
        lambda r: r.rpd, "higher", "RPD", "standard deviation of the reference values over SEP", decimals=1,
        formula="SD(measured) / SEP",
    ),
    "rpiq": Metric(
        lambda r: r.rpiq, "higher", "RPIQ", "interquartile range of the reference values over SEP", decimals=1,
        formula="IQR(measured) / SEP",
    ),
    "accuracy": Metric(None, "higher", "accuracy", "share of correct labels", additive=True),
    "balanced_accuracy": Metric(None, "higher", "balanced accuracy", "mean recall of the classes"),
    "f1": Metric(None, "higher", "F1", "mean over the classes"),
    "log_loss": Metric(None, "lower", "log loss", "mean of -ln p of the true class", additive=True),
}  # fmt: skip
"""Every figure of merit that this library computes, in the order in which tables show them."""

REGRESSION_SCORES = tuple(name for name, metric in METRICS.items() if metric.function)
CLASSIFICATION_SCORES = tuple(name for name, metric in METRICS.items() if not metric.function)
SCORES = {"regression": REGRESSION_SCORES, "classification": CLASSIFICATION_SCORES}
RMSE_BY_SET = {
    "rmsec": "root mean square error on the calibration samples",
    "rmsecv": "of the pooled out-of-fold predictions",
    "rmsep": "on test samples that no model was fitted on",
}
"""What the RMSE is called by the samples that it is computed from."""
SCORE_COLUMNS = {
    "regression": ("rmsecv", "rmsec", "rmsep", *(name for name in REGRESSION_SCORES if name != "rmse")),
    "classification": CLASSIFICATION_SCORES,
}
"""Columns of a leaderboard with scores."""
# Known in both directions, though nothing here computes them.
_FOREIGN: dict[str, Literal["lower", "higher", "zero"]] = {"mse": "lower", "roc_auc": "higher"}
_BETTER = (
    {name: metric.better for name, metric in METRICS.items()} | dict.fromkeys(RMSE_BY_SET, "lower") | _FOREIGN
)


def score_label(metric: str) -> str:
    """Return what a cross-validated score is called: ``RMSECV``, ``R²``, ``balanced accuracy``."""
    if metric == "rmse":
        return "RMSECV"
    return METRICS[metric].label if metric in METRICS else metric.replace("_", " ")


def classification_scores(
    y: ArrayLike,
    yhat: ArrayLike,
    proba: ArrayLike | None = None,
    classes: Sequence[Any] | NDArray[Any] | None = None,
) -> dict[str, Any]:
    """Compute the scores of a classification.

    Parameters
    ----------
    y, yhat : array-like, shape (n,)
        True and predicted labels: strings, integers or booleans.
    proba : array-like, shape (n, n_classes), optional
        Predicted probabilities, one column per class.
    classes : sequence, optional
        The classes of the columns of `proba`; needed with it.

    Returns
    -------
    dict
        ``accuracy`` (share of right labels), ``balanced_accuracy`` (mean over the true classes
        of the share recalled), ``f1`` (harmonic mean of precision and recall, averaged over
        all classes that occur in y or yhat with equal weights; 0 for a class never hit),
        ``log_loss`` (mean of -ln p of the true class, p kept above 2.2e-16; NaN without
        `proba`) and ``n``. The same definitions as in scikit-learn.

    Raises
    ------
    ShapeMismatch
        Lengths, or the columns of `proba`, do not fit.
    InvalidInput
        Nothing to score, a missing label, probabilities outside [0, 1], or a true class that
        `classes` lacks.

    Examples
    --------
    >>> scores = classification_scores(["beef", "beef", "pork"], ["beef", "pork", "pork"])
    >>> round(scores["accuracy"], 4), scores["balanced_accuracy"]
    (0.6667, 0.75)
    """
    truth, guess = _labels("y", y), _labels("yhat", yhat)
    if truth.shape != guess.shape:
        raise ShapeMismatch(f"There are {truth.size} true labels but {guess.size} predicted ones.")
    # Joining numbers to text would make 1 and "1" the same label.
    if (truth.dtype.kind == "U") != (guess.dtype.kind == "U"):
        raise InvalidInput(f"True labels are {truth.dtype}, predicted ones {guess.dtype}; give one kind.")
    names, codes = np.unique(np.concatenate([truth, guess]), return_inverse=True)
    true_code, guess_code = codes[: truth.size], codes[truth.size :]
    hits = np.bincount(true_code[true_code == guess_code], minlength=names.size)
    of_truth = np.bincount(true_code, minlength=names.size)
    of_guess = np.bincount(guess_code, minlength=names.size)
    present = of_truth > 0
    return {
        "accuracy": float(np.mean(true_code == guess_code)),
        "balanced_accuracy": float(np.mean(hits[present] / of_truth[present])),
        "f1": float(np.mean(2 * hits / (of_truth + of_guess))),
        "log_loss": math.nan if proba is None else _log_loss(truth, proba, classes),
        "n": int(truth.size),
    }


def pooled_scores(
    folds: Iterable[Sequence[Any]],
    *,
    task_type: str = "regression",
    metric: str | None = None,
    classes: Sequence[Any] | NDArray[Any] | None = None,
    repeats: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Score the out-of-fold predictions of a cross-validation, pooled over all folds.

    The RMSECV is the RMSE of the pooled predictions, so every sample has the same weight; the
    spread over the folds is given next to it and never replaces it. A repeated cross-validation
    is scored repeat by repeat, and the scores are averaged: predictions never are.

    Parameters
    ----------
    folds : iterable of (y, yhat) or (y, yhat, proba)
        What each fold's model predicted for the samples it had not seen.
    task_type : str
        ``"regression"`` or ``"classification"``.
    metric : str, optional
        Whose spread over folds is given; `default_metric` of the task when None.
    classes : sequence, optional
        Classes of the columns of every fold's probabilities.
    repeats : sequence of int, optional
        The repeat that each fold belongs to; None for a single cross-validation.

    Returns
    -------
    dict
        The scores of all predictions together (of each repeat, then the mean), ``n`` (samples of one
        repeat), ``n_folds``, ``fold_mean`` and ``fold_sd`` (over n_folds - 1, NaN for one fold) of
        `metric`, and for a regression ``rmsecv``. With several repeats also ``n_repeats`` and
        ``repeat_sd``, the standard deviation of `metric` over the repeats.

    Raises
    ------
    ShapeMismatch, InvalidInput
        As the scores themselves; also when there is no fold.

    Examples
    --------
    >>> pooled = pooled_scores([([0.0, 0.0], [1.0, 1.0]), ([0.0, 0.0], [3.0, 3.0])])
    >>> round(pooled["rmsecv"], 3), pooled["fold_mean"]
    (2.236, 2.0)
    """
    regression = default_metric(task_type) == "rmse"
    parts = [tuple(fold) for fold in folds]
    if not parts:
        raise InvalidInput("A cross-validation has at least one fold; none was given.")
    known = SCORES["regression" if regression else "classification"]
    chosen = default_metric(task_type) if metric is None else metric
    if chosen not in known:
        raise InvalidInput(unknown_name(f"metric of a {task_type}", chosen, known))

    def score(y: ArrayLike, yhat: ArrayLike, proba: ArrayLike | None = None) -> dict[str, Any]:
        if regression:
            return regression_scores(y, yhat)
        return classification_scores(y, yhat, proba, classes)

    own_score = (lambda y, yhat, *_: regression_scores(y, yhat, names=[chosen])) if regression else score
    each = np.array([own_score(*part)[chosen] for part in parts], dtype=float)
    has_proba = all(len(part) > 2 and part[2] is not None for part in parts)
    numbers = [0] * len(parts) if repeats is None else list(repeats)
    if len(numbers) != len(parts):
        raise ShapeMismatch(f"repeats: expected one number per fold, {len(parts)}; found {len(numbers)}.")
    together = []
    for number in dict.fromkeys(numbers):
        own = [part for part, each_number in zip(parts, numbers, strict=True) if each_number == number]
        columns = [
            np.concatenate([np.asarray(part[i]) for part in own]) for i in range(3 if has_proba else 2)
        ]
        together.append(score(*columns))
    scores = mean_scores(together)
    if len(together) > 1:
        scores["n_repeats"] = len(together)
        scores["repeat_sd"] = float(np.std([scored[chosen] for scored in together], ddof=1))
    if regression:
        scores["rmsecv"] = scores["rmse"]
    scores["n_folds"] = len(parts)
    scores["fold_mean"] = float(each.mean())
    scores["fold_sd"] = float(each.std(ddof=1)) if len(parts) > 1 else math.nan
    return scores


def mean_scores(repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average the scores of repeats; ``n`` is the number of samples of one repeat."""
    if len(repeats) == 1:
        return dict(repeats[0])
    found: dict[str, Any] = {
        name: float(np.mean([scores[name] for scores in repeats])) for name in repeats[0] if name != "n"
    }
    if "n" in repeats[0]:
        found["n"] = round(np.mean([scores["n"] for scores in repeats]))
    return found


def repeats_of(rows: Sequence[NDArray[Any]]) -> list[int]:
    """Return the repeat that each fold belongs to, from the samples that the folds validate with.

    Folds that share no sample are one cross-validation, with the number 0. Consecutive folds that
    cover the same samples again and again (RepeatedKFold) are repeats; where samples come back in
    another way (ShuffleSplit) each fold is a repeat of its own.
    """
    numbers, seen, covered = [0] * len(rows), set[Any](), list[frozenset[Any]]()
    for place, fold in enumerate(rows):
        samples = set(fold.tolist())
        if seen & samples:
            covered.append(frozenset(seen))
            seen = set()
        seen |= samples
        numbers[place] = len(covered)
    covered.append(frozenset(seen))
    return numbers if len(set(covered)) == 1 else list(range(len(rows)))


def is_figure(value: object) -> bool:
    """Whether a value is a finite number, as a figure of merit has to be."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """Word the refusal of a name that is not known, with the nearest that is."""
    choices = sorted(known)
    hint = did_you_mean(name, choices)
    return f"Unknown {kind}: {name!r}.{hint} Known: {', '.join(choices)}."


def _log_loss(truth: NDArray[Any], proba: ArrayLike, classes: Sequence[Any] | NDArray[Any] | None) -> float:
    table = _numbers("proba", proba)
    if classes is None:
        raise InvalidInput("Probabilities need `classes`, the label of each column.")
    labels = np.asarray(classes).tolist()
    if table.shape != (truth.size, len(labels)):
        raise ShapeMismatch(
            f"Expected probabilities of shape ({truth.size}, {len(labels)}), one row per sample and one "
            f"column per class; found {table.shape}."
        )
    if table.min() < 0 or table.max() > 1 + 1e-6:
        raise InvalidInput(f"Probabilities lie in [0, 1]; found {table.min():g} to {table.max():g}.")
    place = {label: index for index, label in enumerate(labels)}
    missing = sorted({str(label) for label in truth.tolist() if label not in place})
    if missing:
        raise InvalidInput(f"`classes` lacks the true classes {missing}.")
    of_true = table[np.arange(truth.size), [place[label] for label in truth.tolist()]]
    tiny = np.finfo(np.float64).eps
    return float(-np.mean(np.log(np.clip(of_true, tiny, 1.0 - tiny))))


def _ratio(above: NDArray[Any], below: NDArray[Any]) -> NDArray[Any]:
    """Divide as the formulas mean it: x/0 is infinite and 0/0 is NaN, both without a warning."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(above / below)


def _numbers(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} must hold numbers only: {error}.") from error
    if array.ndim not in (1, 2):
        raise ShapeMismatch(f"{name} must be of shape (n,) or (n, k); found {array.shape}.")
    array = array.reshape(array.shape[0], -1) if array.size else array
    if not array.size:
        raise InvalidInput(f"{name} is empty; there is nothing to score.")
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0, 0])
        raise InvalidInput(f"{name} holds a NaN or an infinity, first in row {row}; remove such samples.")
    return array


def _labels(name: str, values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ShapeMismatch(f"{name} must hold one label per sample; found the shape {array.shape}.")
    if not array.size:
        raise InvalidInput(f"{name} is empty; there is nothing to score.")
    missing = [i for i, label in enumerate(array.tolist()) if label is None or label != label]
    if missing:
        raise InvalidInput(f"{name} has a missing label in row {missing[0]}; remove such samples.")
    if array.dtype != object:
        return array
    kinds = sorted({type(label).__name__ for label in array.tolist()})
    if len(kinds) > 1:
        raise InvalidInput(f"{name} mixes labels of the types {', '.join(kinds)}; give one kind.")
    return np.array(array.tolist())


def _shape(values: ArrayLike) -> tuple[int, ...]:
    return np.shape(values)
