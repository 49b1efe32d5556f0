"""Deleting and cleaning: plan, then execute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from nirs_store.catalog.access import Connection
from nirs_store.facade.base import Facade
from nirs_store.lazily import later
from nirs_store.registry.audit import attempted, note
from nirs_store.upkeep.durations import GRACE_SECONDS

if TYPE_CHECKING:
    from nirs_store.catalog import deletion
    from nirs_store.registry import cleanup
    from nirs_store.upkeep import findings, gc, repairplan, storage
else:
    deletion = later("nirs_store.catalog.deletion")
    cleanup = later("nirs_store.registry.cleanup")
    findings = later("nirs_store.upkeep.findings")
    gc = later("nirs_store.upkeep.gc")
    repairplan = later("nirs_store.upkeep.repairplan")
    storage = later("nirs_store.upkeep.storage")

__all__ = ["UpkeepMethods"]


class UpkeepMethods(Facade):
    """Deletion, garbage collection, vacuum, check, repair."""

    @overload
    def delete_run(
        self,
        run_id: str,
        delete_artifacts: bool = True,
        *,
        dry_run: Literal[False] = False,
        force: bool = False,
    ) -> int: ...

    @overload
    def delete_run(
        self, run_id: str, delete_artifacts: bool = True, *, dry_run: Literal[True], force: bool = False
    ) -> deletion.RunDeletion: ...

    @attempted("delete_run", "run")
    def delete_run(
        self, run_id: str, delete_artifacts: bool = True, *, dry_run: bool = False, force: bool = False
    ) -> int | deletion.RunDeletion:
        """Delete a run and everything it owns, in one transaction.

        Parameters
        ----------
        delete_artifacts : bool
            Also remove the files that nothing else holds. False keeps them for a later gc. Of many, the space is
            given back while the store goes on; `vacuum` and `close` wait for the last.
        dry_run : bool
            Return the plan and change nothing.
        force : bool
            Even where a meta-model of another run is fed by a model of this one. Its own stacked chain keeps
            the blobs that it needs to replay.

        Returns
        -------
        int or RunDeletion
            Rows deleted; 0 for an unknown run.

        Raises
        ------
        InvalidInput
            A meta-model of another run needs a model of this one. Nothing was changed.
        """
        if dry_run:
            return self._engine.query(lambda con: deletion.plan_run_deletion(con, run_id))

        def work(con: Connection) -> deletion.RunDeletion:
            needed = [] if force else deletion.needed_elsewhere(con, run_id)
            if needed:
                cleanup.refuse_needed(needed)
            gone = deletion.delete_run(con, run_id)
            if gone.rows:
                facts = {"name": gone.name, "rows": gone.rows, "artifacts": len(gone.artifacts)}
                note(self._engine, "delete_run", "run", run_id, details=facts, con=con)
            return gone

        gone = self._engine.change(work)
        self._forget()
        if delete_artifacts and gone.artifacts:
            gc.collect(self._engine, only=gone.artifacts, wait=False)
        return gone.total_rows

    @attempted("delete_prediction", "prediction")
    def delete_prediction(self, prediction_id: str) -> bool:
        """Delete a prediction with its arrays; False when there was none."""

        def work(con: Connection) -> bool:
            deleted = deletion.delete_prediction(con, prediction_id)
            if deleted:
                note(self._engine, "delete_prediction", "prediction", prediction_id, con=con)
            return deleted

        deleted = self._engine.change(work)
        self._engine.known.forget("prediction", prediction_id)
        return deleted

    @overload
    def gc_artifacts(
        self, *, dry_run: Literal[False] = False, grace_seconds: float = GRACE_SECONDS
    ) -> int: ...

    @overload
    def gc_artifacts(self, *, dry_run: Literal[True], grace_seconds: float = GRACE_SECONDS) -> gc.GcPlan: ...

    def gc_artifacts(self, *, dry_run: bool = False, grace_seconds: float = GRACE_SECONDS) -> int | gc.GcPlan:
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
        if dry_run:
            return gc.plan_gc(self._engine, grace_seconds=grace_seconds)
        return self.collect_garbage(grace_seconds=grace_seconds).files

    @attempted("gc")
    def collect_garbage(self, *, grace_seconds: float = GRACE_SECONDS) -> gc.GcResult:
        """Remove artifacts that nothing holds, as `gc_artifacts`, and say which they were.

        Returns
        -------
        GcResult
            Files and bytes removed, and the plan that was carried out.
        """
        result = gc.collect(self._engine, grace_seconds=grace_seconds)
        self._forget()
        return result

    @attempted("vacuum")
    def vacuum(self) -> None:
        """Rewrite store.duckdb without the space of deleted rows."""
        from nirs_store.upkeep.vacuum import vacuum

        vacuum(self._engine)

    def storage_report(self, *, runs: int = 10) -> storage.StorageReport:
        """Tell where the workspace's bytes are; changes nothing.

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
        return storage.storage_report(self._engine, runs=runs)

    def check(self, *, read_data: bool = False) -> findings.CheckReport:
        """Look whether everything recorded is there and belongs together; changes nothing.

        The journal is not applied; its commits are read where they lie, and their rows count. A catalog that
        cannot be opened is a finding, and the rest is checked all the same. Also for read-only stores.

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
        from nirs_store.upkeep.check import check

        engine = self._engine
        engine.flush()
        return check(engine.access, engine.layout, read_data=read_data, timeout=engine.settings.lock_timeout)

    @attempted("repair")
    def repair(self, *, dry_run: bool = False, restore_catalog: bool = False) -> repairplan.RepairPlan:
        """Put right what can be put right without inventing anything.

        Blobs that do not fit their hash, and old ones that nothing names, move to ``quarantine/``; references
        are recounted; commits that cannot be applied are set aside; leftovers are removed. Rows whose data are
        lost are kept and named in the plan.

        Parameters
        ----------
        dry_run : bool
            Return the plan and change nothing.
        restore_catalog : bool
            When the catalog cannot be read: put the newest copy that a migration kept in its place. What was
            recorded and applied since that copy is lost; the old file is kept in ``quarantine/``.

        Returns
        -------
        RepairPlan
            What was done, or with `dry_run` would be.

        Raises
        ------
        StoreBusy, WriteFailed, ReadOnlyStore
        """
        from nirs_store.upkeep.repair import execute_repair, plan_repair

        engine = self._engine
        if dry_run:
            engine.flush()
        else:
            engine.check_writable()
            engine.recorder.flush()
        plan = plan_repair(
            engine.access,
            engine.layout,
            restore_catalog=restore_catalog,
            timeout=engine.settings.lock_timeout,
        )
        if not dry_run:
            execute_repair(engine, plan)
            self._forget()
        return plan
