"""Deleting a run, a pipeline or a chain: a plan of what would go, and the deletion itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nirs_store.db.changes import UNLINKED, Delete, delete_pipelines, plain_delete
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.sql import number
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.ids import now_naive
from nirs_store.maintenance.gc import collect, delete_run, needed_elsewhere, plan_run_deletion, prune_arrays
from nirs_store.maintenance.gc import delete_prediction as delete_prediction_rows
from nirs_store.maintenance.trash import chains_of, deleting
from nirs_store.records.named import refuse_held
from nirs_store.records.notes import note
from nirs_store.values import askable


@dataclass(frozen=True)
class Deletion:
    """What deleting a pipeline or a chain removes, or has removed.

    Attributes
    ----------
    kind : {"pipeline", "chain"}
    id, name : str
    rows : dict
        Rows by table.
    artifacts : tuple of str
        Artifacts that nothing else refers to.
    artifact_bytes : int
    needed_by : tuple of (str, str)
        Meta-models of others with the source of theirs that would go.
    """

    kind: str
    id: str
    name: str
    rows: dict[str, int]
    artifacts: tuple[str, ...]
    artifact_bytes: int
    needed_by: tuple[tuple[str, str], ...] = ()

    @property
    def total_rows(self) -> int:
        """Rows of all tables."""
        return sum(self.rows.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


# A record says where in a pipeline an object belongs; without a chain of that pipeline that uses it, nothing.
_RECORDS_OF_CHAINS = """
    SELECT DISTINCT a.record_id FROM artifact_records a JOIN artifact_refs r ON r.artifact_id = a.artifact_id
        AND r.owner_kind = 'chain' AND r.owner_id IN (SELECT unnest($ids))
    JOIN chains c ON c.chain_id = r.owner_id AND c.pipeline_id = a.pipeline_id
    WHERE NOT EXISTS (SELECT 1 FROM artifact_refs o JOIN chains d ON d.chain_id = o.owner_id
        WHERE o.owner_kind = 'chain' AND o.artifact_id = a.artifact_id AND d.pipeline_id = a.pipeline_id
        AND o.owner_id NOT IN (SELECT unnest($ids)))
"""


def plan_deletion(con: Connection, kind: str, identifier: str) -> Deletion:
    """Say what deleting a pipeline or a chain would remove; refuse one that an alias or a signature needs."""
    identifier = askable(identifier)
    if kind == "pipeline":
        found = con.execute("SELECT name FROM pipelines WHERE pipeline_id = ?", [identifier]).fetchall()
        own, records = "pipeline_id = $id", "SELECT record_id FROM artifact_records WHERE pipeline_id = $id"
    else:
        found = con.execute(
            "SELECT coalesce(nullif(json_extract_string(metadata, '$.preprocessing_chain'), ''), "
            "concat_ws(' > ', nullif(preprocessings, ''), split_part(model_class, '.', -1))) FROM chains "
            "WHERE chain_id = ?",
            [identifier],
        ).fetchall()
        own, records = "chain_id = $id", _RECORDS_OF_CHAINS.replace("(SELECT unnest($ids))", "($id)")
    if not found:
        raise UnknownId(kind, identifier, "Nothing was deleted.")
    refuse_held(con, chains_of(con, [identifier]) if kind == "pipeline" else [identifier])
    of_record = f"record_id IN ({records})"
    tables = {
        "chains": own,
        "predictions": own,
        "prediction_arrays": f"prediction_id IN (SELECT prediction_id FROM predictions WHERE {own})",
        "artifact_records": of_record,
        "artifact_links": of_record,
    }
    if kind == "pipeline":
        tables |= {"pipelines": own, "logs": own, "metrics": own}
    params = {"id": identifier}
    rows = {
        table: number(con, f"SELECT count(*) FROM {table} WHERE {where}", params)
        for table, where in tables.items()
    }
    held = (
        f"((r.owner_kind = 'chain' AND r.owner_id IN (SELECT chain_id FROM chains WHERE {own})) "
        f"OR (r.owner_kind = 'record' AND r.owner_id IN ({records}))"
        f"{' OR r.pipeline_id = $id' if kind == 'pipeline' else ''})"
    )
    only_here = con.execute(
        f"SELECT b.artifact_id, b.size_bytes FROM blobs b JOIN artifact_refs r USING (artifact_id) "
        f"GROUP BY ALL HAVING bool_and(coalesce({held}, FALSE)) ORDER BY 1",
        params,
    ).fetchall()
    # A stacked chain names the chains that feed it in its steps.
    needed = con.execute(
        "SELECT d.chain_id, c.chain_id FROM chains c JOIN chains d ON contains(d.steps::VARCHAR, c.chain_id) "
        f"WHERE c.{own} AND NOT (d.{own}) ORDER BY ALL",
        params,
    ).fetchall()
    return Deletion(
        kind,
        identifier,
        str(found[0][0]),
        {table: count for table, count in rows.items() if count},
        tuple(str(row[0]) for row in only_here),
        sum(int(row[1]) for row in only_here),
        tuple((str(row[0]), str(row[1])) for row in needed),
    )


def remove(
    engine: Engine,
    kind: str,
    identifier: str,
    forget: Callable[[], None],
    *,
    delete_artifacts: bool,
    dry_run: bool,
    force: bool,
    now: bool,
) -> Any:
    """Delete a run, a pipeline or a chain, or return the plan; see `WorkspaceStore.delete_run`."""
    of_run = kind == "run"

    def plan(con: Connection) -> Any:
        return plan_run_deletion(con, identifier) if of_run else plan_deletion(con, kind, identifier)

    def work(con: Connection) -> Any:
        if of_run:
            refuse_needed([] if force else needed_elsewhere(con, identifier))
            gone: Any = delete_run(con, identifier, now=now)
        else:
            gone = (delete_pipeline if kind == "pipeline" else delete_chain)(con, identifier, now=now)
            refuse_needed([] if force else gone.needed_by)  # the transaction is rolled back
        if gone.rows:
            facts = {"name": gone.name, "rows": gone.rows, "artifacts": len(gone.artifacts)}
            note(engine, f"delete_{kind}", kind, identifier, details=facts, con=con)
        return gone

    if dry_run:
        return engine.query(plan)
    gone = engine.change(work)
    forget()
    if now and delete_artifacts and gone.artifacts:
        collect(engine, only=gone.artifacts)
    return gone.total_rows


def delete_prediction(engine: Engine, prediction_id: str, now: bool) -> bool:
    """Delete a prediction; see `WorkspaceStore.delete_prediction`."""

    def work(con: Connection) -> bool:
        deleted = delete_prediction_rows(con, prediction_id, now=now)
        if deleted:
            note(engine, "delete_prediction", "prediction", prediction_id, con=con)
        return deleted

    deleted = engine.change(work)
    engine.known.forget("prediction", prediction_id)
    return deleted


def refuse_needed(needed_by: Sequence[tuple[str, str]]) -> None:
    """Refuse to remove what meta-models of other pipelines are fed by."""
    if not needed_by:
        return
    model, source = needed_by[0]
    more = f" and {len(needed_by) - 1} more" if len(needed_by) > 1 else ""
    raise InvalidInput(
        f"The meta-model {model} is fed by {source}{more}, which would go. Nothing was changed. Delete the "
        "meta-model's pipeline first, or go on with force=True (on the command line: --force): its stacked chain then "
        "keeps the blobs that it needs."
    )


def delete_pipeline(con: Connection, pipeline_id: str, *, now: bool = True) -> Deletion:
    """Delete a pipeline and all it owns inside the caller's transaction."""
    plan = plan_deletion(con, "pipeline", pipeline_id)
    chains = chains_of(con, [plan.id])
    with deleting(con, "pipeline", plan.id, plan.name, "delete_pipeline", chains, now=now) as delete:
        delete_pipelines(con, [plan.id], delete)
    prune_arrays(con)
    return plan


def delete_chain(con: Connection, chain_id: str, *, now: bool = True) -> Deletion:
    """Delete a chain with its predictions inside the caller's transaction; its pipeline stays."""
    plan = plan_deletion(con, "chain", chain_id)
    params = {"id": plan.id}
    with deleting(con, "chain", plan.id, plan.name, "delete_chain", [plan.id], now=now) as delete:
        delete(
            con,
            "prediction_arrays",
            "prediction_id IN (SELECT prediction_id FROM predictions WHERE chain_id = $id)",
            params,
        )
        delete(con, "predictions", "chain_id = $id", params)
        release_chains(con, [plan.id], delete)
    prune_arrays(con)
    return plan


def release_chains(con: Connection, chains: Sequence[str], delete: Delete = plain_delete) -> None:
    """Delete chains with their references and records; predictions stay, without the chain that they named."""
    params = {"ids": list(chains)}
    con.execute("INSERT INTO dead SELECT unnest($ids), 'deleted', $now", {**params, "now": now_naive()})
    gone = {"ids": [str(row[0]) for row in con.execute(_RECORDS_OF_CHAINS, params).fetchall()]}
    listed = "IN (SELECT unnest($ids))"
    for table, where, given in (
        ("artifact_links", f"record_id {listed}", gone),
        ("artifact_refs", f"owner_kind = 'record' AND owner_id {listed}", gone),
        ("artifact_records", f"record_id {listed}", gone),
        ("artifact_refs", f"owner_kind = 'chain' AND owner_id {listed}", params),
        (UNLINKED, f"chain_id {listed}", params),
        ("chains", f"chain_id {listed}", params),
    ):
        delete(con, table, where, given)
