"""Scores of one chain: its folds' out-of-fold predictions taken together, its refit, its test samples.

They are computed from the stored arrays. Where those were not stored, what the folds recorded is
averaged with their numbers of samples as weights: the pooled value itself for scores that are means
over samples (rmse over its square, mae, bias, accuracy, log_loss), an approximation for the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nirs_store.catalog.ranking import NO_FOLDS, REFIT_FOLDS
from nirs_store.catalog.values import from_json
from nirs_store.chains.combine import mean, vote
from nirs_store.chains.folds import fold_key, normalise_weights
from nirs_store.errors import InvalidInput, ReplayError
from nirs_store.scores import (
    CLASSIFICATION_SCORES,
    REGRESSION_SCORES,
    classification_scores,
    regression_scores,
)

__all__ = [
    "ADDITIVE",
    "METRIC_NAMES",
    "SCORED_ARRAYS",
    "Arrays",
    "chain_scores",
    "count_folds",
    "needed_arrays",
]

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
