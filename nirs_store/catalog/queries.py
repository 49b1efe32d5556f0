"""Questions to the catalog. Column names come from fixed lists, values are always bound."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from nirs_store.catalog.access import Connection
from nirs_store.catalog.arrays import decode_array
from nirs_store.catalog.frames import to_frame
from nirs_store.catalog.schema import TABLES, column_names
from nirs_store.catalog.values import as_float, as_int, as_text, from_json, is_text, with_zone
from nirs_store.errors import CatalogDamaged, InvalidInput

__all__ = [
    "chains_for_pipeline",
    "find_ids",
    "get_artifact",
    "get_chain",
    "get_pipeline",
    "get_prediction",
    "get_run",
    "list_pipelines",
    "list_runs",
    "load_arrays",
    "note_of",
    "pipeline_log",
    "prediction_filters",
    "query_predictions",
    "run_log_summary",
    "top_predictions",
]

ARRAY_NAMES = ("y_true", "y_pred", "y_proba", "sample_indices", "weights")
METRIC_COLUMNS = (
    "val_score",
    "test_score",
    "train_score",
    "n_samples",
    "n_features",
    "exclusion_count",
    "exclusion_rate",
)
GROUP_COLUMNS = (
    "pipeline_id",
    "chain_id",
    "dataset_name",
    "model_name",
    "model_class",
    "fold_id",
    "partition",
    "metric",
    "task_type",
    "preprocessings",
    "branch_id",
    "branch_name",
)
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
# A row says "running" until somebody finishes it; one whose session died shows as interrupted.
_STATUS = (
    "CASE WHEN {t}status = 'running' AND NOT list_contains($alive, {t}session_id) "
    "THEN 'interrupted' ELSE {t}status END"
)

_NOTES = {
    "run": "SELECT run_id FROM runs WHERE run_id = ?",
    "pipeline": "SELECT run_id, status FROM pipelines WHERE pipeline_id = ?",
    "chain": "SELECT pipeline_id FROM chains WHERE chain_id = ?",
    "prediction": (
        "SELECT p.pipeline_id, a.prediction_id IS NOT NULL AS arrays FROM predictions p "
        "LEFT JOIN prediction_arrays a USING (prediction_id) WHERE p.prediction_id = ?"
    ),
    "artifact": (
        "SELECT artifact_path, content_hash, operator_class, artifact_type, format, size_bytes FROM blobs "
        "WHERE artifact_id = ?"
    ),
}


def frame(con: Connection, sql: str, params: Any = None) -> pl.DataFrame:
    """Run a query whole; TIMESTAMP columns come back as UTC."""
    result = con.sql(sql, params=params)
    return pl.DataFrame() if result is None else to_frame(result)


def one(con: Connection, sql: str, params: Any) -> dict[str, Any] | None:
    """The single row of a query as a dict, or None; fetched whole, so nothing is left open.

    The first parameter is the id; what is not text is no id of anything.
    """
    identifier = params["id"] if isinstance(params, dict) else params[0]
    if not is_text(identifier):
        return None
    cursor = con.execute(sql, params)
    names = [column[0] for column in cursor.description or ()]
    rows = cursor.fetchall()
    return dict(zip(names, rows[0], strict=True)) if rows else None


def note_of(con: Connection, kind: str, identifier: str) -> dict[str, Any] | None:
    """What recording calls need to know of an existing row, or None."""
    return one(con, _NOTES[kind], [identifier])


def find_ids(con: Connection, part: str, kinds: Sequence[str] | None, limit: int | None) -> pl.DataFrame:
    """Whole ids that begin or end with `part`, of each kind at most `limit`."""
    wanted = [kinds] if isinstance(kinds, str) else list(ID_COLUMNS if kinds is None else kinds)
    for kind in wanted:
        if kind not in ID_COLUMNS:
            near = difflib.get_close_matches(str(kind), ID_COLUMNS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InvalidInput(f"Unknown kind {kind!r}: expected one of {', '.join(ID_COLUMNS)}.{hint}")
    params = {"part": as_text(part, "part"), "limit": _page(limit, 0)["limit"]}
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


def _columns(table: str, prefix: str = "") -> str:
    names = [name for name in column_names(table) if name not in _HIDDEN]
    return ", ".join(
        f"{_STATUS.format(t=prefix)} AS status" if name == "status" else f"{prefix}{name}" for name in names
    )


def _decoded(row: dict[str, Any] | None, *json_columns: str) -> dict[str, Any] | None:
    if row is None:
        return None
    for name in json_columns:
        row[name] = from_json(row[name])
    for name in ("created_at", "completed_at"):
        if name in row:
            row[name] = with_zone(row[name])
    return row


# -- runs and pipelines --------------------------------------------------------------------------


def get_run(con: Connection, run_id: str, alive: list[str]) -> dict[str, Any] | None:
    """One run, JSON decoded."""
    row = one(con, f"SELECT {_columns('runs')} FROM runs WHERE run_id = $id", {"id": run_id, "alive": alive})
    row = _decoded(row, "config", "datasets", "summary", "environment", "tags")
    if row is not None:
        row["tags"] = row["tags"] or []
    return row


def get_pipeline(con: Connection, pipeline_id: str, alive: list[str]) -> dict[str, Any] | None:
    """One pipeline, JSON decoded."""
    row = one(
        con,
        f"SELECT {_columns('pipelines')} FROM pipelines WHERE pipeline_id = $id",
        {"id": pipeline_id, "alive": alive},
    )
    return _decoded(row, "expanded_config", "generator_choices")


def list_runs(
    con: Connection,
    alive: list[str],
    status: str | None,
    dataset: str | None,
    limit: int,
    offset: int,
    tags: Sequence[str] = (),
) -> pl.DataFrame:
    """Runs, newest first."""
    if status is not None and status not in STATUSES:
        near = difflib.get_close_matches(str(status), STATUSES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InvalidInput(f"Unknown status {status!r}: expected one of {', '.join(STATUSES)}.{hint}")
    where, params = ["TRUE"], {"alive": alive, **_page(limit, offset)}
    if status is not None:
        where.append(f"{_STATUS.format(t='')} = $status")
        params["status"] = status
    if dataset is not None:
        where.append(
            "(list_contains(json_extract_string(datasets, '$[*].name'), $dataset) "
            "OR list_contains(json_extract_string(datasets, '$[*]'), $dataset))"
        )
        params["dataset"] = as_text(dataset, "dataset")
    for index, tag in enumerate([tags] if isinstance(tags, str) else tags or ()):
        where.append(f"list_contains(json_extract_string(tags, '$[*]'), $tag_{index})")
        params[f"tag_{index}"] = as_text(tag, "tag")
    return frame(
        con,
        f"SELECT {_columns('runs')} FROM runs WHERE {' AND '.join(where)} "
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
        f"SELECT {_columns('pipelines')} FROM pipelines WHERE {' AND '.join(where)} "
        "ORDER BY created_at DESC, pipeline_id DESC",
        params,
    )


def _page(limit: int | None, offset: int) -> dict[str, Any]:
    page: dict[str, Any] = {}
    for name, value in (("limit", limit), ("offset", offset)):
        try:
            page[name] = None if value is None else operator.index(value)
        except TypeError:
            page[name] = -1
        if isinstance(value, bool) or (page[name] is not None and page[name] < 0):
            raise InvalidInput(f"{name}: expected a whole number of at least 0, found {value!r}.")
    return page


# -- chains --------------------------------------------------------------------------------------


def get_chain(con: Connection, chain_id: str) -> dict[str, Any] | None:
    """One chain, JSON decoded, with its wavelength grid."""
    row = one(con, f"SELECT {_columns('chains')} FROM chains WHERE chain_id = ?", [chain_id])
    row = _decoded(
        row, "steps", "fold_artifacts", "shared_artifacts", "branch_path", "fold_weights", "metadata"
    )
    if row is not None:
        row["metadata"] = row["metadata"] or {}
        if row["wavelengths"] is not None:
            row["wavelengths"] = _found(_arrays(con, [row["wavelengths"]]), row["wavelengths"])
    return row


def chains_for_pipeline(con: Connection, pipeline_id: str) -> pl.DataFrame:
    """Chains of a pipeline, in the order in which they were saved."""
    return frame(
        con,
        f"SELECT {_columns('chains')} FROM chains WHERE pipeline_id = ? ORDER BY created_at, chain_id",
        [pipeline_id],
    )


# -- predictions ---------------------------------------------------------------------------------


def get_prediction(con: Connection, prediction_id: str, load: bool) -> dict[str, Any] | None:
    """One prediction, JSON decoded, with its arrays on request."""
    row = _decoded(
        one(
            con, f"SELECT {_columns('predictions')} FROM predictions WHERE prediction_id = ?", [prediction_id]
        ),
        "scores",
        "best_params",
    )
    if row is not None and load:
        row.update(load_arrays(con, [prediction_id]).get(prediction_id, dict.fromkeys(ARRAY_NAMES)))
    return row


def load_arrays(con: Connection, prediction_ids: Sequence[str]) -> dict[str, dict[str, np.ndarray | None]]:
    """Arrays of many predictions with two queries, however many they are."""
    names = ", ".join(ARRAY_NAMES)
    rows = con.execute(
        f"SELECT prediction_id, {names} FROM prediction_arrays WHERE prediction_id IN (SELECT unnest(?))",
        [list(prediction_ids)],
    ).fetchall()
    arrays = _arrays(con, sorted({key for row in rows for key in row[1:] if key is not None}))
    return {
        str(row[0]): {
            name: None if key is None else _found(arrays, key).copy()
            for name, key in zip(ARRAY_NAMES, row[1:], strict=True)
        }
        for row in rows
    }


def _arrays(con: Connection, keys: Sequence[str]) -> dict[str, np.ndarray]:
    rows = con.execute(
        "SELECT array_hash, dtype, shape, data FROM arrays WHERE array_hash IN (SELECT unnest(?))",
        [list(keys)],
    ).fetchall()
    return {str(row[0]): decode_array(*row) for row in rows}


def _found(arrays: dict[str, np.ndarray], key: str) -> np.ndarray:
    if key not in arrays:
        raise CatalogDamaged(f"Array {key} is named by a row but not there. Run `nirs-store check`.")
    return arrays[key]


def prediction_filters(alias: str = "", **filters: Any) -> tuple[str, dict[str, Any]]:
    """WHERE clause and parameters; `model_class` may hold `%`, everything else is compared whole."""
    where, params = ["TRUE"], {}
    for name, value in filters.items():
        if value is None:
            continue
        if name == "run_id":
            where.append(f"{alias}pipeline_id IN (SELECT pipeline_id FROM pipelines WHERE run_id = $run_id)")
        elif name == "model_class" and "%" in str(value):
            # Only % is a wildcard: class names are full of underscores.
            where.append(f"{alias}model_class LIKE $model_class ESCAPE '\\'")
            value = str(value).replace("\\", "\\\\").replace("_", "\\_")
        elif name in column_names("predictions"):
            where.append(f"{alias}{name} = ${name}")
        else:
            raise unknown_column("filter", name, (*column_names("predictions"), "run_id"))
        params[name] = _comparable(name, value)
    return " AND ".join(where), params


def _comparable(name: str, value: Any) -> Any:
    """A filter's value in the type of its column; DuckDB would cast the column instead, and fail."""
    sql = {column.name: column.sql for column in TABLES["predictions"].columns}.get(name, "VARCHAR")
    if sql.startswith("INTEGER"):
        return as_int(value, name)
    if sql.startswith("DOUBLE"):
        return as_float(value, name)
    return as_text(value, name) if sql.startswith("VARCHAR") else value


def unknown_column(what: str, name: Any, allowed: Sequence[str]) -> InvalidInput:
    """The error for a column that is not on the list, with the nearest that is."""
    near = difflib.get_close_matches(str(name), allowed, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return InvalidInput(f"Invalid {what} column: {name!r}. Expected one of {', '.join(allowed)}.{hint}")


def query_predictions(con: Connection, limit: int | None, offset: int, **filters: Any) -> pl.DataFrame:
    """Predictions, newest first."""
    where, params = prediction_filters(**filters)
    params.update(_page(limit, offset))
    return frame(
        con,
        f"SELECT {_columns('predictions')} FROM predictions WHERE {where} "
        "ORDER BY created_at DESC, prediction_id DESC LIMIT $limit OFFSET $offset",
        params,
    )


def top_predictions(
    con: Connection,
    n: int,
    metric: str,
    ascending: bool,
    partition: str | None,
    dataset_name: str | None,
    group_by: str | Sequence[str] | None,
) -> pl.DataFrame:
    """Best predictions, overall or of each group; NULL and NaN rank last in either direction."""
    if metric not in METRIC_COLUMNS:
        raise unknown_column("metric", metric, METRIC_COLUMNS)
    groups = [group_by] if isinstance(group_by, str) else list(group_by or ())
    for group in groups:
        if group not in GROUP_COLUMNS:
            raise unknown_column("group_by", group, GROUP_COLUMNS)
    where, params = prediction_filters(partition=partition, dataset_name=dataset_name)
    params.update(_page(n, 0))
    rank = f"({metric} IS NULL OR isnan({metric}::DOUBLE)), {metric} {'ASC' if ascending else 'DESC'}, prediction_id"
    columns = _columns("predictions")
    if not groups:
        sql = f"SELECT {columns} FROM predictions WHERE {where} ORDER BY {rank} LIMIT $limit OFFSET $offset"
    else:
        del params["offset"]
        keys = ", ".join(groups)
        sql = (
            f"SELECT {columns} FROM predictions WHERE {where} "
            f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {rank}) <= $limit ORDER BY {keys}, {rank}"
        )
    return frame(con, sql, params)


# -- artifacts and logs ----------------------------------------------------------------------------


def get_artifact(con: Connection, artifact_id: str) -> dict[str, Any] | None:
    """One artifact with its reference count."""
    return _decoded(one(con, "SELECT * FROM artifacts WHERE artifact_id = ?", [artifact_id]))


def pipeline_log(con: Connection, pipeline_id: str) -> pl.DataFrame:
    """Log lines of a pipeline, in order."""
    return frame(
        con,
        "SELECT log_id, step_idx, operator_class, event, duration_ms, message, details, level, created_at "
        "FROM logs WHERE pipeline_id = ? ORDER BY created_at, log_id",
        [pipeline_id],
    )


def run_log_summary(con: Connection, run_id: str, alive: list[str]) -> pl.DataFrame:
    """Counts and durations of a run's logs, a pipeline a row."""
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
        {"run_id": run_id, "alive": alive},
    )
