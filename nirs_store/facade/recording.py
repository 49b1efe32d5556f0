"""Recording: runs, pipelines, chains, predictions, logs. No call waits for another process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nirs_store.catalog import predictions, records
from nirs_store.catalog.values import as_text
from nirs_store.chains.folds import chain_artifact_ids
from nirs_store.chains.saving import check_numbers, check_weights
from nirs_store.facade.base import Facade
from nirs_store.registry.audit import attempted

__all__ = ["RecordingMethods"]


class RecordingMethods(Facade):
    """What a training loop calls."""

    @attempted("begin_run")
    def begin_run(
        self,
        name: str,
        config: Any,
        datasets: Sequence[str | Mapping[str, Any]] | str | Mapping[str, Any],
        *,
        environment: Mapping[str, Any] | None = None,
    ) -> str:
        """Begin a run and commit it, so that its id can be handed to a worker.

        Parameters
        ----------
        datasets : sequence
            Names, or dicts with a ``name``; one by itself counts as a list of one.
        environment : mapping, optional
            What `nirs_store.capture_environment` gave; the versions that every run keeps are added.
        """
        return records.begin_run(self._engine, name, config, datasets, environment)

    @attempted("complete_run", "run")
    def complete_run(self, run_id: str, summary: dict[str, Any]) -> None:
        """Commit everything and mark the run as completed.

        Raises
        ------
        UnknownId
        """
        records.complete_run(self._engine, run_id, summary)
        self._keep_to_policy("after_run")

    @attempted("edit_run", "run")
    def rename_run(self, run_id: str, name: str) -> None:
        """Give a run another name.

        Name, note and tags are all that can be changed of a finished run.

        Raises
        ------
        UnknownId, InvalidInput
        """
        records.edit_run(self._engine, run_id, name=as_text(name, "name"))

    @attempted("edit_run", "run")
    def annotate_run(self, run_id: str, note: str) -> None:
        """Set a run's note (free text, replaces the earlier one)."""
        records.edit_run(self._engine, run_id, note=as_text(note, "note"))

    @attempted("edit_run", "run")
    def tag_run(self, run_id: str, *tags: str) -> None:
        """Add tags to a run."""
        records.edit_run(self._engine, run_id, add_tags=tags)

    @attempted("edit_run", "run")
    def untag_run(self, run_id: str, *tags: str) -> None:
        """Remove tags from a run; one that it does not have is passed over."""
        records.edit_run(self._engine, run_id, remove_tags=tags)

    @attempted("fail_run", "run")
    def fail_run(self, run_id: str, error: str) -> None:
        """Mark the run as failed; what only its unfinished pipelines hold is released."""
        records.fail_run(self._engine, run_id, error)

    @attempted("begin_pipeline", "run")
    def begin_pipeline(
        self,
        run_id: str,
        name: str,
        expanded_config: Any,
        generator_choices: list[Any],
        dataset_name: str,
        dataset_hash: str,
    ) -> str:
        """Begin a pipeline of a run and commit it."""
        return records.begin_pipeline(
            self._engine, run_id, name, expanded_config, generator_choices, dataset_name, dataset_hash
        )

    @attempted("complete_pipeline", "pipeline")
    def complete_pipeline(
        self,
        pipeline_id: str,
        best_val: float | None,
        best_test: float | None,
        metric: str | None,
        duration_ms: int | None,
    ) -> None:
        """Commit everything and mark the pipeline as completed; durable when this returns."""
        records.complete_pipeline(self._engine, pipeline_id, best_val, best_test, metric, duration_ms)

    @attempted("fail_pipeline", "pipeline")
    def fail_pipeline(self, pipeline_id: str, error: str) -> None:
        """Mark the pipeline as failed and roll back what it recorded; its row and logs stay.

        A second call, and a call after the pipeline was completed, change nothing.
        """
        records.fail_pipeline(self._engine, pipeline_id, error)
        self._plans.clear()

    @attempted("save_chain", "pipeline")
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
        *,
        fold_weights: Mapping[str, float] | None = None,
        wavelengths: Any = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Record a chain: its steps, and which artifact each fold uses.

        Parameters
        ----------
        steps : list of dict
            ``step_idx``, ``operator_class``, ``params``, ``stateless`` and ``artifact_id`` or
            ``artifact_ids`` (or ``fold_artifact_ids`` where each fold has fitted steps of its own).
        fold_artifacts : dict
            Model of each fold ("fold_0", "0"; "final" for a refit).
        shared_artifacts : dict
            Step index to an id, or to ids applied in order.
        fold_weights : dict, optional
            Weight of each fold's model in the average.
        wavelengths : array of shape (n_features,), optional
            Grid of the spectra, in nm or cm-1.
        metadata : dict, optional
            E.g. target, target_unit, wavelength_unit.

        Returns
        -------
        str
            The chain's id.

        Raises
        ------
        UnknownId
            No such pipeline.
        ArtifactMissing
            An artifact that the chain names is not there; nothing was recorded.
        InvalidInput
            A step without a number, or weights that do not fit the folds; nothing was recorded.
        """
        ids = chain_artifact_ids(steps, fold_artifacts, shared_artifacts)
        check_numbers(steps, model_step_idx, source_index)
        check_weights(fold_weights, fold_artifacts, steps, model_step_idx)
        return records.save_chain(
            self._engine,
            pipeline_id,
            steps=steps,
            model_step_idx=model_step_idx,
            model_class=model_class,
            preprocessings=preprocessings,
            fold_strategy=fold_strategy,
            fold_artifacts=fold_artifacts,
            shared_artifacts=shared_artifacts,
            branch_path=branch_path,
            source_index=source_index,
            fold_weights=fold_weights,
            wavelengths=wavelengths,
            metadata=metadata,
            artifact_ids=ids,
        )

    @attempted("save_prediction", "pipeline")
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
        """Record one prediction: a model, a fold, a partition and its scores.

        Rows with the same natural key are all kept.

        Raises
        ------
        UnknownId, InvalidInput
        """
        values = {
            "dataset_name": dataset_name,
            "model_name": model_name,
            "model_class": model_class,
            "fold_id": fold_id,
            "partition": partition,
            "val_score": val_score,
            "test_score": test_score,
            "train_score": train_score,
            "metric": metric,
            "task_type": task_type,
            "n_samples": n_samples,
            "n_features": n_features,
            "scores": scores,
            "best_params": best_params,
            "branch_id": branch_id,
            "branch_name": branch_name,
            "exclusion_count": exclusion_count,
            "exclusion_rate": exclusion_rate,
            "preprocessings": preprocessings,
            "prediction_id": prediction_id,
        }
        return predictions.save_prediction(self._engine, pipeline_id, chain_id, values)

    @attempted("save_prediction_arrays", "prediction")
    def save_prediction_arrays(
        self,
        prediction_id: str,
        y_true: Any,
        y_pred: Any,
        y_proba: Any = None,
        sample_indices: Any = None,
        weights: Any = None,
    ) -> None:
        """Record the arrays of a prediction; dtype and shape are kept.

        Parameters
        ----------
        y_true, y_pred : array of shape (n_samples,) or (n_samples, n_targets), or None
            Numbers or labels; of numpy, polars, pandas or anything with the Arrow C interface, as all
            arrays here.
        y_proba : array of shape (n_samples, n_classes), optional
        sample_indices : array of shape (n_samples,), optional
            Row numbers or names of the samples.
        weights : array of shape (n_samples,), optional

        Raises
        ------
        UnknownId, ShapeMismatch
        InvalidInput
            The prediction has its arrays already.
        """
        predictions.save_prediction_arrays(
            self._engine, prediction_id, y_true, y_pred, y_proba, sample_indices, weights
        )

    @attempted("log_step", "pipeline")
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
        """Record one log line of a pipeline's step."""
        records.log_step(
            self._engine, pipeline_id, step_idx, operator_class, event, duration_ms, message, details, level
        )
