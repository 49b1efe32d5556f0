"""Questions behind the leaderboards: which chains there are, what their folds scored, aggregates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nirs_store.catalog.access import Connection
from nirs_store.catalog.prediction_queries import (
    GROUP_COLUMNS,
    METRIC_COLUMNS,
    prediction_filters,
    unknown_column,
)
from nirs_store.catalog.queries import frame
from nirs_store.catalog.statements import execute
from nirs_store.errors import InvalidInput
from nirs_store.lazily import polars as pl

__all__ = [
    "NO_FOLDS",
    "REFIT_FOLDS",
    "aggregate",
    "candidate_chains",
    "predictions_of",
    "predictions_of_chain",
    "task_types",
]

REFIT_FOLDS = ("final", "fold_final", "foldfinal", "refit", "fold_refit")
# Some writers add rows for the average of the folds; they hold the same samples once more.
NO_FOLDS = (*REFIT_FOLDS, "avg", "w_avg", "average", "mean", "pooled")
# What the scores of a chain are computed from, beside the arrays.
_SCORED = (
    "prediction_id", "chain_id", "fold_id", "partition", "metric", "scores", "val_score", "test_score",
    "train_score", "n_samples",
)  # fmt: skip


def task_types(con: Connection, **filters: Any) -> list[str]:
    """The kinds of task that the predictions of chains are about."""
    where, params = prediction_filters("p.", **filters)
    sql = f"SELECT DISTINCT task_type FROM predictions p WHERE chain_id IS NOT NULL AND {where} ORDER BY 1"
    return [str(row[0]) for row in execute(con, sql, params).fetchall()]


def candidate_chains(con: Connection, metric: str, names: Sequence[str], **filters: Any) -> pl.DataFrame:
    """One row a chain that has predictions, with what its folds add up to.

    Parameters
    ----------
    metric : str
        A score's name, from a fixed list.
    names : sequence of str
        What the column `metric` may call it ("rmse" is also recorded as "rmsecv").

    Returns
    -------
    polars.DataFrame
        `pooled` is the sample-weighted mean over the folds of `metric` (of its square for "rmse"): exact
        for errors that are means over samples. It is NULL where a fold did not record the metric. `fold_sd`
        is the standard deviation over the folds.
    """
    where, params = prediction_filters("p.", **filters)
    params |= {"others": list(NO_FOLDS), "names": list(names)}
    params |= {"path": f"$.{metric}", "nested": f"$.val.{metric}"}
    return frame(
        con,
        f"""
        WITH rows AS (
            SELECT p.*, p.partition = 'val' AND NOT list_contains($others, p.fold_id) AS is_fold,
                coalesce(p.n_samples, 1) AS weight,
                CASE WHEN is_fold THEN coalesce(
                    TRY_CAST(json_extract_string(p.scores, $path) AS DOUBLE),
                    TRY_CAST(json_extract_string(p.scores, $nested) AS DOUBLE),
                    CASE WHEN list_contains($names, lower(p.metric)) THEN p.val_score END
                ) END AS fold_value
            FROM predictions p WHERE p.chain_id IS NOT NULL AND {where}
        ), found AS (
            SELECT chain_id, any_value(task_type) AS task_type, any_value(model_name) AS model_name,
                any_value(dataset_name) AS dataset_name,
                count(DISTINCT fold_id) FILTER (is_fold) AS n_folds,
                coalesce(sum(n_samples) FILTER (is_fold), 0)::BIGINT AS n_samples,
                CASE WHEN count(*) FILTER (is_fold) = count(fold_value) THEN
                    sum(weight * fold_value {"* fold_value" if metric == "rmse" else ""}) FILTER (is_fold)
                    / sum(weight) FILTER (is_fold) END AS mean_value,
                CASE WHEN count(*) FILTER (is_fold) = count(fold_value)
                    THEN stddev_samp(fold_value) END AS fold_sd
            FROM rows GROUP BY chain_id
        )
        SELECT f.chain_id, p.run_id, r.name AS run_name, c.pipeline_id, p.name AS pipeline_name,
            f.dataset_name, c.preprocessings, f.model_name, c.model_class, f.task_type, f.n_folds,
            f.n_samples, {"sqrt(f.mean_value)" if metric == "rmse" else "f.mean_value"} AS pooled, f.fold_sd,
            json_extract(c.metadata, '$.classes')::VARCHAR AS classes,
            c.fold_weights::VARCHAR AS fold_weights, c.created_at
        FROM found f JOIN chains c USING (chain_id) JOIN pipelines p USING (pipeline_id)
            LEFT JOIN runs r USING (run_id)
        ORDER BY f.chain_id
        """,
        params,
    )


def predictions_of_chain(con: Connection, chain_id: str) -> list[dict[str, Any]]:
    """The prediction rows of one chain, in the order of `predictions_of`, with their task and date."""
    names = (*_SCORED, "task_type", "created_at")
    rows = execute(
        con, f"SELECT {', '.join(names)} FROM predictions WHERE chain_id = ?", [chain_id]
    ).fetchall()
    found = [dict(zip(names, row, strict=True)) for row in rows]
    # A chain has a handful: sorting them here takes a millisecond less than having them sorted.
    return sorted(found, key=lambda row: (row["fold_id"] is None, row["fold_id"], row["prediction_id"]))


def predictions_of(con: Connection, chain_ids: Sequence[str]) -> pl.DataFrame:
    """Prediction rows of chains: what they recorded as scores, and where to look their arrays up."""
    return frame(
        con,
        f"SELECT {', '.join(_SCORED)} FROM predictions WHERE chain_id IN (SELECT unnest(?)) "
        "ORDER BY chain_id, fold_id, prediction_id",
        [list(chain_ids)],
    )


def aggregate(con: Connection, group_by: str | Sequence[str], metric: str, **filters: Any) -> pl.DataFrame:
    """Count, mean, standard deviation, minimum and maximum of a score column; NULL and NaN do not count."""
    if not isinstance(group_by, (str, Sequence)):
        raise unknown_column("group_by", group_by, (*GROUP_COLUMNS, "run_id"))
    groups = [group_by] if isinstance(group_by, str) else list(dict.fromkeys(group_by))
    if not groups:
        raise InvalidInput("group_by: expected at least one column, found none.")
    allowed = (*GROUP_COLUMNS, "run_id")
    for group in groups:
        if group not in allowed:
            raise unknown_column("group_by", group, allowed)
    if metric not in METRIC_COLUMNS:
        raise unknown_column("metric", metric, METRIC_COLUMNS)
    where, params = prediction_filters("p.", **filters)
    names = ", ".join(f"l.{group}" if group == "run_id" else f"p.{group}" for group in groups)
    keys = ", ".join(str(i + 1) for i in range(len(groups)))
    value = f"CASE WHEN NOT isnan(p.{metric}::DOUBLE) THEN p.{metric} END"
    join = "JOIN pipelines l ON l.pipeline_id = p.pipeline_id" if "run_id" in groups else ""
    return frame(
        con,
        f"SELECT {names}, count({value}) AS count, avg({value}) AS mean, stddev_samp({value}) AS std, "
        f"min({value}) AS min, max({value}) AS max FROM predictions p {join} WHERE {where} "
        f"GROUP BY {keys} ORDER BY {keys}",
        params,
    )
