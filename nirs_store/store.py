"""`WorkspaceStore`: the one object a training loop works with.

It owns a folder and delegates: recording to `catalog.records`, blobs to `catalog.artifacts`,
questions to `catalog.queries`, replay to `chains`, bundles to `bundle`, cleaning to `upkeep`.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, overload

import numpy as np
import polars as pl

from nirs_store.blobs.cache import ByteLRU
from nirs_store.catalog import artifacts, deletion, queries, records
from nirs_store.catalog.access import Connection
from nirs_store.catalog.engine import Engine, Settings
from nirs_store.chains.folds import chain_artifact_ids
from nirs_store.chains.plan import ReplayPlan
from nirs_store.contexts import RunContext, open_run
from nirs_store.errors import InvalidInput, UnknownFormat, UnknownId
from nirs_store.upkeep.gc import GRACE_SECONDS, GcPlan

__all__ = ["WorkspaceStore"]

_DURABILITIES = ("pipeline", "call")
_CACHE_BYTES = 256 << 20
_CACHED_PLANS = 256


class WorkspaceStore:
    """A workspace folder: runs, pipelines, chains, predictions, logs and fitted models.

    Parameters
    ----------
    workspace_path : str or Path
        The folder; made when missing.
    read_only : bool
        Write nothing, create no file.
    lock_timeout : float
        Seconds that a query waits for other processes before `StoreBusy`. Recording never waits.
    durability : {"pipeline", "call"}
        When recorded rows become durable: at the end of a pipeline (at the latest after one
        second), or at each call.
    cache_bytes : int
        Bound on the loaded models that replay keeps in memory.
    create : bool
        False: raise `NotAWorkspace` instead of making a new workspace.
    threads, memory_limit
        Passed to DuckDB (e.g. ``2``, ``"1GB"``).

    Raises
    ------
    NotAWorkspace, ForeignCatalog, SchemaTooNew, CatalogDamaged, ReadOnlyStore
        The folder cannot be used; it was left as it was.

    Examples
    --------
    >>> import tempfile
    >>> from nirs_store import WorkspaceStore
    >>> folder = tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     with store.run("corn", datasets=["corn"]) as run:
    ...         with run.pipeline("pls", dataset_name="corn") as p:
    ...             p.complete(best_val=0.12, metric="rmse")
    ...     store.list_runs()["status"].to_list()
    ['completed']
    >>> folder.cleanup()
    """

    def __init__(
        self,
        workspace_path: str | Path,
        *,
        read_only: bool = False,
        lock_timeout: float = 30.0,
        durability: str = "pipeline",
        cache_bytes: int = _CACHE_BYTES,
        create: bool = True,
        threads: int | None = None,
        memory_limit: str | None = None,
    ) -> None:
        if durability not in _DURABILITIES:
            raise InvalidInput(
                f"durability: expected one of {', '.join(_DURABILITIES)}, found {durability!r}."
            )
        if not lock_timeout >= 0:
            raise InvalidInput(f"lock_timeout: expected seconds of at least 0, found {lock_timeout!r}.")
        if "\x00" in str(workspace_path) or not str(workspace_path):
            raise InvalidInput(f"workspace_path: {workspace_path!r} cannot be the name of a folder.")
        settings = Settings(
            Path(workspace_path).expanduser().absolute(),
            read_only=read_only,
            create=create,
            lock_timeout=float(lock_timeout),
            durability=durability,
            threads=threads,
            memory_limit=memory_limit,
        )
        self._start(settings, cache_bytes)

    def _start(self, settings: Settings, cache_bytes: int) -> None:
        self._engine = Engine.open(settings)
        self._cache_bytes = cache_bytes
        self._objects: ByteLRU[str, Any] = ByteLRU(cache_bytes)
        self._plans: ByteLRU[str, ReplayPlan] = ByteLRU(_CACHED_PLANS)
        # Weak: a store that nobody holds is closed, at interpreter exit at the latest.
        self._finalizer = weakref.finalize(self, self._engine.finish)

    # -- the object ----------------------------------------------------------------------------

    @property
    def workspace_path(self) -> Path:
        """The folder."""
        return self._engine.layout.root

    def close(self) -> None:
        """Commit what is buffered and let everything go; a second call does nothing.

        Raises
        ------
        WriteFailed
            The last rows could not be written. The store stays open: free space and call again.
        """
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = " (closed)" if self._engine.closed else "" if self._engine.writable else " (read-only)"
        return f"WorkspaceStore({str(self.workspace_path)!r}){state}"

    def __reduce__(self) -> tuple[Any, ...]:
        self._engine.flush()
        settings = replace(self._engine.settings, create=False, session_id=self._engine.session_id)
        return (_reopen, (settings, self._cache_bytes))

    def flush(self) -> None:
        """Commit everything buffered; durable when this returns."""
        self._engine.flush()

    def transaction(self) -> AbstractContextManager[None]:
        """Make everything that this thread records in a `with` block one commit.

        An exception discards the block's rows (blobs stay until a gc). Queries inside the block
        do not see its rows.
        """
        self._engine.check_writable()
        return self._engine.recorder.transaction()

    @contextmanager
    def run(
        self, name: str, config: Any = None, datasets: Sequence[str | Mapping[str, Any]] = ()
    ) -> Iterator[RunContext]:
        """Record a run: completed on a normal exit, failed with the traceback on an exception.

        Parameters
        ----------
        name : str
            Any text.
        config : Any
            Plain data.
        datasets : sequence
            Names, or dicts with a ``name``.
        """
        with open_run(self, name, config, datasets) as run:
            yield run

    # -- runs and pipelines --------------------------------------------------------------------

    def begin_run(self, name: str, config: Any, datasets: list[dict[str, Any]]) -> str:
        """Begin a run and commit it, so that its id can be handed to a worker."""
        return records.begin_run(self._engine, name, config, datasets)

    def complete_run(self, run_id: str, summary: dict[str, Any]) -> None:
        """Commit everything and mark the run as completed.

        Raises
        ------
        UnknownId
        """
        records.complete_run(self._engine, run_id, summary)

    def fail_run(self, run_id: str, error: str) -> None:
        """Mark the run as failed; what only its unfinished pipelines hold is released."""
        records.fail_run(self._engine, run_id, error)

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

    def fail_pipeline(self, pipeline_id: str, error: str) -> None:
        """Mark the pipeline as failed and roll back what it recorded; its row and logs stay.

        A second call, and a call after the pipeline was completed, change nothing.
        """
        records.fail_pipeline(self._engine, pipeline_id, error)
        self._plans.clear()

    def get_run(self, run_id: str) -> dict[str, Any] | None:
        """One run with its JSON decoded, or None."""
        alive = self._engine.living_sessions()
        return self._engine.query(lambda con: queries.get_run(con, run_id, alive))

    def get_pipeline(self, pipeline_id: str) -> dict[str, Any] | None:
        """One pipeline with its JSON decoded, or None."""
        alive = self._engine.living_sessions()
        return self._engine.query(lambda con: queries.get_pipeline(con, pipeline_id, alive))

    def list_runs(
        self, status: str | None = None, dataset: str | None = None, limit: int = 100, offset: int = 0
    ) -> pl.DataFrame:
        """Runs, newest first; a run whose session died shows as interrupted.

        Parameters
        ----------
        status : {"running", "completed", "failed", "interrupted"}, optional
        dataset : str, optional
            Compared with the names in `datasets`, never with a part of them.
        """
        alive = self._engine.living_sessions()
        return self._engine.query(lambda con: queries.list_runs(con, alive, status, dataset, limit, offset))

    def list_pipelines(self, run_id: str | None = None, dataset_name: str | None = None) -> pl.DataFrame:
        """Pipelines, newest first."""
        alive = self._engine.living_sessions()
        return self._engine.query(lambda con: queries.list_pipelines(con, alive, run_id, dataset_name))

    # -- chains and replay ---------------------------------------------------------------------

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
        """
        ids = chain_artifact_ids(steps, fold_artifacts, shared_artifacts)
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

    def get_chain(self, chain_id: str) -> dict[str, Any] | None:
        """One chain with its JSON decoded and its wavelengths as an array, or None."""
        return self._engine.query(lambda con: queries.get_chain(con, chain_id))

    def get_chains_for_pipeline(self, pipeline_id: str) -> pl.DataFrame:
        """Chains of a pipeline, in the order in which they were saved."""
        return self._engine.query(lambda con: queries.chains_for_pipeline(con, pipeline_id))

    def replay_chain(self, chain_id: str, X: Any, wavelengths: Any = None) -> np.ndarray:
        """Predict new spectra with a stored chain.

        A chain that this store has replayed before touches neither lease nor catalog.

        Parameters
        ----------
        X : array of shape (n_samples, n_features), or data frame
            Spectra; a frame's numeric column names are wavelengths and are compared with the
            stored grid. Several sources are given as a sequence or dict of these.
        wavelengths : array of shape (n_features,), optional
            Reaches the operators that accept it.

        Returns
        -------
        ndarray
            What the estimator gives: (n_samples,) or (n_samples, n_targets); labels for
            classifiers.

        Raises
        ------
        UnknownId, ReplayError, ShapeMismatch, InvalidInput, BlobMissing, BlobCorrupt
        """
        from nirs_store.chains.replay import predict

        return predict(self._plan(chain_id), X, self._load_shared, wavelengths)

    def _plan(self, chain_id: str) -> ReplayPlan:
        self._engine.check_open()
        plan = self._plans.get(chain_id)
        if plan is None:
            chain = self.get_chain(chain_id)
            if chain is None:
                raise UnknownId("chain", chain_id)
            plan = ReplayPlan.from_chain(chain)
            self._plans.put(chain_id, plan, 1)
        return plan

    def _load_shared(self, artifact_id: str) -> Any:
        """A loaded object that replay shares; `load_artifact` never hands one out."""
        missing = object()
        found = self._objects.get(artifact_id, missing)
        if found is missing:
            found = self.load_artifact(artifact_id)
            self._objects.put(artifact_id, found, artifacts.artifact_size(self._engine, artifact_id))
        return found

    # -- predictions ---------------------------------------------------------------------------

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
        return records.save_prediction(self._engine, pipeline_id, chain_id, values)

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
        y_proba : array of shape (n_samples, n_classes), optional
        sample_indices, weights : array of shape (n_samples,), optional

        Raises
        ------
        UnknownId, ShapeMismatch
        InvalidInput
            The prediction has its arrays already.
        """
        records.save_prediction_arrays(
            self._engine, prediction_id, y_true, y_pred, y_proba, sample_indices, weights
        )

    def get_prediction(self, prediction_id: str, load_arrays: bool = False) -> dict[str, Any] | None:
        """One prediction, or None; with arrays each is an ndarray or None."""
        return self._engine.query(lambda con: queries.get_prediction(con, prediction_id, load_arrays))

    def get_prediction_arrays(self, prediction_ids: Sequence[str]) -> dict[str, dict[str, np.ndarray | None]]:
        """Arrays of many predictions at once, by prediction id; those without arrays are absent."""
        return self._engine.query(lambda con: queries.load_arrays(con, prediction_ids))

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
        *,
        chain_id: str | None = None,
    ) -> pl.DataFrame:
        """Predictions, newest first; filters are joined by AND, `model_class` may hold ``%``."""
        filters = {
            "dataset_name": dataset_name,
            "model_class": model_class,
            "partition": partition,
            "fold_id": fold_id,
            "branch_id": branch_id,
            "pipeline_id": pipeline_id,
            "run_id": run_id,
            "chain_id": chain_id,
        }
        return self._engine.query(lambda con: queries.query_predictions(con, limit, offset, **filters))

    def top_predictions(
        self,
        n: int,
        metric: str = "val_score",
        ascending: bool = True,
        partition: str | None = "val",
        dataset_name: str | None = None,
        group_by: str | Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """Best predictions by a score column, overall or of each group; NULL and NaN rank last.

        Raises
        ------
        InvalidInput
            An unknown metric or group_by column.
        """
        return self._engine.query(
            lambda con: queries.top_predictions(con, n, metric, ascending, partition, dataset_name, group_by)
        )

    # -- artifacts -----------------------------------------------------------------------------

    def save_artifact(
        self,
        obj: Any,
        operator_class: str,
        artifact_type: str,
        format: str = "joblib",
        *,
        pipeline_id: str | None = None,
    ) -> str:
        """Store a fitted object under the SHA-256 of its bytes; identical bytes are stored once.

        This session holds a reference until a chain takes it over.

        Parameters
        ----------
        format : str
            joblib, cloudpickle, pickle, skops, bytes, or one of an installed package.
        pipeline_id : str, optional
            Release the reference if that pipeline fails.

        Returns
        -------
        str
            The artifact's id: the SHA-256 of the stored file.

        Raises
        ------
        UnknownFormat, SerializationError, ReadOnlyStore
        """
        if pipeline_id is not None:
            records.require(self._engine, "pipeline", pipeline_id)
        return artifacts.save_artifact(self._engine, obj, operator_class, artifact_type, format, pipeline_id)

    def register_existing_artifact(
        self,
        artifact_id: str,
        path: str | Path,
        content_hash: str,
        operator_class: str,
        artifact_type: str,
        format: str,
        size_bytes: int,
    ) -> str:
        """Register a file of this workspace under an id of the caller's.

        Raises
        ------
        PathEscapes, BlobMissing, BlobCorrupt, InvalidInput
            The path leaves the workspace, the file is not there, or hash or size do not fit.
        """
        return artifacts.register_existing(
            self._engine, artifact_id, path, content_hash, operator_class, artifact_type, format, size_bytes
        )

    def load_artifact(self, artifact_id: str) -> Any:
        """Load an artifact anew; its bytes are checked first.

        Raises
        ------
        UnknownId (KeyError), BlobMissing (FileNotFoundError), BlobCorrupt
        """
        return artifacts.load_artifact(self._engine, artifact_id)

    def read_artifact(self, artifact_id: str) -> bytes:
        """The stored bytes of an artifact, checked against their hash."""
        return artifacts.read_artifact(self._engine, artifact_id)

    def get_artifact(self, artifact_id: str) -> dict[str, Any] | None:
        """An artifact's record with its `ref_count`, or None."""
        return artifacts.get_artifact(self._engine, artifact_id)

    def get_artifact_path(self, artifact_id: str) -> Path:
        """Path of an artifact's file, e.g. for ``joblib.load``.

        Raises
        ------
        UnknownId (KeyError), BlobMissing
        """
        return artifacts.artifact_path(self._engine, artifact_id)

    # -- logs ----------------------------------------------------------------------------------

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

    def get_pipeline_log(self, pipeline_id: str) -> pl.DataFrame:
        """Log lines of a pipeline, in order."""
        return self._engine.query(lambda con: queries.pipeline_log(con, pipeline_id))

    def get_run_log_summary(self, run_id: str) -> pl.DataFrame:
        """Log counts and total duration (events "end") of a run, a pipeline a row."""
        alive = self._engine.living_sessions()
        return self._engine.query(lambda con: queries.run_log_summary(con, run_id, alive))

    # -- exports -------------------------------------------------------------------------------

    def export_chain(
        self, chain_id: str, output_path: str | Path, format: str = "n4a", **options: Any
    ) -> Path:
        """Write a chain as a ``.n4a`` bundle, or as a Python script with format "n4a.py".

        Returns
        -------
        Path
            The file; the suffix is added when there is none.

        Raises
        ------
        UnknownId, UnknownFormat, BlobMissing, BlobCorrupt
        """
        from nirs_store import bundle

        self._engine.check_open()
        if format == "n4a":
            return bundle.export_chain(self, chain_id, Path(output_path), **options)
        if format == "n4a.py":
            return bundle.export_script(self, chain_id, Path(output_path), **options)
        raise UnknownFormat(
            f"format: expected 'n4a' (a bundle) or 'n4a.py' (a Python script), found {format!r}. "
            "Nothing was written."
        )

    def export_pipeline_config(self, pipeline_id: str, output_path: str | Path) -> Path:
        """Write a pipeline's configuration as JSON."""
        from nirs_store import exports

        return exports.export_pipeline_config(self._engine, pipeline_id, Path(output_path))

    def export_run(self, run_id: str, output_path: str | Path) -> Path:
        """Write a run with its pipelines and chains as YAML."""
        from nirs_store import exports

        return exports.export_run(self._engine, run_id, Path(output_path))

    def export_predictions_parquet(
        self, output_path: str | Path, *, include_arrays: bool = False, **filters: Any
    ) -> Path:
        """Write predictions as Parquet (filters as `query_predictions`).

        No match still writes a readable file of no rows. With `include_arrays`, the arrays come
        as list columns.
        """
        from nirs_store import exports

        return exports.export_predictions_parquet(
            self._engine, Path(output_path), include_arrays=include_arrays, **filters
        )

    # -- deletion and cleaning -------------------------------------------------------------------

    @overload
    def delete_run(
        self, run_id: str, delete_artifacts: bool = True, *, dry_run: Literal[False] = False
    ) -> int: ...

    @overload
    def delete_run(
        self, run_id: str, delete_artifacts: bool = True, *, dry_run: Literal[True]
    ) -> deletion.RunDeletion: ...

    def delete_run(
        self, run_id: str, delete_artifacts: bool = True, *, dry_run: bool = False
    ) -> int | deletion.RunDeletion:
        """Delete a run and everything it owns, in one transaction.

        Parameters
        ----------
        delete_artifacts : bool
            Also remove the files that nothing else holds. False keeps them for a later gc.
        dry_run : bool
            Return the plan and change nothing.

        Returns
        -------
        int or RunDeletion
            Rows deleted; 0 for an unknown run.
        """
        if dry_run:
            return self._engine.query(lambda con: deletion.plan_run_deletion(con, run_id))

        def work(con: Connection) -> tuple[deletion.RunDeletion, int]:
            return deletion.plan_run_deletion(con, run_id), deletion.delete_run(con, run_id)

        plan, deleted = self._engine.change(work)
        self._forget()
        if delete_artifacts and plan.artifacts:
            from nirs_store.upkeep.gc import collect

            collect(self._engine, only=plan.artifacts)
        return deleted

    def delete_prediction(self, prediction_id: str) -> bool:
        """Delete a prediction with its arrays; False when there was none."""
        deleted = self._engine.change(lambda con: deletion.delete_prediction(con, prediction_id))
        self._engine.known.forget("prediction", prediction_id)
        return deleted

    @overload
    def gc_artifacts(
        self, *, dry_run: Literal[False] = False, grace_seconds: float = GRACE_SECONDS
    ) -> int: ...

    @overload
    def gc_artifacts(self, *, dry_run: Literal[True], grace_seconds: float = GRACE_SECONDS) -> GcPlan: ...

    def gc_artifacts(self, *, dry_run: bool = False, grace_seconds: float = GRACE_SECONDS) -> int | GcPlan:
        """Remove artifacts that nothing holds.

        Parameters
        ----------
        dry_run : bool
            Return the plan and change nothing.
        grace_seconds : float
            How long what a session saved, and no chain took over, is kept after its end.

        Returns
        -------
        int or GcPlan
            Files removed.
        """
        from nirs_store.upkeep import gc

        if dry_run:
            return gc.plan_gc(self._engine, grace_seconds=grace_seconds)
        result = gc.collect(self._engine, grace_seconds=grace_seconds)
        self._forget()
        return result.files

    def vacuum(self) -> None:
        """Rewrite store.duckdb without the space of deleted rows."""
        from nirs_store.upkeep.vacuum import vacuum

        vacuum(self._engine)

    def _forget(self) -> None:
        """After a deletion anything that was cached may be gone."""
        self._engine.known.clear()
        self._plans.clear()
        self._objects.clear()


def _reopen(settings: Settings, cache_bytes: int) -> WorkspaceStore:
    """Open a pickled store in the process that received it."""
    store = WorkspaceStore.__new__(WorkspaceStore)
    store._start(settings, cache_bytes)
    return store
