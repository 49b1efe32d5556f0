"""What a table of episodes or samples says about a metric: its value, its interval, its value a row.

A metric is a score of this library where the table has ``y_true`` and ``y_pred``, else the mean of the column
of that name. Intervals are bootstrap intervals of `scipy.stats.bootstrap` (rows are drawn, pairs stay together).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nirs_store.errors import InvalidInput
from nirs_store.lazily import polars as pl
from nirs_store.scores import (
    CLASSIFICATION_SCORES,
    REGRESSION_SCORES,
    classification_scores,
    higher_is_better,
    regression_scores,
)

__all__ = ["Interval", "better_of", "estimate", "row_values", "sort_value"]

# An RMSE is called by the set that it was computed on.
_ALIASES = {"rmsep": "rmse", "rmsecv": "rmse", "rmsec": "rmse"}
_SUCCESS = "success_rate"
# Jackknife values, which BCa needs, take the square of the rows; above this both methods agree anyway.
_BCA_ROWS = 2000
_CELLS = 4_000_000
_LOSSES: dict[str, Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]] = {
    "rmse": lambda y, yhat: (yhat - y) ** 2,
    "mse": lambda y, yhat: (yhat - y) ** 2,
    "sep": lambda y, yhat: (yhat - y - np.mean(yhat - y)) ** 2,
    "mae": lambda y, yhat: np.abs(yhat - y),
    "bias": lambda y, yhat: yhat - y,
}


class Interval(NamedTuple):
    """A value with its bootstrap interval; None where there is none."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def better_of(metric: str, said: str | None = None) -> str:
    """In which direction a metric improves: "higher", "lower", or "zero" for a bias.

    What was said counts; else what `nirs_store.scores` knows of the name; else higher is better.
    """
    if said is not None:
        return said
    if metric == "bias":
        return "zero"
    try:
        return "higher" if higher_is_better(metric) else "lower"
    except InvalidInput:
        return "higher"


def sort_value(value: float | None, better: str) -> float:
    """A number that is larger for a better value; what is missing or NaN comes last."""
    if value is None or math.isnan(value):
        return -math.inf
    return {"higher": value, "lower": -value, "zero": -abs(value)}[better]


def _kind(table: pl.DataFrame, metric: str) -> str | None:
    """How a table gives a metric: "regression", "classification", the name of a column, or not at all."""
    if metric == _SUCCESS and "success" in table.columns:
        return "success"
    if {"y_true", "y_pred"} <= set(table.columns):
        numeric = table["y_true"].dtype.is_numeric() and table["y_pred"].dtype.is_numeric()
        if _ALIASES.get(metric, metric) in (*REGRESSION_SCORES, "mse") and numeric:
            return "regression"
        if metric in CLASSIFICATION_SCORES and metric != "log_loss":
            return "classification"
    if metric in table.columns and _is_number(table[metric].dtype):
        return metric
    return None


def _is_number(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype == pl.Boolean


def _columns(table: pl.DataFrame, kind: str) -> list[NDArray[Any]]:
    names = ["y_true", "y_pred"] if kind in ("regression", "classification") else [kind]
    known = table.select(names).drop_nulls()
    found = [known[name].to_numpy() for name in names]
    if kind == "classification":
        return [np.asarray(column.tolist()) for column in found]
    return [column.astype(np.float64) for column in found]


def estimate(
    table: pl.DataFrame | None,
    metric: str,
    *,
    recorded: float | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The value of a metric in a table with its interval; the recorded value where the table has none.

    Raises
    ------
    InvalidInput
        A confidence that is not between 0 and 1, or no resamples.
    """
    if not 0 < confidence < 1:
        raise InvalidInput(f"confidence: expected a number between 0 and 1, found {confidence!r}.")
    if not isinstance(n_resamples, int) or n_resamples < 1:
        raise InvalidInput(f"n_resamples: expected a whole number of at least 1, found {n_resamples!r}.")
    kind = None if table is None else _kind(table, metric)
    if table is None or kind is None:
        return Interval(recorded, None, None, 0 if table is None else table.height)
    data = _columns(table, kind)
    n = len(data[0])
    numbers = kind != "classification"
    if not n or (numbers and not all(np.isfinite(column).all() for column in data)):
        return Interval(recorded, None, None, n)
    statistic, vectorized = _statistic(kind, metric)
    value = float(statistic(*data))
    if n < 2 or not math.isfinite(value):
        return Interval(value, None, None, n)
    if all((column == column[0]).all() for column in data):
        return Interval(value, value, value, n)  # every resample is the same
    low, high = _bootstrap(data, statistic, vectorized, confidence, n_resamples, seed)
    return Interval(value, low, high, n)


def _bootstrap(
    data: list[NDArray[Any]],
    statistic: Callable[..., Any],
    vectorized: bool,
    confidence: float,
    n_resamples: int,
    seed: int,
) -> tuple[float | None, float | None]:
    from scipy.stats import bootstrap

    if data[0].dtype.kind not in "fi":
        # SciPy resamples numbers: rows are drawn by their index.
        labels, data = data, [np.arange(len(data[0]))]

        def of_rows(rows: NDArray[Any]) -> Any:
            return statistic(*(column[rows.astype(np.intp)] for column in labels))

        found = _ask(bootstrap, data, of_rows, False, confidence, n_resamples, seed, "percentile")
        return found
    methods = ("BCa", "percentile") if len(data[0]) <= _BCA_ROWS and vectorized else ("percentile",)
    for method in methods:
        found = _ask(bootstrap, data, statistic, vectorized, confidence, n_resamples, seed, method)
        if found[0] is not None:
            return found
    return None, None


def _ask(
    bootstrap: Callable[..., Any],
    data: list[NDArray[Any]],
    statistic: Callable[..., Any],
    vectorized: bool,
    confidence: float,
    n_resamples: int,
    seed: int,
    method: str,
) -> tuple[float | None, float | None]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Where BCa is not defined (a jackknife without spread), SciPy warns and gives NaN.
        warnings.simplefilter("ignore")
        found = bootstrap(
            data,
            statistic,
            paired=True,
            vectorized=vectorized,
            confidence_level=confidence,
            n_resamples=n_resamples,
            batch=max(1, _CELLS // len(data[0])),
            method=method,
            rng=np.random.default_rng(seed),
        ).confidence_interval
    low, high = float(found.low), float(found.high)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else (None, None)


def _statistic(kind: str, metric: str) -> tuple[Callable[..., Any], bool]:
    if kind == "classification":
        return (lambda y, yhat: classification_scores(y, yhat)[metric]), False
    if kind != "regression":
        return (lambda values, axis=-1: np.mean(values, axis=axis)), True
    name = _ALIASES.get(metric, metric)

    def scores(y: NDArray[Any], yhat: NDArray[Any], axis: int = -1) -> Any:
        # Each resample is a target of its own to the scores of this library.
        y, yhat = np.moveaxis(y, axis, 0), np.moveaxis(yhat, axis, 0)
        shape = y.shape[1:]
        table = regression_scores(y.reshape(len(y), -1), yhat.reshape(len(yhat), -1), per_target=True)
        found = np.square(table["rmse"]) if name == "mse" else np.asarray(table[name])
        return found.reshape(shape)

    return scores, True


def row_values(table: pl.DataFrame, metric: str) -> tuple[NDArray[np.float64], str]:
    """What each row contributes to a metric, and in which direction that improves.

    For an RMSE the squared error, for a MAE the absolute one, for an accuracy 1 or 0, else the column.

    Returns
    -------
    values, better
        NaN where the row has nothing; "higher", "lower" or "zero".

    Raises
    ------
    InvalidInput
        The metric has no value a row.
    """
    kind = _kind(table, metric)
    if kind == "regression":
        name = _ALIASES.get(metric, metric)
        if name in _LOSSES:
            y, yhat = (table[column].cast(pl.Float64).to_numpy() for column in ("y_true", "y_pred"))
            return np.asarray(_LOSSES[name](y, yhat), dtype=np.float64), "zero" if name == "bias" else "lower"
    elif kind == "classification" and metric == "accuracy":
        hits = (table["y_true"] == table["y_pred"]).cast(pl.Float64)
        return hits.fill_null(math.nan).to_numpy(), "higher"
    elif kind is not None and kind != "classification":
        return table[kind].cast(pl.Float64).fill_null(math.nan).to_numpy(), better_of(metric)
    numeric = [name for name, dtype in table.schema.items() if _is_number(dtype)]
    raise InvalidInput(
        f"metric: {metric!r} has no value a row, which a paired comparison needs. Of these tables can be compared: "
        f"{', '.join(numeric) or 'no column'}; with y_true and y_pred also rmse, mae, bias or accuracy."
    )
