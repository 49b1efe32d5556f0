"""The trash: what was deleted and can be brought back, as rows of all tables in one value.

A deletion takes its rows out and puts them here in one transaction, so a crash finds them in one place or the other.
References of the owner kind "trash" hold the artifacts until the entry goes; `holds` names the arrays.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa

from nirs_store.db.changes import PROMOTED, UNLINKED, Delete, plain_delete
from nirs_store.db.database import Connection
from nirs_store.db.marks import read_settings
from nirs_store.db.schema import TABLES, arrow_schema, column_names
from nirs_store.db.sql import incoming, number
from nirs_store.db.table import Table, Unfolds, column, read_rows
from nirs_store.errors import CatalogDamaged, InvalidInput, OverwriteRefused, UnknownId
from nirs_store.ids import earlier, new_id, now_naive
from nirs_store.lazy import polars as pl
from nirs_store.records import ranking
from nirs_store.records.queries import frame

SETTING = "trash"
KEEP_DAYS = 30.0
_KEYS = {
    "runs": "run_id",
    "pipelines": "pipeline_id",
    "chains": "chain_id",
    "predictions": "prediction_id",
    "evaluations": "evaluation_id",
    "calibration_versions": "version_id",
}
# A child, the column that names its parent, and the parent.
_PARENTS = (
    ("pipelines", "run_id", "runs"),
    ("chains", "pipeline_id", "pipelines"),
    ("predictions", "pipeline_id", "pipelines"),
    ("predictions", "chain_id", "chains"),
)
_ARRAYS = ("y_true", "y_pred", "y_proba", "sample_indices", "weights")


# What the rows of a deletion may unfold to, in bytes, and for each byte that they take.
_ALWAYS, _SHRINK = 1 << 26, 1000
_WHOLE = pa.schema([("name", pa.string()), ("rows", pa.large_binary())])
# What stands for a table and is not one.
_SCHEMAS = {
    UNLINKED: pa.schema([("prediction_id", pa.string()), ("chain_id", pa.string())]),
    PROMOTED: pa.schema([("champion_id", pa.string())]),
}


def chains_of(con: Connection, pipeline_ids: Sequence[str]) -> list[str]:
    """Return the chains of some pipelines."""
    return column(
        con,
        "SELECT chain_id FROM chains WHERE pipeline_id IN (SELECT unnest(?::VARCHAR[])) ORDER BY 1",
        [list(pipeline_ids)],
    )


@contextmanager
def deleting(
    con: Connection,
    kind: str,
    object_id: str,
    name: str,
    operation: str,
    chains: Sequence[str] = (),
    *,
    now: bool,
) -> Iterator[Delete]:
    """Delete with the yielded function; unless `now`, its rows are put into the trash at the end of the block.

    Arrays are to be pruned after it. The scores of chains stay while they are in the trash, and of those
    that a retention deletes also afterwards.
    """
    if now and operation != "retention":
        yield plain_delete
        return
    trash_id = new_id()
    _remember(con, chains, trash_id, operation)
    if now:
        yield plain_delete
        return
    taken: dict[str, list[pa.Table]] = {}

    def delete(con: Connection, table: str, where: str, params: Any) -> int:
        if table in _SCHEMAS:
            names, home = ", ".join(_SCHEMAS[table].names), table.partition(".")[0]
            rows = con.execute(f"SELECT {names} FROM {home} WHERE {where}", params).fetchall()
            plain_delete(con, table, where, params)
        else:
            # Of a Python list, not by way of Arrow: this is a DB-API result, of which DuckDB would make two copies.
            rows = con.execute(
                f"DELETE FROM {table} WHERE {where} RETURNING {', '.join(column_names(table))}", params
            ).fetchall()
        if rows:
            schema = _schema_of(table)
            taken.setdefault(table, []).append(
                pa.Table.from_struct_array(pa.array(rows, pa.struct(list(schema))))
            )
        return len(rows)

    yield delete
    _put(con, trash_id, kind, object_id, name, operation, {t: pa.concat_tables(r) for t, r in taken.items()})


def _put(
    con: Connection,
    trash_id: str,
    kind: str,
    object_id: str,
    name: str,
    operation: str,
    tables: dict[str, pa.Table],
) -> None:
    content, at = _encoded(tables), now_naive()
    row = {
        "trash_id": trash_id,
        "kind": kind,
        "object_id": object_id,
        "name": name,
        "operation": operation,
        "counts": {table: rows.num_rows for table, rows in tables.items()},
        "holds": _holds(tables),
        "size_bytes": len(content),
        "content": content,
        "deleted_at": at,
    }
    Table(con, "trash").insert([row])
    refs = tables.get("artifact_refs", arrow_schema("artifact_refs").empty_table())
    artifacts = sorted(set(refs.column("artifact_id").to_pylist()))
    held = {"owner_kind": "trash", "owner_id": trash_id, "created_at": at}
    Table(con, "artifact_refs").insert(
        [{"ref_id": new_id(), "artifact_id": each, **held} for each in artifacts]
    )


def _holds(tables: dict[str, pa.Table]) -> dict[str, list[str]]:
    """Return the ids of what the rows are about, and the arrays that they name."""
    found = {name: tables[name].column(key).to_pylist() for name, key in _KEYS.items() if name in tables}
    arrays: set[str | None] = set()
    if "prediction_arrays" in tables:
        for name in _ARRAYS:
            arrays.update(tables["prediction_arrays"].column(name).to_pylist())
    if "chains" in tables:
        arrays.update(tables["chains"].column("wavelengths").to_pylist())
    return {**found, "arrays": sorted(each for each in arrays if each is not None)}


def _encoded(tables: dict[str, pa.Table]) -> bytes:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    streams = []
    for rows in tables.values():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema, options=options) as writer:
            writer.write_table(rows)
        streams.append(sink.getvalue().to_pybytes())
    whole = pa.table(
        {"name": pa.array(list(tables), pa.string()), "rows": pa.array(streams, pa.large_binary())}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole)
    return bytes(sink.getvalue().to_pybytes())


def _decoded(trash_id: str, content: bytes) -> dict[str, pa.Table]:
    """Decode the rows of an entry, which anybody may have put into the catalog of a folder that was handed on."""
    # Rows that are much alike shrink a lot, but not without limit.
    most = max(_ALWAYS, _SHRINK * len(content))
    tables: dict[str, pa.Table] = {}
    try:
        whole = read_rows(pa.py_buffer(content), partial(_check, _WHOLE), most=len(content))
        for row in whole.to_pylist():
            name, rows = row["name"], row["rows"]
            if name in tables or (name not in _SCHEMAS and name not in TABLES):
                raise Unfolds(f"it has rows of {str(name)[:60]!r}")
            check = partial(_check, _schema_of(name))
            tables[name] = read_rows(pa.py_buffer(rows), check, most=most, packed=True)
            most -= tables[name].nbytes
    except (ValueError, TypeError, OSError, pa.ArrowException) as error:
        raise CatalogDamaged(
            f"The deletion {trash_id} in the trash cannot be read: {error}. Nothing was changed. Restore what it holds "
            "from a backup."
        ) from error
    return tables


def _schema_of(table: str) -> pa.Schema:
    return _SCHEMAS[table] if table in _SCHEMAS else arrow_schema(table)


def _check(expected: pa.Schema, found: pa.Schema) -> None:
    # An entry of an older version may lack columns; the first is the key.
    known = [column for column in expected if column.name in found.names or expected is _WHOLE]
    if list(found) != known or known[:1] != list(expected)[:1]:
        raise Unfolds(f"it has the columns {', '.join(found.names)[:200]}")


# -- What stays known of chains.


def _remember(con: Connection, chains: Sequence[str], trash_id: str, operation: str) -> None:
    """Write what a search says of chains that are about to go."""
    if not chains:
        return
    scores = ranking.scores_of(con, chains)
    at = now_naive()
    with incoming(con) as rows:
        rows.rows = scores.to_arrow()
        con.execute(
            f"""
            INSERT OR REPLACE INTO past_chains
            SELECT c.chain_id, $trash, $operation, c.pipeline_id, l.name, l.run_id, r.name, r.tags, l.dataset_name,
                c.preprocessings, coalesce(i.model_name, split_part(c.model_class, '.', -1)), c.model_class, c.steps,
                c.target, c.target_unit, {ranking.COMPONENTS}, i.task, i.metric, i.score, i.fold_sd, i.n_samples,
                c.created_at, $at
            FROM chains c JOIN pipelines l USING (pipeline_id) LEFT JOIN runs r USING (run_id)
                LEFT JOIN incoming i ON i.chain_id = c.chain_id
            WHERE c.chain_id IN (SELECT unnest($ids))
            """,
            {"trash": trash_id, "operation": operation, "at": at, "ids": list(chains)},
        )


# -- Looking, emptying.


def keep_days(con: Connection) -> float:
    """Return for how many days a deletion can be undone."""
    setting = read_settings(con).get(SETTING) or {}
    return float(setting.get("days", KEEP_DAYS))


def trash_rows(con: Connection) -> pl.DataFrame:
    """Return what the trash holds, newest first, without the rows themselves."""
    days = keep_days(con)
    found = frame(
        con,
        "SELECT trash_id, kind, object_id, name, operation, counts::VARCHAR AS counts, size_bytes, deleted_at "
        "FROM trash ORDER BY deleted_at DESC, trash_id DESC",
    )
    return found.with_columns(
        counts=pl.col("counts").map_elements(
            lambda text: sum(json.loads(text).values()), return_dtype=pl.Int64
        ),
        until=pl.col("deleted_at") + pl.duration(microseconds=round(days * 86_400_000_000)),
    ).rename({"counts": "rows"})


def due(con: Connection, *, now: bool = False, older_than: float | None = None) -> list[str]:
    """Return the entries whose time is over: that of the workspace, or `older_than` days; all with `now`."""
    days = 0.0 if now else keep_days(con) if older_than is None else older_than
    rows = con.execute(
        "SELECT trash_id FROM trash WHERE $all OR deleted_at <= $limit ORDER BY trash_id",
        {"all": now, "limit": earlier(now_naive(), seconds=days * 86_400)},
    ).fetchall()
    return [str(row[0]) for row in rows]


def references(con: Connection, trash_ids: Sequence[str]) -> list[str]:
    """Return the references by which entries hold artifacts."""
    return column(
        con,
        "SELECT ref_id FROM artifact_refs WHERE owner_kind = 'trash' AND list_contains(?, owner_id) ORDER BY 1",
        [list(trash_ids)],
    )


def artifacts(con: Connection, trash_ids: Sequence[str]) -> list[str]:
    """Return the artifacts that entries hold."""
    return column(
        con,
        "SELECT DISTINCT artifact_id FROM artifact_refs WHERE owner_kind = 'trash' AND list_contains(?, owner_id) "
        "ORDER BY 1",
        [list(trash_ids)],
    )


def empty(con: Connection, trash_ids: Sequence[str]) -> int:
    """Forget entries for good inside the caller's transaction; a gc and `prune_arrays` remove what they held."""
    if not trash_ids:
        return 0
    ids = {"ids": list(trash_ids)}
    con.execute("DELETE FROM artifact_refs WHERE owner_kind = 'trash' AND list_contains($ids, owner_id)", ids)
    con.execute(
        "DELETE FROM past_chains WHERE list_contains($ids, trash_id) AND operation <> 'retention'", ids
    )
    return number(con, "DELETE FROM trash WHERE list_contains($ids, trash_id)", ids)


# -- Bringing back.


def restore(con: Connection, identifier: str) -> list[tuple[str, str]]:
    """Bring back a deletion, and first those that took its parents, inside the caller's transaction."""
    entry = _entry(con, identifier)
    if entry is None:
        raise UnknownId("deletion", identifier, "`store.trash.list()` names what can be restored.")
    trash_id, kind, object_id, content = entry
    tables = _decoded(trash_id, content)
    back: list[tuple[str, str]] = []
    for child, name, parent in _PARENTS:
        if child not in tables:
            continue
        own = set(tables[parent].column(_KEYS[parent]).to_pylist()) if parent in tables else set()
        wanted = {each for each in tables[child].column(name).to_pylist() if each is not None} - own
        for missing in _missing(con, parent, wanted):
            # An earlier one may have brought it back.
            if not _missing(con, parent, {missing}):
                continue
            if _entry(con, missing) is None:
                raise InvalidInput(
                    f"The {kind} {object_id} cannot be restored: its {parent[:-1]} {missing} is gone, and not in the "
                    "trash. Nothing was changed."
                )
            back += restore(con, missing)
    for table, rows in tables.items():
        _insert(con, table, rows)
    # Rows that come from now on for what is back have an owner again.
    ids = [
        each for name, key in _KEYS.items() if name in tables for each in tables[name].column(key).to_pylist()
    ]
    con.execute("DELETE FROM dead WHERE kind = 'deleted' AND id IN (SELECT unnest(?::VARCHAR[]))", [ids])
    con.execute("DELETE FROM past_chains WHERE chain_id IN (SELECT unnest(?::VARCHAR[]))", [ids])
    con.execute("DELETE FROM artifact_refs WHERE owner_kind = 'trash' AND owner_id = ?", [trash_id])
    con.execute("DELETE FROM trash WHERE trash_id = ?", [trash_id])
    return [*back, (kind, object_id)]


def _entry(con: Connection, identifier: str) -> tuple[str, str, str, bytes] | None:
    """Return the newest entry that has an id (whole, or its end), or holds what has it."""
    rows = con.execute(
        "SELECT trash_id, kind, object_id, content FROM trash WHERE trash_id = $id OR object_id = $id OR "
        "contains(holds::VARCHAR, concat('\"', $id, '\"')) OR (length($id) >= 4 AND "
        "(ends_with(trash_id, lower($id)) OR ends_with(object_id, lower($id)))) "
        "ORDER BY deleted_at DESC, trash_id DESC LIMIT 1",
        {"id": identifier},
    ).fetchall()
    return None if not rows else (str(rows[0][0]), str(rows[0][1]), str(rows[0][2]), bytes(rows[0][3]))


def _missing(con: Connection, table: str, wanted: set[str]) -> list[str]:
    return column(
        con,
        f"SELECT w FROM (SELECT unnest(?::VARCHAR[]) AS w) WHERE w NOT IN (SELECT {_KEYS[table]} FROM {table}) "
        "ORDER BY w",
        [sorted(wanted)],
    )


def _insert(con: Connection, table: str, rows: pa.Table) -> None:
    with incoming(con) as arriving:
        arriving.rows = rows
        if table == UNLINKED:
            con.execute(
                "UPDATE predictions SET chain_id = i.chain_id FROM incoming i "
                "WHERE predictions.prediction_id = i.prediction_id AND predictions.chain_id IS NULL"
            )
            return
        if table == PROMOTED:
            con.execute("DELETE FROM champions WHERE champion_id IN (SELECT champion_id FROM incoming)")
            return
        key = rows.column_names[0]
        taken = con.execute(f"SELECT {key} FROM {table} SEMI JOIN incoming USING ({key}) LIMIT 1").fetchall()
        # Records and links say by their ids what they are: another run may have made the same ones meanwhile.
        if taken and table not in ("artifact_links", "artifact_records"):
            raise OverwriteRefused(
                f"{table[:-1]} {taken[0][0]} is there: something has its id. Nothing was changed."
            )
        con.execute(f"INSERT OR IGNORE INTO {table} BY NAME SELECT * FROM incoming")
