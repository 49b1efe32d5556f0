"""Questions: each sees everything that any process committed before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nirs_store.catalog import people_sql, prediction_queries, queries, ranking
from nirs_store.catalog.values import is_text
from nirs_store.errors import InvalidInput
from nirs_store.facade.base import Facade
from nirs_store.lazily import later
from nirs_store.lazily import polars as pl

if TYPE_CHECKING:
    from nirs_store import comparison, leaderboard
    from nirs_store import pivot as pivoting
else:
    comparison = later("nirs_store.comparison")
    leaderboard = later("nirs_store.leaderboard")
    pivoting = later("nirs_store.pivot")

__all__ = ["QueryMethods"]


class QueryMethods(Facade):
    """What a person asks afterwards."""

    def _alive(self) -> list[str]:
        # Asked inside the question: a session that began after an earlier look would pass for dead.
        return self._engine.living_sessions()

    def get_run(self, run_id: str) -> dict[str, Any] | None:
        """One run with its JSON decoded, or None."""
        return self._engine.query(lambda con: queries.get_run(con, run_id, self._alive()))

    def get_pipeline(self, pipeline_id: str) -> dict[str, Any] | None:
        """One pipeline with its JSON decoded, or None."""
        return self._engine.query(lambda con: queries.get_pipeline(con, pipeline_id, self._alive()))

    def find_ids(
        self, part: str, kinds: str | Sequence[str] | None = None, *, limit: int | None = 10
    ) -> pl.DataFrame:
        """Whole ids that begin or end with a part of one, such as the eight characters of a table.

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
    ) -> pl.DataFrame:
        """Runs, newest first; a run whose session died shows as interrupted.

        Parameters
        ----------
        status : {"running", "completed", "failed", "interrupted"}, optional
        dataset : str, optional
            Compared with the names in `datasets`, never with a part of them.
        tags : str or sequence of str, optional
            Only runs that have all of these tags.
        """
        return self._engine.query(
            lambda con: queries.list_runs(con, self._alive(), status, dataset, limit, offset, tags)
        )

    def list_pipelines(self, run_id: str | None = None, dataset_name: str | None = None) -> pl.DataFrame:
        """Pipelines, newest first."""
        return self._engine.query(
            lambda con: queries.list_pipelines(con, self._alive(), run_id, dataset_name)
        )

    def get_chain(self, chain_id: str) -> dict[str, Any] | None:
        """One chain with its JSON decoded and its wavelengths as an array, or None."""
        return self._engine.query(lambda con: queries.get_chain(con, chain_id), reads=queries.CHAIN_TABLES)

    def get_chains_for_pipeline(self, pipeline_id: str) -> pl.DataFrame:
        """Chains of a pipeline, in the order in which they were saved."""
        return self._engine.query(lambda con: queries.chains_for_pipeline(con, pipeline_id))

    def get_prediction(self, prediction_id: str, load_arrays: bool = False) -> dict[str, Any] | None:
        """One prediction, or None; with arrays each is an ndarray or None."""
        return self._engine.query(
            lambda con: prediction_queries.get_prediction(con, prediction_id, load_arrays)
        )

    def get_prediction_arrays(self, prediction_ids: Sequence[str]) -> dict[str, dict[str, np.ndarray | None]]:
        """Arrays of many predictions at once, by prediction id; those without arrays are absent.

        Raises
        ------
        InvalidInput
            Anything but a list of ids, such as one id; `get_prediction` with ``load_arrays=True`` takes one.
        """
        if isinstance(prediction_ids, str):
            raise InvalidInput(
                "prediction_ids: expected a list of ids, found one. For one prediction call "
                "get_prediction(prediction_id, load_arrays=True)."
            )
        ids = list(prediction_ids) if isinstance(prediction_ids, Iterable) else [prediction_ids]
        strange = [each for each in ids if not isinstance(each, str)]
        if strange:
            raise InvalidInput(f"prediction_ids: expected a list of ids, found {strange[0]!r}.")
        known = [each for each in ids if is_text(each)]
        return self._engine.query(lambda con: prediction_queries.load_arrays(con, known))

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
        return self._engine.query(
            lambda con: prediction_queries.query_predictions(con, limit, offset, **filters),
            reads=prediction_queries.PREDICTION_TABLES,
        )

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
            lambda con: prediction_queries.top_predictions(
                con, n, metric, ascending, partition, dataset_name, group_by
            ),
            reads=prediction_queries.TOP_TABLES,
        )

    def get_pipeline_log(self, pipeline_id: str) -> pl.DataFrame:
        """Log lines of a pipeline, in order."""
        return self._engine.query(lambda con: queries.pipeline_log(con, pipeline_id))

    def get_run_log_summary(self, run_id: str) -> pl.DataFrame:
        """Log counts and total duration (events "end") of a run, a pipeline a row."""
        return self._engine.query(lambda con: queries.run_log_summary(con, run_id, self._alive()))

    # -- leaderboards and SQL --------------------------------------------------------------------

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
    ) -> pl.DataFrame:
        """Rank chains by the pooled score of their out-of-fold predictions.

        Parameters
        ----------
        n : int, optional
            Rows to return; None for all.
        metric : str, optional
            E.g. "rmse" (the RMSECV), "r2", "rpd", "balanced_accuracy"; by default that of the task:
            rmse for regression, balanced accuracy for classification.
        dataset_name, run_id, pipeline_id, chain_id, model_class : str, optional
            Filters, joined by AND; `model_class` may hold ``%``.
        task_type : {"regression", "classification"}, optional
            Needed where both are found and the metric does not tell.
        ascending : bool, optional
            Order, where it is not to follow from the metric.

        Returns
        -------
        polars.DataFrame
            A row a chain: ids, ``pipeline`` (as in ``SNV > SG(deriv=1) > PLS(10)``), ``metric``,
            ``score`` (pooled) and ``score_sd`` (over folds), ``refit_score``, ``test_score``, for a
            regression rmsecv, rmsec, rmsep, mae, bias, sep, r2, rpd, rpiq, for a classification
            accuracy, balanced_accuracy, f1, log_loss; ``n_folds``, ``n_samples``.

        Raises
        ------
        InvalidInput
            An unknown metric (the nearest is suggested), or tasks that cannot be ranked together.
        """
        return leaderboard.top_chains(
            self._engine,
            n,
            metric,
            ascending,
            task_type,
            dataset_name=dataset_name,
            run_id=run_id,
            pipeline_id=pipeline_id,
            chain_id=chain_id,
            model_class=model_class,
        )

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
    ) -> pl.DataFrame:
        """Count, mean, standard deviation, minimum and maximum of a score column by group.

        Raises
        ------
        InvalidInput
            An unknown group_by or metric column.
        """
        filters = {
            "dataset_name": dataset_name,
            "model_class": model_class,
            "partition": partition,
            "fold_id": fold_id,
            "pipeline_id": pipeline_id,
            "run_id": run_id,
        }
        return self._engine.query(lambda con: ranking.aggregate(con, group_by, metric, **filters))

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
    ) -> pivoting.Pivot:
        """Table of one pooled score: a row a preprocessing, a column a model (or other kinds).

        Parameters
        ----------
        rows, columns : str
            preprocessings, model_class, model_name, dataset_name, run_id or run_name.
        metric : str, optional
            As for `top_chains`.
        aggregate : {"best", "min", "max", "mean", "median"}
            What stands in a cell that several chains share.

        Returns
        -------
        Pivot
            ``.frame`` is a polars.DataFrame; ``.to_markdown()``, ``.to_latex()``, ``.to_csv()``.
        """
        pivoting.check_kinds(rows, columns, aggregate)
        ranked = self.top_chains(None, metric, dataset_name, run_id, task_type=task_type)
        return pivoting.make_pivot(ranked, rows, columns, aggregate, metric)

    def compare(self, run_or_chain_ids: Sequence[str], only_differences: bool = True) -> pl.DataFrame:
        """Configuration, environment and scores of runs or chains side by side.

        Parameters
        ----------
        run_or_chain_ids : sequence of str
            At least two ids.
        only_differences : bool
            Leave out what is the same everywhere.

        Returns
        -------
        polars.DataFrame
            A row an item, a column an id.

        Raises
        ------
        UnknownId, InvalidInput
        """
        return comparison.compare(self._engine, run_or_chain_ids, only_differences=only_differences)

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pl.DataFrame:
        """Ask the catalog in SQL: exactly one SELECT statement, read-only.

        Parameters
        ----------
        query : str
            E.g. ``SELECT name, status FROM runs WHERE name = ?``.
        params : sequence or mapping, optional
            Values for ``?`` or ``$name``.

        Raises
        ------
        InvalidInput
            Anything but one SELECT, before it runs; or what DuckDB says is wrong with it.
        """
        text, values = people_sql.check_text(query), people_sql.check_params(params)
        return self._engine.query(lambda con: people_sql.ask(con, text, values), committed=True)
