"""Releasing all artifacts of some pipelines: their chains and records go, their scores and logs stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nirs_store.audit.trail import attempting
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.sql import number
from nirs_store.db.table import Table, column, fetch
from nirs_store.errors import InvalidInput
from nirs_store.ids import now_naive
from nirs_store.maintenance.deletion import refuse_needed
from nirs_store.maintenance.trash import chains_of
from nirs_store.records.artifacts import dependents_outside
from nirs_store.records.named import held_chains, refuse_held
from nirs_store.records.notes import note

# What a pipeline holds: by the column, and through its chains.
_OWN = (
    "(coalesce(list_contains($ids, r.pipeline_id), FALSE) OR (r.owner_kind = 'chain' AND r.owner_id IN "
    "(SELECT chain_id FROM chains WHERE list_contains($ids, pipeline_id))))"
)


@dataclass(frozen=True)
class PurgePlan:
    """What a purge removes."""

    # `needed_by` pairs what needs something of it with that; `held` maps the chains among these to the alias or
    # signature that needs them, which no purge overrides.

    pipelines: tuple[str, ...]
    chains: int
    records: int
    artifacts: tuple[str, ...]
    bytes: int
    shared: int
    needed_by: tuple[tuple[str, str], ...]
    held: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return asdict(self)


def plan_purge(con: Connection, pipeline_ids: Sequence[str] | None, dataset: str | None) -> PurgePlan:
    """Count what a purge of pipelines, or of a data set, would remove."""
    if pipeline_ids is None:
        pipeline_ids = [] if dataset is None else sorted(Table(con, "pipelines").keys(dataset_name=dataset))
    ids = {"ids": list(pipeline_ids)}
    blobs = fetch(
        con,
        f"""
        SELECT b.artifact_id, b.size_bytes,
            EXISTS (SELECT 1 FROM artifact_refs r WHERE r.artifact_id = b.artifact_id AND NOT {_OWN}) AS shared
        FROM blobs b WHERE EXISTS (SELECT 1 FROM artifact_refs r WHERE r.artifact_id = b.artifact_id AND {_OWN})
        ORDER BY b.artifact_id
        """,
        ids,
    )
    chains, records = (
        number(con, f"SELECT count(*) FROM {table} WHERE list_contains($ids, pipeline_id)", ids)
        for table in ("chains", "artifact_records")
    )
    held = held_chains(con, chains_of(con, pipeline_ids))
    return PurgePlan(
        pipelines=tuple(pipeline_ids),
        chains=chains,
        records=records,
        artifacts=tuple(row["artifact_id"] for row in blobs if not row["shared"]),
        bytes=sum(int(row["size_bytes"]) for row in blobs if not row["shared"]),
        shared=sum(row["shared"] for row in blobs),
        needed_by=(
            *((why, chain_id) for chain_id, why in held.items()),
            *dependents_outside(con, pipeline_ids),
        ),
        held=held,
    )


def purge(engine: Engine, pipeline_ids: Sequence[str] | None, dataset: str | None, force: bool) -> PurgePlan:
    """Remove chains, records and references of pipelines; files go with the next gc."""

    def work(con: Connection) -> PurgePlan:
        plan = plan_purge(con, pipeline_ids, dataset)
        ids = list(plan.pipelines)
        refuse_held(con, list(plan.held))
        refuse_needed([] if force else plan.needed_by)
        running = column(
            con,
            "SELECT pipeline_id FROM pipelines WHERE list_contains($ids, pipeline_id) AND status = 'running' "
            "AND list_contains($alive, session_id) ORDER BY pipeline_id",
            {"ids": ids, "alive": list(engine.living_sessions())},
        )
        if running:
            raise InvalidInput(
                f"Pipeline {running[0]} is being recorded now. Nothing was changed; let it end first."
            )
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
        if ids:
            facts = {"dataset": dataset, "pipelines": ids, "chains": plan.chains}
            note(engine, "purge_artifacts", "workspace", details=facts, con=con)
        return plan

    subject = pipeline_ids[0] if pipeline_ids else None
    with attempting(engine, "purge_artifacts", "pipeline" if subject else None, subject):
        plan = engine.change(work)
    for artifact_id in plan.artifacts:
        engine.id_cache.forget("artifact", artifact_id)
    engine.id_cache.clear()
    return plan
