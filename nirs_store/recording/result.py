"""What a recorded cross-validation gives back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nirs_store.display import block, field_table, table
from nirs_store.lazy import polars as pl
from nirs_store.scores import SCORES, score_label

#: Rows of the score table that have no prediction row.
POOLED = "pooled"
AVERAGE = "average"


@dataclass(frozen=True)
class ScoreRow:
    """Scores of one fold on one partition."""

    fold_id: str
    partition: str
    scores: dict[str, Any]
    prediction_id: str | None = None


@dataclass(frozen=True, eq=False)
class CrossValidationResult:
    """Ids and scores of a cross-validation that is in the store.

    Attributes
    ----------
    run_id, pipeline_id, chain_id : str
        Where it was recorded.
    prediction_ids : tuple of str
        One for each fold and partition, in the order of `scores`.
    name : str
        The pipeline's name.
    task_type : str
        ``"regression"`` or ``"classification"``.
    metric : str
        The metric that ranks this model.
    value : float
        That metric of the pooled out-of-fold predictions, in the unit of y for an error; what the
        catalog holds as ``best_val``. For the metric ``rmse`` it is the RMSECV.
    fold_sd : float
        Standard deviation of the metric over the folds; NaN for a single fold.
    test_value : float or None
        The metric on the test samples (RMSEP for ``rmse``), by the refit, else by the average of
        the folds; None without test samples.
    pooled : dict
        All scores of the pooled out-of-fold predictions; of repeats, the mean of each repeat's.
    n_folds : int
    duration_ms : int
    scores : polars.DataFrame
        One row per fold and partition (fold_id, partition, n, the scores, prediction_id); then
        ``"pooled"``, all out-of-fold predictions together, and ``"average"``, the folds' average
        on the test samples where there is no refit.
    """

    run_id: str
    pipeline_id: str
    chain_id: str
    prediction_ids: tuple[str, ...]
    name: str
    task_type: str
    metric: str
    value: float
    fold_sd: float
    test_value: float | None
    pooled: dict[str, Any]
    n_folds: int
    duration_ms: int
    scores: pl.DataFrame

    @property
    def rmsecv(self) -> float | None:
        """RMSE of the pooled out-of-fold predictions, in the unit of y; None for a classifier."""
        value = self.pooled.get("rmsecv")
        return None if value is None else float(value)

    @property
    def n_repeats(self) -> int:
        """How often the samples were validated: 1, or the repeats of a RepeatedKFold or ShuffleSplit."""
        return int(self.pooled.get("n_repeats", 1))

    @property
    def repeat_sd(self) -> float | None:
        """Standard deviation of the metric over the repeats; None for a single cross-validation."""
        value = self.pooled.get("repeat_sd")
        return None if value is None else float(value)

    def __repr__(self) -> str:
        label = score_label(self.metric)
        spread = "" if math.isnan(self.fold_sd) else f" (SD over folds {self.fold_sd:.4g})"
        if self.n_repeats > 1:
            spread = f" (SD over {self.n_repeats} repeats {self.repeat_sd:.4g})"
        test_label = "RMSEP" if self.metric == "rmse" else f"test {self.metric}"
        test = "" if self.test_value is None else f", {test_label} {self.test_value:.4g}"
        return (
            f"CrossValidationResult({self.name!r}: {label} {self.value:.4g}{spread} in {self.n_folds} folds"
            f"{test}; chain_id={self.chain_id!r})"
        )

    def _repr_html_(self) -> str:
        label = score_label(self.metric)
        facts = {
            label: self.value,
            "SD over folds": None if math.isnan(self.fold_sd) else self.fold_sd,
            "repeats": self.n_repeats if self.n_repeats > 1 else None,
            "SD over repeats": self.repeat_sd,
            "RMSEP" if self.metric == "rmse" else f"test {self.metric}": self.test_value,
            "folds": self.n_folds,
            "chain": self.chain_id,
            "run": self.run_id,
        }
        # What each fold says about its own training samples fills the screen and tells little.
        kept = (pl.col("partition") != "train") | ~pl.col("fold_id").str.starts_with("fold_")
        scores = self.scores.filter(kept).drop("prediction_id")
        return block(self.name, field_table(facts), table(scores.columns, scores.iter_rows()))


def score_table(rows: Sequence[ScoreRow], task_type: str) -> pl.DataFrame:
    """Lay scores out as a table, one row per fold and partition."""
    names = SCORES[task_type]
    schema: dict[str, Any] = {"fold_id": pl.String, "partition": pl.String, "n": pl.Int64}
    schema |= dict.fromkeys(names, pl.Float64) | {"prediction_id": pl.String}
    records = [
        {
            "fold_id": row.fold_id,
            "partition": row.partition,
            "n": row.scores["n"],
            **{name: row.scores[name] for name in names},
            "prediction_id": row.prediction_id,
        }
        for row in rows
    ]
    return pl.DataFrame(records, schema=schema)
