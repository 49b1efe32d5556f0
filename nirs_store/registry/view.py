"""Records as the catalog has them: those that were registered, and those that chains imply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nirs_store.catalog.access import Connection
from nirs_store.catalog.artifact_records import fetch_chains, fetch_files, fetch_records
from nirs_store.catalog.engine import Engine
from nirs_store.chains.folds import chain_artifact_ids
from nirs_store.errors import InvalidInput
from nirs_store.registry.derived import derive_records
from nirs_store.registry.ids import parse_artifact_id
from nirs_store.registry.types import ArtifactRecord, MetaModelConfig

__all__ = ["find_record", "read_records", "record_of"]

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
