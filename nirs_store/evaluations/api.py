"""`Evaluations`: what `store.evaluations` is, and the index of what it offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nirs_store.addresses import user_path
from nirs_store.db.session import Engine
from nirs_store.errors import InvalidInput
from nirs_store.evaluations import champions, leaderboards, report, rows, statistics, tables
from nirs_store.evaluations import record as recording
from nirs_store.evaluations.report import Summary
from nirs_store.evaluations.statistics import ModelComparison
from nirs_store.lazy import polars as pl
from nirs_store.records.lookup import whole_ids

Replay = Callable[[str, Any, Any], NDArray[Any]]
# `list` is a method below.
Names = list[str]


class Evaluations:
    """Evaluations of models on suites: recorded, ranked, compared, summarized.

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
        self._engine = engine
        self._replay = replay

    # -- recording -----------------------------------------------------------------------------

    @whole_ids
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
            One row per episode, or per sample (with ``y_true`` and ``y_pred``). Intervals, tables by group and
            comparisons are made from them. Kept once as a Parquet blob.
        metric : str, optional
            Metric to rank by. By default the suite's metric, else ``global_score``, ``score`` or
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
            Make it champion if it is better than the present one (unless that was set by hand).
        files : sequence of str
            Ids of file versions that belong to it.
        tags, metadata
            Labels to search by; plain data.
        seeds, parameters, container
            For `nirs_store.capture_environment`, whose result is stored with the evaluation.
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
        about = {k: v for k, v in locals().items() if k not in ("self", "model_id", "suite", "scores")}
        return recording.record(self._engine, model_id, suite, scores, about)

    @whole_ids
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
            A column (``group``) or several, one value per sample: for tables by group and curves.
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
        scores, metric, samples = recording.evaluate(X, y, predicted, groups)
        return self.record(
            model_id or chain_id,
            suite,
            scores,
            chain_id=chain_id,
            samples=samples,
            **{"metric": metric, **facts},
        )

    def delete(self, evaluation_id: str, *, now: bool = False) -> bool:
        """Delete an evaluation with its tables and what it made champion; False when there was none.

        The models below it move up a rank; where there are none, the model that held the rank before holds it again.

        Parameters
        ----------
        evaluation_id : str
        now : bool
            False puts it into the trash: `store.trash.restore` brings it back, with its tables and ranks. A rank
            that was given since stays as it is.
        """
        return champions.delete(self._engine, evaluation_id, now=now)

    def plan_delete(self, evaluation_id: str) -> Sequence[dict[str, Any]]:
        """Tell which ranks change hands when an evaluation is deleted, and change nothing.

        Returns
        -------
        sequence of dict
            ``suite, metric, rank, model_id`` (who holds it) and ``next_model`` (None: no model).
        """
        return champions.plan_delete(self._engine, evaluation_id)

    # -- looking -------------------------------------------------------------------------------

    def get(self, evaluation_id: str) -> dict[str, Any] | None:
        """Return one evaluation with its JSON decoded, or None."""
        return self._engine.query(lambda con: rows.evaluation_of(con, evaluation_id))

    @whole_ids
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
        """Return evaluations, oldest first; `limit` takes the newest. JSON columns are text.

        Raises
        ------
        InvalidInput
            An unknown status; the nearest is suggested.
        """
        which = {
            "model_id": model_id,
            "suite": suite,
            "chain_id": chain_id,
            "run_id": run_id,
            "status": status,
        }
        return tables.list_evaluations(self._engine, tags, limit, which)

    def history(self, model_id: str | None = None, suite: str | None = None) -> pl.DataFrame:
        """Return what was recorded of a model or on a suite, oldest first, with one column per score."""
        return tables.history(self.list(model_id=model_id, suite=suite))

    def episodes(self, evaluation_id: str) -> pl.DataFrame | None:
        """Return the table of episodes, checked against its hash; None where none was recorded."""
        return tables.table(self._engine, evaluation_id, "episodes")

    def samples(self, evaluation_id: str) -> pl.DataFrame | None:
        """Return the table of samples, checked against its hash; None where none was recorded."""
        return tables.table(self._engine, evaluation_id, "samples")

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
        return tables.export(self._engine, evaluation_id, user_path(folder).absolute(), what, format)

    # -- champions -----------------------------------------------------------------------------------

    @whole_ids
    def set_champion(
        self,
        evaluation_id: str | None = None,
        *,
        metric: str | None = None,
        rank: int = 1,
        note: str | None = None,
        model_id: str | None = None,
        suite: str | None = None,
        value: float | None = None,
        better: str | None = None,
        chain_id: str | None = None,
    ) -> str:
        """Set a champion of a suite by hand; it stays until another is set or found.

        Parameters
        ----------
        evaluation_id : str, optional
            The evaluation that the champion comes from. Without one, give `model_id`, `suite`, `metric` and `value`: an
            evaluation that holds this one score, tagged ``by hand``, is recorded first.
        metric, rank, note
            The metric of the rank (the evaluation's when None), the rank, and why.
        model_id, suite, value, better, chain_id
            Without an evaluation: the model, the suite, its score, ``"higher"`` or ``"lower"`` where the suite has no
            such metric yet, and the chain it is.

        Returns
        -------
        str
            Id of the change.

        Raises
        ------
        UnknownId, InvalidInput
            Nothing was changed.
        """
        if evaluation_id is None:
            score = recording.check_score(
                value, rank, {"model_id": model_id, "suite": suite, "metric": metric}
            )
            evaluation_id = self.record(
                str(model_id), str(suite), {str(metric): score}, metric=metric, better=better, chain_id=chain_id,
                champion=False, tags=["by hand"], message=note,
            )  # fmt: skip
        elif model_id is not None or suite is not None or value is not None or chain_id is not None:
            raise InvalidInput("set_champion: give an evaluation, or a model with its score, not both.")
        return champions.set_champion(self._engine, evaluation_id, metric, rank, note)

    def plan_champion(
        self, evaluation_id: str, *, metric: str | None = None, rank: int = 1
    ) -> dict[str, Any]:
        """Tell what `set_champion` would do, and change nothing.

        Returns
        -------
        dict
            ``suite, metric, rank, model_id, evaluation_id, value``, and ``previous_model``, who holds the rank now.

        Raises
        ------
        UnknownId, InvalidInput
            As `set_champion`.
        """
        return champions.plan_champion(self._engine, evaluation_id, metric, rank)

    def find_champions(self, suite: str, *, metric: str | None = None, top: int = 1) -> pl.DataFrame:
        """Find the champions of a suite among all its evaluations again, also where one was set by hand.

        Parameters
        ----------
        top : int
            How many ranks; each model holds at most one.

        Returns
        -------
        polars.DataFrame
            As `champions`.

        Raises
        ------
        UnknownId, InvalidInput
            Nothing was changed.
        """
        champions.find_champions(self._engine, suite, metric, top)
        return self.champions(suite, metric)

    def champions(self, suite: str | None = None, metric: str | None = None) -> pl.DataFrame:
        """Return who holds which rank now."""
        return champions.list_champions(self._engine, suite=suite, metric=metric)

    def progression(
        self,
        suite: str | None = None,
        metric: str | None = None,
        *,
        rank: int | None = 1,
        limit: int | None = None,
    ) -> pl.DataFrame:
        """Return how champions followed each other, oldest first; `limit` takes the newest. Columns as `champions`."""
        which = {"suite": suite, "metric": metric, "rank": rank, "limit": limit}
        return champions.list_champions(self._engine, current=False, **which)

    # -- comparing -----------------------------------------------------------------------------------

    def suites(self) -> Names:
        """Return the names of all suites."""
        return self._engine.query(rows.suites)

    def leaderboard(
        self,
        suite: str,
        metric: str | None = None,
        *,
        models: Sequence[str] | None = None,
        which: str = "latest",
        confidence: float = 0.95,
        n_resamples: int = 2000,
        seed: int = 0,
    ) -> pl.DataFrame:
        """Rank the models of a suite, with bootstrap confidence intervals."""
        return leaderboards.leaderboard(
            self._engine, suite, metric, models, which, (confidence, n_resamples, seed)
        )

    def by_group(
        self,
        suite: str,
        by: str,
        metric: str | None = None,
        *,
        models: Sequence[str] | None = None,
        which: str = "latest",
        wide: bool = False,
        confidence: float = 0.95,
        n_resamples: int = 2000,
        seed: int = 0,
    ) -> pl.DataFrame:
        """Return a metric for each group of episodes or samples, for instance each map or instrument."""
        drawing = (confidence, n_resamples, seed)
        return leaderboards.by_group(self._engine, suite, by, metric, models, which, wide, drawing)

    def compare(
        self,
        suite: str,
        metric: str | None = None,
        *,
        models: Sequence[str] | None = None,
        which: str = "latest",
        test: str = "wilcoxon",
        correction: str = "bh",
        pair_by: str | None = None,
        alpha: float = 0.05,
    ) -> ModelComparison:
        """Compare every model with every other on the same episodes or samples."""
        return statistics.compare(
            self._engine, suite, metric, models, which, test, correction, pair_by, alpha
        )

    def pareto(
        self,
        suite: str,
        objectives: Sequence[str] | Mapping[str, str],
        *,
        models: Sequence[str] | None = None,
        which: str = "latest",
    ) -> pl.DataFrame:
        """Find the models that no other beats in all objectives at once."""
        return leaderboards.pareto(self._engine, suite, objectives, models, which)

    def robustness(
        self,
        suite: str,
        by: str,
        metric: str | None = None,
        *,
        models: Sequence[str] | None = None,
        which: str = "latest",
        confidence: float = 0.95,
        n_resamples: int = 2000,
        seed: int = 0,
    ) -> pl.DataFrame:
        """Follow a metric along a column of numbers, for instance the strength of a disturbance."""
        drawing = (confidence, n_resamples, seed)
        return leaderboards.robustness(self._engine, suite, by, metric, models, which, drawing)

    def trend(self, suite: str, metric: str | None = None, *, model_id: str | None = None) -> pl.DataFrame:
        """Follow the recorded values over time."""
        return leaderboards.trend(self._engine, suite, metric, model_id)

    def summary(
        self,
        suite: str,
        metric: str | None = None,
        *,
        by: str | None = None,
        alpha: float = 0.05,
        confidence: float = 0.95,
        n_resamples: int = 2000,
        seed: int = 0,
    ) -> Summary:
        """Summarize a suite on one page, with recommendations."""
        return report.summarise(self._engine, suite, metric, by, alpha, (confidence, n_resamples, seed))
