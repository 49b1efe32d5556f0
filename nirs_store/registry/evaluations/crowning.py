"""Setting champions by hand, and finding them again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nirs_store.catalog.access import Connection
from nirs_store.errors import NirsStoreError
from nirs_store.lazily import polars as pl
from nirs_store.registry import audit
from nirs_store.registry.evaluations import champions
from nirs_store.registry.evaluations.questions import Questions

__all__ = ["Crowning"]


class Crowning(Questions):
    """What changes champions."""

    def set_champion(
        self, evaluation_id: str, *, metric: str | None = None, rank: int = 1, note: str | None = None
    ) -> str:
        """Set a champion of an evaluation's suite by hand; it stays until another is set or found.

        Returns
        -------
        str
            Id of the change.

        Raises
        ------
        UnknownId, InvalidInput
            Nothing was changed.
        """
        made = self._crowning(
            "set_champion",
            evaluation_id,
            lambda con: champions.choose(con, evaluation_id, metric, rank, note),
        )
        return str(made)

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
        evaluation, chosen, held = self._engine.query(
            lambda con: champions.choice(con, evaluation_id, metric, rank)
        )
        return {
            "suite": evaluation["suite"],
            "metric": chosen,
            "rank": rank,
            "model_id": evaluation["model_id"],
            "evaluation_id": evaluation_id,
            "value": champions.value_of(evaluation, chosen),
            "previous_model": None if held is None else held["model_id"],
        }

    def find_champions(self, suite: str, *, metric: str | None = None, top: int = 1) -> pl.DataFrame:
        """Find the champions of a suite anew among all its evaluations, also where one was set by hand.

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
        self._crowning("find_champions", suite, lambda con: champions.find(con, suite, metric, top))
        return self.champions(suite, metric)

    def _crowning(self, operation: str, what: str, work: Callable[[Connection], Any]) -> Any:
        try:
            made = self._engine.change(work)
        except NirsStoreError as error:
            audit.note(self._engine, operation, "evaluation", what, success=False, message=str(error))
            raise
        audit.note(self._engine, operation, "evaluation", what)
        return made
