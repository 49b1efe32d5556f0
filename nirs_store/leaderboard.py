"""Ranking chains: pooled scores of the out-of-fold predictions, refit, test, and a pivot of them.

The RMSECV is that of the pooled out-of-fold predictions, never a mean over folds; the spread
over folds stands beside it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from nirs_store.catalog import queries, ranking
from nirs_store.catalog.access import Connection
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.values import from_json
from nirs_store.errors import InvalidInput
from nirs_store.scores import (
    CLASSIFICATION_SCORES,
    REGRESSION_SCORES,
    classification_scores,
    default_metric,
    higher_is_better,
    regression_scores,
)

__all__ = ["PIVOT_COLUMNS", "Pivot", "make_pivot", "top_chains"]

# Means over samples: their pooled value follows from the folds' values and sizes alone.
_ADDITIVE = ("rmse", "mae", "bias", "accuracy", "log_loss")
_ALIASES = {"rmsecv": "rmse", "rmsec": "rmse", "rmsep": "rmse"}
PIVOT_COLUMNS = ("preprocessings", "model_class", "model_name", "dataset_name", "run_id", "run_name")
_Aggregate = Literal["min", "max", "mean", "median"]
_AGGREGATES: dict[str, _Aggregate] = {
    "best": "min",  # or "max": make_pivot looks at the metric
    "min": "min",
    "max": "max",
    "mean": "mean",
    "median": "median",
}

_TEXT_COLUMNS = (
    "chain_id",
    "run_id",
    "run_name",
    "pipeline_id",
    "pipeline_name",
    "dataset_name",
    "preprocessings",
    "model_name",
    "model_class",
    "pipeline",
    "metric",
)

_Arrays = dict[str, np.ndarray | None]


def top_chains(
    engine: Engine,
    n: int | None,
    metric: str | None,
    ascending: bool | None,
    task_type: str | None,
    **filters: Any,
) -> pl.DataFrame:
    """Rank chains; see `WorkspaceStore.top_chains`."""
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 0):
        raise InvalidInput(f"n: expected a whole number of at least 0, found {n!r}.")
    wanted = None if metric is None else _ALIASES.get(metric, metric)
    if wanted is not None:
        higher_is_better(wanted)  # refuses an unknown name and suggests the nearest
    return engine.query(lambda con: _rank(con, n, wanted, ascending, task_type, filters))


def _rank(
    con: Connection,
    n: int | None,
    metric: str | None,
    ascending: bool | None,
    task_type: str | None,
    filters: Mapping[str, Any],
) -> pl.DataFrame:
    found = ranking.candidate_chains(con, metric, **filters)
    found = found.with_columns(
        pl.when(pl.col("task_type").str.contains("classification"))
        .then(pl.lit("classification"))
        .otherwise(pl.lit("regression"))
        .alias("task")
    )
    task = _one_task(found, metric, task_type)
    found = found.filter(pl.col("task") == task)
    chosen = metric or default_metric(task)
    known = REGRESSION_SCORES if task == "regression" else CLASSIFICATION_SCORES
    if chosen not in known:
        raise InvalidInput(f"metric: {chosen!r} does not score a {task}. Expected one of {', '.join(known)}.")
    descending = higher_is_better(chosen) if ascending is None else not ascending
    if metric is None and found.height:
        # The folds' sums were made for each chain's own metric; ask again for the task's.
        again = ranking.candidate_chains(con, chosen, **filters).select("chain_id", "pooled", "fold_sd")
        found = found.drop("pooled", "fold_sd").join(again, on="chain_id", how="left")
    if n is not None and chosen in _ADDITIVE and found["pooled"].null_count() == 0:
        # The order is known without the arrays, so only those of the best are read.
        found = _sorted(found, "pooled", chosen, descending).head(n)
    scored = _score(con, found, task, chosen)
    ranked = _sorted(scored, "score", chosen, descending)
    return ranked if n is None else ranked.head(n)


def _one_task(found: pl.DataFrame, metric: str | None, task_type: str | None) -> str:
    if task_type is not None:
        default_metric(task_type)
        return "classification" if "classification" in task_type else "regression"
    tasks = sorted(found["task"].unique().to_list())
    if metric is not None:
        kinds = {"regression": REGRESSION_SCORES, "classification": CLASSIFICATION_SCORES}
        fits = [task for task, names in kinds.items() if metric in names]
        tasks = [task for task in tasks if task in fits] or fits
    if len(tasks) > 1:
        raise InvalidInput(
            "These chains are regressions and classifications, which no metric compares. Name a metric, a data "
            "set, a run, or task_type='regression'."
        )
    return str(tasks[0]) if tasks else "regression"


def _sorted(rows: pl.DataFrame, column: str, metric: str, descending: bool) -> pl.DataFrame:
    key = pl.col(column).fill_nan(None)
    if metric == "bias":
        key = key.abs()  # near zero is best, on either side
    return rows.sort([key, pl.col("chain_id")], descending=[descending, False], nulls_last=True)


def _score(con: Connection, found: pl.DataFrame, task: str, metric: str) -> pl.DataFrame:
    ids = found["chain_id"].to_list()
    rows = ranking.fold_predictions(con, ids)
    arrays = queries.load_arrays(con, rows["prediction_id"].to_list())
    by_chain: dict[str, list[dict[str, Any]]] = {}
    for row in rows.iter_rows(named=True):
        by_chain.setdefault(row["chain_id"], []).append(row)
    out = []
    for chain in found.iter_rows(named=True):
        out.append(_one_chain(chain, by_chain.get(chain["chain_id"], []), arrays, task, metric))
    names = _names(task)
    schema: dict[str, pl.DataType] = {
        **dict.fromkeys(_TEXT_COLUMNS, pl.String()),
        **dict.fromkeys(("score", "score_sd", "refit_score", "test_score", *names), pl.Float64()),
        "n_folds": pl.Int64(),
        "n_samples": pl.Int64(),
        "created_at": pl.Datetime("us", "UTC"),
    }
    return pl.DataFrame([[row.get(name) for name in schema] for row in out], schema=schema, orient="row")


def _names(task: str) -> tuple[str, ...]:
    if task == "regression":
        return ("rmsecv", "rmsec", "rmsep", "mae", "bias", "sep", "r2", "rpd", "rpiq")
    return tuple(CLASSIFICATION_SCORES)


def _one_chain(
    chain: dict[str, Any],
    predictions: list[dict[str, Any]],
    arrays: dict[str, _Arrays],
    task: str,
    metric: str,
) -> dict[str, Any]:
    folds = [p for p in predictions if p["partition"] == "val" and p["fold_id"] not in ranking.REFIT_FOLDS]
    pooled = _scores_of(folds, arrays, task)
    refits = [p for p in predictions if p["fold_id"] in ranking.REFIT_FOLDS]
    refit = _scores_of([p for p in refits if p["partition"] == "train"], arrays, task)
    test = _scores_of([p for p in refits if p["partition"] == "test"], arrays, task)
    if not test:
        test = _averaged_test(predictions, arrays, task)
    each = [_scores_of([p], arrays, task).get(metric) for p in folds]
    values = [value for value in each if value is not None]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else chain["fold_sd"]
    row = {
        name: chain[name]
        for name in (
            "chain_id",
            "run_id",
            "run_name",
            "pipeline_id",
            "pipeline_name",
            "dataset_name",
            "preprocessings",
            "model_name",
            "model_class",
            "n_folds",
            "n_samples",
            "created_at",
        )
    }
    row["pipeline"] = " > ".join(part for part in (chain["preprocessings"], chain["model_name"]) if part)
    row["metric"] = metric
    row["score"] = pooled.get(metric, chain["pooled"])
    row["score_sd"] = spread
    row["refit_score"] = refit.get(metric)
    row["test_score"] = test.get(metric)
    if task == "regression":
        row |= {name: pooled.get(name) for name in ("mae", "bias", "sep", "r2", "rpd", "rpiq")}
        fallback = chain["pooled"] if metric == "rmse" else None
        row |= {"rmsecv": pooled.get("rmse", fallback), "rmsec": refit.get("rmse"), "rmsep": test.get("rmse")}
    else:
        row |= {name: pooled.get(name) for name in CLASSIFICATION_SCORES}
    return row


def _scores_of(
    predictions: Sequence[dict[str, Any]], arrays: dict[str, _Arrays], task: str
) -> dict[str, float]:
    """Scores of predictions taken together; empty when one of them has no arrays."""
    parts = [arrays.get(p["prediction_id"], {}) for p in predictions]
    if not parts or any(part.get("y_true") is None or part.get("y_pred") is None for part in parts):
        return {}
    y = np.concatenate([np.asarray(part["y_true"]) for part in parts])
    yhat = np.concatenate([np.asarray(part["y_pred"]) for part in parts])
    if task == "regression":
        return _finite(regression_scores(y.reshape(yhat.shape), yhat))
    scores = classification_scores(y, yhat)
    # The columns of stored probabilities belong to classes that only the fold knows; its own
    # log loss was recorded with it.
    losses = [_recorded(p, "log_loss") for p in predictions]
    if all(loss is not None for loss in losses):
        sizes = [np.asarray(part["y_true"]).shape[0] for part in parts]
        scores["log_loss"] = float(np.average([loss for loss in losses if loss is not None], weights=sizes))
    return _finite(scores)


def _recorded(prediction: dict[str, Any], name: str) -> float | None:
    scores = from_json(prediction["scores"]) or {}
    value = scores.get(name)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _averaged_test(
    predictions: Sequence[dict[str, Any]], arrays: dict[str, _Arrays], task: str
) -> dict[str, float]:
    """Test scores of the mean of the fold models, where no refit predicted the test samples."""
    tests = [p for p in predictions if p["partition"] == "test"]
    parts = [arrays.get(p["prediction_id"], {}) for p in tests]
    found = [(part.get("y_true"), part.get("y_pred")) for part in parts]
    if task != "regression" or not found:
        return {}
    truths = [np.asarray(y) for y, _ in found if y is not None]
    guesses = [np.asarray(yhat) for _, yhat in found if yhat is not None]
    same = len(truths) == len(guesses) == len(found) and all(np.array_equal(truths[0], y) for y in truths)
    if not same:
        return {}
    return _finite(regression_scores(truths[0], np.mean(guesses, axis=0)))


def _finite(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in scores.items()}


@dataclass(frozen=True)
class Pivot:
    """A table of one score.

    Attributes
    ----------
    frame : polars.DataFrame
        First column: the kinds of `rows`; one column for each kind of `columns`.
    rows, columns, metric : str
        What stands where.
    """

    frame: pl.DataFrame
    rows: str
    columns: str
    metric: str

    def to_csv(self) -> str:
        """The table as CSV."""
        return self.frame.write_csv()

    def to_markdown(self, digits: int = 4) -> str:
        """The table as a Markdown table."""
        head, *body = self._cells(digits, lambda text: text.replace("|", "\\|"))
        rule = ["---", *["---:"] * (len(head) - 1)]
        return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body)) + "\n"

    def to_latex(self, digits: int = 4) -> str:
        """The table as a LaTeX ``tabular`` (needs the package booktabs)."""
        head, *body = self._cells(digits, _latex)
        lines = [
            f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            "\\toprule",
            " & ".join(head) + " \\\\",
            "\\midrule",
            *(" & ".join(row) + " \\\\" for row in body),
            "\\bottomrule",
            "\\end{tabular}",
        ]
        return "\n".join(lines) + "\n"

    def _repr_html_(self) -> str:
        head, *body = self._cells(4, html.escape)
        rows = ["".join(f"<th>{cell}</th>" for cell in head)]
        rows += ["".join(f"<td>{cell}</td>" for cell in row) for row in body]
        caption = f"<caption>{html.escape(self.metric)}</caption>"
        return f"<table>{caption}{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"

    def __str__(self) -> str:
        return self.to_markdown()

    def _cells(self, digits: int, escape: Callable[[str], str]) -> list[list[str]]:
        body = [
            [
                escape("" if row[0] is None else str(row[0])),
                *("" if v is None else f"{v:.{digits}g}" for v in row[1:]),
            ]
            for row in self.frame.iter_rows()
        ]
        return [[escape(name) for name in self.frame.columns], *body]


_LATEX = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    ">": "\\textgreater{}",
    "<": "\\textless{}",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in text)


def make_pivot(ranked: pl.DataFrame, rows: str, columns: str, aggregate: str) -> Pivot:
    """Turn ranked chains into a table of their score, a row and a column a kind.

    Raises
    ------
    InvalidInput
        An unknown column or aggregate; the nearest is suggested.
    """
    for name, value in (("rows", rows), ("columns", columns)):
        if value not in PIVOT_COLUMNS:
            raise queries.unknown_column(name, value, PIVOT_COLUMNS)
    if rows == columns:
        raise InvalidInput(f"rows and columns are both {rows!r}; name two different columns.")
    if aggregate not in _AGGREGATES:
        raise queries.unknown_column("aggregate", aggregate, tuple(_AGGREGATES))
    metric = str(ranked["metric"][0]) if ranked.height else "score"
    pick = _AGGREGATES[aggregate]
    if aggregate == "best":
        pick = "max" if ranked.height and higher_is_better(metric) else "min"
    cells = ranked.with_columns(pl.col(rows, columns).fill_null(""))
    table = cells.pivot(on=columns, index=rows, values="score", aggregate_function=pick)
    table = table.select(rows, *sorted(name for name in table.columns if name != rows)).sort(rows)
    return Pivot(table, rows, columns, metric)
