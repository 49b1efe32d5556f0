"""`ArtifactRegistry`: what stands where in a pipeline, and what needs what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nirs_store.catalog import artifacts
from nirs_store.catalog.artifact_records import (
    add_link,
    fetch_records,
    forget_inputs,
    known_record,
    save_record,
)
from nirs_store.catalog.records import require_open_pipeline
from nirs_store.errors import InvalidInput, SerializationError, UnknownId
from nirs_store.ids import utcnow
from nirs_store.registry.cleanup import CleanupMethods
from nirs_store.registry.graph import MAX_DEPTH, DependencyGraph
from nirs_store.registry.ids import (
    SHORT,
    ChainNode,
    format_chain,
    generate_artifact_id,
    normalise_fold,
    parse_artifact_id,
    parse_chain,
)
from nirs_store.registry.types import ArtifactRecord, ArtifactType, MetaModelConfig
from nirs_store.registry.view import DEPENDS, SOURCE, find_record, read_records, record_of

__all__ = ["ArtifactRegistry"]

_MORE_DIGITS = (SHORT, 20, 32, 64)


class ArtifactRegistry(CleanupMethods):
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

    # -- ids ---------------------------------------------------------------------------------------

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

    # -- registering -------------------------------------------------------------------------------

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

    # -- finding -----------------------------------------------------------------------------------

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

    # -- dependencies ------------------------------------------------------------------------------

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

    # -- loading and travelling ----------------------------------------------------------------------

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
        from nirs_store.registry.manifest import export_to_manifest

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
        from nirs_store.registry.manifest import import_from_manifest

        return import_from_manifest(self, manifest, results_dir, pipeline_id=pipeline_id)


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


def check_branches(artifact_id: str, branch: list[int], sources: Sequence[ArtifactRecord]) -> None:
    """Refuse sources of branches that a meta-model is not on; one that is on no branch takes all.

    Raises
    ------
    InvalidInput
    """
    strange = [s for s in sources if branch and s.branch_path != branch[: len(s.branch_path)]]
    if strange:
        raise InvalidInput(
            f"The meta-model {artifact_id!r} is on branch {branch}, its source {strange[0].artifact_id!r} on "
            f"{strange[0].branch_path}. Sources come from the same branch or from before it; a meta-model of "
            "several branches belongs to none."
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
