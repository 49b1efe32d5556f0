"""`Evaluations`: what was evaluated, how well, and who leads. Offered as `store.evaluations`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from nirs_store.catalog import evaluation_rows as rows
from nirs_store.catalog.engine import Engine
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.lazily import polars as pl
from nirs_store.registry.audit import note
from nirs_store.registry.evaluations import chains, succession
from nirs_store.registry.evaluations.crowning import Crowning
from nirs_store.registry.evaluations.entries import TABLES, table_of
from nirs_store.registry.evaluations.recording import STATUSES, one_of, record
from nirs_store.registry.evaluations.tables import export_table

__all__ = ["Evaluations"]

Replay = Callable[[str, Any, Any], np.ndarray]


class Evaluations(Crowning):
    """Evaluations of models on suites: recorded, ranked, compared, summarised.

    Parameters
    ----------
    engine : Engine
    replay : callable
        Predicts with a chain: ``replay(chain_id, X, wavelengths)``.

    Examples
    --------
    >>> import tempfile
    >>> from nirs_store import WorkspaceStore
    >>> folder = tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     first = store.evaluations.record("baseline", "loop", {"global_score": 0.82}, success_rate=0.88)
    ...     second = store.evaluations.record("enhanced", "loop", {"global_score": 0.87}, success_rate=0.92)
    ...     store.evaluations.champions()["model_id"].to_list()
    ['enhanced']
    >>> folder.cleanup()
    """

    def __init__(self, engine: Engine, replay: Replay) -> None:
        super().__init__(engine)
        self._replay = replay

    # -- recording -----------------------------------------------------------------------------

    def record(
        self,
        model_id: str,
        suite: str,
        scores: Mapping[str, float] | float,
        *,
        success_rate: float | None = None,
        episodes: Any = None,
        samples: Any = None,
        metric: str | None = None,
        better: str | None = None,
        chain_id: str | None = None,
        run_id: str | None = None,
        evaluation_id: str | None = None,
        status: str = "completed",
        champion: bool = True,
        files: Sequence[str] = (),
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        seeds: int | Sequence[int] | Mapping[str, int] | None = None,
        parameters: Mapping[str, Any] | None = None,
        container: str | None = None,
        message: str | None = None,
        created_at: datetime | None = None,
    ) -> str:
        """Record an evaluation; durable when this returns.

        Parameters
        ----------
        model_id, suite : str
            Any names: what was evaluated, and on what.
        scores : mapping of str to float, or float
            A single number is called ``score``. NaN counts as unknown.
        success_rate : float, optional
            Between 0 and 1; by default the mean of the column ``success`` of `episodes`.
        episodes, samples : data frame or list of dicts, optional
            A row an episode, or a sample (with ``y_true`` and ``y_pred``). Intervals, tables by group and
            comparisons are made from them. Kept once as a Parquet blob.
        metric : str, optional
            The score that ranks. By default the one that the suite goes by, else ``global_score``, ``score`` or
            the first one.
        better : {"higher", "lower", "zero"}, optional
            In which direction the metric improves, for names that this library does not know; higher by default.
        chain_id, run_id : str, optional
            A chain and a run of this store that it belongs to.
        evaluation_id : str, optional
            An id of your own: letters, digits, ``_``, ``.`` and ``-``.
        status : {"completed", "failed", "in_progress", "pending"}
            Only completed evaluations are ranked.
        champion : bool
            Make it champion if it is better than whoever leads (and was not set by hand).
        files : sequence of str
            Ids of file versions that belong to it.
        tags, metadata
            Anything to find it by; plain data.
        seeds, parameters, container
            For `nirs_store.capture_environment`, whose answer is kept with it.
        message : str, optional
            For instance why it failed.
        created_at : datetime, optional
            When it was done; now by default.

        Returns
        -------
        str
            Its id.

        Raises
        ------
        InvalidInput, UnknownId
            Nothing was recorded.
        """
        return record(
            self._engine,
            model_id,
            suite,
            scores,
            success_rate=success_rate,
            episodes=episodes,
            samples=samples,
            metric=metric,
            better=better,
            chain_id=chain_id,
            run_id=run_id,
            evaluation_id=evaluation_id,
            status=status,
            champion=champion,
            files=files,
            tags=tags,
            metadata=metadata,
            seeds=seeds,
            parameters=parameters,
            container=container,
            message=message,
            created_at=created_at,
        )

    def record_chain(
        self,
        chain_id: str,
        X: Any,
        y: Any,
        suite: str,
        *,
        groups: Any = None,
        wavelengths: Any = None,
        model_id: str | None = None,
        **facts: Any,
    ) -> str:
        """Evaluate a chain of this store on spectra with known values, and record it.

        Parameters
        ----------
        chain_id : str
        X, wavelengths
            As for `WorkspaceStore.replay_chain`.
        y : array-like of shape (n,)
            Measured values or true labels.
        suite : str
            What the samples are called together, for instance ``"harvest 2025"``.
        groups : data frame, mapping or array-like, optional
            A column (``group``) or several, a value a sample: for tables by group and curves.
        model_id : str, optional
            By default the chain's id.
        **facts
            Whatever `record` takes besides scores and tables.

        Returns
        -------
        str
            The evaluation's id. Its scores are those of `nirs_store.scores`, the RMSE called ``rmsep``, and it is
            ranked by that or by ``balanced_accuracy``; its table has ``sample, y_true, y_pred`` and the groups.

        Raises
        ------
        UnknownId, ReplayError, ShapeMismatch, InvalidInput
            Nothing was recorded.
        """
        refused = {"scores", "samples", "chain_id"} & facts.keys()
        if refused:
            raise InvalidInput(f"{', '.join(sorted(refused))}: record_chain makes them itself.")
        predicted = self._replay(chain_id, X, wavelengths)
        scores, metric, samples = chains.evaluate(X, y, predicted, groups)
        return self.record(
            model_id or chain_id,
            suite,
            scores,
            chain_id=chain_id,
            samples=samples,
            **{"metric": metric, **facts},
        )

    def delete(self, evaluation_id: str) -> bool:
        """Delete an evaluation, its tables' hold and what it made champion; False when there was none.

        Whoever stands below it moves up a rank; where nobody does, whoever held the rank before holds it again.
        """
        deleted = self._engine.change(lambda con: succession.delete(con, evaluation_id))
        note(self._engine, "delete_evaluation", "evaluation", evaluation_id, success=deleted)
        return deleted

    def plan_delete(self, evaluation_id: str) -> Sequence[dict[str, Any]]:
        """Tell which ranks change hands when an evaluation is deleted, and change nothing.

        Returns
        -------
        sequence of dict
            ``suite, metric, rank, model_id`` (who holds it) and ``next_model`` (None: nobody).
        """
        return self._engine.query(lambda con: succession.plan(con, evaluation_id))

    # -- looking -------------------------------------------------------------------------------

    def get(self, evaluation_id: str) -> dict[str, Any] | None:
        """One evaluation with its JSON decoded, or None."""
        return self._engine.query(lambda con: rows.evaluation_of(con, evaluation_id))

    def list(
        self,
        *,
        model_id: str | None = None,
        suite: str | None = None,
        chain_id: str | None = None,
        run_id: str | None = None,
        status: str | None = None,
        tags: Sequence[str] = (),
        limit: int | None = None,
    ) -> pl.DataFrame:
        """Evaluations, oldest first; `limit` takes the newest. JSON columns are text.

        Raises
        ------
        InvalidInput
            An unknown status; the nearest is suggested.
        """
        if status is not None:
            one_of("status", status, STATUSES)
        wanted = [tags] if isinstance(tags, str) else [*tags]
        filters = {
            "model_id": model_id,
            "suite": suite,
            "chain_id": chain_id,
            "run_id": run_id,
            "status": status,
        }
        return self._engine.query(lambda con: rows.evaluation_rows(con, filters, tags=wanted, limit=limit))

    def history(self, model_id: str | None = None, suite: str | None = None) -> pl.DataFrame:
        """What was recorded of a model or on a suite, oldest first, with one column a score."""
        from nirs_store.catalog.values import from_json

        found = self.list(model_id=model_id, suite=suite)
        names = ("evaluation_id", "model_id", "suite", "status", "metric", "success_rate", "created_at")
        scores = [from_json(text) for text in found["scores"]] if found.height else []
        columns = list_of_names(scores)
        taken = {name: f"score.{name}" if name in names else name for name in columns}
        return found.select(names).with_columns(
            pl.Series(taken[name], [each.get(name) for each in scores], pl.Float64) for name in columns
        )

    def episodes(self, evaluation_id: str) -> pl.DataFrame | None:
        """The table of episodes, checked against its hash; None where none was recorded."""
        return self._table(evaluation_id, "episodes")

    def samples(self, evaluation_id: str) -> pl.DataFrame | None:
        """The table of samples, checked against its hash; None where none was recorded."""
        return self._table(evaluation_id, "samples")

    def export(
        self, evaluation_id: str, folder: str | Path, *, what: str = "episodes", format: str = "both"
    ) -> dict[str, Path]:
        """Write episodes or samples as CSV, as JSON with the facts of the evaluation, or as both.

        Parameters
        ----------
        folder : str or Path
            Made when missing; the files are ``<evaluation_id>-<what>.csv`` and ``.json``.
        what : {"episodes", "samples"}
        format : {"csv", "json", "both"}

        Returns
        -------
        dict of str to Path

        Raises
        ------
        UnknownId, InvalidInput
        """
        one_of("what", what, TABLES)
        table = self._table(evaluation_id, what)
        if table is None:
            raise InvalidInput(
                f"what: evaluation {evaluation_id} was recorded without {what}. Nothing was written."
            )
        evaluation = self._require(evaluation_id)
        facts = {name: value for name, value in evaluation.items() if not name.endswith("s_id")}
        return export_table(table, facts, Path(folder).absolute(), evaluation_id, what, format)

    def _table(self, evaluation_id: str, what: str) -> pl.DataFrame | None:
        return table_of(self._engine, self._require(evaluation_id), what)

    def _require(self, evaluation_id: str) -> dict[str, Any]:
        found = self.get(evaluation_id)
        if found is None:
            raise UnknownId("evaluation", evaluation_id)
        return found


def list_of_names(scores: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """Names of all scores, in the order in which they first come."""
    return [*dict.fromkeys(name for each in scores for name in each)]
