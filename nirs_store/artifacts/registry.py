"""`ArtifactRegistry`: what stands where in a pipeline, and what needs what."""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from nirs_store.addresses import user_path
from nirs_store.artifacts.types import (
    SHORT,
    ArtifactRecord,
    ArtifactType,
    ChainNode,
    MetaModelConfig,
    derive_records,
    format_chain,
    generate_artifact_id,
    normalise_fold,
    parse_artifact_id,
    parse_chain,
)
from nirs_store.audit.trail import attempting, note
from nirs_store.blobs.durable import ensure_dir, write_file
from nirs_store.blobs.serializers import get_serializer
from nirs_store.chains.folds import chain_artifact_ids
from nirs_store.db.database import Connection
from nirs_store.db.layout import as_folder
from nirs_store.db.session import Engine, Settings
from nirs_store.db.sql import number
from nirs_store.errors import BlobCorrupt, BlobMissing, InvalidInput, SerializationError, UnknownId
from nirs_store.ids import now_naive, sha256_hex, utcnow
from nirs_store.records import artifacts
from nirs_store.records import runs as records
from nirs_store.records.artifacts import (
    add_link,
    dependents_outside,
    fetch_chains,
    fetch_files,
    fetch_records,
    forget_inputs,
    known_record,
    save_record,
)
from nirs_store.records.lookup import whole_ids, whole_ids_of
from nirs_store.records.queries import get_pipeline
from nirs_store.records.runs import require_open_pipeline

__all__ = [
    "MAX_DEPTH",
    "SCHEMA_VERSION",
    "ArtifactRegistry",
    "CleanupMethods",
    "DependencyGraph",
    "DependencyMethods",
    "FindingMethods",
    "PurgePlan",
    "RegisteringMethods",
    "View",
    "check_branches",
    "export_to_manifest",
    "find_record",
    "import_from_manifest",
    "plan_purge",
    "purge",
    "read_manifest",
    "read_records",
    "record_of",
    "running_purging",
    "select",
]


# -- Letting go of all artifacts of some pipelines: their chains and records go, their scores and logs stay.


# What a pipeline holds: by the column, and through its chains.
_OWN = (
    "(coalesce(list_contains($ids, r.pipeline_id), FALSE) OR (r.owner_kind = 'chain' AND r.owner_id IN "
    "(SELECT chain_id FROM chains WHERE list_contains($ids, pipeline_id))))"
)


def plan_purge(con: Connection, pipeline_ids: Sequence[str] | None, dataset: str | None) -> dict[str, Any]:
    """Count what `purge` would remove; changes nothing."""
    if pipeline_ids is None:
        rows = con.execute(
            "SELECT pipeline_id FROM pipelines WHERE dataset_name = ? ORDER BY pipeline_id", [dataset]
        ).fetchall()
        ids = [str(row[0]) for row in rows]
    else:
        ids = list(pipeline_ids)
    held = con.execute(
        f"""
        SELECT b.artifact_id, b.size_bytes,
            EXISTS (SELECT 1 FROM artifact_refs r WHERE r.artifact_id = b.artifact_id AND NOT {_OWN}) AS shared
        FROM blobs b WHERE EXISTS (SELECT 1 FROM artifact_refs r WHERE r.artifact_id = b.artifact_id AND {_OWN})
        ORDER BY b.artifact_id
        """,
        {"ids": ids},
    ).fetchall()
    return {
        "pipelines": tuple(ids),
        "chains": number(
            con, "SELECT count(*) FROM chains WHERE list_contains($ids, pipeline_id)", {"ids": ids}
        ),
        "records": number(
            con, "SELECT count(*) FROM artifact_records WHERE list_contains($ids, pipeline_id)", {"ids": ids}
        ),
        "artifacts": tuple(str(row[0]) for row in held if not row[2]),
        "bytes": sum(int(row[1]) for row in held if not row[2]),
        "shared": sum(bool(row[2]) for row in held),
        "needed_by": tuple(dependents_outside(con, ids)),
    }


def running_purging(con: Connection, pipeline_ids: Sequence[str], alive: Sequence[str]) -> list[str]:
    """Pipelines among these that a living session is recording."""
    return [
        str(row[0])
        for row in con.execute(
            "SELECT pipeline_id FROM pipelines WHERE list_contains($ids, pipeline_id) AND status = 'running' "
            "AND list_contains($alive, session_id) ORDER BY pipeline_id",
            {"ids": list(pipeline_ids), "alive": list(alive)},
        ).fetchall()
    ]


def purge(con: Connection, pipeline_ids: Sequence[str]) -> None:
    """Remove chains, records and references of pipelines inside the caller's transaction."""
    ids = list(pipeline_ids)
    # A prediction that another process still has under way for one of these chains has nothing to belong to.
    con.execute(
        "INSERT INTO dead SELECT chain_id, 'deleted', ? FROM chains WHERE pipeline_id IN (SELECT unnest(?))",
        [now_naive(), ids],
    )
    for statement in (
        "DELETE FROM artifact_refs WHERE pipeline_id IN (SELECT unnest($ids)) OR (owner_kind = 'chain' AND "
        "owner_id IN (SELECT chain_id FROM chains WHERE pipeline_id IN (SELECT unnest($ids))))",
        "DELETE FROM artifact_links WHERE pipeline_id IN (SELECT unnest($ids))",
        "DELETE FROM artifact_records WHERE pipeline_id IN (SELECT unnest($ids))",
        "UPDATE predictions SET chain_id = NULL WHERE chain_id IN "
        "(SELECT chain_id FROM chains WHERE pipeline_id IN (SELECT unnest($ids)))",
        "DELETE FROM chains WHERE pipeline_id IN (SELECT unnest($ids))",
    ):
        con.execute(statement, {"ids": ids})


# -- What the views of the artifact layer stand on: the engine of an open workspace, and a scope.


class View:
    """A view on a workspace, limited to a data set and a pipeline where they are named.

    Parameters
    ----------
    workspace : WorkspaceStore, str or Path
        An open store, or the folder of one, which is then opened here and closed by `close`.
    dataset : str
        Name of a data set; empty for all.
    pipeline_id : str
        A pipeline; empty for all.
    """

    def __init__(self, workspace: Any, dataset: str = "", pipeline_id: str = "") -> None:
        found = workspace if isinstance(workspace, Engine) else getattr(workspace, "_engine", None)
        self._owned = not isinstance(found, Engine)
        if isinstance(found, Engine):
            self._engine = found
        elif isinstance(workspace, (str, Path)):
            self._engine = Engine.open(Settings(as_folder(workspace, "workspace")))
            weakref.finalize(self, self._engine.finish)
        else:
            raise InvalidInput(
                f"workspace: expected an open store or the path of a workspace, found {type(workspace).__name__}."
            )
        self.dataset = dataset or ""
        self.pipeline_id = pipeline_id or ""

    @property
    def workspace_path(self) -> Path:
        """The folder."""
        return self._engine.layout.root

    def close(self) -> None:
        """Close the workspace if it was opened here."""
        if self._owned:
            self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        scope = "".join(
            f", {name}={value!r}"
            for name, value in (("dataset", self.dataset), ("pipeline_id", self.pipeline_id))
            if value
        )
        return f"{type(self).__name__}({str(self.workspace_path)!r}{scope})"


# -- Records as the catalog has them: those that were registered, and those that chains imply.


SOURCE = "source"
DEPENDS = "depends_on"


def read_records(
    engine: Engine,
    *,
    dataset: str | None = None,
    pipeline_id: str | None = None,
    run_id: str | None = None,
    chain_id: str | None = None,
) -> list[ArtifactRecord]:
    """Give all records of a scope, in the order of their making."""
    return engine.query(
        lambda con: records_in(
            con, dataset=dataset, pipeline_id=pipeline_id, run_id=run_id, chain_id=chain_id
        )
    )


def records_in(
    con: Connection,
    *,
    dataset: str | None = None,
    pipeline_id: str | None = None,
    run_id: str | None = None,
    chain_id: str | None = None,
) -> list[ArtifactRecord]:
    """Give all records of a scope; with `chain_id` only those of one chain's artifacts."""
    scope = {"dataset_name": dataset or None, "pipeline_id": pipeline_id or None, "run_id": run_id}
    chains = fetch_chains(con, **scope, chain_id=chain_id)
    if chain_id is not None and chains:
        scope["pipeline_id"] = chains[0]["pipeline_id"]
    said = [record_of(row) for row in fetch_records(con, **scope)]
    named = [
        artifact_id
        for chain in chains
        for artifact_id in chain_artifact_ids(
            chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"]
        )
    ]
    files = fetch_files(con, list(dict.fromkeys(named)))
    derived = derive_records(chains, files, said)
    if chain_id is not None:
        said = [record for record in said if record.blob_id in set(named)]
    return [*said, *derived]


def find_record(engine: Engine, artifact_id: str) -> ArtifactRecord | None:
    """Give the record of an id, or None."""
    try:
        pipeline_id = parse_artifact_id(artifact_id).pipeline_id
    except InvalidInput:
        return None

    def ask(con: Connection) -> ArtifactRecord | None:
        rows = fetch_records(con, record_ids=[artifact_id])
        if rows:
            return record_of(rows[0])
        records = records_in(con, pipeline_id=pipeline_id)
        return next((record for record in records if record.artifact_id == artifact_id), None)

    return engine.query(ask)


def record_of(row: Mapping[str, Any]) -> ArtifactRecord:
    """Make a record of a row as `fetch_records` gives it."""
    needs = [link["target_id"] for link in row["links"]]
    sources = [link for link in row["links"] if link["kind"] == SOURCE]
    columns = row["feature_columns"] or []
    meta = None
    if sources or columns:
        meta = MetaModelConfig(
            [{"artifact_id": link["target_id"], "feature_index": link["feature_index"]} for link in sources],
            [str(name) for name in columns],
        )
    return ArtifactRecord(
        artifact_id=row["record_id"],
        content_hash=f"sha256:{row['content_hash'] or row['artifact_id']}",
        path=str(row["artifact_path"] or "").removeprefix("artifacts/"),
        chain_path=row["chain_path"],
        source_index=row["source_index"],
        pipeline_id=row["pipeline_id"],
        branch_path=[int(branch) for branch in row["branch_path"] or ()],
        step_index=int(row["step_index"] or 0),
        substep_index=row["substep_index"],
        fold_id=row["fold_id"],
        artifact_type=row["artifact_type"],
        class_name=row["class_name"],
        custom_name=row["custom_name"] or "",
        depends_on=list(dict.fromkeys(needs)),
        format=row["format"] or "",
        nirs4all_version=row["library_version"],
        size_bytes=int(row["size_bytes"] or 0),
        created_at=row["created_at"],
        params=row["params"] or {},
        meta_config=meta,
        blob_id=row["artifact_id"],
        input_data_hash=row["input_data_hash"],
        dataset_hash=row["dataset_hash"],
    )


# -- Cleaning up: what nothing holds, what a failed run left, what a pipeline or a data set holds.


_LOG = logging.getLogger("nirs_store.artifacts")
_GRACE = 3600.0


@dataclass(frozen=True)
class PurgePlan:
    """What a purge removes."""

    pipelines: tuple[str, ...]
    chains: int
    records: int
    artifacts: tuple[str, ...]
    bytes: int
    shared: int
    needed_by: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
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
        from nirs_store.maintenance.gc import plan_gc

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
        from nirs_store.maintenance.gc import collect, plan_gc

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
        ids = None if pipeline_ids is None else whole_ids_of(self._engine, ("pipeline",), pipeline_ids)
        return self._engine.query(lambda con: _plan(con, ids, dataset))

    @whole_ids
    def delete_pipeline_artifacts(
        self, pipeline_id: str, delete_files: bool = False, *, force: bool = False
    ) -> int:
        """Release all artifacts of a pipeline: its records and chains are removed, its scores stay.

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
            Artifacts released.

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

        This cannot be undone.

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
        from nirs_store.maintenance.gc import collect

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
        from nirs_store.maintenance.gc import plan_gc

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
    return PurgePlan(**plan_purge(con, pipeline_ids, dataset))


def _purge(engine: Engine, pipeline_ids: Sequence[str] | None, dataset: str | None, force: bool) -> PurgePlan:
    def work(con: Connection) -> PurgePlan:
        plan = _plan(con, pipeline_ids, dataset)
        if plan.needed_by and not force:
            refuse_needed(plan.needed_by)
        running = running_purging(con, plan.pipelines, engine.living_sessions())
        if running:
            raise InvalidInput(
                f"Pipeline {running[0]} is being recorded now. Nothing was changed; let it end first."
            )
        purge(con, plan.pipelines)
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
    """Refuse to remove what meta-models of other pipelines are fed by."""
    model, source = needed_by[0]
    more = f" and {len(needed_by) - 1} more" if len(needed_by) > 1 else ""
    raise InvalidInput(
        f"The meta-model {model} is fed by {source}{more}, which would go. Nothing was changed. Delete the "
        "meta-model's pipeline first, or go on with force=True (on the command line: --force): its stacked chain then "
        "keeps the blobs that it needs."
    )


def _collect(engine: Engine, artifact_ids: Sequence[str]) -> int:
    from nirs_store.maintenance.gc import collect

    return collect(engine, only=list(artifact_ids)).bytes


# -- Finding artifacts by id, hash, place, name or inputs.


class FindingMethods(CleanupMethods):
    """The part of the registry that looks up."""

    @whole_ids
    def records(
        self, pipeline_id: str | None = None, *, run_id: str | None = None, chain_id: str | None = None
    ) -> list[ArtifactRecord]:
        """Give all records of the registry's scope, in the order of their making."""
        return read_records(
            self._engine,
            dataset=self.dataset,
            pipeline_id=pipeline_id or self.pipeline_id,
            run_id=run_id,
            chain_id=chain_id,
        )

    def resolve(self, artifact_id: str) -> ArtifactRecord | None:
        """Give the record of an id, or None."""
        return find_record(self._engine, artifact_id)

    def resolve_by_hash(self, content_hash: str) -> ArtifactRecord | None:
        """Give the oldest record of some content, or None.

        Parameters
        ----------
        content_hash : str
            With or without ``sha256:``; whole, or at least its first twelve digits.

        Raises
        ------
        InvalidInput
            Too few digits, or digits that begin the hash of more than one content.
        """
        digits = str(content_hash).removeprefix("sha256:").lower()
        if len(digits) < SHORT:
            raise InvalidInput(f"content_hash: expected at least {SHORT} digits, found {content_hash!r}.")
        found: dict[str, ArtifactRecord] = {}
        for record in self.records():
            full = record.content_hash.removeprefix("sha256:")
            if full.startswith(digits):
                found.setdefault(full, record)
        if len(found) > 1:
            raise InvalidInput(
                f"{content_hash!r} begins the hashes of {len(found)} contents: {', '.join(sorted(found))}. "
                "Give more digits."
            )
        return next(iter(found.values()), None)

    def get_by_chain(
        self, chain: str | Sequence[ChainNode], fold_id: object = None, pipeline_id: str | None = None
    ) -> ArtifactRecord | None:
        """Give the record at a place, or None; the newest where several pipelines have one."""
        path, fold = format_chain(chain), normalise_fold(fold_id)
        found = [r for r in self.records(pipeline_id) if r.chain_path == path and r.fold_id == fold]
        return found[-1] if found else None

    def get_chain_prefix(
        self, chain: str | Sequence[ChainNode], pipeline_id: str | None = None
    ) -> list[ArtifactRecord]:
        """Give the records whose chain path begins with these operators."""
        nodes = parse_chain(format_chain(chain))
        return [r for r in self.records(pipeline_id) if parse_chain(r.chain_path)[: len(nodes)] == nodes]

    def get_artifacts_for_step(
        self,
        step_index: int,
        branch_path: Sequence[int] | None = None,
        source_index: int | None = None,
        fold_id: object = None,
        pipeline_id: str | None = None,
    ) -> list[ArtifactRecord]:
        """Give the records of a step that take part in a context."""
        return select(self.records(pipeline_id), step_index, branch_path, source_index, fold_id)

    def get_fold_models(
        self,
        step_index: int | None = None,
        branch_path: Sequence[int] | None = None,
        pipeline_id: str | None = None,
    ) -> list[ArtifactRecord]:
        """Give the models of the folds by number; a refit is no fold."""
        models = (ArtifactType.MODEL, ArtifactType.META_MODEL)
        found = [
            record
            for record in self.records(pipeline_id)
            if record.fold_id is not None
            and record.fold_id.isdecimal()
            and record.artifact_type in models
            and step_index in (None, record.step_index)
            and (branch_path is None or record.branch_path == list(branch_path))
        ]
        return sorted(found, key=lambda record: int(record.fold_id or 0))

    def find_artifact_by_custom_name(
        self, custom_name: str, step_index: int | None = None, pipeline_id: str | None = None
    ) -> ArtifactRecord | None:
        """Give the newest record of a name, or None."""
        found = [
            record
            for record in self.records(pipeline_id)
            if record.custom_name == custom_name and step_index in (None, record.step_index)
        ]
        return found[-1] if found else None

    def find_cached_artifact(
        self, chain: str | Sequence[ChainNode], input_data_hash: str, *, dataset_hash: str | None = None
    ) -> ArtifactRecord | None:
        """Give an object that was fitted at this place, on this data, by an earlier pipeline; or None.

        Parameters
        ----------
        chain : str or sequence of ChainNode
            Operators with whatever else the result depends on; compared as text.
        input_data_hash : str
            Hash of what it was fitted on.
        dataset_hash : str, optional
            Only of this state of the data set.
        """
        found = self.find_cached_artifacts([(chain, input_data_hash)], dataset_hash=dataset_hash)
        return found[0] if found else None

    def find_cached_artifacts(
        self, wanted: Sequence[tuple[str | Sequence[ChainNode], str]], *, dataset_hash: str | None = None
    ) -> list[ArtifactRecord]:
        """Look for several objects at once, as `find_cached_artifact` does for one.

        Parameters
        ----------
        wanted : sequence of (chain, input_data_hash)

        Returns
        -------
        list of ArtifactRecord
            Of those that were found, in the order of `wanted`.
        """
        keys = [(format_chain(chain), digest) for chain, digest in wanted]
        rows = self._engine.query(
            lambda con: fetch_records(
                con,
                input_data_hashes=[digest for _, digest in keys],
                dataset_hash=dataset_hash,
                dataset_name=self.dataset or None,
            )
        )
        # The newest of each wins, if its file is there.
        newest = {
            (row["chain_path"], row["input_data_hash"]): row
            for row in rows
            if row["artifact_path"] and self._engine.blobs.exists(row["artifact_path"])
        }
        return [record_of(newest[key]) for key in keys if key in newest]

    def invalidate_cache(self, dataset: str | None = None) -> int:
        """Have nothing that was fitted on a data set be found by `find_cached_artifact` any more.

        Parameters
        ----------
        dataset : str, optional
            The registry's own by default. What was recorded stays, and replays as before.

        Returns
        -------
        int
            Records that were found until now.

        Raises
        ------
        InvalidInput
            No data set was named.
        """
        name = dataset or self.dataset
        if not name:
            raise InvalidInput("dataset: expected the name of a data set, found nothing.")
        return self._engine.change(lambda con: forget_inputs(con, name))


def select(
    records: Sequence[ArtifactRecord],
    step_index: int | None = None,
    branch_path: Sequence[int] | None = None,
    source_index: int | None = None,
    fold_id: object = None,
) -> list[ArtifactRecord]:
    """Give the records of a step that take part in a context, in the order in which they apply."""
    found = [
        record
        for record in records
        if step_index in (None, record.step_index)
        and record.matches_context(branch_path, source_index, fold_id)
    ]
    return sorted(
        found,
        key=lambda r: (r.step_index, r.branch_path, r.source_index or 0, r.substep_index or 0),
    )


# -- What needs what among artifacts: a graph without cycles, of bounded depth.


MAX_DEPTH = 100


class DependencyGraph:
    """Ids and the ids they need, in the order in which they were said.

    Examples
    --------
    >>> graph = DependencyGraph()
    >>> graph.add_dependencies("model", ["scaler", "pca"])
    >>> graph.add_dependency("pca", "scaler")
    >>> graph.resolve_dependencies("model")
    ['scaler', 'pca']
    """

    def __init__(self) -> None:
        self._needs: dict[str, dict[str, None]] = {}
        self._needed: dict[str, dict[str, None]] = {}

    def add_dependency(self, artifact_id: str, depends_on: str) -> None:
        """Say that one artifact needs another.

        Raises
        ------
        InvalidInput
            The other needs this one already, so neither could come first; nothing was added.
        """
        path = self._path(depends_on, artifact_id)
        if path is not None:
            raise InvalidInput(
                f"{artifact_id!r} cannot depend on {depends_on!r}: that would be a cycle, "
                f"{' needs '.join(repr(each) for each in [artifact_id, *path])}. Nothing was added."
            )
        self._needs.setdefault(artifact_id, {})[depends_on] = None
        self._needed.setdefault(depends_on, {})[artifact_id] = None

    def add_dependencies(self, artifact_id: str, depends_on: Iterable[str]) -> None:
        """Say that one artifact needs several others, in order."""
        for each in depends_on:
            self.add_dependency(artifact_id, each)

    def get_dependencies(self, artifact_id: str) -> list[str]:
        """Give what an artifact needs itself, in order."""
        return list(self._needs.get(artifact_id, ()))

    def get_dependents(self, artifact_id: str) -> list[str]:
        """Give what needs an artifact itself."""
        return list(self._needed.get(artifact_id, ()))

    def resolve_dependencies(self, artifact_id: str, max_depth: int = MAX_DEPTH) -> list[str]:
        """Give everything an artifact needs, itself left out, each after what it needs.

        Raises
        ------
        InvalidInput
            A cycle, or a path of more than `max_depth` steps.
        """
        order: dict[str, None] = {}
        depth: dict[str, int] = {}
        trail: list[str] = [artifact_id]
        stack = [iter(self.get_dependencies(artifact_id))]
        heights: list[int] = [0]
        # Without recursion: a chain of a thousand must end in this error, not in Python's own.
        while stack:
            following = next(stack[-1], None)
            if following is None:
                done, height = trail.pop(), heights.pop()
                stack.pop()
                depth[done] = height
                if stack:
                    order.setdefault(done)
                    heights[-1] = max(heights[-1], height + 1)
            elif following in trail:
                raise InvalidInput(f"The dependencies of {artifact_id!r} form a cycle through {following!r}.")
            elif following in depth:
                heights[-1] = max(heights[-1], depth[following] + 1)
            else:
                trail.append(following)
                heights.append(0)
                stack.append(iter(self.get_dependencies(following)))
            if len(trail) - 1 > max_depth or (heights and len(trail) - 1 + heights[-1] > max_depth):
                raise InvalidInput(
                    f"The dependencies of {artifact_id!r} go deeper than {max_depth} steps; that is not a pipeline."
                )
        return list(order)

    def remove_artifact(self, artifact_id: str) -> None:
        """Forget an artifact and everything said about it."""
        for needed in self._needs.pop(artifact_id, ()):
            self._needed[needed].pop(artifact_id, None)
        for dependent in self._needed.pop(artifact_id, ()):
            self._needs[dependent].pop(artifact_id, None)

    def clear(self) -> None:
        """Forget everything."""
        self._needs.clear()
        self._needed.clear()

    def _path(self, start: str, goal: str) -> list[str] | None:
        """Find a way along dependencies, if there is one."""
        came: dict[str, str | None] = {start: None}
        waiting = [start]
        while waiting:
            here = waiting.pop()
            if here == goal:
                path: list[str] = []
                step: str | None = here
                while step is not None:
                    path.append(step)
                    step = came[step]
                return path[::-1]
            for following in self._needs.get(here, ()):
                if following not in came:
                    came[following] = here
                    waiting.append(following)
        return None


# -- What needs what: links between registered artifacts, and the graph that they make.


class DependencyMethods(FindingMethods):
    """The part of the registry that knows dependencies."""

    def add_dependency(self, artifact_id: str, depends_on: str) -> None:
        """Say that one registered artifact needs another.

        Raises
        ------
        UnknownId
            One of them is not registered.
        InvalidInput
            A cycle. Nothing was recorded.
        """
        record = self.resolve(artifact_id)
        if record is None or known_record(self._engine, artifact_id, ask=True) is None:
            raise UnknownId("registered artifact", artifact_id, "Nothing was recorded.")
        link = self._link(artifact_id, depends_on, DEPENDS, None)
        graph = self.dependency_graph(depends_on)
        graph.add_dependencies(artifact_id, [*record.depends_on, depends_on])
        if depends_on not in record.depends_on:
            add_link(self._engine, artifact_id, record.pipeline_id, len(record.depends_on), link)

    def get_dependencies(self, artifact_id: str) -> list[ArtifactRecord]:
        """Give the records of what an artifact needs itself, in order."""
        record = self._require(artifact_id)
        return [self._require(each) for each in record.depends_on]

    def resolve_dependencies(self, artifact_id: str, max_depth: int = MAX_DEPTH) -> list[ArtifactRecord]:
        """Give the records of all an artifact needs, itself left out, each after what it needs.

        Raises
        ------
        UnknownId
            An id that is not registered (any more).
        InvalidInput
            A cycle, or a depth above `max_depth`.
        """
        known: dict[str, ArtifactRecord] = {}
        graph = self.dependency_graph(artifact_id, known)
        return [known[each] for each in graph.resolve_dependencies(artifact_id, max_depth)]

    def get_dependents(self, artifact_id: str) -> list[ArtifactRecord]:
        """Give the records of the registry's scope that need an artifact themselves."""
        return [record for record in self.records() if artifact_id in record.depends_on]

    def dependency_graph(
        self, artifact_id: str, known: dict[str, ArtifactRecord] | None = None
    ) -> DependencyGraph:
        """Give the graph of all that an artifact needs; `known` collects the records."""
        graph, records = DependencyGraph(), {} if known is None else known
        waiting, pipelines = [artifact_id], set()
        while waiting:
            each = waiting.pop()
            if each not in records:
                pipeline = parse_artifact_id(each).pipeline_id
                if pipeline not in pipelines:
                    pipelines.add(pipeline)
                    loaded = read_records(self._engine, pipeline_id=pipeline)
                    records.update({record.artifact_id: record for record in loaded})
                if each not in records:
                    raise UnknownId("artifact", each, f"{artifact_id!r} needs it, or is it.")
            if not graph.get_dependencies(each):
                graph.add_dependencies(each, records[each].depends_on)
                waiting += records[each].depends_on
        return graph

    def _require(self, artifact_id: str) -> ArtifactRecord:
        record = self.resolve(artifact_id)
        if record is None:
            raise UnknownId("artifact", artifact_id)
        return record

    def _link(self, artifact_id: str, target: str, kind: str, place: int | None) -> dict[str, Any]:
        if target == artifact_id:
            raise InvalidInput(f"{artifact_id!r} cannot depend on itself. Nothing was recorded.")
        known = known_record(self._engine, target, ask=True)
        if known is None:
            record = self.resolve(target)
            if record is None:
                raise UnknownId("artifact", target, f"{artifact_id!r} depends on it. Nothing was recorded.")
            known = {"artifact_id": record.blob_id}
        return {
            "kind": kind,
            "target_id": target,
            "artifact_id": known["artifact_id"],
            "feature_index": place,
        }


def check_branches(artifact_id: str, branch: list[int], sources: Sequence[ArtifactRecord]) -> None:
    """Refuse sources of branches that a meta-model is not on; one that is on no branch takes all."""
    strange = [s for s in sources if branch and s.branch_path != branch[: len(s.branch_path)]]
    if strange:
        raise InvalidInput(
            f"The meta-model {artifact_id!r} is on branch {branch}, its source {strange[0].artifact_id!r} on "
            f"{strange[0].branch_path}. Sources come from the same branch or from before it; a meta-model of "
            "several branches belongs to none."
        )


# -- Registering fitted objects under ids made from their place.


_MORE_DIGITS = (SHORT, 20, 32, 64)


class RegisteringMethods(DependencyMethods):
    """The part of the registry that records."""

    def generate_id(
        self, chain: str | Sequence[ChainNode], fold_id: object = None, pipeline_id: str | None = None
    ) -> str:
        """Make the id of an artifact from its place; another place never has the same one.

        Raises
        ------
        InvalidInput
            No pipeline was named, or the chain path is none.
        """
        path, pipeline = format_chain(chain), pipeline_id or self.pipeline_id
        for digits in _MORE_DIGITS:
            found = generate_artifact_id(pipeline, path, fold_id, digits=digits)
            known = known_record(self._engine, found, ask=False)
            if known is None or known["chain_path"] == path:
                return found
        raise InvalidInput(f"The chain path {path!r} cannot be told from that of {found!r}.")

    def register(
        self,
        obj: Any,
        artifact_id: str,
        artifact_type: ArtifactType | str,
        depends_on: Sequence[str] | None = None,
        params: Mapping[str, Any] | None = None,
        meta_config: MetaModelConfig | None = None,
        format_hint: str | None = None,
        custom_name: str | None = None,
        chain_path: str = "",
        source_index: int | None = None,
        *,
        branch_path: Sequence[int] | None = None,
        step_index: int | None = None,
        substep_index: int | None = None,
        input_data_hash: str | None = None,
        dataset_hash: str | None = None,
        blob_id: str | None = None,
    ) -> ArtifactRecord:
        """Save an object and say what it is.

        Parameters
        ----------
        obj : Any
            A fitted object; None with `blob_id`.
        artifact_id : str
            As `generate_id` makes it.
        artifact_type : ArtifactType or str
        depends_on : sequence of str, optional
            Ids of artifacts that it needs, registered already, in order.
        params : mapping, optional
            Plain data.
        meta_config : MetaModelConfig, optional
            For a meta-model; see `register_meta_model`.
        format_hint : str, optional
            Serializer; joblib when None.
        custom_name : str, optional
            A name by which `find_artifact_by_custom_name` finds it.
        chain_path : str
            Its place; branch, source, step and substep are read from its last node where not given.
        input_data_hash, dataset_hash : str, optional
            What it was fitted on, so that `find_cached_artifact` finds it.
        blob_id : str, optional
            An artifact of the store that is saved already.

        Returns
        -------
        ArtifactRecord

        Raises
        ------
        UnknownId
            No such pipeline, or something that it depends on is not registered.
        InvalidInput
            The id names another object or another place already; the pipeline has failed. Nothing was
            recorded.
        """
        engine = self._engine
        parsed = parse_artifact_id(artifact_id)
        require_open_pipeline(engine, parsed.pipeline_id)
        nodes = parse_chain(chain_path)
        last = nodes[-1] if nodes else None
        config = meta_config or MetaModelConfig()
        sources = {
            str(source["artifact_id"]): int(source["feature_index"]) for source in config.source_models
        }
        links = [self._link(artifact_id, target, SOURCE, place) for target, place in sources.items()]
        links += [
            self._link(artifact_id, target, DEPENDS, None)
            for target in dict.fromkeys(depends_on or ())
            if target not in sources
        ]
        kind = str(artifact_type)
        known = known_record(engine, artifact_id, ask=False)
        if known is not None and known["chain_path"] != chain_path:
            raise InvalidInput(
                f"{artifact_id!r} stands for the place {known['chain_path']!r} already, not {chain_path!r}. "
                "Nothing was recorded; let generate_id make the id."
            )
        name = _class_name(obj) if blob_id is None else ""
        if blob_id is None:
            blob_id = artifacts.save_artifact(
                engine, obj, name, kind, format_hint or "joblib", parsed.pipeline_id
            )
        file = artifacts.require_artifact(engine, blob_id)
        if known is not None and known["artifact_id"] != blob_id:
            raise InvalidInput(
                f"{artifact_id!r} names another object already ({known['artifact_id'][:SHORT]}…). Its record was "
                "left as it is; give the new object a fold, substep or pipeline of its own."
            )
        values = {
            "record_id": artifact_id,
            "artifact_id": blob_id,
            "pipeline_id": parsed.pipeline_id,
            "chain_path": chain_path,
            "branch_path": list(branch_path if branch_path is not None else last.branch_path if last else ()),
            "source_index": source_index if source_index is not None or last is None else last.source_index,
            "step_index": step_index if step_index is not None or last is None else last.step_index,
            "substep_index": substep_index
            if substep_index is not None or last is None
            else last.substep_index,
            "fold_id": parsed.fold_id,
            "artifact_type": kind,
            "class_name": name or file["operator_class"] or (last.class_name if last else ""),
            "custom_name": custom_name,
            "params": dict(params or {}),
            "feature_columns": list(config.feature_columns) or None,
            "input_data_hash": input_data_hash,
            "dataset_hash": dataset_hash,
            "library_version": _version(),
        }
        save_record(engine, values, links)
        self._noted.append(blob_id)
        return _record(values, links, file)

    def register_with_chain(
        self,
        obj: Any,
        chain: str | Sequence[ChainNode],
        artifact_type: ArtifactType | str,
        step_index: int,
        branch_path: Sequence[int] | None = None,
        source_index: int | None = None,
        fold_id: object = None,
        substep_index: int | None = None,
        depends_on: Sequence[str] | None = None,
        params: Mapping[str, Any] | None = None,
        meta_config: MetaModelConfig | None = None,
        format_hint: str | None = None,
        custom_name: str | None = None,
        pipeline_id: str | None = None,
        *,
        input_data_hash: str | None = None,
        dataset_hash: str | None = None,
        blob_id: str | None = None,
    ) -> ArtifactRecord:
        """Save an object under the id of its place; parameters and errors are those of `register`.

        Parameters
        ----------
        chain : str or sequence of ChainNode
            The operators up to this one, itself last. Branch, source and substep that are given here are
            written into its last node.
        step_index : int
        fold_id : int or str, optional
            A fold, or "final" for a refit.
        """
        nodes = list(parse_chain(format_chain(chain)))
        if not nodes:
            raise InvalidInput("chain: expected the operators up to this one, found nothing.")
        last = nodes[-1]
        nodes[-1] = ChainNode(
            step_index,
            last.class_name,
            tuple(branch_path) if branch_path is not None else last.branch_path,
            last.source_index if source_index is None else source_index,
            last.substep_index if substep_index is None else substep_index,
        )
        path = format_chain(nodes)
        return self.register(
            obj,
            self.generate_id(path, fold_id, pipeline_id),
            artifact_type,
            depends_on,
            params,
            meta_config,
            format_hint,
            custom_name,
            path,
            input_data_hash=input_data_hash,
            dataset_hash=dataset_hash,
            blob_id=blob_id,
        )

    def register_meta_model(
        self,
        obj: Any,
        artifact_id: str,
        source_model_ids: Sequence[str],
        feature_columns: Sequence[str] | None = None,
        params: Mapping[str, Any] | None = None,
        format_hint: str | None = None,
        *,
        chain_path: str = "",
        custom_name: str | None = None,
        blob_id: str | None = None,
    ) -> ArtifactRecord:
        """Save a model that predicts from the predictions of others.

        Parameters
        ----------
        source_model_ids : sequence of str
            In the order of its columns; all registered already.
        feature_columns : sequence of str, optional
            Names of the columns; ``<Class>_pred`` of each source by default.

        Raises
        ------
        InvalidInput
            No source, sources that are missing (all are named), another number of columns, or a source of a
            branch that this model is not on. Nothing was recorded.
        """
        ids = list(source_model_ids)
        if not ids or len(set(ids)) < len(ids):
            raise InvalidInput(f"source_model_ids: expected different models, at least one; found {ids}.")
        found = {each: self.resolve(each) for each in ids}
        missing = [each for each, record in found.items() if record is None]
        if missing:
            raise InvalidInput(
                f"The meta-model {artifact_id!r} names source models that are not registered: "
                f"{', '.join(missing)}. Nothing was recorded; register them first."
            )
        records = [record for record in found.values() if record is not None]
        columns = list(feature_columns) if feature_columns is not None else _default_columns(records)
        if len(columns) != len(ids):
            raise InvalidInput(
                f"feature_columns: expected {len(ids)} names, one a source model, found {len(columns)}."
            )
        branch = list(parse_chain(chain_path)[-1].branch_path) if chain_path else []
        check_branches(artifact_id, branch, records)
        sources = [{"artifact_id": each, "feature_index": place} for place, each in enumerate(ids)]
        return self.register(
            obj,
            artifact_id,
            ArtifactType.META_MODEL,
            params=params,
            meta_config=MetaModelConfig(sources, columns),
            format_hint=format_hint,
            custom_name=custom_name,
            chain_path=chain_path,
            blob_id=blob_id,
        )


def _default_columns(records: Sequence[ArtifactRecord]) -> list[str]:
    names = [f"{record.class_name.rpartition('.')[2]}_pred" for record in records]
    return [
        name if names.count(name) == 1 else f"{name}_{names[:place].count(name)}"
        for place, name in enumerate(names)
    ]


def _record(
    values: Mapping[str, Any], links: Sequence[Mapping[str, Any]], file: Mapping[str, Any]
) -> ArtifactRecord:
    names = ("artifact_path", "content_hash", "format", "size_bytes")
    return record_of(
        {**values, **{name: file[name] for name in names}, "links": links, "created_at": utcnow()}
    )


def _class_name(obj: Any) -> str:
    from nirs_store.estimators import class_path

    cls = type(obj)
    try:
        return class_path(cls)
    except (SerializationError, ImportError):  # a class of a notebook, which nobody can import
        return f"{cls.__module__}.{cls.__qualname__}"


def _version() -> str:
    from nirs_store.bundle.manifest import library_version

    return library_version()


class ArtifactRegistry(RegisteringMethods):
    """Fitted objects by their place in a pipeline: a view on a workspace and its blobs.

    What is registered here is an artifact of the store like any other, held by its record. What only a
    chain names is found here too, under an id made from its place.

    Parameters
    ----------
    workspace : WorkspaceStore, str or Path
    dataset, pipeline_id : str
        Limit lists and purges; `pipeline_id` is also that of new ids.

    Examples
    --------
    >>> import tempfile
    >>> from nirs_store import WorkspaceStore
    >>> folder = tempfile.TemporaryDirectory()
    >>> with WorkspaceStore(folder.name) as store:
    ...     run = store.begin_run("corn", {}, [{"name": "corn"}])
    ...     pipeline = store.begin_pipeline(run, "pls", {}, [], "corn", "")
    ...     registry = ArtifactRegistry(store, "corn", pipeline)
    ...     scaler = registry.register_with_chain({"mean": 0.5}, "s1.MSC", "transformer", 1)
    ...     model = registry.register_with_chain(
    ...         {"slope": 2.0}, "s1.MSC>s2.PLSRegression", "model", 2, fold_id=0,
    ...         depends_on=[scaler.artifact_id],
    ...     )
    ...     [record.class_name for record in registry.resolve_dependencies(model.artifact_id)]
    ['builtins.dict']
    >>> folder.cleanup()
    """

    def load_artifact(self, record: ArtifactRecord) -> Any:
        """Load the object of a record anew; its bytes are checked first."""
        return artifacts.load_artifact(self._engine, record.blob_id)

    def export_to_manifest(
        self, path: str | Path | None = None, pipeline_id: str | None = None, *, with_files: bool = False
    ) -> dict[str, Any]:
        """Describe a pipeline's artifacts, and all that they need, as a manifest of schema version 2.

        Parameters
        ----------
        path : str or Path, optional
            Write it there: a YAML file, or a folder in which it is called ``manifest.yaml``.
        pipeline_id : str, optional
            The registry's own by default.
        with_files : bool
            Put the files beside it, so that another workspace can import it.

        Returns
        -------
        dict
            The manifest.

        Raises
        ------
        UnknownId, BlobMissing, BlobCorrupt, WriteFailed
        """
        return export_to_manifest(self, path, pipeline_id, with_files=with_files)

    def import_from_manifest(
        self,
        manifest: Mapping[str, Any] | str | Path,
        results_dir: str | Path | None = None,
        *,
        pipeline_id: str | None = None,
    ) -> list[ArtifactRecord]:
        """Register what a manifest lists. Bytes are copied as they are, and never run.

        Pipelines that this workspace does not have are made, in a run of their own; ids then begin with theirs.

        Parameters
        ----------
        manifest : mapping, str or Path
        results_dir : str or Path, optional
            Folder of the files, when it is not that of the manifest.
        pipeline_id : str, optional
            Take the place of the pipeline that was exported.

        Returns
        -------
        list of ArtifactRecord

        Raises
        ------
        InvalidInput
            No manifest, or one of another schema version than 2.
        BlobMissing, BlobCorrupt
            A file is not there, or is not what the manifest says. Nothing was imported.
        """
        return import_from_manifest(self, manifest, results_dir, pipeline_id=pipeline_id)


# -- The manifest: a pipeline's artifacts as YAML, with or without their files, out of one workspace into another.


SCHEMA_VERSION = 2
_FILE = "manifest.yaml"
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_MOST_BYTES = 64 << 20


def export_to_manifest(
    registry: ArtifactRegistry,
    path: str | Path | None = None,
    pipeline_id: str | None = None,
    *,
    with_files: bool = False,
) -> dict[str, Any]:
    """Describe a pipeline's artifacts; see `ArtifactRegistry.export_to_manifest`."""
    wanted = pipeline_id or registry.pipeline_id
    if not wanted:
        raise InvalidInput("pipeline_id: expected the id of a pipeline, found nothing.")
    found = {record.artifact_id: record for record in registry.records(wanted)}
    for artifact_id in list(found):
        for record in registry.resolve_dependencies(artifact_id):
            found.setdefault(record.artifact_id, record)
    pipelines = {
        each: _described(registry._engine, each)
        for each in dict.fromkeys([wanted, *_pipelines(found.values())])
    }
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "pipeline_id": wanted,
        "dataset": pipelines[wanted]["dataset_name"],
        "pipelines": pipelines,
        "items": [record.to_dict() for record in found.values()],
    }
    if path is not None:
        target = user_path(path)
        target = target / _FILE if target.is_dir() or not target.suffix else target
        ensure_dir(target.parent)
        if with_files:
            for record in found.values():
                file = target.parent / "artifacts" / record.path
                ensure_dir(file.parent)
                write_file(file, artifacts.read_artifact(registry._engine, record.blob_id))
        # Last: who finds the manifest finds the files.
        write_file(target, yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True).encode())
    elif with_files:
        raise InvalidInput("with_files: the files need a folder; give path as well.")
    return manifest


def read_manifest(
    manifest: Mapping[str, Any] | str | Path,
) -> tuple[Mapping[str, Any], list[ArtifactRecord], Path | None]:
    """Read and check a manifest."""
    folder = None
    data: Any = manifest
    if not isinstance(manifest, Mapping):
        file = user_path(manifest)
        file = file / _FILE if file.is_dir() else file
        folder = file.parent
        try:
            if file.stat().st_size > _MOST_BYTES:
                raise InvalidInput(f"{file} is larger than {_MOST_BYTES:,} bytes; that is not a manifest.")
            data = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInput(f"{file} is not a manifest: {error}. Nothing was imported.") from error
    if not isinstance(data, Mapping) or "schema_version" not in data:
        raise InvalidInput(
            "A manifest is a mapping with 'schema_version'; this has none, as manifests of version 1 have not. "
            f"Expected schema version {SCHEMA_VERSION}. Nothing was imported."
        )
    version = data["schema_version"]
    if isinstance(version, bool) or version != SCHEMA_VERSION:
        raise InvalidInput(
            f"This manifest has the schema version {version!r}; this library reads version {SCHEMA_VERSION} "
            "only. Nothing was imported; export it again with a program that writes this version."
        )
    items = data.get("items")
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise InvalidInput("The 'items' of a manifest are a list of records. Nothing was imported.")
    try:
        found = [ArtifactRecord.from_dict(item) for item in items]
    except (TypeError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(
            f"An item of the manifest is not a record: {error}. Nothing was imported."
        ) from error
    for record in found:
        parse_artifact_id(record.artifact_id)
        if not _HASH.fullmatch(str(record.content_hash)):
            raise InvalidInput(
                f"{record.artifact_id}: {record.content_hash!r} is not a SHA-256. Nothing was imported."
            )
    return data, found, folder


def import_from_manifest(
    registry: ArtifactRegistry,
    manifest: Mapping[str, Any] | str | Path,
    results_dir: str | Path | None = None,
    *,
    pipeline_id: str | None = None,
) -> list[ArtifactRecord]:
    """Register what a manifest lists; see `ArtifactRegistry.import_from_manifest`."""
    data, found, folder = read_manifest(manifest)
    folder = user_path(results_dir) if results_dir is not None else folder
    engine = registry._engine
    ordered = _in_order(found)
    files = {record.content_hash: _bytes_of(engine, record, folder) for record in ordered}
    new: dict[str, str] = {str(data.get("pipeline_id")): pipeline_id} if pipeline_id else {}
    run_id = None
    begun: list[str] = []
    try:
        for old in _pipelines(ordered):
            if old in new:
                continue
            if engine.query(lambda con, each=old: get_pipeline(con, each, [])) is not None:  # type: ignore[misc]
                new[old] = old
                continue
            described = dict((data.get("pipelines") or {}).get(old) or {})
            dataset = str(described.get("dataset_name") or data.get("dataset") or "")
            if run_id is None:
                run_id = records.begin_run(
                    engine, f"import of {dataset or old}", {"manifest": old}, [{"name": dataset}]
                )
            new[old] = records.begin_pipeline(
                engine, run_id, str(described.get("name") or "imported"), {"imported_from": old}, [], dataset,
                str(described.get("dataset_hash") or ""),
            )  # fmt: skip
            begun.append(new[old])
        ids: dict[str, str] = {}
        made = []
        for record in ordered:
            record_made = _take_in(registry, record, files[record.content_hash], new, ids)
            ids[record.artifact_id] = record_made.artifact_id
            made.append(record_made)
        for each in begun:
            records.complete_pipeline(engine, each, None, None, None, None)
        if run_id is not None:
            records.complete_run(engine, run_id, {"artifacts": len(made)})
    except BaseException as error:
        if run_id is not None:
            records.fail_run(engine, run_id, str(error))
        raise
    engine.flush()
    return made


def _take_in(
    registry: ArtifactRegistry,
    record: ArtifactRecord,
    data: bytes | None,
    pipelines: Mapping[str, str],
    ids: Mapping[str, str],
) -> ArtifactRecord:
    engine = registry._engine
    parsed = parse_artifact_id(record.artifact_id)
    target = pipelines[parsed.pipeline_id]
    artifact_id = f"{target}${record.artifact_id.rpartition('$')[2]}"
    blob_id = record.blob_id
    if data is not None:
        blob_id = artifacts.save_bytes(
            engine, data, get_serializer(record.format).suffix, record.class_name, str(record.artifact_type),
            record.format, target,
        )  # fmt: skip
    config = record.meta_config
    if config is not None:
        sources = [
            {**source, "artifact_id": ids.get(source["artifact_id"], source["artifact_id"])}
            for source in config.source_models
        ]
        config = MetaModelConfig(sources, config.feature_columns)
    return registry.register(
        None,
        artifact_id,
        record.artifact_type,
        [ids.get(each, each) for each in record.depends_on],
        record.params,
        config,
        custom_name=record.custom_name or None,
        chain_path=record.chain_path,
        source_index=record.source_index,
        branch_path=record.branch_path,
        step_index=record.step_index,
        substep_index=record.substep_index,
        input_data_hash=record.input_data_hash,
        dataset_hash=record.dataset_hash,
        blob_id=blob_id,
    )


def _bytes_of(engine: Engine, record: ArtifactRecord, folder: Path | None) -> bytes | None:
    """Return the bytes that come with the manifest; None for what this workspace has already."""
    digest = record.content_hash.removeprefix("sha256:")
    try:
        artifacts.read_artifact(engine, record.blob_id)
        return None
    except UnknownId:
        pass
    suffix = get_serializer(record.format).suffix
    # Not the path that the manifest states: it may lead anywhere.
    file = None if folder is None else folder / "artifacts" / digest[:2] / f"{digest}.{suffix}"
    if file is None or not file.is_file():
        raise BlobMissing(
            f"The file of {record.artifact_id} is neither in this workspace nor at {file}. Nothing was imported; "
            "export the manifest with its files."
        )
    data = file.read_bytes()
    if sha256_hex(data) != digest:
        raise BlobCorrupt(f"{file} does not hash to its name. Nothing was imported; export it again.")
    return data


def _in_order(found: Sequence[ArtifactRecord]) -> list[ArtifactRecord]:
    graph = DependencyGraph()
    by_id = {record.artifact_id: record for record in found}
    if len(by_id) < len(found):
        raise InvalidInput("The manifest lists an id twice. Nothing was imported.")
    for record in found:
        graph.add_dependencies(record.artifact_id, record.depends_on)
    order: dict[str, None] = {}
    for record in found:
        order.update(dict.fromkeys([*graph.resolve_dependencies(record.artifact_id), record.artifact_id]))
    return [by_id[each] for each in order if each in by_id]


def _pipelines(found: Any) -> list[str]:
    return list(dict.fromkeys(parse_artifact_id(record.artifact_id).pipeline_id for record in found))


def _described(engine: Engine, pipeline_id: str) -> dict[str, Any]:
    row = engine.query(lambda con: get_pipeline(con, pipeline_id, []))
    if row is None:
        raise UnknownId("pipeline", pipeline_id, "Nothing was written.")
    return {name: row[name] for name in ("name", "dataset_name", "dataset_hash")}
