"""What code that records into a store, or reads from one, may rely on, as protocols."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from nirs_store.errors import UnknownId
from nirs_store.lazy import polars as pl


class RecordingStore(Protocol):
    """The part of the store's public interface through which a cross-validation is recorded."""

    def begin_run(self, name: str, config: Any, datasets: list[Any]) -> str:
        """Begin a run."""

    def complete_run(self, run_id: str, summary: dict[str, Any]) -> None:
        """Mark a run completed."""

    def fail_run(self, run_id: str, error: str) -> None:
        """Mark a run failed."""

    def begin_pipeline(
        self,
        run_id: str,
        name: str,
        expanded_config: Any,
        generator_choices: list[Any],
        dataset_name: str,
        dataset_hash: str,
    ) -> str:
        """Begin a pipeline in a run."""

    def complete_pipeline(
        self,
        pipeline_id: str,
        best_val: float | None,
        best_test: float | None,
        metric: str | None,
        duration_ms: int | None,
    ) -> None:
        """Mark a pipeline completed."""

    def fail_pipeline(self, pipeline_id: str, error: str) -> None:
        """Mark a pipeline failed and roll back what it saved."""

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
        *,
        wavelengths: Any = None,
        metadata: dict[str, Any] | None = None,
    ) -> str:
        """Save a chain."""

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
    ) -> str:
        """Save the row of a prediction."""

    def save_prediction_arrays(
        self,
        prediction_id: str,
        y_true: NDArray[Any] | None,
        y_pred: NDArray[Any] | None,
        y_proba: NDArray[Any] | None = None,
        sample_indices: NDArray[Any] | None = None,
    ) -> None:
        """Save the arrays of a prediction."""

    def save_artifact(
        self,
        obj: Any,
        operator_class: str,
        artifact_type: str,
        format: str = "joblib",
        *,
        pipeline_id: str | None = None,
    ) -> str:
        """Save a fitted object and give its id."""

    def log_step(
        self,
        pipeline_id: str,
        step_idx: int,
        operator_class: str,
        event: str,
        duration_ms: int | None = None,
        message: str | None = None,
        details: dict[str, Any] | None = None,
        level: str = "info",
    ) -> None:
        """Add an entry to a pipeline's log."""

    def flush(self) -> None:
        """Commit what is buffered."""


class ReadsChains(Protocol):
    """The part of a store that reviews, diagnoses and domains of a chain need."""

    def get_chain(self, chain_id: str) -> dict[str, Any] | None:
        """One chain, or None."""

    def load_artifact(self, artifact_id: str) -> Any:
        """Load a fitted object."""

    def query_predictions(
        self, *, run_id: str | None = None, chain_id: str | None = None, partition: str | None = None
    ) -> pl.DataFrame:
        """List predictions."""

    def get_prediction_arrays(self, prediction_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the arrays of predictions by id."""


class ReadsRuns(ReadsChains, Protocol):
    """The part of a store that figures and comparisons of the chains of a run need."""

    def get_run(self, run_id: str) -> dict[str, Any] | None:
        """One run, or None."""

    def get_pipeline(self, pipeline_id: str) -> dict[str, Any] | None:
        """One pipeline, or None."""

    def get_chains_for_run(self, run_id: str) -> list[dict[str, Any]]:
        """List the chains of a run."""

    def past_chains(self, run_id: str | None = None) -> pl.DataFrame:
        """List the chains that a retention deleted, with their scores."""


@runtime_checkable
class WorkspaceStoreProtocol(RecordingStore, Protocol):
    """The calls of a training loop; `WorkspaceStore` has them all, and a test double may."""

    def get_chain(self, chain_id: str) -> dict[str, Any] | None:
        """One chain, or None."""

    def load_artifact(self, artifact_id: str) -> Any:
        """Load a fitted object."""

    def get_prediction(self, prediction_id: str, load_arrays: bool = False) -> dict[str, Any] | None:
        """One prediction, or None."""

    def top_predictions(
        self,
        n: int,
        metric: str = "val_score",
        ascending: bool | None = None,
        partition: str = "val",
        dataset_name: str | None = None,
        group_by: str | None = None,
    ) -> pl.DataFrame:
        """Best predictions by a score column."""

    def export_chain(self, chain_id: str, output_path: Path, format: str = "n4a") -> Path:
        """Write a chain as a bundle."""


def chain_of(store: ReadsChains, chain_id: str) -> dict[str, Any]:
    """Return a chain; raise where no chain has that id."""
    chain = store.get_chain(chain_id)
    if chain is None:
        raise UnknownId("chain", chain_id)
    return chain
