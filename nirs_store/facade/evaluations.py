"""Evaluations of models on suites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nirs_store.catalog import queries, records
from nirs_store.catalog.environment import capture_environment
from nirs_store.catalog.values import to_json
from nirs_store.errors import UnknownId
from nirs_store.facade.base import Facade
from nirs_store.lazily import later

if TYPE_CHECKING:
    from nirs_store.registry import evaluations as evaluations_api
else:
    evaluations_api = later("nirs_store.registry.evaluations")

__all__ = ["EvaluationMethods"]


class EvaluationMethods(Facade):
    """What was evaluated, and with what."""

    _evaluations: evaluations_api.Evaluations | None = None

    @property
    def evaluations(self) -> evaluations_api.Evaluations:
        """Evaluations, champions, leaderboards, comparisons; see `nirs_store.registry.evaluations`."""
        if self._evaluations is None:
            self._evaluations = evaluations_api.Evaluations(self._engine, self._replay_of)
        return self._evaluations

    def _replay_of(self, chain_id: str, X: Any, wavelengths: Any) -> np.ndarray:
        replayed: np.ndarray = self.replay_chain(chain_id, X, wavelengths)  # type: ignore[attr-defined]
        return replayed

    def capture_environment(
        self,
        run_id: str,
        *,
        seeds: int | Sequence[int] | Mapping[str, int] | None = None,
        container: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        command: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Capture what it takes to repeat a run that has begun, and keep it with the run.

        Parameters
        ----------
        run_id : str
        seeds, container, parameters, command
            As for `nirs_store.capture_environment`.

        Returns
        -------
        dict
            What was captured; `compare`, `show_run` and `get_run` show it.

        Raises
        ------
        UnknownId, InvalidInput
        """
        records.require(self._engine, "run", run_id)
        found = capture_environment(seeds=seeds, container=container, parameters=parameters, command=command)
        text = to_json(found, "environment")
        if not self._engine.change(lambda con: queries.add_environment(con, run_id, text)):
            raise UnknownId("run", run_id, "It was deleted. Nothing was recorded.")
        return found
