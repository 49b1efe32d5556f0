"""Registering fitted objects under ids made from their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nirs_store.catalog import artifacts
from nirs_store.catalog.artifact_records import (
    known_record,
    save_record,
)
from nirs_store.catalog.records import require_open_pipeline
from nirs_store.errors import InvalidInput, SerializationError
from nirs_store.ids import utcnow
from nirs_store.registry.depending import DependencyMethods, check_branches
from nirs_store.registry.ids import (
    SHORT,
    ChainNode,
    format_chain,
    generate_artifact_id,
    parse_artifact_id,
    parse_chain,
)
from nirs_store.registry.types import ArtifactRecord, ArtifactType, MetaModelConfig
from nirs_store.registry.view import DEPENDS, SOURCE, record_of

__all__ = ["RegisteringMethods"]

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
