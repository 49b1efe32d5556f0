"""Deleting and cleaning: plan, then execute."""

from __future__ import annotations

from typing import Literal, overload

from nirs_store.catalog import deletion
from nirs_store.catalog.access import Connection
from nirs_store.facade.base import Facade
from nirs_store.upkeep.gc import GRACE_SECONDS, GcPlan

__all__ = ["UpkeepMethods"]


class UpkeepMethods(Facade):
    """Deletion, garbage collection, vacuum."""

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
