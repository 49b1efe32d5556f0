"""The questions that the model of a store answers, over its dictionaries."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from nirs_store.errors import InvalidInput
from nirs_store.lazy import polars as pl
from tests.model.state import Row, State

__all__ = ["ModelQueries"]

RUN = ("run_id", "name", "config", "datasets", "status", "created_at", "completed_at", "summary", "error")
PIPELINE = (
    "pipeline_id", "run_id", "name", "expanded_config", "generator_choices", "dataset_name", "dataset_hash",
    "status", "created_at", "completed_at", "best_val", "best_test", "metric", "duration_ms", "error",
)  # fmt: skip
CHAIN = (
    "chain_id", "pipeline_id", "steps", "model_step_idx", "model_class", "preprocessings", "fold_strategy",
    "fold_artifacts", "shared_artifacts", "branch_path", "source_index", "fold_weights", "wavelengths",
    "metadata", "created_at", "target", "target_unit",
)  # fmt: skip
PREDICTION = (
    "prediction_id", "pipeline_id", "chain_id", "dataset_name", "model_name", "model_class", "fold_id",
    "partition", "val_score", "test_score", "train_score", "metric", "task_type", "n_samples", "n_features",
    "scores", "best_params", "preprocessings", "branch_id", "branch_name", "exclusion_count",
    "exclusion_rate", "created_at",
)  # fmt: skip
LOG = (
    "log_id", "step_idx", "operator_class", "event", "duration_ms", "message", "details", "level",
    "created_at",
)  # fmt: skip
ARTIFACT = (
    "artifact_id", "artifact_path", "content_hash", "operator_class", "artifact_type", "format",
    "size_bytes", "created_at",
)  # fmt: skip
_SCORES = ("val_score", "test_score", "train_score")


class ModelQueries:
    """Read-only half of `tests.model.ModelStore`."""

    def _open(self) -> State:
        raise NotImplementedError

    def _reference_counts(self) -> Counter[str]:
        raise NotImplementedError

    def get_run(self, run_id: str) -> Row | None:
        """Give a run, or None."""
        return _columns(self._shown(self._open().runs.get(run_id)), RUN)

    def get_pipeline(self, pipeline_id: str) -> Row | None:
        """Give a pipeline, or None."""
        return _columns(self._shown(self._open().pipelines.get(pipeline_id)), PIPELINE)

    def get_chain(self, chain_id: str) -> Row | None:
        """Give a chain, or None."""
        return _columns(self._open().chains.get(chain_id), CHAIN)

    def get_artifact(self, artifact_id: str) -> Row | None:
        """Give what is known of an artifact, its reference count included, or None."""
        row = _columns(self._open().artifacts.get(artifact_id), ARTIFACT)
        return None if row is None else row | {"ref_count": self._reference_counts()[artifact_id]}

    def get_prediction(self, prediction_id: str, load_arrays: bool = False) -> Row | None:
        """Give a prediction, with its arrays on demand, or None."""
        state = self._open()
        row = _columns(state.predictions.get(prediction_id), PREDICTION)
        if row is None or not load_arrays:
            return row
        names = ("y_true", "y_pred", "y_proba", "sample_indices", "weights")
        stored = state.arrays.get(prediction_id, {})
        copies = {name: stored.get(name) for name in names}
        return row | {name: None if value is None else value.copy() for name, value in copies.items()}

    def list_runs(
        self, status: str | None = None, dataset: str | None = None, limit: int = 100, offset: int = 0
    ) -> pl.DataFrame:
        """List runs, newest first."""
        rows = [
            row
            for row in self._all_shown(self._open().runs)
            if status in (None, row["status"]) and (dataset is None or dataset in _names(row["datasets"]))
        ]
        return _frame(_newest(rows)[offset : offset + limit], RUN)

    def list_pipelines(self, run_id: str | None = None, dataset_name: str | None = None) -> pl.DataFrame:
        """List pipelines, newest first."""
        rows = [
            row
            for row in self._all_shown(self._open().pipelines)
            if run_id in (None, row["run_id"]) and dataset_name in (None, row["dataset_name"])
        ]
        return _frame(_newest(rows), PIPELINE)

    def get_chains_for_pipeline(self, pipeline_id: str) -> pl.DataFrame:
        """List the chains of a pipeline, oldest first."""
        rows = [row for row in self._open().chains.values() if row["pipeline_id"] == pipeline_id]
        return _frame(rows, CHAIN)

    def query_predictions(
        self,
        dataset_name: str | None = None,
        model_class: str | None = None,
        partition: str | None = None,
        fold_id: str | None = None,
        branch_id: int | None = None,
        pipeline_id: str | None = None,
        run_id: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> pl.DataFrame:
        """List predictions, newest first; ``%`` in `model_class` stands for any text."""
        state = self._open()
        wanted: dict[str, str | int | None] = {
            "dataset_name": dataset_name,
            "partition": partition,
            "fold_id": fold_id,
        }
        wanted |= {"branch_id": branch_id, "pipeline_id": pipeline_id}
        of_run = {key for key, row in state.pipelines.items() if row["run_id"] == run_id}
        pattern = None if model_class is None else _like(model_class)
        rows = [
            row
            for row in state.predictions.values()
            if all(value is None or row[name] == value for name, value in wanted.items())
            and (pattern is None or pattern.fullmatch(row["model_class"]))
            and (run_id is None or row["pipeline_id"] in of_run)
        ]
        return _frame(_newest(rows)[offset:][:limit], PREDICTION)

    def top_predictions(
        self,
        n: int,
        metric: str = "val_score",
        ascending: bool = True,
        partition: str | None = "val",
        dataset_name: str | None = None,
        group_by: str | None = None,
    ) -> pl.DataFrame:
        """Rank predictions by a score column; NULL and NaN come last in either direction."""
        if metric not in _SCORES:
            raise InvalidInput(f"Invalid metric column: {metric!r}. Choose one of {', '.join(_SCORES)}.")
        if group_by is not None and group_by not in PREDICTION:
            raise InvalidInput(f"Invalid group_by column: {group_by!r}.")
        rows = [
            row
            for row in self._open().predictions.values()
            if partition in (None, row["partition"]) and dataset_name in (None, row["dataset_name"])
        ]
        rows.sort(key=_ranking(metric, ascending))
        taken: Counter[Any] = Counter()
        top = []
        for row in rows:
            group = None if group_by is None else row[group_by]
            if taken[group] < n:
                taken[group] += 1
                top.append(row)
        return _frame(top, PREDICTION)

    def get_pipeline_log(self, pipeline_id: str) -> pl.DataFrame:
        """List a pipeline's log, oldest first."""
        return _frame([row for row in self._open().logs if row["pipeline_id"] == pipeline_id], LOG)

    def get_run_log_summary(self, run_id: str) -> pl.DataFrame:
        """Sum up the logs of a run, a row a pipeline."""
        state = self._open()
        rows = []
        for pipeline in self._all_shown(state.pipelines):
            if pipeline["run_id"] != run_id:
                continue
            key = pipeline["pipeline_id"]
            logs = [row for row in state.logs if row["pipeline_id"] == key]
            levels = Counter(row["level"] for row in logs)
            rows.append(
                {
                    "pipeline_id": key,
                    "pipeline_name": pipeline["name"],
                    "pipeline_status": pipeline["status"],
                    "log_count": len(logs),
                    "total_duration_ms": sum(
                        row["duration_ms"] or 0 for row in logs if row["event"] == "end"
                    ),
                    "warning_count": levels["warning"],
                    "error_count": levels["error"] + levels["critical"],
                }
            )
        columns = ("pipeline_id", "pipeline_name", "pipeline_status", "log_count", "total_duration_ms")
        return _frame(rows, (*columns, "warning_count", "error_count"))

    def _shown(self, row: Row | None) -> Row | None:
        """Show what is unfinished, and whose session has ended, as interrupted."""
        if row is None or row["status"] != "running":
            return row
        ended = self._open().sessions.get(row["_session"]) is not None
        return row | {"status": "interrupted"} if ended else row

    def _all_shown(self, rows: dict[str, Row]) -> list[Row]:
        return [shown for row in rows.values() if (shown := self._shown(row)) is not None]


def _columns(row: Row | None, names: Iterable[str]) -> Row | None:
    return None if row is None else {name: row[name] for name in names}


def _frame(rows: list[Row], names: tuple[str, ...]) -> pl.DataFrame:
    # Nested values stay Python objects: a model is compared, not computed with.
    nested = {"config", "datasets", "summary", "steps", "scores", "best_params", "details", "metadata"}
    nested |= {"expanded_config", "generator_choices", "fold_artifacts", "shared_artifacts", "branch_path"}
    nested |= {"fold_weights", "wavelengths"}
    return pl.DataFrame(
        {
            name: pl.Series(
                name,
                [row[name] for row in rows],
                dtype=pl.Object if name in nested else None if rows else pl.Null,
                strict=False,
            )
            for name in names
        }
    )


def _newest(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: -int(row["_order"]))


def _names(datasets: Any) -> set[Any]:
    return {each.get("name") for each in datasets or [] if isinstance(each, dict)}


def _like(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in pattern.split("%")), re.DOTALL)


def _ranking(metric: str, ascending: bool) -> Callable[[Row], tuple[bool, float, int]]:
    def key(row: Row) -> tuple[bool, float, int]:
        score = row[metric]
        if score is None or math.isnan(score):
            return True, 0.0, row["_order"]
        return False, score if ascending else -score, row["_order"]

    return key
