"""Questions behind the leaderboards: which chains there are, what their folds scored, aggregates."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nirs_store.chains.folds import fold_key, normalise_weights
from nirs_store.chains.replay import mean, vote
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.sql import execute
from nirs_store.errors import InvalidInput, ReplayError
from nirs_store.lazy import polars as pl
from nirs_store.records import predictions as prediction_queries
from nirs_store.records.predictions import GROUP_COLUMNS, METRIC_COLUMNS, prediction_filters, unknown_column
from nirs_store.records.queries import frame
from nirs_store.scores import (
    CLASSIFICATION_SCORES,
    REGRESSION_SCORES,
    classification_scores,
    default_metric,
    higher_is_better,
    regression_scores,
)
from nirs_store.values import from_json

__all__ = [
    "ADDITIVE",
    "METRIC_NAMES",
    "NO_FOLDS",
    "REFIT_FOLDS",
    "SCORED_ARRAYS",
    "SCORE_COLUMNS",
    "Arrays",
    "aggregate",
    "candidate_chains",
    "chain_scores",
    "count_folds",
    "needed_arrays",
    "predictions_of",
    "predictions_of_chain",
    "task_types",
    "top_chains",
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


# -- Scores of one chain: its folds' out-of-fold predictions taken together, its refit, its test samples.


Arrays = Mapping[str, Mapping[str, np.ndarray | None]]
"""Arrays by prediction id and name."""

SCORED_ARRAYS = ("y_true", "y_pred", "y_proba")
"""The arrays of a prediction that scores are computed from."""

# Means over samples: their pooled value follows from the folds' values and sizes alone.
ADDITIVE = ("rmse", "mae", "bias", "accuracy", "log_loss")
# Under which names a score is recorded.
METRIC_NAMES = {"rmse": ("rmse", "rmsecv", "rmsep", "rmsec")}

_Row = Mapping[str, Any]


def needed_arrays(predictions: Sequence[_Row]) -> list[str]:
    """Ids of the predictions whose arrays say something about a chain's scores."""
    return [
        row["prediction_id"]
        for row in predictions
        if row["partition"] == "test"
        or (row["partition"] == "val" and row["fold_id"] not in NO_FOLDS)
        or (row["partition"] == "train" and row["fold_id"] in REFIT_FOLDS)
    ]


def count_folds(predictions: Sequence[_Row]) -> dict[str, int]:
    """How many folds predicted samples that they were not fitted on, and how many samples those are."""
    folds = [row for row in predictions if row["partition"] == "val" and row["fold_id"] not in NO_FOLDS]
    return {
        "n_folds": len({row["fold_id"] for row in folds}),
        "n_samples": sum(row["n_samples"] or 0 for row in folds),
    }


def chain_scores(
    chain: _Row, predictions: Sequence[_Row], arrays: Arrays, task: str, metric: str
) -> dict[str, Any]:
    """The scores of one chain, by the names of a leaderboard's columns.

    Parameters
    ----------
    chain : mapping
        ``pooled`` and ``fold_sd``, as `candidate_chains` has them: what its folds add up to where arrays are not
        stored. ``classes`` and ``fold_weights``, decoded.
    predictions : sequence of mappings
        Its rows, as `predictions_of` gives them.
    arrays : mapping
        Of those in `needed_arrays`; one that is not there was not stored.
    task : {"regression", "classification"}
    metric : str
        What ``score``, ``score_sd``, ``refit_score`` and ``test_score`` are about.

    Returns
    -------
    dict
        NaN where arrays cannot be scored (a model that predicted NaN), None where nothing is known.
    """
    scorer = _Scorer(task, chain["classes"], arrays)
    refits = [p for p in predictions if p["fold_id"] in REFIT_FOLDS]
    folds = [p for p in predictions if p["partition"] == "val" and p["fold_id"] not in NO_FOLDS]
    pooled = scorer.scores(folds)
    read = [name for name in scorer.names if name in (metric, "rmse")]
    refit = scorer.scores([p for p in refits if p["partition"] == "train"], read)
    test = scorer.scores([p for p in refits if p["partition"] == "test"], read)
    if not test:
        fold_tests = [p for p in predictions if p["partition"] == "test" and p["fold_id"] not in NO_FOLDS]
        test = scorer.ensemble(fold_tests, chain["fold_weights"], read)
    row: dict[str, Any] = {name: pooled.get(name) for name in scorer.names}
    row["score"] = pooled.get(metric, chain["pooled"])
    row["score_sd"] = scorer.spread(folds, metric, chain["fold_sd"])
    row["refit_score"], row["test_score"] = refit.get(metric), test.get(metric)
    row |= {"rmsecv": pooled.get("rmse"), "rmsec": refit.get("rmse"), "rmsep": test.get("rmse")}
    return row


class _Scorer:
    """Scores of sets of predictions of one chain."""

    def __init__(self, task: str, classes: Sequence[Any] | None, arrays: Arrays) -> None:
        self.names = REGRESSION_SCORES if task == "regression" else CLASSIFICATION_SCORES
        self._regression = task == "regression"
        self._classes = classes
        self._arrays = arrays

    def scores(self, rows: Sequence[_Row], names: Sequence[str] | None = None) -> dict[str, float]:
        """Of predictions taken together, by name (of `names`, or all); what is not known is left out."""
        if not rows:
            return {}
        wanted = self.names if names is None else names
        parts = [self._parts(row) for row in rows]
        if all(part is not None for part in parts):
            truths, guesses, tables = zip(*(part for part in parts if part is not None), strict=True)
            found = self._score(truths, guesses, tables, wanted)
        else:
            found = {}
        for name in wanted:
            recorded = None if name in found else _recorded_mean(rows, name)
            if recorded is not None:
                found[name] = recorded
        return found

    def spread(self, rows: Sequence[_Row], metric: str, recorded: float | None) -> float | None:
        """Standard deviation over folds, of all from their arrays or of all as recorded."""
        if not rows or any(self._parts(row) is None for row in rows):
            return recorded
        names = [metric] if metric in self.names else []
        values = [self.scores([row], names).get(metric) for row in rows]
        known = [value for value in values if value is not None]
        return float(np.std(known, ddof=1)) if len(known) == len(rows) > 1 else None

    def ensemble(
        self, rows: Sequence[_Row], weights: Mapping[str, float] | None, names: Sequence[str]
    ) -> dict[str, float]:
        """Of what the fold models say together about the same samples, as replay does without a refit."""
        parts = [part for part in (self._parts(row) for row in rows) if part is not None]
        if not rows or len(parts) < len(rows):
            return {}
        truth = parts[0][0]
        if not all(np.array_equal(truth, part[0]) for part in parts):
            return {}
        try:
            shares = _shares(rows, weights)
            guesses = [part[1] for part in parts]
            tables = [part[2] for part in parts if part[2] is not None]
            if self._regression:
                return self._score([truth], [mean(guesses, shares)], [None], names)
            if len(tables) == len(parts) and self._fits(tables[0]):
                table = mean(tables, shares)
                labels = np.asarray(self._classes)[table.argmax(axis=1)]
                return self._score([truth], [labels], [table], names)
            return self._score([truth], [vote(guesses, shares)], [None], names)
        except (ReplayError, InvalidInput):  # the folds do not predict the same kind of thing
            return {}

    def _parts(self, row: _Row) -> tuple[np.ndarray, np.ndarray, np.ndarray | None] | None:
        stored = self._arrays.get(row["prediction_id"], {})
        truth, guess = stored.get("y_true"), stored.get("y_pred")
        return None if truth is None or guess is None else (truth, guess, stored.get("y_proba"))

    def _fits(self, table: np.ndarray) -> bool:
        return self._classes is not None and table.ndim == 2 and table.shape[1] == len(self._classes)

    def _score(
        self,
        truths: Sequence[np.ndarray],
        guesses: Sequence[np.ndarray],
        tables: Sequence[np.ndarray | None],
        names: Sequence[str],
    ) -> dict[str, float]:
        try:
            y, yhat = np.concatenate(truths), np.concatenate(guesses)
            if self._regression:
                found = regression_scores(y, yhat, names=names)
            else:
                found = classification_scores(y, yhat)
        except ValueError:  # NaN, or shapes that do not belong together: ranks last, hinders nobody
            return dict.fromkeys(names, math.nan)
        if not self._regression:
            # The columns of probabilities mean the chain's classes, or only the fold knows what.
            del found["log_loss"]
            known = [table for table in tables if table is not None and self._fits(table)]
            if "log_loss" in names and len(known) == len(tables):
                found |= self._log_loss(y, yhat, np.concatenate(known))
        return {name: float(found[name]) for name in names if name in found}

    def _log_loss(self, y: np.ndarray, yhat: np.ndarray, table: np.ndarray) -> dict[str, float]:
        try:
            return {"log_loss": classification_scores(y, yhat, table, self._classes)["log_loss"]}
        except ValueError:
            return {}


def _shares(rows: Sequence[_Row], weights: Mapping[str, float] | None) -> list[float] | None:
    named = normalise_weights(weights)
    if not named:
        return None
    keys = [fold_key(row["fold_id"]) for row in rows]
    if any(key not in named for key in keys):
        raise InvalidInput(f"A fold has no weight: {keys} of {list(named)}.")
    return [named[key] for key in keys]


def _recorded_mean(rows: Sequence[_Row], name: str) -> float | None:
    """The recorded score of one prediction, or the pooled one of several where it follows from theirs."""
    if len(rows) > 1 and name not in ADDITIVE:
        return None
    values = [_recorded(row, name) for row in rows]
    known = [value for value in values if value is not None]
    sizes = [1 if row["n_samples"] is None else row["n_samples"] for row in rows]
    if len(known) < len(values) or not sum(sizes):
        return None
    if name == "rmse":
        return float(np.sqrt(np.average(np.square(known), weights=sizes)))
    return float(np.average(known, weights=sizes))


def _recorded(row: _Row, name: str) -> float | None:
    scores = from_json(row["scores"]) or {}
    own = scores.get(row["partition"]) if isinstance(scores, dict) else None
    for table in (scores, own):
        value = table.get(name) if isinstance(table, dict) else None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    if str(row["metric"]).lower() in METRIC_NAMES.get(name, (name,)):
        found: float | None = row.get(f"{row['partition']}_score")
        return found
    return None


# -- Ranking chains by the pooled scores of their out-of-fold predictions.


_ALIASES = {alias: metric for metric, aliases in METRIC_NAMES.items() for alias in aliases}
# So many chains are always scored from their arrays. Of more, only those that the recorded scores of
# their folds rank best, so that a catalog of a million predictions answers at once.
_SCORED_leaderboard = 200

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
    task = _one_task(task_types(con, **filters), metric, task_type)
    chosen = metric or default_metric(task)
    known = REGRESSION_SCORES if task == "regression" else CLASSIFICATION_SCORES
    if chosen not in known:
        raise InvalidInput(f"metric: {chosen!r} does not score a {task}. Expected one of {', '.join(known)}.")
    descending = higher_is_better(chosen) if ascending is None else not ascending
    found = candidate_chains(con, chosen, METRIC_NAMES.get(chosen, (chosen,)), **filters)
    classifies = pl.col("task_type").str.to_lowercase().str.contains("classification")
    found = found.filter(classifies if task == "classification" else ~classifies)
    if n is not None and chosen in ADDITIVE and found.height > max(_SCORED_leaderboard, 2 * n):
        decided = pl.col("pooled").is_finite().fill_null(False)
        best = _sorted(found.filter(decided), "pooled", chosen, descending).head(
            max(_SCORED_leaderboard, 2 * n)
        )
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
    for row in predictions_of(con, found["chain_id"].to_list()).iter_rows(named=True):
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
