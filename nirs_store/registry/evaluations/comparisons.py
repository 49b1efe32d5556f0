"""Every model against every other on the same episodes or samples: paired tests, corrected for their number."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nirs_store.catalog import evaluation_rows as rows
from nirs_store.catalog.engine import Engine
from nirs_store.display import table as html_table
from nirs_store.errors import InvalidInput
from nirs_store.lazily import polars as pl
from nirs_store.registry.evaluations.entries import Entry, entries_of
from nirs_store.registry.evaluations.recording import one_of
from nirs_store.registry.evaluations.scoring import better_of, row_values

__all__ = ["CORRECTIONS", "TESTS", "ModelComparison", "adjusted", "compare"]

TESTS = ("t-test", "wilcoxon")
CORRECTIONS = ("bh", "by", "holm", "none")
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
        A row a pair: ``model_a, model_b, n`` (pairs of rows), ``mean_difference`` (a - b, of what a row contributes
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
        """A column of the frame as a table of model against model; differences change their sign below the
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
    """Correct p values for the number of tests; what is None was no test.

    ``bh`` and ``by`` (false discovery rate; Benjamini and Hochberg 1995, Benjamini and Yekutieli 2001) are SciPy's,
    ``holm`` is Holm's step-down of the family-wise error rate (Scand. J. Statist. 6, 1979, 65-70).

    Examples
    --------
    >>> adjusted([0.01, 0.04, 0.03], "holm")
    [0.03, 0.06, 0.06]
    """
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
    *,
    models: Any,
    which: str,
    test: str,
    correction: str,
    pair_by: str | None,
    alpha: float,
) -> ModelComparison:
    """See `Evaluations.compare`."""
    one_of("test", test, TESTS)
    one_of("correction", correction, CORRECTIONS)
    if not 0 < alpha < 1:
        raise InvalidInput(f"alpha: expected a number between 0 and 1, found {alpha!r}.")
    if which == "all":
        raise InvalidInput("which: a comparison takes one evaluation a model: 'latest' or 'best'.")
    found = entries_of(engine, suite, metric, models=models, which=which)
    entries = sorted((e for e in found.items if e.table is not None), key=lambda e: e.model_id)
    if len(entries) < 2:
        without = [e.model_id for e in found.items if e.table is None]
        raise InvalidInput(
            f"A comparison needs two models of {suite!r} with episodes or samples; found {len(entries)}"
            + (f" (without a table: {', '.join(without)})." if without else ".")
        )
    said = engine.query(lambda con: rows.directions(con, suite, found.metric))
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
    """Number of pairs, mean difference, statistic, p value; the last one is positive where a is better."""
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
