"""`WorkspaceStore`: the one object that a training loop works with.

It is an index by subject: nearly every method calls one function of the room that does the work.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np

from nirs_store.addresses import is_shared, user_path
from nirs_store.audit.trail import Audit, attempted
from nirs_store.blobs.cache import ByteLRU
from nirs_store.db.layout import as_folder
from nirs_store.db.session import Engine, Location, Settings
from nirs_store.domain import Domain
from nirs_store.errors import InvalidInput
from nirs_store.history.triggers import RetentionWatch, retention_is_due
from nirs_store.lazy import later
from nirs_store.lazy import polars as pl
from nirs_store.records import artifacts, notes, predictions, queries, ranking, runs
from nirs_store.records.contexts import PipelineContext, RunContext, open_run
from nirs_store.records.lookup import whole_ids
from nirs_store.values import GRACE_SECONDS, as_name, as_seconds, as_text

if TYPE_CHECKING:
    from nirs_store import choosing, diagnosing, plots, screening
    from nirs_store.artifacts import loader as loading
    from nirs_store.artifacts import registry
    from nirs_store.backup import archive as archives
    from nirs_store.backup import backup as backups_api
    from nirs_store.backup import container as archive_format
    from nirs_store.backup import staging as staged_archives
    from nirs_store.bundle import container as bundle_limits
    from nirs_store.bundle import transfer as bundles
    from nirs_store.chains import predictor as predictors
    from nirs_store.datasets import api as datasets_api
    from nirs_store.datasets import reader as dataset_reader
    from nirs_store.domain import frame as domain_frame
    from nirs_store.evaluations import api as evaluations_api
    from nirs_store.files import api as files_api
    from nirs_store.history import lineage as lineage_api
    from nirs_store.history import retention as retention_api
    from nirs_store.history import statistics as statistics_api
    from nirs_store.history import trash as trash_api
    from nirs_store.maintenance import check as checking
    from nirs_store.maintenance import deletion, findings, gc
    from nirs_store.maintenance import repair as repairing
    from nirs_store.maintenance import shared as shared_care
    from nirs_store.plots._figure import Figure
    from nirs_store.records import chain_list, metrics, search, user_sql, views
    from nirs_store.service import api as calibrations_api
    from nirs_store.service import log as measurement_log
    from nirs_store.service import references as sample_references
    from nirs_store.service import replaying, transfer
    from nirs_store.ui import server as page
else:
    # As in nirs_store.plots: matplotlib is not imported for the sake of an annotation.
    Figure = Any
    archive_format = later("nirs_store.backup.container")
    archives = later("nirs_store.backup.archive")
    backups_api = later("nirs_store.backup.backup")
    staged_archives = later("nirs_store.backup.staging")
    bundle_limits = later("nirs_store.bundle.container")
    bundles = later("nirs_store.bundle.transfer")
    calibrations_api = later("nirs_store.service.api")
    chain_list = later("nirs_store.records.chain_list")
    checking = later("nirs_store.maintenance.check")
    choosing = later("nirs_store.choosing")
    dataset_reader = later("nirs_store.datasets.reader")
    datasets_api = later("nirs_store.datasets.api")
    deletion = later("nirs_store.maintenance.deletion")
    findings = later("nirs_store.maintenance.findings")
    diagnosing = later("nirs_store.diagnosing")
    domain_frame = later("nirs_store.domain.frame")
    evaluations_api = later("nirs_store.evaluations.api")
    files_api = later("nirs_store.files.api")
    gc = later("nirs_store.maintenance.gc")
    lineage_api = later("nirs_store.history.lineage")
    loading = later("nirs_store.artifacts.loader")
    measurement_log = later("nirs_store.service.log")
    metrics = later("nirs_store.records.metrics")
    page = later("nirs_store.ui.server")
    plots = later("nirs_store.plots")
    predictors = later("nirs_store.chains.predictor")
    registry = later("nirs_store.artifacts.registry")
    repairing = later("nirs_store.maintenance.repair")
    replaying = later("nirs_store.service.replaying")
    retention_api = later("nirs_store.history.retention")
    sample_references = later("nirs_store.service.references")
    screening = later("nirs_store.screening")
    shared_care = later("nirs_store.maintenance.shared")
    search = later("nirs_store.records.search")
    statistics_api = later("nirs_store.history.statistics")
    transfer = later("nirs_store.service.transfer")
    trash_api = later("nirs_store.history.trash")
    user_sql = later("nirs_store.records.user_sql")
    views = later("nirs_store.records.views")

__all__ = ["PipelineContext", "RunContext", "WorkspaceStore", "open_run"]

Progress = Callable[[int, int], None]
_DURABILITIES = ("pipeline", "call")
_CACHE_BYTES = 256 << 20


def _place_of(path: Any, blobs: Any) -> tuple[Any, Path]:
    """Return the address of a shared workspace or None, and the folder of one that is not shared."""
    if is_shared(path):
        from nirs_store.shared.address import parse

        return parse(path, blobs=blobs), Path()
    return None, as_folder(path, "workspace_path")


class WorkspaceStore:
    """A workspace folder: runs, pipelines, chains, predictions, logs and fitted models.

    Parameters
    ----------
    workspace_path : str or Path
        The folder; made when missing. Or the address of a workspace that several computers share
        (``"postgresql://lab.example/nirs?workspace=corn"``).
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
    audit : bool
        False: what this object does is not noted in the audit trail.
    retention : bool
        False: this object never carries out the retention policy by itself, neither by time nor when it is closed.
    blobs : str or Path, optional
        Where the blobs of a new workspace are to be instead of its folder: ``"s3://bucket/prefix"``, ``"gs://..."``,
        ``"az://..."`` or a folder. The workspace remembers it.
    fresh : bool
        False: answer from this computer's replica of a shared workspace without asking its server or object store,
        also while they are away. A warning says which commits the replica has and when it was up to date. Nothing can
        be recorded, and only models that this computer has a copy of are loaded. A folder is its own source, so
        for a folder this changes nothing.
    inbox : bool
        True: only record, without a lock, into the inbox of an existing workspace on a network file system. The
        computer that owns the workspace applies it when it next asks. Everything else raises `InboxOnly`.
    take_over : bool
        True: use a workspace on a network file system although another computer left its name there, once you have
        looked that it no longer does; raises `WorkspaceElsewhere` if a store is known to be open there.

    Raises
    ------
    NotAWorkspace, ForeignCatalog, SchemaTooNew, CatalogDamaged, ReadOnlyStore
        The folder cannot be used; it was left as it was.
    InvalidInput
        An argument that makes no sense, such as a path that is not UTF-8 or too long.
    SharedStoreUnreachable
        The place for the blobs does not answer, or belongs to another workspace.
    WorkspaceElsewhere
        The folder is on a network file system, and another computer uses it.

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

    _engine: Engine
    _watch: RetentionWatch
    _keeps_to_policy: bool = True
    _used: replaying.Replays | None = None
    _dataset_samples: ByteLRU[str, Any] | None = None
    _registry: registry.ArtifactRegistry | None = None
    _loader: loading.ArtifactLoader | None = None
    _evaluations: evaluations_api.Evaluations | None = None

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
        audit: bool = True,
        retention: bool = True,
        blobs: str | Path | None = None,
        fresh: bool = True,
        inbox: bool = False,
        take_over: bool = False,
    ) -> None:
        if durability not in _DURABILITIES:
            raise InvalidInput(
                f"durability: expected one of {', '.join(_DURABILITIES)}, found {durability!r}."
            )
        shared, root = _place_of(workspace_path, blobs)
        if inbox and (shared is not None or read_only or take_over or blobs is not None):
            raise InvalidInput(
                "inbox: expected alone, with the folder of a workspace; found it with "
                f"{'an address' if shared is not None else 'read_only, take_over or blobs'}. Nothing was changed."
            )
        if take_over and read_only:
            raise InvalidInput("take_over: expected in a store that may write, found read_only=True too.")
        settings = Settings(
            root,
            read_only=read_only,
            create=create,
            lock_timeout=as_seconds(lock_timeout, "lock_timeout"),
            durability=durability,
            threads=threads,
            memory_limit=memory_limit,
            audit=bool(audit),
            shared=shared,
            blobs=blobs,
            fresh=bool(fresh),
            inbox=inbox,
            take_over=take_over,
        )
        self._keeps_to_policy = retention
        self._start(settings, cache_bytes)

    @classmethod
    def to_look_at(
        cls, workspace_path: str | Path, *, memory_limit: str | None = None, fresh: bool = True
    ) -> Self:
        """Open an existing workspace for reading while other processes record; it starts no maintenance.

        Queries see every commit if the folder is writable. An older catalog is not changed; a migrated copy answers the
        queries. No retention policy runs, and the audit trail gets no entries.

        Parameters
        ----------
        memory_limit : str, optional
            How much memory a query may take, such as ``"1GB"``; DuckDB's own limit by default.
        fresh : bool
            As for the class.

        Raises
        ------
        NotAWorkspace, ForeignCatalog, SchemaTooNew, CatalogDamaged, StoreBusy
        """
        quiet: dict[str, Any] = {
            "create": False,
            "retention": False,
            "audit": False,
            "memory_limit": memory_limit,
            "fresh": fresh,
        }
        store = cls(workspace_path, read_only=True, **quiet)
        offline = not fresh and store._engine.settings.shared is not None
        if offline or store._engine.access.opens_copy(timeout=store._engine.settings.lock_timeout):
            return store
        store.close()
        return cls(workspace_path, **quiet)

    def _start(self, settings: Settings, cache_bytes: int) -> None:
        self._cache_bytes = cache_bytes
        ByteLRU[str, Any](cache_bytes)  # refuses a negative number of bytes
        if settings.shared is None:
            self._engine = Engine.open(settings)
        else:
            from nirs_store.shared.opening import open_engine

            self._engine = open_engine(settings)
        # Weak: a store that nothing holds is closed, at interpreter exit at the latest.
        self._finalizer = weakref.finalize(self, self._engine.finish)
        self._watch = RetentionWatch(self._engine, self._keep_to_policy)
        self._keeps_to_policy = self._keeps_to_policy and not settings.inbox
        if self._keeps_to_policy:
            self._watch.look()

    def _keep_to_policy(self, moment: str) -> None:
        """Carry out the workspace's retention if it asks for that now."""
        if not self._keeps_to_policy:
            return
        if moment == "after_run":
            self._watch.look()  # another process may have set a time-based policy
        if retention_is_due(self._engine, moment):
            from nirs_store.history.retention import Retention

            Retention(self._engine, self._forget).carry_out(moment)

    @property
    def _replays(self) -> replaying.Replays:
        """The predictors that were loaded to replay chains, kept for the next time."""
        if self._used is None:
            self._used = replaying.Replays(self._engine, self._cache_bytes)
        return self._used

    def _forget(self) -> None:
        """After a deletion anything that was cached may be gone."""
        self._engine.id_cache.clear()
        if self._used is not None:
            self._used.clear()
        if self._loader is not None:
            self._loader.clear_cache()

    # -- Questions: each sees everything that any process committed before it.

    def _alive(self) -> list[str]:
        # Asked inside the question: a session that began after an earlier look would pass for dead.
        return self._engine.living_sessions()

    @whole_ids
    def get_run(self, run_id: str) -> dict[str, Any] | None:
        """Return one run with its JSON decoded, or None; by its id, the beginning or end of its id, or its name.

        Raises
        ------
        InvalidInput
            Several runs are meant; their ids are listed.
        """
        return self._engine.query(lambda con: queries.get_run(con, run_id, self._alive()))

    @whole_ids
    def get_pipeline(self, pipeline_id: str) -> dict[str, Any] | None:
        """Return a pipeline with its JSON decoded, or None."""
        return self._engine.query(lambda con: queries.get_pipeline(con, pipeline_id, self._alive()))

    def find_ids(
        self, part: str, kinds: str | Sequence[str] | None = None, *, limit: int | None = 10
    ) -> pl.DataFrame:
        """Find whole ids that begin or end with a part, such as the eight characters that tables show.

        Parameters
        ----------
        part : str
            Compared as it is: no character is a wildcard.
        kinds : str or sequence of str, optional
            What may be meant, of run, pipeline, chain, prediction, artifact; all of them by default.
        limit : int, optional
            At most so many ids of each kind; None for all.

        Returns
        -------
        polars.DataFrame
            Columns ``kind`` and ``id``, in the order of `kinds`.

        Raises
        ------
        InvalidInput
            An unknown kind, or an empty `part`.
        """
        return self._engine.query(lambda con: queries.find_ids(con, part, kinds, limit))

    def list_runs(
        self,
        status: str | None = None,
        dataset: str | None = None,
        limit: int = 100,
        offset: int = 0,
        *,
        tags: str | Sequence[str] = (),
        name: str | None = None,
    ) -> pl.DataFrame:
        """Return runs, newest first; a run whose session died shows as interrupted.

        Parameters
        ----------
        status : {"running", "completed", "failed", "interrupted"}, optional
        dataset : str, optional
            Compared with the names in `datasets`, never with a part of them.
        tags : str or sequence of str, optional
            Only runs that have all of these tags.
        name : str, optional
            A part of the name, in any case; with ``*`` or ``?``, a pattern of the whole name.
        """
        return self._engine.query(
            lambda con: queries.list_runs(con, self._alive(), status, dataset, limit, offset, tags, name)
        )

    @whole_ids
    def list_pipelines(self, run_id: str | None = None, dataset_name: str | None = None) -> pl.DataFrame:
        """List pipelines, newest first."""
        return self._engine.query(
            lambda con: queries.list_pipelines(con, self._alive(), run_id, dataset_name)
        )

    @whole_ids
    def get_chain(self, chain_id: str) -> dict[str, Any] | None:
        """Return a chain with its JSON decoded and its wavelengths as an array, or None."""
        return self._engine.query(lambda con: queries.get_chain(con, chain_id))

    @whole_ids
    def get_chains_for_pipeline(self, pipeline_id: str) -> pl.DataFrame:
        """List the chains of a pipeline in the order in which they were saved."""
        return self._engine.query(lambda con: queries.chains_for_pipeline(con, pipeline_id))

    @whole_ids
    def get_chains_for_run(self, run_id: str) -> list[dict[str, Any]]:
        """Return what distinguishes the chains of a run, oldest first: steps, metadata, target, data set hash."""
        return self._engine.query(lambda con: queries.chains_of_run(con, run_id))

    @whole_ids
    def get_prediction(self, prediction_id: str, load_arrays: bool = False) -> dict[str, Any] | None:
        """Return a prediction, or None; with `load_arrays`, its arrays are ndarrays or None."""
        return self._engine.query(lambda con: predictions.get_prediction(con, prediction_id, load_arrays))

    def get_prediction_arrays(self, prediction_ids: Sequence[str]) -> dict[str, dict[str, np.ndarray | None]]:
        """Return the arrays of many predictions at once, by the given ids; leave out those without arrays.

        Raises
        ------
        InvalidInput
            Anything but a list of ids, such as one id; `get_prediction` with ``load_arrays=True`` takes one.
        """
        return predictions.get_arrays(self._engine, prediction_ids)

    @whole_ids
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
        target: str | None = None,
    ) -> pl.DataFrame:
        """List predictions, newest first; filters are joined by AND, `model_class` may hold ``%``."""
        return self._engine.query(
            lambda con: predictions.query_predictions(
                con, limit, offset, dataset_name=dataset_name, model_class=model_class, partition=partition,
                fold_id=fold_id, branch_id=branch_id, pipeline_id=pipeline_id, run_id=run_id, chain_id=chain_id,
                target=target,
            ),
        )  # fmt: skip

    def top_predictions(
        self,
        n: int,
        metric: str = "val_score",
        ascending: bool | None = None,
        partition: str | None = "val",
        dataset_name: str | None = None,
        group_by: str | Sequence[str] | None = None,
        *,
        target: str | None = None,
        scored_by: str | None = None,
        target_unit: str | None = None,
    ) -> pl.DataFrame:
        """List the best predictions by a score column, overall or of each group; NULL and NaN rank last.

        Parameters
        ----------
        metric : str
            The column to rank by: val_score, test_score or train_score (also n_samples and the like).
        ascending : bool, optional
            Order, where it is not to follow from the metric that the predictions were scored by.
        partition, dataset_name, target, target_unit : str, optional
            Only such predictions. A warning says where errors of several targets are ranked together.
        scored_by : str, optional
            Only predictions whose scores are of this metric, such as ``"r2"``.

        Returns
        -------
        polars.DataFrame
            The columns of `query_predictions`.

        Raises
        ------
        InvalidInput
            An unknown metric or group_by column, or predictions whose scores do not rank together: name
            `scored_by`, a data set, or the direction.
        """
        return self._engine.query(
            lambda con: predictions.top_predictions(
                con, n, metric, ascending, partition, dataset_name, group_by, target, scored_by, target_unit
            ),
        )

    @whole_ids
    def get_pipeline_log(self, pipeline_id: str) -> pl.DataFrame:
        """Log lines of a pipeline, in order."""
        return self._engine.query(lambda con: queries.pipeline_log(con, pipeline_id))

    @whole_ids
    def get_run_log_summary(self, run_id: str) -> pl.DataFrame:
        """Return log counts and total duration (events "end") of a run, one row per pipeline."""
        return self._engine.query(lambda con: queries.run_log_summary(con, run_id, self._alive()))

    def get_metrics(
        self,
        pipeline_ids: str | Sequence[str],
        names: str | Sequence[str] | None = None,
        max_points: int | None = None,
    ) -> pl.DataFrame:
        """Read training curves of one or several pipelines.

        Parameters
        ----------
        pipeline_ids : str or sequence of str
        names : str or sequence of str, optional
            Only these curves.
        max_points : int, optional
            Thin longer curves to about so many points: the smallest and the largest value in each of equal spans
            of steps, so that no peak is lost. NaN counts as the largest.

        Returns
        -------
        polars.DataFrame
            One row per point: ``pipeline_id``, ``pipeline``, ``run_id``, ``name``, ``step``, ``value`` and
            ``logged_at`` (of its call, or of the first call that one commit brought), by step.

        Raises
        ------
        InvalidInput
        """
        return metrics.get_metrics(self._engine, pipeline_ids, names, max_points)

    # -- leaderboards and SQL --------------------------------------------------------------------

    @whole_ids
    def top_chains(
        self,
        n: int | None = 10,
        metric: str | None = None,
        dataset_name: str | None = None,
        run_id: str | None = None,
        *,
        pipeline_id: str | None = None,
        chain_id: str | None = None,
        model_class: str | None = None,
        task_type: str | None = None,
        ascending: bool | None = None,
        target: str | None = None,
        target_unit: str | None = None,
        name: str | None = None,
    ) -> pl.DataFrame:
        """Rank chains by the pooled score of their out-of-fold predictions.

        Parameters
        ----------
        n : int, optional
            Rows to return; None for all.
        metric : str, optional
            E.g. "rmse" (the RMSECV), "r2", "rpd", "balanced_accuracy"; by default the one that all of
            them were recorded with, else that of the task: rmse or balanced accuracy.
        dataset_name, run_id, pipeline_id, chain_id, model_class, target, target_unit : str, optional
            Filters, joined by AND; `model_class` may hold ``%``; an empty target means none was recorded.
        task_type : {"regression", "classification"}, optional
            Needed where both are found and the metric does not tell.
        name : str, optional
            Only chains of runs with this in their names, in any case; with ``*`` or ``?``, a pattern of the
            whole name.
        ascending : bool, optional
            Order, where it is not to follow from the metric.

        Returns
        -------
        polars.DataFrame
            One row per chain: ids, ``pipeline`` (as in ``SNV > SG(deriv=1) > PLS(10)``), ``metric``,
            ``score`` (pooled) and ``score_sd`` (over folds), ``refit_score``, ``test_score``, for a
            regression rmsecv, rmsec, rmsep, mae, bias, sep, r2, rpd, rpiq, for a classification
            accuracy, balanced_accuracy, f1, log_loss; ``n_folds``, ``n_samples``; ``target`` and
            ``target_unit``; ``n_repeats`` and ``repeat_sd``. Of a repeated cross-validation the scores are the
            means over its repeats, and ``repeat_sd`` is the standard deviation of ``score`` over them.
            ``components`` is the number of latent variables, null for a model without.
            A warning says when targets are mixed whose errors do not compare.

        Raises
        ------
        InvalidInput
            An unknown metric (the nearest is suggested), or tasks that cannot be ranked together.
        """
        return ranking.top_chains(
            self._engine, n, metric, ascending, task_type, dataset_name=dataset_name, run_id=run_id,
            pipeline_id=pipeline_id, chain_id=chain_id, model_class=model_class, target=target,
            target_unit=target_unit, run_name=name,
        )  # fmt: skip

    @whole_ids
    def list_chains(
        self,
        sort: str = "score",
        *,
        descending: bool | None = None,
        limit: int | None = 100,
        offset: int = 0,
        text: str | None = None,
        dataset_name: str | None = None,
        run_id: str | None = None,
        model_class: str | None = None,
        preprocessings: str | None = None,
        target: str | None = None,
        target_unit: str | None = None,
        tag: str | None = None,
        name: str | None = None,
        scores: bool = True,
        per_kind: int | None = None,
        model_name: str | None = None,
        run_name: str | None = None,
    ) -> pl.DataFrame:
        """List one page of all chains, sorted and filtered by the catalog, however many there are.

        Parameters
        ----------
        sort : str
            ``"score"`` (the score that each chain was recorded with, best first, grouped by target), the
            name of a score such as ``"r2"``, or pipeline, model_name, preprocessings, components, dataset_name,
            target, run_name, n_samples, n_folds, score_sd, rmsep, created_at. Sorting uses the recorded
            scores of the folds: exact for errors, the mean over the folds for r2, rpd and the like.
        descending : bool, optional
            By default, scores are sorted best first, and other columns in ascending order.
        limit, offset : int
            The page to return; None for no limit.
        text : str, optional
            Words as for `search`.
        dataset_name, run_id, model_class, preprocessings, target, target_unit, tag : str, optional
            Filters, joined by AND, compared whole; `model_class` without its module. An empty preprocessing, target
            or unit finds the chains without one.
        name : str, optional
            A part of the run's name, or a pattern with ``*`` and ``?``.
        scores : bool
            False leaves out scores that are computed from arrays (r2, bias, rpd, ...), which take longest.
        per_kind : int, optional
            At most this many, the best ones, per data set, target, unit and task.
        model_name, run_name : str, optional
            Further filters, compared whole.

        Returns
        -------
        polars.DataFrame
            ``chain_id``, ``pipeline`` in words, ``task``, ``metric``, ``score``, ``score_sd``, ``rmsep``,
            ``components``, ``n_folds``, ``n_samples``, names and ids of run and pipeline, ``tags``, ``created_at``,
            the scores of `top_chains`, and ``total``: how many chains match.

        Raises
        ------
        InvalidInput
            The sort key is unknown (the error suggests the nearest), or the page is invalid.
        """
        filters = {
            "dataset_name": dataset_name, "run_id": run_id, "model_class": model_class,
            "preprocessings": preprocessings, "target": target, "target_unit": target_unit, "tag": tag,
            "name": name, "model_name": model_name, "run_name": run_name,
        }  # fmt: skip
        return self._engine.query(
            lambda con: chain_list.list_chains(
                con, sort, descending, limit, offset, text, scores, per_kind, filters
            )
        )

    def chain_values(self, *names: str, limit: int = 200) -> dict[str, list[str]]:
        """Return the values that filters of `list_chains` can take, in order, at most `limit` each.

        Parameters
        ----------
        names : str
            Of dataset_name, model_class, preprocessings, target, tag; all of them by default.

        Raises
        ------
        InvalidInput
            An unknown name.
        """
        return self._engine.query(lambda con: chain_list.values_of(con, names, limit))

    def search(
        self, text: str, n: int | None = 20, metric: str | None = None, *, deleted: bool = False
    ) -> pl.DataFrame:
        """Find chains by words, best first.

        Parameters
        ----------
        text : str
            Words that a chain must all match. Case is ignored, and a word matches the beginning of a word in: the name,
            note and tags of the run; the name and data set of the pipeline; target and unit; preprocessing, model, and
            the classes and parameters of all steps. ``deriv=2`` or ``lv=12`` matches a parameter. ``1st``, ``2nd`` and
            ``3rd`` also match the order of a derivative; ``sg``, ``savgol`` and ``savitzky`` match each other; ``snv``,
            ``msc``, ``pls``, ``plsr`` and ``lv`` also match their long forms.
        n : int, optional
            Maximum number of chains per target; None for all.
        metric : str, optional
            Rank by this metric, and leave out chains whose task it does not score.
        deleted : bool
            Instead, find chains in the trash, and all that retention deleted, with their last score. Columns:
            ``chain_id``, ``run_id``, ``run_name``, ``pipeline_id``, ``pipeline_name``, ``dataset_name``,
            ``preprocessings``, ``model_name``, ``model_class``, ``pipeline``, ``metric``, ``score``, ``score_sd``,
            ``n_samples``, ``created_at``, ``target``, ``target_unit``, ``components``, ``task``, ``tags``,
            ``deleted_at``, ``trash_id``.

        Returns
        -------
        polars.DataFrame
            The columns of `top_chains`, plus ``task`` and ``tags``. Chains are grouped by target; those without
            predictions come last, without a score.

        Raises
        ------
        InvalidInput
            No word, or an unknown metric.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     store.search("moisture sg 2nd").height
        0
        >>> folder.cleanup()
        """
        return search.search(self._engine, text, n, metric, deleted=deleted)

    @whole_ids
    def past_chains(self, run_id: str | None = None) -> pl.DataFrame:
        """Return what remains of deleted chains: those in the trash, and all that retention deleted.

        Parameters
        ----------
        run_id : str, optional
            Only chains of that run.

        Returns
        -------
        polars.DataFrame
            ``chain_id, run_id, run_name, pipeline_id, pipeline_name, dataset_name, preprocessings, model_name,
            model_class, steps`` (JSON), ``components, target, target_unit, task, metric, score, score_sd, n_samples,
            operation`` (what deleted it), ``trash_id, created_at, deleted_at``, and the ``dataset_hash`` of the
            pipeline where that is still there; oldest deletion first.
        """
        return search.past_chains(self._engine, run_id)

    @whole_ids
    def aggregate_predictions(
        self,
        group_by: str | Sequence[str],
        metric: str = "val_score",
        *,
        dataset_name: str | None = None,
        model_class: str | None = None,
        partition: str | None = None,
        fold_id: str | None = None,
        pipeline_id: str | None = None,
        run_id: str | None = None,
        target: str | None = None,
    ) -> pl.DataFrame:
        """Count, mean, standard deviation, minimum and maximum of a score column by group.

        Raises
        ------
        InvalidInput
            An unknown group_by or metric column.
        """
        return self._engine.query(
            lambda con: ranking.aggregate(
                con, group_by, metric, dataset_name=dataset_name, model_class=model_class, partition=partition,
                fold_id=fold_id, pipeline_id=pipeline_id, run_id=run_id, target=target,
            )
        )  # fmt: skip

    @whole_ids
    def pivot(
        self,
        rows: str = "preprocessings",
        columns: str = "model_class",
        metric: str | None = None,
        *,
        aggregate: str = "best",
        dataset_name: str | None = None,
        run_id: str | None = None,
        task_type: str | None = None,
        target: str | None = None,
    ) -> views.Pivot:
        """Return a table of one pooled score: one row per preprocessing, one column per model (or other kinds).

        Scores of several data sets, targets or units are not joined: the rows name them.

        Parameters
        ----------
        rows, columns : str
            preprocessings, model_class, model_name, dataset_name, run_id, run_name or target.
        metric : str, optional
            As for `top_chains`.
        aggregate : {"best", "min", "max", "mean", "median"}
            Which score a cell shows that several chains share; a warning says where these are of
            different samples or splits.

        Returns
        -------
        Pivot
            ``.frame`` is a polars.DataFrame; ``.to_markdown()``, ``.to_latex()``, ``.to_csv()``.
        """
        return views.pivot(
            self._engine, rows, columns, metric, aggregate, task_type,
            dataset_name=dataset_name, run_id=run_id, target=target,
        )  # fmt: skip

    def compare(self, run_or_chain_ids: Sequence[str], only_differences: bool = True) -> pl.DataFrame:
        """Return configuration, environment and scores of runs or chains side by side.

        Parameters
        ----------
        run_or_chain_ids : sequence of str
            At least two ids.
        only_differences : bool
            Leave out what is the same everywhere.

        Returns
        -------
        polars.DataFrame
            One row per item, one column per id.

        Raises
        ------
        UnknownId, InvalidInput
        """
        return views.compare(self._engine, run_or_chain_ids, only_differences=only_differences)

    def sql(
        self,
        query: str,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        timeout: float | None = 60.0,
        max_rows: int | None = 1_000_000,
        max_bytes: int | None = None,
    ) -> pl.DataFrame:
        """Query the catalog with exactly one SELECT statement, read-only.

        Parameters
        ----------
        query : str
            E.g. ``SELECT name, status FROM runs WHERE name = ?``.
        params : sequence or mapping, optional
            Values for ``?`` or ``$name``.
        timeout : float, optional
            Stop the query after this many seconds; None lets it run as long as it takes.
        max_rows : int, optional
            Refuse a result with more rows; None for no limit.
        max_bytes : int, optional
            Refuse a result that takes more memory; by default no limit.

        Raises
        ------
        InvalidInput
            The query is not a single SELECT statement (found before it runs), DuckDB reports an error, it exceeds
            `timeout`, `max_rows` or `max_bytes`, or a time lies outside of the years 1 to 9999.
        """
        return user_sql.query(self._engine, query, params, timeout, max_rows, max_bytes)

    # -- Evaluations of models on suites.

    @property
    def evaluations(self) -> evaluations_api.Evaluations:
        """Evaluations, champions, leaderboards, comparisons; see `nirs_store.evaluations.api`."""
        if self._evaluations is None:
            self._evaluations = evaluations_api.Evaluations(self._engine, self.replay_chain)
        return self._evaluations

    @whole_ids
    def capture_environment(
        self,
        run_id: str,
        *,
        seeds: int | Sequence[int] | Mapping[str, int] | None = None,
        container: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        command: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Capture what is needed to repeat a run that has begun, and store it with the run.

        Parameters
        ----------
        seeds, container, parameters, command
            As for `nirs_store.capture_environment`.

        Returns
        -------
        dict
            The captured environment; `compare`, `show_run` and `get_run` show it.

        Raises
        ------
        UnknownId, InvalidInput
        """
        found = runs.capture_environment(
            seeds=seeds, container=container, parameters=parameters, command=command
        )
        runs.add_environment(self._engine, run_id, found)
        return found

    # -- `store.files` and `store.datasets`: files of any kind, and spectra with references.

    @property
    def files(self) -> files_api.Files:
        """Files of any kind, with versions; see `nirs_store.files`."""
        return files_api.Files(self._engine, store=self)

    @property
    def datasets(self) -> datasets_api.Datasets:
        """Data sets: spectra with references, with versions; see `nirs_store.datasets.api.Datasets`."""
        if self._dataset_samples is None:
            self._dataset_samples = ByteLRU(dataset_reader.CACHE)
        return datasets_api.Datasets(self._engine, self._dataset_samples, store=self)

    # -- What became of things: audit trail, lineage, retention, statistics.

    @property
    def audit(self) -> Audit:
        """Who did what and when; see `nirs_store.audit.trail.Audit`."""
        return Audit(self._engine, store=self)

    @property
    def lineage(self) -> lineage_api.Lineage:
        """Origins of objects; see `nirs_store.history.lineage.Lineage`."""
        return lineage_api.Lineage(self._engine, store=self)

    @property
    def retention(self) -> retention_api.Retention:
        """Retention: what is kept, and for how long; see `nirs_store.history.retention.Retention`."""
        return retention_api.Retention(self._engine, self._forget, self._watch.look)

    def statistics(self, *, runs: int = 10, step: str = "month") -> statistics_api.Statistics:
        """Return counts and bytes by type, status and run, savings by compression and deduplication, and growth.

        Parameters
        ----------
        runs : int
            How many of the largest runs to name.
        step : {"day", "week", "month", "year"}
            Period by which growth is counted.

        Returns
        -------
        Statistics
            Prints itself; ``to_dict`` gives plain data, ``growth`` is a data frame.
        """
        return statistics_api.statistics(self._engine, runs=runs, step=step)

    # -- Fitted models: saving, loading, replaying, exporting.

    @property
    def artifacts(self) -> registry.ArtifactRegistry:
        """Fitted objects by their place in a pipeline; see `nirs_store.registry`."""
        if self._registry is None:
            self._registry = registry.ArtifactRegistry(self._engine)
        return self._registry

    @property
    def loader(self) -> loading.ArtifactLoader:
        """Loads fitted objects by their place, into the cache that replay uses."""
        if self._loader is None:
            self._loader = loading.ArtifactLoader(self._engine, cache=self._replays.objects)
        return self._loader

    def replay_chain(
        self, chain_id: str, X: Any, wavelengths: Any = None, *, strict: bool = False
    ) -> np.ndarray:
        """Predict new spectra with a stored chain.

        A chain that this store has replayed before touches neither lock nor catalog.

        Parameters
        ----------
        X : array of shape (n_samples, n_features), data frame, or Spectra
            Spectra, as `read_spectra` returns them as well; a frame's numeric column names are wavelengths and are
            compared with the stored grid. Several sources are given as a sequence or dict of these.
        wavelengths : array of shape (n_features,), optional
            Reaches the operators that accept it.
        strict : bool
            Raise CodeChanged, instead of a CodeChangedWarning, where classes or functions outside installed
            packages are not what they were when the chain was recorded.

        Returns
        -------
        ndarray
            What the estimator gives: (n_samples,) or (n_samples, n_targets); labels for
            classifiers.

        Raises
        ------
        UnknownId, ReplayError, ShapeMismatch, InvalidInput, BlobMissing, BlobCorrupt
        """
        return self._replays.replay(chain_id, X, wavelengths, strict)

    def predictor(self, chain_id: str, *, strict: bool = False) -> predictors.ChainPredictor:
        """Return a chain as a fitted scikit-learn estimator.

        It loads all its models now, and needs the store no longer.

        Parameters
        ----------
        chain_id : str
            Of a version of a calibration with a slope and bias correction, the predictor applies the correction it
            has now, and says so in a warning and when it is printed.
        strict : bool
            As for `replay_chain`.

        Returns
        -------
        ChainPredictor
            With ``predict``, ``n_features_in_``, ``feature_names_in_``, and for classifiers ``classes_`` and
            ``predict_proba``; works in scorers, Pipelines, prefit stacks.

        Raises
        ------
        UnknownId, ReplayError, BlobMissing, BlobCorrupt
        """
        return self._replays.predictor(chain_id, strict)

    def predict(
        self,
        chain_id: str,
        X: Any,
        wavelengths: Any = None,
        *,
        level: float = 0.90,
        alpha: float = 0.05,
        scaled: bool = False,
        margin: float = 5.0,
        flag: Mapping[str, float] | Sequence[str] = (),
        sample_ids: Iterable[Any] | None = None,
        on_outlier: Literal["warn", "raise", "ignore"] = "warn",
        strict: bool = False,
        log: bool | None = None,
        instrument: str | None = None,
        operator: str | None = None,
        measured_at: Any = None,
        keep_spectra: bool = False,
        matrix: str | None = None,
    ) -> pl.DataFrame:
        """Predict new spectra with intervals, and flag samples outside the calibration.

        Parameters
        ----------
        chain_id, X, wavelengths, strict
            As for `replay_chain`; X may also be the result of `read_spectra`, or a stored data set (``"corn@v2"``).
        level, alpha, scaled, margin, flag, sample_ids, on_outlier
            As for `ChainPredictor.predict_details`.
        log : bool, optional
            Log the predictions in `store.measurements`. By default, predictions of a named calibration such as
            ``fat@production`` are logged, and those of a chain are not. All rows of a call are one commit.
        instrument, operator : str, optional
            The instrument, and who measured the spectra. An instrument outside the scope of the calibration is flagged.
        measured_at : datetime, ISO 8601 text, or a sequence of them, optional
            When they were measured; now by default. UTC if no time zone is given.
        keep_spectra : bool
            Log the spectra themselves, not only their hashes.
        matrix : str, optional
            The measured product, for example "milk". A matrix, range or
            wavelengths outside the scope of the calibration are flagged, as in "outside scope: range".

        Returns
        -------
        polars.DataFrame
            ``sample, prediction, lower, upper, t2, q, h, gh, nh, flags``, one row per sample, or per sample and
            ``target``. The predictions are those of `replay_chain`. If a slope and bias correction is
            applied, ``raw`` has the uncorrected predictions, and ``correction`` describes the correction.

        Raises
        ------
        OutlierFound
            With ``on_outlier="raise"``, if a sample is flagged. Nothing is logged.
        UnknownId, ReplayError, ShapeMismatch, InvalidInput, BlobMissing, BlobCorrupt
        ReadOnlyStore, WriteFailed
            The log could not be written.
        """
        how = replaying.Logging(log, instrument, operator, measured_at, keep_spectra)
        reading = domain_frame.Reading(level, alpha, scaled, margin, flag)
        return self._replays.predict(
            chain_id, X, wavelengths, reading, how, self._stored,
            sample_ids=sample_ids, on_outlier=on_outlier, strict=strict, matrix=matrix,
        )  # fmt: skip

    @property
    def measurements(self) -> measurement_log.Measurements:
        """The log of predictions; see `nirs_store.service.log.Measurements`."""
        return measurement_log.Measurements(self._engine)

    @property
    def references(self) -> sample_references.References:
        """Reference values of the laboratory; see `nirs_store.service.references.References`."""
        return sample_references.References(self._engine)

    def derive_chain(
        self,
        chain_id: str,
        before: Any,
        *,
        transfer_samples: Any = None,
        wavelengths: Any = None,
        name: str | None = None,
        artifact_format: str = "joblib",
    ) -> transfer.Transferred:
        """Put a fitted transformer in front of a chain, so that it predicts spectra of another instrument.

        Parameters
        ----------
        chain_id : str
            The chain, or the name of a calibration.
        before : fitted transformer
            It converts spectra of the other instrument to those of the calibration's instrument: a direct
            standardization of chemotools, or a class of your own.
        transfer_samples : tuple, Spectra or name of a data set, optional
            ``(X, y)`` or ``(X, y, sample_ids)``: spectra measured on the other instrument, with reference values.
            They give the RMSEP without and with the transformer; use samples that it was not fitted on.
        wavelengths : array of shape (n_channels,), optional
            Wavelengths of the other instrument; by default those of the calibration.
        name : str, optional
            Of the new pipeline.
        artifact_format : str
            Serializer of the transformer.

        Returns
        -------
        Transferred
            Its ``chain_id`` is a new chain, recorded in its own run, with the lineage ``transferred_from``. It keeps
            the domain of the old chain, which judges the transformed spectra, but not its intervals, because these
            come from errors on the calibration's instrument.

        Raises
        ------
        UnknownId, InvalidInput, ShapeMismatch, SerializationError
            Nothing was recorded.
        """
        return transfer.derive_chain(
            self, chain_id, before, transfer_samples=transfer_samples, wavelengths=wavelengths, name=name,
            artifact_format=artifact_format,
        )  # fmt: skip

    @whole_ids
    def domain(self, chain_id: str) -> Domain | None:
        """Return the domain by which new samples of a chain are judged, or None if the chain has none.

        Returns
        -------
        Domain or None
            Its ``limits(alpha)`` have the limits and the names of their methods, its ``facts`` the reason where
            something could not be determined.

        Raises
        ------
        UnknownId, BlobMissing, BlobCorrupt
        """
        return self._replays.domain(chain_id)

    def _stored(self, X: Any, chain_id: str) -> Any:
        """Return the samples of a stored data set that X names; anything else as it is."""
        if isinstance(X, str) or hasattr(X, "dataset_version_id"):
            return self.datasets.for_chain(X, chain_id)
        return X

    @whole_ids
    def add_domain(
        self, chain_id: str, X: Any = None, y: Any = None, *, wavelengths: Any = None, sample_ids: Any = None
    ) -> Domain:
        """Compute the domain of a chain from its calibration spectra, replacing any earlier one.

        Parameters
        ----------
        X, y : array-like, optional
            The spectra and measured values that the chain was fitted on, in their order. Not needed for a chain that
            was recorded from a stored data set.
        wavelengths : array of shape (n_features,), optional
            Wavelengths of X.
        sample_ids : sequence, optional
            Names of the samples, where the chain was recorded with names.

        Raises
        ------
        UnknownId
            No chain has that id.
        InvalidInput, ShapeMismatch
            Not the spectra that the chain was fitted on, or a chain whose models have no one input.
        CalibrationInUse
            An alias with a rule points to a version of the chain, whose signatures are about the domain before. Nothing
            was changed.
        """
        X = self.datasets.of_chain(chain_id) if X is None else self._stored(X, chain_id)
        domain = self._replays.add_domain(self, chain_id, X, y, wavelengths, sample_ids)
        self._forget()
        return domain

    @attempted("save_artifact")
    @whole_ids
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

        This session holds a reference until a chain refers to the object.

        Parameters
        ----------
        format : str
            joblib, cloudpickle, pickle, skops, bytes, or a format of an installed package.
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
            runs.require_open_pipeline(self._engine, pipeline_id)
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

    @whole_ids
    def load_artifact(self, artifact_id: str) -> Any:
        """Load an artifact from its file, after checking its bytes.

        Raises
        ------
        UnknownId (KeyError), BlobMissing (FileNotFoundError), BlobCorrupt
        """
        notes.note_read(self._engine, "load_artifact", "artifact", artifact_id)
        return artifacts.load_artifact(self._engine, artifact_id)

    @whole_ids
    def read_artifact(self, artifact_id: str) -> bytes:
        """Return the stored bytes of an artifact, checked against their hash."""
        notes.note_read(self._engine, "load_artifact", "artifact", artifact_id)
        return artifacts.read_artifact(self._engine, artifact_id)

    @whole_ids
    def get_artifact(self, artifact_id: str) -> dict[str, Any] | None:
        """Return an artifact's record with its `ref_count`, or None."""
        return self._engine.query(lambda con: queries.get_artifact(con, artifact_id))

    @whole_ids
    def get_artifact_path(self, artifact_id: str) -> Path:
        """Return the path of an artifact's file, e.g. for ``joblib.load``.

        Raises
        ------
        UnknownId (KeyError), BlobMissing
        """
        return artifacts.artifact_path(self._engine, artifact_id)

    @attempted("export_chain", "chain")
    def export_chain(
        self, chain_id: str, output_path: str | Path, format: str = "n4a", **options: Any
    ) -> Path:
        """Write a chain as a ``.n4a`` bundle, or as a Python script with format "n4a.py".

        The bundle carries a card with what this workspace knows: scores, data set, versions, seeds; and the name and
        version of a calibration, such as ``fat@v3``, where it was asked for by name.

        Parameters
        ----------
        format : {"n4a", "n4a.py"}
        options
            Of `nirs_store.bundle.export_chain`: ``safe=True`` for a bundle without pickles, ``probe`` for spectra
            that travel with it, ``scores``, ``units``, ``facts``.

        Returns
        -------
        Path
            The file; the suffix is added when there is none.

        Raises
        ------
        UnknownId, UnknownFormat, BlobMissing, BlobCorrupt
        InvalidInput
            The name of a calibration whose slope and bias correction a bundle cannot carry.
        SerializationError
            With ``safe=True``: an object that skops cannot carry.
        """
        return self._replays.export(self, chain_id, output_path, format, options)

    @attempted("import_bundle")
    def import_bundle(
        self,
        path: str | Path,
        *,
        allow_pickle: bool = False,
        trusted_types: Iterable[str] = (),
        limits: bundle_limits.Limits | None = None,
        name: str | None = None,
    ) -> bundles.ImportedBundle:
        """Import a bundle into this workspace, as a run with its chain.

        The bundle is opened as by `load_bundle` first, with all its checks; only when every one has passed is it
        recorded, in one transaction, its objects byte for byte. The same content is imported once.

        Parameters
        ----------
        path : path
            A ``.n4a`` bundle of this library or of nirs4all.
        allow_pickle : bool
            Whether it may hold pickles, which **run code that its writer has chosen**, now and whenever the chain is
            replayed.
        trusted_types : iterable of str
            Types that a bundle without pickles may hold beyond the plain ones.
        limits : Limits, optional
            How large it may be.
        name : str, optional
            What to call the run; else after its model and target.

        Returns
        -------
        ImportedBundle
            With ``run_id``, ``pipeline_id``, ``chain_id`` and ``added``.

        Raises
        ------
        UntrustedBundle, BundleInvalid, BundleTooNew
            As for `load_bundle`; nothing in the workspace was changed.
        ReadOnlyStore, StoreBusy, WriteFailed

        Examples
        --------
        >>> imported = store.import_bundle("wheat.n4a")
        >>> store.replay_chain(imported.chain_id, X).shape
        (54,)
        """
        return bundles.import_bundle(
            self._engine, path, allow_pickle=allow_pickle, trusted_types=trusted_types,
            limits=bundle_limits.DEFAULT_LIMITS if limits is None else limits, name=name,
        )  # fmt: skip

    @whole_ids
    def export_pipeline_config(self, pipeline_id: str, output_path: str | Path) -> Path:
        """Write the expanded configuration of a pipeline as JSON; templates use the same form.

        Its name, data set and choices are in what `export_run` writes.
        """
        return bundles.export_pipeline_config(self._engine, pipeline_id, user_path(output_path))

    @whole_ids
    def export_run(self, run_id: str, output_path: str | Path) -> Path:
        """Write a run as YAML: its columns at the top, and below them its ``pipelines`` with their ``chains``."""
        return bundles.export_run(self._engine, run_id, user_path(output_path))

    @whole_ids
    def export_predictions_parquet(
        self, output_path: str | Path, *, include_arrays: bool = False, **filters: Any
    ) -> Path:
        """Write predictions as Parquet (filters as `query_predictions`).

        No match still writes a readable file of no rows. With `include_arrays`, the arrays come
        as list columns.
        """
        path = user_path(output_path)
        return bundles.export_predictions_parquet(
            self._engine, path, include_arrays=include_arrays, **filters
        )

    # -- Choosing among chains, and looking inside one.

    @property
    def calibrations(self) -> calibrations_api.Calibrations:
        """Named calibrations: versions, aliases, signatures; see `nirs_store.service.api.Calibrations`."""
        return calibrations_api.Calibrations(self._engine, store=self)

    def suggest_components(
        self, chains: str | Sequence[str], rule: choosing.Rule = "one_se", **options: Any
    ) -> choosing.ComponentChoice | list[choosing.ComponentChoice]:
        """Suggest a number of latent variables; see `nirs_store.choosing.suggest_components`.

        Parameters
        ----------
        chains : str or sequence of str
            A chain (it stands for its family), chains of one family, or a run (a list of all its families). A result
            of a cross-validation or a search counts as its chain, the board of a screening as its run.
        rule : {"one_se", "randomization", "wold", "min"}
            The rule.
        options
            ``alpha``, ``threshold``, ``n_permutations``, ``seed``; ``target``, one of several that the chains predict.

        Raises
        ------
        UnknownId, InvalidInput
        """
        if not isinstance(chains, str):
            chains = getattr(chains, "chain_id", getattr(chains, "run_id", chains))
        return choosing.suggest_components(self, chains, rule, **options)

    def compare_errors(self, first: str, second: str, **options: Any) -> choosing.PairedComparison:
        """Test whether two chains differ on the same out-of-fold samples; see `nirs_store.choosing.compare_errors`.

        Raises
        ------
        UnknownId, InvalidInput
        """
        return choosing.compare_errors(self, first, second, **options)

    @whole_ids
    def review(self, chain_id: str, *, target: str | int | None = None) -> choosing.Review:
        """Run the coded checks of a chain; see `nirs_store.choosing.review`.

        Parameters
        ----------
        target : str or int, optional
            One target of a chain that predicts several; by default each is checked.

        Returns
        -------
        Review
            Its ``findings``, gravest first, ``frame`` and ``to_dict()``.

        Raises
        ------
        UnknownId
        """
        return choosing.review(self, chain_id, target)

    def coefficients(self, chain_id: str) -> pl.DataFrame:
        """Return the regression coefficients of a chain; see `nirs_store.diagnosing.coefficients`.

        Returns
        -------
        polars.DataFrame
            ``wavelength, channel, coefficient`` (of the refit), and one column per fold whose model is stored.

        Raises
        ------
        UnknownId, InvalidInput
        """
        return diagnosing.coefficients(
            self, self._uncorrected(chain_id, "these are the model's own coefficients")
        )

    def _uncorrected(self, chain_id: str, what: str) -> str:
        """Return the id of a chain; warn of a correction of the version that was named, which has no part in `what`."""
        use = replaying.use_of(self._engine, chain_id)
        replaying.warn_uncorrected(use, what)
        return use.chain_id

    @whole_ids
    def transform(self, chain_id: str, X: Any, wavelengths: Any = None) -> np.ndarray:
        """Return the model's input for some spectra, after all preprocessing; see `nirs_store.diagnosing.transform`.

        Raises
        ------
        UnknownId, ShapeMismatch, InvalidInput, ReplayError
        """
        from nirs_store.reading import Spectra

        X = self._stored(X, chain_id)
        if isinstance(X, Spectra):
            X, wavelengths = X.X, X.wavelengths if wavelengths is None else wavelengths
        return diagnosing.transform(self, chain_id, X, wavelengths)

    @whole_ids
    def permutation_test(
        self, chain_id: str, X: Any, y: Any = None, **options: Any
    ) -> diagnosing.PermutationTest:
        """Cross-validate a chain's recipe with shuffled y; see `nirs_store.diagnosing.permutation_test`.

        Raises
        ------
        UnknownId, InvalidInput, ShapeMismatch
        """
        return diagnosing.permutation_test(self, chain_id, self._stored(X, chain_id), y, **options)

    def diagnose(self, chain_id: str, X: Any = None, y: Any = None, **options: Any) -> diagnosing.Diagnosis:
        """Diagnose samples: T2, Q, leverage, residuals, named outliers; see `nirs_store.diagnosing.diagnose`.

        Parameters
        ----------
        X : array, data frame, Spectra or str, optional, shape (n_samples, n_features)
            The calibration spectra, or new ones; ``"corn@v2"`` is a stored data set. By default the calibration
            spectra, if the chain was recorded from a data set.
        y : array-like, shape (n_samples,), optional
            Measured values.
        options
            ``wavelengths``, ``calibration``, ``sample_ids``, ``alpha``; ``target``, one of several that the chain
            predicts.

        Returns
        -------
        Diagnosis
            ``samples``, ``scores``, ``channels``, ``explained`` are data frames; `nirs_store.plots` draws it.

        Raises
        ------
        UnknownId, ShapeMismatch, InvalidInput, ReplayError
        """
        chain_id = self._uncorrected(chain_id, "the diagnosis is about its uncorrected predictions")
        X = self.datasets.of_chain(chain_id) if X is None else self._stored(X, chain_id)
        return diagnosing.diagnose(self, chain_id, X, y, **options)

    @whole_ids
    def plot(self, kind: str, chain_id: str, X: Any = None, y: Any = None, **options: Any) -> Figure:
        """Draw a figure of a chain; ``nirs_store.plots.save_figure`` writes it to a file.

        Parameters
        ----------
        kind : str
            ``predicted``, ``residuals``, ``components``, ``choice``, ``errors``, ``folds``, ``heatmap``,
            ``coefficients``, ``confusion``, ``training``; with spectra ``spectra``, ``raw``, ``intervals``, ``t2-q``,
            ``influence``, ``scores``, ``loadings``, ``weights``, ``vip``, ``selectivity``, ``explained``, ``normal``,
            ``permutation``. `nirs_store.plots.KINDS` says what each shows.
        X : array or Spectra, optional
            Spectra, for the figures that need them.
        y : array-like, optional
            Measured values of X.
        options
            Those of `predict` for ``intervals``, of `diagnose` and of the figure for diagnoses, of
            `permutation_test`, and of `nirs_store.plots.raw_spectra` for ``raw``. ``target`` names one of several
            targets, for every figure that shows one.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        UnknownId, InvalidInput, ShapeMismatch, ReplayError
        """
        return plots.chain_figure(self, kind, chain_id, X, y, **options)

    @whole_ids
    def plot_data(
        self, kind: str, chain_id: str, X: Any = None, y: Any = None, **options: Any
    ) -> pl.DataFrame:
        """Return the data frame that a figure shows; the parameters are those of `plot`.

        Raises
        ------
        UnknownId, InvalidInput, ShapeMismatch, ReplayError
        """
        return plots.chain_figure_data(self, kind, chain_id, X, y, **options)

    # -- Recording: runs, pipelines, chains, predictions, logs. No call waits for another process.

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
            Names, or dicts with a ``name``; a single one counts as a list of one.
        environment : mapping, optional
            What `nirs_store.capture_environment` gave; the versions that every run keeps are added.
        """
        return runs.begin_run(self._engine, name, config, datasets, environment)

    @attempted("complete_run", "run")
    @whole_ids
    def complete_run(self, run_id: str, summary: dict[str, Any]) -> None:
        """Commit everything and mark the run as completed.

        Raises
        ------
        UnknownId
        """
        runs.complete_run(self._engine, run_id, summary)
        self._keep_to_policy("after_run")

    @attempted("edit_run", "run")
    @whole_ids
    def rename_run(self, run_id: str, name: str) -> None:
        """Rename a run.

        Name, note and tags are all that can be changed of a finished run.

        Raises
        ------
        UnknownId, InvalidInput
        """
        runs.edit_run(self._engine, run_id, name=as_name(name, "name"))

    @attempted("edit_run", "run")
    @whole_ids
    def annotate_run(self, run_id: str, note: str) -> None:
        """Set a run's note (free text, replaces the earlier one)."""
        runs.edit_run(self._engine, run_id, note=as_text(note, "note"))

    @attempted("edit_run", "run")
    @whole_ids
    def tag_run(self, run_id: str, *tags: str) -> None:
        """Add tags to a run."""
        runs.edit_run(self._engine, run_id, add_tags=tags)

    @attempted("edit_run", "run")
    @whole_ids
    def untag_run(self, run_id: str, *tags: str) -> None:
        """Remove tags from a run; tags that it does not have are ignored."""
        runs.edit_run(self._engine, run_id, remove_tags=tags)

    @attempted("fail_run", "run")
    @whole_ids
    def fail_run(self, run_id: str, error: str) -> None:
        """Mark the run as failed; release what only its unfinished pipelines hold."""
        runs.fail_run(self._engine, run_id, error)

    @attempted("begin_pipeline", "run")
    @whole_ids
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
        return runs.begin_pipeline(
            self._engine, run_id, name, expanded_config, generator_choices, dataset_name, dataset_hash
        )

    @attempted("complete_pipeline", "pipeline")
    @whole_ids
    def complete_pipeline(
        self,
        pipeline_id: str,
        best_val: float | None,
        best_test: float | None,
        metric: str | None,
        duration_ms: int | None,
    ) -> None:
        """Commit everything and mark the pipeline as completed; durable when this returns."""
        runs.complete_pipeline(self._engine, pipeline_id, best_val, best_test, metric, duration_ms)

    @attempted("fail_pipeline", "pipeline")
    @whole_ids
    def fail_pipeline(self, pipeline_id: str, error: str) -> None:
        """Mark the pipeline as failed and roll back its records; its row and logs stay.

        A second call, and a call after the pipeline was completed, change nothing.
        """
        runs.fail_pipeline(self._engine, pipeline_id, error)
        if self._used is not None:
            self._used.plans.clear()

    @attempted("save_chain", "pipeline")
    @whole_ids
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
            An artifact that the chain names is missing; nothing was recorded.
        InvalidInput
            A step has no number, or the weights do not match the folds; nothing was recorded.
        """
        return runs.save_chain(
            self._engine, pipeline_id, steps, model_step_idx, model_class, preprocessings, fold_strategy,
            fold_artifacts, shared_artifacts, branch_path, source_index, fold_weights, wavelengths, metadata,
        )  # fmt: skip

    @attempted("save_prediction", "pipeline")
    @whole_ids
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
            "dataset_name": dataset_name, "model_name": model_name, "model_class": model_class, "fold_id": fold_id,
            "partition": partition, "val_score": val_score, "test_score": test_score, "train_score": train_score,
            "metric": metric, "task_type": task_type, "n_samples": n_samples, "n_features": n_features,
            "scores": scores, "best_params": best_params, "branch_id": branch_id, "branch_name": branch_name,
            "exclusion_count": exclusion_count, "exclusion_rate": exclusion_rate, "preprocessings": preprocessings,
        }  # fmt: skip
        return predictions.save_prediction(self._engine, pipeline_id, chain_id, prediction_id, values)

    @attempted("save_prediction_arrays", "prediction")
    @whole_ids
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
            The prediction already has arrays.
        """
        predictions.save_prediction_arrays(
            self._engine, prediction_id, y_true, y_pred, y_proba, sample_indices, weights
        )

    @attempted("log_step", "pipeline")
    @whole_ids
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
        runs.log_step(
            self._engine, pipeline_id, step_idx, operator_class, event, duration_ms, message, details, level
        )

    @attempted("log_metric", "pipeline")
    @whole_ids
    def log_metric(self, pipeline_id: str, name: str, value: float, step: int) -> None:
        """Record one point of a training curve, such as the loss after an epoch.

        It goes with the next commit, as log lines do; NaN and infinities are kept.

        Raises
        ------
        UnknownId, InvalidInput
        """
        metrics.log_metrics(self._engine, pipeline_id, name, [value], [step])

    @attempted("log_metric", "pipeline")
    @whole_ids
    def log_metrics(self, pipeline_id: str, name: str, values: Any, steps: Any = None) -> None:
        """Record many points of a training curve in one call.

        Parameters
        ----------
        name : str
            E.g. "loss", "val/rmse".
        values : array-like of shape (n_points,)
            Numbers; NaN and infinities are kept.
        steps : array-like of shape (n_points,), optional
            Whole numbers from 0; by default 0, 1, 2, ….

        Raises
        ------
        UnknownId, InvalidInput, ShapeMismatch
            Nothing was recorded.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store, store.run("net") as run:
        ...     with run.pipeline("cnn") as pipeline:
        ...         for epoch, loss in enumerate([0.9, 0.5, 0.4]):
        ...             store.log_metric(pipeline.pipeline_id, "loss", loss, epoch)
        ...     store.get_metrics(pipeline.pipeline_id)["value"].to_list()
        [0.9, 0.5, 0.4]
        >>> folder.cleanup()
        """
        metrics.log_metrics(self._engine, pipeline_id, name, values, steps)

    # -- Archives of a selection, and backups of everything.

    @property
    def backups(self) -> backups_api.Backups:
        """Backups of this workspace; see `nirs_store.backup.backup`."""
        return backups_api.Backups(self._engine, store=self)

    @overload
    def archive(
        self,
        path: str | Path,
        *,
        runs: Sequence[str] | None = None,
        files: Sequence[str] | None = None,
        evaluations: Sequence[str] | None = None,
        datasets: Sequence[str] | None = None,
        model_id: str | None = None,
        overwrite: bool = False,
        dry_run: Literal[False] = False,
        progress: Progress | None = None,
    ) -> archives.Archive: ...

    @overload
    def archive(
        self,
        path: str | Path,
        *,
        runs: Sequence[str] | None = None,
        files: Sequence[str] | None = None,
        evaluations: Sequence[str] | None = None,
        datasets: Sequence[str] | None = None,
        model_id: str | None = None,
        overwrite: bool = False,
        dry_run: Literal[True],
        progress: Progress | None = None,
    ) -> archives.ArchivePlan: ...

    def archive(
        self,
        path: str | Path,
        *,
        runs: Sequence[str] | None = None,
        files: Sequence[str] | None = None,
        evaluations: Sequence[str] | None = None,
        datasets: Sequence[str] | None = None,
        model_id: str | None = None,
        overwrite: bool = False,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> archives.Archive | archives.ArchivePlan:
        """Write a selection with its rows, lineage and blobs into one file.

        Parameters
        ----------
        path : str or Path
            Ends with ``.tar.gz``, ``.tar.zst`` or ``.zip``.
        runs, evaluations : sequence of str, optional
            Ids. What belongs to them goes with them: a run's pipelines, chains, predictions, evaluations and files, and
            the data sets that its chains were recorded from.
        files : sequence of str, optional
            Names, patterns (``reports/*``) or version ids.
        datasets : sequence of str, optional
            Names and patterns, for all versions, or ids.
        model_id : str, optional
            Everything of one model instead: files and evaluations that name it, and the run of the chain that it is.
        overwrite : bool
            Replace an existing file.
        dry_run : bool
            Return what would be in it, and write nothing. A path that would be refused is refused.
        progress : callable, optional
            Called with the bytes done and those to do.

        Returns
        -------
        Archive or ArchivePlan
            Without runs, files, evaluations and data sets everything that anything holds is in it.

        Raises
        ------
        InvalidInput, UnknownId, WriteFailed, BlobMissing, BlobCorrupt
            No file was written.
        """
        made: archives.Archive | archives.ArchivePlan = archives.archive_or_plan(
            self._engine, path, runs=runs, files=files, evaluations=evaluations, datasets=datasets,
            model_id=model_id, overwrite=overwrite, dry_run=dry_run, progress=progress,
        )  # fmt: skip
        return made

    def restore_archive(
        self,
        path: str | Path,
        *,
        dry_run: bool = False,
        limits: archive_format.Limits | None = None,
        progress: Progress | None = None,
    ) -> staged_archives.RestoredArchive:
        """Restore an archive into this workspace, without duplicating what is already there.

        Everything is verified first: names, sizes, hashes. Models in it are pickles as they were in the workspace
        that it came from: bring in only archives of people whom you trust.

        Parameters
        ----------
        dry_run : bool
            Verify, and return what would be added.
        limits : Limits, optional
            How much an archive may promise.
        progress : callable, optional
            Called with the bytes done and those to do.

        Raises
        ------
        ArchiveInvalid, SchemaTooNew
            Not an archive, an altered one or a newer one; nothing was changed.
        InvalidInput, WriteFailed, ReadOnlyStore
            Nothing was changed.
        """
        restored = staged_archives.restore_archive(
            self._engine, path, dry_run=dry_run, limits=limits, progress=progress
        )
        if not dry_run:
            self._forget()
        return restored

    # -- Deleting and cleaning: plan, then execute.

    @property
    def trash(self) -> trash_api.Trash:
        """Deleted objects that can be restored; see `nirs_store.history.trash.Trash`."""
        return trash_api.Trash(self._engine, self._forget)

    @overload
    def delete_run(
        self,
        run_id: str,
        delete_artifacts: bool = True,
        *,
        dry_run: Literal[False] = False,
        force: bool = False,
        now: bool = False,
    ) -> int: ...

    @overload
    def delete_run(
        self,
        run_id: str,
        delete_artifacts: bool = True,
        *,
        dry_run: Literal[True],
        force: bool = False,
        now: bool = False,
    ) -> deletion.RunDeletion: ...

    @attempted("delete_run", "run")
    @whole_ids
    def delete_run(
        self,
        run_id: str,
        delete_artifacts: bool = True,
        *,
        dry_run: bool = False,
        force: bool = False,
        now: bool = False,
    ) -> int | deletion.RunDeletion:
        """Delete a run and everything it owns, in one transaction; `WorkspaceStore.trash` can restore it.

        Parameters
        ----------
        delete_artifacts : bool
            With `now`, also remove the files that nothing else needs. False keeps them for a later gc.
        dry_run : bool
            Return the plan and change nothing.
        force : bool
            Delete even if a model of this run feeds a meta-model of another run. Its own stacked chain keeps
            the blobs that it needs to replay.
        now : bool
            Delete permanently, without the trash.

        Returns
        -------
        int or RunDeletion
            Rows deleted; 0 for an unknown run.

        Raises
        ------
        InvalidInput
            A meta-model of another run needs a model of this one. Nothing was changed.
        """
        found: int | deletion.RunDeletion = deletion.remove(
            self._engine, "run", run_id, self._forget,
            delete_artifacts=delete_artifacts, dry_run=dry_run, force=force, now=now,
        )  # fmt: skip
        return found

    @overload
    def delete_pipeline(
        self,
        pipeline_id: str,
        delete_artifacts: bool = True,
        *,
        dry_run: Literal[False] = False,
        force: bool = False,
        now: bool = False,
    ) -> int: ...

    @overload
    def delete_pipeline(
        self,
        pipeline_id: str,
        delete_artifacts: bool = True,
        *,
        dry_run: Literal[True],
        force: bool = False,
        now: bool = False,
    ) -> deletion.Deletion: ...

    @attempted("delete_pipeline", "pipeline")
    @whole_ids
    def delete_pipeline(
        self,
        pipeline_id: str,
        delete_artifacts: bool = True,
        *,
        dry_run: bool = False,
        force: bool = False,
        now: bool = False,
    ) -> int | deletion.Deletion:
        """Delete a pipeline with its chains, predictions and logs, in one transaction; its run stays.

        Parameters
        ----------
        delete_artifacts, dry_run, force, now
            As for `delete_run`.

        Returns
        -------
        int or Deletion
            Rows deleted.

        Raises
        ------
        UnknownId
            No pipeline has that id.
        InvalidInput
            A meta-model needs a model of this pipeline. Nothing was changed.
        """
        found: int | deletion.Deletion = deletion.remove(
            self._engine, "pipeline", pipeline_id, self._forget,
            delete_artifacts=delete_artifacts, dry_run=dry_run, force=force, now=now,
        )  # fmt: skip
        return found

    @overload
    def delete_chain(
        self,
        chain_id: str,
        delete_artifacts: bool = True,
        *,
        dry_run: Literal[False] = False,
        force: bool = False,
        now: bool = False,
    ) -> int: ...

    @overload
    def delete_chain(
        self,
        chain_id: str,
        delete_artifacts: bool = True,
        *,
        dry_run: Literal[True],
        force: bool = False,
        now: bool = False,
    ) -> deletion.Deletion: ...

    @attempted("delete_chain", "chain")
    @whole_ids
    def delete_chain(
        self,
        chain_id: str,
        delete_artifacts: bool = True,
        *,
        dry_run: bool = False,
        force: bool = False,
        now: bool = False,
    ) -> int | deletion.Deletion:
        """Delete a chain with its predictions, in one transaction; its pipeline with its log stays.

        Parameters
        ----------
        delete_artifacts, dry_run, force, now
            As for `delete_run`.

        Returns
        -------
        int or Deletion
            Rows deleted.

        Raises
        ------
        UnknownId
            No chain has that id.
        InvalidInput
            A meta-model needs a model of this chain. Nothing was changed.
        """
        found: int | deletion.Deletion = deletion.remove(
            self._engine, "chain", chain_id, self._forget,
            delete_artifacts=delete_artifacts, dry_run=dry_run, force=force, now=now,
        )  # fmt: skip
        return found

    @attempted("delete_prediction", "prediction")
    @whole_ids
    def delete_prediction(self, prediction_id: str, *, now: bool = False) -> bool:
        """Delete a prediction with its arrays; return False if there was none. `now` skips the trash."""
        return deletion.delete_prediction(self._engine, prediction_id, now)

    @overload
    def gc_artifacts(
        self,
        *,
        dry_run: Literal[False] = False,
        grace_seconds: float = GRACE_SECONDS,
        now: bool = False,
    ) -> int: ...

    @overload
    def gc_artifacts(
        self, *, dry_run: Literal[True], grace_seconds: float = GRACE_SECONDS, now: bool = False
    ) -> gc.GcPlan: ...

    def gc_artifacts(
        self, *, dry_run: bool = False, grace_seconds: float = GRACE_SECONDS, now: bool = False
    ) -> int | gc.GcPlan:
        """Remove artifacts without references, and expired entries of the trash.

        Parameters
        ----------
        dry_run : bool
            Return the plan and change nothing.
        grace_seconds : float
            How long what a session saved, and no chain took over, is kept after its end.
        now : bool
            Empty the trash whatever its age.

        Returns
        -------
        int or GcPlan
            Files removed.
        """
        if dry_run:
            return gc.plan_gc(self._engine, grace_seconds=grace_seconds, now=now)
        return self.collect_garbage(grace_seconds=grace_seconds, now=now).files

    @attempted("gc")
    def collect_garbage(self, *, grace_seconds: float = GRACE_SECONDS, now: bool = False) -> gc.GcResult:
        """Remove artifacts without references, as `gc_artifacts` does, and return which they were.

        Returns
        -------
        GcResult
            Files and bytes removed, and the plan that was carried out.
        """
        from nirs_store.files.output import remove_stray_copies

        result = gc.collect(self._engine, grace_seconds=grace_seconds, now=now)
        remove_stray_copies(self._engine)
        self._forget()
        return result

    @attempted("vacuum")
    def vacuum(self) -> None:
        """Rewrite store.duckdb without the space of deleted rows."""
        gc.vacuum(self._engine)

    def storage_report(self, *, runs: int = 10) -> gc.StorageReport:
        """Report what uses the space of the workspace; change nothing.

        Parameters
        ----------
        runs : int
            How many of the largest runs to name.

        Returns
        -------
        StorageReport
            Bytes by place and by kind, bytes saved because nothing is stored twice, the largest runs, and the
            bytes that a gc would remove.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     for _ in range(3):
        ...         model = store.save_artifact("x" * 1000, "str", "model", "bytes")
        ...     report = store.storage_report()
        >>> [(kind.kind, kind.bytes, kind.saved_bytes) for kind in report.kinds]
        [('model', 1000, 2000), ('arrays', 0, 0)]
        >>> folder.cleanup()
        """
        return gc.storage_report(self._engine, runs=runs)

    def check(self, *, read_data: bool = False) -> findings.CheckReport:
        """Check that everything recorded is present and consistent; change nothing.

        The journal is not applied; its commits are read where they lie, and their rows count. A catalog that
        cannot be opened is a finding, and the rest is still checked. Also for read-only stores.

        Parameters
        ----------
        read_data : bool
            Read every column, index, array and blob as well, and compare their checksums.

        Returns
        -------
        CheckReport
            Findings, worst first, each with the chains and predictions that it affects.

        Raises
        ------
        StoreBusy

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     model = store.save_artifact({"slope": 2.0}, "dict", "model")
        ...     store.check(read_data=True).ok
        True
        >>> folder.cleanup()
        """
        self._engine.flush()
        timeout = self._engine.settings.lock_timeout
        if self._engine.settings.shared is not None and self._engine.settings.fresh:
            return shared_care.check(self._engine, read_data=read_data)
        return checking.check(self._engine.access, self._engine.layout, read_data=read_data, timeout=timeout)

    @attempted("repair")
    def repair(self, *, dry_run: bool = False, restore_catalog: bool = False) -> repairing.RepairPlan:
        """Repair what can be repaired without inventing data.

        Blobs that do not fit their hash, and old ones that nothing names, move to ``quarantine/``; references
        are recounted; commits that cannot be applied are rejected; leftovers are removed. Rows whose data are
        lost are kept and named in the plan.

        Of a shared workspace, the replica on this computer is compared with one that is built from the log, and
        replaced by it where they differ. Blobs that are missing or damaged are put back if this computer has a copy.
        References, and rows of objects whose file is intact, are restored for all computers.

        Parameters
        ----------
        dry_run : bool
            Return the plan and change nothing.
        restore_catalog : bool
            When the catalog cannot be read: put the newest copy that a migration kept in its place. Rows
            recorded and applied since that copy are lost; the old file is kept in ``quarantine/``.

        Returns
        -------
        RepairPlan
            The actions taken, or with `dry_run` those planned.

        Raises
        ------
        StoreBusy, WriteFailed, ReadOnlyStore
        """
        if self._engine.settings.shared is not None:
            if restore_catalog:
                raise InvalidInput(
                    "restore_catalog: a replica is built again from the log instead. Nothing was changed."
                )
            if not dry_run or not self._engine.settings.fresh:
                self._engine.check_writable()
            plan = shared_care.repair(self._engine.settings, dry_run=dry_run)
            self._forget()
            return plan
        plan = repairing.repair(self._engine, dry_run=dry_run, restore_catalog=restore_catalog)
        if not dry_run:
            self._forget()
        return plan

    # -- Looking at a store in a notebook: what it holds, one run, one chain, its predictions.

    @whole_ids
    def show_run(self, run_id: str) -> views.RunView:
        """Show a run: status, data, note, tags, environment and its pipelines.

        Raises
        ------
        UnknownId
        """
        return views.view_run(self._engine, run_id)

    @whole_ids
    def show_chain(self, chain_id: str) -> views.ChainView:
        """Show a chain: steps, scores, models and artifacts.

        Raises
        ------
        UnknownId
        """
        return views.view_chain(self._engine, chain_id)

    @whole_ids
    def chain_predictions(self, chain_id: str, partition: str = "val") -> pl.DataFrame:
        """Return the predictions of a chain for each sample, as a data frame.

        Parameters
        ----------
        partition : {"val", "test", "train"}
            The out-of-fold predictions by default.

        Returns
        -------
        polars.DataFrame
            ``sample`` (name or row number, null where not recorded), ``fold_id``, ``y_true``, ``y_pred``;
            with several targets ``y_true_0``, …; with probabilities ``y_proba_<class>``. Empty for an
            unknown chain, and where no arrays were stored.

        Raises
        ------
        InvalidInput
            An unknown partition.
        """
        return views.chain_predictions(self._engine, chain_id, partition)

    def _repr_html_(self) -> str:
        return views.store_html(self._engine)

    # -- Opening and closing, and work that records through the store.

    # -- the object ----------------------------------------------------------------------------

    @property
    def workspace_path(self) -> Path:
        """The folder; of a shared workspace that of the replica on this computer."""
        return self._engine.layout.root

    @property
    def location(self) -> Location:
        """Where the workspace lives: its address and the replica on this computer, or its folder; and its blobs.

        Examples
        --------
        >>> import tempfile
        >>> from nirs_store import WorkspaceStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> with WorkspaceStore(folder.name) as store:
        ...     store.location.folder == store.workspace_path, store.location.address
        (True, None)
        >>> folder.cleanup()
        """
        return self._engine.location()

    def close(self) -> None:
        """Commit what is buffered and release all resources; a second call does nothing.

        Raises
        ------
        WriteFailed
            The last rows could not be written. The store stays open: free space and call again.
        """
        if self._engine.settings.session_id is None:  # a copy in a worker leaves it to the store it came from
            self._watch.stop()
            self._keep_to_policy("on_close")
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = " (closed)" if self._engine.closed else "" if self._engine.writable else " (read-only)"
        return f"WorkspaceStore({self._engine.place!r}){state}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (self._engine.hand_over(), self._cache_bytes))

    def flush(self) -> None:
        """Commit everything buffered; durable when this returns."""
        self._engine.flush()

    def transaction(self) -> AbstractContextManager[None]:
        """Combine everything that this thread records in a `with` block into one commit.

        An exception discards the block's rows (blobs stay until a gc). Queries inside the block
        do not see its rows.
        """
        self._engine.check_writable()
        return self._engine.recorder.transaction()

    def screen(self, X: Any, y: Any = None, *, cv: Any, **options: Any) -> screening.Board:
        """Cross-validate preprocessings, models and numbers of components; see `nirs_store.screening.screen`.

        Parameters
        ----------
        X, y, cv, options
            As there. X may also be a stored data set (``"corn@v2"``, with its `target`).

        Returns
        -------
        Board
            One row per candidate; ``best()`` returns the chain that a rule chooses.

        Raises
        ------
        InvalidInput, ShapeMismatch
        """
        return screening.screen(self, X, y, cv=cv, **options)

    def record_search(self, search: Any, X: Any, y: Any = None, **options: Any) -> screening.SearchRecord:
        """Record a scikit-learn search or an Optuna study, fitted or not; see `nirs_store.record_search`.

        Raises
        ------
        InvalidInput, ShapeMismatch
        """
        return screening.record_search(self, search, X, y, **options)

    def ui(self, *, port: int | None = None, allow_changes: bool = False) -> page.Running:
        """Show this workspace in the browser, from a thread of this process; a notebook shows the link.

        Parameters
        ----------
        port : int, optional
            By default the first free one from 8423 on.
        allow_changes : bool
            Whether forms of the page that change the workspace work.

        Returns
        -------
        Running
            With ``url`` and ``close()``; it ends with the process at the latest.

        Raises
        ------
        InvalidInput
            The port is taken, or packages of the extra ``ui`` are missing.
        """
        return page.start(self, port=port, may_change=allow_changes)

    @contextmanager
    def run(
        self,
        name: str,
        config: Any = None,
        datasets: Sequence[str | Mapping[str, Any]] | str | Mapping[str, Any] = (),
        *,
        environment: Mapping[str, Any] | None = None,
    ) -> Iterator[RunContext]:
        """Record a run: completed on a normal exit, failed with the traceback on an exception.

        Parameters
        ----------
        name, config, datasets, environment
            As for `begin_run`; a name can be any text, a configuration any plain data.
        """
        with open_run(self, name, config, datasets, environment) as run:
            yield run


def _reopen(settings: Settings, cache_bytes: int) -> WorkspaceStore:
    """Open a pickled store in the process that received it."""
    store = WorkspaceStore.__new__(WorkspaceStore)
    store._start(settings, cache_bytes)
    return store
