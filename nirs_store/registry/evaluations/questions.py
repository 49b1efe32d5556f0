"""What is asked of evaluations: champions, leaderboards, comparisons, curves, trends, a summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nirs_store.catalog import evaluation_rows as rows
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.values import from_json
from nirs_store.lazily import polars as pl
from nirs_store.registry.evaluations import boards, comparisons
from nirs_store.registry.evaluations.comparisons import ModelComparison
from nirs_store.registry.evaluations.page import Summary
from nirs_store.registry.evaluations.summary import summarise

__all__ = ["Questions"]


class Questions:
    """The questions of `Evaluations`; each changes nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def suites(self) -> list[str]:
        """Names of all suites."""
        return self._engine.query(rows.suites)

    def champions(self, suite: str | None = None, metric: str | None = None) -> pl.DataFrame:
        """Who holds which rank now.

        Returns
        -------
        polars.DataFrame
            ``suite, metric, rank, model_id, value``, ``previous_model``, ``improvement`` (in the metric; positive is
            better), ``improvements`` (JSON, by score), ``chosen_by`` ("found" or "hand"), ``made_at`` and more.
        """
        return _with_gain(self._engine.query(lambda con: rows.champion_rows(con, suite=suite, metric=metric)))

    def progression(
        self,
        suite: str | None = None,
        metric: str | None = None,
        *,
        rank: int | None = 1,
        limit: int | None = None,
    ) -> pl.DataFrame:
        """How champions followed each other, oldest first; `limit` takes the newest. Columns as `champions`."""
        return _with_gain(
            self._engine.query(
                lambda con: rows.champion_rows(
                    con, suite=suite, metric=metric, rank=rank, current=False, limit=limit
                )
            )
        )

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
        """Rank the models of a suite, with bootstrap confidence intervals.

        Parameters
        ----------
        suite : str
        metric : str, optional
            By default what the suite goes by.
        models : sequence of str, optional
            Only these.
        which : {"latest", "best", "all"}
            The evaluation of each model that counts.
        confidence : float
        n_resamples, seed : int
            Of `scipy.stats.bootstrap`; the same seed gives the same interval.

        Returns
        -------
        polars.DataFrame
            ``rank, model_id, evaluation_id, metric, value, ci_low, ci_high, n, success_rate, champion,
            created_at``. Value and interval come from the episodes or samples where these have the metric; else the
            value is what was recorded, without an interval.

        Raises
        ------
        UnknownId, InvalidInput
        """
        return boards.leaderboard(
            self._engine,
            suite,
            metric,
            models=models,
            which=which,
            confidence=confidence,
            n_resamples=n_resamples,
            seed=seed,
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
        """Give a metric for each group of episodes or samples, for instance each map or instrument.

        Parameters
        ----------
        by : str
            A column of the tables.
        wide : bool
            A row a model and a column a group, values only.
        models, which, confidence, n_resamples, seed
            As for `leaderboard`.

        Returns
        -------
        polars.DataFrame
            ``model_id``, the group, ``metric, value, ci_low, ci_high, n``.

        Raises
        ------
        UnknownId, InvalidInput
        """
        return boards.by_group(
            self._engine,
            suite,
            by,
            metric,
            models=models,
            which=which,
            wide=wide,
            confidence=confidence,
            n_resamples=n_resamples,
            seed=seed,
        )

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
        """Compare every model with every other on the same episodes or samples.

        Parameters
        ----------
        test : {"wilcoxon", "t-test"}
            `scipy.stats.wilcoxon` or `scipy.stats.ttest_rel`, on what each row contributes to the metric.
        correction : {"bh", "by", "holm", "none"}
            For the number of tests.
        pair_by : str, optional
            The column that says which rows belong together; by default ``episode_id``, ``sample`` and the like, else
            the order of the rows.
        alpha : float
            Below which corrected p value a difference is called significant.

        Raises
        ------
        UnknownId, InvalidInput
        """
        return comparisons.compare(
            self._engine,
            suite,
            metric,
            models=models,
            which=which,
            test=test,
            correction=correction,
            pair_by=pair_by,
            alpha=alpha,
        )

    def pareto(
        self,
        suite: str,
        objectives: Sequence[str] | Mapping[str, str],
        *,
        models: Sequence[str] | None = None,
        which: str = "latest",
    ) -> pl.DataFrame:
        """Find the models that no other beats in all objectives at once.

        Parameters
        ----------
        objectives : sequence of str, or mapping of str to {"higher", "lower", "zero"}
            At least two scores, or columns of the tables.

        Returns
        -------
        polars.DataFrame
            ``model_id, evaluation_id``, the objectives, ``on_front``, ``dominated_by`` (how many models).

        Raises
        ------
        UnknownId, InvalidInput
        """
        return boards.pareto(self._engine, suite, objectives, models=models, which=which)

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
        """Follow a metric along a column of numbers, for instance the strength of a disturbance.

        Returns
        -------
        polars.DataFrame
            ``model_id``, the level, ``metric, value, ci_low, ci_high, n``, ``change`` (from the lowest level).

        Raises
        ------
        UnknownId, InvalidInput
        """
        return boards.robustness(
            self._engine,
            suite,
            by,
            metric,
            models=models,
            which=which,
            confidence=confidence,
            n_resamples=n_resamples,
            seed=seed,
        )

    def trend(self, suite: str, metric: str | None = None, *, model_id: str | None = None) -> pl.DataFrame:
        """Follow the recorded values over time.

        Returns
        -------
        polars.DataFrame
            ``created_at, model_id, evaluation_id, metric, value, change`` (from the one before), ``best_so_far``,
            and, from three values on, ``fitted`` and ``slope_per_day`` of `scipy.stats.theilslopes`.

        Raises
        ------
        UnknownId, InvalidInput
        """
        return boards.trend(self._engine, suite, metric, model_id=model_id)

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
        """Sum a suite up on a page, with recommendations.

        Parameters
        ----------
        by : str, optional
            A column of the tables to look for the weakest group in.
        alpha, confidence, n_resamples, seed
            As for `compare` and `leaderboard`.

        Returns
        -------
        Summary
            ``.to_markdown()``, ``.to_html()``, ``.save(path)``, ``.recommendations``.

        Raises
        ------
        UnknownId, InvalidInput
        """
        drawing = {"confidence": confidence, "n_resamples": n_resamples, "seed": seed}
        return summarise(self._engine, suite, metric, by=by, alpha=alpha, **drawing)


def _with_gain(found: pl.DataFrame) -> pl.DataFrame:
    """The improvement in the metric itself as a column of its own."""
    gains = [(from_json(row["improvements"]) or {}).get(row["metric"]) for row in found.iter_rows(named=True)]
    return found.with_columns(pl.Series("improvement", gains, pl.Float64))
