"""Records as the catalog has them, those that were registered and those that chains imply; and choosing among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nirs_store.artifacts.types import (
    ArtifactRecord,
    ArtifactType,
    ChainNode,
    MetaModelConfig,
    derive_records,
    format_chain,
    normalise_fold,
    parse_artifact_id,
    parse_chain,
)
from nirs_store.chains.folds import chain_artifact_ids
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.errors import InvalidInput
from nirs_store.records.artifacts import fetch_chains, fetch_records
from nirs_store.records.queries import blob_rows

SOURCE = "source"
DEPENDS = "depends_on"
_MODELS = (ArtifactType.MODEL, ArtifactType.META_MODEL)


def read_records(
    con: Connection,
    *,
    dataset: str | None = None,
    pipeline_id: str | None = None,
    run_id: str | None = None,
    chain_id: str | None = None,
) -> list[ArtifactRecord]:
    """Return all records of a scope in the order of their making; with `chain_id` those of one chain's artifacts."""
    scope = {"dataset_name": dataset or None, "pipeline_id": pipeline_id or None, "run_id": run_id}
    chains = fetch_chains(con, **scope, chain_id=chain_id)
    if chain_id is not None and chains:
        scope["pipeline_id"] = chains[0]["pipeline_id"]
    recorded = [record_of(row) for row in fetch_records(con, **scope)]
    named = dict.fromkeys(
        artifact_id
        for chain in chains
        for artifact_id in chain_artifact_ids(
            chain["steps"], chain["fold_artifacts"], chain["shared_artifacts"]
        )
    )
    derived = derive_records(chains, blob_rows(con, list(named)), recorded)
    if chain_id is not None:
        recorded = [record for record in recorded if record.blob_id in named]
    return [*recorded, *derived]


def find_record(engine: Engine, artifact_id: str) -> ArtifactRecord | None:
    """Return the record of an id, or None."""
    try:
        pipeline_id = parse_artifact_id(artifact_id).pipeline_id
    except InvalidInput:
        return None

    def ask(con: Connection) -> ArtifactRecord | None:
        rows = fetch_records(con, record_ids=[artifact_id])
        if rows:
            return record_of(rows[0])
        records = read_records(con, pipeline_id=pipeline_id)
        return next((record for record in records if record.artifact_id == artifact_id), None)

    return engine.query(ask)


def record_of(row: Mapping[str, Any]) -> ArtifactRecord:
    """Make a record of a row as `fetch_records` returns it."""
    sources = [link for link in row["links"] if link["kind"] == SOURCE]
    columns = row["feature_columns"] or []
    meta = None
    if sources or columns:
        meta = MetaModelConfig(
            [{"artifact_id": link["target_id"], "feature_index": link["feature_index"]} for link in sources],
            [str(name) for name in columns],
        )
    same = (
        "chain_path", "source_index", "pipeline_id", "substep_index", "fold_id", "artifact_type", "class_name",
        "created_at", "input_data_hash", "dataset_hash",
    )  # fmt: skip
    return ArtifactRecord(
        artifact_id=row["record_id"],
        content_hash=f"sha256:{row['content_hash'] or row['artifact_id']}",
        path=str(row["artifact_path"] or "").removeprefix("artifacts/"),
        branch_path=[int(branch) for branch in row["branch_path"] or ()],
        step_index=int(row["step_index"] or 0),
        custom_name=row["custom_name"] or "",
        depends_on=list(dict.fromkeys(link["target_id"] for link in row["links"])),
        format=row["format"] or "",
        nirs4all_version=row["library_version"],
        size_bytes=int(row["size_bytes"] or 0),
        params=row["params"] or {},
        meta_config=meta,
        blob_id=row["artifact_id"],
        **{name: row[name] for name in same},
    )


# -- among records -------------------------------------------------------------------------------


def taking_part(
    records: Iterable[ArtifactRecord],
    step_index: int | None = None,
    branch_path: Sequence[int] | None = None,
    source_index: int | None = None,
    fold_id: object = None,
) -> list[ArtifactRecord]:
    """Return the records of a step that take part in a context, in the order in which they apply."""
    found = [
        record
        for record in records
        if step_index in (None, record.step_index)
        and record.matches_context(branch_path, source_index, fold_id)
    ]
    return sorted(
        found, key=lambda r: (r.step_index, r.branch_path, r.source_index or 0, r.substep_index or 0)
    )


def at_place(
    records: Iterable[ArtifactRecord], chain: str | Sequence[ChainNode], fold_id: object
) -> ArtifactRecord | None:
    """Return the newest record at a place, or None."""
    place = format_chain(chain), normalise_fold(fold_id)
    return _last(record for record in records if (record.chain_path, record.fold_id) == place)


def beginning_with(
    records: Iterable[ArtifactRecord], chain: str | Sequence[ChainNode]
) -> list[ArtifactRecord]:
    """Return the records whose chain path begins with these operators."""
    nodes = parse_chain(format_chain(chain))
    return [record for record in records if parse_chain(record.chain_path)[: len(nodes)] == nodes]


def named(
    records: Iterable[ArtifactRecord], custom_name: str, step_index: int | None
) -> ArtifactRecord | None:
    """Return the newest record of a custom name, or None."""
    return _last(r for r in records if r.custom_name == custom_name and step_index in (None, r.step_index))


def fold_models(
    records: Iterable[ArtifactRecord], step_index: int | None, branch_path: Sequence[int] | None
) -> list[tuple[int, ArtifactRecord]]:
    """Return the models of the folds with their numbers, by number; a refit is not a fold."""
    found = [
        (int(record.fold_id), record)
        for record in records
        if (record.fold_id or "").isdecimal()
        and record.fold_id is not None
        and record.artifact_type in _MODELS
        and step_index in (None, record.step_index)
        and (branch_path is None or record.branch_path == list(branch_path))
    ]
    return sorted(found, key=lambda pair: pair[0])


def counted_by_type(records: Iterable[ArtifactRecord]) -> dict[str, int]:
    """Count records by their type."""
    return dict(sorted(Counter(str(record.artifact_type) for record in records).items()))


def check_branches(artifact_id: str, branch: list[int], sources: Sequence[ArtifactRecord]) -> None:
    """Refuse sources of branches that a meta-model is not on; one that is on no branch takes all."""
    strange = [s for s in sources if branch and s.branch_path != branch[: len(s.branch_path)]]
    if strange:
        raise InvalidInput(
            f"The meta-model {artifact_id!r} is on branch {branch}, its source {strange[0].artifact_id!r} on "
            f"{strange[0].branch_path}. Sources come from the same branch or from before it; a meta-model of "
            "several branches belongs to none."
        )


def _last(records: Iterable[ArtifactRecord]) -> ArtifactRecord | None:
    return next(reversed(list(records)), None)
