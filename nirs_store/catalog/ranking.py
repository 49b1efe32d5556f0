"""Questions behind the leaderboards: which chains there are, what their folds scored, aggregates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from nirs_store.catalog.access import Connection
from nirs_store.catalog.queries import (
    GROUP_COLUMNS,
    METRIC_COLUMNS,
    frame,
    prediction_filters,
    unknown_column,
)
from nirs_store.errors import InvalidInput

__all__ = ["REFIT_FOLDS", "aggregate", "candidate_chains", "fold_predictions"]

REFIT_FOLDS = ("final", "fold_final", "refit")


def candidate_chains(con: Connection, metric: str | None, **filters: Any) -> pl.DataFrame:
    """One row a chain that has validation predictions, with what its folds add up to.

    `pooled` is the sample-weighted mean over the folds of `metric` (of its square for "rmse"): exact
    for errors that are means over samples. It is NULL where a fold did not record the metric.
    """
    where, params = prediction_filters("p.", **filters)
    params["refits"] = list(REFIT_FOLDS)
    params["metric"] = metric
    value = (
        "coalesce(TRY_CAST(json_extract_string(p.scores, '$.' || coalesce($metric, p.metric)) AS DOUBLE), "
    )
    value += "CASE WHEN p.metric = coalesce($metric, p.metric) THEN p.val_score END)"
    return frame(
        con,
        f"""
        WITH folds AS (
            SELECT p.*, {value} AS fold_value FROM predictions p
            WHERE p.chain_id IS NOT NULL AND p.partition = 'val' AND NOT list_contains($refits, p.fold_id)
              AND {where}
        ), chains_found AS (
            SELECT chain_id, any_value(task_type) AS task_type, any_value(metric) AS metric,
                any_value(model_name) AS model_name, any_value(dataset_name) AS dataset_name,
                count(DISTINCT fold_id) AS n_folds, sum(n_samples)::BIGINT AS n_samples,
                CASE WHEN count(*) = count(fold_value) THEN
                    CASE WHEN coalesce($metric, any_value(metric)) = 'rmse'
                        THEN sqrt(sum(n_samples * fold_value * fold_value) / sum(n_samples))
                        ELSE sum(n_samples * fold_value) / sum(n_samples) END END AS pooled,
                stddev_samp(fold_value) AS fold_sd
            FROM folds GROUP BY chain_id
        )
        SELECT f.chain_id, p.run_id, r.name AS run_name, c.pipeline_id, p.name AS pipeline_name,
            f.dataset_name, c.preprocessings, f.model_name, c.model_class, f.task_type, f.metric,
            f.n_folds, f.n_samples, f.pooled, f.fold_sd, c.created_at
        FROM chains_found f JOIN chains c USING (chain_id) JOIN pipelines p USING (pipeline_id)
            LEFT JOIN runs r USING (run_id)
        ORDER BY f.chain_id
        """,  # noqa: S608
        params,
    )


def fold_predictions(con: Connection, chain_ids: Sequence[str]) -> pl.DataFrame:
    """Prediction rows of chains, for looking their arrays up."""
    return frame(
        con,
        "SELECT prediction_id, chain_id, fold_id, partition, scores FROM predictions "
        "WHERE chain_id IN (SELECT unnest(?)) ORDER BY chain_id, fold_id, prediction_id",
        [list(chain_ids)],
    )


def aggregate(con: Connection, group_by: str | Sequence[str], metric: str, **filters: Any) -> pl.DataFrame:
    """Count, mean, standard deviation, minimum and maximum of a score column; NULL and NaN do not count."""
    groups = [group_by] if isinstance(group_by, str) else list(group_by)
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
        f"SELECT {names}, count({value}) AS count, avg({value}) AS mean, stddev_samp({value}) AS std, "  # noqa: S608
        f"min({value}) AS min, max({value}) AS max FROM predictions p {join} WHERE {where} "
        f"GROUP BY {keys} ORDER BY {keys}",
        params,
    )
