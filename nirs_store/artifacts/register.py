"""Recording what an object is, where it is in a pipeline, and what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from nirs_store.artifacts.find import DEPENDS, SOURCE, check_branches, find_record, read_records, record_of
from nirs_store.artifacts.graph import DependencyGraph
from nirs_store.artifacts.types import SHORT, ArtifactRecord, MetaModelConfig, parse_artifact_id, parse_chain
from nirs_store.db.session import Engine
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.ids import utcnow
from nirs_store.records import artifacts
from nirs_store.records.artifacts import add_link, known_record, save_record
from nirs_store.records.runs import require_open_pipeline

# Read from the last node of the chain path where they are not given.
_PLACE = ("branch_path", "source_index", "step_index", "substep_index")
_SAID = ("chain_path", "custom_name", "input_data_hash", "dataset_hash")


def save(engine: Engine, obj: Any, artifact_id: str, about: Mapping[str, Any]) -> ArtifactRecord:
    """Save an object and its record; `about` has the other arguments of `ArtifactRegistry.register`."""
    from nirs_store.bundle.manifest import library_version
    from nirs_store.estimators import class_path

    parsed = parse_artifact_id(artifact_id)
    require_open_pipeline(engine, parsed.pipeline_id)
    kind, chain_path, blob_id = str(about["artifact_type"]), about["chain_path"], about["blob_id"]
    config, params = about["meta_config"] or MetaModelConfig(), dict(about["params"] or {})
    last = parse_chain(chain_path)[-1] if chain_path else None
    sources = {str(each["artifact_id"]): int(each["feature_index"]) for each in config.source_models}
    links = [_link(engine, artifact_id, target, SOURCE, index) for target, index in sources.items()]
    others = [target for target in dict.fromkeys(about["depends_on"] or ()) if target not in sources]
    links += [_link(engine, artifact_id, target, DEPENDS, None) for target in others]
    known = known_record(engine, artifact_id, ask=False)
    if known is not None and known["chain_path"] != chain_path:
        raise InvalidInput(
            f"{artifact_id!r} stands for the place {known['chain_path']!r} already, not {chain_path!r}. "
            "Nothing was recorded; let generate_id make the id."
        )
    name = ""
    if blob_id is None:
        name = class_path(type(obj))
        format = about["format_hint"] or "joblib"
        blob_id = artifacts.save_artifact(engine, obj, name, kind, format, parsed.pipeline_id)
    file = artifacts.require_artifact(engine, blob_id)
    if known is not None and known["artifact_id"] != blob_id:
        raise InvalidInput(
            f"{artifact_id!r} names another object already ({known['artifact_id'][:SHORT]}…). Its record was "
            "left as it is; give the new object a fold, substep or pipeline of its own."
        )
    place = {key: getattr(last, key, None) if about[key] is None else about[key] for key in _PLACE}
    values = {
        **{key: about[key] for key in _SAID},
        **place,
        "branch_path": list(place["branch_path"] or ()),
        "params": params,
        "record_id": artifact_id,
        "artifact_id": blob_id,
        "pipeline_id": parsed.pipeline_id,
        "fold_id": parsed.fold_id,
        "artifact_type": kind,
        "class_name": name or file["operator_class"] or (last.class_name if last else ""),
        "feature_columns": list(config.feature_columns) or None,
        "library_version": library_version(),
    }
    save_record(engine, values, links)
    of_file = {key: file[key] for key in ("artifact_path", "content_hash", "format", "size_bytes")}
    return record_of({**values, **of_file, "links": links, "created_at": utcnow()})


def meta_config(
    engine: Engine, artifact_id: str, chain_path: str, ids: Sequence[str], columns: Sequence[str] | None
) -> MetaModelConfig:
    """Check the source models of a meta-model and name its columns."""
    if not ids or len(set(ids)) < len(ids):
        raise InvalidInput(f"source_model_ids: expected different models, at least one; found {list(ids)}.")
    found = {each: find_record(engine, each) for each in ids}
    records = [record for record in found.values() if record is not None]
    if len(records) < len(ids):
        missing = ", ".join(each for each, record in found.items() if record is None)
        raise InvalidInput(
            f"The meta-model {artifact_id!r} names source models that are not registered: {missing}. Nothing was "
            "recorded; register them first."
        )
    if columns is None:
        names = [f"{record.class_name.rpartition('.')[2]}_pred" for record in records]
        columns = [
            name if names.count(name) == 1 else f"{name}_{names[:index].count(name)}"
            for index, name in enumerate(names)
        ]
    if len(columns) != len(ids):
        raise InvalidInput(
            f"feature_columns: expected {len(ids)} names, one a source model, found {len(columns)}."
        )
    check_branches(artifact_id, list(parse_chain(chain_path)[-1].branch_path) if chain_path else [], records)
    sources = [{"artifact_id": each, "feature_index": index} for index, each in enumerate(ids)]
    return MetaModelConfig(sources, list(columns))


# -- dependencies --------------------------------------------------------------------------------


def add_dependency(engine: Engine, artifact_id: str, depends_on: str) -> None:
    """Record that one registered artifact needs another; see `ArtifactRegistry.add_dependency`."""
    record = find_record(engine, artifact_id)
    if record is None or known_record(engine, artifact_id, ask=True) is None:
        raise UnknownId("registered artifact", artifact_id, "Nothing was recorded.")
    link = _link(engine, artifact_id, depends_on, DEPENDS, None)
    graph, _ = dependency_graph(engine, depends_on)
    graph.add_dependencies(artifact_id, [*record.depends_on, depends_on])
    if depends_on not in record.depends_on:
        add_link(engine, artifact_id, record.pipeline_id, len(record.depends_on), link)


def dependency_graph(engine: Engine, artifact_id: str) -> tuple[DependencyGraph, dict[str, ArtifactRecord]]:
    """Return the graph of all that an artifact needs, and the records by their ids."""
    graph = DependencyGraph()
    records: dict[str, ArtifactRecord] = {}
    waiting = [artifact_id]
    pipelines: set[str] = set()
    while waiting:
        each = waiting.pop()
        pipeline = parse_artifact_id(each).pipeline_id
        if each not in records and pipeline not in pipelines:
            pipelines.add(pipeline)
            loaded = engine.query(partial(read_records, pipeline_id=pipeline))
            records |= {record.artifact_id: record for record in loaded}
        if each not in records:
            raise UnknownId("artifact", each, f"{artifact_id!r} needs it, or is it.")
        if not graph.get_dependencies(each):
            graph.add_dependencies(each, records[each].depends_on)
            waiting += records[each].depends_on
    return graph, records


def _link(engine: Engine, artifact_id: str, target: str, kind: str, index: int | None) -> dict[str, Any]:
    if target == artifact_id:
        raise InvalidInput(f"{artifact_id!r} cannot depend on itself. Nothing was recorded.")
    known = known_record(engine, target, ask=True)
    record = None if known is not None else find_record(engine, target)
    if known is None and record is None:
        raise UnknownId("artifact", target, f"{artifact_id!r} depends on it. Nothing was recorded.")
    blob_id = known["artifact_id"] if known is not None else record.blob_id if record else None
    return {"kind": kind, "target_id": target, "artifact_id": blob_id, "feature_index": index}
