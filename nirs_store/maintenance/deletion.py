"""Deleting a run, a pipeline, a chain or a prediction: a plan of what would go, and the deletion itself.

Rows go in one transaction, with tombstones for what other processes still have under way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nirs_store.db.changes import UNLINKED, Delete, delete_pipelines, plain_delete
from nirs_store.db.database import Connection
from nirs_store.db.session import Engine
from nirs_store.db.sql import number
from nirs_store.db.table import Table, column
from nirs_store.errors import InvalidInput, UnknownId
from nirs_store.ids import now_naive
from nirs_store.maintenance.gc import collect, prune_arrays
from nirs_store.maintenance.trash import chains_of, deleting
from nirs_store.records.artifacts import dependents_outside
from nirs_store.records.named import refuse_held
from nirs_store.records.notes import note
from nirs_store.values import askable


@dataclass(frozen=True)
class RunDeletion:
    """What deleting a run removes, or has removed: rows a table, and the artifacts that only it references.

    `needed_by` names meta-models of other runs with the source of theirs that would go.
    """

    run_id: str
    name: str | None
    rows: dict[str, int]
    artifacts: tuple[str, ...]
    artifact_bytes: int
    needed_by: tuple[tuple[str, str], ...] = ()

    @property
    def total_rows(self) -> int:
        """Rows of all tables."""
        return sum(self.rows.values())


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
_NAMES = {
    "run": "SELECT name FROM runs WHERE run_id = $id",
    "pipeline": "SELECT name FROM pipelines WHERE pipeline_id = $id",
    "chain": "SELECT coalesce(nullif(json_extract_string(metadata, '$.preprocessing_chain'), ''), concat_ws(' > ', "
    "nullif(preprocessings, ''), split_part(model_class, '.', -1))) FROM chains WHERE chain_id = $id",
    "prediction": "SELECT concat_ws(' ', model_name, fold_id, partition) FROM predictions WHERE prediction_id = $id",
}
_OF_RUN = "SELECT pipeline_id FROM pipelines WHERE run_id = $id"
_OF_PIPELINES = ("pipelines", "logs", "metrics")


def plan_deletion(con: Connection, kind: str, identifier: str) -> Any:
    """Count what deleting a run, a pipeline or a chain removes; refuse one that an alias or a signature needs."""
    identifier = askable(identifier)
    params = {"id": identifier}
    names = column(con, _NAMES[kind], params)
    if not names and kind != "run":
        raise UnknownId(kind, identifier, "Nothing was deleted.")
    pipelines = column(con, _OF_RUN, params) if kind == "run" else [identifier]
    refuse_held(con, [identifier] if kind == "chain" else chains_of(con, pipelines))
    own = {
        "run": f"pipeline_id IN ({_OF_RUN})",
        "pipeline": "pipeline_id = $id",
        "chain": "chain_id = $id",
    }[kind]
    records, of_predictions = own, f"prediction_id IN (SELECT prediction_id FROM predictions WHERE {own})"
    if kind == "chain":
        records = f"record_id IN ({_RECORDS_OF_CHAINS.replace('(SELECT unnest($ids))', '($id)')})"
    tables = {
        "pipelines": own,
        "chains": own,
        "predictions": own,
        "prediction_arrays": of_predictions if kind == "chain" else f"{own} OR {of_predictions}",
        "artifact_records": records,
        "artifact_links": records,
        "logs": own,
        "metrics": own,
    }
    if kind == "chain":
        tables = {table: where for table, where in tables.items() if table not in _OF_PIPELINES}
    rows = {"runs": len(names)} if kind == "run" else {}
    rows |= {
        table: number(con, f"SELECT count(*) FROM {table} WHERE {where}", params)
        for table, where in tables.items()
    }
    held = (
        f"((owner_kind = 'chain' AND owner_id IN (SELECT chain_id FROM chains WHERE {own})) OR (owner_kind = 'record' "
        f"AND owner_id IN (SELECT record_id FROM artifact_records WHERE {records}))"
        f"{'' if kind == 'chain' else f' OR {own}'})"
    )
    only_here = con.execute(
        "SELECT artifact_id, any_value(size_bytes) FROM blobs JOIN (SELECT artifact_id, "
        f"coalesce({held}, FALSE) AS is_own FROM artifact_refs) USING (artifact_id) "
        "GROUP BY artifact_id HAVING bool_and(is_own) ORDER BY 1",
        params,
    ).fetchall()
    if kind == "run":
        needed = dependents_outside(con, pipelines)
    else:
        # A stacked chain names the chains that feed it in its steps.
        needed = con.execute(
            "SELECT d.chain_id, c.chain_id FROM chains c JOIN chains d ON contains(d.steps::VARCHAR, c.chain_id) "
            f"WHERE c.{own} AND NOT (d.{own}) ORDER BY ALL",
            params,
        ).fetchall()
    found = (
        {table: count for table, count in rows.items() if count},
        tuple(str(row[0]) for row in only_here),
        sum(int(row[1]) for row in only_here),
        tuple((str(row[0]), str(row[1])) for row in needed),
    )
    if kind == "run":
        return RunDeletion(identifier, str(names[0]) if names else None, *found)
    return Deletion(kind, identifier, str(names[0]), *found)


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

    def work(con: Connection) -> Any:
        gone = delete_rows(con, kind, identifier, now=now)
        refuse_needed([] if force else gone.needed_by)  # the transaction is rolled back
        if gone.rows:
            facts = {"name": gone.name, "rows": gone.rows, "artifacts": len(gone.artifacts)}
            note(engine, f"delete_{kind}", kind, identifier, details=facts, con=con)
        return gone

    if dry_run:
        return engine.query(lambda con: plan_deletion(con, kind, identifier))
    gone = engine.change(work)
    forget()
    if now and delete_artifacts and gone.artifacts:
        collect(engine, only=gone.artifacts)
    return gone.total_rows


def delete_prediction(engine: Engine, prediction_id: str, now: bool) -> bool:
    """Delete a prediction; see `WorkspaceStore.delete_prediction`."""

    def work(con: Connection) -> bool:
        ident = askable(prediction_id)
        names = column(con, _NAMES["prediction"], {"id": ident})
        if not names:
            return False
        with deleting(con, "prediction", ident, str(names[0]), "delete_prediction", now=now) as delete:
            Table(con, "dead").insert([{"id": ident, "kind": "deleted", "died_at": now_naive()}])
            for table in ("prediction_arrays", "predictions"):
                delete(con, table, "prediction_id = $id", {"id": ident})
        prune_arrays(con)
        note(engine, "delete_prediction", "prediction", prediction_id, con=con)
        return True

    deleted = engine.change(work)
    engine.id_cache.forget("prediction", prediction_id)
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


def delete_rows(
    con: Connection, kind: str, identifier: str, *, now: bool = True, operation: str | None = None
) -> Any:
    """Delete a run or a pipeline with all it owns, or a chain with its predictions, inside the caller's transaction.

    Gives the plan that was carried out; a run that is not there has nothing to delete.
    """
    plan = plan_deletion(con, kind, identifier)
    if plan.name is None:
        return plan
    params = {"id": askable(identifier)}
    pipelines = column(con, _OF_RUN, params) if kind == "run" else [params["id"]]
    chains = [params["id"]] if kind == "chain" else chains_of(con, pipelines)
    operation = operation or f"delete_{kind}"
    with deleting(con, kind, params["id"], plan.name, operation, chains, now=now) as delete:
        if kind == "chain":
            of_chain = "prediction_id IN (SELECT prediction_id FROM predictions WHERE chain_id = $id)"
            delete(con, "prediction_arrays", of_chain, params)
            delete(con, "predictions", "chain_id = $id", params)
            release_chains(con, chains, delete)
        else:
            delete_pipelines(con, pipelines, delete)
        if kind == "run":
            Table(con, "dead").insert([{"id": params["id"], "kind": "deleted", "died_at": now_naive()}])
            delete(con, "runs", "run_id = $id", params)
    prune_arrays(con)
    return plan


def release_chains(con: Connection, chains: Sequence[str], delete: Delete = plain_delete) -> None:
    """Delete chains with their references and records; predictions stay, without the chain that they named."""
    params = {"ids": list(chains)}
    con.execute("INSERT INTO dead SELECT unnest($ids), 'deleted', $now", {**params, "now": now_naive()})
    gone = {"ids": column(con, _RECORDS_OF_CHAINS, params)}
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
