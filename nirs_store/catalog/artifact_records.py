"""Records of the artifact layer: writing them into the journal, and asking for them.

A record, its links and its references are one unit of one commit. The record holds its artifact and those
that it needs, as a chain holds the artifacts that it names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from nirs_store.catalog.access import Connection
from nirs_store.catalog.artifacts import add_blob_row, require_artifact
from nirs_store.catalog.buffer import Buffer, now_naive
from nirs_store.catalog.engine import Engine
from nirs_store.catalog.queries import note_of
from nirs_store.catalog.scalars import number
from nirs_store.catalog.schema import column_names
from nirs_store.catalog.values import as_int, as_text, from_json, to_json, with_zone
from nirs_store.ids import new_id

__all__ = [
    "RECORD",
    "add_link",
    "dependents_outside",
    "fetch_chains",
    "fetch_files",
    "fetch_links",
    "fetch_records",
    "forget_inputs",
    "known_record",
    "save_record",
]

RECORD = "record"
_JSON = ("branch_path", "params", "feature_columns")
_INTEGERS = ("source_index", "step_index", "substep_index")
_OPTIONAL = ("fold_id", "custom_name", "input_data_hash", "dataset_hash")

Link = Mapping[str, Any]
"""kind, target_id, artifact_id, feature_index."""


def known_record(engine: Engine, record_id: str, *, ask: bool) -> dict[str, Any] | None:
    """What this process knows of a record: artifact_id, pipeline_id, chain_path.

    With `ask` the catalog is asked for what is not known here, for a second at most.
    """
    known = engine.known.get(RECORD, record_id)
    if known is None:
        row = engine.recorder.find("artifact_records", record_id)
        known = row and {name: row[name] for name in ("artifact_id", "pipeline_id", "chain_path")}
    if known is None and ask:
        _, known = engine.look_up(lambda con: note_of(con, RECORD, record_id))
        if known is not None:
            engine.known.add(RECORD, record_id, known)
    return None if known is None else dict(known)


def save_record(engine: Engine, values: Mapping[str, Any], links: Sequence[Link]) -> None:
    """Record one artifact's place; takes over this session's reference to it.

    Raises
    ------
    ArtifactMissing, InvalidInput
        Nothing was recorded.
    """
    record_id = as_text(values["record_id"], "artifact_id")
    row: dict[str, Any] = {"created_at": now_naive()}
    for name, value in values.items():
        if name in _JSON:
            row[name] = to_json(value, name)
        elif name in _INTEGERS:
            row[name] = as_int(value, name)
        else:
            row[name] = None if value is None and name in _OPTIONAL else as_text(value, name)
    with ExitStack() as claims:
        held = {
            artifact_id: _claimed(engine, claims, artifact_id)
            for artifact_id in dict.fromkeys([row["artifact_id"], *(link["artifact_id"] for link in links)])
        }
        with engine.recording() as buffer:
            buffer.add("artifact_records", row)
            for position, link in enumerate(links):
                _add_link(buffer, record_id, row["pipeline_id"], position, link)
            for artifact_id, known in held.items():
                _hold(buffer, artifact_id, known, record_id, row["pipeline_id"])
            buffer.add(
                "takeovers",
                {
                    "takeover_id": new_id(),
                    "session_id": engine.session_id,
                    "artifact_id": row["artifact_id"],
                },
            )
            note = {name: row[name] for name in ("artifact_id", "pipeline_id", "chain_path")}
            engine.known.add(RECORD, record_id, note)


def add_link(engine: Engine, record_id: str, pipeline_id: str, position: int, link: Link) -> None:
    """Record one more dependency of a record."""
    with ExitStack() as claims:
        known = _claimed(engine, claims, link["artifact_id"])
        with engine.recording() as buffer:
            _add_link(buffer, record_id, pipeline_id, position, link)
            _hold(buffer, link["artifact_id"], known, record_id, pipeline_id)


def _claimed(engine: Engine, claims: ExitStack, artifact_id: str) -> dict[str, Any]:
    claims.enter_context(engine.recorder.claiming(artifact_id))
    return require_artifact(engine, artifact_id)


def _add_link(buffer: Buffer, record_id: str, pipeline_id: str, position: int, link: Link) -> None:
    buffer.add(
        "artifact_links",
        {
            # Said twice, by two processes or in two commits, it is still one link.
            "link_id": f"{record_id} {link['kind']} {link['target_id']}",
            "record_id": record_id,
            "pipeline_id": pipeline_id,
            "kind": link["kind"],
            "position": position,
            "target_id": link["target_id"],
            "artifact_id": link["artifact_id"],
            "feature_index": link.get("feature_index"),
        },
    )


def _hold(buffer: Buffer, artifact_id: str, known: dict[str, Any], record_id: str, pipeline_id: str) -> None:
    add_blob_row(buffer, artifact_id, known)
    buffer.add(
        "artifact_refs",
        {
            "ref_id": new_id(),
            "artifact_id": artifact_id,
            "owner_kind": RECORD,
            "owner_id": record_id,
            "pipeline_id": pipeline_id,
            "created_at": now_naive(),
        },
    )


# -- asking ------------------------------------------------------------------------------------

_CHAIN_JSON = ("steps", "fold_artifacts", "shared_artifacts", "branch_path", "metadata")
_OF_CHAINS = {
    "dataset_name": "p.dataset_name = $dataset_name",
    "pipeline_id": "c.pipeline_id = $pipeline_id",
    "run_id": "p.run_id = $run_id",
    "chain_id": "c.chain_id = $chain_id",
}
_COLUMNS = ", ".join(f"r.{name}" for name in column_names("artifact_records"))
_FILTERS = {
    "dataset_name": "p.dataset_name = $dataset_name",
    "pipeline_id": "r.pipeline_id = $pipeline_id",
    "run_id": "p.run_id = $run_id",
    "custom_name": "r.custom_name = $custom_name",
    "step_index": "r.step_index = $step_index",
    "record_ids": "list_contains($record_ids, r.record_id)",
    "artifact_ids": "list_contains($artifact_ids, r.artifact_id)",
    "input_data_hashes": "list_contains($input_data_hashes, r.input_data_hash)",
    "dataset_hash": "r.dataset_hash = $dataset_hash",
}


def fetch_records(con: Connection, **wanted: Any) -> list[dict[str, Any]]:
    """Records that fit all filters, in the order in which they were made, each with its file and links."""
    params = {name: value for name, value in wanted.items() if value is not None}
    where = " AND ".join(_FILTERS[name] for name in params) or "TRUE"
    cursor = con.execute(
        f"SELECT {_COLUMNS}, b.artifact_path, b.content_hash, b.format, b.size_bytes, p.dataset_name "
        "FROM artifact_records r LEFT JOIN blobs b USING (artifact_id) LEFT JOIN pipelines p USING (pipeline_id) "
        f"WHERE {where} ORDER BY r.created_at, r.record_id",
        params,
    )
    names = [column[0] for column in cursor.description or ()]
    rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    links = fetch_links(con, [str(row["record_id"]) for row in rows])
    for row in rows:
        for name in _JSON:
            row[name] = from_json(row[name])
        row["created_at"] = with_zone(row["created_at"])
        row["links"] = links.get(str(row["record_id"]), [])
    return rows


def fetch_links(con: Connection, record_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """What records need: kind, position, target_id, artifact_id, feature_index, by record, in order."""
    found: dict[str, list[dict[str, Any]]] = {}
    if not record_ids:
        return found
    names = ("kind", "position", "target_id", "artifact_id", "feature_index")
    for record_id, *values in con.execute(
        f"SELECT record_id, {', '.join(names)} FROM artifact_links WHERE record_id IN (SELECT unnest(?)) "
        "ORDER BY record_id, position, link_id",
        [list(record_ids)],
    ).fetchall():
        found.setdefault(str(record_id), []).append(dict(zip(names, values, strict=True)))
    return found


def dependents_outside(con: Connection, pipeline_ids: Sequence[str]) -> list[tuple[str, str]]:
    """Meta-models of other pipelines whose sources are in these: (meta-model, source)."""
    return [
        (str(record), str(target))
        for record, target in con.execute(
            "SELECT DISTINCT record_id, target_id FROM artifact_links WHERE kind = 'source' "
            "AND NOT list_contains($ids, pipeline_id) AND list_contains($ids, split_part(target_id, '$', 1)) "
            "ORDER BY ALL",
            {"ids": list(pipeline_ids)},
        ).fetchall()
    ]


def forget_inputs(con: Connection, dataset_name: str) -> int:
    """Forget what the artifacts of a data set were fitted on; gives how many had said it."""
    return number(
        con,
        "UPDATE artifact_records SET input_data_hash = NULL WHERE input_data_hash IS NOT NULL AND pipeline_id IN "
        "(SELECT pipeline_id FROM pipelines WHERE dataset_name = ?)",
        [dataset_name],
    )


def fetch_chains(con: Connection, **wanted: Any) -> list[dict[str, Any]]:
    """Chains of a pipeline, run or data set in the order of their making, JSON decoded, with what they name."""
    params = {name: value for name, value in wanted.items() if value is not None}
    where = " AND ".join(_OF_CHAINS[name] for name in params) or "TRUE"
    columns = (
        "chain_id",
        "pipeline_id",
        *_CHAIN_JSON,
        "model_step_idx",
        "model_class",
        "source_index",
        "created_at",
    )
    cursor = con.execute(
        f"SELECT {', '.join(f'c.{name}' for name in columns)}, p.dataset_name, p.dataset_hash FROM chains c "
        f"LEFT JOIN pipelines p USING (pipeline_id) WHERE {where} ORDER BY c.created_at, c.chain_id",
        params,
    )
    names = [column[0] for column in cursor.description or ()]
    rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    for row in rows:
        for name in _CHAIN_JSON:
            row[name] = from_json(row[name])
        row["created_at"] = with_zone(row["created_at"])
    return rows


def fetch_files(con: Connection, artifact_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What is known of some artifacts, by id."""
    names = (
        "artifact_id",
        "artifact_path",
        "content_hash",
        "operator_class",
        "artifact_type",
        "format",
        "size_bytes",
    )
    rows = con.execute(
        f"SELECT {', '.join(names)} FROM blobs WHERE artifact_id IN (SELECT unnest(?))", [list(artifact_ids)]
    ).fetchall()
    return {str(row[0]): dict(zip(names, row, strict=True)) for row in rows}
