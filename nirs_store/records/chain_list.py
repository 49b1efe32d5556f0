"""A page of the list of all chains, sorted and filtered by the catalog: what a leaderboard of any length shows."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from nirs_store.db.database import Connection
from nirs_store.db.sql import execute
from nirs_store.errors import InvalidInput
from nirs_store.lazy import polars as pl
from nirs_store.records import ranking, search
from nirs_store.records.queries import frame, named_like, page_of
from nirs_store.scores import CLASSIFICATION_SCORES, REGRESSION_SCORES, higher_is_better
from nirs_store.values import as_text

__all__ = ["FILTERS", "SORTS", "list_chains", "values_of"]

_SCORES = tuple(dict.fromkeys((*REGRESSION_SCORES, *CLASSIFICATION_SCORES)))

#: What can be sorted by besides a score, and the expression for it.
SORTS = {
    "pipeline": "pipeline",
    "model_name": "model_name",
    "preprocessings": "c.preprocessings",
    "components": "components",
    "dataset_name": "c.dataset_name",
    "target": "c.target",
    "run_name": "c.run_name",
    "n_samples": "n_samples",
    "n_folds": "n_folds",
    "score_sd": "score_sd",
    "rmsep": "rmsep",
    "created_at": "c.created_at",
}
#: A filter's name and its condition; the value is bound.
FILTERS = {
    "dataset_name": "l.dataset_name = $dataset_name",
    "run_id": "l.run_id = $run_id",
    "model_class": "split_part(c.model_class, '.', -1) = $model_class",
    "preprocessings": "c.preprocessings = $preprocessings",
    "target": "coalesce(c.target, '') = $target",
    "target_unit": "coalesce(c.target_unit, '') = $target_unit",
    "tag": "list_contains(json_extract_string(r.tags, '$[*]'), $tag)",
    "name": named_like("r.name", "name"),
}


def list_chains(
    con: Connection,
    sort: str,
    descending: bool | None,
    limit: int | None,
    offset: int,
    text: str | None,
    scores: bool,
    filters: Mapping[str, str | None],
) -> pl.DataFrame:
    """Return one page of chains; see `WorkspaceStore.list_chains`."""
    if sort != "score" and sort not in SORTS and sort not in _SCORES:
        names = ("score", *_SCORES, *SORTS)
        near = difflib.get_close_matches(str(sort), names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InvalidInput(f"sort: expected one of {', '.join(names)}; found {sort!r}.{hint}")
    where, holds, params = _conditions(filters, text)
    found = _page(con, sort, descending, where, holds, params | page_of(limit, offset))
    if not scores or not found.height:
        return found
    return _with_scores(con, found)


def _conditions(filters: Mapping[str, str | None], text: str | None) -> tuple[str, str, dict[str, Any]]:
    where, params = ["TRUE"], {}
    for name, value in filters.items():
        if value is not None:
            where.append(FILTERS[name])
            params[name] = as_text(value, name)
    found = "TRUE"
    if text is not None and text.strip():
        found, words = search.matching(search.words_of(text), "hay")
        params |= words
    return " AND ".join(where), found, params


def _page(
    con: Connection, sort: str, descending: bool | None, where: str, holds: str, params: dict[str, Any]
) -> pl.DataFrame:
    metric = sort if sort in _SCORES else None
    if sort in SORTS:
        order = f"{SORTS[sort]} {'DESC' if descending else 'ASC'} NULLS LAST"
    else:
        # Near zero is the best bias, on either side; scores of two targets never mix.
        value = "abs(score)" if sort == "bias" else "CASE WHEN isnan(score) THEN NULL ELSE score END"
        if metric is None:
            value = f"{value} * CASE WHEN higher THEN -1 ELSE 1 END"
            down = bool(descending)
        else:
            down = higher_is_better(metric) if descending is None else descending
        order = f"task, c.target NULLS LAST, c.target_unit NULLS LAST, {value} {'DESC' if down else 'ASC'} NULLS LAST"
    params |= {"others": list(ranking.NO_FOLDS), "refits": list(ranking.REFIT_FOLDS), "metric": metric}
    params |= {
        "high": [name for name in _SCORES if higher_is_better(name)],
        "errors": list(ranking.METRIC_NAMES["rmse"]),
    }
    return frame(
        con,
        f"""
        WITH kept AS (
            SELECT c.chain_id, c.pipeline_id, c.preprocessings, c.model_class, c.target, c.target_unit, c.created_at,
                c.steps, c.model_step_idx, l.run_id, l.dataset_name, l.name AS pipeline_name, r.name AS run_name,
                r.tags, {"''" if holds == "TRUE" else search.TEXT} AS hay
            FROM chains c JOIN pipelines l USING (pipeline_id) LEFT JOIN runs r USING (run_id)
            WHERE {where} AND ({holds})
        ), rows AS (
            SELECT q.chain_id, q.n_samples, q.fold_id, q.model_name, q.task_type,
                CASE WHEN list_contains($errors, lower(q.metric)) THEN 'rmse' ELSE lower(q.metric) END AS named,
                q.partition = 'val' AND NOT list_contains($others, q.fold_id) AS is_fold,
                q.partition = 'test' AND list_contains($refits, q.fold_id) AS is_test,
                coalesce(q.n_samples, 1) AS weight,
                CASE WHEN is_fold THEN CASE WHEN $metric IS NULL OR named = $metric THEN q.val_score ELSE coalesce(
                    TRY_CAST(q.scores ->> ('$.' || $metric) AS DOUBLE),
                    TRY_CAST(q.scores ->> ('$.val.' || $metric) AS DOUBLE)) END END AS value,
                coalesce($metric, named) AS about
            FROM predictions q WHERE q.chain_id IN (SELECT chain_id FROM kept)
                AND (is_fold OR is_test)
        ), scored AS (
            SELECT chain_id, any_value(model_name) AS model_name,
                any_value(CASE WHEN contains(lower(task_type), 'classification') THEN 'classification'
                    ELSE 'regression' END) AS task,
                any_value(about) AS metric, list_contains($high, any_value(about)) AS higher,
                count(DISTINCT fold_id) FILTER (is_fold) AS n_folds,
                coalesce(sum(n_samples) FILTER (is_fold), 0)::BIGINT AS n_samples,
                CASE WHEN any_value(about) = 'rmse'
                    THEN sqrt(sum(weight * value * value) / sum(weight) FILTER (is_fold))
                    ELSE sum(weight * value) / sum(weight) FILTER (is_fold) END AS score,
                stddev_samp(value) AS score_sd
            FROM rows GROUP BY chain_id
        ), tested AS (
            SELECT q.chain_id, any_value(coalesce(TRY_CAST(q.scores ->> '$.rmse' AS DOUBLE),
                TRY_CAST(q.scores ->> '$.test.rmse' AS DOUBLE),
                CASE WHEN list_contains($errors, lower(q.metric)) THEN q.test_score END)) AS rmsep
            FROM predictions q WHERE q.partition = 'test' AND list_contains($refits, q.fold_id)
                AND q.chain_id IN (SELECT chain_id FROM kept) GROUP BY q.chain_id
        )
        SELECT c.chain_id, c.pipeline_id, c.pipeline_name, c.run_id, c.run_name, c.dataset_name, c.preprocessings,
            coalesce(s.model_name, split_part(c.model_class, '.', -1)) AS model_name, c.model_class,
            concat_ws(' > ', nullif(c.preprocessings, ''), model_name) AS pipeline, {ranking.COMPONENTS} AS components,
            c.target, c.target_unit, s.task, s.metric, s.score, s.score_sd, t.rmsep, s.n_folds, s.n_samples,
            coalesce(json_extract_string(c.tags, '$[*]'), []) AS tags, c.created_at, count(*) OVER () AS total
        FROM kept c LEFT JOIN scored s USING (chain_id) LEFT JOIN tested t USING (chain_id)
        ORDER BY {order}, c.chain_id LIMIT $limit OFFSET $offset
        """,
        params,
    ).cast({"tags": pl.List(pl.String)})


def _with_scores(con: Connection, found: pl.DataFrame) -> pl.DataFrame:
    """Add what is computed from the arrays, of the chains of one page."""
    parts = []
    for task in found["task"].drop_nulls().unique().to_list():
        ids = found.filter(pl.col("task") == task)["chain_id"].to_list()
        parts.append(ranking.rank_matches(con, ids, None, None).drop("task"))
    whole = pl.concat(parts, how="diagonal") if parts else None
    if whole is None or not whole.height:
        return found
    exact = [name for name in ("score", "score_sd") if name in whole.columns]
    names = ["rmsecv", "rmsec", *_SCORES, "refit_score", "test_score", "n_repeats", "repeat_sd"]
    more = [name for name in names if name in whole.columns and name != "rmse"]
    joined = found.join(
        whole.select("chain_id", *more, *(pl.col(n).alias(f"{n}_exact") for n in exact),
                     *([pl.col("rmsep").alias("rmsep_exact")] if "rmsep" in whole.columns else [])),
        on="chain_id", how="left", maintain_order="left",
    )  # fmt: skip
    kept = [f"{name}_exact" for name in (*exact, "rmsep") if f"{name}_exact" in joined.columns]
    return joined.with_columns(
        pl.coalesce(name, name.removesuffix("_exact")).alias(name.removesuffix("_exact")) for name in kept
    ).drop(kept)


_VALUES = {
    "dataset_name": "SELECT DISTINCT dataset_name FROM pipelines",
    "model_class": "SELECT DISTINCT split_part(model_class, '.', -1) FROM chains",
    "preprocessings": "SELECT DISTINCT preprocessings FROM chains",
    "target": "SELECT DISTINCT target FROM chains",
    "tag": "SELECT DISTINCT unnest(json_extract_string(tags, '$[*]')) FROM runs",
}


def values_of(con: Connection, names: Sequence[str], most: int) -> dict[str, list[str]]:
    """Return the values that filters of the list can take, at most so many each."""
    found = {}
    for name in names or tuple(_VALUES):
        if name not in _VALUES:
            raise InvalidInput(f"Expected names of {', '.join(_VALUES)}; found {name!r}.")
        sql = f"SELECT * FROM ({_VALUES[name]}) t(v) WHERE v IS NOT NULL ORDER BY v LIMIT $most"
        found[name] = [str(row[0]) for row in execute(con, sql, {"most": most}).fetchall()]
    return found
