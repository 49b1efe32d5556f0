"""What a table says about a metric: its value with an interval, and whether two models differ in it.

A metric is a score of this library where the table has ``y_true`` and ``y_pred``, else the mean of the column
of that name. Intervals are bootstrap intervals of `scipy.stats.bootstrap` (rows are drawn, pairs stay together).
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nirs_store.db.session import Engine
from nirs_store.display import table as html_table
from nirs_store.errors import InvalidInput
from nirs_store.evaluations import rows
from nirs_store.evaluations.rows import better_of
from nirs_store.evaluations.tables import Entry, entries_of
from nirs_store.lazy import polars as pl
from nirs_store.scores import (
    CLASSIFICATION_SCORES,
    REGRESSION_SCORES,
    classification_scores,
    regression_scores,
)
from nirs_store.values import one_of, whole_number

# Confidence, number of resamples, seed.
Drawing = tuple[float, int, int]

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


def _kind(table: pl.DataFrame, metric: str) -> str | None:
    """Return how a table has a metric: "regression", "classification", the name of a column, or not at all."""
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
    recorded: float | None = None,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the value of a metric in a table with its interval; the recorded value where the table has none."""
    if not 0 < confidence < 1:
        raise InvalidInput(f"confidence: expected a number between 0 and 1, found {confidence!r}.")
    whole_number("n_resamples", n_resamples, 1, "")
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
    from scipy import stats

    resample: Callable[..., Any] = stats.bootstrap
    labels, of_values = data, statistic
    if data[0].dtype.kind not in "fi":
        # SciPy resamples numbers: rows are drawn by their index.
        def of_rows(rows: NDArray[Any]) -> Any:
            return of_values(*(column[rows.astype(np.intp)] for column in labels))

        data, statistic = [np.arange(len(data[0]))], of_rows
    methods = ("BCa", "percentile") if len(data[0]) <= _BCA_ROWS and vectorized else ("percentile",)
    for method in methods:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            # Where BCa is not defined (a jackknife without spread), SciPy warns and gives NaN.
            warnings.simplefilter("ignore")
            found = resample(
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
        if math.isfinite(low) and math.isfinite(high):
            return low, high
    return None, None


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
    """Return what each row contributes to a metric, and in which direction that improves."""
    # For an RMSE the squared error, for a MAE the absolute one, for an accuracy 1 or 0, else the column.
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


# -- every model against every other, on the same episodes or samples ------------------------------


_TESTS = ("t-test", "wilcoxon")
_CORRECTIONS = ("bh", "by", "holm", "none")
_PAIRS = ("episode_id", "sample", "sample_id", "episode", "seed")


@cache
def _schema() -> dict[str, Any]:
    return {
        "model_a": pl.String,
        "model_b": pl.String,
        "n": pl.Int64,
        "mean_difference": pl.Float64,
        "statistic": pl.Float64,
        "p_value": pl.Float64,
        "p_adjusted": pl.Float64,
        "significant": pl.Boolean,
        "better": pl.String,
    }


@dataclass(frozen=True, repr=False, eq=False)
class ModelComparison:
    """Paired comparisons of the models of a suite.

    Attributes
    ----------
    frame : polars.DataFrame
        One row per pair: ``model_a, model_b, n`` (pairs of rows), ``mean_difference`` (a - b, of what a row contributes
        to the metric), ``statistic, p_value, p_adjusted, significant``, ``better`` (the better model where
        significant).
    suite, metric, test, correction : str
    alpha : float
    """

    frame: pl.DataFrame
    suite: str
    metric: str
    test: str
    correction: str
    alpha: float

    def matrix(self, value: str = "p_adjusted") -> pl.DataFrame:
        """Return a column of the frame as a table of model against model; differences change their sign below the
        diagonal.

        Raises
        ------
        InvalidInput
            Another column than ``n, mean_difference, statistic, p_value, p_adjusted``.
        """
        one_of("value", value, ("p_adjusted", "p_value", "mean_difference", "statistic", "n"))
        models = list(dict.fromkeys([*self.frame["model_a"], *self.frame["model_b"]]))
        cells: dict[tuple[str, str], Any] = {}
        sign = -1 if value in ("mean_difference", "statistic") and self.test == "t-test" else 1
        sign = -1 if value == "mean_difference" else sign
        for row in self.frame.iter_rows(named=True):
            found = row[value]
            cells[row["model_a"], row["model_b"]] = found
            cells[row["model_b"], row["model_a"]] = None if found is None else sign * found
        columns: dict[str, Any] = {"model": models}
        for column in models:
            name = f"{column} " if column == "model" else column
            columns[name] = [cells.get((row, column)) for row in models]
        return pl.DataFrame(columns)

    def _repr_html_(self) -> str:
        words = f"{self.metric} on {self.suite}: {self.test}, p corrected ({self.correction})"
        return html_table(self.frame.columns, self.frame.iter_rows(), caption=words)

    def __repr__(self) -> str:
        return (
            f"<ModelComparison of {self.metric!r} on {self.suite!r}: {self.frame.height} pairs, {self.test}>"
        )


def adjusted(p_values: Sequence[float | None], correction: str) -> list[float | None]:
    """Correct p values for the number of tests; what is None was no test."""
    # ``bh`` and ``by`` (false discovery rate; Benjamini and Hochberg 1995, Benjamini and Yekutieli 2001) are SciPy's,
    # ``holm`` is Holm's step-down of the family-wise error rate (Scand. J. Statist. 6, 1979, 65-70).
    known = [index for index, p in enumerate(p_values) if p is not None and not math.isnan(p)]
    found: list[float | None] = [None] * len(p_values)
    values = np.array([p_values[index] for index in known], dtype=np.float64)
    if not known:
        return found
    if correction in ("bh", "by"):
        from scipy.stats import false_discovery_control

        corrected = false_discovery_control(values, method="bh" if correction == "bh" else "by")
    elif correction == "holm":
        order = np.argsort(values, kind="stable")
        steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
        corrected = np.empty_like(values)
        corrected[order] = np.minimum(steps, 1.0)
    else:
        corrected = values
    for index, value in zip(known, corrected, strict=True):
        found[index] = float(value)
    return found


def compare(
    engine: Engine,
    suite: str,
    metric: str | None,
    models: Sequence[str] | None,
    which: str,
    test: str,
    correction: str,
    pair_by: str | None,
    alpha: float,
) -> ModelComparison:
    """See `Evaluations.compare`."""
    one_of("test", test, _TESTS)
    one_of("correction", correction, _CORRECTIONS)
    if not 0 < alpha < 1:
        raise InvalidInput(f"alpha: expected a number between 0 and 1, found {alpha!r}.")
    if which == "all":
        raise InvalidInput("which: a comparison takes one evaluation per model: 'latest' or 'best'.")
    found = entries_of(engine, suite, metric, models, which)
    entries = sorted((e for e in found.items if e.table is not None), key=lambda e: e.model_id)
    if len(entries) < 2:
        without = [e.model_id for e in found.items if e.table is None]
        raise InvalidInput(
            f"A comparison needs two models of {suite!r} with episodes or samples; found {len(entries)}"
            + (f" (without a table: {', '.join(without)})." if without else ".")
        )
    said = engine.query(lambda con: rows.direction_of(con, suite, found.metric))
    lines = []
    for a, b in itertools.combinations(entries, 2):
        mine, theirs, better = _paired(a, b, found.metric, pair_by)
        if better == better_of(found.metric):
            better = better_of(found.metric, said)
        lines.append((a.model_id, b.model_id, *_tested(mine, theirs, test, better)))
    corrected = adjusted([line[5] for line in lines], correction)
    table = []
    for (a_id, b_id, n, mean, statistic, p, ahead), p_adjusted in zip(lines, corrected, strict=True):
        significant = None if p_adjusted is None else p_adjusted < alpha
        winner = (a_id if ahead > 0 else b_id) if significant and ahead else None
        table.append((a_id, b_id, n, mean, statistic, p, p_adjusted, significant, winner))
    frame = pl.DataFrame(table, schema=_schema(), orient="row")
    return ModelComparison(frame, suite, found.metric, test, correction, alpha)


def _paired(
    a: Entry, b: Entry, metric: str, pair_by: str | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    assert a.table is not None
    assert b.table is not None
    mine, better = row_values(a.table, metric)
    theirs, _ = row_values(b.table, metric)
    shared = set(a.table.columns) & set(b.table.columns)
    key = pair_by
    if key is None:
        key = next((name for name in _PAIRS if name in shared), None)
    elif key not in shared:
        one_of("pair_by", key, sorted(shared))
    if key is None:
        if len(mine) != len(theirs):
            raise InvalidInput(
                f"{a.model_id!r} has {len(mine)} rows and {b.model_id!r} {len(theirs)}, and no column says which "
                f"belong together. Name one with pair_by (both have {', '.join(sorted(shared)) or 'none'})."
            )
        return (*_known(mine, theirs), better)
    keys_a, keys_b = (_keys(entry, key) for entry in (a, b))
    both = [name for name in keys_a if name in keys_b]
    if not both:
        raise InvalidInput(f"pair_by: {a.model_id!r} and {b.model_id!r} share no value of {key!r}.")
    first, second = mine[[keys_a[name] for name in both]], theirs[[keys_b[name] for name in both]]
    return (*_known(first, second), better)


def _keys(entry: Entry, key: str) -> dict[Any, int]:
    assert entry.table is not None
    names = entry.table[key].to_list()
    found = {name: index for index, name in enumerate(names)}
    if len(found) < len(names):
        raise InvalidInput(
            f"pair_by: {key!r} names several rows alike in the table of {entry.model_id!r}. Name a column whose values "
            "are all different."
        )
    return found


def _known(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    there = np.isfinite(a) & np.isfinite(b)
    return a[there], b[there]


def _tested(
    a: NDArray[np.float64], b: NDArray[np.float64], test: str, better: str
) -> tuple[int, float | None, float | None, float | None, float]:
    """Return number of pairs, mean difference, statistic, p value; the last one is positive where a is better."""
    difference = a - b
    if len(difference) < 2:
        return len(difference), None, None, None, 0.0
    mean = float(difference.mean())
    ahead = {"higher": mean, "lower": -mean, "zero": abs(float(b.mean())) - abs(float(a.mean()))}[better]
    if not difference.any():
        return len(difference), mean, 0.0, 1.0, ahead
    from scipy.stats import ttest_rel, wilcoxon

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Of differences that are all alike SciPy warns that a variance of nothing is inexact.
        warnings.simplefilter("ignore")
        found = ttest_rel(a, b) if test == "t-test" else wilcoxon(a, b)
    statistic, p = float(found.statistic), float(found.pvalue)
    return len(difference), mean, statistic, None if math.isnan(p) else p, ahead
