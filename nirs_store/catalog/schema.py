"""The tables: one list of columns that DDL, Arrow batches and queries are all made from.

Nothing but this file and the migrations holds DDL. There are no foreign keys (DuckDB cannot
delete a parent and its children in one transaction when one is declared); `check` looks for
dangling references instead.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import pyarrow as pa

__all__ = [
    "ADDED_COLUMNS",
    "CATALOG_ALIAS",
    "ROW_GROUP_SIZE",
    "SCHEMA_VERSION",
    "SEGMENT_TABLES",
    "TABLES",
    "VIEWS",
    "Column",
    "Table",
    "arrow_schema",
    "column_names",
    "create_statements",
]

SCHEMA_VERSION = 3
CATALOG_ALIAS = "store"
# DuckDB reuses the space of deleted rows a row group at a time, so the default of 122,880 never
# gives any back to a catalog of this size; below 8,192 scans of a million rows slow down visibly.
ROW_GROUP_SIZE = 8192


class Column(NamedTuple):
    """One column: its name, DuckDB type (with constraints) and Arrow type."""

    name: str
    sql: str
    arrow: pa.DataType


class Table(NamedTuple):
    """One table and the columns whose value names an owner (looked up among the tombstones)."""

    name: str
    columns: tuple[Column, ...]


_TEXT = pa.string()
_TIME = pa.timestamp("us")
_INT = pa.int32()
_LONG = pa.int64()
_REAL = pa.float64()


def _key(name: str) -> Column:
    return Column(name, "VARCHAR PRIMARY KEY", _TEXT)


def _text(name: str, *, null: bool = False) -> Column:
    return Column(name, "VARCHAR" if null else "VARCHAR NOT NULL", _TEXT)


def _json(name: str, *, null: bool = True) -> Column:
    return Column(name, "JSON" if null else "JSON NOT NULL", _TEXT)


def _time(name: str, *, null: bool = True) -> Column:
    return Column(name, "TIMESTAMP" if null else "TIMESTAMP NOT NULL", _TIME)


def _real(name: str) -> Column:
    return Column(name, "DOUBLE", _REAL)


def _int(name: str, *, null: bool = True) -> Column:
    return Column(name, "INTEGER" if null else "INTEGER NOT NULL", _INT)


def _long(name: str) -> Column:
    return Column(name, "BIGINT NOT NULL", _LONG)


TABLES: dict[str, Table] = {
    t.name: t
    for t in (
        Table("nirs_store_meta", (_key("key"), _text("value"))),
        Table(
            "sessions",
            (
                _key("session_id"),
                _text("host"),
                _int("pid"),
                _time("started_at", null=False),
                _time("ended_at"),
            ),
        ),
        Table(
            "runs",
            (
                _key("run_id"),
                _text("name"),
                _json("config"),
                _json("datasets"),
                _text("status"),
                _time("created_at", null=False),
                _time("completed_at"),
                _json("summary"),
                _text("error", null=True),
                _text("session_id", null=True),
                _json("environment"),
                _text("note", null=True),
                _json("tags"),
            ),
        ),
        Table(
            "pipelines",
            (
                _key("pipeline_id"),
                _text("run_id"),
                _text("name"),
                _json("expanded_config"),
                _json("generator_choices"),
                _text("dataset_name"),
                _text("dataset_hash", null=True),
                _text("status"),
                _time("created_at", null=False),
                _time("completed_at"),
                _real("best_val"),
                _real("best_test"),
                _text("metric", null=True),
                Column("duration_ms", "BIGINT", _LONG),
                _text("error", null=True),
                _text("session_id", null=True),
            ),
        ),
        Table(
            "chains",
            (
                _key("chain_id"),
                _text("pipeline_id"),
                _json("steps", null=False),
                _int("model_step_idx", null=False),
                _text("model_class"),
                _text("preprocessings"),
                _text("fold_strategy"),
                _json("fold_artifacts"),
                _json("shared_artifacts"),
                _json("branch_path"),
                _int("source_index"),
                _json("fold_weights"),
                _text("wavelengths", null=True),
                _json("metadata"),
                _time("created_at", null=False),
            ),
        ),
        Table(
            "predictions",
            (
                _key("prediction_id"),
                _text("pipeline_id"),
                _text("chain_id", null=True),
                _text("dataset_name"),
                _text("model_name"),
                _text("model_class"),
                _text("fold_id"),
                _text("partition"),
                _real("val_score"),
                _real("test_score"),
                _real("train_score"),
                _text("metric"),
                _text("task_type"),
                _int("n_samples"),
                _int("n_features"),
                _json("scores"),
                _json("best_params"),
                _text("preprocessings"),
                _int("branch_id"),
                _text("branch_name", null=True),
                _int("exclusion_count"),
                _real("exclusion_rate"),
                _time("created_at", null=False),
            ),
        ),
        Table(
            "arrays",
            (
                _key("array_hash"),
                _text("dtype"),
                _text("shape"),
                Column("data", "BLOB NOT NULL", pa.binary()),
            ),
        ),
        Table(
            "prediction_arrays",
            (
                _key("prediction_id"),
                _text("pipeline_id", null=True),
                _text("y_true", null=True),
                _text("y_pred", null=True),
                _text("y_proba", null=True),
                _text("sample_indices", null=True),
                _text("weights", null=True),
            ),
        ),
        Table(
            "blobs",
            (
                _key("artifact_id"),
                _text("artifact_path"),
                _text("content_hash"),
                _text("operator_class"),
                _text("artifact_type"),
                _text("format"),
                _long("size_bytes"),
                _time("created_at", null=False),
            ),
        ),
        Table(
            "artifact_refs",
            (
                _key("ref_id"),
                _text("artifact_id"),
                _text("owner_kind"),
                _text("owner_id"),
                _text("pipeline_id", null=True),
                _text("operator_class", null=True),
                _text("artifact_type", null=True),
                _time("created_at", null=False),
            ),
        ),
        # What the artifact layer says of a fitted object: where in a pipeline it belongs, and what it needs.
        Table(
            "artifact_records",
            (
                _key("record_id"),
                _text("artifact_id"),
                _text("pipeline_id"),
                _text("chain_path"),
                _json("branch_path"),
                _int("source_index"),
                _int("step_index"),
                _int("substep_index"),
                _text("fold_id", null=True),
                _text("artifact_type"),
                _text("class_name"),
                _text("custom_name", null=True),
                _json("params"),
                _json("feature_columns"),
                _text("input_data_hash", null=True),
                _text("dataset_hash", null=True),
                _text("library_version"),
                _time("created_at", null=False),
            ),
        ),
        Table(
            "artifact_links",
            (
                _key("link_id"),
                _text("record_id"),
                _text("pipeline_id"),
                _text("kind"),
                _int("position", null=False),
                _text("target_id"),
                _text("artifact_id"),
                _int("feature_index"),
            ),
        ),
        Table(
            "logs",
            (
                _key("log_id"),
                _text("pipeline_id"),
                _int("step_idx", null=False),
                _text("operator_class", null=True),
                _text("event"),
                Column("duration_ms", "BIGINT", _LONG),
                _text("message", null=True),
                _json("details"),
                _text("level"),
                _time("created_at", null=False),
            ),
        ),
        # What the journal needs to be applied exactly once, and what it could not place.
        Table("applied", (_key("txid"), _long("number"), _time("applied_at", null=False))),
        Table("dead", (_text("id"), _text("kind"), _time("died_at", null=False))),
        Table(
            "deferred",
            (
                _key("change_id"),
                _long("number"),
                _int("position", null=False),
                _text("kind"),
                _text("id"),
                _time("made_at", null=False),
                _json("payload"),
            ),
        ),
        Table(
            "dropped",
            (_text("txid"), _text("table_name"), _long("rows"), _time("made_at", null=False)),
        ),
    )
}

# Streams that travel in a segment but are not tables of their own.
CHANGES = Table(
    "changes",
    (_text("change_id"), _text("kind"), _text("id"), _time("made_at"), _json("payload")),
)
TAKEOVERS = Table("takeovers", (_text("takeover_id"), _text("session_id"), _text("artifact_id")))
SEGMENT_TABLES: dict[str, Table] = {
    # Parents first: the order in which a segment's rows are inserted.
    **{
        name: TABLES[name]
        for name in (
            "sessions",
            "runs",
            "pipelines",
            "chains",
            "predictions",
            "arrays",
            "prediction_arrays",
            "blobs",
            "artifact_refs",
            "artifact_records",
            "artifact_links",
            "logs",
        )
    },
    "takeovers": TAKEOVERS,
    "changes": CHANGES,
}

# Columns that segments of an older library lack; they are NULL there.
ADDED_COLUMNS: dict[str, frozenset[str]] = {"runs": frozenset({"environment", "note", "tags"})}

# `artifacts` is what people ask for: ref_count is counted, never stored, so it cannot drift.
VIEWS: dict[str, str] = {
    "artifacts": (
        "CREATE VIEW artifacts AS SELECT b.artifact_id, b.artifact_path, b.content_hash, "
        "b.operator_class, b.artifact_type, b.format, b.size_bytes, "
        "coalesce(r.n, 0)::INTEGER AS ref_count, b.created_at FROM blobs b LEFT JOIN "
        "(SELECT artifact_id, count(*) AS n FROM artifact_refs GROUP BY artifact_id) r "
        "USING (artifact_id)"
    ),
    # Names instead of ids: what a person joins by hand otherwise.
    "scores": (
        "CREATE VIEW scores AS SELECT r.name AS run, l.name AS pipeline, p.dataset_name AS dataset, "
        "p.preprocessings, p.model_name AS model, p.model_class, p.fold_id AS fold, p.partition, p.metric, "
        "p.val_score, p.test_score, p.train_score, p.n_samples, p.task_type, p.created_at, r.run_id, "
        "p.pipeline_id, p.chain_id, p.prediction_id FROM predictions p LEFT JOIN pipelines l "
        "USING (pipeline_id) LEFT JOIN runs r USING (run_id)"
    ),
    "models": (
        "CREATE VIEW models AS SELECT r.name AS run, l.name AS pipeline, l.dataset_name AS dataset, "
        "c.preprocessings, c.model_class, c.fold_strategy, l.best_val, l.best_test, l.metric, c.created_at, "
        "r.run_id, c.pipeline_id, c.chain_id FROM chains c LEFT JOIN pipelines l USING (pipeline_id) "
        "LEFT JOIN runs r USING (run_id)"
    ),
    "run_overview": (
        "CREATE VIEW run_overview AS SELECT r.run_id, r.name, r.status, r.created_at, r.completed_at, r.note, "
        "r.tags, (SELECT count(*) FROM pipelines l WHERE l.run_id = r.run_id) AS pipelines, "
        "(SELECT count(*) FROM chains c JOIN pipelines l USING (pipeline_id) WHERE l.run_id = r.run_id) AS chains, "
        "(SELECT count(*) FROM predictions p JOIN pipelines l USING (pipeline_id) WHERE l.run_id = r.run_id) "
        "AS predictions FROM runs r"
    ),
    "log_lines": (
        "CREATE VIEW log_lines AS SELECT r.name AS run, l.name AS pipeline, g.step_idx, g.operator_class, "
        "g.event, g.duration_ms, g.level, g.message, g.details, g.created_at, r.run_id, g.pipeline_id, g.log_id "
        "FROM logs g LEFT JOIN pipelines l USING (pipeline_id) LEFT JOIN runs r USING (run_id)"
    ),
}


@cache
def column_names(table: str) -> tuple[str, ...]:
    """Names of a table's columns, in order."""
    return tuple(c.name for c in (SEGMENT_TABLES.get(table) or TABLES[table]).columns)


@cache
def arrow_schema(table: str) -> pa.Schema:
    """Arrow schema of a table's rows."""
    columns = (SEGMENT_TABLES.get(table) or TABLES[table]).columns
    return pa.schema([(c.name, c.arrow) for c in columns])


def create_statements() -> list[str]:
    """Statements that create an empty catalog of the current version."""
    tables = [
        f"CREATE TABLE {t.name} ({', '.join(f'{c.name} {c.sql}' for c in t.columns)})"
        for t in TABLES.values()
    ]
    return [*tables, *VIEWS.values()]
