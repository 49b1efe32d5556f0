"""Cleaning up: what nothing holds, what a failed run left, what a pipeline or a data set holds.

Deletion goes through the store's own plan and gc, so what anything else holds stays, whoever recorded it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nirs_store.catalog import purging
from nirs_store.catalog.access import Connection
from nirs_store.catalog.engine import Engine
from nirs_store.errors import InvalidInput
from nirs_store.registry.audit import attempting, note
from nirs_store.registry.base import View
from nirs_store.registry.view import read_records

__all__ = ["CleanupMethods", "PurgePlan"]

_LOG = logging.getLogger("nirs_store.artifacts")
_GRACE = 3600.0


@dataclass(frozen=True)
class PurgePlan:
    """What a purge removes.

    Attributes
    ----------
    pipelines : tuple of str
        Whose chains and records go; their rows, scores and logs stay.
    chains, records : int
    artifacts : tuple of str
        That nothing else holds: their files go.
    bytes : int
    shared : int
        Artifacts that something else holds: they stay.
    needed_by : tuple of (str, str)
        Meta-models of other pipelines, and the source of theirs that would go.
    """

    pipelines: tuple[str, ...]
    chains: int
    records: int
    artifacts: tuple[str, ...]
    bytes: int
    shared: int
    needed_by: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        return asdict(self)


class CleanupMethods(View):
    """The half of the registry that removes."""

    def __init__(self, workspace: Any, dataset: str = "", pipeline_id: str = "") -> None:
        super().__init__(workspace, dataset, pipeline_id)
        # Artifacts registered here since the run began.
        self._noted: list[str] = []
        self._run_id: str | None = None

    # -- orphans -----------------------------------------------------------------------------------

    def find_orphaned_artifacts(
        self, scan_all_manifests: bool = True, *, grace_seconds: float = _GRACE
    ) -> list[str]:
        """List the files below the workspace that nothing holds.

        Parameters
        ----------
        scan_all_manifests : bool
            Taken for the sake of older callers: everything that holds an artifact is always looked at.
        grace_seconds : float
            What a session saved counts as held for so long after its end.
        """
        from nirs_store.upkeep.gc import plan_gc

        return list(plan_gc(self._engine, grace_seconds=grace_seconds).files)

    def delete_orphaned_artifacts(
        self, dry_run: bool = True, scan_all_manifests: bool = True, *, grace_seconds: float = _GRACE
    ) -> tuple[list[str], int]:
        """Remove the files that nothing holds; a dry run unless told otherwise.

        Returns
        -------
        files, size
            Which, and how many bytes; with `dry_run` those that would go.
        """
        from nirs_store.upkeep.gc import collect, plan_gc

        if dry_run:
            plan = plan_gc(self._engine, grace_seconds=grace_seconds)
            return list(plan.files), plan.bytes
        done = collect(self._engine, grace_seconds=grace_seconds)
        return list(done.plan.files), done.bytes

    # -- a pipeline, a data set --------------------------------------------------------------------

    def plan_purge(
        self, *, pipeline_ids: Sequence[str] | None = None, dataset: str | None = None
    ) -> PurgePlan:
        """Look what purging pipelines, or a data set, would remove; changes nothing."""
        return self._engine.query(lambda con: _plan(con, pipeline_ids, dataset))

    def delete_pipeline_artifacts(
        self, pipeline_id: str, delete_files: bool = False, *, force: bool = False
    ) -> int:
        """Let go of all artifacts of a pipeline: its records and chains are removed, its scores stay.

        Parameters
        ----------
        delete_files : bool
            Also remove the files that nothing else holds now; else a later gc does.
        force : bool
            Even where a meta-model of another pipeline is fed by one of them. Its own stacked chain keeps
            what it needs to replay.

        Returns
        -------
        int
            Artifacts let go of.

        Raises
        ------
        InvalidInput
            A meta-model needs one of them, or the pipeline is being recorded. Nothing was changed.
        """
        plan = _purge(self._engine, [pipeline_id], None, force)
        if delete_files and plan.artifacts:
            _collect(self._engine, plan.artifacts)
        return len(plan.artifacts) + plan.shared

    def purge_dataset_artifacts(self, confirm: bool = False, *, force: bool = False) -> tuple[list[str], int]:
        """Remove all artifacts of the registry's data set but those that something else holds.

        Returns
        -------
        artifacts, size
            Ids of the artifacts whose files were removed, and their bytes.

        Raises
        ------
        InvalidInput
            Without `confirm`, without a data set, or where a meta-model of another data set needs one of them
            (see `delete_pipeline_artifacts`). Nothing was changed.
        """
        if not self.dataset:
            raise InvalidInput("purge_dataset_artifacts: the registry was made without a data set. Name one.")
        if confirm is not True:
            raise InvalidInput(
                f"Purging removes every model of {self.dataset!r} for good. Nothing was changed; look at "
                "plan_purge(dataset=...), then call with confirm=True."
            )
        plan = _purge(self._engine, None, self.dataset, force)
        size = _collect(self._engine, plan.artifacts) if plan.artifacts else 0
        return list(plan.artifacts), size

    # -- failed runs -------------------------------------------------------------------------------

    def start_run(self, run_id: str | None = None) -> None:
        """Begin to note what is registered, for `cleanup_failed_run`."""
        self._run_id, self._noted = run_id, []

    def end_run(self) -> None:
        """Forget what was noted: the run went well."""
        self._run_id, self._noted = None, []

    def cleanup_failed_run(self) -> int:
        """Remove the files of what was registered since `start_run` and nothing holds now.

        The store itself lets go of what a failed pipeline recorded and writes that into its log; this frees
        the space at once. What another run holds stays.

        Returns
        -------
        int
            Files removed.
        """
        from nirs_store.upkeep.gc import collect

        noted = list(dict.fromkeys(self._noted))
        done = collect(self._engine, only=noted).files if noted else 0
        _LOG.info("run %s failed: %d of %d artifacts removed", self._run_id, done, len(noted))
        self.end_run()
        return done

    # -- figures -----------------------------------------------------------------------------------

    def get_stats(self) -> dict[str, Any]:
        """Count the artifacts of the registry's scope, their files, and what nothing holds.

        Returns
        -------
        dict
            total_artifacts (places), unique_files, total_size_bytes (of those files), deduplication_ratio (the
            share of places that needed no file of their own), by_type; for the whole workspace orphaned_count,
            orphaned_size_bytes, disk_usage_bytes, disk_file_count, binaries_path.
        """
        from nirs_store.upkeep.gc import plan_gc

        records = read_records(self._engine, dataset=self.dataset, pipeline_id=self.pipeline_id)
        files: dict[str, int] = {record.blob_id: record.size_bytes for record in records}
        by_type: dict[str, int] = {}
        for record in records:
            by_type[str(record.artifact_type)] = by_type.get(str(record.artifact_type), 0) + 1
        plan = plan_gc(self._engine)
        folder = self._engine.layout.artifacts
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        return {
            "total_artifacts": len(records),
            "unique_files": len(files),
            "total_size_bytes": sum(files.values()),
            "deduplication_ratio": 1.0 - len(files) / len(records) if records else 0.0,
            "by_type": dict(sorted(by_type.items())),
            "orphaned_count": len(plan.artifacts),
            "orphaned_size_bytes": plan.bytes,
            "disk_usage_bytes": sum(sizes),
            "disk_file_count": len(sizes),
            "binaries_path": str(folder),
        }


def _plan(con: Connection, pipeline_ids: Sequence[str] | None, dataset: str | None) -> PurgePlan:
    return PurgePlan(**purging.plan_purge(con, pipeline_ids, dataset))


def _purge(engine: Engine, pipeline_ids: Sequence[str] | None, dataset: str | None, force: bool) -> PurgePlan:
    def work(con: Connection) -> PurgePlan:
        plan = _plan(con, pipeline_ids, dataset)
        if plan.needed_by and not force:
            refuse_needed(plan.needed_by)
        running = purging.running(con, plan.pipelines, engine.living_sessions())
        if running:
            raise InvalidInput(
                f"Pipeline {running[0]} is being recorded now. Nothing was changed; let it end first."
            )
        purging.purge(con, plan.pipelines)
        if plan.pipelines:
            facts = {"dataset": dataset, "pipelines": list(plan.pipelines), "chains": plan.chains}
            note(engine, "purge_artifacts", "workspace", details=facts, con=con)
        return plan

    subject = pipeline_ids[0] if pipeline_ids else None
    with attempting(engine, "purge_artifacts", "pipeline" if subject else None, subject):
        plan = engine.change(work)
    for artifact_id in plan.artifacts:
        engine.known.forget("artifact", artifact_id)
    engine.known.clear()
    return plan


def refuse_needed(needed_by: Sequence[tuple[str, str]]) -> None:
    """Refuse to remove what meta-models of other pipelines are fed by.

    Raises
    ------
    InvalidInput
    """
    model, source = needed_by[0]
    more = f" and {len(needed_by) - 1} more" if len(needed_by) > 1 else ""
    raise InvalidInput(
        f"The meta-model {model} is fed by {source}{more}, which would go. Nothing was changed. Delete the "
        "meta-model's pipeline first, or go on with force=True (on the command line: --force): its stacked chain then "
        "keeps the blobs that it needs."
    )


def _collect(engine: Engine, artifact_ids: Sequence[str]) -> int:
    from nirs_store.upkeep.gc import collect

    return collect(engine, only=list(artifact_ids)).bytes
