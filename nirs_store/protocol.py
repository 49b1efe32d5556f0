"""What code that records into a store may rely on, as a runtime-checkable protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import polars as pl

__all__ = ["WorkspaceStoreProtocol"]


@runtime_checkable
class WorkspaceStoreProtocol(Protocol):
    """The calls of a training loop; `WorkspaceStore` has them all, and a test double may."""

    def begin_run(self, name: str, config: Any, datasets: list[dict[str, Any]]) -> str:
        """Begin a run."""

    def complete_run(self, run_id: str, summary: dict[str, Any]) -> None:
        """Mark a run as completed."""

    def fail_run(self, run_id: str, error: str) -> None:
        """Mark a run as failed."""

    def begin_pipeline(
        self,
        run_id: str,
        name: str,
        expanded_config: Any,
        generator_choices: list[Any],
        dataset_name: str,
        dataset_hash: str,
    ) -> str:
        """Begin a pipeline."""

    def complete_pipeline(
        self, pipeline_id: str, best_val: float, best_test: float, metric: str, duration_ms: int
    ) -> None:
        """Mark a pipeline as completed."""

    def fail_pipeline(self, pipeline_id: str, error: str) -> None:
        """Mark a pipeline as failed and roll it back."""

    def save_chain(
        self,
        pipeline_id: str,
        steps: list[dict[str, Any]],
        model_step_idx: int,
        model_class: str,
        preprocessings: str,
        fold_strategy: str,
        fold_artifacts: dict[str, Any],
        shared_artifacts: dict[str, Any],
        branch_path: list[int] | None = None,
        source_index: int | None = None,
    ) -> str:
        """Record a chain."""

    def get_chain(self, chain_id: str) -> dict[str, Any] | None:
        """One chain, or None."""

    def save_prediction(
        self,
        pipeline_id: str,
        chain_id: str | None,
        dataset_name: str,
        model_name: str,
        model_class: str,
        fold_id: str,
        partition: str,
        val_score: float | None,
        test_score: float | None,
        train_score: float | None,
        metric: str,
        task_type: str,
        n_samples: int,
        n_features: int,
        scores: dict[str, Any],
        best_params: dict[str, Any],
        branch_id: int | None,
        branch_name: str | None,
        exclusion_count: int,
        exclusion_rate: float,
        preprocessings: str = "",
        prediction_id: str | None = None,
    ) -> str:
        """Record one prediction."""

    def save_prediction_arrays(
        self,
        prediction_id: str,
        y_true: Any,
        y_pred: Any,
        y_proba: Any = None,
        sample_indices: Any = None,
        weights: Any = None,
    ) -> None:
        """Record the arrays of a prediction."""

    def save_artifact(self, obj: Any, operator_class: str, artifact_type: str, format: str) -> str:
        """Store a fitted object."""

    def load_artifact(self, artifact_id: str) -> Any:
        """Load a fitted object."""

    def get_prediction(self, prediction_id: str, load_arrays: bool = False) -> dict[str, Any] | None:
        """One prediction, or None."""

    def top_predictions(
        self,
        n: int,
        metric: str = "val_score",
        ascending: bool = True,
        partition: str = "val",
        dataset_name: str | None = None,
        group_by: str | None = None,
    ) -> pl.DataFrame:
        """Best predictions by a score column."""

    def export_chain(self, chain_id: str, output_path: Path, format: str = "n4a") -> Path:
        """Write a chain as a bundle."""
