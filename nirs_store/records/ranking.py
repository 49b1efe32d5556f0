"""Questions behind the leaderboards: which chains there are, what their folds scored, aggregates."""

from __future__ import annotations

import math
import warnings
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
from nirs_store.records.predictions import (
    GROUP_COLUMNS,
    METRIC_COLUMNS,
    columns_to_group,
    prediction_filters,
    unknown_column,
    warn_of_targets,
)
from nirs_store.records.queries import as_count, frame
from nirs_store.scores import (
    METRICS,
    RMSE_BY_SET,
    SCORE_COLUMNS,
    SCORES,
    classification_scores,
    default_metric,
    higher_is_better,
    is_classification,
    mean_scores,
    regression_scores,
)
from nirs_store.values import from_json

REFIT_FOLDS = ("final", "fold_final", "foldfinal", "refit", "fold_refit")
# Some writers add rows for the average of the folds; they hold the same samples once more.
NO_FOLDS = (*REFIT_FOLDS, "avg", "w_avg", "average", "mean", "pooled")
# The columns that the scores of a chain are computed from, besides the arrays.
_SCORED = (
    "prediction_id", "chain_id", "fold_id", "partition", "metric", "scores", "val_score", "test_score",
    "train_score", "n_samples",
)  # fmt: skip


def tasks_and_metrics(con: Connection, **filters: Any) -> list[tuple[str, str]]:
    """Return the kinds of task that the predictions of chains are about, with the metrics they were recorded with."""
    where, params = prediction_filters("p.", **filters)
    sql = (
        "SELECT DISTINCT task_type, lower(metric) FROM predictions p "
        f"WHERE chain_id IS NOT NULL AND {where} ORDER BY ALL"
    )
    return [(str(row[0]), str(row[1])) for row in execute(con, sql, params).fetchall()]


def candidate_chains(con: Connection, metric: str, names: Sequence[str], **filters: Any) -> pl.DataFrame:
    """One row per chain that has predictions, with what its folds add up to."""
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
            f.dataset_name, p.dataset_hash, c.preprocessings, f.model_name, c.model_class, f.task_type, f.n_folds,
            f.n_samples, {"sqrt(f.mean_value)" if metric == "rmse" else "f.mean_value"} AS pooled, f.fold_sd,
            json_extract(c.metadata, '$.classes')::VARCHAR AS classes,
            json_extract(c.metadata, '$.repeats')::VARCHAR AS repeats,
            TRY_CAST(c.metadata ->> '$.n_samples' AS BIGINT) AS n_data, c.target, c.target_unit,
            coalesce(list_max(TRY_CAST(json_extract(c.metadata, '$.repeats') AS INTEGER[])) > 0,
                f.n_samples > n_data, FALSE) AS repeated,
            CASE WHEN c.steps ->> '$[0].operator_type' = 'splitter' THEN concat(c.steps ->> '$[0].operator_class',
                regexp_replace(c.steps ->> '$[0].params', '"random_state":[^,}}]*', '')) END AS splitter,
            c.fold_weights::VARCHAR AS fold_weights, c.created_at
        FROM found f JOIN chains c USING (chain_id) JOIN pipelines p USING (pipeline_id)
            LEFT JOIN runs r USING (run_id)
        ORDER BY f.chain_id
        """,
        params,
    )


def predictions_of_chain(con: Connection, chain_id: str) -> list[dict[str, Any]]:
    """Return the prediction rows of one chain, in the order of `predictions_of`, with their task and date."""
    names = (*_SCORED, "task_type", "created_at")
    rows = execute(
        con, f"SELECT {', '.join(names)} FROM predictions WHERE chain_id = ?", [chain_id]
    ).fetchall()
    found = [dict(zip(names, row, strict=True)) for row in rows]
    # A chain has a handful: sorting them here takes a millisecond less than having them sorted.
    return sorted(found, key=lambda row: (row["fold_id"] is None, row["fold_id"], row["prediction_id"]))


def predictions_of(con: Connection, chain_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Prediction rows by chain: what they recorded as scores, and where to look their arrays up."""
    found: dict[str, list[dict[str, Any]]] = {}
    rows = frame(
        con,
        f"SELECT {', '.join(_SCORED)} FROM predictions WHERE chain_id IN (SELECT unnest(?)) "
        "ORDER BY chain_id, fold_id, prediction_id",
        [list(chain_ids)],
    )
    for row in rows.iter_rows(named=True):
        found.setdefault(row["chain_id"], []).append(row)
    return found


def aggregate(con: Connection, group_by: str | Sequence[str], metric: str, **filters: Any) -> pl.DataFrame:
    """Count, mean, standard deviation, minimum and maximum of a score column; NULL and NaN do not count."""
    groups = columns_to_group(group_by, (*GROUP_COLUMNS, *_JOINED))
    if not groups:
        raise InvalidInput("group_by: expected at least one column, found none.")
    if metric not in METRIC_COLUMNS:
        raise unknown_column("metric", metric, METRIC_COLUMNS)
    where, params = prediction_filters("p.", **filters)
    names = ", ".join(f"{_JOINED.get(group, 'p')}.{group}" for group in groups)
    keys = ", ".join(str(i + 1) for i in range(len(groups)))
    value = f"CASE WHEN NOT isnan(p.{metric}::DOUBLE) THEN p.{metric} END"
    found = frame(
        con,
        f"SELECT {names}, count({value}) AS count, avg({value}) AS mean, stddev_samp({value}) AS std, "
        f"min({value}) AS min, max({value}) AS max, "
        "count(DISTINCT (lower(p.metric), c.target, c.target_unit)) AS kinds_of_score FROM predictions p "
        f"{'LEFT JOIN pipelines l USING (pipeline_id)' if 'run_id' in groups else ''} "
        f"LEFT JOIN chains c USING (chain_id) WHERE {where} GROUP BY {keys} ORDER BY {keys}",
        params,
    )
    if metric.endswith("_score") and (found["kinds_of_score"] > 1).any():
        warnings.warn(
            f"{metric} is averaged over scores of different metrics, targets or units. Add 'metric', 'target' and "
            "'target_unit' to group_by, or name one of each.",
            UserWarning,
            stacklevel=2,
        )
    return found.drop("kinds_of_score")


# -- Scores of one chain: its folds' out-of-fold predictions taken together, its refit, its test samples.


Arrays = Mapping[str, Mapping[str, np.ndarray | None]]
"""Arrays by prediction id and name."""

SCORED_ARRAYS = ("y_true", "y_pred", "y_proba")
"""The arrays of a prediction that scores are computed from."""

# Means over samples: their pooled value follows from the folds' values and sizes alone.
ADDITIVE = tuple(name for name, metric in METRICS.items() if metric.additive)
# Under which names a score is recorded.
METRIC_NAMES = {"rmse": ("rmse", *RMSE_BY_SET)}

_Row = Mapping[str, Any]
# Columns that predictions are grouped by and other tables hold.
_JOINED = {"run_id": "l", "target": "c", "target_unit": "c"}


def needed_arrays(predictions: Sequence[_Row]) -> list[str]:
    """Ids of the predictions whose arrays say something about a chain's scores."""
    return [
        row["prediction_id"]
        for row in predictions
        if row["partition"] == "test"
        or (row["partition"] == "val" and row["fold_id"] not in NO_FOLDS)
        or (row["partition"] == "train" and row["fold_id"] in REFIT_FOLDS)
    ]


def count_folds(chain: _Row, predictions: Sequence[_Row]) -> dict[str, int]:
    """Count the folds that predicted samples they were not fitted on, the samples, and the repeats."""
    folds = _folds(predictions)
    groups = _repeats(chain, folds)
    sizes = [sum(row["n_samples"] or 0 for row in group) for group in groups]
    return {
        "n_folds": len({row["fold_id"] for row in folds}),
        "n_samples": round(np.mean(sizes)) if sizes else 0,
        "n_repeats": len(groups),
    }


def _folds(predictions: Sequence[_Row]) -> list[_Row]:
    return [row for row in predictions if row["partition"] == "val" and row["fold_id"] not in NO_FOLDS]


def _repeats(chain: _Row, folds: Sequence[_Row]) -> list[list[_Row]]:
    """Group the folds by the repeat of the cross-validation that they belong to."""
    ordered = sorted(folds, key=lambda row: _fold_place(row["fold_id"]))
    numbers = chain.get("repeats")
    if not isinstance(numbers, list) or len(ordered) != len(numbers):
        numbers = _repeats_by_size([row["n_samples"] or 0 for row in ordered], chain.get("n_data"))
    groups: dict[Any, list[_Row]] = {}
    for number, row in zip(numbers, ordered, strict=True):
        groups.setdefault(number, []).append(row)
    return list(groups.values())


def _repeats_by_size(sizes: Sequence[int], n_data: Any) -> list[int]:
    """Return number the repeats of a chain recorded before they were: samples that come more than once tell."""
    if not isinstance(n_data, int) or sum(sizes) <= n_data or n_data < 1:
        return [0] * len(sizes)
    ends = np.cumsum(sizes)
    if set(range(n_data, int(ends[-1]) + 1, n_data)) <= set(ends.tolist()) and ends[-1] % n_data == 0:
        return [int((end - 1) // n_data) for end in ends]
    return list(range(len(sizes)))


def _fold_place(fold_id: Any) -> tuple[int, str]:
    digits = str(fold_id).rpartition("_")[2]
    return (int(digits), "") if digits.isdecimal() else (-1, str(fold_id))


def chain_scores(
    chain: _Row, predictions: Sequence[_Row], arrays: Arrays, task: str, metric: str
) -> dict[str, Any]:
    """Return the scores of one chain, by the names of a leaderboard's columns."""
    scorer = _Scorer(task, chain["classes"], arrays)
    refits = [p for p in predictions if p["fold_id"] in REFIT_FOLDS]
    folds = _folds(predictions)
    repeats = [scorer.scores(group) for group in _repeats(chain, folds)]
    shared = [name for name in scorer.names if repeats and all(name in each for each in repeats)]
    pooled = mean_scores([{name: each[name] for name in shared} for each in repeats]) if repeats else {}
    read = [name for name in scorer.names if name in (metric, "rmse")]
    refit = scorer.scores([p for p in refits if p["partition"] == "train"], read)
    test = scorer.scores([p for p in refits if p["partition"] == "test"], read)
    if not test:
        fold_tests = [p for p in predictions if p["partition"] == "test" and p["fold_id"] not in NO_FOLDS]
        test = scorer.ensemble(fold_tests, chain["fold_weights"], read)
    row: dict[str, Any] = {name: pooled.get(name) for name in scorer.names}
    row["score"] = pooled.get(metric, chain["pooled"])
    row["score_sd"] = scorer.spread(folds, metric, chain["fold_sd"])
    if len(repeats) > 1 and metric in shared:
        row["repeat_sd"] = float(np.std([each[metric] for each in repeats], ddof=1))
    row["refit_score"], row["test_score"] = refit.get(metric), test.get(metric)
    row |= {"rmsecv": pooled.get("rmse"), "rmsec": refit.get("rmse"), "rmsep": test.get("rmse")}
    return row


class _Scorer:
    """Scores of sets of predictions of one chain."""

    def __init__(self, task: str, classes: Sequence[Any] | None, arrays: Arrays) -> None:
        self.names, self._regression = SCORES[task], task == "regression"
        self._classes, self._arrays = classes, arrays

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
        """Return standard deviation over folds, of all from their arrays or of all as recorded."""
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
        except ValueError:  # NaN, or shapes that do not belong together: ranks last
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
    """Return the recorded score of one prediction, or the pooled one of several where it follows from theirs."""
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
_SCORED_CHAINS = 200

_CHAIN_COLUMNS = (
    "chain_id", "run_id", "run_name", "pipeline_id", "pipeline_name", "dataset_name", "preprocessings", "model_name",
    "model_class",
)  # fmt: skip


def top_chains(
    engine: Engine,
    n: int | None,
    metric: str | None,
    ascending: bool | None,
    task_type: str | None,
    *,
    mixed: bool = False,
    **filters: Any,
) -> pl.DataFrame:
    """Rank chains; see `WorkspaceStore.top_chains`. With `mixed`, the caller parts the targets itself: no warning."""
    at_most, wanted = as_count(n, "n"), _known_metric(metric)
    return engine.query(lambda con: _rank(con, at_most, wanted, ascending, task_type, filters, mixed=mixed))


def rank_matches(
    con: Connection, chain_ids: Sequence[str], n: int | None, metric: str | None, **filters: Any
) -> pl.DataFrame:
    """Rank some chains of one target, regressions before classifications; those without predictions come last."""
    at_most, wanted = as_count(n, "n"), _known_metric(metric)
    narrowed = {**filters, "chain_ids": list(chain_ids)}
    recorded = tasks_and_metrics(con, **narrowed)
    kinds = sorted({_task(kind) for kind, _ in recorded}, reverse=True)
    frames = [
        _rank(con, at_most, wanted, None, kind, narrowed, mixed=True).with_columns(task=pl.lit(kind))
        for kind in kinds
        if wanted is None or wanted in SCORES[kind]
    ] or [_rank(con, 0, wanted, None, None, narrowed, mixed=True).with_columns(task=pl.lit(None, pl.String))]
    ranked = pl.concat(frames, how="diagonal")
    left = None if at_most is None else max(at_most - ranked.height, 0)
    if left == 0 or (wanted is not None and recorded):
        return ranked
    bare = frame(con, _BARE, {"ids": list(chain_ids), "n": left})
    return pl.concat([ranked, _with_components(con, bare)], how="diagonal") if bare.height else ranked


_BARE = """
    SELECT c.chain_id, p.run_id, r.name AS run_name, c.pipeline_id, p.name AS pipeline_name, p.dataset_name,
        c.preprocessings, split_part(c.model_class, '.', -1) AS model_name, c.model_class,
        concat_ws(' > ', nullif(c.preprocessings, ''), split_part(c.model_class, '.', -1)) AS pipeline,
        c.created_at, c.target, c.target_unit
    FROM chains c JOIN pipelines p USING (pipeline_id) LEFT JOIN runs r USING (run_id)
    WHERE c.chain_id IN (SELECT unnest($ids::VARCHAR[]))
        AND NOT EXISTS (SELECT 1 FROM predictions q WHERE q.chain_id = c.chain_id)
    ORDER BY c.created_at DESC, c.chain_id LIMIT $n
"""

COMPONENTS = (
    'TRY_CAST(list_filter(from_json(steps, \'[{"step_idx":"INTEGER","params":"JSON"}]\'), '
    "lambda x: x.step_idx = model_step_idx)[1].params ->> 'n_components' AS BIGINT)"
)
"""The number of latent variables of a row of `chains`; NULL for a model without."""


def _with_components(con: Connection, found: pl.DataFrame) -> pl.DataFrame:
    rows = execute(
        con,
        f"SELECT chain_id, {COMPONENTS} FROM chains WHERE chain_id IN (SELECT unnest($ids::VARCHAR[]))",
        {"ids": found["chain_id"].to_list()},
    ).fetchall()
    known = dict(rows)
    values = [known.get(chain_id) for chain_id in found["chain_id"]]
    return found.with_columns(components=pl.Series(values, dtype=pl.Int64))


def _known_metric(metric: str | None) -> str | None:
    wanted = None if metric is None else _ALIASES.get(metric, metric)
    if wanted is not None:
        higher_is_better(wanted)  # refuses an unknown name and suggests the nearest
    return wanted


def _rank(
    con: Connection,
    n: int | None,
    metric: str | None,
    ascending: bool | None,
    task_type: str | None,
    filters: Mapping[str, Any],
    *,
    mixed: bool = False,
) -> pl.DataFrame:
    found, task, chosen = _candidates(con, metric, task_type, filters)
    if not mixed:
        kinds = found.select("target", "target_unit").unique().drop_nulls("target").sort(pl.all())
        warn_of_targets(kinds.rows(), chosen)
    descending = higher_is_better(chosen) if ascending is None else not ascending
    if n is not None and chosen in ADDITIVE and found.height > max(_SCORED_CHAINS, 2 * n):
        decided = pl.col("pooled").is_finite().fill_null(False)
        best = _sorted(found.filter(decided), "pooled", chosen, descending).head(max(_SCORED_CHAINS, 2 * n))
        found = pl.concat([best, found.filter(~decided)])
    ranked = _sorted(_scored(con, found, task, chosen), "score", chosen, descending)
    return ranked if n is None else ranked.head(n)


def _candidates(
    con: Connection, metric: str | None, task_type: str | None, filters: Mapping[str, Any]
) -> tuple[pl.DataFrame, str, str]:
    """Return the chains of one task, that task, and the metric that they are scored by."""
    recorded = tasks_and_metrics(con, **filters)
    task = _one_task([kind for kind, _ in recorded], metric, task_type)
    known = SCORES[task]
    chosen = metric or _common_metric([name for kind, name in recorded if _task(kind) == task], task)
    if chosen not in known:
        raise InvalidInput(f"metric: {chosen!r} does not score a {task}. Expected one of {', '.join(known)}.")
    found = candidate_chains(con, chosen, METRIC_NAMES.get(chosen, (chosen,)), **filters)
    classifies = pl.col("task_type").str.to_lowercase().str.contains("classification")
    return found.filter(classifies if task == "classification" else ~classifies), task, chosen


# Chains whose arrays are in memory at once while all of them are scored.
_BATCH = 200


def chain_kinds(
    engine: Engine, metric: str | None, task_type: str | None, **filters: Any
) -> tuple[pl.DataFrame, str]:
    """Return the score of every chain with what tells its kind, and the metric."""
    # The catalog adds up what the folds recorded where the score follows from it; arrays are read of the other chains
    # alone, some at a time.
    wanted = _known_metric(metric)
    return engine.query(lambda con: _all_scored(con, wanted, task_type, filters))


def _all_scored(
    con: Connection, metric: str | None, task_type: str | None, filters: Mapping[str, Any]
) -> tuple[pl.DataFrame, str]:
    found, task, chosen = _candidates(con, metric, task_type, filters)
    decided = pl.col("pooled").is_finite().fill_null(False) & ~pl.col("repeated")
    if chosen not in ADDITIVE:
        decided = pl.lit(False)
    rest = found.filter(~decided)
    parts = [found.filter(decided).with_columns(score=pl.col("pooled"))]
    for begin in range(0, rest.height, _BATCH):
        batch = rest[begin : begin + _BATCH]
        scores = _scored(con, batch, task, chosen).select("chain_id", "score")
        parts.append(batch.join(scores, on="chain_id", how="left", maintain_order="left"))
    return pl.concat(parts), chosen


def scores_of(con: Connection, chain_ids: Sequence[str]) -> pl.DataFrame:
    """Return the score of each of some chains that has predictions, by the metric that they were recorded with."""
    narrowed = {"chain_ids": list(chain_ids)}
    columns = ("chain_id", "model_name", "score", "fold_sd", "n_samples")
    frames = []
    for kind in sorted({_task(kind) for kind, _ in tasks_and_metrics(con, **narrowed)}) or ["regression"]:
        scored, metric = _all_scored(con, None, kind, narrowed)
        frames.append(scored.select(*columns, task=pl.lit(kind), metric=pl.lit(metric)))
    return pl.concat(frames)


def _task(kind: str) -> str:
    return "classification" if is_classification(kind) else "regression"


def _common_metric(names: Sequence[str], task: str) -> str:
    """Return the metric that all chains were recorded to be ranked by, else the default of the task."""
    metrics = {_ALIASES.get(name, name) for name in names}
    known = SCORES[task]
    only = metrics.pop() if len(metrics) == 1 else ""
    return only if only in known and only != "bias" else default_metric(task)


def _one_task(types: list[str], metric: str | None, task_type: str | None) -> str:
    if task_type is not None:
        return "regression" if default_metric(task_type) == "rmse" else "classification"
    tasks = sorted({_task(name) for name in types})
    if metric is not None:
        fits = [task for task, names in SCORES.items() if metric in names]
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
    predictions = predictions_of(con, found["chain_id"].to_list())
    needed = needed_arrays([row for rows in predictions.values() for row in rows])
    arrays = prediction_queries.load_arrays(con, needed, SCORED_ARRAYS)
    schema: dict[str, pl.DataType] = {
        **dict.fromkeys((*_CHAIN_COLUMNS, "pipeline", "metric"), pl.String()),
        **dict.fromkeys(("score", "score_sd", "refit_score", "test_score"), pl.Float64()),
        **dict.fromkeys(SCORE_COLUMNS[task], pl.Float64()),
        **dict.fromkeys(("n_folds", "n_samples"), pl.Int64()),
        "created_at": pl.Datetime("us", "UTC"),
        **dict.fromkeys(("target", "target_unit"), pl.String()),
        "n_repeats": pl.Int64(),
        "repeat_sd": pl.Float64(),
    }
    table = []
    for chain in found.iter_rows(named=True):
        known = chain | {name: from_json(chain[name]) for name in ("classes", "fold_weights", "repeats")}
        own = predictions.get(chain["chain_id"], [])
        row = chain | chain_scores(known, own, arrays, task, metric) | count_folds(known, own)
        row["pipeline"] = " > ".join(part for part in (chain["preprocessings"], chain["model_name"]) if part)
        row["metric"] = metric
        table.append([row.get(name) for name in schema])
    return _with_components(con, pl.DataFrame(table, schema=schema, orient="row"))
