"""`ArtifactRegistry`: which object is where in a pipeline, and what needs what."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nirs_store.artifacts import find, register
from nirs_store.artifacts.find import find_record, read_records, record_of
from nirs_store.artifacts.graph import MAX_DEPTH, DependencyGraph
from nirs_store.artifacts.manifest import export_to_manifest, import_from_manifest
from nirs_store.artifacts.purge import PurgePlan, plan_purge, purge
from nirs_store.artifacts.types import (
    SHORT,
    ArtifactRecord,
    ArtifactType,
    ChainNode,
    MetaModelConfig,
    format_chain,
    generate_artifact_id,
    parse_chain,
)
from nirs_store.artifacts.view import View
from nirs_store.blobs.backend import BLOBS, sizes
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.records import artifacts
from nirs_store.records.artifacts import fetch_records, forget_inputs, known_record
from nirs_store.records.lookup import whole_ids, whole_ids_of

_LOG = logging.getLogger("nirs_store.artifacts")
_GRACE = 3600.0
_MORE_DIGITS = (SHORT, 20, 32, 64)


class ArtifactRegistry(View):
    """Fitted objects by their place in a pipeline: a view on a workspace and its blobs.

    An artifact registered here is an artifact of the store like any other, held by its record. What only a
    chain names is found here too, under an id made from its place.

    Parameters
    ----------
    workspace : WorkspaceStore, str or Path
    dataset, pipeline_id : str
        Limit lists and purges; `pipeline_id` is also that of new ids.

    Examples
    --------
    >>> run = store.begin_run("corn", {}, [{"name": "corn"}])
    >>> pipeline = store.begin_pipeline(run, "pls", {}, [], "corn", "")
    >>> registry = ArtifactRegistry(store, "corn", pipeline)
    >>> scaler = registry.register_with_chain({"mean": 0.5}, "s1.MSC", "transformer", 1)
    >>> model = registry.register_with_chain(
    ...     {"slope": 2.0}, "s1.MSC>s2.PLSRegression", "model", 2, fold_id=0, depends_on=[scaler.artifact_id]
    ... )
    >>> [record.class_name for record in registry.resolve_dependencies(model.artifact_id)]
    ['builtins.dict']
    """

    def __init__(self, workspace: Any, dataset: str = "", pipeline_id: str = "") -> None:
        super().__init__(workspace, dataset, pipeline_id)
        # Artifacts registered here since the run began.
        self._noted: list[str] = []
        self._run_id: str | None = None

    # -- registering ----------------------------------------------------------------------------------

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
        about = {k: v for k, v in locals().items() if k not in ("self", "obj", "artifact_id")}
        record = register.save(self._engine, obj, artifact_id, about)
        self._noted.append(record.blob_id)
        return record

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
            obj, self.generate_id(path, fold_id, pipeline_id), artifact_type, depends_on, params, meta_config,
            format_hint, custom_name, path, input_data_hash=input_data_hash, dataset_hash=dataset_hash,
            blob_id=blob_id,
        )  # fmt: skip

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
        config = register.meta_config(
            self._engine, artifact_id, chain_path, source_model_ids, feature_columns
        )
        return self.register(
            obj, artifact_id, ArtifactType.META_MODEL, None, params, config, format_hint, custom_name, chain_path,
            blob_id=blob_id,
        )  # fmt: skip

    # -- finding --------------------------------------------------------------------------------------

    @whole_ids
    def records(
        self, pipeline_id: str | None = None, *, run_id: str | None = None, chain_id: str | None = None
    ) -> list[ArtifactRecord]:
        """Return all records of the registry's scope, in the order of their making."""
        scope = {"dataset": self.dataset, "pipeline_id": pipeline_id or self.pipeline_id}
        return self._engine.query(lambda con: read_records(con, **scope, run_id=run_id, chain_id=chain_id))

    def resolve(self, artifact_id: str) -> ArtifactRecord | None:
        """Return the record of an id, or None."""
        return find_record(self._engine, artifact_id)

    def resolve_by_hash(self, content_hash: str) -> ArtifactRecord | None:
        """Return the oldest record of some content, or None.

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
        """Return the record at a place, or None; the newest where several pipelines have one."""
        return find.at_place(self.records(pipeline_id), chain, fold_id)

    def get_chain_prefix(
        self, chain: str | Sequence[ChainNode], pipeline_id: str | None = None
    ) -> list[ArtifactRecord]:
        """Return the records whose chain path begins with these operators."""
        return find.beginning_with(self.records(pipeline_id), chain)

    def get_artifacts_for_step(
        self,
        step_index: int,
        branch_path: Sequence[int] | None = None,
        source_index: int | None = None,
        fold_id: object = None,
        pipeline_id: str | None = None,
    ) -> list[ArtifactRecord]:
        """Return the records of a step that take part in a context."""
        records = self.records(pipeline_id)
        return find.taking_part(records, step_index, branch_path, source_index, fold_id)

    def get_fold_models(
        self,
        step_index: int | None = None,
        branch_path: Sequence[int] | None = None,
        pipeline_id: str | None = None,
    ) -> list[ArtifactRecord]:
        """Return the models of the folds by number; a refit is not a fold."""
        return [record for _, record in find.fold_models(self.records(pipeline_id), step_index, branch_path)]

    def find_artifact_by_custom_name(
        self, custom_name: str, step_index: int | None = None, pipeline_id: str | None = None
    ) -> ArtifactRecord | None:
        """Return the newest record of a name, or None."""
        return find.named(self.records(pipeline_id), custom_name, step_index)

    def find_cached_artifact(
        self, chain: str | Sequence[ChainNode], input_data_hash: str, *, dataset_hash: str | None = None
    ) -> ArtifactRecord | None:
        """Return an object that was fitted at this place, on this data, by an earlier pipeline; or None.

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
        """Make `find_cached_artifact` ignore everything that was fitted on a data set so far.

        Parameters
        ----------
        dataset : str, optional
            The registry's own by default. Recorded models stay, and replay as before.

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

    def load_artifact(self, record: ArtifactRecord) -> Any:
        """Load the object of a record again; its bytes are checked first."""
        return artifacts.load_artifact(self._engine, record.blob_id)

    # -- dependencies ---------------------------------------------------------------------------------

    def add_dependency(self, artifact_id: str, depends_on: str) -> None:
        """Record that one registered artifact needs another.

        Raises
        ------
        UnknownId
            One of them is not registered.
        InvalidInput
            A cycle. Nothing was recorded.
        """
        register.add_dependency(self._engine, artifact_id, depends_on)

    def get_dependencies(self, artifact_id: str) -> list[ArtifactRecord]:
        """Return the records of what an artifact needs itself, in order."""
        record = self._require(artifact_id)
        return [self._require(each) for each in record.depends_on]

    def resolve_dependencies(self, artifact_id: str, max_depth: int = MAX_DEPTH) -> list[ArtifactRecord]:
        """Return the records of all an artifact needs, itself left out, each after what it needs.

        Raises
        ------
        UnknownId
            An id that is not registered (any more).
        InvalidInput
            A cycle, or a depth above `max_depth`.
        """
        graph, known = register.dependency_graph(self._engine, artifact_id)
        return [known[each] for each in graph.resolve_dependencies(artifact_id, max_depth)]

    def get_dependents(self, artifact_id: str) -> list[ArtifactRecord]:
        """Return the records of the registry's scope that need an artifact themselves."""
        return [record for record in self.records() if artifact_id in record.depends_on]

    def dependency_graph(
        self, artifact_id: str, known: dict[str, ArtifactRecord] | None = None
    ) -> DependencyGraph:
        """Return the graph of all that an artifact needs; `known` collects the records."""
        graph, found = register.dependency_graph(self._engine, artifact_id)
        if known is not None:
            known.update(found)
        return graph

    def _require(self, artifact_id: str) -> ArtifactRecord:
        record = self.resolve(artifact_id)
        if record is None:
            raise UnknownId("artifact", artifact_id)
        return record

    # -- manifests ------------------------------------------------------------------------------------

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
            Put the files next to it, so that another workspace can import it.

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

    # -- cleaning up ----------------------------------------------------------------------------------

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

    def plan_purge(
        self, *, pipeline_ids: Sequence[str] | None = None, dataset: str | None = None
    ) -> PurgePlan:
        """List what purging pipelines, or a data set, would remove; change nothing."""
        ids = None if pipeline_ids is None else whole_ids_of(self._engine, ("pipeline",), pipeline_ids)
        return self._engine.query(lambda con: plan_purge(con, ids, dataset))

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
        CalibrationInUse
            An alias or a signature needs one of its chains, whatever `force` is. Nothing was changed.
        """
        plan = purge(self._engine, [pipeline_id], None, force)
        if delete_files and plan.artifacts:
            from nirs_store.maintenance.gc import collect

            collect(self._engine, only=list(plan.artifacts))
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
        CalibrationInUse
            An alias or a signature needs one of the chains, whatever `force` is. Nothing was changed.
        """
        if not self.dataset:
            raise InvalidInput("purge_dataset_artifacts: the registry was made without a data set. Name one.")
        if confirm is not True:
            raise InvalidInput(
                f"Purging removes every model of {self.dataset!r} for good. Nothing was changed; look at "
                "plan_purge(dataset=...), then call with confirm=True."
            )
        plan = purge(self._engine, None, self.dataset, force)
        if not plan.artifacts:
            return [], 0
        from nirs_store.maintenance.gc import collect

        return list(plan.artifacts), collect(self._engine, only=list(plan.artifacts)).bytes

    def start_run(self, run_id: str | None = None) -> None:
        """Begin to note what is registered, for `cleanup_failed_run`."""
        self._run_id, self._noted = run_id, []

    def end_run(self) -> None:
        """Forget what was noted: the run went well."""
        self._run_id, self._noted = None, []

    def cleanup_failed_run(self) -> int:
        """Remove the files of what was registered since `start_run` and nothing holds now.

        The store itself deletes what a failed pipeline recorded and says so in its log; this frees
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

        records = self.records()
        files: dict[str, int] = {record.blob_id: record.size_bytes for record in records}
        plan = plan_gc(self._engine)
        there = sizes(self._engine.layout.blobs)
        return {
            "total_artifacts": len(records),
            "unique_files": len(files),
            "total_size_bytes": sum(files.values()),
            "deduplication_ratio": 1.0 - len(files) / len(records) if records else 0.0,
            "by_type": find.counted_by_type(records),
            "orphaned_count": len(plan.artifacts),
            "orphaned_size_bytes": plan.bytes,
            "disk_usage_bytes": sum(there),
            "disk_file_count": len(there),
            "binaries_path": self._engine.layout.blobs.address(BLOBS.rstrip("/")),
        }
