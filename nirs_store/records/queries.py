"""Questions about runs, pipelines, chains, artifacts and logs.

Column names come from fixed lists, values are always bound.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from nirs_store.db.database import Connection
from nirs_store.db.journal import decode_array
from nirs_store.db.schema import column_names
from nirs_store.db.sql import execute, parsed, to_frame
from nirs_store.db.table import column, fetch
from nirs_store.errors import CatalogDamaged, InvalidInput, did_you_mean
from nirs_store.lazy import polars as pl
from nirs_store.values import MOST_ROWS, as_text, askable, is_text, with_zone

STATUSES = ("running", "completed", "failed", "interrupted")

# What an id can name, in the order in which people mean it, and where it is the key.
ID_COLUMNS = {
    "run": ("runs", "run_id"),
    "pipeline": ("pipelines", "pipeline_id"),
    "chain": ("chains", "chain_id"),
    "prediction": ("predictions", "prediction_id"),
    "artifact": ("blobs", "artifact_id"),
}

_HIDDEN = {"session_id"}
# A row says "running" until a process finishes it; one whose session died shows as interrupted.
_STATUS = (
    "CASE WHEN {t}status = 'running' AND NOT list_contains($alive, {t}session_id) "
    "THEN 'interrupted' ELSE {t}status END"
)

# What recording and loading need to know of an artifact.
BLOB_NOTE = ("artifact_path", "content_hash", "operator_class", "artifact_type", "format", "size_bytes")

_NOTES = {
    "run": "SELECT run_id FROM runs WHERE run_id = ?",
    "pipeline": "SELECT run_id, status FROM pipelines WHERE pipeline_id = ?",
    "chain": "SELECT pipeline_id FROM chains WHERE chain_id = ?",
    "prediction": (
        "SELECT p.pipeline_id, a.prediction_id IS NOT NULL AS arrays FROM predictions p "
        "LEFT JOIN prediction_arrays a USING (prediction_id) WHERE p.prediction_id = ?"
    ),
    "artifact": f"SELECT {', '.join(BLOB_NOTE)} FROM blobs WHERE artifact_id = ?",
    "record": "SELECT artifact_id, pipeline_id, chain_path FROM artifact_records WHERE record_id = ?",
}


def frame(con: Connection, sql: str, params: Any = None) -> pl.DataFrame:
    """Run a query whole; TIMESTAMP columns come back as UTC."""
    result = con.sql(parsed(con, sql), params=params)
    return pl.DataFrame() if result is None else to_frame(result)


def row_of(con: Connection, sql: str, params: Any) -> dict[str, Any] | None:
    """Return the single row of a query, JSON decoded and times in UTC, or None."""
    # The first parameter is the id; a value that is not text cannot be one.
    identifier = params["id"] if isinstance(params, dict) else params[0]
    rows = fetch(con, sql, params) if is_text(identifier) else []
    if not rows:
        return None
    return {
        name: with_zone(value) if isinstance(value, datetime) else value for name, value in rows[0].items()
    }


def note_of(con: Connection, kind: str, identifier: str) -> dict[str, Any] | None:
    """Return what recording calls need to know of an existing row, or None."""
    return row_of(con, _NOTES[kind], [identifier])


def find_ids(con: Connection, part: str, kinds: Sequence[str] | None, limit: int | None) -> pl.DataFrame:
    """Whole ids that begin or end with `part`, of each kind at most `limit`."""
    wanted = [kinds] if isinstance(kinds, str) else list(ID_COLUMNS if kinds is None else kinds)
    for kind in wanted:
        if kind not in ID_COLUMNS:
            raise unknown("kind", kind, ID_COLUMNS)
    params = {"part": as_text(part, "part"), "limit": page_of(limit, 0)["limit"]}
    if not params["part"]:
        raise InvalidInput("part: expected at least one character of an id, found none.")
    found = [
        f"(SELECT '{kind}' AS kind, {position} AS position, {key} AS id FROM {table} "
        f"WHERE starts_with({key}, $part) OR ends_with({key}, $part) ORDER BY id LIMIT $limit)"
        for position, (kind, (table, key)) in enumerate((kind, ID_COLUMNS[kind]) for kind in wanted)
    ]
    if not found:
        return pl.DataFrame(schema={"kind": pl.String, "id": pl.String})
    sql = f"SELECT kind, id FROM ({' UNION ALL '.join(found)}) ORDER BY position, id"
    return frame(con, sql, params)


def columns_of(table: str) -> str:
    """Return the columns of a table that are shown, with the status as it is now."""
    names = [name for name in column_names(table) if name not in _HIDDEN]
    return ", ".join(f"{_STATUS.format(t='')} AS status" if name == "status" else name for name in names)


# -- runs and pipelines --------------------------------------------------------------------------


def get_run(con: Connection, run_id: str, alive: list[str]) -> dict[str, Any] | None:
    """One run, JSON decoded."""
    sql = f"SELECT {columns_of('runs')} FROM runs WHERE run_id = $id"
    row = row_of(con, sql, {"id": run_id, "alive": alive})
    if row is not None:
        row["tags"] = row["tags"] or []
    return row


def origin_of_chain(con: Connection, pipeline_id: str) -> dict[str, Any] | None:
    """Return what a bundle says about a chain's pipeline and its run."""
    return row_of(
        con,
        "SELECT p.name AS pipeline_name, dataset_name, dataset_hash, p.created_at, r.name AS run_name, r.config, "
        "environment FROM pipelines p JOIN runs r USING (run_id) WHERE pipeline_id = ?",
        [pipeline_id],
    )


def get_pipeline(con: Connection, pipeline_id: str, alive: list[str]) -> dict[str, Any] | None:
    """One pipeline, JSON decoded."""
    sql = f"SELECT {columns_of('pipelines')} FROM pipelines WHERE pipeline_id = $id"
    return row_of(con, sql, {"id": pipeline_id, "alive": alive})


def named_like(column: str, parameter: str) -> str:
    """Condition that a name holds a text, in any case; with ``*`` or ``?`` the text is a pattern of the whole name."""
    return (
        f"CASE WHEN regexp_matches(${parameter}, '[*?]') THEN lower({column}) GLOB "
        f"replace(lower(${parameter}), '[', '[[]') ELSE contains(lower({column}), lower(${parameter})) END"
    )


def list_runs(
    con: Connection,
    alive: list[str],
    status: str | None,
    dataset: str | None,
    limit: int,
    offset: int,
    tags: Sequence[str] = (),
    name: str | None = None,
) -> pl.DataFrame:
    """Return runs, newest first."""
    if status is not None and status not in STATUSES:
        raise unknown("status", status, STATUSES)
    where, params = ["TRUE"], {"alive": alive, **page_of(limit, offset)}
    if status is not None:
        where.append(f"{_STATUS.format(t='')} = $status")
        params["status"] = status
    if dataset is not None:
        where.append(
            "(list_contains(json_extract_string(datasets, '$[*].name'), $dataset) "
            "OR list_contains(json_extract_string(datasets, '$[*]'), $dataset))"
        )
        params["dataset"] = as_text(dataset, "dataset")
    if name is not None:
        where.append(named_like("name", "name"))
        params["name"] = as_text(name, "name")
    for index, tag in enumerate([tags] if isinstance(tags, str) else tags or ()):
        where.append(f"list_contains(json_extract_string(tags, '$[*]'), $tag_{index})")
        params[f"tag_{index}"] = as_text(tag, "tag")
    return frame(
        con,
        f"SELECT {columns_of('runs')} FROM runs WHERE {' AND '.join(where)} "
        "ORDER BY created_at DESC, run_id DESC LIMIT $limit OFFSET $offset",
        params,
    )


def list_pipelines(
    con: Connection, alive: list[str], run_id: str | None, dataset_name: str | None
) -> pl.DataFrame:
    """Pipelines, newest first."""
    where, params = ["TRUE"], {"alive": alive}
    for name, value in (("run_id", run_id), ("dataset_name", dataset_name)):
        if value is not None:
            where.append(f"{name} = ${name}")
            params[name] = as_text(value, name)  # type: ignore[assignment]
    return frame(
        con,
        f"SELECT {columns_of('pipelines')} FROM pipelines WHERE {' AND '.join(where)} "
        "ORDER BY created_at DESC, pipeline_id DESC",
        params,
    )


def page_of(limit: int | None, offset: int) -> dict[str, Any]:
    """Check a page: whole numbers of at least 0, None for no limit."""
    return {"limit": as_count(limit, "limit"), "offset": as_count(offset, "offset")}


def as_count(value: Any, name: str) -> int | None:
    """Return a number of rows; None, for all of them, stays None."""
    try:
        count = None if value is None else min(operator.index(value), MOST_ROWS)
    except TypeError:
        count = -1
    if isinstance(value, bool) or (count is not None and count < 0):
        raise InvalidInput(f"{name}: expected a whole number of at least 0, found {value!r}.")
    return count


def unknown(what: str, given: object, known: Iterable[str]) -> InvalidInput:
    """Return the error for a word that is not on a list, with the nearest that is."""
    words = list(known)
    hint = did_you_mean(given, words)
    return InvalidInput(f"Unknown {what} {given!r}: expected one of {', '.join(words)}.{hint}")


# -- chains --------------------------------------------------------------------------------------


def get_chain(con: Connection, chain_id: str) -> dict[str, Any] | None:
    """One chain, JSON decoded, with its wavelength grid."""
    row = row_of(con, f"SELECT {columns_of('chains')} FROM chains WHERE chain_id = ?", [chain_id])
    if row is not None:
        row["metadata"] = row["metadata"] or {}
        if row["wavelengths"] is not None:
            row["wavelengths"] = array_of(arrays_of(con, [row["wavelengths"]]), row["wavelengths"])
    return row


def chains_of_run(con: Connection, run_id: str) -> list[dict[str, Any]]:
    """Return what tells the chains of a run apart: steps, metadata, target; without their artifacts."""
    columns = ("chain_id", "steps", "model_step_idx", "model_class", "preprocessings", "branch_path", "source_index",
               "metadata", "target", "target_unit")  # fmt: skip
    return fetch(
        con,
        f"SELECT {', '.join('c.' + name for name in columns)}, p.dataset_name, p.dataset_hash FROM chains c "
        "JOIN pipelines p USING (pipeline_id) WHERE p.run_id = ? ORDER BY c.chain_id",
        [run_id],
    )


def metadata_of_chain(con: Connection, chain_id: str) -> dict[str, Any] | None:
    """Return the metadata of a chain, which can be given a domain later; None where the chain is not there."""
    row = row_of(con, "SELECT metadata FROM chains WHERE chain_id = ?", [chain_id])
    return None if row is None else row["metadata"] or {}


def chains_for_pipeline(con: Connection, pipeline_id: str) -> pl.DataFrame:
    """Chains of a pipeline, in the order in which they were saved."""
    return frame(
        con,
        f"SELECT {columns_of('chains')} FROM chains WHERE pipeline_id = ? ORDER BY created_at, chain_id",
        [askable(pipeline_id)],
    )


def arrays_of(con: Connection, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Return arrays by their hashes; those that are not there are left out."""
    # By their places: asked for by hash alone, DuckDB decompresses every array of the catalog to find some.
    rows = execute(
        con,
        "SELECT array_hash, dtype, shape, data FROM arrays WHERE rowid IN "
        "(SELECT rowid FROM arrays WHERE array_hash IN (SELECT unnest(?)))",
        [list(keys)],
    ).fetchall()
    return {str(row[0]): decode_array(*row) for row in rows}


def array_of(arrays: dict[str, np.ndarray], key: str) -> np.ndarray:
    """Return one of some arrays, which must be there."""
    if key not in arrays:
        raise CatalogDamaged(f"Array {key} is named by a row but not there. Run `nirs-store check`.")
    return arrays[key]


# -- artifacts and logs ----------------------------------------------------------------------------


def get_artifact(con: Connection, artifact_id: str) -> dict[str, Any] | None:
    """One artifact with its reference count."""
    return row_of(con, "SELECT * FROM artifacts WHERE artifact_id = ?", [artifact_id])


def blob_rows(con: Connection, artifact_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what is needed to read some artifacts, by id, without counting their references."""
    names = ("artifact_id", *BLOB_NOTE)
    sql = f"SELECT {', '.join(names)} FROM blobs WHERE artifact_id IN (SELECT unnest(?))"
    return {str(row["artifact_id"]): row for row in fetch(con, sql, [list(artifact_ids)])}


def pipeline_log(con: Connection, pipeline_id: str) -> pl.DataFrame:
    """Log lines of a pipeline, in order."""
    return frame(
        con,
        "SELECT log_id, step_idx, operator_class, event, duration_ms, message, details, level, created_at "
        "FROM logs WHERE pipeline_id = ? ORDER BY created_at, log_id",
        [askable(pipeline_id)],
    )


def run_log_summary(con: Connection, run_id: str, alive: list[str]) -> pl.DataFrame:
    """Return counts and durations of a run's logs, one row per pipeline."""
    return frame(
        con,
        f"""
        SELECT p.pipeline_id, p.name AS pipeline_name, {_STATUS.format(t="p.")} AS pipeline_status,
            count(l.log_id) AS log_count,
            coalesce(sum(l.duration_ms) FILTER (l.event = 'end'), 0)::BIGINT AS total_duration_ms,
            count(*) FILTER (l.level = 'warning') AS warning_count,
            count(*) FILTER (l.level IN ('error', 'critical')) AS error_count
        FROM pipelines p LEFT JOIN logs l USING (pipeline_id)
        WHERE p.run_id = $run_id GROUP BY ALL ORDER BY p.pipeline_id
        """,
        {"run_id": askable(run_id), "alive": alive},
    )


# -- Questions behind what a notebook and a terminal show of a store, its runs and chains.


def counts(con: Connection) -> dict[str, int]:
    """How much of everything the catalog holds."""
    tables = ("runs", "pipelines", "chains", "predictions")
    each = ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in tables)
    blobs = "count(*) AS artifacts, coalesce(sum(size_bytes), 0)::BIGINT AS artifact_bytes"
    return frame(con, f"SELECT {each}, {blobs} FROM blobs").row(0, named=True)


def artifacts_of(con: Connection, artifact_ids: Sequence[str]) -> pl.DataFrame:
    """Return what is known of some artifacts, by type and id."""
    return frame(
        con,
        "SELECT artifact_id, artifact_type, operator_class, format, size_bytes, ref_count FROM artifacts "
        "WHERE artifact_id IN (SELECT unnest(?)) ORDER BY artifact_type, artifact_id",
        [list(artifact_ids)],
    )


def prediction_rows(con: Connection, chain_id: str, partition: str) -> pl.DataFrame:
    """Predictions of a chain about one partition, folds by number and the refit last."""
    sql = (
        "SELECT prediction_id, fold_id FROM predictions WHERE chain_id = ? AND partition = ? ORDER BY "
        "TRY_CAST(regexp_extract(fold_id, '[0-9]+$') AS INTEGER) NULLS LAST, fold_id, prediction_id"
    )
    return frame(con, sql, [chain_id, partition])


def pipeline_counts(con: Connection, run_ids: Sequence[str]) -> dict[str, int]:
    """How many pipelines runs have; those without any are left out."""
    rows = con.execute(
        "SELECT run_id, count(*) FROM pipelines WHERE run_id IN (SELECT unnest(?)) GROUP BY run_id",
        [list(run_ids)],
    ).fetchall()
    return {str(run_id): int(n) for run_id, n in rows}


def targets_of(con: Connection, chain_ids: Sequence[str] | None) -> pl.DataFrame:
    """Return what chains (all for None) predict, and in which unit."""
    about = ("chain_id", "target", "target_unit")
    where = "TRUE" if chain_ids is None else "chain_id IN (SELECT unnest($ids))"
    params = {} if chain_ids is None else {"ids": list(chain_ids)}
    rows = execute(con, f"SELECT {', '.join(about)} FROM chains WHERE {where}", params).fetchall()
    # Not by way of Arrow, which takes longer for a few rows.
    return pl.DataFrame(rows, schema=dict.fromkeys(about, pl.String), orient="row")


def kinds_of_target(
    con: Connection, dataset_name: str | None, run_id: str | None
) -> list[tuple[str | None, str | None]]:
    """Return what chains predict, each target with its unit; None where a chain does not say."""
    rows = execute(
        con,
        "SELECT DISTINCT c.target, c.target_unit FROM chains c JOIN pipelines l USING (pipeline_id) "
        "WHERE ($dataset IS NULL OR l.dataset_name = $dataset) AND ($run IS NULL OR l.run_id = $run) "
        "ORDER BY ALL NULLS LAST",
        {"dataset": dataset_name, "run": run_id},
    ).fetchall()
    return [(row[0], row[1]) for row in rows]


_NAMES = {
    "data set": (
        "SELECT dataset_name FROM pipelines UNION SELECT unnest(list_concat("
        "json_extract_string(datasets, '$[*].name'), json_extract_string(datasets, '$[*]'))) FROM runs"
    ),
    "tag": "SELECT unnest(json_extract_string(tags, '$[*]')) FROM runs",
    "target": "SELECT target FROM chains",
}


def names_of(con: Connection, what: str) -> list[str]:
    """Return the data sets, tags or targets that the workspace knows, in order."""
    sql = f"SELECT DISTINCT n FROM ({_NAMES[what]}) AS t(n) WHERE n IS NOT NULL AND NOT starts_with(n, '{{') ORDER BY 1"
    return column(con, sql)
