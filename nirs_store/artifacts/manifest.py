"""The manifest: a pipeline's artifacts as YAML, with or without their files, out of one workspace into another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nirs_store.addresses import user_path
from nirs_store.artifacts.graph import DependencyGraph
from nirs_store.artifacts.types import ArtifactRecord, MetaModelConfig, parse_artifact_id
from nirs_store.blobs.durable import ensure_dir, write_file
from nirs_store.blobs.serializers import get_serializer
from nirs_store.db.session import Engine
from nirs_store.errors import BlobCorrupt, BlobMissing, InvalidInput, UnknownId
from nirs_store.ids import sha256_hex
from nirs_store.records import artifacts, runs
from nirs_store.records.queries import get_pipeline

if TYPE_CHECKING:
    from nirs_store.artifacts.registry import ArtifactRegistry

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
    pipelines = {}
    for each in dict.fromkeys([wanted, *_pipelines(found.values())]):
        row = _pipeline(registry._engine, each)
        if row is None:
            raise UnknownId("pipeline", each, "Nothing was written.")
        pipelines[each] = {name: row[name] for name in ("name", "dataset_name", "dataset_hash")}
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
            if _pipeline(engine, old) is not None:
                new[old] = old
                continue
            described = dict((data.get("pipelines") or {}).get(old) or {})
            dataset = str(described.get("dataset_name") or data.get("dataset") or "")
            if run_id is None:
                run_id = runs.begin_run(
                    engine, f"import of {dataset or old}", {"manifest": old}, [{"name": dataset}]
                )
            new[old] = runs.begin_pipeline(
                engine, run_id, str(described.get("name") or "imported"), {"imported_from": old}, [], dataset,
                str(described.get("dataset_hash") or ""),
            )  # fmt: skip
            begun.append(new[old])
        made: dict[str, ArtifactRecord] = {}
        for record in ordered:
            made[record.artifact_id] = _take_in(registry, record, files[record.content_hash], new, made)
        for each in begun:
            runs.complete_pipeline(engine, each, None, None, None, None)
        if run_id is not None:
            runs.complete_run(engine, run_id, {"artifacts": len(made)})
    except BaseException as error:
        if run_id is not None:
            runs.fail_run(engine, run_id, str(error))
        raise
    engine.flush()
    return list(made.values())


def _take_in(
    registry: ArtifactRegistry,
    record: ArtifactRecord,
    data: bytes | None,
    pipelines: Mapping[str, str],
    made: Mapping[str, ArtifactRecord],
) -> ArtifactRecord:
    """Register one record under the id that it has here."""

    def here(artifact_id: str) -> str:
        return made[artifact_id].artifact_id if artifact_id in made else artifact_id

    target = pipelines[parse_artifact_id(record.artifact_id).pipeline_id]
    artifact_id = f"{target}${record.artifact_id.rpartition('$')[2]}"
    blob_id = record.blob_id
    if data is not None:
        blob_id = artifacts.save_bytes(
            registry._engine, data, get_serializer(record.format).suffix, record.class_name, str(record.artifact_type),
            record.format, target,
        )  # fmt: skip
    config = record.meta_config
    if config is not None:
        sources = [{**each, "artifact_id": here(each["artifact_id"])} for each in config.source_models]
        config = MetaModelConfig(sources, config.feature_columns)
    return registry.register(
        None,
        artifact_id,
        record.artifact_type,
        [here(each) for each in record.depends_on],
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


def _pipelines(found: Iterable[ArtifactRecord]) -> list[str]:
    return list(dict.fromkeys(parse_artifact_id(record.artifact_id).pipeline_id for record in found))


def _pipeline(engine: Engine, pipeline_id: str) -> dict[str, Any] | None:
    return engine.query(lambda con: get_pipeline(con, pipeline_id, []))
