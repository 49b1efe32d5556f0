"""Ranking chains by the pooled scores of their out-of-fold predictions.

The RMSECV is that of the pooled out-of-fold predictions, never a mean over folds; the spread
over folds stands beside it.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from nirs_store.catalog import prediction_queries, ranking
from nirs_store.catalog.access import Connection
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.values import from_json
from nirs_store.errors import InvalidInput
from nirs_store.lazily import polars as pl
from nirs_store.pooling import ADDITIVE, METRIC_NAMES, SCORED_ARRAYS, chain_scores, needed_arrays
from nirs_store.scores import (
    CLASSIFICATION_SCORES,
    REGRESSION_SCORES,
    default_metric,
    higher_is_better,
)

__all__ = ["SCORE_COLUMNS", "top_chains"]

_ALIASES = {alias: metric for metric, aliases in METRIC_NAMES.items() for alias in aliases}
# So many chains are always scored from their arrays. Of more, only those that the recorded scores of
# their folds rank best, so that a catalog of a million predictions answers at once.
_SCORED = 200

_CHAIN_COLUMNS = (
    "chain_id",
    "run_id",
    "run_name",
    "pipeline_id",
    "pipeline_name",
    "dataset_name",
    "preprocessings",
    "model_name",
    "model_class",
)
SCORE_COLUMNS = {
    "regression": ("rmsecv", "rmsec", "rmsep", "mae", "bias", "sep", "r2", "rpd", "rpiq"),
    "classification": CLASSIFICATION_SCORES,
}


def top_chains(
    engine: Engine,
    n: int | None,
    metric: str | None,
    ascending: bool | None,
    task_type: str | None,
    **filters: Any,
) -> pl.DataFrame:
    """Rank chains; see `WorkspaceStore.top_chains`."""
    at_most = None if n is None else _count(n)
    wanted = None if metric is None else _ALIASES.get(metric, metric)
    if wanted is not None:
        higher_is_better(wanted)  # refuses an unknown name and suggests the nearest
    return engine.query(lambda con: _rank(con, at_most, wanted, ascending, task_type, filters))


def _count(n: Any) -> int:
    try:
        count = -1 if isinstance(n, bool) else operator.index(n)
    except TypeError:
        count = -1
    if count < 0:
        raise InvalidInput(f"n: expected a whole number of at least 0, found {n!r}.")
    return count


def _rank(
    con: Connection,
    n: int | None,
    metric: str | None,
    ascending: bool | None,
    task_type: str | None,
    filters: Mapping[str, Any],
) -> pl.DataFrame:
    task = _one_task(ranking.task_types(con, **filters), metric, task_type)
    chosen = metric or default_metric(task)
    known = REGRESSION_SCORES if task == "regression" else CLASSIFICATION_SCORES
    if chosen not in known:
        raise InvalidInput(f"metric: {chosen!r} does not score a {task}. Expected one of {', '.join(known)}.")
    descending = higher_is_better(chosen) if ascending is None else not ascending
    found = ranking.candidate_chains(con, chosen, METRIC_NAMES.get(chosen, (chosen,)), **filters)
    classifies = pl.col("task_type").str.to_lowercase().str.contains("classification")
    found = found.filter(classifies if task == "classification" else ~classifies)
    if n is not None and chosen in ADDITIVE and found.height > max(_SCORED, 2 * n):
        decided = pl.col("pooled").is_finite().fill_null(False)
        best = _sorted(found.filter(decided), "pooled", chosen, descending).head(max(_SCORED, 2 * n))
        found = pl.concat([best, found.filter(~decided)])
    ranked = _sorted(_scored(con, found, task, chosen), "score", chosen, descending)
    return ranked if n is None else ranked.head(n)


def _one_task(types: list[str], metric: str | None, task_type: str | None) -> str:
    if task_type is not None:
        return "regression" if default_metric(task_type) == "rmse" else "classification"
    tasks = sorted({"classification" if "classification" in name.lower() else "regression" for name in types})
    if metric is not None:
        kinds = {"regression": REGRESSION_SCORES, "classification": CLASSIFICATION_SCORES}
        fits = [task for task, names in kinds.items() if metric in names]
        tasks = [task for task in tasks if task in fits] or fits
    if len(tasks) > 1:
        raise InvalidInput(
            "These chains are regressions and classifications, which no metric compares. Name a metric, a "
            "data set, a run, or task_type='regression'."
        )
    return tasks[0] if tasks else "regression"


def _sorted(rows: pl.DataFrame, column: str, metric: str, descending: bool) -> pl.DataFrame:
    key = pl.col(column).fill_nan(None)
    if metric == "bias":
        key = key.abs()  # near zero is best, on either side
    return rows.sort([key, pl.col("chain_id")], descending=[descending, False], nulls_last=True)


def _scored(con: Connection, found: pl.DataFrame, task: str, metric: str) -> pl.DataFrame:
    predictions: dict[str, list[dict[str, Any]]] = {}
    for row in ranking.predictions_of(con, found["chain_id"].to_list()).iter_rows(named=True):
        predictions.setdefault(row["chain_id"], []).append(row)
    needed = needed_arrays([row for rows in predictions.values() for row in rows])
    arrays = prediction_queries.load_arrays(con, needed, SCORED_ARRAYS)
    schema: dict[str, pl.DataType] = {
        **dict.fromkeys((*_CHAIN_COLUMNS, "pipeline", "metric"), pl.String()),
        **dict.fromkeys(("score", "score_sd", "refit_score", "test_score"), pl.Float64()),
        **dict.fromkeys(SCORE_COLUMNS[task], pl.Float64()),
        "n_folds": pl.Int64(),
        "n_samples": pl.Int64(),
        "created_at": pl.Datetime("us", "UTC"),
    }
    table = []
    for chain in found.iter_rows(named=True):
        known = chain | {name: from_json(chain[name]) for name in ("classes", "fold_weights")}
        row = chain | chain_scores(known, predictions.get(chain["chain_id"], []), arrays, task, metric)
        row["pipeline"] = " > ".join(part for part in (chain["preprocessings"], chain["model_name"]) if part)
        row["metric"] = metric
        table.append([row.get(name) for name in schema])
    return pl.DataFrame(table, schema=schema, orient="row")
