"""A page of the list of all chains, sorted and filtered by the catalog: what a leaderboard of any length shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nirs_store.db.database import Connection
from nirs_store.db.sql import execute
from nirs_store.errors import InvalidInput, did_you_mean
from nirs_store.lazy import polars as pl
from nirs_store.records import ranking, search
from nirs_store.records.predictions import load_arrays
from nirs_store.records.queries import frame, named_like, page_of
from nirs_store.scores import CLASSIFICATION_SCORES, REGRESSION_SCORES, higher_is_better
from nirs_store.values import as_text, from_json

_SCORES = tuple(dict.fromkeys((*REGRESSION_SCORES, *CLASSIFICATION_SCORES)))

#: What can be sorted by besides a score, and the expression for it.
SORTS = {
    "pipeline": "pipeline", "model_name": "model_name", "preprocessings": "c.preprocessings",
    "components": "components", "dataset_name": "c.dataset_name", "target": "c.target", "run_name": "c.run_name",
    "n_samples": "n_samples", "n_folds": "n_folds", "score_sd": "score_sd", "rmsep": "rmsep",
    "created_at": "c.created_at",
}  # fmt: skip
#: A filter's name and its condition; the value is bound.
FILTERS = {
    "dataset_name": "l.dataset_name = $dataset_name",
    "run_id": "l.run_id = $run_id",
    "model_class": "split_part(c.model_class, '.', -1) = $model_class",
    "model_name": "coalesce((SELECT any_value(q.model_name) FROM predictions q WHERE q.chain_id = c.chain_id), "
    "split_part(c.model_class, '.', -1)) = $model_name",
    "preprocessings": "coalesce(c.preprocessings, '') = $preprocessings",
    "target": "coalesce(c.target, '') = $target",
    "target_unit": "coalesce(c.target_unit, '') = $target_unit",
    "tag": "list_contains(json_extract_string(r.tags, '$[*]'), $tag)",
    "run_name": "coalesce(r.name, '') = $run_name",
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
    per_kind: int | None,
    filters: Mapping[str, str | None],
) -> pl.DataFrame:
    """Return one page of chains; see `WorkspaceStore.list_chains`."""
    if sort != "score" and sort not in SORTS and sort not in _SCORES:
        names = ("score", *_SCORES, *SORTS)
        hint = did_you_mean(sort, names)
        raise InvalidInput(f"sort: expected one of {', '.join(names)}; found {sort!r}.{hint}")
    where, holds, params = _conditions(filters, text)
    params |= page_of(limit, offset) | {"per_kind": page_of(per_kind, 0)["limit"]}
    found = _page(con, sort, descending, where, holds, params)
    if scores and found.height:
        found = _with_scores(con, found)
    return found.drop("classes", "fold_weights", "repeats", "n_data", "recorded_metric", "pooled", "fold_sd")


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
    # Without a condition every prediction counts, and looking its chain up takes a fifth of the time.
    among = "TRUE" if where == holds == "TRUE" else "q.chain_id IN (SELECT chain_id FROM kept)"
    return frame(
        con,
        f"""
        WITH kept AS (
            SELECT c.chain_id, c.pipeline_id, c.preprocessings, c.model_class, c.target, c.target_unit, c.created_at,
                c.steps, c.model_step_idx, c.metadata, c.fold_weights, l.run_id, l.dataset_name,
                l.name AS pipeline_name, r.name AS run_name, r.tags, {"''" if holds == "TRUE" else search.TEXT} AS hay
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
            FROM predictions q WHERE {among} AND (is_fold OR is_test)
        ), scored AS (
            SELECT chain_id, any_value(model_name) AS model_name,
                CASE WHEN contains(lower(any_value(task_type)), 'classification') THEN 'classification'
                    ELSE 'regression' END AS task,
                any_value(about) AS metric, any_value(named) AS recorded_metric,
                list_contains($high, any_value(about)) AS higher,
                count(DISTINCT fold_id) FILTER (is_fold) AS n_folds,
                coalesce(sum(n_samples) FILTER (is_fold), 0)::BIGINT AS n_samples,
                -- Over all folds or not at all, as top_chains has it: a mean of some is not comparable.
                count(*) FILTER (is_fold) = count(value) FILTER (NOT isnan(value)) AS is_whole,
                CASE WHEN NOT is_whole THEN NULL WHEN any_value(about) = 'rmse'
                    THEN sqrt(sum(weight * value * value) / sum(weight) FILTER (is_fold))
                    ELSE sum(weight * value) / sum(weight) FILTER (is_fold) END AS score,
                CASE WHEN is_whole THEN stddev_samp(value) END AS score_sd
            FROM rows GROUP BY chain_id
        ), tested AS (
            SELECT q.chain_id, any_value(coalesce(TRY_CAST(q.scores ->> '$.rmse' AS DOUBLE),
                TRY_CAST(q.scores ->> '$.test.rmse' AS DOUBLE),
                CASE WHEN list_contains($errors, lower(q.metric)) THEN q.test_score END)) AS rmsep
            FROM predictions q WHERE q.partition = 'test' AND list_contains($refits, q.fold_id)
                AND {among} GROUP BY q.chain_id
        )
        SELECT c.chain_id, c.pipeline_id, c.pipeline_name, c.run_id, c.run_name, c.dataset_name, c.preprocessings,
            coalesce(s.model_name, split_part(c.model_class, '.', -1)) AS model_name, c.model_class,
            concat_ws(' > ', nullif(c.preprocessings, ''), model_name) AS pipeline, {ranking.COMPONENTS} AS components,
            c.target, c.target_unit, s.task, s.metric, s.score, s.score_sd, t.rmsep, s.n_folds, s.n_samples,
            coalesce(json_extract_string(c.tags, '$[*]'), []) AS tags, c.created_at, count(*) OVER () AS total,
            json_extract(c.metadata, '$.classes')::VARCHAR AS classes, c.fold_weights::VARCHAR AS fold_weights,
            json_extract(c.metadata, '$.repeats')::VARCHAR AS repeats,
            TRY_CAST(c.metadata ->> '$.n_samples' AS BIGINT) AS n_data, s.recorded_metric,
            s.score AS pooled, s.score_sd AS fold_sd
        FROM kept c LEFT JOIN scored s USING (chain_id) LEFT JOIN tested t USING (chain_id)
        QUALIFY $per_kind IS NULL OR row_number() OVER (
            PARTITION BY c.dataset_name, c.target, c.target_unit, s.task ORDER BY {order}, c.chain_id) <= $per_kind
        ORDER BY {order}, c.chain_id LIMIT $limit OFFSET $offset
        """,
        params,
    ).cast({"tags": pl.List(pl.String)})


def _with_scores(con: Connection, found: pl.DataFrame) -> pl.DataFrame:
    """Add what is computed from the arrays, of the chains of one page."""
    predictions = ranking.predictions_of(con, found["chain_id"].to_list())
    needed = []
    for rows in predictions.values():
        refit = any(row["partition"] == "test" and row["fold_id"] in ranking.REFIT_FOLDS for row in rows)
        # What a refit scored is recorded whole; folds are scored together, so their arrays are needed.
        wanted = ("val",) if refit else ("val", "test")
        of_folds = [row for row in rows if row["fold_id"] not in ranking.NO_FOLDS]
        needed += [row["prediction_id"] for row in of_folds if row["partition"] in wanted]
    arrays = load_arrays(con, needed, ranking.SCORED_ARRAYS)
    names = dict.fromkeys(
        ("rmsecv", "rmsec", *_SCORES, "refit_score", "test_score", "repeat_sd", "score", "score_sd", "rmsep")
    )
    columns: dict[str, list[Any]] = {name: [] for name in names if name != "rmse"}
    for chain in found.iter_rows(named=True):
        known = chain | {name: from_json(chain[name]) for name in ("classes", "fold_weights", "repeats")}
        own = predictions.get(chain["chain_id"], [])
        metric = chain["recorded_metric"] or "rmse"
        task = chain["task"]
        scored = ranking.chain_scores(known, own, arrays, task, metric) if own and task else {}
        for name, values in columns.items():
            value = scored.get(name)
            values.append(chain[name] if value is None and name in ("score", "score_sd", "rmsep") else value)
    return found.with_columns(pl.Series(name, values, dtype=pl.Float64) for name, values in columns.items())


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
